//! TensorBoard's event files, written by hand: a record format and four protobuf messages are less than a dependency.
//!
//! A record is `length u64 | masked crc32c(length) u32 | data | masked crc32c(data) u32`, little endian.
//! The data is an `Event { double wall_time = 1; int64 step = 2; string file_version = 3; Summary summary = 5; SessionLog session_log = 7 }`,
//! with `Summary { repeated Value { string tag = 1; float simple_value = 2 } value = 1 }` and `SessionLog { enum status = 1 }`.

use std::io::Write;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::{Result, durable};

const PREFIX: &str = "events.out.tfevents.";
/// `SessionLog.SessionStatus.START`: a reader drops what earlier files say about this step and later ones.
const SESSION_START: u64 = 1;

pub(crate) struct Events {
    file: fs_err::File,
    started: bool,
}

impl Events {
    pub(crate) fn create(run: &Path) -> Result<Self> {
        let seconds = wall_time() as u64;
        let mut number = 0;
        // A run resumed within a second needs a name of its own that sorts after the first.
        let path = loop {
            let path = run.join(format!("{PREFIX}{seconds:010}.{number}.rlhf"));
            if !path.exists() {
                break path;
            }
            number += 1;
        };
        let mut file = fs_err::OpenOptions::new()
            .append(true)
            .create_new(true)
            .open(path)?;
        let mut event = wall_time_field();
        bytes_field(&mut event, 3, b"brain.Event:2");
        file.write_all(&record(&event))?;
        Ok(Self {
            file,
            started: false,
        })
    }

    /// Appends one event that holds all scalars of a step.
    pub(crate) fn write<'a>(
        &mut self,
        step: u64,
        scalars: impl Iterator<Item = (&'a str, f32)>,
    ) -> Result<()> {
        let mut records = Vec::new();
        if !self.started {
            // After a resumed start, lines beyond the checkpoint come a second time.
            let mut status = Vec::new();
            varint_field(&mut status, 1, SESSION_START);
            let mut event = wall_time_field();
            varint_field(&mut event, 2, step);
            bytes_field(&mut event, 7, &status);
            records.extend(record(&event));
            self.started = true;
        }
        let mut summary = Vec::new();
        for (tag, number) in scalars {
            let mut value = Vec::new();
            bytes_field(&mut value, 1, tag.as_bytes());
            key(&mut value, 2, WireType::Fixed32);
            value.extend(number.to_le_bytes());
            bytes_field(&mut summary, 1, &value);
        }
        let mut event = wall_time_field();
        varint_field(&mut event, 2, step);
        bytes_field(&mut event, 5, &summary);
        records.extend(record(&event));
        Ok(self.file.write_all(&records)?)
    }
}

/// Removes the event files of a run, and no one else's.
pub(crate) fn remove_all(run: &Path) -> Result<()> {
    for entry in fs_err::read_dir(run)? {
        let entry = entry?;
        if entry
            .file_name()
            .to_str()
            .is_some_and(|n| n.starts_with(PREFIX) && n.ends_with(".rlhf"))
        {
            durable::remove(&entry.path())?;
        }
    }
    Ok(())
}

fn wall_time() -> f64 {
    // A clock set before 1970 gives 0.
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |d| d.as_secs_f64())
}

fn wall_time_field() -> Vec<u8> {
    let mut event = Vec::new();
    key(&mut event, 1, WireType::Fixed64);
    event.extend(wall_time().to_le_bytes());
    event
}

/// How protobuf lays out a field.
#[derive(Clone, Copy)]
enum WireType {
    Varint = 0,
    Fixed64 = 1,
    Bytes = 2,
    Fixed32 = 5,
}

fn varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn key(out: &mut Vec<u8>, field: u64, wire: WireType) {
    varint(out, field << 3 | wire as u64);
}

fn varint_field(out: &mut Vec<u8>, field: u64, n: u64) {
    key(out, field, WireType::Varint);
    varint(out, n);
}

fn bytes_field(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    key(out, field, WireType::Bytes);
    varint(out, bytes.len() as u64);
    out.extend(bytes);
}

fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut out = Vec::with_capacity(data.len() + 16);
    out.extend(length);
    out.extend(masked(crc32c(&length)).to_le_bytes());
    out.extend(data);
    out.extend(masked(crc32c(data)).to_le_bytes());
    out
}

