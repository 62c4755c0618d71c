//! The file of judgements: it grows by whole rows, each on the disk before the next item is shown.

use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use rlhf_train::{Lock, write_file};
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::judgement::{Judgement, Past};

/// A file of feedback that judgements are appended to, and the demonstrations beside it: of `prefs.jsonl`, `prefs.demos.jsonl`.
///
/// Rows that were there before stay. One process at a time writes: it holds `prefs.jsonl.lock`.
#[derive(Debug)]
pub struct Journal {
    feedback: Lines,
    demonstrations: Lines,
    /// The judgements in the file, in its order, each with its first line and how many lines it has.
    past: Vec<(usize, usize, Past)>,
    /// What was cut off the files when they were opened, in words.
    pub mended: Vec<String>,
    _lock: Lock,
}

impl Drop for Journal {
    /// A file that was made for judgements and got none goes again.
    fn drop(&mut self) {
        if self.feedback.made && self.feedback.rows.is_empty() {
            // An empty file does no harm.
            let _ = fs_err::remove_file(&self.feedback.path);
        }
    }
}

impl Journal {
    /// Opens or makes the file, and cuts off a last line that a killed process has half written.
    ///
    /// # Errors
    /// If another process holds it, nothing can be written there, or it is no JSON Lines file.
    pub fn open(path: &Path) -> Result<Self> {
        let not_writable = |path: &Path| {
            let path = path.to_owned();
            move |cause| Error::NotWritable { path, cause }
        };
        if let Some(folder) = path.parent() {
            fs_err::create_dir_all(folder).map_err(not_writable(path))?;
        }
        let lock = Lock::take(beside(path, ".lock")).map_err(|cause| match cause.kind() {
            ErrorKind::ResourceBusy => Error::Locked {
                path: path.to_owned(),
                holder: cause.to_string(),
            },
            _ => not_writable(path)(cause),
        })?;
        let mut mended = Vec::new();
        let feedback = Lines::open(path, &mut mended)?;
        let demonstrations = Lines::open_if_there(&demonstrations_of(path), &mut mended)?;
        let mut past = Vec::new();
        for (i, row) in feedback.rows.iter().enumerate() {
            if let Some(one) = Past::of(row) {
                past.push((i, 1, one));
            } else if let Some((first, lines, one)) = past.last_mut()
                && *first + *lines == i
                && rewrites(row, one)
            {
                *lines += 1;
            }
        }
        let mut journal = Self {
            feedback,
            demonstrations,
            past,
            mended,
            _lock: lock,
        };
        journal.drop_unfinished_demonstration()?;
        Ok(journal)
    }

    /// The file of judgements.
    pub fn path(&self) -> &Path {
        &self.feedback.path
    }

    /// The file of demonstrations, which there is once an answer was rewritten.
    pub fn demonstrations(&self) -> &Path {
        &self.demonstrations.path
    }

    /// The judgements in the file, oldest first.
    pub fn past(&self) -> impl DoubleEndedIterator<Item = &Past> + ExactSizeIterator {
        self.past.iter().map(|(_, _, past)| past)
    }

    /// Appends a judgement; when this returns it is on the disk. A skipped item leaves nothing.
    ///
    /// # Errors
    /// If it cannot be written: then the files are as they were.
    pub fn append(&mut self, judgement: &Judgement) -> Result<()> {
        let rows = judgement.rows();
        let first = self.feedback.rows.len();
        // The demonstration first: one without its judgement is recognised when the file is opened, and removed.
        let demonstration = judgement.demonstration().filter(|_| !rows.is_empty());
        self.demonstrations.append(demonstration.as_slice())?;
        if let Err(error) = self.feedback.append(&rows) {
            if demonstration.is_some() {
                self.demonstrations
                    .remove(self.demonstrations.rows.len() - 1, 1)?;
            }
            return Err(error);
        }
        let past = rows.first().and_then(Value::as_object).and_then(Past::of);
        self.past.extend(past.map(|past| (first, rows.len(), past)));
        Ok(())
    }

