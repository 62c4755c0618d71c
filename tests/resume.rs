//! `--resume`: a run goes on as it began, or says what is not as it was.

use std::process::Command;

use crate::folder::{Folder, assert_same_run, files, stderr};

const LINE: &str = "sft --model base --data demos.jsonl --lr 5e-4 --steps 6 --save-every 2 --quiet";

/// A folder with a whole run, and one that was stopped while it published its model: all but the model and the mark is there.
fn stopped() -> Folder {
    let folder = Folder::pipeline();
    folder.done(&format!("{LINE} --out runs/whole"));
    folder.done(&format!("{LINE} --out runs/cut"));
    stop(&folder, "runs/cut");
    folder
}

/// Makes of a finished run one that was stopped at its end.
fn stop(folder: &Folder, out: &str) {
    fs_err::remove_dir_all(folder.path(&format!("{out}/final"))).unwrap();
    fs_err::remove_file(folder.path(&format!("{out}/finished"))).unwrap();
}

/// What the line says that must be refused, and that it changed nothing in `out`.
fn refused_untouched(folder: &Folder, out: &str, line: &str) -> String {
    let before = files(&folder.path(out));
    let said = folder.refused(line);
    let after = files(&folder.path(out));
    assert!(before == after, "{line} changed {out}\n{said}");
    said
}

#[test]
fn resume_alone_goes_on_with_the_settings_and_data_of_the_run() {
    let folder = stopped();
    // Neither what the files here say now nor the defaults count.
    folder.write("rlhf.toml", "[sft]\nlr = 1.0\nbatch = 1\nsteps = 99\n");
    let config = folder.read("runs/cut/config.toml");
    folder.done("sft --resume --out runs/cut");
    assert_same_run(&folder.path("runs/whole"), &folder.path("runs/cut"));
    assert_eq!(folder.read("runs/cut/config.toml"), config);
    assert!(
        config.contains("lr = 0.0005") && config.contains("demos.jsonl"),
        "{config}"
    );
    // In the default folder, too.
    fs_err::rename(folder.path("runs/cut"), folder.path("runs/sft")).unwrap();
    stop(&folder, "runs/sft");
    folder.done("sft --resume");
    assert_same_run(&folder.path("runs/whole"), &folder.path("runs/sft"));
}

#[test]
fn every_difference_is_refused_by_its_name_at_once_and_nothing_is_touched() {
    let folder = stopped();
    folder.write("rlhf.toml", "");
    folder.write("other.jsonl", &folder.read("demos.jsonl"));
    folder.tiny_gpt2("other");
    folder.write("more.toml", "[sft]\nschedule = \"constant\"\nlr = 0.0005\n");
    let refused = |flags: &str| {
        let line = format!("sft --resume --out runs/cut {flags}");
        refused_untouched(&folder, "runs/cut", &line)
    };
    let said = refused(
        "--lr 1e-3 --seed 7 --set sft.batch=3 --data other.jsonl --config more.toml --model other",
    );
    for difference in [
        "sft.lr was 5e-4, is 1e-3",
        "run.seed was 0, is 7",
        "sft.batch was 4, is 3",
        "sft.data was [\"demos.jsonl\"], is [\"other.jsonl\"]",
        "sft.schedule was \"cosine\", is \"constant\"",
        "sft.model was \"base\", is \"other\"",
    ] {
        assert!(said.contains(difference), "{difference}: {said}");
    }
    assert!(said.contains("--overwrite"), "{said}");

    // What the run was made from: a data file, a file of the model, this program.
    let (demos, weights) = (
        folder.read("demos.jsonl"),
        folder.path("base/model.safetensors"),
    );
    let model = fs_err::read(&weights).unwrap();
    folder.write("demos.jsonl", &demos.replace("red", "blue"));
    let mut bytes = model.clone();
    *bytes.last_mut().unwrap() ^= 1;
    fs_err::write(&weights, bytes).unwrap();
    let inputs = folder.read("runs/cut/inputs.json");
    let version = format!("\"rlhf\": \"{}\"", env!("CARGO_PKG_VERSION"));
    assert!(inputs.contains(&version), "{inputs}");
    let older = inputs.replace(&version, "\"rlhf\": \"0.0.1\"");
    folder.write("runs/cut/inputs.json", &older);
    let said = refused("--lr 1e-3");
    let now = format!("rlhf was 0.0.1, is {}", env!("CARGO_PKG_VERSION"));
    for difference in [
        "sft.lr was 5e-4, is 1e-3",
        "demos.jsonl has changed since the run began",
        "base/model.safetensors has changed since the run began",
        &now,
    ] {
        assert!(said.contains(difference), "{difference}: {said}");
    }
    // A file that is gone is one of the differences.
    fs_err::remove_file(folder.path("demos.jsonl")).unwrap();
    let said = refused("--lr 1e-3");
    assert!(
        said.contains("sft.lr was") && said.contains("demos.jsonl"),
        "{said}"
    );

    folder.write("runs/cut/inputs.json", &inputs);
    folder.write("demos.jsonl", &demos);
    fs_err::write(&weights, model).unwrap();
    folder.done(&format!(
        "{LINE} --resume --out runs/cut --config more.toml --set sft.schedule=cosine"
    ));
    assert_same_run(&folder.path("runs/whole"), &folder.path("runs/cut"));
}

