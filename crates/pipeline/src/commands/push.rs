//! `rlhf push`: a model to the hub, with a model card.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rlhf_base::tell;
use rlhf_lm::hub::{Content, Destination, PushEvent, Upload, push};
use rlhf_lm::is_adapter;
use serde_json::{Value, json};

use super::export::stem;
use crate::card;
use crate::exit::usage;
use crate::flags::PushArgs;
use crate::models;
use crate::output::print_result;

pub(crate) fn run(args: &PushArgs) -> anyhow::Result<()> {
    if !Path::new(&args.model).exists() {
        return Err(usage!(
            "{} does not exist: name a run, the folder of a model or a GGUF file on this machine",
            args.model
        ));
    }
    let folder = models::folder(&args.model, "sft")?;
    let name = stem(&args.model);
    let uploads = uploads(&folder, &name, args.license.as_deref())?;
    let message = args.message.clone();
    let to = Destination {
        repo: args.repo.clone(),
        revision: args.revision.clone(),
        private: args.private,
        message: message.unwrap_or_else(|| format!("Add {name}")),
    };
    let progress = Progress::new(args.quiet);
    let pushed = push(&uploads, &to, &models::hub(), &mut |event| {
        progress.show(event)
    });
    progress.finish();
    let pushed = pushed?;
    let mut result = json!({ "url": pushed.url, "files": pushed.files, "bytes": pushed.bytes });
    if let Some(commit) = &pushed.commit {
        result["commit"] = json!(commit);
    }
    let (url, files) = (&pushed.url, pushed.files);
    print_result(args.json, &result, || match &pushed.commit {
        Some(commit) => {
            let megabytes = pushed.bytes as f64 / 1e6;
            format!("{url}: {files} files, {megabytes:.1} MB sent, commit {commit}\n")
        }
        None => format!("{url}: nothing has changed since the last push\n"),
    })
}

/// The files of the model in `folder`, and a card where it has none. A GGUF file goes alone.
fn uploads(folder: &Path, name: &str, license: Option<&str>) -> anyhow::Result<Vec<Upload>> {
    let mut uploads = Vec::new();
    if folder.is_file() {
        let path = folder.file_name().unwrap_or_default().to_string_lossy();
        uploads.push(upload(path.into_owned(), Content::File(folder.to_owned())));
        return Ok(uploads);
    }
    list(folder, "", &mut uploads)?;
    let has_card = uploads.iter().any(|upload| upload.path == card::CARD);
    if has_card && license.is_some() {
        return Err(usage!(
            "--license: {} is there, and is published as it is: name the licence in it",
            folder.join(card::CARD).display()
        ));
    }
    if !has_card {
        let files = card::files(folder, name, license, card::Form::AsItIs)?;
        let files = files.into_iter();
        uploads.extend(files.map(|file| upload(file.name.to_owned(), Content::Text(file.text))));
    }
    if is_adapter(folder) {
        let config = fs_err::read_to_string(folder.join("adapter_config.json"))?;
        let config: Value = serde_json::from_str(&config).unwrap_or_default();
        let base = config["base_model_name_or_path"]
            .as_str()
            .unwrap_or_default();
        if !rlhf_lm::hub::is_id(base) {
            tell(format!(
                "warning: the adapter names its base by a path, {base}, which others do not have: they need the whole model, which \
                 `rlhf export --hf` makes"
            ));
        }
    }
    Ok(uploads)
}

fn upload(path: String, content: Content) -> Upload {
    Upload { path, content }
}

/// Adds every file in `folder`, and in the folders in it, but those whose names begin with a dot.
fn list(folder: &Path, prefix: &str, uploads: &mut Vec<Upload>) -> anyhow::Result<()> {
    let mut paths: Vec<PathBuf> = Vec::new();
    for entry in fs_err::read_dir(folder)? {
        paths.push(entry?.path());
    }
    paths.sort();
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with('.') {
            continue;
        }
        let name = format!("{prefix}{name}");
        match path.is_dir() {
            true => list(&path, &format!("{name}/"), uploads)?,
            false => uploads.push(upload(name, Content::File(path))),
        }
    }
    Ok(())
}

/// What is told of a push on stderr: on a terminal a bar for the file that is on its way, elsewhere a line for each.
struct Progress {
    quiet: bool,
    bar: Option<ProgressBar>,
}

impl Progress {
    fn new(quiet: bool) -> Self {
        let bar = (!quiet && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{bar:24} {bytes}/{total_bytes} {wide_msg}");
            bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        Self { quiet, bar }
    }

    fn show(&self, event: PushEvent<'_>) {
        match (event, &self.bar) {
            (PushEvent::Again(why), _) => self.say(&format!("{why}: trying again")),
            (PushEvent::Unchanged(path), _) => self.say(&format!("{path} is there already")),
            (PushEvent::Sent(path, at, of), Some(bar)) => {
                bar.set_length(of);
                bar.set_position(at);
                bar.set_message(path.to_owned());
            }
            (PushEvent::Sent(path, at, of), None) if at == of => {
                self.say(&format!("{path} sent, {:.1} MB", of as f64 / 1e6));
            }
            (PushEvent::Sent(..), None) => {}
        }
    }

    fn say(&self, line: &str) {
        match &self.bar {
            _ if self.quiet => {}
            Some(bar) => bar.suspend(|| tell(line)),
            None => tell(line),
        }
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
