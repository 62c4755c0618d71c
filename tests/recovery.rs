//! Killed at any moment, resumed, and no trace of it in the result.

use std::collections::BTreeSet;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use rlhf_base::rng::{below, shuffle, stream};

use crate::folder::{Folder, assert_same_run, files, stderr};

/// A command that writes a run, and the folder of the run.
struct Run<'a> {
    folder: &'a Folder,
    line: String,
    out: String,
}

impl Run<'_> {
    fn start(&self) -> Child {
        self.command().spawn().unwrap()
    }

    fn command(&self) -> Command {
        let prepared = self.folder.command(&self.line);
        let mut command = Command::new(prepared.get_program());
        command
            .args(prepared.get_args())
            .current_dir(self.folder.path(""))
            .env("XDG_CACHE_HOME", self.folder.path("cache"))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    fn has(&self, name: &str) -> bool {
        fs_err::symlink_metadata(self.folder.path(&format!("{}/{name}", self.out))).is_ok()
    }

    /// Names in `checkpoints/`.
    fn checkpoints(&self) -> Vec<String> {
        let entries = fs_err::read_dir(self.folder.path(&format!("{}/checkpoints", self.out)));
        let names = entries.into_iter().flatten().flatten();
        names
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect()
    }

    /// The newest whole checkpoint; 0 if there is none.
    fn newest(&self) -> u64 {
        let steps = self.checkpoints().into_iter();
        let steps = steps.filter_map(|name| name.strip_prefix("step-")?.parse().ok());
        steps.max().unwrap_or(0)
    }

    /// Whether a checkpoint is there in part.
    fn saving(&self) -> bool {
        let half = |name: &String| name.ends_with(".aside") || name.ends_with(".old");
        self.checkpoints().iter().any(half)
    }

    /// Waits for `what` in the life of `child`.
    fn wait(&self, child: &mut Child, what: impl Fn() -> bool) {
        let begun = Instant::now();
        while !what() {
            assert!(
                begun.elapsed() < Duration::from_secs(60),
                "{}: nothing happens",
                self.line
            );
            assert!(
                child.try_wait().unwrap().is_none(),
                "{}: ended before it could be stopped",
                self.line
            );
            std::thread::yield_now();
        }
    }

    /// Starts the run, presses Ctrl-C after its third checkpoint, and gives the command that it says continues.
    #[cfg(unix)]
    fn interrupted(&self) -> String {
        let mut child = self.command().stderr(Stdio::piped()).spawn().unwrap();
        self.wait(&mut child, || self.newest() >= 3);
        let signal = Command::new("kill")
            .args(["-INT", &child.id().to_string()])
            .status()
            .unwrap();
        assert!(signal.success());
        let output = child.wait_with_output().unwrap();
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(130), "{said}");
        assert!(!self.has("run.lock"));
        let (_, command) = said.split_once("Continue with\n  ").unwrap();
        command.trim_end().to_owned()
    }

    /// Starts the run and waits for its third checkpoint.
    fn started(&self) -> Child {
        let mut child = self.start();
        self.wait(&mut child, || self.newest() >= 3);
        child
    }
}

/// SIGKILL: no handler runs.
fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// When a process dies.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// So long after its start, whatever it does then, but not many checkpoints later.
    After(Duration),
    /// This long after this many checkpoints.
    Between(u64, Duration),
    /// In the middle of a checkpoint, after this many whole ones.
    Saving(u64),
    /// In the middle of the model's publication.
    Publishing,
    /// With the model published and the run not yet marked as finished.
    Published,
}

const STEPS: u64 = 120;

