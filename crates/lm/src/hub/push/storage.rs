//! The hub's large file storage: Git LFS's batch API, with the hub's own transfer in parts beside the basic one.

use std::cell::Cell;
use std::io::Read;

use serde_json::{Map, Value, json};

use super::content::Hashed;
use super::request::{Body, Client};
use super::{Destination, PushEvent};
use crate::Result;

type Watch<'a> = &'a mut dyn FnMut(PushEvent<'_>);

/// Sends those of `files` that the storage does not have; gives the number of bytes.
pub(super) fn send(
    client: &Client<'_>,
    to: &Destination,
    files: &[&Hashed<'_>],
    watch: Watch<'_>,
) -> Result<u64> {
    let path = format!("/{}.git/info/lfs/objects/batch", to.repo);
    let mut sent = 0;
    for files in files.chunks(256) {
        let objects: Vec<_> = files
            .iter()
            .map(|file| json!({"oid": file.sha256, "size": file.size}))
            .collect();
        let ask = json!({
            "operation": "upload", "transfers": ["basic", "multipart"], "hash_algo": "sha256",
            "ref": {"name": to.revision}, "objects": objects,
        });
        let answer = client.post_lfs(&path, &ask, watch)?;
        for file in files {
            let objects = answer["objects"].as_array().into_iter().flatten();
            let found = objects
                .into_iter()
                .find(|object| object["oid"] == *file.sha256);
            let Some(found) = found else {
                return Err(client.odd(&path, &format!("it says nothing of {}", file.path)));
            };
            if let Some(error) = found["error"]["message"].as_str() {
                return Err(client.odd(&path, &format!("{}: {error}", file.path)));
            }
            // Without anything to do the storage has it, from this push or another.
            let Some(upload) = found["actions"]["upload"].as_object() else {
                watch(PushEvent::Unchanged(file.path));
                continue;
            };
            send_one(client, file, upload, watch)?;
            if let Some(verify) = found["actions"]["verify"]["href"].as_str() {
                let what = json!({"oid": file.sha256, "size": file.size});
                client.post_to(verify, &what, watch)?;
            }
            sent += file.size;
        }
    }
    Ok(sent)
}

/// Sends one file as the action `upload` says: whole, or in parts of which each has a place of its own.
fn send_one(
    client: &Client<'_>,
    file: &Hashed<'_>,
    upload: &Map<String, Value>,
    watch: Watch<'_>,
) -> Result<()> {
    let href = upload
        .get("href")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let empty = Map::new();
    let header = upload
        .get("header")
        .and_then(Value::as_object)
        .unwrap_or(&empty);
    let chunk = match header.get("chunk_size") {
        Some(Value::String(size)) => size.parse().ok(),
        size => size.and_then(Value::as_u64),
    };
    let Some(chunk) = chunk.filter(|size: &u64| *size > 0) else {
        put(client, file, href, (0, file.size), watch)?;
        return Ok(());
    };
    let mut places: Vec<(u64, &str)> = header
        .iter()
        .filter_map(|(number, place)| Some((number.parse().ok()?, place.as_str()?)))
        .collect();
    places.sort_unstable();
    if places.len() as u64 != file.size.div_ceil(chunk) {
        let what = format!(
            "{} places for {} bytes in parts of {chunk}",
            places.len(),
            file.size
        );
        return Err(client.odd(href, &what));
    }
    let mut parts = Vec::new();
    for (i, (_, place)) in (0..).zip(&places) {
        let start = chunk * i;
        let etag = put(
            client,
            file,
            place,
            (start, chunk.min(file.size - start)),
            watch,
        )?;
        let etag = etag.ok_or_else(|| client.odd(place, "it gives the part no name (ETag)"))?;
        parts.push(json!({"partNumber": i + 1, "etag": etag}));
    }
    client.post_to(href, &json!({"oid": file.sha256, "parts": parts}), watch)?;
    Ok(())
}

/// Sends `length` bytes of `file` from `start` on; gives the name that the storage gave to them.
fn put(
    client: &Client<'_>,
    file: &Hashed<'_>,
    place: &str,
    (start, length): (u64, u64),
    watch: Watch<'_>,
) -> Result<Option<String>> {
    let watch = std::cell::RefCell::new(watch);
    let body = || -> Result<Body<'_>> {
        let reader = Watched {
            reader: file.part(start, length)?,
            read: Cell::new(start),
            on: |read| (watch.borrow_mut())(PushEvent::Sent(file.path, read, file.size)),
        };
        Ok(Body {
            reader: Box::new(reader),
            length,
        })
    };
    client.put(place, &body, &|why| {
        (watch.borrow_mut())(PushEvent::Again(why))
    })
}

/// A reader of which every read is told.
struct Watched<'a, F> {
    reader: Box<dyn Read + 'a>,
    read: Cell<u64>,
    on: F,
}

impl<F: Fn(u64)> Read for Watched<'_, F> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.reader.read(buffer)?;
        if n > 0 {
            self.read.set(self.read.get() + n as u64);
            (self.on)(self.read.get());
        }
        Ok(n)
    }
}