    /// Takes the last judgement of `annotator` out of the file again, with what was rewritten in it.
    pub fn undo(&mut self, annotator: &str) -> Result<Option<Past>> {
        let own = |(_, _, past): &(usize, usize, Past)| past.annotator == annotator;
        let Some(at) = self.past.iter().rposition(own) else {
            return Ok(None);
        };
        let (first, lines, past) = self.past[at].clone();
        self.feedback.remove(first, lines)?;
        self.past.remove(at);
        for (later, _, _) in &mut self.past[at..] {
            *later -= lines;
        }
        if let Some(row) = self
            .demonstrations
            .rows
            .iter()
            .rposition(|row| rewrites(row, &past))
        {
            self.demonstrations.remove(row, 1)?;
        }
        Ok(Some(past))
    }

    /// Removes a last demonstration whose judgement did not reach the disk.
    fn drop_unfinished_demonstration(&mut self) -> Result<()> {
        let Some(last) = self.demonstrations.rows.last() else {
            return Ok(());
        };
        let judged = self.past().any(|past| rewrites(last, past));
        // Beside a file without judgements the demonstrations are those of another one, which was moved away.
        if last.contains_key("annotator") && !judged && !self.past.is_empty() {
            self.mended.push(format!(
                "{}: the last row belonged to a judgement that was not finished, and is removed",
                self.demonstrations.path.display()
            ));
            self.demonstrations
                .remove(self.demonstrations.rows.len() - 1, 1)?;
        }
        Ok(())
    }
}

/// Whether `row` holds the answer that was rewritten in the judgement `past`.
fn rewrites(row: &Map<String, Value>, past: &Past) -> bool {
    let is = |name: &str, value: &str| row.get(name).and_then(Value::as_str) == Some(value);
    let flag = |name: &str| row.get(name) == Some(&Value::Bool(true));
    is("id", &past.item)
        && is("annotator", &past.annotator)
        && flag("rewritten")
        && flag("repeat") == past.repeat
}

/// Where the demonstrations of a file of judgements are kept.
pub fn demonstrations_of(path: &Path) -> PathBuf {
    path.with_extension("demos.jsonl")
}

/// `path` with `suffix` behind its name.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// A JSON Lines file whose rows are held in memory too.
#[derive(Debug)]
struct Lines {
    path: PathBuf,
    /// Open once it exists.
    file: Option<fs_err::File>,
    /// Whether it did not exist before.
    made: bool,
    rows: Vec<Map<String, Value>>,
}

impl Lines {
    fn open(path: &Path, mended: &mut Vec<String>) -> Result<Self> {
        let mut lines = Self {
            path: path.to_owned(),
            file: None,
            made: !path.exists(),
            rows: Vec::new(),
        };
        lines.file = Some(lines.opened()?);
        lines.read(mended)?;
        Ok(lines)
    }

    fn open_if_there(path: &Path, mended: &mut Vec<String>) -> Result<Self> {
        match path.exists() {
            true => Self::open(path, mended),
            false => Ok(Self {
                path: path.to_owned(),
                file: None,
                made: false,
                rows: Vec::new(),
            }),
        }
    }

    fn opened(&self) -> Result<fs_err::File> {
        let mut options = fs_err::OpenOptions::new();
        let file = options.append(true).create(true).open(&self.path);
        file.map_err(|cause| self.not_writable(cause))
    }

    fn not_writable(&self, cause: std::io::Error) -> Error {
        Error::NotWritable {
            path: self.path.clone(),
            cause,
        }
    }

