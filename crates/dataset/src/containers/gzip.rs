//! `.gz`. Several archives end to end, as `cat` joins them, are one.

use flate2::read::MultiGzDecoder;

use super::Compression;

pub(super) const COMPRESSION: Compression = Compression {
    extension: ".gz",
    decoder: |bytes| Box::new(MultiGzDecoder::new(bytes)),
};