/// Twenty moments of a run that is resumed after each: the first, some in an order of chance, the last two.
fn moments(seed: u64) -> Vec<Moment> {
    let mut rng = stream(seed, "moments", 0);
    let mut delay =
        |below_ms: usize| Duration::from_micros(below(&mut rng, 1000 * below_ms) as u64);
    let mut moments: Vec<Moment> = (0..5).map(|_| Moment::After(delay(120))).collect();
    moments.extend((0..6).map(|i| Moment::Between(1 + i % 3, delay(4))));
    moments.extend((0..6).map(|i| Moment::Saving(1 + i % 3)));
    shuffle(&mut rng, &mut moments);
    // Whatever the order, one death finds no checkpoint at all.
    moments.insert(0, Moment::After(Duration::from_millis(1)));
    moments.extend([Moment::Publishing, Moment::Published]);
    moments
}

/// Kills a run twenty times without warning, resumes it each time, and compares all it leaves with a run that nobody disturbed.
fn survives_twenty_kills(folder: &Folder, line: &str, stage: &str) {
    let of = |which: &str, flags: &str| Run {
        folder,
        line: format!(
            "{line} --steps {STEPS} --save-every 1 --quiet --out runs/{stage}-{which} {flags}"
        ),
        out: format!("runs/{stage}-{which}"),
    };
    let (whole, cut) = (of("whole", ""), of("cut", "--resume"));
    folder.done(&whole.line);

    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let seed = std::env::var("RLHF_KILL_SEED").map_or_else(
        |_| now.unwrap().as_micros() as u64,
        |text| text.parse().unwrap(),
    );
    let told = format!("{stage}, RLHF_KILL_SEED={seed}");
    // Nobody reads this pipe, so whoever opens it for writing waits: the run cannot be finished before it is killed.
    let pipe = folder.path(&format!("{}/finished.aside", cut.out));
    let prepare = || {
        fs_err::create_dir_all(folder.path(&cut.out)).unwrap();
        let mkfifo = Command::new("mkfifo").arg(&pipe).status();
        assert!(mkfifo.unwrap().success());
    };
    prepare();

    // A machine that is busy elsewhere may let the run come to its end, where the pipe holds it, before the kill arrives.
    let ended = || cut.has("final");
    let die = |moment: Moment| {
        let before = cut.newest();
        let mut child = cut.start();
        match moment {
            Moment::After(delay) => {
                let started = Instant::now();
                cut.wait(&mut child, || {
                    started.elapsed() >= delay || cut.newest() >= before + 4
                });
            }
            Moment::Between(checkpoints, delay) => {
                cut.wait(&mut child, || {
                    cut.newest() >= before + checkpoints || ended()
                });
                std::thread::sleep(delay);
            }
            Moment::Saving(checkpoints) => {
                let due = || cut.newest() >= before + checkpoints && cut.saving();
                cut.wait(&mut child, || due() || ended());
            }
            Moment::Publishing => cut.wait(&mut child, || cut.has("final.aside") || ended()),
            Moment::Published => cut.wait(&mut child, ended),
        }
        kill(child);
        let newest = cut.newest();
        assert!(
            newest >= before,
            "{told}: {moment:?} took a checkpoint away"
        );
        if ended() && !matches!(moment, Moment::Published) {
            // Else the next process would seem to have published what this one has.
            fs_err::remove_dir_all(folder.path(&format!("{}/final", cut.out))).unwrap();
        }
        newest
    };
    let mut while_saving = 0;
    let mut found = BTreeSet::new();
    let moments = moments(seed);
    assert_eq!(moments.len(), 20);
    for (i, moment) in moments.into_iter().enumerate() {
        let mut newest = die(moment);
        // On a busy machine the first kill may come when there are checkpoints already: then from nothing again.
        while i == 0 && newest > 0 {
            fs_err::remove_dir_all(folder.path(&cut.out)).unwrap();
            prepare();
            newest = die(moment);
        }
        if matches!(moment, Moment::Saving(_)) {
            // The kill may have come a moment too late: then another.
            for _ in 0..3 {
                if !cut.saving() {
                    newest = die(moment);
                }
            }
            while_saving += usize::from(cut.saving());
        }
        found.insert(newest);
    }
    let died = format!("{told}: {while_saving} while saving, after the steps {found:?}");
    assert!(
        while_saving >= 3 && found.contains(&0) && found.contains(&(STEPS - 1)) && found.len() >= 6,
        "{died}"
    );

    fs_err::remove_file(pipe).unwrap();
    folder.done(&cut.line);
    // Events, timings, costs and the history tell the time that passed.
    let timed = ["timings.jsonl", "cost.json", "history.jsonl", "run.lock"];
    let all = |run: &Run<'_>| {
        let mut all = files(&folder.path(&run.out));
        all.retain(|(name, _)| !(name.starts_with("events.") || timed.contains(&name.as_str())));
        all
    };
    let (whole, cut) = (all(&whole), all(&cut));
    let names = |files: &[(String, Vec<u8>)]| files.iter().map(|f| f.0.clone()).collect::<Vec<_>>();
    assert_eq!(names(&whole), names(&cut), "{told}");
    assert!(names(&cut).contains(&format!(
        "checkpoints/step-{:06}/tensors.safetensors",
        STEPS - 1
    )));
    for ((name, x), (_, y)) in whole.iter().zip(&cut) {
        assert!(x == y, "{told}: {name} differs");
    }
}

