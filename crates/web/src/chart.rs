//! Line charts as inline SVG.

use std::fmt::Write as _;

use crate::html::escape;

pub(crate) const WIDTH: f64 = 420.0;
pub(crate) const HEIGHT: f64 = 210.0;
pub(crate) const LEFT: f64 = 52.0;
const RIGHT: f64 = 10.0;
const TOP: f64 = 8.0;
const BOTTOM: f64 = 34.0;
/// How many colours `style.css` defines; further series start again.
pub(crate) const COLOURS: usize = 6;
/// Largest number of points of a curve; more than the chart has pixels would only make the page larger.
const MOST_POINTS: usize = 400;
/// Smallest number of points of a curve that is drawn smoothed, over a faint line of the raw values.
const SMOOTH_FROM: usize = 40;

/// One curve.
pub(crate) struct Series {
    /// Shown when the pointer is on the curve.
    pub(crate) name: String,
    /// Index into the palette: the same run has the same colour in every chart.
    pub(crate) colour: usize,
    /// In drawing order; all finite.
    pub(crate) points: Vec<(f64, f64)>,
}

/// One chart.
pub(crate) struct Chart {
    /// The label of the horizontal axis.
    pub(crate) x_label: String,
    /// The curves.
    pub(crate) series: Vec<Series>,
    /// A path through a plane (reward against KL) instead of a function of x: neither thinned nor smoothed by x,
    /// drawn with a dot at each point and a ring at the last one.
    pub(crate) path: bool,
}

impl Chart {
    /// The chart as an `<svg>` element; with nothing to draw, a line of text that says so.
    pub(crate) fn svg(&self) -> String {
        let points = || self.series.iter().flat_map(|s| s.points.iter().copied());
        let (Some(x), Some(y)) = (
            Axis::within(points().map(|p| p.0)),
            Axis::around(points().map(|p| p.1)),
        ) else {
            return "<p class=\"soft\">No values recorded yet.</p>\n".to_owned();
        };
        let at = |(px, py): (f64, f64)| {
            (
                LEFT + x.share(px) * (WIDTH - LEFT - RIGHT),
                HEIGHT - BOTTOM - y.share(py) * (HEIGHT - TOP - BOTTOM),
            )
        };
        let names: Vec<&str> = self.series.iter().map(|s| s.name.as_str()).collect();
        let mut out = format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">\n",
            escape(&format!("{}, over {}", names.join(", "), self.x_label)),
        );
        // Writing to a String cannot fail, so the results below carry nothing.
        for tick in y.ticks() {
            let (_, ty) = at((x.low, tick));
            let _ = writeln!(
                out,
                "<line class=\"gridline\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{ty:.1}\" y2=\"{ty:.1}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                WIDTH - RIGHT,
                LEFT - 6.0,
                ty + 4.0,
                y.label(tick)
            );
        }
        for tick in x.ticks() {
            let (tx, _) = at((tick, y.low));
            let _ = writeln!(
                out,
                "<text x=\"{tx:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                HEIGHT - BOTTOM + 15.0,
                x.label(tick)
            );
        }
        let _ = writeln!(
            out,
            "<line class=\"axis\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{base:.1}\" y2=\"{base:.1}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            WIDTH - RIGHT,
            (LEFT + WIDTH - RIGHT) / 2.0,
            HEIGHT - 4.0,
            escape(&self.x_label),
            base = HEIGHT - BOTTOM,
        );
        for series in &self.series {
            self.draw(&mut out, series, &at);
        }
        out.push_str("</svg>\n");
        out
    }

    fn draw(&self, out: &mut String, series: &Series, at: &impl Fn((f64, f64)) -> (f64, f64)) {
        let colour = series.colour % COLOURS;
        let title = escape(&series.name);
        let Some(&last) = series.points.last() else {
            return;
        };
        let mut polyline = |class: &str, points: &[(f64, f64)]| {
            let _ = write!(out, "<polyline class=\"{class} s{colour}\" points=\"");
            for &point in points {
                let (px, py) = at(point);
                let _ = write!(out, "{px:.1},{py:.1} ");
            }
            let _ = writeln!(out, "\"><title>{title}</title></polyline>");
        };
        if self.path {
            polyline("raw", &series.points);
            for &point in &series.points {
                let (px, py) = at(point);
                let _ = write!(
                    out,
                    "<circle class=\"f{colour}\" cx=\"{px:.1}\" cy=\"{py:.1}\" r=\"2\"/>"
                );
            }
            let (px, py) = at(last);
            let _ = writeln!(
                out,
                "<circle class=\"line s{colour}\" cx=\"{px:.1}\" cy=\"{py:.1}\" r=\"5\"><title>{title}: last step</title></circle>"
            );
        } else if series.points.len() == 1 {
            let (px, py) = at(last);
            let _ = writeln!(
                out,
                "<circle class=\"f{colour}\" cx=\"{px:.1}\" cy=\"{py:.1}\" r=\"3\"><title>{title}</title></circle>"
            );
        } else if series.points.len() < SMOOTH_FROM || is_smooth(&series.points) {
            polyline("line", &thin(&series.points));
        } else {
            polyline("raw", &thin(&series.points));
            polyline("line", &thin(&smooth(&series.points)));
        }
    }
}

