//! Encodings: from the bytes of a text file to UTF-8, or to words that say which encoding it has and how to convert it.

use std::io::{self, BufRead, BufReader, Cursor, ErrorKind, Read};

/// Bytes by which an encoding is told.
const START: u64 = 1 << 16;

/// The text in `bytes` as UTF-8, without byte order mark. UTF-16 is known by its byte order mark; a file whose lines end in a carriage
/// return alone gets line feeds.
pub(super) fn text(mut bytes: Box<dyn BufRead>) -> io::Result<Box<dyn BufRead>> {
    let mut start = Vec::new();
    (&mut bytes).take(START).read_to_end(&mut start)?;
    let (mark, big_endian) = match start.as_slice() {
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => return Err(refused("UTF-32", "UTF-32")),
        [0xff, 0xfe, ..] => (2, Some(false)),
        [0xfe, 0xff, ..] => (2, Some(true)),
        [0xef, 0xbb, 0xbf, ..] => (3, None),
        _ => (0, None),
    };
    if mark == 0
        && let Some(name) = unmarked_utf16(&start)
    {
        return Err(refused("UTF-16 without a byte order mark", name));
    }
    let mut whole = Cursor::new(start).chain(bytes);
    io::copy(&mut (&mut whole).take(mark), &mut io::sink())?;
    match big_endian {
        Some(big_endian) => line_ends(Box::new(BufReader::new(Utf16 {
            bytes: Box::new(whole),
            big_endian,
            first_half: None,
            text: Cursor::default(),
        }))),
        None => line_ends(Box::new(whole)),
    }
}

fn refused(found: &str, name: &str) -> io::Error {
    let remedy = convert(name);
    io::Error::new(ErrorKind::InvalidData, format!("it is {found}; {remedy}"))
}

/// How to convert a file from an encoding.
fn convert(from: &str) -> String {
    format!("convert it with `iconv -f {from} -t UTF-8 OLD > NEW`")
}

/// The UTF-16 that a text without a byte order mark must be: one byte of two is zero in what is mostly ASCII.
fn unmarked_utf16(start: &[u8]) -> Option<&'static str> {
    let zeros = |first: usize| {
        start
            .iter()
            .skip(first)
            .step_by(2)
            .filter(|&&b| b == 0)
            .count()
    };
    let (even, odd) = (zeros(0), zeros(1));
    let many = start.len() / 20;
    if odd > many && odd > 10 * even {
        Some("UTF-16LE")
    } else if even > many && even > 10 * odd {
        Some("UTF-16BE")
    } else {
        None
    }
}

/// The text with line feeds where its lines end in carriage returns alone.
fn line_ends(mut text: Box<dyn BufRead>) -> io::Result<Box<dyn BufRead>> {
    let mut start = Vec::new();
    (&mut text).take(START).read_to_end(&mut start)?;
    // The last byte may be half of a CRLF.
    let before_last = &start[..start.len().saturating_sub(1)];
    let carriage_returns = before_last.contains(&b'\r') && !start.contains(&b'\n');
    let whole = Cursor::new(start).chain(text);
    Ok(match carriage_returns {
        true => Box::new(BufReader::new(LineFeeds(whole))),
        false => Box::new(whole),
    })
}

/// Reads each carriage return as a line feed.
struct LineFeeds<R>(R);

impl<R: Read> Read for LineFeeds<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.0.read(buffer)?;
        for byte in &mut buffer[..length] {
            if *byte == b'\r' {
                *byte = b'\n';
            }
        }
        Ok(length)
    }
}

/// Reads UTF-16 as UTF-8.
struct Utf16 {
    bytes: Box<dyn Read>,
    big_endian: bool,
    /// The first half of a character whose second half is yet to be read.
    first_half: Option<u16>,
    text: Cursor<Vec<u8>>,
}

impl Read for Utf16 {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let length = self.text.read(buffer)?;
            if length > 0 || buffer.is_empty() {
                return Ok(length);
            }
            if !self.refill()? {
                return Ok(0);
            }
        }
    }
}

impl Utf16 {
    /// Decodes the next stretch; false at the end of the file.
    fn refill(&mut self) -> io::Result<bool> {
        let mut bytes = Vec::new();
        (&mut self.bytes).take(START).read_to_end(&mut bytes)?;
        let half = |what| Err(io::Error::new(ErrorKind::InvalidData, what));
        if bytes.is_empty() {
            return match self.first_half {
                Some(_) => half("the UTF-16 text ends in the middle of a character"),
                None => Ok(false),
            };
        }
        if bytes.len() % 2 == 1 {
            return half("the UTF-16 text has an odd number of bytes; it was cut short");
        }
        let unit = |pair: &[u8]| match self.big_endian {
            true => u16::from_be_bytes([pair[0], pair[1]]),
            false => u16::from_le_bytes([pair[0], pair[1]]),
        };
        let mut units: Vec<u16> = self.first_half.take().into_iter().collect();
        units.extend(bytes.chunks_exact(2).map(unit));
        self.first_half = units.pop_if(|unit| (0xd800..0xdc00).contains(unit));
        match String::from_utf16(&units) {
            Ok(text) => self.text = Cursor::new(text.into_bytes()),
            Err(_) => return half("the UTF-16 text holds half a character (a lone surrogate)"),
        }
        Ok(true)
    }
}

/// `bytes` as text, or why they are none.
pub(super) fn utf8(bytes: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(bytes).map_err(|error| {
        let at = error.valid_up_to();
        let (found, remedy) = if error.error_len().is_none() {
            (
                "a character is cut off",
                "the text was cut short here: write it anew".to_owned(),
            )
        } else if in_pairs(&bytes[at..]) {
            (
                "the file is in another encoding, perhaps GBK",
                convert("GBK"),
            )
        } else {
            (
                "the file is in another encoding, perhaps that of Windows",
                convert("CP1252"),
            )
        };
        format!("invalid UTF-8 at byte {}: {found}; {remedy}", at + 1)
    })
}

/// Whether the bytes above ASCII mostly stand together, as they do in Chinese, where each character is two of them. Western texts have
/// them alone.
fn in_pairs(bytes: &[u8]) -> bool {
    let high = |byte: &u8| !byte.is_ascii();
    let all = bytes.iter().filter(|byte| high(byte)).count();
    let runs = bytes.chunk_by(|a, b| high(a) == high(b));
    all >= 2 * runs.filter(|run| high(&run[0])).count()
}
