//! `rlhf report`: the page of a run by itself, and served while the run goes on.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Stdio};

use serde_json::Value;

use crate::folder::Folder;

/// A run of sft in `runs/x`, as its first step leaves it.
fn folder() -> Folder {
    let folder = Folder::quick();
    folder.write(
        "runs/x/config.toml",
        "[run]\nseed = 0\n[sft]\nmodel = \"base\"\n",
    );
    folder.write("runs/x/metrics.jsonl", "{\"step\":0,\"eval/loss\":2.5}\n");
    folder
}

/// What is not a run, and what is damaged, is told by its name.
#[test]
fn folders_without_a_run_and_damaged_files_are_refused() {
    let folder = folder();
    fs_err::create_dir_all(folder.path("empty")).unwrap();
    for live in ["", " --live --no-open"] {
        let said = folder.refused(&format!("report empty{live}"));
        assert!(said.contains("empty: not a run directory"), "{said}");
    }
    folder.write(
        "runs/x/metrics.jsonl",
        "{\"step\":0}\nnonsense\n{\"step\":1}\n",
    );
    let said = folder.refused("report runs/x");
    assert!(said.contains("metrics.jsonl:2:"), "{said}");
    let said = folder.refused("report runs/x --live --out page.html");
    assert!(said.contains("--out"), "{said}");
}

/// A run keeps when and where it was worked on and how it ended, across a resume.
#[test]
fn the_history_of_a_run_is_in_its_report() {
    let folder = Folder::pipeline();
    folder
        .done("sft --model base --data demos.jsonl --steps 2 --save-every 1 --quiet --out runs/x");
    folder.done("sft --resume --steps 3 --quiet --out runs/x");
    let history: Vec<Value> = (folder.read("runs/x/history.jsonl").lines())
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let events: Vec<_> = history
        .iter()
        .map(|e| e["event"].as_str().unwrap())
        .collect();
    assert_eq!(events, ["started", "finished", "started", "finished"]);
    assert_eq!(
        (&history[2]["steps"], &history[3]["result"]["steps"]),
        (&3.into(), &3.into())
    );
    folder.done("report runs/x --out x.html");
    let page = folder.read("x.html");
    let machine = history[2]["machine"].as_str().unwrap();
    for part in [
        "Nothing was measured on what was held out",
        "3 of 3, finished, resumed once",
        machine,
        "demos.jsonl",
    ] {
        assert!(page.contains(part), "{part}");
    }
}

/// A served report, ended when it is dropped.
struct Live {
    child: Child,
    host: String,
}

impl Live {
    fn start(folder: &Folder) -> Self {
        let prepared = folder.command("report runs/x --live --no-open");
        let mut child = std::process::Command::new(prepared.get_program())
            .args(prepared.get_args())
            .current_dir(folder.path(""))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        stderr.read_line(&mut said).unwrap();
        let (_, url) = said.trim().split_once("http://").unwrap();
        let host = url.trim_end_matches('/').to_owned();
        Self { child, host }
    }

    /// The status and the whole of an answer.
    fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.host).unwrap();
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
            self.host
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        (answer.split(' ').nth(1).unwrap().parse().unwrap(), answer)
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_served_report_follows_its_run() {
    let folder = folder();
    let lock = fs_err::File::create(folder.path("runs/x/run.lock")).unwrap();
    lock.lock().unwrap();
    let live = Live::start(&folder);
    let (status, page) = live.get("/");
    assert_eq!(status, 200);
    assert!(
        page.contains("class=\"running\"") && page.contains("It is running: step 0"),
        "{page}"
    );
    let version = |page: &str| {
        let (_, rest) = page.split_once("data-version=\"").unwrap();
        rest.split('"').next().unwrap().to_owned()
    };
    let first = format!("/contents?version={}", version(&page));
    assert_eq!(live.get(&first).0, 204, "nothing is new");
    // A process that ends changes no file, and is news all the same. Closing the file would not do: a program that another test starts just now
    // has a copy of it for a moment.
    lock.unlock().unwrap();
    let (status, news) = live.get(&first);
    assert!(
        status == 200 && !news.contains("class=\"running\""),
        "{news}"
    );
    let (_, page) = live.get("/");
    let second = format!("/contents?version={}", version(&page));
    folder.write(
        "runs/x/metrics.jsonl",
        "{\"step\":0,\"eval/loss\":2.5}\n{\"step\":7,\"eval/loss\":1.5}\n",
    );
    let (status, news) = live.get(&second);
    assert!(
        status == 200 && news.contains("from 2.500 to 1.500"),
        "{news}"
    );
    folder.write("runs/x/metrics.jsonl", "nonsense\n{}\n");
    let (status, error) = live.get(&second);
    assert!(
        status == 500 && error.contains("metrics.jsonl:1:"),
        "{error}"
    );
}
