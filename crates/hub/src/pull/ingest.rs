//! Copying a stream into the store, hashed as it passes.

use std::io::{self, Read, Write};

use super::Context;
use crate::digest::{Expected, Hasher, Sha256Hex};
use crate::error::{HubError, IoContext};
use crate::progress::Event;
use crate::store::new_file_in;

/// Takes exactly `size` bytes in as the contents of `name`. A stream that has more or fewer, or
/// other contents than `expected`, leaves nothing behind.
pub(super) fn ingest(
    context: Context<'_>,
    name: &str,
    size: u64,
    expected: &Expected,
    input: &mut dyn Read,
) -> Result<Sha256Hex, HubError> {
    let mut output = new_file_in(&context.store.partial())?;
    let mut hasher = Hasher::new(size, expected);
    let mut buffer = vec![0; 1 << 20];
    let (mut done, mut reported) = (0, 0);
    while done <= size {
        let count = match input.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            count => count.context("read the contents of", name.as_ref())?,
        };
        if count == 0 {
            break;
        }
        output.write_all(&buffer[..count]).context("write", output.path())?;
        hasher.update(&buffer[..count]);
        done += count as u64;
        context.observer.check()?;
        // Archives are read in small pieces, of which nobody wants to hear one by one.
        if done - reported >= buffer.len() as u64 || done == size {
            context.observer.emit(Event::Verifying { file: name, done: done.min(size), size });
            reported = done;
        }
    }
    let sha256 = hasher.finish(name, size, expected)?;
    let finished = output.into_temp_path();
    context.store.adopt(&finished, &sha256)?;
    // The file has moved into the store under another name; there is nothing left to delete.
    let _ = finished.keep();
    Ok(sha256)
}