#[test]
fn what_leaves_the_result_alone_may_change_and_so_may_the_length() {
    let folder = stopped();
    folder.done(
        "sft --resume --out runs/cut --save-every 1 --save-minutes 0 --keep-checkpoints 9 --threads 2 --device cpu --recompute --json \
         --set sft.micro_batch_tokens=64",
    );
    assert_same_run(&folder.path("runs/whole"), &folder.path("runs/cut"));
    // A finished run is not run again for such a setting, and goes on if it gets more steps.
    let said = stderr(
        &folder
            .command("sft --resume --out runs/whole --save-every 5")
            .output()
            .unwrap(),
    );
    assert!(said.contains("nothing to do"), "{said}");
    let said = refused_untouched(
        &folder,
        "runs/whole",
        "sft --resume --out runs/whole --steps 4",
    );
    assert!(said.contains("4 steps are made already"), "{said}");
    folder.done("sft --resume --out runs/whole --steps 8 --quiet");
    let steps = folder.read("runs/whole/metrics.jsonl");
    assert!(steps.contains("{\"step\":8,\"loss\""), "{steps}");
    assert!(folder.read("runs/whole/config.toml").contains("steps = 8"));
}

#[test]
fn what_cannot_be_resumed_is_refused_with_a_reason() {
    let folder = stopped();
    let refused = |line: &str| refused_untouched(&folder, "runs", line);
    assert!(refused("sft --resume --out runs/typo").contains("runs/typo holds no run to resume"));
    let said = refused("reward --resume --out runs/cut");
    assert!(
        said.contains("`rlhf sft --resume --out runs/cut`"),
        "{said}"
    );
    for (file, content, complaint) in [
        ("config.toml", Some("[sft"), "config.toml"),
        ("config.toml", Some("[sft]\nlr = 'x'"), "sft.lr"),
        ("config.toml", None, "config.toml is missing"),
        ("inputs.json", Some("{}"), "inputs.json"),
        ("inputs.json", None, "inputs.json is missing"),
    ] {
        let path = format!("runs/cut/{file}");
        let whole = folder.read(&path);
        match content {
            Some(text) => folder.write(&path, text),
            None => fs_err::remove_file(folder.path(&path)).unwrap(),
        }
        let said = refused("sft --resume --out runs/cut --lr 5e-4");
        assert!(said.contains(complaint), "{file}: {said}");
        folder.write(&path, &whole);
    }
    folder.done("sft --resume --out runs/cut");
    assert_same_run(&folder.path("runs/whole"), &folder.path("runs/cut"));
}