fn folder() -> Folder {
    let folder = Folder::quick();
    folder.tiny_gpt2("base");
    folder.demonstrations("demos.jsonl");
    folder
}

#[test]
#[cfg(unix)]
fn pretraining_killed_twenty_times_ends_with_the_same_bytes() {
    let folder = Folder::quick();
    let corpus: String = (0..40)
        .map(|i| format!("thing {i} is red, and thing {} is blue.\n\n", i + 1))
        .collect();
    folder.write("corpus.txt", &corpus);
    survives_twenty_kills(
        &folder,
        "pretrain --data corpus.txt --eval-every 5",
        "pretrain",
    );
}

#[test]
#[cfg(unix)]
fn sft_killed_twenty_times_ends_with_the_same_bytes() {
    survives_twenty_kills(
        &folder(),
        "sft --model base --data demos.jsonl --eval-every 5",
        "sft",
    );
}

#[test]
#[cfg(unix)]
fn reward_training_and_ppo_killed_twenty_times_each_end_with_the_same_bytes() {
    let folder = folder();
    folder.pairs("prefs.jsonl");
    folder.prompts("prompts.jsonl");
    survives_twenty_kills(
        &folder,
        "reward --model base --prefs prefs.jsonl --eval-every 5",
        "reward",
    );
    let ppo = "ppo --model base --reward runs/reward-whole --prompts prompts.jsonl --eval-every 5";
    survives_twenty_kills(&folder, ppo, "ppo");
    folder.write(
        "shared.toml",
        "[ppo]\nptx_coef = 0.5\nptx_data = [\"demos.jsonl\"]\nmax_kl = 1e3\nkl_target = 0.1\n",
    );
    let shared = format!("{ppo} --config shared.toml --critic shared");
    survives_twenty_kills(&folder, &shared, "shared");
}

#[test]
#[cfg(unix)]
fn learning_from_preferences_killed_twenty_times_ends_with_the_same_bytes() {
    let folder = folder();
    folder.pairs("prefs.jsonl");
    let dpo = "dpo --model base --prefs prefs.jsonl --eval-every 5";
    survives_twenty_kills(&folder, dpo, "dpo");
    survives_twenty_kills(&folder, &format!("{dpo} --loss kto"), "kto");
}

/// What each way to an advantage keeps besides the weights: its statistics, or that there is no critic.
#[test]
#[cfg(unix)]
fn ppo_without_a_critic_killed_twenty_times_ends_with_the_same_bytes() {
    let folder = folder();
    folder.prompts("prompts.jsonl");
    let ppo = "ppo --model base --reward length:4 --prompts prompts.jsonl --samples-per-prompt 2";
    for (advantage, flags) in [
        ("rloo", ""),
        (
            "grpo",
            "--kl-in loss --kl-estimator k3 --aggregate sequence",
        ),
        ("dr-grpo", ""),
        ("reinforce++", ""),
    ] {
        let line = format!("{ppo} --advantage {advantage} {flags}");
        survives_twenty_kills(&folder, &line, advantage);
    }
}

