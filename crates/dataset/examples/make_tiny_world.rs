//! Writes the Tiny World into a folder: `cargo run -p rlhf-dataset --example make_tiny_world -- data [SEED]`.

use std::path::Path;

use rlhf_dataset::tiny_world;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().unwrap_or_else(|| "data".to_owned());
    let seed = match arguments.next() {
        Some(seed) => seed.parse()?,
        None => tiny_world::SEED,
    };
    fs_err::create_dir_all(&folder)?;
    for (name, bytes) in tiny_world::files(seed)? {
        let path = Path::new(&folder).join(name);
        fs_err::write(&path, &bytes)?;
        rlhf_base::tell(format!("{} {} bytes", path.display(), bytes.len()));
    }
    Ok(())
}
