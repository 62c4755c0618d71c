//! Drawing a series: its line, its points with their intervals, and what is said beside them.

use std::fmt::Write as _;

use super::curve::{needs_smoothing, smooth, thin};
use super::plane::Plane;
use super::{COLOURS, Kind, Mark, Series};
use crate::html::escape;
use crate::number::short;

/// Largest number of points of a line whose points are marked.
const MOST_MARKED: usize = 40;

/// Draws one series.
pub(super) fn draw(out: &mut String, series: &Series, plane: &Plane) {
    let colour = series.colour % COLOURS;
    let name = escape(&series.name);
    let values = series.values();
    let line = |out: &mut String, class: &str, points: &[(f64, f64)]| {
        let _ = write!(out, "<polyline class=\"{class} s{colour}\" points=\"");
        for &(x, y) in points {
            let (px, py) = plane.at(x, y);
            let _ = write!(out, "{px:.1},{py:.1} ");
        }
        let _ = writeln!(out, "\"><title>{name}</title></polyline>");
    };
    let marked = match series.kind {
        Kind::Path => {
            line(out, "line", &values);
            true
        }
        Kind::Cloud => {
            for (x, y) in values {
                let (px, py) = plane.at(x, y);
                let _ = write!(
                    out,
                    "<circle class=\"cloud f{colour}\" cx=\"{px:.1}\" cy=\"{py:.1}\" r=\"2\"/>"
                );
            }
            out.push('\n');
            return;
        }
        _ if values.len() == 1 => true,
        Kind::Line if needs_smoothing(&values) => {
            line(out, "raw", &thin(&values));
            line(out, "line", &thin(&smooth(&values)));
            false
        }
        Kind::Line => {
            line(out, "line", &thin(&values));
            values.len() <= MOST_MARKED
        }
        Kind::Faint => {
            line(out, "raw", &thin(&values));
            if needs_smoothing(&values) {
                line(out, "line thin", &thin(&smooth(&values)));
            }
            false
        }
    };
    for mark in series.points.iter().filter(|_| marked) {
        point(out, mark, &series.name, colour, plane);
    }
}

fn point(out: &mut String, mark: &Mark, name: &str, colour: usize, plane: &Plane) {
    let (x, y) = plane.at(mark.x, mark.y);
    if let Some((low, high)) = mark.interval {
        let ((_, low), (_, high)) = (plane.at(mark.x, low), plane.at(mark.x, high));
        let _ = write!(
            out,
            "<line class=\"whisker s{colour}\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{low:.1}\" y2=\"{high:.1}\"/>"
        );
    }
    let mut words = format!("{name}: {}", short(mark.y));
    if let Some((low, high)) = mark.interval {
        let _ = write!(words, " [{}, {}]", short(low), short(high));
    }
    let _ = match mark.what.as_str() {
        "" => write!(words, " at {}", short(mark.x)),
        what => write!(words, ", {what}"),
    };
    let title = escape(&words);
    if mark.ring {
        let _ = write!(
            out,
            "<circle class=\"ring s{colour}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"7\"/>"
        );
    }
    let _ = writeln!(
        out,
        "<circle class=\"f{colour}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"><title>{title}</title></circle>"
    );
    if let Some(note) = &mark.note {
        let (anchor, dx) = plane.side(mark.x);
        // Most lines rise: at their start there is room below, at their end above, unless the axis or the edge is there.
        let (across, up) = (plane.x.share(mark.x), plane.y.share(mark.y));
        let below = if across < 0.3 { up > 0.15 } else { up > 0.85 };
        let dy = if below { "1.6em" } else { "-.9em" };
        let _ = writeln!(
            out,
            "<text class=\"note\" x=\"{:.1}\" y=\"{y:.1}\" dy=\"{dy}\" text-anchor=\"{anchor}\">{}</text>",
            x + dx,
            escape(note)
        );
    }
}
