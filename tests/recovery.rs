//! Killed at any moment, resumed, and no trace of it in the result.

use std::collections::BTreeSet;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use rlhf_lm::rng::{below, shuffle, stream};

use crate::folder::{Folder, assert_same_run, files, stderr};

/// A command that writes a run, and the folder of the run.
struct Run<'a> {
    folder: &'a Folder,
    line: String,
    out: String,
}

impl Run<'_> {
    fn start(&self) -> Child {
        let prepared = self.folder.command(&self.line);
        Command::new(prepared.get_program())
            .args(prepared.get_args())
            .current_dir(self.folder.path(""))
            .env("XDG_CACHE_HOME", self.folder.path("cache"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
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
    /// So long after so many checkpoints.
    Between(u64, Duration),
    /// In the middle of a checkpoint, after so many whole ones.
    Saving(u64),
    /// In the middle of the model's publication.
    Publishing,
    /// With the model published and the run not yet marked as finished.
    Published,
}

const STEPS: u64 = 80;

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
    fs_err::create_dir_all(folder.path(&cut.out)).unwrap();
    let pipe = folder.path(&format!("{}/finished.aside", cut.out));
    assert!(
        Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );

    let mut while_saving = 0;
    let mut found = BTreeSet::new();
    let moments = moments(seed);
    assert_eq!(moments.len(), 20);
    for moment in moments {
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
                cut.wait(&mut child, || cut.newest() >= before + checkpoints);
                std::thread::sleep(delay);
            }
            Moment::Saving(checkpoints) => {
                let due = || cut.newest() >= before + checkpoints && cut.saving();
                cut.wait(&mut child, || due() || cut.has("final"));
            }
            Moment::Publishing => cut.wait(&mut child, || cut.has("final.aside")),
            Moment::Published => cut.wait(&mut child, || cut.has("final")),
        }
        kill(child);
        let newest = cut.newest();
        assert!(
            newest >= before,
            "{told}: {moment:?} took a checkpoint away"
        );
        found.insert(newest);
        while_saving += usize::from(matches!(moment, Moment::Saving(_)) && cut.saving());
        // Had the publication been quicker than the kill, there would be nothing left to wait for.
        if matches!(moment, Moment::Publishing) {
            assert_eq!(newest, STEPS - 1, "{told}");
            fs_err::remove_dir_all(folder.path(&format!("{}/final", cut.out))).ok();
        }
    }
    let died = format!("{told}: {while_saving} while saving, after the steps {found:?}");
    assert!(
        while_saving >= 3 && found.contains(&0) && found.len() >= 10,
        "{died}"
    );

    fs_err::remove_file(pipe).unwrap();
    folder.done(&cut.line);
    // Events and timings tell the time of day.
    let all = |run: &Run<'_>| {
        let mut all = files(&folder.path(&run.out));
        all.retain(|(name, _)| {
            !(name.starts_with("events.") || name == "timings.jsonl" || name == "run.lock")
        });
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
    let mut child = cut.started();
    let signal = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(signal.success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    folder.done(&format!("{line} --out runs/cut --resume"));
    assert_same_run(&folder.path("runs/whole"), &folder.path("runs/cut"));
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
