//! How often values occur: bars of one sample, and the outline of another over them.

use std::fmt::Write as _;

use super::plane::{Plane, Size};
use super::{Axis, COLOURS};

/// How many bars there are.
const BINS: usize = 24;

/// Two samples over one axis.
pub(crate) struct Histogram {
    /// What is counted, for the axis.
    pub(crate) x_label: String,
    /// Drawn as filled bars in grey: what there was before. The name, then the values.
    pub(crate) before: (String, Vec<f64>),
    /// Drawn as bars in a colour over them.
    pub(crate) after: (String, Vec<f64>),
    pub(crate) colour: usize,
}

impl Histogram {
    /// As an `<svg>` element; nothing where there is nothing to count.
    pub(crate) fn svg(&self) -> Option<String> {
        let all = || self.before.1.iter().chain(&self.after.1).copied();
        let x = Axis::around(all())?;
        let (before, after) = (counts(&self.before.1, &x), counts(&self.after.1, &x));
        let (n, m) = (self.before.1.len().max(1), self.after.1.len().max(1));
        // Shares, so that samples of different sizes can be compared.
        let share = |counts: &[usize], n: usize| -> Vec<f64> {
            counts
                .iter()
                .map(|count| *count as f64 / n as f64)
                .collect()
        };
        let (before, after) = (share(&before, n), share(&after, m));
        let highest = before.iter().chain(&after).copied().fold(0.0, f64::max);
        let plane = Plane {
            size: Size::CARD,
            x,
            y: Axis::around([0.0, highest].into_iter())?,
        };
        let words = format!(
            "Histogram of {}: {} answers of {} with a mean of {:.3}, {} of {} with a mean of {:.3}.",
            self.x_label,
            self.before.1.len(),
            self.before.0,
            mean(&self.before.1),
            self.after.1.len(),
            self.after.0,
            mean(&self.after.1)
        );
        let mut out = plane.open(&words);
        plane.axes(&mut out, &self.x_label, "share of answers");
        bars(&mut out, &plane, &before, &self.before.0, "before");
        let class = format!("after f{0} s{0}", self.colour % COLOURS);
        bars(&mut out, &plane, &after, &self.after.0, &class);
        out.push_str("</svg>\n");
        Some(out)
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// How many of `values` lie in each of [`BINS`] equal parts of the axis.
fn counts(values: &[f64], axis: &Axis) -> Vec<usize> {
    let mut counts = vec![0; BINS];
    for value in values {
        let bin = (axis.share(*value) * BINS as f64) as usize;
        counts[bin.min(BINS - 1)] += 1;
    }
    counts
}

fn bars(out: &mut String, plane: &Plane, shares: &[f64], name: &str, class: &str) {
    let width = (plane.x.high - plane.x.low) / BINS as f64;
    for (i, share) in shares.iter().enumerate().filter(|(_, share)| **share > 0.0) {
        let from = plane.x.low + i as f64 * width;
        let ((left, top), (right, bottom)) = (plane.at(from, *share), plane.at(from + width, 0.0));
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "<rect class=\"bar {class}\" x=\"{:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{:.1}\"><title>{}: {:.1} % of the answers \
             from {:.2} to {:.2}</title></rect>",
            left + 0.5,
            right - left - 1.0,
            bottom - top,
            crate::html::escape(name),
            100.0 * share,
            from,
            from + width
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand, on an axis from 0 to 24.
    #[test]
    fn every_value_falls_into_one_bin_and_the_highest_into_the_last() {
        let counts = counts(&[0.0, 0.5, 1.0, 23.9, 24.0], &Axis::fixed(0.0, 24.0));
        assert_eq!((counts[0], counts[1], counts[23]), (2, 1, 2));
        assert_eq!(counts.iter().sum::<usize>(), 5);
    }

    #[test]
    fn samples_of_different_sizes_are_compared_by_shares() {
        let svg = Histogram {
            x_label: "reward".into(),
            before: ("a<b".into(), vec![0.0; 10]),
            after: ("c".into(), vec![1.0; 3]),
            colour: 8,
        }
        .svg()
        .unwrap();
        assert!(
            svg.contains("a&lt;b: 100.0 % of") && svg.contains("c: 100.0 % of"),
            "{svg}"
        );
        assert!(svg.contains("bar after f2 s2"));
        let nothing = Histogram {
            x_label: String::new(),
            before: (String::new(), vec![]),
            after: (String::new(), vec![]),
            colour: 0,
        };
        assert!(nothing.svg().is_none());
    }
}
