//! What is pushed: files and texts, with the hashes that the hub knows them by.

use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::Result;

/// A file of a push.
#[derive(Debug, Clone)]
pub struct Upload {
    /// Its path in the repository.
    pub path: String,
    /// What is in it.
    pub content: Content,
}

/// What is in a file of a push.
#[derive(Debug, Clone)]
pub enum Content {
    /// What this file holds.
    File(PathBuf),
    /// This text.
    Text(String),
}

/// So many of a file's first bytes the hub asks for, to see whether it is text.
const SAMPLE: u64 = 512;

/// An upload and what it is known by.
pub(super) struct Hashed<'a> {
    pub(super) path: &'a str,
    content: &'a Content,
    pub(super) size: u64,
    /// The name in the large file storage: SHA-256, in hexadecimal.
    pub(super) sha256: String,
    /// The name in Git: SHA-1 of the content behind a header.
    pub(super) git: String,
    sample: String,
}

impl<'a> Hashed<'a> {
    /// Reads `upload` once.
    pub(super) fn of(upload: &'a Upload) -> Result<Self> {
        let mut size = 0;
        if let Content::File(path) = &upload.content {
            size = fs_err::metadata(path)?.len();
        } else if let Content::Text(text) = &upload.content {
            size = text.len() as u64;
        }
        let (mut sha256, mut git) = (Sha256::new(), Sha1::new());
        git.update(format!("blob {size}\0"));
        let mut reader = part(&upload.content, 0, size)?;
        let mut buffer = vec![0; 1 << 20];
        loop {
            let n = reader.read(&mut buffer)?;
            if n == 0 {
                break;
            }
            sha256.update(&buffer[..n]);
            git.update(&buffer[..n]);
        }
        let mut sample = Vec::new();
        part(&upload.content, 0, SAMPLE.min(size))?.read_to_end(&mut sample)?;
        Ok(Self {
            path: &upload.path,
            content: &upload.content,
            size,
            sha256: hexadecimal(&sha256.finalize()),
            git: hexadecimal(&git.finalize()),
            sample: STANDARD.encode(sample),
        })
    }

    /// What the hub is told to decide where it goes.
    pub(super) fn announced(&self) -> Value {
        json!({"path": self.path, "size": self.size, "sample": self.sample})
    }

    /// All of it, as JSON can hold it.
    pub(super) fn base64(&self) -> Result<String> {
        let mut bytes = Vec::new();
        self.part(0, self.size)?.read_to_end(&mut bytes)?;
        Ok(STANDARD.encode(bytes))
    }

    /// `length` bytes from `start` on.
    pub(super) fn part(&self, start: u64, length: u64) -> Result<Box<dyn Read + 'a>> {
        part(self.content, start, length)
    }
}

fn part(content: &Content, start: u64, length: u64) -> Result<Box<dyn Read + '_>> {
    Ok(match content {
        Content::File(path) => {
            let mut file = fs_err::File::open(path)?;
            file.seek(SeekFrom::Start(start))?;
            Box::new(file.take(length))
        }
        Content::Text(text) => {
            let bytes = text.as_bytes();
            let start = bytes.len().min(start as usize);
            Box::new(bytes[start..].take(length))
        }
    })
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The oracle is Git and coreutils: `printf 'hello\n' | git hash-object --stdin`, `| sha256sum`.
    #[test]
    fn files_have_the_names_that_git_and_its_large_file_storage_give_them() {
        let upload = Upload {
            path: "a".into(),
            content: Content::Text("hello\n".into()),
        };
        let hashed = Hashed::of(&upload).unwrap();
        assert_eq!(hashed.git, "ce013625030ba8dba906f756967f9e9ca394464a");
        assert_eq!(
            hashed.sha256,
            "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"
        );
        let mut middle = String::new();
        hashed
            .part(1, 3)
            .unwrap()
            .read_to_string(&mut middle)
            .unwrap();
        assert_eq!(middle, "ell");
    }
}
