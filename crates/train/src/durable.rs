//! Files and folders that are either wholly there or not there at all, through crashes and power cuts.
//!
//! New content is written beside its destination (`name.aside`), synced, and renamed over it; the old folder
//! steps out of the way as `name.old` for the moment between two renames, and [`repair`] puts it back if that moment was the last.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Where the next content of `dest` is gathered.
pub(crate) fn aside(dest: &Path) -> PathBuf {
    with_suffix(dest, ".aside")
}

/// Where the previous content of `dest` waits while the next one is renamed into place.
pub(crate) fn old(dest: &Path) -> PathBuf {
    with_suffix(dest, ".old")
}

/// Where a folder waits while it is deleted.
fn gone(dest: &Path) -> PathBuf {
    with_suffix(dest, ".gone")
}

/// The name of what was to be written, replaced or deleted when `name` was left behind.
pub(crate) fn destination(name: &str) -> &str {
    let suffixes = [".aside", ".old", ".gone"];
    let stem = suffixes.iter().find_map(|suffix| name.strip_suffix(suffix));
    stem.unwrap_or(name)
}

/// Deletes the folder `dest`, which is there wholly or not at all while it goes.
pub(crate) fn discard(dest: &Path) -> io::Result<()> {
    remove(&gone(dest))?;
    fs_err::rename(dest, gone(dest))?;
    remove(&gone(dest))
}

/// Removes a file or a folder, if it exists.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs_err::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs_err::remove_dir_all(path),
        Ok(_) => fs_err::remove_file(path),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

/// Makes renames and removals inside `dir` durable.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    // Only Unix can open a folder as a file; elsewhere the file system orders such changes itself.
    if cfg!(unix) {
        fs_err::File::open(dir)?.sync_all()
    } else {
        Ok(())
    }
}

fn sync_tree(dir: &Path) -> io::Result<()> {
    for entry in fs_err::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        } else {
            // Windows syncs only through a handle that may write.
            fs_err::OpenOptions::new()
                .read(true)
                .write(true)
                .open(entry.path())?
                .sync_all()?;
        }
    }
    sync_dir(dir)
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    }
}

/// Replaces the file `dest` by `bytes`, or leaves it as it was.
pub fn write_file(dest: &Path, bytes: &[u8]) -> io::Result<()> {
    let tmp = aside(dest);
    let written = (|| {
        let mut file = fs_err::File::create(&tmp)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs_err::rename(&tmp, dest)
    })();
    if written.is_err() {
        // The first error is the one to report.
        let _ = remove(&tmp);
    }
    written.and_then(|()| sync_dir(parent(dest)))
}

/// Replaces the folder `dest` by one that `fill` writes, or leaves it as it was.
pub(crate) fn replace_dir<E: From<io::Error>>(
    dest: &Path,
    fill: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    repair(dest)?;
    let tmp = aside(dest);
    fs_err::create_dir_all(&tmp)?;
    let filled = fill(&tmp).and_then(|()| Ok(sync_tree(&tmp)?));
    if filled.is_err() {
        // The first error is the one to report.
        let _ = remove(&tmp);
        return filled;
    }
    if dest.exists() {
        fs_err::rename(dest, old(dest))?;
    }
    fs_err::rename(&tmp, dest)?;
    sync_dir(parent(dest))?;
    remove(&old(dest))?;
    Ok(())
}

/// Clears up after a process that died inside [`replace_dir`] or [`discard`]: half-written content goes, a whole folder that had just
/// stepped aside comes back.
pub(crate) fn repair(dest: &Path) -> io::Result<()> {
    remove(&aside(dest))?;
    remove(&gone(dest))?;
    if old(dest).exists() {
        if dest.exists() {
            remove(&old(dest))?;
        } else {
            fs_err::rename(old(dest), dest)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill_with(text: &'static str) -> impl FnOnce(&Path) -> io::Result<()> {
        move |dir| fs_err::write(dir.join("file"), text)
    }

    #[test]
    fn a_failed_replacement_leaves_the_old_folder_and_no_litter() {
        let tmp = tempfile::tempdir().unwrap();
        let dest = tmp.path().join("final");
        replace_dir(&dest, fill_with("one")).unwrap();
        let full = replace_dir(&dest, |dir| {
            fs_err::write(dir.join("file"), "half")?;
            Err(io::Error::from(io::ErrorKind::StorageFull))
        });
        assert_eq!(full.unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(fs_err::read_to_string(dest.join("file")).unwrap(), "one");
        assert_eq!(fs_err::read_dir(tmp.path()).unwrap().count(), 1);
        replace_dir(&dest, fill_with("two")).unwrap();
        assert_eq!(fs_err::read_to_string(dest.join("file")).unwrap(), "two");
        assert_eq!(fs_err::read_dir(tmp.path()).unwrap().count(), 1);
    }

    #[test]
    fn death_at_any_moment_of_a_replacement_leaves_one_whole_folder() {
        // The states a process can die in, as (dest, dest.aside, dest.old), and what must be there afterwards.
        for (dest_is, aside_is, old_is, expected) in [
            (Some("one"), Some("ha"), None, "one"),  // while filling
            (None, Some("two"), Some("one"), "one"), // between the renames
            (Some("two"), None, Some("one"), "two"), // before the old one is removed
        ] {
            let tmp = tempfile::tempdir().unwrap();
            let dest = tmp.path().join("final");
            for (path, content) in [
                (dest.clone(), dest_is),
                (aside(&dest), aside_is),
                (old(&dest), old_is),
            ] {
                if let Some(text) = content {
                    fs_err::create_dir(&path).unwrap();
                    fs_err::write(path.join("file"), text).unwrap();
                }
            }
            repair(&dest).unwrap();
            assert_eq!(fs_err::read_to_string(dest.join("file")).unwrap(), expected);
            assert_eq!(fs_err::read_dir(tmp.path()).unwrap().count(), 1);
        }
    }

    #[test]
    fn a_file_is_replaced_whole() {
        let tmp = tempfile::tempdir().unwrap();
        let dest = tmp.path().join("config.toml");
        write_file(&dest, b"a = 1\n").unwrap();
        write_file(&dest, b"a = 2\n").unwrap();
        assert_eq!(fs_err::read(&dest).unwrap(), b"a = 2\n");
        assert_eq!(fs_err::read_dir(tmp.path()).unwrap().count(), 1);
    }
}
