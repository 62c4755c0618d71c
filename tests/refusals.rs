//! Bad input: exit code 2, one line that says where and what, and nothing written.

use crate::folder::{Folder, stderr};

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
    for stage in ["pretrain", "sft", "reward", "dpo", "ppo"] {
        for share in ["1.5", "1", "-0.1", "nan"] {
            let said = folder.refused(&format!("{stage} --eval-fraction={share}"));
            assert!(said.contains(&format!("{stage}.eval_fraction")), "{said}");
            assert!(!folder.path("runs").exists(), "something was written");
        }
    }
}

#[test]
fn a_number_outside_its_range_is_refused_by_its_setting_however_it_is_given() {
    let folder = Folder::quick();
    folder.tiny_gpt2("base");
    folder.demonstrations("demos.jsonl");
    folder.pairs("prefs.jsonl");
    folder.write("low.toml", "[sft]\nlr = -1e-3\n");
    let (sft, reward) = (
        "sft --model base --data demos.jsonl",
        "reward --model base --prefs prefs.jsonl",
    );
    for (line, said) in [
        (
            format!("{sft} --lr=-1e-3"),
            "sft.lr is -0.001: it must be above 0 and at most 1",
        ),
        (
            format!("{sft} --set sft.lr=nan"),
            "sft.lr is NaN: it must be above 0 and at most 1",
        ),
        (
            format!("{sft} --config low.toml"),
            "low.toml: sft.lr is -0.001: it must be",
        ),
        (format!("{sft} --lr 1e6"), "sft.lr is 1e6: it must be"),
        (
            format!("{sft} --weight-decay -1"),
            "sft.weight_decay is -1: it must be from 0 to 10",
        ),
        (
            format!("{sft} --max-grad-norm=inf"),
            "sft.max_grad_norm is inf: it must be",
        ),
        (
            format!("{sft} --set sft.eval_fraction=1.5"),
            "it must be at least 0 and below 1",
        ),
        (
            format!("{sft} --batch 2.5"),
            "sft.batch is 2.5: it must be a whole number",
        ),
        (
            format!("{reward} --label-smoothing 2"),
            "reward.label_smoothing is 2: it must be",
        ),
        (
            "ppo --model base --lr=-1".into(),
            "ppo.lr is -1: it must be",
        ),
        (
            "ppo --model base --temperature 1e-40".into(),
            "ppo.temperature is 1e-40: it must be",
        ),
        (
            "pretrain --heads 5".into(),
            "must be an even multiple of pretrain.heads (5)",
        ),
        (
            "generate --model base --prompt a --temperature 1e-40".into(),
            "the temperature is",
        ),
    ] {
        let error = folder.refused(&line);
        assert!(
            error.contains(said) && !error.contains("panicked"),
            "{line}: {error}"
        );
        assert!(!folder.path("runs").exists(), "{line}");
    }
}

#[test]
fn what_other_programs_call_a_setting_is_understood_as_a_hint() {
    let folder = Folder::quick();
    for (line, said) in [
        ("sft --learning-rate 1e-3", "'--lr'"),
        ("ppo --kl 0.1", "'--kl-coef'"),
        ("sft --set sft.learning_rate=1", "did you mean \"lr\"?"),
        (
            "ppo --set ppo.max_new_tokens=9",
            "did you mean \"response_length\"?",
        ),
        (
            "sft --set sft.max_seq_length=9",
            "did you mean \"max_length\"?",
        ),
    ] {
        let error = folder.refused(line);
        assert!(error.contains(said), "{line}: {error}");
    }
}

#[test]
fn settings_that_will_not_do_what_they_say_are_told_in_the_plan() {
    let folder = Folder::quick();
    folder.tiny_gpt2("base");
    folder.demonstrations("demos.jsonl");
    let line = "sft --model base --data demos.jsonl --set sft.eval_fraction=0 --batch 99 --warmup 7 --steps 2";
    let output = folder.command(line).output().unwrap();
    let said = stderr(&output);
    let rows = folder.read("demos.jsonl").lines().count();
    for part in [
        "sft.warmup is 7, and the run has 2 steps".to_owned(),
        format!(
            "sft.batch is 99, more than the rows there are ({rows}): every step takes all of them"
        ),
        format!("{rows} rows a step"),
    ] {
        assert!(said.contains(&part), "{part}: {said}");
    }
}

/// Started as one of two by a launcher whose other process it cannot find: each would do the whole work, in one folder. The second is silent.
#[test]
fn one_of_several_processes_does_not_begin_the_work_of_all() {
    let folder = Folder::quick();
    folder.tiny_gpt2("base");
    folder.demonstrations("demos.jsonl");
    let start = |rank: &str| {
        let mut command = folder.command("sft --model base --data demos.jsonl");
        let output = command.env("WORLD_SIZE", "2").env("RANK", rank).output();
        let output = output.unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        assert!(output.stdout.is_empty() && !folder.path("runs").exists());
        stderr(&output)
    };
    let said = start("0");
    assert!(said.contains("2 processes were started"), "{said}");
    // A binary that could share the work knows that nobody is there to share it with.
    let remedies = ["--features mpi", "MPI knows of 1"];
    assert!(remedies.iter().any(|it| said.contains(it)), "{said}");
    assert_eq!(start("1"), "");
}

#[test]
fn a_switch_of_the_environment_with_an_unknown_value_is_refused() {
    let folder = Folder::empty();
    for (switch, expected) in [("RLHF_SIMD", "baseline"), ("RLHF_REFERENCE", "expected 1")] {
        let mut command = folder.command("doctor");
        let output = command.env(switch, "nonsense").output().unwrap();
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        let named = said.contains(&format!("error: {switch} is \"nonsense\""));
        assert!(named && said.contains(expected), "{said}");
    }
}
