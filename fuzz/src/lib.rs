//! What each fuzzing target does with its bytes: it hands them, as files of a folder of their own, to public functions that
//! read such files. A panic, a hang or too much memory is a finding; an error is an answer.
//!
//! The fuzzer calls these functions, and so does the test that replays `fuzz/corpus` without one (`tests/fuzz.rs`).
//!
//! A panic that a crate turns into an error is an answer too. So each target takes out libFuzzer's panic hook, which would end
//! the process at once; one that escapes from these functions ends it all the same.

use std::path::Path;
use std::sync::LazyLock;

use candle_core::{DType, Device};
use rlhf_base::{Chat, Text};
use rlhf_dataset::summary::Tally;
use rlhf_dataset::{Demonstration, Feedback, Prompt, Reading, Record, Records, Row, TextRow};
use rlhf_lm::{CausalLm, Head, LanguageModel, ModelConfig, ScalarModel, TextStream, Tokenizer};
use rlhf_lm::{Weights, read_config, read_lm};
use rlhf_train::{OnExisting, RunDir};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

/// Reads bytes that anyone may have made, and tells whether it took them for what they should be.
pub type Door = fn(&[u8]) -> bool;

/// Every target, by the name of its file in `fuzz_targets/` and of its folder in `corpus/`.
pub const DOORS: [(&str, Door); 9] = [
    ("checkpoint", checkpoint),
    ("config", config),
    ("container", container),
    ("gguf", gguf),
    ("rows", rows),
    ("safetensors", safetensors),
    ("settings", settings),
    ("template", template),
    ("tokenizer", tokenizer),
];

/// A map, as `--map` takes it, and rows in JSON Lines: as records of every kind, with the map and without.
pub fn rows(bytes: &[u8]) -> bool {
    let [map, rows] = parts(bytes);
    let folder = folder(&[("rows.jsonl", rows)]);
    let path = folder.path().join("rows.jsonl");
    let plain = every_kind(&path, &Reading::skipping(100));
    let map = std::str::from_utf8(map)
        .ok()
        .and_then(|map| map.parse().ok());
    let mapped = map.is_some_and(|map| {
        let reading = Reading {
            map,
            skip_bad: 100,
            rating_field: Some("helpfulness".to_owned()),
            liked_only: true,
        };
        every_kind(&path, &reading)
    });
    plain || mapped
}

fn every_kind(path: &Path, reading: &Reading) -> bool {
    let mut tally = Tally::default();
    let rows = each::<Row>(path, reading, |row| tally.add(&row));
    let any = [
        rows,
        each::<TextRow>(path, reading, drop),
        each::<Demonstration>(path, reading, drop),
        each::<Prompt>(path, reading, drop),
        each::<Feedback>(path, reading, drop),
    ];
    drop(tally.finish());
    any.contains(&true)
}

/// Reads the records of one kind to the end, and how they were understood.
fn each<T: Record>(path: &Path, reading: &Reading, mut take: impl FnMut(T)) -> bool {
    let Ok(mut records) = Records::<T>::open(&[path], reading) else {
        return false;
    };
    let mut any = false;
    for record in &mut records {
        match record {
            Ok(placed) => {
                any = true;
                take(placed.record);
            }
            Err(error) => drop(error.to_string()),
        }
    }
    drop(records.understood.lines());
    any
}

/// The name of a file and its content, in any container and compression.
pub fn container(bytes: &[u8]) -> bool {
    let [name, content] = parts(bytes);
    let name = std::str::from_utf8(name).ok();
    let plain = |name: &&str| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '.');
    let name = name
        .filter(plain)
        .filter(|name| (1..40).contains(&name.len()));
    let Some(name) = name.filter(|name| !name.starts_with('.')) else {
        return false;
    };
    let folder = folder(&[(name, content)]);
    let path = folder.path().join(name);
    let reading = Reading::skipping(100);
    let rows = each::<Row>(&path, &reading, drop);
    let texts = each::<TextRow>(&path, &reading, drop);
    rows || texts
}

