//! The corpora of the fuzzing targets, replayed without a fuzzer: see "Fuzzing" in CONTRIBUTING.md.

use std::path::{Path, PathBuf};

#[allow(unreachable_pub)] // in the fuzz crate these functions are public
#[path = "../fuzz/src/lib.rs"]
mod doors;

/// The files of a folder, in order of name.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs_err::read_dir(folder).unwrap();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn every_input_that_fuzzing_started_from_or_found_gets_an_answer() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz");
    for (name, door) in doors::DOORS {
        assert!(
            fuzz.join(format!("fuzz_targets/{name}.rs")).is_file(),
            "{name}"
        );
        let inputs = files(&fuzz.join("corpus").join(name));
        // A target whose every input is refused at its first byte would test nothing, and one that refuses none has no hostile input.
        let (taken, refused): (Vec<_>, Vec<_>) = inputs
            .iter()
            .partition(|path| door(&fs_err::read(path).unwrap()));
        assert!(
            !taken.is_empty() && !refused.is_empty(),
            "{name}: took {taken:?}, refused {refused:?}"
        );
    }
    assert_eq!(files(&fuzz.join("corpus")).len(), doors::DOORS.len());
}
