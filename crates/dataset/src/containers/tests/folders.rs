//! The data files of a folder.

use std::path::PathBuf;

use crate::containers::files_at;

#[test]
fn folders_give_their_data_files_and_never_two_splits() {
    let folder = tempfile::tempdir().unwrap();
    let add = |name: &str, content: &str| {
        let path = folder.path().join(name);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, content).unwrap();
    };
    for name in [
        "hub/README.md",
        "hub/dataset_infos.json",
        "hub/.hidden.jsonl",
        "hub/data/train-00001-of-00002.parquet",
        "hub/data/train-00000-of-00002.parquet",
        "two/train-00000-of-00001.jsonl",
        "two/test-00000-of-00001.jsonl",
        "dict/train/data-00000-of-00001.arrow",
        "dict/train/cache-1.arrow",
    ] {
        add(name, "");
    }
    add("dict/dataset_dict.json", r#"{"splits": ["train", "test"]}"#);
    add("one/dataset_dict.json", r#"{"splits": ["only"]}"#);
    let state = r#"{"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}"#;
    add("dict/train/state.json", state);
    add("one/only/state.json", state);
    add(
        "odd/state.json",
        r#"{"_data_files": [{"filename": "../x.arrow"}]}"#,
    );
    add(
        "chosen/state.json",
        r#"{"_data_files": [], "_indices_data_files": [{"filename": "i.arrow"}]}"#,
    );
    let at = |name: &str| folder.path().join(name);
    for (name, expected) in [
        (
            "hub",
            &[
                "hub/data/train-00000-of-00002.parquet",
                "hub/data/train-00001-of-00002.parquet",
            ][..],
        ),
        ("dict/train", &["dict/train/data-00000-of-00001.arrow"]),
        ("one", &["one/only/data-00000-of-00001.arrow"]),
        ("hub/README.md", &["hub/README.md"]),
    ] {
        let expected: Vec<PathBuf> = expected.iter().map(|name| at(name)).collect();
        assert_eq!(files_at(&at(name)).unwrap(), expected);
    }
    for (name, message) in [
        (
            "two",
            "the folder holds the splits test, train; name one of them: FOLDER/two/test-*",
        ),
        (
            "dict",
            "the folder holds the splits train, test; name one of them: FOLDER/dict/train",
        ),
        (
            "odd",
            "FOLDER/odd/state.json: expected a list \"_data_files\" of names",
        ),
        ("chosen", "flatten_indices()"),
    ] {
        let error = files_at(&at(name)).unwrap_err().to_string();
        let error = error.replace(&folder.path().display().to_string(), "FOLDER");
        assert!(error.contains(message), "{error}");
    }
}
