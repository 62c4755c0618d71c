//! The report, from top to bottom: what came of it, the picture, the answers, then everything else, folded.

mod answers;
mod curves;
mod ending;
mod evidence;
mod facts;
mod header;
mod judge;
mod models;
mod rounds;
mod seeds;
mod settings;
mod tokens;
mod verdict;

use std::fmt::Write as _;

use rlhf_base::caption::Caption;
use serde_json::Value;

pub use self::curves::curves_picture;
use crate::comparison::over_kl;
use crate::frontier::{Steps, held_out, steps};
use crate::html::{escape, figure, fold, legend, page};
use crate::run::Run;
use crate::section::{Section, section_of};
use facts::Facts;
use models::Models;

/// One self-contained HTML page about `runs`, with a section for each stage in the order of `sections`, and one for the rest.
///
/// Runs of the same stage are drawn into the same charts. Everything that comes from a file is escaped.
pub fn report(runs: &[Run], sections: &[Section]) -> String {
    page(&title(runs), &contents(runs, sections))
}

/// What a browser calls the page.
pub(crate) fn title(runs: &[Run]) -> String {
    match tops(runs)[..] {
        [one] => format!("{} · rlhf report", one.name),
        _ => "rlhf report".to_owned(),
    }
}

/// The `<main>` of the page.
pub(crate) fn contents(runs: &[Run], sections: &[Section]) -> String {
    let mut body = String::from("<main>\n");
    let report = Report { runs, sections };
    let tops = tops(runs);
    // Writing to a String cannot fail, so the results here and below carry nothing.
    if tops.len() > 1 {
        let _ = writeln!(
            body,
            "<h1 class=\"several\">{} runs compared</h1>",
            tops.len()
        );
    }
    if tops.len() > 1 {
        report.frontier_of_several(&mut body, &tops);
    }
    for top in &tops {
        report.top(&mut body, top);
    }
    report.stages(&mut body, &tops);
    body.push_str("</main>\n");
    body
}

/// The runs that lie inside no other.
fn tops(runs: &[Run]) -> Vec<&Run> {
    let inside = |run: &&Run| !runs.iter().any(|whole| run.is_inside(whole));
    runs.iter().filter(inside).collect()
}

struct Report<'a> {
    runs: &'a [Run],
    sections: &'a [Section],
}