#[test]
fn a_damaged_checkpoint_is_named_and_the_one_before_it_taken() {
    let folder = stopped();
    let file =
        |step: u64, name: &str| folder.path(&format!("runs/cut/checkpoints/step-{step:06}/{name}"));
    let damage = |step: u64, name: &str| {
        let mut bytes = fs_err::read(file(step, name)).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x10;
        fs_err::write(file(step, name), bytes).unwrap();
    };
    damage(4, "tensors.safetensors");
    damage(2, "state.json");
    let said = refused_untouched(&folder, "runs/cut", "sft --resume --out runs/cut");
    for part in [
        "no checkpoint is whole",
        "step-000004/tensors.safetensors: its",
        "step-000002/state.json: its",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    damage(2, "state.json"); // mended: the same bit again
    let output = folder
        .command("sft --resume --out runs/cut")
        .output()
        .unwrap();
    let said = stderr(&output);
    assert!(
        output.status.success()
            && said.contains("step-000004/tensors.safetensors: its")
            && said.contains("taking the checkpoint of step 2 instead"),
        "{said}"
    );
    assert_same_run(&folder.path("runs/whole"), &folder.path("runs/cut"));
}

#[test]
fn a_pipeline_resumes_likewise() {
    let folder = Folder::pipeline();
    folder.done("run all.toml --quiet --out whole");
    folder.done("run all.toml --quiet --out cut");
    stop(&folder, "cut/ppo");
    let refused = |flags: &str| {
        let line = format!("run all.toml --quiet --out cut --resume {flags}");
        refused_untouched(&folder, "cut", &line)
    };
    let said = refused("--set reward.lr=1e-4 --set ppo.kl_coef=0.5 --set sft.save_every=7");
    assert!(
        said.contains("reward.lr was 1e-3, is 1e-4")
            && said.contains("ppo.kl_coef was 0.05, is 0.5"),
        "{said}"
    );
    assert!(!said.contains("save_every"), "{said}");
    let demos = folder.read("demos.jsonl");
    folder.write("demos.jsonl", &demos.replace("red", "blue"));
    let said = refused("");
    assert!(
        said.contains("demos.jsonl has changed since the run began"),
        "{said}"
    );
    folder.write("demos.jsonl", &demos);
    folder.done("run all.toml --quiet --out cut --resume --set sft.save_every=7");
    // What a reward model says of itself names the folder of what it started from.
    for stage in ["sft", "ppo"] {
        assert_same_run(
            &folder.path(&format!("whole/{stage}")),
            &folder.path(&format!("cut/{stage}")),
        );
    }
    // Without --resume a stage runs again, and says why.
    let again = "run all.toml --out cut --set ppo.kl_coef=0.5";
    let said = stderr(&folder.command(again).output().unwrap());
    assert!(
        said.contains("sft: skipped")
            && said.contains("ppo: running again in cut/ppo: ppo.kl_coef was 0.05, is 0.5"),
        "{said}"
    );
}

#[test]
fn time_makes_checkpoints_and_no_difference() {
    let folder = Folder::pipeline();
    let stages = [
        "sft --model base --data demos.jsonl",
        "reward --model base --prefs prefs.jsonl",
        "ppo --model base --reward length:4 --prompts prompts.jsonl",
    ];
    for line in stages {
        let stage = line.split(' ').next().unwrap();
        let of = |which: &str| format!("runs/{stage}-{which}");
        let run = |which: &str, minutes: &str| {
            folder.done(&format!(
                "{line} --steps 4 --quiet --save-every 0 --save-minutes {minutes} --keep-checkpoints 3 --out {}",
                of(which)
            ));
        };
        // Every step takes longer than no time.
        run("timed", "1e-9");
        run("plain", "0");
        assert_same_run(&folder.path(&of("timed")), &folder.path(&of("plain")));
        let mut names: Vec<_> =
            fs_err::read_dir(folder.path(&format!("{}/checkpoints", of("timed"))))
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
        names.sort();
        assert_eq!(
            names,
            ["step-000001", "step-000002", "step-000003"],
            "{stage}"
        );
        assert!(
            !folder
                .path(&format!("{}/checkpoints", of("plain")))
                .exists()
        );
    }
    let said = folder.refused("sft --model base --save-minutes=-1");
    assert!(said.contains("run.save_minutes"), "{said}");
    let said = folder.refused("sft --model base --keep-checkpoints 0");
    assert!(said.contains("run.keep_checkpoints"), "{said}");
}

#[test]
fn a_disk_without_room_is_found_before_anything_is_written() {
    let folder = Folder::pipeline();
    // No disk has room for as many checkpoints as these, and fewer fit.
    let line = "sft --model base --data demos.jsonl --steps 900000000000 --save-every 1 --quiet --out runs/new --keep-checkpoints";
    let output = folder
        .command(&format!("{line} 800000000000"))
        .output()
        .unwrap();
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("runs/new lacks room") && said.contains("up to 800000000001 checkpoints of"),
        "{said}"
    );
    assert!(!folder.path("runs").exists());
    let pipeline = "run all.toml --set sft.steps=900000000000 --set sft.save_every=1 --keep-checkpoints 800000000000";
    let said = stderr(&folder.command(pipeline).output().unwrap());
    assert!(said.contains("lacks room"), "{said}");
}

