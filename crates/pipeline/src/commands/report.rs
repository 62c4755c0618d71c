//! `rlhf report`.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};

use rlhf_train::Interrupt;
use rlhf_web::{Error, Run, Section, Source};
use serde_json::json;

use crate::exit::usage;
use crate::flags::{ListeningArgs, ReportArgs};
use crate::machine::on_ctrl_c;
use crate::near::instead;
use crate::output::print_result;
use crate::page::{announce, listen};
use crate::stages::{AnyStage, STAGES};

pub(crate) fn run(args: &ReportArgs) -> anyhow::Result<()> {
    if let Some(run) = args.runs.iter().find(|run| !run.exists()) {
        return Err(usage!(
            "{}: there is no such folder{}",
            run.display(),
            instead(run)
        ));
    }
    let source = Folders(args.runs.clone());
    let runs = source.read()?;
    if args.live {
        return live(source, &args.listening);
    }
    fs_err::write(&args.out, rlhf_web::report(&runs, &sections()))?;
    let result = json!({"out": args.out, "runs": runs.len()});
    print_result(args.json, &result, || format!("{}\n", args.out.display()))
}

/// Serves the page until Ctrl-C.
fn live(source: Folders, listening: &ListeningArgs) -> anyhow::Result<()> {
    let interrupt = Interrupt::new();
    on_ctrl_c(
        &interrupt,
        "\nstopping; what is open in a browser stays as it is",
    )?;
    let server = listen(listening)?;
    announce(&server, listening, "report");
    Ok(server.serve(rlhf_web::live(source, sections()), &interrupt)?)
}

/// Run directories, and those inside them.
struct Folders(Vec<PathBuf>);

impl Source for Folders {
    fn version(&self) -> u64 {
        let mut hash = DefaultHasher::new();
        for dir in &self.0 {
            rlhf_web::stamp(dir).hash(&mut hash);
            // A process that is killed changes no file.
            let held = rlhf_web::folders(dir).into_iter();
            held.map(|run| rlhf_train::is_running(&run))
                .for_each(|it| it.hash(&mut hash));
        }
        hash.finish()
    }

    fn read(&self) -> Result<Vec<Run>, Error> {
        let mut runs = Vec::new();
        for dir in &self.0 {
            for mut run in Run::read(dir)? {
                run.running = rlhf_train::is_running(Path::new(&run.name));
                run.name = named(dir, run.name);
                runs.push(run);
            }
        }
        Ok(runs)
    }
}

/// The name of a run in `dir`. A folder that was given as `.` or `..` is called by its own name.
fn named(dir: &Path, name: String) -> String {
    let real = (dir.file_name().is_none()).then(|| dir.canonicalize().ok());
    let real = real.flatten();
    let own = real.as_ref().and_then(|real| real.file_name());
    match (own, Path::new(&name).strip_prefix(dir)) {
        (Some(own), Ok(inside)) => {
            let path: PathBuf = Path::new(own)
                .components()
                .chain(inside.components())
                .collect();
            path.display().to_string()
        }
        _ => name,
    }
}

/// The stages, in the order of the page.
pub(crate) fn sections() -> Vec<Section> {
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
    fn a_folder_without_a_name_is_called_by_its_own() {
        let here = std::env::current_dir().unwrap();
        let own = here.file_name().unwrap().to_str().unwrap();
        let named = |dir: &str, name: &str| super::named(Path::new(dir), name.to_owned());
        assert_eq!(named(".", "."), own);
        assert_eq!(named(".", "./sft"), format!("{own}/sft"));
        assert_eq!(named("runs/demo", "runs/demo/sft"), "runs/demo/sft");
    }

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