impl<'a> Report<'a> {
    /// The tag of a run's name: that of the page, unless there are several.
    fn heading(&self) -> &'static str {
        match tops(self.runs).len() {
            1 => "h1",
            _ => "h2",
        }
    }

    /// The section of a run, if its configuration tells one.
    fn section(&self, run: &Run) -> Option<&'a Section> {
        section_of(&run.config, self.sections).map(|place| &self.sections[place])
    }

    fn facts(&self, run: &Run) -> Facts {
        Facts::of(run, self.section(run).map_or("", |section| section.table))
    }

    /// What the numbers of `run` show that is not as it should be.
    fn warnings(&self, run: &Run) -> Vec<(String, String)> {
        let found = self
            .section(run)
            .map(|section| (section.findings)(&run.metrics));
        let said = run.judged.get("warnings").and_then(Value::as_array);
        let said = said
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(str::to_owned);
        let all = found.into_iter().flatten().chain(said);
        all.map(|what| (run.name.clone(), what)).collect()
    }

    /// Those of all stages inside a pipeline, which are called by their folders in it.
    fn warnings_inside(&self, whole: &Run, inside: &[(&Run, Facts)]) -> Vec<(String, String)> {
        let of = |run: &Run| {
            let here = std::path::Path::new(&run.name).strip_prefix(&whole.name);
            let name = here.map_or_else(|_| run.name.clone(), |it| it.display().to_string());
            let all = self.warnings(run).into_iter();
            all.map(move |(_, what)| (name.clone(), what))
        };
        inside.iter().flat_map(|(run, _)| of(run)).collect()
    }

    /// The stages inside a pipeline, in the order of `sections`; of several seeds all.
    fn inside(&self, whole: &Run) -> Vec<(&'a Run, Facts)> {
        let place =
            |run: &Run| section_of(&run.config, self.sections).unwrap_or(self.sections.len());
        let mut inside: Vec<&Run> = (self.runs.iter())
            .filter(|run| run.is_inside(whole) && !run.is_folder())
            .collect();
        inside.sort_by_key(|run| place(run));
        inside
            .into_iter()
            .map(|run| (run, self.facts(run)))
            .collect()
    }

    /// A run that lies inside no other: its header, and the pictures of its story.
    fn top(&self, body: &mut String, run: &Run) {
        if let Some(comparison) = &run.comparison {
            self.seeds(body, run, comparison);
        } else if run.is_folder() {
            self.pipeline(body, run);
        } else {
            self.alone(body, run);
        }
    }

    /// A pipeline with several seeds.
    fn seeds(&self, body: &mut String, run: &Run, comparison: &Value) {
        let inside = self.inside(run);
        let warnings = self.warnings_inside(run, &inside);
        header::header(
            body,
            run,
            "Pipeline, several seeds",
            &began(&inside),
            &seeds::verdict(comparison),
            &warnings,
            self.heading(),
        );
        body.push_str(&over_kl(&seeds::paths(comparison), &[], HEADING));
        body.push_str(&seeds::table(comparison));
        header::made_by_stages(body, &inside);
    }

    fn pipeline(&self, body: &mut String, run: &Run) {
        let inside = self.inside(run);
        let models = run.evaluation.as_ref().map(Models::of).unwrap_or_default();
        let verdict = verdict::of_pipeline(&models, &inside);
        let warnings = self.warnings_inside(run, &inside);
        header::header(
            body,
            run,
            "Pipeline",
            &began(&inside),
            &verdict,
            &warnings,
            self.heading(),
        );
        let paths = models.paths();
        let behind: Vec<Steps> = (inside.iter())
            .map(|(run, _)| (run.label().to_owned(), steps(run)))
            .filter(|(_, steps)| !steps.is_empty())
            .collect();
        body.push_str(&over_kl(&paths, &behind, HEADING));
        if !paths.is_empty() && !models.has_checkpoints() {
            body.push_str(
                "<p class=\"soft\">Only where each policy began and ended: with eval.checkpoints and ppo.save_every set, its checkpoints are \
                 asked too.</p>\n",
            );
        }
        let table = models.table();
        if !table.is_empty() {
            let _ = writeln!(body, "<section>\n<h2>The models</h2>\n{table}</section>");
        }
        if let Some(evaluation) = &run.evaluation {
            body.push_str(&rounds::rounds(evaluation, &models));
        }
        let policies: Vec<&str> = models
            .policies()
            .iter()
            .map(|model| model.name.as_str())
            .collect();
        let reference = models.reference().map_or("", |model| model.name.as_str());
        let judges: Vec<&Run> = (inside.iter().map(|(run, _)| *run))
            .filter(|run| !run.judged.is_empty())
            .collect();
        let named = names(&judges);
        let judged: String = (judges.iter().zip(&named))
            .map(|(run, name)| judge::judged(&run.judged, (named.len() > 1).then_some(name)))
            .collect();
        self.evidence(body, run, reference, &policies, &judged);
        header::made_by_stages(body, &inside);
    }

    /// The run of one stage.
    fn alone(&self, body: &mut String, run: &Run) {
        let facts = self.facts(run);
        let verdict = verdict::of_run(run, &facts);
        let kind = self.section(run).map_or("Run", |section| section.title);
        header::header(
            body,
            run,
            kind,
            &facts.began,
            &verdict,
            &self.warnings(run),
            self.heading(),
        );
        header::made(body, run, &facts);
        let several = tops(self.runs).len() > 1;
        let chart = held_out(
            &[(run, run.label().to_owned())],
            &[verdict::published_step(run)],
        );
        if let Some(chart) = chart.filter(|_| !several) {
            let _ = writeln!(body, "<section class=\"hero\">\n<h2>{HEADING}</h2>");
            figure(
                body,
                None,
                &format!("<div>\n{}</div>\n", chart.svg()),
                OVER_KL,
            );
            body.push_str("</section>\n");
        }
        let judged = judge::judged(&run.judged, None);
        self.evidence(body, run, "reference", &["policy"], &judged);
    }

    /// What stands behind the verdict; folded where there are several runs to compare.
    fn evidence(
        &self,
        body: &mut String,
        run: &Run,
        reference: &str,
        policies: &[&str],
        judged: &str,
    ) {
        let shown = evidence::evidence(run, reference, policies, judged);
        if shown.is_empty() || tops(self.runs).len() == 1 {
            body.push_str(&shown);
            return;
        }
        let summary = format!("Rewards and answers of {}", run.name);
        fold(body, &format!("evidence-{}", run.name), &summary, &shown);
    }

    /// The paths of several runs of PPO in one chart.
    fn frontier_of_several(&self, body: &mut String, tops: &[&Run]) {
        let runs: Vec<(&Run, String)> = (tops.iter())
            .filter(|run| run.last("objective/kl").is_some() || run.last("eval/kl").is_some())
            .map(|run| (*run, run.name.clone()))
            .collect();
        let published: Vec<_> = runs
            .iter()
            .map(|(run, _)| verdict::published_step(run))
            .collect();
        if let Some(chart) = held_out(&runs, &published) {
            let _ = writeln!(body, "<section class=\"hero\">\n<h2>{HEADING}</h2>");
            legend(body, runs.iter().map(|(_, name)| (name.as_str(), None)));
            figure(
                body,
                None,
                &format!("<div>\n{}</div>\n", chart.svg()),
                OVER_KL,
            );
            body.push_str("</section>\n");
        }
    }

    /// A section for each stage that has runs, and one for the rest.
    fn stages(&self, body: &mut String, tops: &[&Run]) {
        let known = self.sections.iter().enumerate();
        let captions: Vec<Caption> = self
            .sections
            .iter()
            .flat_map(|s| s.captions)
            .copied()
            .collect();
        let known = known.map(|(place, section)| (Some(place), section.title, section.captions));
        for (place, title, captions) in known.chain([(None, "Other runs", captions.as_slice())]) {
            let here: Vec<&Run> = (self.runs.iter())
                .filter(|run| !run.is_folder() && section_of(&run.config, self.sections) == place)
                .collect();
            if here.is_empty() {
                continue;
            }
            let names = names(&here);
            let runs: Vec<(&Run, String)> = here.into_iter().zip(names).collect();
            let _ = writeln!(
                body,
                "<section class=\"stage\">\n<h2>{}</h2>",
                escape(title)
            );
            // A run that stands alone has said it in its header.
            for (run, name) in runs
                .iter()
                .filter(|(run, _)| !tops.iter().any(|top| top.name == run.name))
            {
                let facts = self.facts(run);
                let said = verdict::of_run(run, &facts).sentences.join(" ");
                let _ = writeln!(body, "<p><b>{}</b>: {}</p>", escape(name), escape(&said));
            }
            if runs.len() > 1 {
                legend(body, runs.iter().map(|(_, name)| (name.as_str(), None)));
            }
            curves::curves(body, &runs, captions, title);
            for (run, name) in &runs {
                let tokens = tokens::rollouts(run);
                if !tokens.is_empty() {
                    let inner = format!("<p>{TOKENS}</p>\n<div class=\"cards\">\n{tokens}</div>\n");
                    fold(
                        body,
                        &format!("tokens-{}", run.name),
                        &format!("Rollouts of {name}, token by token"),
                        &inner,
                    );
                }
            }
            body.push_str(&settings::differences(&runs));
            settings::configurations(body, &runs);
            body.push_str("</section>\n");
        }
    }
}

