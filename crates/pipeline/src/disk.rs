//! Room on the disk for what runs write.

use std::path::{Path, PathBuf};

use anyhow::anyhow;
use rlhf_train::{DiskUse, OnExisting, readable_bytes};

/// Errors if the disk that the run directory `out` is on, or will be on, lacks the room for a run that is about to start.
pub(crate) fn require(out: &Path, disk: &DiskUse, existing: OnExisting) -> anyhow::Result<()> {
    // What a run replaces or goes on with needs no room a second time.
    let there = match existing {
        OnExisting::Refuse => 0,
        OnExisting::Overwrite | OnExisting::Resume => {
            size(&out.join("checkpoints")) + size(&out.join("final"))
        }
    };
    judge(out, disk, there, free(out))
}

/// Errors if `free` bytes do not suffice for `disk`, of which `there` bytes are there already.
fn judge(out: &Path, disk: &DiskUse, there: u64, free: Option<u64>) -> anyhow::Result<()> {
    match free {
        Some(free) if free < disk.bytes().saturating_sub(there) => Err(anyhow!(
            "{} lacks room: checkpoints and model take {disk}, and {} are free there. Free some space, lower --keep-checkpoints, or choose \
             another --out",
            out.display(),
            readable_bytes(free)
        )),
        _ => Ok(()),
    }
}

/// Bytes that may still be written where `path` is or will be; `None` if the system does not say.
pub(crate) fn free(path: &Path) -> Option<u64> {
    let place = existing(path).ok()?;
    // What has no size at all is no disk, such as /sys.
    let is_a_disk = fs4::total_space(&place).is_ok_and(|bytes| bytes > 0);
    is_a_disk.then(|| fs4::available_space(&place).ok())?
}

/// The nearest folder above `path` that is there, or `path` itself.
pub(crate) fn existing(path: &Path) -> anyhow::Result<PathBuf> {
    let absolute = std::path::absolute(path)?;
    let found = absolute.ancestors().find(|place| place.exists());
    Ok(found.unwrap_or(&absolute).to_owned())
}

/// Bytes of a file or of all files below a folder; 0 where there is none.
fn size(path: &Path) -> u64 {
    match fs_err::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => {
            let entries = fs_err::read_dir(path).into_iter().flatten().flatten();
            entries.map(|entry| size(&entry.path())).sum()
        }
        Ok(meta) => meta.len(),
        Err(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_needs_room_for_what_is_not_there_yet() {
        let disk = DiskUse {
            checkpoints: 2,
            checkpoint: 10,
            model: 5,
        };
        let judge = |there, free| judge(Path::new("runs/x"), &disk, there, free);
        judge(0, Some(25)).unwrap();
        judge(7, Some(18)).unwrap();
        judge(99, Some(0)).unwrap();
        judge(0, None).unwrap();
        assert_eq!(
            judge(7, Some(17)).unwrap_err().to_string(),
            "runs/x lacks room: checkpoints and model take about 25 B: up to 2 checkpoints of 10 B, the model 5 B, and 17 B are free there. \
             Free some space, lower --keep-checkpoints, or choose another --out"
        );
    }

    #[test]
    fn a_folder_has_the_size_of_all_its_files_and_the_room_of_its_disk() {
        let tmp = tempfile::tempdir().unwrap();
        fs_err::create_dir(tmp.path().join("in")).unwrap();
        fs_err::write(tmp.path().join("in/a"), "123").unwrap();
        fs_err::write(tmp.path().join("b"), "45").unwrap();
        assert_eq!(size(tmp.path()), 5);
        assert_eq!(size(&tmp.path().join("nothing")), 0);
        assert!(free(&tmp.path().join("runs/new")).is_some_and(|bytes| bytes > 0));
    }
}
