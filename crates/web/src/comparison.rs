//! A page about policies side by side: a table, and how far each went from the reference for what it gained.

use std::fmt::Write as _;

use crate::chart::{COLOURS, svg_file};
use crate::frontier::{Path, Point, Steps, charts, methods};
use crate::html::{escape, figure, legend, page};
use crate::table::Table;

/// What the charts over KL mean.
fn meaning(paths: &[Path]) -> String {
    let any = |known: fn(&Point) -> bool| paths.iter().any(|(.., points)| points.iter().any(known));
    let (gold, judge) = (any(|p| p.gold.is_some()), any(|p| p.judge.is_some()));
    let mut out = String::new();
    if gold {
        out.push_str("Gold score: what a program that knows the truth says of the answers to held-out prompts. ");
    }
    if judge {
        out.push_str("Second opinion: what eval.judge says of the answers to held-out prompts. ");
    }
    if any(|p| p.reward.is_some()) {
        out.push_str("Learned reward: what the reward model says of the answers. ");
    }
    let unseen = match (gold, judge) {
        (true, _) => "No part of training sees the truth: where it falls",
        (false, true) => "No part of training sees the second opinion: where it falls",
        (false, false) => "Where people like the answers less",
    };
    out.push_str(unseen);
    out.push_str(" while the learned reward rises, the reward model is being fooled. A ring marks the policy that was published, whiskers are 95 % intervals.");
    out
}

/// One self-contained HTML page: `table`, heading first, and two charts over KL. Paths of one method have one colour.
pub fn comparison(table: &[Vec<String>], paths: &[Path]) -> String {
    let (head, rows) = table
        .split_first()
        .map_or((&[][..], &[][..]), |(head, rows)| (head.as_slice(), rows));
    let titles = head.iter().skip(1).map(|title| (title.as_str(), "number"));
    let mut drawn = Table::new("Model", titles);
    for row in rows {
        let cells = row.iter().skip(1).map(|cell| Some(escape(cell)));
        drawn.row(
            &row.first().map_or_else(String::new, |name| escape(name)),
            cells,
        );
    }
    let mut body = format!(
        "<main>\n<h1>Comparison</h1>\n<section>\n{}</section>\n",
        drawn.html()
    );
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
    figure(
        &mut body,
        None,
        &drawn,
        &format!("{}{faint}", meaning(paths)),
    );
    body.push_str("</section>\n");
    body
}

/// The charts as one SVG file, on light and dark screens; `None` where there is nothing to draw.
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
        assert!(page.contains("<th scope=\"row\">&lt;ppo&gt;</th>") && page.contains(">gold</th>"));
        assert!(page.contains(">gold score</text>") && !page.contains(">learned reward</text>"));
        assert_eq!(page.matches("<polyline class=\"line s0\"").count(), 2);
        assert_eq!(page.matches("<polyline class=\"line s1\"").count(), 1);
        assert!(page.contains("dpo, seed 0"));
        let picture = picture(&[path("ppo", 0), path("dpo", 0)]).unwrap();
        assert_eq!(picture.matches("<svg").count(), 3, "one in one in one");
        assert!(picture.contains("--c0: #0b68cb") && picture.contains("--c0: #70b8ff"));
        assert_eq!(picture.matches('{').count(), picture.matches('}').count());
        assert_eq!(super::picture(&[]), None);
    }
}