/// A `config.json`: the parameters of the models it describes, and the file as it would be saved.
pub fn config(bytes: &[u8]) -> bool {
    let folder = folder(&[("config.json", bytes)]);
    let Ok(config) = read_config(folder.path()) else {
        return false;
    };
    let schemas = [CausalLm::schema(&config), ScalarModel::schema(&config)];
    let saved = config.to_json(Head::CausalLm, "float32", config.special_ids());
    let again = ModelConfig::from_json(saved).expect("a saved configuration is read back");
    assert!(again.same_model(&config), "{again:?} {config:?}");
    schemas.iter().all(Result::is_ok)
}

/// A `model.safetensors`, or where the bytes are JSON its index, beside a small `config.json`.
pub fn safetensors(bytes: &[u8]) -> bool {
    let name = match bytes.first() {
        Some(b'{') => "model.safetensors.index.json",
        _ => "model.safetensors",
    };
    let folder = folder(&[("config.json", SMALL_GPT2), (name, bytes)]);
    read_lm(folder.path()).is_ok()
}

const SMALL_GPT2: &[u8] =
    br#"{"model_type": "gpt2", "vocab_size": 4, "n_positions": 4, "n_embd": 2, "n_layer": 1, "n_head": 1}"#;

/// A GGUF file: configuration, weights and tokenizer.
pub fn gguf(bytes: &[u8]) -> bool {
    let folder = folder(&[("model.gguf", bytes)]);
    let path = folder.path().join("model.gguf");
    match LanguageModel::load(&path, Weights::Frozen, DType::F32, &Device::Cpu) {
        Ok(model) => {
            use_tokenizer(&model.tokenizer);
            true
        }
        Err(_) => false,
    }
}

/// `tokenizer.json`, `tokenizer_config.json` and `chat_template.jinja`; parts that are empty are no files.
pub fn tokenizer(bytes: &[u8]) -> bool {
    let [json, config, template] = parts(bytes);
    let files = [
        ("tokenizer.json", json),
        ("tokenizer_config.json", config),
        ("chat_template.jinja", template),
    ];
    let files: Vec<_> = files
        .into_iter()
        .filter(|file| !file.1.is_empty())
        .collect();
    let folder = folder(&files);
    match Tokenizer::from_dir(folder.path()) {
        Ok(tokenizer) => {
            use_tokenizer(&tokenizer);
            true
        }
        Err(_) => false,
    }
}

/// All that a run does with a tokenizer. What it cannot do is an error.
fn use_tokenizer(tokenizer: &Tokenizer) {
    let texts = ["", "a", " The fox said: héllo 🦊\n\n<|im_end|>  1234 <s>"];
    for text in texts {
        let prompt = tokenizer.encode_prompt(&text.into()).unwrap_or_default();
        let ids = tokenizer.encode_text(text).unwrap_or_default();
        let _ = (tokenizer.encode(text), tokenizer.encode_begun(text));
        let _ = (tokenizer.decode(&ids), tokenizer.decode_with_special(&ids));
        let _ = tokenizer.decode_response(&prompt, &ids);
        let _ = tokenizer.pieces(&ids, &vec![true; ids.len()]);
        let mut stream = TextStream::new(tokenizer, &prompt);
        for id in &ids {
            let _ = stream.push(*id);
        }
        let _ = stream.waiting();
        let _ = tokenizer.encode_demonstration(&text.into(), &"an answer".into());
    }
    use_template(tokenizer, &CHAT);
    assert!(tokenizer.encodes_like(tokenizer));
    let saved = folder(&[]);
    tokenizer.save(saved.path()).expect("it can be saved");
    let again = Tokenizer::from_dir(saved.path()).expect("a saved tokenizer is read back");
    assert!(again.encodes_like(tokenizer));
}

/// A conversation as a prompt and as rows to learn from.
fn use_template(tokenizer: &Tokenizer, chat: &Chat) {
    let text = Text::Chat(chat.clone());
    let _ = tokenizer.encode_prompt(&text);
    let _ = tokenizer.encode_chat(chat);
    let _ = tokenizer.encode_rows(&text, &"an answer".into());
}