/// `((crc >> 15) | (crc << 17)) + 0xa282ead8`: the checksum of a checksum should not be trivial (TFRecord).
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli): reflected polynomial 0x82f63b78, initial value and final xor all ones.
fn crc32c(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0u32; 256];
        let mut i = 0;
        while i < 256 {
            let mut crc = i as u32;
            let mut bit = 0;
            while bit < 8 {
                crc = if crc & 1 == 1 {
                    crc >> 1 ^ 0x82f6_3b78
                } else {
                    crc >> 1
                };
                bit += 1;
            }
            table[i] = crc;
            i += 1;
        }
        table
    };
    !bytes
        .iter()
        .fold(!0, |crc, &b| TABLE[(crc as u8 ^ b) as usize] ^ crc >> 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// CRC-32C from its definition: the remainder of the message polynomial over GF(2), bit by bit, most significant first.
    fn crc32c_by_long_division(bytes: &[u8]) -> u32 {
        let mut bits: Vec<bool> = bytes
            .iter()
            .flat_map(|b| (0..8).map(move |i| b >> i & 1 == 1))
            .collect();
        bits.extend([false; 32]);
        bits.iter_mut().take(32).for_each(|b| *b = !*b);
        let polynomial = 0x1_1edc_6f41_u64;
        for i in 0..bits.len() - 32 {
            if bits[i] {
                (0..33).for_each(|j| bits[i + j] ^= polynomial >> (32 - j) & 1 == 1);
            }
        }
        let remainder = &bits[bits.len() - 32..];
        !(0..32).fold(0, |crc, i| crc | (remainder[i] as u32) << i)
    }

    #[test]
    fn crc32c_equals_polynomial_division_and_the_published_check_value() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283); // the check value of CRC-32/ISCSI
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa); // RFC 3720, appendix B.4
        let bytes: Vec<u8> = (0..300u32).map(|i| (i * i % 251) as u8).collect();
        for length in [4, 5, 8, 63, 300] {
            assert_eq!(
                crc32c(&bytes[..length]),
                crc32c_by_long_division(&bytes[..length])
            );
        }
    }

    /// A protobuf field as any reader sees it.
    #[derive(Debug, PartialEq)]
    enum Field<'a> {
        Varint(u64),
        Double(f64),
        Float(f32),
        Bytes(&'a [u8]),
    }

    fn take_varint(bytes: &mut &[u8]) -> u64 {
        let mut n = 0;
        for shift in (0..).step_by(7) {
            let (byte, rest) = bytes.split_first().unwrap();
            *bytes = rest;
            n |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        n
    }

    fn parse(mut bytes: &[u8]) -> Vec<(u64, Field<'_>)> {
        let mut fields = Vec::new();
        while !bytes.is_empty() {
            let key = take_varint(&mut bytes);
            let length = match key & 7 {
                0 => {
                    fields.push((key >> 3, Field::Varint(take_varint(&mut bytes))));
                    continue;
                }
                1 => 8,
                2 => take_varint(&mut bytes) as usize,
                5 => 4,
                other => panic!("wire type {other}"),
            };
            let (value, rest) = bytes.split_at(length);
            bytes = rest;
            let value = match key & 7 {
                1 => Field::Double(f64::from_le_bytes(value.try_into().unwrap())),
                5 => Field::Float(f32::from_le_bytes(value.try_into().unwrap())),
                _ => Field::Bytes(value),
            };
            fields.push((key >> 3, value));
        }
        fields
    }

    fn records(mut file: &[u8]) -> Vec<&[u8]> {
        let u32_at = |b: &[u8], i: usize| u32::from_le_bytes(b[i..i + 4].try_into().unwrap());
        let mut out = Vec::new();
        while !file.is_empty() {
            let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
            let unmask = |crc: u32| crc.wrapping_sub(0xa282_ead8).rotate_left(15);
            assert_eq!(unmask(u32_at(file, 8)), crc32c_by_long_division(&file[..8]));
            assert_eq!(
                unmask(u32_at(file, 12 + length)),
                crc32c_by_long_division(&file[12..12 + length])
            );
            out.push(&file[12..12 + length]);
            file = &file[16 + length..];
        }
        out
    }

    #[test]
    fn a_reader_finds_the_version_the_session_start_and_every_scalar() {
        let tmp = tempfile::tempdir().unwrap();
        let mut events = Events::create(tmp.path()).unwrap();
        events
            .write(300, [("loss", 0.5f32), ("objective/kl", -2.0)].into_iter())
            .unwrap();
        events.write(301, [("loss", f32::NAN)].into_iter()).unwrap();
        let entry = fs_err::read_dir(tmp.path())
            .unwrap()
            .next()
            .unwrap()
            .unwrap();
        let file = fs_err::read(entry.path()).unwrap();
        let events: Vec<_> = records(&file).into_iter().map(parse).collect();
        assert_eq!(events.len(), 4);
        for event in &events {
            assert!(
                matches!(event[0], (1, Field::Double(t)) if t > 1.6e9),
                "wall time: {event:?}"
            );
        }
        assert_eq!(events[0][1], (3, Field::Bytes(b"brain.Event:2")));
        assert_eq!(
            events[1][1..],
            [(2, Field::Varint(300)), (7, Field::Bytes(&[8, 1]))]
        );
        assert_eq!(events[2][1], (2, Field::Varint(300)));
        let (5, Field::Bytes(summary)) = events[2][2] else {
            panic!("{events:?}")
        };
        let values: Vec<_> = parse(summary)
            .into_iter()
            .map(|(field, value)| match value {
                Field::Bytes(value) if field == 1 => parse(value),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(
            values,
            [
                [(1, Field::Bytes(b"loss")), (2, Field::Float(0.5))],
                [(1, Field::Bytes(b"objective/kl")), (2, Field::Float(-2.0))],
            ]
        );
        assert_eq!(events[3][1], (2, Field::Varint(301)));
    }

    #[test]
    fn two_writers_within_a_second_have_two_files_and_foreign_files_are_not_removed() {
        let tmp = tempfile::tempdir().unwrap();
        let (_one, _two) = (
            Events::create(tmp.path()).unwrap(),
            Events::create(tmp.path()).unwrap(),
        );
        fs_err::write(tmp.path().join("events.out.tfevents.1.host"), "theirs").unwrap();
        assert_eq!(fs_err::read_dir(tmp.path()).unwrap().count(), 3);
        remove_all(tmp.path()).unwrap();
        assert_eq!(fs_err::read_dir(tmp.path()).unwrap().count(), 1);
    }
}
