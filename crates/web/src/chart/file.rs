//! Charts as an SVG file of their own.

use std::fmt::Write as _;

use super::Chart;
use crate::html::escape;

/// Room above the charts for a legend, and above each chart for a heading.
const HEAD: f64 = 32.0;

/// `charts` one above the other, each under its `heading`, on light and dark screens. `legend` is SVG for
/// the room at the top. `None` where there is nothing to draw.
pub(crate) fn svg_file(
    charts: &[Chart],
    legend: &str,
    heading: impl Fn(&Chart) -> Option<String>,
) -> Option<String> {
    let width = charts.first()?.size.width;
    let mut inner = legend.to_owned();
    let mut y = if legend.is_empty() { 0.0 } else { HEAD };
    for chart in charts {
        // Writing to a String cannot fail, so the results here and below carry nothing.
        if let Some(heading) = heading(chart) {
            let _ = writeln!(
                inner,
                "<text x=\"{}\" y=\"{}\">{}</text>",
                chart.size.left,
                y + 22.0,
                escape(&heading)
            );
            y += HEAD;
        }
        let height = chart.size.height;
        let _ = writeln!(
            inner,
            "<svg y=\"{y}\" width=\"{width}\" height=\"{height}\">\n{}</svg>",
            chart.svg()
        );
        y += height;
    }
    // The page's own colours and nothing else of its style. The paper is drawn too: a picture does not know what it stands on.
    let (colours, _) = include_str!("../assets/base.css").split_once("* {")?;
    Some(format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {y}\" role=\"img\">\n<style>\n{colours}{}{}</style>\n\
         <rect class=\"paper\" width=\"{width}\" height=\"{y}\"/>\n{inner}</svg>\n",
        include_str!("../assets/chart.css"),
        include_str!("../assets/picture.css"),
    ))
}