    fn read(&mut self, mended: &mut Vec<String>) -> Result<()> {
        let bytes = fs_err::read(&self.path).map_err(|cause| self.not_writable(cause))?;
        let whole = bytes
            .iter()
            .rposition(|&byte| byte == b'\n')
            .map_or(0, |i| i + 1);
        let refuse = |line: usize, what: String| Error::NotJsonLines {
            path: self.path.clone(),
            line,
            what,
        };
        for (i, line) in bytes[..whole].split(|&byte| byte == b'\n').enumerate() {
            if line.trim_ascii().is_empty() {
                continue;
            }
            match serde_json::from_slice(line) {
                Ok(Value::Object(row)) => self.rows.push(row),
                Ok(_) => return Err(refuse(i + 1, "this is no JSON object".to_owned())),
                Err(error) => return Err(refuse(i + 1, format!("this is no JSON: {error}"))),
            }
        }
        let rest = &bytes[whole..];
        if rest.trim_ascii().is_empty() {
            return Ok(());
        }
        match serde_json::from_slice(rest) {
            // Written by hand, without a last line break.
            Ok(Value::Object(row)) => {
                self.rows.push(row);
                self.write(b"\n")
            }
            // A file of a single line that is no JSON was never one of ours.
            _ if whole == 0 && rest.first() != Some(&b'{') => {
                Err(refuse(1, "this is no JSON object".to_owned()))
            }
            _ => {
                let cut = self
                    .file
                    .as_ref()
                    .map_or(Ok(()), |file| file.set_len(whole as u64));
                cut.map_err(|cause| self.not_writable(cause))?;
                mended.push(format!(
                    "{}: the last line was half written ({} bytes) and is cut off",
                    self.path.display(),
                    rest.len()
                ));
                Ok(())
            }
        }
    }

