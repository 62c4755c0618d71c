//! Charts as inline SVG: lines over steps, paths through a plane, bars of a histogram.
//!
//! Colours are classes that the style sheet defines, so that a chart follows the page into the dark. What a mark stands for shows when the
//! pointer is on it (`<title>`); the whole chart in words is its `aria-label`.

mod axis;
mod curve;
mod file;
mod histogram;
mod marks;
mod plane;

use std::fmt::Write as _;

pub(crate) use axis::Axis;
pub(crate) use file::svg_file;
pub(crate) use histogram::Histogram;
pub(crate) use plane::Size;

use crate::number::short;
use marks::draw;
use plane::Plane;

/// How many colours the style sheet defines; further series start again.
pub(crate) const COLOURS: usize = 6;

/// How a series is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A line over x. One of many points that goes up and down is drawn smoothed over a faint line of its values.
    Line,
    /// The same, faint: values of single steps, behind those on held-out rows.
    Faint,
    /// A line through all points in their order, each marked: evaluations over steps, or reward over KL.
    Path,
    /// Faint points without a line: single steps, which a path through evaluations sums up.
    Cloud,
}

/// One curve.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    /// Shown when the pointer is on the curve.
    pub(crate) name: String,
    /// Index into the palette: the same run has the same colour in every chart.
    pub(crate) colour: usize,
    pub(crate) kind: Kind,
    /// In drawing order; all finite.
    pub(crate) points: Vec<Mark>,
}

/// One point.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Mark {
    pub(crate) x: f64,
    pub(crate) y: f64,
    /// The ends of an interval around y.
    pub(crate) interval: Option<(f64, f64)>,
    /// What the point is, beside its numbers: "step 8".
    pub(crate) what: String,
    /// Whether it has a ring: the model that was published.
    pub(crate) ring: bool,
    /// Words beside the point.
    pub(crate) note: Option<String>,
}

impl Series {
    /// Marks without intervals or words.
    pub(crate) fn of(name: &str, colour: usize, kind: Kind, points: Vec<(f64, f64)>) -> Self {
        let mark = |(x, y)| Mark {
            x,
            y,
            ..Mark::default()
        };
        Self {
            name: name.to_owned(),
            colour,
            kind,
            points: points.into_iter().map(mark).collect(),
        }
    }

    fn values(&self) -> Vec<(f64, f64)> {
        self.points.iter().map(|mark| (mark.x, mark.y)).collect()
    }
}

/// A line across the chart, to compare with.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub(crate) value: f64,
    pub(crate) name: String,
}

/// One chart.
#[derive(Clone, Debug)]
pub(crate) struct Chart {
    /// What it shows, for those who do not see it.
    pub(crate) title: String,
    pub(crate) x_label: String,
    /// What the vertical axis counts; empty where the title says it.
    pub(crate) y_label: String,
    pub(crate) size: Size,
    pub(crate) series: Vec<Series>,
    /// Horizontal lines.
    pub(crate) rules: Vec<Rule>,
    /// Vertical lines.
    pub(crate) guides: Vec<Rule>,
    /// The horizontal axis, where charts share one; otherwise from zero to the last value.
    pub(crate) x: Option<Axis>,
    /// The vertical axis, where it is not that of the values.
    pub(crate) y: Option<Axis>,
    /// Whether the line y = x is drawn.
    pub(crate) diagonal: bool,
}

impl Chart {
    /// A chart over steps, of the usual size.
    pub(crate) fn over_steps(title: &str, series: Vec<Series>) -> Self {
        Self {
            title: title.to_owned(),
            x_label: "step".to_owned(),
            y_label: String::new(),
            size: Size::CARD,
            series,
            rules: Vec::new(),
            guides: Vec::new(),
            x: None,
            y: None,
            diagonal: false,
        }
    }