/// Adapters over a frozen base: what trains is little, and what a run leaves names its base.
#[test]
#[cfg(unix)]
fn adapters_killed_twenty_times_end_with_the_same_bytes() {
    let folder = folder();
    folder.pairs("prefs.jsonl");
    folder.prompts("prompts.jsonl");
    for (stage, line) in [
        ("sft-lora", "sft --model base --data demos.jsonl"),
        ("reward-lora", "reward --model base --prefs prefs.jsonl"),
        ("dpo-lora", "dpo --model base --prefs prefs.jsonl"),
        (
            "ppo-lora",
            "ppo --model base --reward runs/reward-lora-whole --prompts prompts.jsonl",
        ),
    ] {
        survives_twenty_kills(&folder, &format!("{line} --lora 2"), stage);
    }
}

#[test]
#[cfg(unix)]
fn an_interrupted_run_saves_a_checkpoint_exits_with_130_and_resumes_to_the_same_bytes() {
    let folder = folder();
    let line = "sft --model base --data demos.jsonl --steps 1000 --quiet";
    folder.done(&format!("{line} --out runs/whole"));
    // Checkpoints only tell when to interrupt; what is resumed from is the one saved on the signal.
    let cut = Run {
        folder: &folder,
        line: format!("{line} --save-every 1 --out runs/cut"),
        out: "runs/cut".into(),
    };
    let command = cut.interrupted();
    assert_eq!(command, "rlhf sft --resume --out runs/cut --quiet");
    folder.done(command.strip_prefix("rlhf ").unwrap());
    assert_same_run(&folder.path("runs/whole"), &folder.path("runs/cut"));
}

#[test]
#[cfg(unix)]
fn an_interrupted_pipeline_says_how_it_goes_on() {
    let folder = folder();
    folder.write(
        "one.toml",
        "[sft]\nmodel = \"base\"\ndata = [\"demos.jsonl\"]\nsteps = 1000\n",
    );
    folder.done("run one.toml --quiet --set sft.lr=1e-4 --out whole");
    let cut = Run {
        folder: &folder,
        line: "run one.toml --overwrite --set sft.lr=1e-4 --quiet --set sft.save_every=1 --out cut"
            .into(),
        out: "cut/sft".into(),
    };
    let command = cut.interrupted();
    let expected =
        "rlhf run one.toml --set sft.lr=1e-4 --quiet --set sft.save_every=1 --out cut --resume";
    assert_eq!(command, expected);
    folder.done(command.strip_prefix("rlhf ").unwrap());
    assert_same_run(&folder.path("whole/sft"), &folder.path("cut/sft"));
}

#[test]
fn a_killed_pipeline_continues_where_it_was() {
    let folder = folder();
    folder.write(
        "one.toml",
        "[sft]\nmodel = \"base\"\ndata = [\"demos.jsonl\"]\nsteps = 300\nsave_every = 1\n",
    );
    folder.done("run one.toml --quiet --out whole");
    let cut = Run {
        folder: &folder,
        line: "run one.toml --quiet --out cut".into(),
        out: "cut/sft".into(),
    };
    kill(cut.started());
    let output = folder.command("run one.toml --out cut").output().unwrap();
    let said = stderr(&output);
    assert!(
        output.status.success() && said.contains("sft: continuing the interrupted run"),
        "{said}"
    );
    assert_same_run(&folder.path("whole/sft"), &folder.path("cut/sft"));
}

/// Runs `line` where no file may become longer than 51 kB: a write beyond that is cut short and fails, as on a full disk.
#[cfg(unix)]
fn where_space_ends(folder: &Folder, line: &str) -> String {
    let prepared = folder.command(line);
    let output = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 100; exec \"$0\" \"$@\""])
        .arg(prepared.get_program())
        .args(prepared.get_args())
        .current_dir(folder.path(""))
        .output()
        .unwrap();
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    said
}

