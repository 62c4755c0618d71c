//! What a stage depends on, as one line: when it is unchanged, a finished stage need not run again.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

/// SHA-256 over the program's version, the stage's settings and the content of its inputs.
///
/// Of a file every byte counts, of a folder every file by its name and content (folders inside it too). Paths do not
/// count: the same data elsewhere is the same data.
pub(crate) fn fingerprint(settings: &str, inputs: &[PathBuf]) -> std::io::Result<String> {
    let mut hash = Sha256::new();
    part(&mut hash, env!("CARGO_PKG_VERSION").as_bytes());
    part(&mut hash, settings.as_bytes());
    for input in inputs {
        content(&mut hash, input)?;
    }
    Ok(hash
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

/// Length first, so that two parts can never be read as two others.
fn part(hash: &mut Sha256, bytes: &[u8]) {
    hash.update((bytes.len() as u64).to_le_bytes());
    hash.update(bytes);
}

fn content(hash: &mut Sha256, path: &Path) -> std::io::Result<()> {
    if path.is_dir() {
        let mut entries: Vec<_> = fs_err::read_dir(path)?.collect::<Result<_, _>>()?;
        entries.sort_by_key(|entry| entry.file_name());
        part(hash, &(entries.len() as u64).to_le_bytes());
        for entry in entries {
            part(hash, entry.file_name().as_encoded_bytes());
            content(hash, &entry.path())?;
        }
        return Ok(());
    }
    let mut file = fs_err::File::open(path)?;
    let mut inner = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        inner.update(&buffer[..read]);
    }
    hash.update(inner.finalize());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_and_settings_count_and_places_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        for folder in [&a, &b] {
            fs_err::create_dir_all(folder).unwrap();
            fs_err::write(folder.join("x.jsonl"), "one").unwrap();
        }
        let of =
            |settings, path: &PathBuf| fingerprint(settings, std::slice::from_ref(path)).unwrap();
        let first = of("lr = 1", &a);
        assert_eq!(first, of("lr = 1", &b));
        assert_ne!(first, of("lr = 2", &a));
        fs_err::write(b.join("x.jsonl"), "two").unwrap();
        assert_ne!(first, of("lr = 1", &b));
        fs_err::rename(a.join("x.jsonl"), a.join("y.jsonl")).unwrap();
        assert_ne!(first, of("lr = 1", &a));
    }
}