/// The heading of the picture.
const HEADING: &str = "What was gained, and how far from the reference";
const OVER_KL: &str = "Each mark is an evaluation on held-out prompts, with its 95 % interval; faint dots are steps of training. A path that moves to the \
                       right without rising gains nothing for its KL; of two runs, the one with the higher score at the same KL is better. A ring \
                       marks the policy that was published.";
const TOKENS: &str = "Shaded by KL (<span class=\"kp3\">more</span> or <span class=\"km3\">less</span> likely than under the reference) and by advantage \
                      (<span class=\"ap3\">reinforced</span> or <span class=\"am3\">discouraged</span> by the step).";

/// When the first of the runs began.
fn began(inside: &[(&Run, Facts)]) -> String {
    let times = inside
        .iter()
        .map(|(_, facts)| &facts.began)
        .filter(|time| !time.is_empty());
    times.min().cloned().unwrap_or_default()
}

/// What each run is called beside the others: as many last parts of its folder as tell it from them.
fn names(runs: &[&Run]) -> Vec<String> {
    let tail = |run: &Run, parts: usize| {
        let all: Vec<_> = std::path::Path::new(&run.name).components().collect();
        let last = &all[all.len().saturating_sub(parts)..];
        let path: std::path::PathBuf = last.iter().collect();
        (path.display().to_string(), parts >= all.len())
    };
    let name = |run: &&Run| {
        let shares =
            |name: &str, parts| runs.iter().filter(|it| tail(it, parts).0 == name).count() > 1;
        let mut parts = 1;
        loop {
            let (name, whole) = tail(run, parts);
            if whole || !shares(&name, parts) {
                return name;
            }
            parts += 1;
        }
    };
    runs.iter().map(name).collect()
}

#[cfg(test)]
mod tests;