#[test]
#[cfg(unix)]
fn a_full_disk_costs_no_checkpoint_and_the_run_goes_on_to_the_same_bytes() {
    let folder = folder();
    // The last lines of the metrics, and of TensorBoard's events, are beyond the limit.
    let line = "sft --model base --data demos.jsonl --steps 1000 --quiet";
    folder.done(&format!("{line} --out runs/whole"));
    let line = format!("{line} --out runs/cut");

    // Nothing is there yet but the metrics, which tell how far the run came.
    let said = where_space_ends(&folder, &format!("{line} --save-every 1"));
    assert!(
        said.contains("checkpoint of step 1")
            && said.contains("step-000001.aside/tensors.safetensors")
            && said.contains("no earlier one exists")
            && told_what_to_do(&said),
        "{said}"
    );
    let names = |run: &str| -> Vec<String> {
        let all = files(&folder.path(run)).into_iter().map(|file| file.0);
        all.filter(|name| !name.starts_with("events.") && name != "run.lock")
            .collect()
    };
    assert_eq!(
        names("runs/cut"),
        [
            "config.toml",
            "history.jsonl",
            "inputs.json",
            "metrics.jsonl",
            "timings.jsonl"
        ]
    );

    let cut = Run {
        folder: &folder,
        line: format!("{line} --save-every 1 --resume"),
        out: "runs/cut".into(),
    };
    kill(cut.started());
    let said = where_space_ends(&folder, &cut.line);
    let newest = cut.newest();
    assert!(
        said.contains(&format!("checkpoint of step {}", newest + 1))
            && said.contains(&format!("the one of step {newest} is kept")),
        "{said}"
    );
    assert!(!cut.saving(), "{:?}", cut.checkpoints());

    let resumed = format!("{line} --save-every 0 --resume");
    let said = where_space_ends(&folder, &resumed);
    assert!(
        said.contains("failed to write to file `runs/cut/") && told_what_to_do(&said),
        "{said}"
    );
    assert_eq!(cut.newest(), newest);
    folder.done(&resumed);
    assert_same_run(&folder.path("runs/whole"), &folder.path("runs/cut"));
}

fn told_what_to_do(said: &str) -> bool {
    said.contains("Free some space") && said.contains("--resume")
}

#[test]
#[cfg(unix)]
fn a_model_that_does_not_fit_on_the_disk_is_published_once_there_is_space() {
    let folder = folder();
    let line = "sft --model base --data demos.jsonl --steps 30 --quiet";
    folder.done(&format!("{line} --out runs/whole"));
    let line = format!("{line} --out runs/cut");
    let said = where_space_ends(&folder, &line);
    assert!(
        said.contains("final.aside/model.safetensors") && told_what_to_do(&said),
        "{said}"
    );
    assert!(!folder.path("runs/cut/final").exists());
    assert!(!folder.path("runs/cut/final.aside").exists());
    folder.done(&format!("{line} --resume"));
    assert_same_run(&folder.path("runs/whole"), &folder.path("runs/cut"));
}

/// PPO whole in `runs/whole`, and killed after its third checkpoint in `runs/cut`; the command that resumes it but for `--resume`.
fn killed_ppo(folder: &Folder) -> (String, Run<'_>) {
    folder.prompts("prompts.jsonl");
    let line = "ppo --model base --reward length:4 --prompts prompts.jsonl --steps 40 --quiet";
    folder.done(&format!("{line} --out runs/whole"));
    let line = format!("{line} --out runs/cut");
    let cut = Run {
        folder,
        line: format!("{line} --save-every 1"),
        out: "runs/cut".into(),
    };
    kill(cut.started());
    (line, cut)
}

