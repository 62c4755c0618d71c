//! Lists the files of `data/` as Rust source, for `src/bundled.rs` to embed.
//!
//! A list of what is there, rather than names written down: the model among them is made by this very binary, so the
//! binary must also build without it.

use std::path::{Path, PathBuf};

fn main() -> std::io::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data");
    println!("cargo::rerun-if-changed={}", root.display());
    let mut files = Vec::new();
    if root.is_dir() {
        collect(&root, &mut files)?;
    }
    files.sort();
    let mut list = String::from("&[\n");
    for file in files {
        if let Ok(name) = file.strip_prefix(&root) {
            list.push_str(&format!(
                "({:?}, include_bytes!({:?})),\n",
                // The same names on every system.
                name.display().to_string().replace('\\', "/"),
                file.canonicalize()?
            ));
        }
    }
    list.push_str("]\n");
    let out = std::env::var_os("OUT_DIR")
        .map(PathBuf::from)
        .unwrap_or_default();
    fs_err::write(out.join("bundled.rs"), list)
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in fs_err::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|kind| kind != "md") {
            files.push(path);
        }
    }
    Ok(())
}
