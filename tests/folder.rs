//! An empty folder to type commands in, and small things to put into it.

use std::path::{Path, PathBuf};
use std::process::Output;

use assert_cmd::Command;
use assert_cmd::cargo::cargo_bin_cmd;
use rlhf_lm::{LanguageModel, ModelConfig, SaveDtype, train_bpe};
use serde_json::json;
use tempfile::TempDir;

/// A temporary folder that commands run in; the caches of hub and bundled data are inside it too.
pub(crate) struct Folder {
    dir: TempDir,
}

/// Settings with which every stage takes a moment. Steps are few, models and responses small.
const QUICK: &str = r#"
[run]
threads = 1

[pretrain]
steps = 3
batch = 4
hidden_size = 16
intermediate_size = 32
layers = 1
heads = 2
kv_heads = 1
max_length = 64
context = 256
vocab_size = 300
warmup = 0

[sft]
steps = 3
batch = 4
lr = 1e-3

[reward]
steps = 3
batch = 4
lr = 1e-3

[dpo]
steps = 3
batch = 4
lr = 1e-3

[ppo]
steps = 3
batch = 4
minibatches = 2
epochs = 1
response_length = 6
eval_limit = 4
log_samples = 1
# The responses of a model that knows nothing do not end.
keep_going = true

[eval]
limit = 6
"#;

/// A pipeline over the files of [`Folder::pipeline`].
pub(crate) const PIPELINE: &str = r#"
[run]
out = "runs/all"

[sft]
model = "base"
data = ["demos.jsonl"]

[reward]
prefs = ["prefs.jsonl"]

[ppo]
prompts = ["prompts.jsonl"]
eval_prompts = ["prompts.jsonl"]
"#;

impl Folder {
    /// A folder with quick settings in `rlhf.toml`.
    pub(crate) fn quick() -> Self {
        let folder = Self::empty();
        folder.write("rlhf.toml", QUICK);
        folder
    }

    /// Quick settings, a model, a file of each kind of row, and `all.toml`, which makes a pipeline of them.
    pub(crate) fn pipeline() -> Self {
        let folder = Self::quick();
        folder.tiny_gpt2("base");
        folder.demonstrations("demos.jsonl");
        folder.pairs("prefs.jsonl");
        folder.prompts("prompts.jsonl");
        folder.write("all.toml", PIPELINE);
        folder
    }

    pub(crate) fn empty() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: &str) {
        let path = self.path(name);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, content).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs_err::read_to_string(self.path(name)).unwrap()
    }

    /// `rlhf` and the words of `line`, not yet run.
    pub(crate) fn command(&self, line: &str) -> Command {
        let mut command = cargo_bin_cmd!("rlhf");
        command
            .current_dir(self.dir.path())
            .args(line.split_whitespace())
            .env("HF_HOME", self.path("hub-cache"))
            .env("XDG_CACHE_HOME", self.path("cache"))
            .env("HF_HUB_OFFLINE", "1")
            .env_remove("HF_TOKEN")
            .env_remove("COLUMNS");
        command
    }

    /// Runs a command that must succeed; what it printed to stdout.
    pub(crate) fn done(&self, line: &str) -> String {
        let output = self.command(line).output().unwrap();
        assert!(output.status.success(), "rlhf {line}\n{}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a command that must be refused as bad input; what it said.
    pub(crate) fn refused(&self, line: &str) -> String {
        let output = self.command(line).output().unwrap();
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "rlhf {line}\n{said}");
        assert!(output.stdout.is_empty(), "rlhf {line} printed a result");
        said
    }

    /// A tiny GPT-2 with fresh weights in `name/`, in the layout of the hub.
    pub(crate) fn tiny_gpt2(&self, name: &str) {
        tiny_gpt2(&self.path(name));
    }

    /// Twelve pairs, each preferring the answer with the right colour.
    pub(crate) fn pairs(&self, name: &str) {
        let colours = ["red", "blue", "green"];
        let rows: String = (0..12)
            .map(|i| {
                let (right, wrong) = (colours[i % 3], colours[(i + 1) % 3]);
                let row = json!({"prompt": format!("What colour is thing {i}?"), "chosen": format!(" {right}."), "rejected": format!(" {wrong}, you fool.")});
                format!("{row}\n")
            })
            .collect();
        self.write(name, &rows);
    }

    /// Eight questions.
    pub(crate) fn prompts(&self, name: &str) {
        let rows: String = (0..8)
            .map(|i| {
                format!(
                    "{}\n",
                    json!({"prompt": format!("What colour is thing {i}?")})
                )
            })
            .collect();
        self.write(name, &rows);
    }

    /// Twelve answers.
    pub(crate) fn demonstrations(&self, name: &str) {
        let rows: String = (0..12)
            .map(|i| {
                format!(
                    "{}\n",
                    json!({"prompt": format!("What colour is thing {i}?"), "completion": " red."})
                )
            })
            .collect();
        self.write(name, &rows);
    }
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A tiny Llama as llama.cpp stores it, with its tokenizer.
pub(crate) fn gguf() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/gguf/llama.gguf")
}

pub(crate) fn tiny_gpt2(dir: &Path) {
    tiny_gpt2_of(dir, 256);
}

/// The same, meant for sequences of up to `context` tokens.
pub(crate) fn tiny_gpt2_of(dir: &Path, context: usize) {
    let texts = [
        "What colour is thing 1? red. blue. green, you fool.",
        "Question: what is it?\nAnswer: it is a fox.",
    ];
    let tokenizer = train_bpe(texts.into_iter(), 300, &["<|endoftext|>"]).unwrap();
    let config = ModelConfig::from_json(json!({
        "model_type": "gpt2",
        "vocab_size": tokenizer.vocab_size(),
        "n_positions": context,
        "n_embd": 16,
        "n_layer": 2,
        "n_head": 2,
        "bos_token_id": tokenizer.eos_id().unwrap(),
        "eos_token_id": tokenizer.eos_id().unwrap(),
    }))
    .unwrap();
    let device = candle_core::Device::Cpu;
    let model =
        LanguageModel::fresh(config, tokenizer, 1, candle_core::DType::F32, &device).unwrap();
    fs_err::create_dir_all(dir).unwrap();
    model.save(dir, SaveDtype::F32).unwrap();
}

/// Every file below `dir` by its relative name.
pub(crate) fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    let mut waiting = vec![dir.to_owned()];
    while let Some(folder) = waiting.pop() {
        for entry in fs_err::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
            } else {
                let name = path.strip_prefix(dir).unwrap().display().to_string();
                found.push((name, fs_err::read(path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

/// That two runs left the same: model, metrics and samples, byte for byte.
pub(crate) fn assert_same_run(a: &Path, b: &Path) {
    let of = |run: &Path| {
        let mut all = files(&run.join("final"));
        for name in ["metrics.jsonl", "samples.jsonl"] {
            let path = run.join(name);
            if path.exists() {
                all.push((name.to_owned(), fs_err::read(path).unwrap()));
            }
        }
        all
    };
    let (a, b) = (of(a), of(b));
    let names = |files: &[(String, Vec<u8>)]| files.iter().map(|f| f.0.clone()).collect::<Vec<_>>();
    assert_eq!(names(&a), names(&b));
    for ((name, x), (_, y)) in a.iter().zip(&b) {
        assert!(x == y, "{name} differs");
    }
}
