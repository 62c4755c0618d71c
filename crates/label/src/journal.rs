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
    rows: Vec<Map<String, Value>>,
}

impl Lines {
    fn open(path: &Path, mended: &mut Vec<String>) -> Result<Self> {
        let mut lines = Self {
            path: path.to_owned(),
            file: None,
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