    /// Whether `value` lies among the values, or so near that a line there leaves them half of the room.
    pub(crate) fn spans(&self, value: f64) -> bool {
        let marks = self.series.iter().flat_map(|series| &series.points);
        let (low, high) = marks.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), mark| {
            (low.min(mark.y), high.max(mark.y))
        });
        value >= low - (high - low) && value <= high + (high - low)
    }

    /// The chart as an `<svg>` element; with nothing to draw, a line of text that says so.
    pub(crate) fn svg(&self) -> String {
        let marks = || self.series.iter().flat_map(|series| &series.points);
        let intervals = marks().filter_map(|mark| mark.interval);
        let heights = marks()
            .map(|mark| mark.y)
            .chain(intervals.flat_map(|(low, high)| [low, high]))
            .chain(self.rules.iter().map(|rule| rule.value));
        let x = self
            .x
            .or_else(|| Axis::from_zero(marks().map(|mark| mark.x)));
        let y = self.y.or_else(|| Axis::around(heights));
        let (Some(x), Some(y), Some(_)) = (x, y, marks().next()) else {
            return "<p class=\"soft\">No values recorded yet.</p>\n".to_owned();
        };
        let plane = Plane {
            size: self.size,
            x,
            y,
        };
        let mut out = plane.open(&self.in_words());
        plane.axes(&mut out, &self.x_label, &self.y_label);
        // Writing to a String cannot fail, so the results here and below carry nothing.
        if self.diagonal {
            let low = x.low.max(y.low);
            let high = x.high.min(y.high);
            let ((x1, y1), (x2, y2)) = (plane.at(low, low), plane.at(high, high));
            let _ = writeln!(
                out,
                "<line class=\"rule\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"
            );
        }
        for guide in &self.guides {
            plane.guide(&mut out, guide);
        }
        for rule in &self.rules {
            plane.rule(&mut out, rule);
        }
        for series in &self.series {
            draw(&mut out, series, &plane);
        }
        out.push_str("</svg>\n");
        out
    }

    /// What the chart shows, in a sentence a series.
    fn in_words(&self) -> String {
        let mut words = format!("{}, by {}.", self.title, self.x_label);
        for series in &self.series {
            let (Some(first), Some(last)) = (series.points.first(), series.points.last()) else {
                continue;
            };
            let _ = match series.points.len() {
                1 => write!(
                    words,
                    " {}: {} at {}.",
                    series.name,
                    short(first.y),
                    short(first.x)
                ),
                n => write!(
                    words,
                    " {}: {n} values, from {} at {} to {} at {}.",
                    series.name,
                    short(first.y),
                    short(first.x),
                    short(last.y),
                    short(last.x)
                ),
            };
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: Vec<(f64, f64)>) -> Chart {
        Chart::over_steps(
            "A <title>",
            vec![Series::of("a <run>", 7, Kind::Line, points)],
        )
    }

    #[test]
    fn nothing_one_point_and_a_constant_all_draw() {
        assert!(chart(vec![]).svg().contains("No values"));
        let one = chart(vec![(1.0, 0.0)]).svg();
        assert!(one.contains("<circle") && !one.contains("NaN"), "{one}");
        let constant = chart(vec![(0.0, 3.0), (1.0, 3.0)]).svg();
        assert!(
            constant.contains("<polyline") && !constant.contains("NaN"),
            "{constant}"
        );
        assert!(constant.contains("a &lt;run&gt;"));
    }

    #[test]
    fn a_chart_says_in_words_what_it_shows() {
        let svg = chart(vec![(0.0, 2.0), (10.0, 0.5)]).svg();
        let words =
            "A &lt;title&gt;, by step. a &lt;run&gt;: 2 values, from 2 at 0 to 0.500 at 10.";
        assert!(svg.contains(&format!("aria-label=\"{words}\"")), "{svg}");
    }

    #[test]
    fn steps_start_at_zero_and_marks_carry_intervals_rings_and_words() {
        let mut it = chart(vec![(5.0, 1.0), (10.0, 2.0)]);
        it.series[0].kind = Kind::Path;
        it.series[0].points[1] = Mark {
            x: 10.0,
            y: 2.0,
            interval: Some((1.5, 2.5)),
            what: "step <10>".into(),
            ring: true,
            note: Some("<best>".into()),
        };
        it.rules.push(Rule {
            value: 0.0,
            name: "<before>".into(),
        });
        let svg = it.svg();
        assert!(svg.contains(">0</text>"), "an axis from zero: {svg}");
        assert!(
            svg.contains("a &lt;run&gt;: 2 [1.500, 2.500], step &lt;10&gt;"),
            "{svg}"
        );
        assert_eq!(svg.matches("class=\"ring s1\"").count(), 1);
        assert!(svg.contains("&lt;best&gt;") && svg.contains("&lt;before&gt;"));
    }

    #[test]
    fn many_noisy_points_are_smoothed_and_not_marked_one_by_one() {
        let points: Vec<_> = (0..100).map(|i| (f64::from(i), f64::from(i % 2))).collect();
        let svg = chart(points).svg();
        assert!(svg.contains("class=\"raw s1\"") && svg.contains("class=\"line s1\""));
        assert!(!svg.contains("<circle"));
    }
}