/// One axis: the values it spans and where its ticks lie.
struct Axis {
    low: f64,
    high: f64,
    step: f64,
}

impl Axis {
    /// The smallest span of round ticks that encloses `values`; `None` without values.
    fn around(values: impl Iterator<Item = f64>) -> Option<Self> {
        let exact = Self::within(values)?;
        let step = exact.step;
        Some(Self {
            low: (exact.low / step).floor() * step,
            high: (exact.high / step).ceil() * step,
            step,
        })
    }

    /// From the lowest to the highest of `values` and no further; the round ticks lie inside.
    fn within(values: impl Iterator<Item = f64>) -> Option<Self> {
        let (mut low, mut high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| {
            (l.min(v), h.max(v))
        });
        if low > high {
            return None;
        }
        if high - low <= f64::EPSILON * high.abs().max(1e-300) * 8.0 {
            // A constant, or one point: give it room on both sides.
            let room = if high == 0.0 { 1.0 } else { high.abs() * 0.1 };
            (low, high) = (low - room, high + room);
        }
        Some(Self {
            low,
            high,
            step: round_step((high - low) / 5.0),
        })
    }

    /// Where `value` lies between the ends, 0 to 1.
    fn share(&self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low)
    }

    fn ticks(&self) -> Vec<f64> {
        // A thousandth of a step allows for the rounding of the division.
        let first = (self.low / self.step - 1e-3).ceil() as i64;
        let last = (self.high / self.step + 1e-3).floor() as i64;
        (first..=last).map(|i| i as f64 * self.step).collect()
    }

    fn label(&self, tick: f64) -> String {
        if tick == 0.0 {
            return "0".to_owned(); // `i * step` gives -0.0 for no `i`, and "0.000" says no more
        }
        if !(1e-3..1e5).contains(&self.high.abs().max(self.low.abs())) {
            return format!("{tick:.1e}");
        }
        let decimals = (-self.step.log10().floor()).clamp(0.0, 6.0) as usize;
        format!("{tick:.decimals$}")
    }
}

/// The next of 1, 2, 5 × 10ⁿ at or above `raw`.
fn round_step(raw: f64) -> f64 {
    let power = 10f64.powf(raw.log10().floor());
    let digit = raw / power;
    let round = [1.0, 2.0, 5.0]
        .into_iter()
        .find(|d| digit <= d * (1.0 + 1e-9))
        .unwrap_or(10.0);
    round * power
}

/// Whether the curve, like a schedule, goes up and down little compared with its range and needs no smoothing.
fn is_smooth(points: &[(f64, f64)]) -> bool {
    let ways: f64 = points
        .windows(2)
        .map(|pair| (pair[1].1 - pair[0].1).abs())
        .sum();
    let (low, high) = points
        .iter()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), p| {
            (l.min(p.1), h.max(p.1))
        });
    ways <= 3.0 * (high - low)
}

