//! The top of the page: what was trained from what, on what, when, where and how long, and what came of it.

use std::fmt::Write as _;

use super::ending::Ending;
use super::facts::Facts;
use super::verdict::Verdict;
use crate::html::escape;
use crate::run::Run;
use crate::table::Table;

/// The name, the verdict, the warnings and the numbers of a run or a pipeline; `heading` is the tag of the name.
pub(crate) fn header(
    out: &mut String,
    run: &Run,
    kind: &str,
    began: &str,
    verdict: &Verdict,
    warnings: &[(String, String)],
    heading: &str,
) {
    let status = match run.running {
        true => " · <b class=\"running\">running</b>",
        false => "",
    };
    let began = match began {
        "" => String::new(),
        began => format!(" · {}", escape(began)),
    };
    // Writing to a String cannot fail, so the results here and below carry nothing.
    let _ = writeln!(
        out,
        "<header>\n<p class=\"eyebrow\">rlhf report · {}{began}{status}</p>\n<{heading}>{}</{heading}>",
        escape(kind),
        escape(&run.name)
    );
    for (i, sentence) in verdict.sentences.iter().enumerate() {
        let class = if i == 0 { "verdict" } else { "verdict more" };
        let _ = writeln!(out, "<p class=\"{class}\">{}</p>", escape(sentence));
    }
    flags(out, warnings);
    if !verdict.tiles.is_empty() {
        out.push_str("<dl class=\"tiles\">\n");
        for tile in &verdict.tiles {
            let _ = writeln!(
                out,
                "<div><dt>{}</dt><dd><b>{}</b> <span class=\"soft\">{}</span></dd></div>",
                tile.name,
                escape(&tile.value),
                escape(&tile.note)
            );
        }
        out.push_str("</dl>\n");
    }
    out.push_str("</header>\n");
}

/// What the numbers of each run show of one that learns nothing or goes wrong.
fn flags(out: &mut String, warnings: &[(String, String)]) {
    for (name, warning) in warnings {
        let _ = writeln!(
            out,
            "<p class=\"flag\"><b>{}</b>: {}</p>",
            escape(name),
            escape(warning)
        );
    }
}

/// How one run was made, as a list; what is not known is left out.
pub(crate) fn made(out: &mut String, run: &Run, facts: &Facts) {
    let resumed = match facts.resumed {
        0 => String::new(),
        1 => ", resumed once".to_owned(),
        n => format!(", resumed {n} times"),
    };
    let steps = match facts.planned {
        Some(planned) => format!("{} of {planned}", facts.done),
        None => facts.done.to_string(),
    };
    let rows = [
        ("Trained", facts.model.clone()),
        ("From", facts.from.clone()),
        ("Reward", facts.reward.clone()),
        ("On", facts.data.clone()),
        (
            "Steps",
            format!("{steps}, {}{resumed}", Ending::of(run).word()),
        ),
        ("Took", facts.took.clone()),
        ("Computed on", facts.device.clone()),
        ("Machine", facts.machine.clone()),
        ("rlhf", facts.version.clone()),
    ];
    out.push_str("<dl class=\"facts\">\n");
    for (name, value) in rows.iter().filter(|(_, value)| !value.is_empty()) {
        let _ = writeln!(out, "<div><dt>{name}</dt><dd>{}</dd></div>", escape(value));
    }
    out.push_str("</dl>\n");
}

/// How the runs of a pipeline were made, as a table, and what all have in common below it.
pub(crate) fn made_by_stages(out: &mut String, stages: &[(&Run, Facts)]) {
    if stages.is_empty() {
        return;
    }
    let titles = ["Starts from", "Data", "Steps", "Took", "Ended"];
    let mut table = Table::new("Run", titles.map(|title| (title, "")));
    let runs: Vec<&Run> = stages.iter().map(|(run, _)| *run).collect();
    for ((run, facts), name) in stages.iter().zip(super::names(&runs)) {
        let from = [facts.from.as_str(), facts.reward.as_str()];
        let from: Vec<&str> = from.into_iter().filter(|name| !name.is_empty()).collect();
        let cells = [
            escape(&from.join(", rewarded by ")),
            escape(&facts.data),
            facts.done.to_string(),
            escape(&facts.took),
            Ending::of(run).word().to_owned(),
        ];
        table.row(&escape(&name), cells.map(Some));
    }
    // Writing to a String cannot fail, so the results here and below carry nothing.
    let _ = write!(out, "<section>\n<h2>How it was made</h2>\n{}", table.html());
    let Some((_, last)) = stages.last() else {
        return;
    };
    let common = [
        ("", &last.model),
        ("computed on ", &last.device),
        ("", &last.machine),
        ("rlhf ", &last.version),
    ];
    let common: Vec<String> = (common.iter())
        .filter(|(_, value)| !value.is_empty())
        .map(|(what, value)| format!("{what}{value}"))
        .collect();
    match common.is_empty() {
        true => out.push_str("<p class=\"soft\">Machine and version were not recorded: the runs are of an older version.</p>\n"),
        false => {
            let _ = writeln!(out, "<p class=\"soft\">{}.</p>", escape(&common.join(" · ")));
        }
    }
    out.push_str("</section>\n");
}

#[cfg(test)]
mod tests {
    use super::super::verdict::Tile;
    use super::*;

    #[test]
    fn the_header_says_all_of_the_verdict_and_escapes_it() {
        let verdict = Verdict {
            sentences: vec!["<first>".into(), "second".into()],
            tiles: vec![Tile {
                name: "KL",
                value: "<2>".into(),
                note: "a & b".into(),
            }],
        };
        let run = Run {
            name: "runs/<x>".into(),
            running: true,
            ..Run::default()
        };
        let mut out = String::new();
        header(
            &mut out,
            &run,
            "PPO",
            "2025-01-01 00:00 UTC",
            &verdict,
            &[("<n>".into(), "<w>".into())],
            "h1",
        );
        for part in [
            "&lt;first&gt;",
            "runs/&lt;x&gt;",
            "&lt;2&gt;",
            "a &amp; b",
            "<b>&lt;n&gt;</b>: &lt;w&gt;",
            ">running<",
            "2025-01-01",
        ] {
            assert!(out.contains(part), "{part} in {out}");
        }
        assert_eq!(out.matches("class=\"verdict\"").count(), 1);
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let mut out = String::new();
        made(&mut out, &Run::default(), &Facts::default());
        assert!(
            out.contains("<dt>Steps</dt>") && !out.contains("Machine") && !out.contains("From")
        );
        out.clear();
        made_by_stages(&mut out, &[(&Run::default(), Facts::default())]);
        assert!(out.contains("not recorded"));
        out.clear();
        made_by_stages(&mut out, &[]);
        assert_eq!(out, "");
    }
}