    /// Appends rows, all of them or none.
    fn append(&mut self, rows: &[Value]) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
        if self.file.is_none() {
            self.file = Some(self.opened()?);
        }
        self.write(text.as_bytes())?;
        self.rows
            .extend(rows.iter().filter_map(Value::as_object).cloned());
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(file) = &mut self.file else {
            return Ok(());
        };
        let before = file.metadata().map(|it| it.len());
        let written = file.write_all(bytes).and_then(|()| file.sync_data());
        if written.is_err()
            && let Ok(before) = before
        {
            // A full disk may have taken the beginning. Should this fail too, the next start cuts it off.
            let _ = file.set_len(before);
        }
        written.map_err(|cause| self.not_writable(cause))
    }

    /// Takes rows out: the others are written aside, and the file is replaced.
    fn remove(&mut self, first: usize, count: usize) -> Result<()> {
        let text = fs_err::read_to_string(&self.path).map_err(|cause| self.not_writable(cause))?;
        // Lines as they stand, so that rows of others keep their bytes.
        let lines = text.lines().filter(|line| !line.trim().is_empty());
        let kept = lines
            .enumerate()
            .filter(|(i, _)| !(first..first + count).contains(i));
        let kept: String = kept.map(|(_, line)| format!("{line}\n")).collect();
        write_file(&self.path, kept.as_bytes()).map_err(|cause| self.not_writable(cause))?;
        self.rows.drain(first..first + count);
        self.file = Some(self.opened()?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;
    use crate::item::{Answer, Candidates};
    use crate::judgement::Shown;
    use crate::verdict::{Rewritten, Verdict};
    use rlhf_base::Text;

    fn judgement(prompt: &str, annotator: &str, rewritten: Option<&str>) -> Judgement {
        let answer = |text: &str| Answer {
            text: Text::from(text),
            model: None,
            finished: true,
        };
        let answers = vec![answer("a"), answer("b")];
        let all = Candidates::new(Text::from(prompt), answers, None);
        let item = all.item(Kind::Pair, &[0, 1]);
        Judgement {
            shown: Shown {
                id: format!("{}.0", item.id),
                item,
                sides: vec![0, 1],
                repeat: false,
                strategy: "random".to_owned(),
            },
            verdict: Verdict::Better {
                side: 0,
                strength: 1,
            },
            rewritten: rewritten.map(|text| Rewritten {
                side: 1,
                text: text.to_owned(),
            }),
            annotator: annotator.to_owned(),
            seconds: None,
            shown_at: None,
        }
    }

    fn text(path: &Path) -> String {
        fs_err::read_to_string(path).unwrap()
    }

    #[test]
    fn what_a_killed_process_has_half_written_is_cut_off_and_nothing_else() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("new/prefs.jsonl");
        let mut journal = Journal::open(&path).unwrap();
        journal.append(&judgement("p", "x", None)).unwrap();
        let first = text(&path);
        journal.append(&judgement("q", "x", Some("c"))).unwrap();
        let (whole, demos) = (text(&path), text(journal.demonstrations()));
        drop(journal);
        // Killed after any byte of the second judgement, whose demonstration was written before.
        for end in first.len()..=whole.len() {
            fs_err::write(&path, &whole[..end]).unwrap();
            fs_err::write(demonstrations_of(&path), &demos).unwrap();
            let journal = Journal::open(&path).unwrap();
            let kept = text(&path);
            assert!(
                whole.starts_with(&kept) && kept.ends_with('\n'),
                "{end}: {kept}"
            );
            let rows = kept.lines().count();
            assert_eq!(journal.past().len(), rows.min(2));
            let lost_one = rows == 1;
            assert_eq!(
                text(&demonstrations_of(&path)).is_empty(),
                lost_one,
                "{end}"
            );
            // A row that lacks nothing but its line break is whole.
            let whole_rows = whole[..end].ends_with('\n') || whole[end..].starts_with('\n');
            assert_eq!(journal.mended.is_empty(), whole_rows && !lost_one, "{end}");
        }
    }

    #[test]
    fn undo_takes_out_the_annotators_last_rows_and_leaves_those_of_others_as_they_are() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("prefs.jsonl");
        let foreign = "{\"prompt\":  \"old\", \"chosen\": \"1\", \"rejected\": \"2\"}\n";
        fs_err::write(&path, foreign).unwrap();
        let mut journal = Journal::open(&path).unwrap();
        journal.append(&judgement("p", "x", Some("c"))).unwrap();
        let after_x = text(&path);
        journal.append(&judgement("q", "y", None)).unwrap();
        drop(journal);
        let mut journal = Journal::open(&path).unwrap();
        assert_eq!(journal.past().len(), 2);
        assert!(journal.undo("y").unwrap().is_some());
        assert_eq!(text(&path), after_x);
        assert_eq!(journal.undo("y").unwrap(), None);
        journal.append(&judgement("q", "y", None)).unwrap();
        assert!(journal.undo("x").unwrap().is_some());
        assert_eq!(text(journal.demonstrations()), "");
        let left = text(&path);
        assert!(left.starts_with(foreign) && left.lines().count() == 2);
        assert!(journal.undo("y").unwrap().is_some());
        assert_eq!(text(&path), foreign);
    }

    #[test]
    fn two_processes_never_write_one_file() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("prefs.jsonl");
        let first = Journal::open(&path).unwrap();
        let second = Journal::open(&path).unwrap_err();
        assert!(
            second.to_string().contains("is written by process"),
            "{second}"
        );
        drop(first);
        assert!(Journal::open(&path).is_ok());
    }

    #[test]
    fn files_of_something_else_are_refused_and_stay_as_they_are() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("prefs.jsonl");
        for (content, said) in [
            ("chosen,rejected\na,b\n", "prefs.jsonl:1: this is no JSON"),
            ("not feedback", "prefs.jsonl:1: this is no JSON object"),
            (
                "{\"prompt\": \"p\"}\n\n[1]\n",
                "prefs.jsonl:3: this is no JSON object",
            ),
        ] {
            fs_err::write(&path, content).unwrap();
            let error = Journal::open(&path).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
            assert_eq!(text(&path), content);
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_told_and_nothing_is_half_written() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("prefs.jsonl");
        let mut journal = Journal::open(&path).unwrap();
        journal.append(&judgement("p", "x", None)).unwrap();
        let before = text(&path);
        journal.feedback.file = Some(
            fs_err::OpenOptions::new()
                .append(true)
                .open("/dev/full")
                .unwrap(),
        );
        let error = journal.append(&judgement("q", "x", Some("c"))).unwrap_err();
        assert!(error.to_string().contains("free some space"), "{error}");
        assert_eq!(text(&path), before);
        assert_eq!(text(journal.demonstrations()), "", "nor a demonstration");
        assert_eq!(journal.past().len(), 1);
    }
}