/// An exponential moving average that starts unbiased: sₜ = Σ aᵗ⁻ⁱ yᵢ / Σ aᵗ⁻ⁱ, with a chosen so that it looks back over
/// about a twentieth of the curve.
fn smooth(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let keep = 1.0 - 20.0 / points.len().max(40) as f64;
    let (mut sum, mut weight) = (0.0, 0.0);
    points
        .iter()
        .map(|&(x, y)| {
            sum = keep * sum + y;
            weight = keep * weight + 1.0;
            (x, sum / weight)
        })
        .collect()
}

/// At most [`MOST_POINTS`] of the points: the lowest and the highest of each stretch, so that no spike is lost.
fn thin(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if points.len() <= MOST_POINTS {
        return points.to_vec();
    }
    let stretch = points.len().div_ceil(MOST_POINTS / 2);
    points
        .chunks(stretch)
        .flat_map(|chunk| {
            let by_y = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
            let low = chunk.iter().min_by(by_y).copied();
            let high = chunk.iter().max_by(by_y).copied();
            let mut pair: Vec<_> = low.into_iter().chain(high).collect();
            pair.sort_by(|a, b| a.0.total_cmp(&b.0));
            pair.dedup();
            pair
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: Vec<(f64, f64)>) -> String {
        let series = vec![Series {
            name: "a <run>".into(),
            colour: 7,
            points,
        }];
        Chart {
            x_label: "step".into(),
            series,
            path: false,
        }
        .svg()
    }

    #[test]
    fn nothing_one_point_and_a_constant_all_draw() {
        assert!(chart(vec![]).contains("No values"));
        let one = chart(vec![(1.0, 0.0)]);
        assert!(one.contains("<circle") && !one.contains("NaN"), "{one}");
        let constant = chart(vec![(0.0, 3.0), (1.0, 3.0)]);
        assert!(
            constant.contains("<polyline") && !constant.contains("NaN"),
            "{constant}"
        );
        assert!(constant.contains("a &lt;run&gt;"));
    }

    #[test]
    fn ticks_are_round_and_enclose_the_values() {
        // By hand: a fifth of the span 0.93 is 0.186, the next of 1, 2, 5 × 10ⁿ is 0.2.
        let axis = Axis::around([0.04, 0.97].into_iter()).unwrap();
        assert_eq!(axis.ticks().len(), 6);
        assert_eq!((axis.low, axis.high), (0.0, 1.0));
        assert_eq!(axis.label(0.2), "0.2");
        // The horizontal axis ends where the values end.
        let axis = Axis::within([1.0, 120.0].into_iter()).unwrap();
        assert_eq!(axis.ticks(), [50.0, 100.0]);
        let axis = Axis::around([-3.0, 12.0].into_iter()).unwrap();
        assert_eq!(axis.ticks(), [-5.0, 0.0, 5.0, 10.0, 15.0]);
        assert_eq!(axis.label(0.0), "0");
    }

    #[test]
    fn thinning_keeps_every_spike() {
        let mut points: Vec<_> = (0..10_000).map(|i| (f64::from(i), 0.0)).collect();
        points[7_321].1 = 9.0;
        let thinned = thin(&points);
        assert!(thinned.len() <= MOST_POINTS);
        assert!(thinned.contains(&(7_321.0, 9.0)));
        assert!(thinned.is_sorted_by(|a, b| a.0 <= b.0));
    }

    #[test]
    fn a_schedule_is_smooth_and_noise_is_not() {
        let rise_and_fall: Vec<_> = (0..100)
            .map(|i| (f64::from(i), -f64::from(i - 50).abs()))
            .collect();
        assert!(is_smooth(&rise_and_fall));
        let zigzag: Vec<_> = (0..100).map(|i| (f64::from(i), f64::from(i % 2))).collect();
        assert!(!is_smooth(&zigzag));
    }

    #[test]
    fn smoothing_leaves_a_constant_alone_and_starts_at_the_first_value() {
        let constant: Vec<_> = (0..100).map(|i| (f64::from(i), 2.0)).collect();
        assert!(smooth(&constant).iter().all(|p| (p.1 - 2.0).abs() < 1e-12));
        let step: Vec<_> = (0..100).map(|i| (f64::from(i), f64::from(i))).collect();
        assert_eq!(smooth(&step)[0], (0.0, 0.0));
    }
}
