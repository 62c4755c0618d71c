//! `mpirun` with ranks on this machine.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use crate::folder::{Folder, stderr};

/// Longer than anything takes on the slowest machine, and short beside a run that waits for ever.
pub(crate) const SECONDS: Duration = Duration::from_secs(120);

/// `mpirun` with the words of `line`, in the folder, not yet run.
pub(crate) fn mpirun(folder: &Folder, line: &str) -> Command {
    let rlhf = folder.command("");
    let rlhf = rlhf.get_program().to_str().unwrap();
    let mut command = Command::new("mpirun");
    command
        // Tests may run as root in a container, on fewer cores than there are ranks.
        .args([
            "--allow-run-as-root",
            "--oversubscribe",
            "--bind-to",
            "none",
        ])
        .args(
            line.split_whitespace()
                .map(|word| if word == "rlhf" { rlhf } else { word }),
        )
        .current_dir(folder.path(""))
        .env("TMPDIR", files_of_mpi(folder))
        .env("XDG_CACHE_HOME", folder.path("cache"))
        .env("HF_HUB_OFFLINE", "1")
        .stdin(Stdio::null());
    command
}

/// A folder for Open MPI's own files. By default all runs of a user share one in `/tmp`, and a run that ends may remove it while another
/// starts.
pub(crate) fn files_of_mpi(folder: &Folder) -> PathBuf {
    let path = folder.path("mpi");
    fs_err::create_dir_all(&path).unwrap();
    path
}

/// A run that goes on while a test does something to it. What it says goes to a file, so that it can be read at any time.
pub(crate) struct Running {
    mpirun: Child,
    said: PathBuf,
}

impl Running {
    pub(crate) fn start(folder: &Folder, mut mpirun: Command) -> Self {
        let said = folder.path("said");
        let mpirun = mpirun
            .stdout(Stdio::null())
            .stderr(fs_err::File::create(&said).unwrap().into_parts().0)
            .spawn()
            .unwrap();
        Self { mpirun, said }
    }

    pub(crate) fn id(&self) -> u32 {
        self.mpirun.id()
    }

    /// Waits until the run has come as far as `condition` says.
    pub(crate) fn until(&mut self, what: &str, condition: impl Fn() -> bool) {
        let begun = Instant::now();
        while !condition() {
            let ended = self.mpirun.try_wait().unwrap();
            assert!(
                ended.is_none() && begun.elapsed() < SECONDS,
                "no {what} after {:?}, ended: {ended:?}\n{}\n{}",
                begun.elapsed(),
                fs_err::read_to_string(&self.said).unwrap(),
                processes()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until the run has a checkpoint. Any will do: steps are made faster than this looks, and old ones are removed.
    pub(crate) fn until_a_checkpoint(&mut self, run: &Path) {
        self.until("checkpoint", || {
            rlhf_train::newest_checkpoint(run).is_some()
        });
    }

    /// Waits for the end of all; how it ended, and what was said.
    pub(crate) fn end(mut self) -> (ExitStatus, String) {
        let status = self.mpirun.wait().unwrap();
        (status, fs_err::read_to_string(&self.said).unwrap())
    }
}

/// A test that failed leaves no ranks behind: `mpirun` ends them when it is asked to, which takes a moment and the network between them.
impl Drop for Running {
    fn drop(&mut self) {
        if !matches!(self.mpirun.try_wait(), Ok(None)) {
            return;
        }
        let _ = signal("TERM", self.mpirun.id());
        let begun = Instant::now();
        while matches!(self.mpirun.try_wait(), Ok(None)) && begun.elapsed() < SECONDS / 10 {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.mpirun.kill();
        let _ = self.mpirun.wait();
    }
}

/// Which processes of MPI's and ours there are, and whether they compute or wait, for whoever reads why a run came no further.
fn processes() -> String {
    let all = Command::new("ps")
        .args(["-eo", "pid,ppid,stat,etime,time,wchan:20,args"])
        .output();
    let all = all.map_or_else(|error| format!("ps: {error}").into_bytes(), |it| it.stdout);
    let all = String::from_utf8_lossy(&all);
    let ours = |line: &&str| {
        ["PID", "ps:", "mpirun", "orted", "rlhf"]
            .iter()
            .any(|it| line.contains(it))
    };
    all.lines().filter(ours).collect::<Vec<_>>().join("\n")
}

pub(crate) fn signal(name: &str, process: u32) -> std::io::Result<ExitStatus> {
    let process = process.to_string();
    Command::new("kill")
        .args([&format!("-{name}"), &process])
        .status()
}

/// What `ranks` ranks make of `rlhf LINE`, which must succeed; what they print.
pub(crate) fn done(folder: &Folder, ranks: usize, line: &str) -> String {
    let output = run(folder, &format!("-n {ranks} rlhf {line}"));
    assert!(
        output.status.success(),
        "{ranks} ranks: {line}\n{}",
        stderr(&output)
    );
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn run(folder: &Folder, line: &str) -> Output {
    mpirun(folder, line).output().unwrap()
}

/// The lines of a run's `metrics.jsonl`.
pub(crate) fn metrics(run: &Path) -> Vec<Map<String, Value>> {
    let text = fs_err::read_to_string(run.join("metrics.jsonl")).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// A run with all its files, once more.
pub(crate) fn copy(from: &Path, to: &Path) {
    fs_err::create_dir_all(to).unwrap();
    for entry in fs_err::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to.join(entry.file_name())),
            false => drop(fs_err::copy(entry.path(), to.join(entry.file_name())).unwrap()),
        }
    }
}
