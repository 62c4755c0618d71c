//! A page about policies side by side: a table, and how far each went from the reference for what it gained.

use std::fmt::Write as _;

use crate::chart::{COLOURS, svg_file};
use crate::frontier::{Path, Steps, charts, methods};
use crate::html::{escape, figure, legend, page};

/// What the two charts mean.
const MEANING: &str = "Above, what a program that knows the truth says of the answers to held-out prompts; below, what the reward model says of the \
                       same answers. No part of training sees the truth: where it falls while the learned reward rises, the reward model is being \
                       fooled. A ring marks the policy that was published, whiskers are 95 % intervals.";

/// One self-contained HTML page: `table`, heading first, and two charts over KL. Paths of one method have one colour.
pub fn comparison(table: &[Vec<String>], paths: &[Path]) -> String {
    let mut body = String::from(
        "<main>\n<h1>Comparison</h1>\n<section>\n<div class=\"scroll\" tabindex=\"0\"><table>\n",
    );
    // Writing to a String cannot fail, so the results here and below carry nothing.
    for (i, row) in table.iter().enumerate() {
        let tag = if i == 0 { "th scope=\"col\"" } else { "td" };
        let end = &tag[..2];
        let cell = |(i, cell): (usize, &String)| match i {
            0 => format!("<{tag}>{}</{end}>", escape(cell)),
            _ => format!("<{tag} class=\"number\">{}</{end}>", escape(cell)),
        };
        let cells: String = row.iter().enumerate().map(cell).collect();
        let _ = writeln!(body, "<tr>{cells}</tr>");
    }
    body.push_str("</table></div>\n</section>\n");
    body.push_str(&over_kl(
        paths,
        &[],
        "What was gained, and how far from the reference",
    ));
    body.push_str("</main>\n");
    page("Comparison", &body)
}

/// A section with the charts over KL; nothing where there is nothing to draw.
pub(crate) fn over_kl(paths: &[Path], steps: &[Steps], heading: &str) -> String {
    let charts = charts(paths, steps);
    if charts.is_empty() {
        return String::new();
    }
    let mut body = format!("<section class=\"hero\">\n<h2>{}</h2>\n", escape(heading));
    let methods = methods(paths);
    if methods.len() > 1 {
        legend(&mut body, methods.into_iter().map(|it| (it, None)));
    }
    let drawn: String = charts.iter().map(crate::chart::Chart::svg).collect();
    let faint = match steps.is_empty() {
        true => "",
        false => " Faint dots are the steps of training, on their own prompts.",
    };
    let drawn = format!("<div>\n{drawn}</div>\n");
    figure(&mut body, None, &drawn, &format!("{MEANING}{faint}"));
    body.push_str("</section>\n");
    body
}

/// The two charts as one SVG file, in light colours; `None` where there is nothing to draw.
pub fn picture(paths: &[Path]) -> Option<String> {
    let charts = charts(paths, &[]);
    let size = charts.first()?.size;
    let mut legend = String::new();
    let mut x = size.left;
    for (i, method) in methods(paths).into_iter().enumerate() {
        let colour = i % COLOURS;
        let _ = writeln!(
            legend,
            "<line class=\"line s{colour}\" x1=\"{x}\" x2=\"{}\" y1=\"18\" y2=\"18\"/><text x=\"{}\" y=\"22\">{}</text>",
            x + 18.0,
            x + 24.0,
            escape(method)
        );
        x += 60.0 + 8.0 * method.chars().count() as f64;
    }
    svg_file(&charts, &legend, |_| None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frontier::Point;

    #[test]
    fn methods_have_one_colour_each_and_what_is_unknown_has_no_chart() {
        let point = |kl, gold| Point {
            step: 1,
            kl,
            gold: Some(gold),
            ..Point::default()
        };
        let path = |method: &str, seed: u64| {
            let points = vec![point(0.0, 0.5), point(1.0, 0.5 + 0.1 * seed as f64)];
            (method.to_owned(), format!("{method}, seed {seed}"), points)
        };
        let table = [
            vec![String::new(), "gold".to_owned()],
            vec!["<ppo>".to_owned(), "1".to_owned()],
        ];
        let page = comparison(&table, &[path("ppo", 0), path("ppo", 1), path("dpo", 0)]);
        assert!(page.contains("<td>&lt;ppo&gt;</td>") && page.contains(">gold</th>"));
        assert!(page.contains(">gold score</text>") && !page.contains(">learned reward</text>"));
        assert_eq!(page.matches("<polyline class=\"line s0\"").count(), 2);
        assert_eq!(page.matches("<polyline class=\"line s1\"").count(), 1);
        assert!(page.contains("dpo, seed 0"));
        let picture = picture(&[path("ppo", 0), path("dpo", 0)]).unwrap();
        assert_eq!(picture.matches("<svg").count(), 3, "one in one in one");
        assert!(picture.contains("--c0: #0b68cb") && !picture.contains("#70b8ff"));
        assert_eq!(picture.matches('{').count(), picture.matches('}').count());
        assert_eq!(super::picture(&[]), None);
    }
}
