//! Compressions, known by their first bytes.

use std::io::{BufReader, Read, Result};

use flate2::read::MultiGzDecoder;

/// Every compression; a container may have any of them.
pub(super) static COMPRESSIONS: [Compression; 2] = [GZIP, ZSTANDARD];

/// One way to compress a file.
pub(super) struct Compression {
    /// What the file begins with.
    magic: &'static [u8],
    /// What follows the container's extension.
    pub(super) extension: &'static str,
    /// Decompresses while it is read.
    pub(super) decoder: fn(Box<dyn Read>) -> Result<Box<dyn Read>>,
}

/// Several archives end to end, as `cat` joins them, are one.
const GZIP: Compression = Compression {
    magic: b"\x1f\x8b",
    extension: ".gz",
    decoder: |bytes| Ok(Box::new(MultiGzDecoder::new(BufReader::new(bytes)))),
};

/// Several frames end to end are one. The decoder asks for at most the window of 128 MiB that `zstd` grants without `--long`.
const ZSTANDARD: Compression = Compression {
    magic: b"\x28\xb5\x2f\xfd",
    extension: ".zst",
    decoder: |bytes| Ok(Box::new(zstd::stream::read::Decoder::new(bytes)?)),
};

impl Compression {
    /// The compression of a file that begins with `start`.
    pub(super) fn of(start: &[u8]) -> Option<&'static Self> {
        COMPRESSIONS.iter().find(|c| start.starts_with(c.magic))
    }
}
