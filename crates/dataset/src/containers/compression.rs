//! Compressions, known by their first bytes.

use std::io::{BufReader, Error, Read, Result};

use flate2::read::MultiGzDecoder;

type Bytes = Box<dyn Read>;

/// Every compression; a container may have any of them.
pub(super) static COMPRESSIONS: [Compression; 2] = [GZIP, ZSTANDARD];

/// One way to compress a file.
pub(super) struct Compression {
    /// What the file begins with.
    magic: &'static [u8],
    /// What follows the container's extension.
    pub(super) extension: &'static str,
    /// Decompresses while it is read.
    decoder: fn(Bytes) -> Result<Bytes>,
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
    /// What `bytes` are, decompressed.
    pub(super) fn decompress(&self, bytes: Bytes) -> Result<Bytes> {
        Ok(Box::new(Archive((self.decoder)(bytes)?)))
    }

    /// The compression of a file that begins with `start`.
    pub(super) fn of(start: &[u8]) -> Option<&'static Self> {
        COMPRESSIONS.iter().find(|c| start.starts_with(c.magic))
    }
}

/// Says of an error that it is the archive's.
struct Archive(Bytes);

impl Read for Archive {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        self.0.read(buffer).map_err(|error| {
            let what = "the archive is damaged or cut short, so fetch or write it again";
            Error::new(error.kind(), format!("{error}; {what}"))
        })
    }
}