/// `/dev/full` answers every write as a full disk does.
#[test]
#[cfg(target_os = "linux")]
fn no_space_for_samples_stops_ppo_and_it_goes_on_to_the_same_bytes() {
    let folder = folder();
    let (line, _) = killed_ppo(&folder);
    let samples = folder.path("runs/cut/samples.jsonl");
    let kept = folder.path("kept");
    fs_err::rename(&samples, &kept).unwrap();
    std::os::unix::fs::symlink("/dev/full", &samples).unwrap();
    let resumed = format!("{line} --resume");
    let output = folder.command(&resumed).output().unwrap();
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("runs/cut/samples.jsonl")
            && said.contains("No space left on device")
            && told_what_to_do(&said),
        "{said}"
    );
    fs_err::rename(&kept, &samples).unwrap();
    folder.done(&resumed);
    assert_same_run(&folder.path("runs/whole"), &folder.path("runs/cut"));
}

#[test]
#[cfg(unix)]
fn a_folder_that_cannot_be_written_to_is_refused_before_anything_is_computed() {
    use std::os::unix::fs::PermissionsExt;
    let folder = folder();
    folder.write("file", "mine");
    folder.write("closed/note.txt", "mine");
    let closed = fs_err::metadata(folder.path("closed"))
        .unwrap()
        .permissions();
    fs_err::set_permissions(folder.path("closed"), PermissionsExt::from_mode(0o555)).unwrap();
    let mut places = vec!["file", "file/run"];
    // Modes do not stop root; that nobody makes folders in /sys stops everyone.
    if cfg!(target_os = "linux") {
        places.push("/sys/rlhf-run");
    }
    if fs_err::write(folder.path("closed/try"), "").is_err() {
        places.extend(["closed", "closed/run"]);
    }
    for out in places {
        let output = folder
            .command(&format!("sft --model base --data demos.jsonl --out {out}"))
            .output()
            .unwrap();
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.contains(&format!("error: {out} cannot hold a run"))
                && said.contains("choose another --out")
                && !said.contains("step"),
            "{said}"
        );
    }
    fs_err::set_permissions(folder.path("closed"), closed).unwrap();
    assert_eq!(folder.read("file"), "mine");
    assert_eq!(folder.read("closed/note.txt"), "mine");
}

#[test]
#[cfg(unix)]
fn two_runs_never_write_into_one_folder_and_a_dead_one_is_not_in_the_way() {
    let folder = folder();
    let line = "sft --model base --data demos.jsonl --steps 3000 --quiet --out runs/one";
    let first = Run {
        folder: &folder,
        line: format!("{line} --save-every 1"),
        out: "runs/one".into(),
    };
    let mut child = first.started();
    for how in ["", "--resume", "--overwrite"] {
        let output = folder.command(&format!("{line} {how}")).output().unwrap();
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{how}: {said}");
        let complaint = format!("runs/one is in use by process {}", child.id());
        assert!(
            said.contains(&complaint) && said.contains("--out"),
            "{how}: {said}"
        );
    }
    let then = first.newest();
    first.wait(&mut child, || first.newest() > then);
    kill(child);
    assert!(first.has("run.lock"));
    folder.done("sft --model base --data demos.jsonl --steps 9 --quiet --overwrite --out runs/one");
}

/// Whoever comes first writes; the others are told so, either way.
#[test]
#[cfg(unix)]
fn of_several_runs_that_start_at_once_one_has_the_folder() {
    let folder = folder();
    let line = "sft --model base --data demos.jsonl --steps 40 --quiet";
    folder.done(&format!("{line} --out runs/alone"));
    let run = Run {
        folder: &folder,
        line: format!("{line} --out runs/together"),
        out: "runs/together".into(),
    };
    let children: Vec<Child> = (0..4).map(|_| run.start()).collect();
    let codes: Vec<Option<i32>> = children
        .into_iter()
        .map(|mut child| child.wait().unwrap().code())
        .collect();
    let done = codes.iter().filter(|code| **code == Some(0)).count();
    assert!(done == 1 && codes.iter().all(Option::is_some), "{codes:?}");
    assert_same_run(&folder.path("runs/alone"), &folder.path("runs/together"));
}