#[test]
#[cfg(unix)]
fn every_file_of_a_run_has_the_mode_that_the_umask_says_and_the_lock_goes() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = Folder::pipeline();
    let prepared = folder.command(&format!("{LINE} --out runs/one"));
    let output = Command::new("sh")
        .args(["-c", "umask 026; exec \"$0\" \"$@\""])
        .arg(prepared.get_program())
        .args(prepared.get_args())
        .current_dir(folder.path(""))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let names: Vec<String> = files(&folder.path("runs/one"))
        .into_iter()
        .map(|f| f.0)
        .collect();
    for name in &names {
        let mode = fs_err::metadata(folder.path(&format!("runs/one/{name}")))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o640, "{name}");
    }
    assert!(
        names
            .iter()
            .any(|name| name.ends_with("step-000004/tensors.safetensors")),
        "{names:?}"
    );
    assert!(!names.contains(&"run.lock".to_owned()), "{names:?}");
}

#[test]
fn a_start_that_fails_leaves_nothing_in_the_way_of_the_next() {
    let folder = Folder::pipeline();
    let line = "sft --model base --data demos.jsonl --quiet --out runs/one";
    folder.refused(&format!("{line} --set sft.eval_fraction=1.5"));
    assert!(!folder.path("runs").exists());
    // Weights that are not numbers.
    let weights = folder.path("base/model.safetensors");
    let sound = fs_err::read(&weights).unwrap();
    let mut broken = sound.clone();
    let end = broken.len();
    broken[end - 4096..].fill(0xff);
    fs_err::write(&weights, broken).unwrap();
    folder.write("runs/one/notes.txt", "mine");
    let output = folder.command(line).output().unwrap();
    assert!(!output.status.success(), "{}", stderr(&output));
    let left: Vec<String> = files(&folder.path("runs/one"))
        .into_iter()
        .map(|f| f.0)
        .collect();
    assert_eq!(left, ["notes.txt"], "{}", stderr(&output));
    fs_err::write(&weights, sound).unwrap();
    folder.done(line);
}

#[test]
fn a_log_in_a_file_has_no_colours() {
    let folder = Folder::pipeline();
    let mut command = folder.command("sft --model base --data demos.jsonl");
    let output = command.env_remove("NO_COLOR").output().unwrap();
    let said = stderr(&output);
    assert!(output.status.success() && said.contains("INFO"), "{said}");
    assert!(!said.contains('\x1b'), "{said:?}");
}
