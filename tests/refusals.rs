//! Bad input: exit code 2, one line that says where and what, and nothing written.

use crate::folder::Folder;

#[test]
fn a_bad_row_is_named_by_file_and_line_and_nothing_is_written() {
    let folder = Folder::quick();
    folder.tiny_gpt2("base");
    for (name, row, complaint) in [
        ("missing", r#"{"prompt": "a", "rejected": "b"}"#, "chosen"),
        ("broken", r#"{"prompt": "a", "#, "JSON"),
        (
            "ranks",
            r#"{"prompt": "a", "responses": ["x", "y"], "ranks": [1]}"#,
            "rank",
        ),
        (
            "typed",
            r#"{"prompt": "a", "chosen": 3, "rejected": "b"}"#,
            "chosen",
        ),
    ] {
        let file = format!("{name}.jsonl");
        folder.write(
            &file,
            &format!(
                "{}\n{row}\n",
                r#"{"prompt": "a", "chosen": "b", "rejected": "c"}"#
            ),
        );
        let said = folder.refused(&format!("reward --model base --prefs {file}"));
        assert!(
            said.contains(&format!("{file}:2:")) && said.contains(complaint),
            "{said}"
        );
        assert!(
            !folder.path("runs").exists(),
            "{name}: something was written"
        );
    }
}

#[test]
fn what_fails_before_the_first_step_takes_nothing_but_itself_away() {
    let folder = Folder::quick();
    folder.tiny_gpt2("base");
    folder.demonstrations("demos.jsonl");
    // Every row is lost at this length, which only the stage itself finds out.
    let line = "sft --model base --data demos.jsonl --max-length 1";
    folder.refused(line);
    assert!(!folder.path("runs").exists());
    folder.write("runs/notes.txt", "mine");
    folder.refused(line);
    assert!(!folder.path("runs/sft").exists());
    assert_eq!(folder.read("runs/notes.txt"), "mine");
}

#[test]
fn a_refused_overwrite_leaves_the_earlier_run_alone() {
    let folder = Folder::quick();
    folder.tiny_gpt2("base");
    folder.demonstrations("demos.jsonl");
    folder.done("sft --model base --data demos.jsonl --quiet");
    folder.write("bad.jsonl", "nothing\n");
    folder.refused("sft --model base --data bad.jsonl --overwrite");
    assert!(folder.path("runs/sft/final/model.safetensors").is_file());
}

#[test]
fn a_model_that_is_none_is_refused_with_a_way_out() {
    let folder = Folder::quick();
    folder.demonstrations("demos.jsonl");
    let said = folder.refused("reward");
    assert!(
        said.contains("runs/sft") && said.contains("rlhf sft"),
        "{said}"
    );
    folder.write("nothing/readme.txt", "hello");
    let said = folder.refused("sft --model nothing --data demos.jsonl");
    assert!(said.contains("config.json"), "{said}");

    folder.tiny_gpt2("base");
    let weights = folder.path("base/model.safetensors");
    let content = fs_err::read(&weights).unwrap();
    fs_err::write(&weights, &content[..content.len() / 2]).unwrap();
    let said = folder.refused("sft --model base --data demos.jsonl");
    assert!(said.contains("model.safetensors"), "{said}");

    let content = fs_err::read(crate::folder::gguf()).unwrap();
    fs_err::write(folder.path("half.gguf"), &content[..content.len() / 2]).unwrap();
    for line in [
        "sft --data demos.jsonl",
        "score --data demos.jsonl",
        "generate --prompt x",
    ] {
        let said = folder.refused(&format!("{line} --model half.gguf"));
        assert!(
            said.contains("half.gguf") && said.contains("tensor"),
            "{said}"
        );
    }
    let said = folder.refused("sft --model none.gguf --data demos.jsonl");
    assert!(said.contains("none.gguf does not exist"), "{said}");
    assert!(!folder.path("runs").exists());
}

#[test]
fn ppo_without_an_end_token_is_refused() {
    let folder = Folder::quick();
    folder.tiny_gpt2("base");
    folder.prompts("prompts.jsonl");
    for (file, key) in [
        ("tokenizer_config.json", "eos_token"),
        ("special_tokens_map.json", "eos_token"),
        ("generation_config.json", "eos_token_id"),
        ("config.json", "eos_token_id"),
    ] {
        let mut json: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(&folder.read(&format!("base/{file}"))).unwrap();
        json.remove(key);
        folder.write(
            &format!("base/{file}"),
            &serde_json::to_string(&json).unwrap(),
        );
    }
    let said = folder.refused("ppo --model base --prompts prompts.jsonl --reward length:4");
    assert!(
        said.contains("EOS token") && said.contains("eos_token"),
        "{said}"
    );
    assert!(!folder.path("runs").exists());
}

#[test]
fn settings_that_do_not_exist_are_refused_with_the_nearest_that_does() {
    let folder = Folder::quick();
    let said = folder.refused("ppo --set ppo.klcoef=1");
    assert!(
        said.contains("klcoef") && said.contains("kl_coef"),
        "{said}"
    );
    folder.write("mine.toml", "[sft]\nlearning_rate = 1e-3\n");
    let said = folder.refused("sft --config mine.toml");
    assert!(
        said.contains("mine.toml") && said.contains("learning_rate"),
        "{said}"
    );
    folder.write("mine.toml", "[sft]\nlr = \"fast\"\n");
    let said = folder.refused("sft --config mine.toml");
    assert!(said.contains("mine.toml") && said.contains("lr"), "{said}");
    let said = folder.refused("sft --schedule zigzag");
    assert!(said.contains("zigzag") && said.contains("cosine"), "{said}");
    let said = folder.refused("ppo --set ppo.batch=6 --set ppo.minibatches=4");
    assert!(said.contains("minibatches"), "{said}");
}

#[test]
fn bad_rows_are_tolerated_when_asked_for_and_reported() {
    let folder = Folder::quick();
    folder.tiny_gpt2("base");
    folder.demonstrations("demos.jsonl");
    let rows = folder.read("demos.jsonl");
    folder.write("demos.jsonl", &format!("{rows}not json\n"));
    folder.refused("sft --model base --data demos.jsonl");
    let output = folder
        .command("sft --model base --data demos.jsonl --skip-bad 1")
        .output()
        .unwrap();
    let said = crate::folder::stderr(&output);
    assert!(
        output.status.success() && said.contains("demos.jsonl:13:"),
        "{said}"
    );
}

/// Also where files of their own are held out, which leave the share unused.
#[test]
fn a_share_to_hold_out_that_is_none_is_refused_by_every_stage() {
    let folder = Folder::empty();
    for stage in ["pretrain", "sft", "reward", "ppo"] {
        for share in ["1.5", "1", "-0.1", "nan"] {
            let said = folder.refused(&format!("{stage} --eval-fraction={share}"));
            assert!(said.contains(&format!("{stage}.eval_fraction")), "{said}");
            assert!(!folder.path("runs").exists(), "something was written");
        }
    }
}