/// The step that `said` blames: the last number after `name`. Warnings about earlier steps stand before it.
fn blamed_step(said: &str, name: &str) -> u64 {
    let number = |at: usize| -> Option<u64> {
        let rest = &said[at + name.len()..];
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    };
    let mut places = said.rmatch_indices(name);
    let found = places.find_map(|(at, _)| number(at));
    found.unwrap_or_else(|| panic!("{said}"))
}

/// Half precision ends at 65504, which a learning rate of 1 leaves behind after a few steps. On a CPU the reference forms alone compute in it.
#[test]
fn a_policy_that_diverges_is_neither_kept_in_a_checkpoint_nor_published() {
    let folder = folder();
    folder.prompts("prompts.jsonl");
    let line = "ppo --model base --reward length:4 --prompts prompts.jsonl --steps 40 --quiet --lr 1 --schedule constant --dtype f16 \
                --set ppo.minibatches=1 --out runs/p --overwrite";
    let diverged = |flags: &str| {
        let mut command = folder.command(&format!("{line} {flags}"));
        let output = command.env("RLHF_REFERENCE", "1").output().unwrap();
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{flags}: {said}");
        assert!(said.contains("with a lower ppo.lr"), "{flags}: {said}");
        assert!(!folder.path("runs/p/final").exists(), "{flags}");
        blamed_step(&said, "PPO step ")
    };
    // The guard before a checkpoint, the next rollout, an evaluation.
    let step = diverged("--save-every 1");
    let cut = Run {
        folder: &folder,
        line: String::new(),
        out: "runs/p".into(),
    };
    let kept = if cut.checkpoints().is_empty() {
        0
    } else {
        cut.newest()
    };
    assert_eq!(kept, step - 1);
    diverged("--save-every 0");
    diverged("--save-every 0 --eval-every 1");
}

/// As above, for the stages that minimise a loss: decay of ten times the weights turns them over and makes them nine times larger in
/// every step, until a loss or a gradient is beyond f32.
#[test]
fn a_model_that_diverges_is_neither_kept_in_a_checkpoint_nor_published() {
    let folder = Folder::pipeline();
    for (stage, line) in [
        (
            "sft",
            "sft --model base --data demos.jsonl --set sft.eval_fraction=0",
        ),
        ("reward", "reward --model base --prefs prefs.jsonl"),
        ("dpo", "dpo --model base --prefs prefs.jsonl"),
    ] {
        let out = format!("runs/{stage}");
        let line = format!(
            "{line} --quiet --out {out} --overwrite --lr 1 --weight-decay 10 --schedule constant"
        );
        let diverged = |flags: &str| {
            let output = folder.command(&format!("{line} {flags}")).output().unwrap();
            let said = stderr(&output);
            assert_eq!(output.status.code(), Some(1), "{flags}: {said}");
            assert!(
                said.to_lowercase().contains("learning rate"),
                "{flags}: {said}"
            );
            assert!(!folder.path(&out).join("final").exists(), "{flags}");
            said
        };
        let step = blamed_step(&diverged("--steps 400 --save-every 1"), "step ");
        let cut = Run {
            folder: &folder,
            line: String::new(),
            out: out.clone(),
        };
        assert_eq!(cut.newest(), step - 1, "{stage}");
        // Nothing is looked at in between; then, the model to publish is.
        diverged("--steps 400 --save-every 0");
        diverged(&format!("--steps {step} --save-every 0"));
    }
}

#[test]
fn resuming_what_is_finished_does_nothing_and_starting_over_it_is_refused() {
    let folder = Folder::quick();
    folder.tiny_gpt2("base");
    folder.demonstrations("demos.jsonl");
    let line = "sft --model base --data demos.jsonl";
    folder.done(line);
    let metrics = folder.read("runs/sft/metrics.jsonl");
    let said = folder.refused(line);
    assert!(
        said.contains("--resume") && said.contains("--overwrite"),
        "{said}"
    );
    folder.done(&format!("{line} --resume"));
    assert_eq!(folder.read("runs/sft/metrics.jsonl"), metrics);
    folder.done(&format!("{line} --overwrite"));
    assert_eq!(folder.read("runs/sft/metrics.jsonl"), metrics);
}
