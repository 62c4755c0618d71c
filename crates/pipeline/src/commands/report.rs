//! `rlhf report`.

use rlhf_web::Section;
use serde_json::json;

use crate::flags::ReportArgs;
use crate::output::{print, print_json};
use crate::stages::{AnyStage, STAGES};

pub(crate) fn run(args: &ReportArgs) -> anyhow::Result<()> {
    let mut runs = Vec::new();
    for dir in &args.runs {
        runs.extend(rlhf_web::Run::read(dir)?);
    }
    fs_err::write(&args.out, rlhf_web::report(&runs, &sections()))?;
    if args.json {
        return print_json(&json!({"out": args.out, "runs": runs.len()}));
    }
    print(&format!("{}\n", args.out.display()));
    Ok(())
}

/// The stages, in the order of the page.
fn sections() -> Vec<Section> {
    let section = |stage: &dyn AnyStage| Section {
        table: stage.name(),
        title: stage.title(),
        captions: stage.captions(),
        findings: stage.findings(),
    };
    STAGES.iter().copied().map(section).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_stage_has_two_captions_for_one_metric() {
        for section in sections() {
            let mut metrics: Vec<_> = section.captions.iter().map(|c| c.metric).collect();
            metrics.sort_unstable();
            assert!(
                metrics.windows(2).all(|pair| pair[0] != pair[1]),
                "{}: {metrics:?}",
                section.title
            );
        }
    }
}