static CHAT: LazyLock<Chat> = LazyLock::new(|| {
    let chat = r#"[{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."}, {"role": "user", "content": "And?"}, {"role": "assistant", "content": "Bye."}]"#;
    serde_json::from_str(chat).expect("it is a conversation")
});

/// A chat template, and a conversation in JSON (or nothing, for a short one).
pub fn template(bytes: &[u8]) -> bool {
    let [template, chat] = parts(bytes);
    let Ok(template) = std::str::from_utf8(template) else {
        return false;
    };
    let chat = match chat {
        [] => CHAT.clone(),
        json => match serde_json::from_slice(json) {
            Ok(chat) => chat,
            Err(_) => return false,
        },
    };
    let mut config = Map::new();
    config.insert("eos_token".to_owned(), Value::from("<|im_end|>"));
    config.insert("chat_template".to_owned(), Value::from(template));
    let Ok(tokenizer) = Tokenizer::from_bytes(&SMALL_TOKENIZER, config) else {
        return false;
    };
    let rendered = [false, true].map(|open| tokenizer.apply_chat_template(&chat, open).is_ok());
    use_template(&tokenizer, &chat);
    rendered.contains(&true)
}

/// Byte-level, without merges.
static SMALL_TOKENIZER: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let tokenizer =
        rlhf_lm::train_bpe([""].iter(), 257, &["<|im_end|>"]).expect("257 tokens are enough");
    let folder = folder(&[]);
    tokenizer.save(folder.path()).expect("it can be saved");
    fs_err::read(folder.path().join("tokenizer.json")).expect("it was saved")
});

/// `state.json` and `tensors.safetensors` of the only checkpoint of a run. Their checksums are right, so that they are read.
pub fn checkpoint(bytes: &[u8]) -> bool {
    let [state, tensors] = parts(bytes);
    let sum = |bytes: &[u8]| -> String {
        let digest = Sha256::digest(bytes);
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    };
    let sums = format!(
        "{}  state.json\n{}  tensors.safetensors\n",
        sum(state),
        sum(tensors)
    );
    let folder = folder(&[
        ("config.toml", b""),
        ("checkpoints/step-000001/state.json", state),
        ("checkpoints/step-000001/tensors.safetensors", tensors),
        ("checkpoints/step-000001/SHA256SUMS", sums.as_bytes()),
    ]);
    let run = RunDir::open(folder.path(), OnExisting::Resume);
    let resumed = run.and_then(|run| run.resume());
    match resumed {
        Ok(Some(checkpoint)) => {
            drop(checkpoint.group("model"));
            true
        }
        _ => false,
    }
}

/// A configuration file, as `--config` takes it.
pub fn settings(bytes: &[u8]) -> bool {
    let folder = folder(&[("run.toml", bytes)]);
    rlhf_pipeline::check_settings(&folder.path().join("run.toml")).is_ok()
}

/// A new folder with these files in it.
fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder can be made");
    for (name, content) in files {
        let path = folder.path().join(name);
        let parent = path.parent().expect("it is in the folder");
        fs_err::create_dir_all(parent).expect("a folder can be made");
        fs_err::write(path, content).expect("a file can be written");
    }
    folder
}

/// The parts of an input that stands for several files: between two of them is a line of four dashes. Missing ones are empty.
fn parts<const N: usize>(bytes: &[u8]) -> [&[u8]; N] {
    const BETWEEN: &[u8] = b"\n----\n";
    let mut rest = bytes;
    let mut parts = [&bytes[..0]; N];
    for (i, part) in parts.iter_mut().enumerate() {
        let at = match i + 1 < N {
            true => rest.windows(BETWEEN.len()).position(|at| at == BETWEEN),
            false => None,
        };
        (*part, rest) = match at {
            Some(at) => (&rest[..at], &rest[at + BETWEEN.len()..]),
            None => (rest, &rest[rest.len()..]),
        };
    }
    parts
}
