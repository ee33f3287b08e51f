//! A thread of a disk: takes requests and does them, one after the other.

use std::io::{ErrorKind, IoSlice, IoSliceMut};
use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};

use disk::{Erase, block_on};
use memory::Gpa;

use super::{Completion, Data, Failure, Operation, Queue, Request, Segment, Shared};

/// The most bytes that are on their way at once, between an image and the guest's memory.
const CHUNK: u64 = 1 << 20;

/// Does requests until the disk goes.
pub(super) fn run(shared: &Shared) {
    loop {
        let mut queue = shared.queue();
        let (tag, request) = loop {
            if let Some(next) = queue.waiting.pop_front() {
                break next;
            }
            if queue.closed {
                return;
            }
            queue = shared.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
        };
        drop(one(shared, queue, tag, request));
        if let Some(ring) = shared.bell.get() {
            ring();
        }
    }
}

/// Does a request that was taken out of the queue, which is not locked meanwhile.
pub(super) fn one<'a>(
    shared: &'a Shared,
    mut queue: MutexGuard<'a, Queue>,
    tag: u64,
    request: Request,
) -> MutexGuard<'a, Queue> {
    queue.running += 1;
    drop(queue);
    let result = perform(shared, request);
    let mut queue = shared.queue();
    queue.running -= 1;
    queue.finished.push(Completion { tag, result });
    shared.finished.notify_all();
    queue
}

fn perform(shared: &Shared, Request { offset, operation }: Request) -> Result<Vec<u8>, Failure> {
    let image = &*shared.image;
    let failed = |error: disk::Error| {
        let failure = failure(&error);
        // What a guest can bring about as often as it likes does not fill the log.
        let own_doing = matches!(failure, Failure::Beyond | Failure::ReadOnly);
        if own_doing || shared.told.swap(true, Ordering::Relaxed) {
            tracing::debug!(offset, %error, "disk");
        } else {
            tracing::warn!(offset, %error, "disk; what fails from now on is told with --log devices=debug");
        }
        failure
    };
    match operation {
        Operation::Read(Data::Bytes(mut bytes)) => {
            block_on(image.read(offset, &mut [IoSliceMut::new(&mut bytes)])).map_err(failed)?;
            return Ok(bytes);
        }
        Operation::Read(Data::Guest(segments)) => {
            let mut buffer = Vec::new();
            batches(&segments, |at, batch, len| {
                if !batch.iter().all(|segment| shared.memory.is_ram(segment.at, segment.len)) {
                    return Err(Failure::Memory);
                }
                buffer.resize(len as usize, 0);
                let at = offset.checked_add(at).ok_or(Failure::Beyond)?;
                block_on(image.read(at, &mut [IoSliceMut::new(&mut buffer)])).map_err(failed)?;
                pieces(batch, &mut buffer)
                    .try_for_each(|(place, piece)| shared.memory.write(place, piece))
                    .map_err(lost)
            })?;
        }
        Operation::Write { data: Data::Bytes(bytes), durable } => {
            block_on(image.write(offset, &[IoSlice::new(&bytes)], durable)).map_err(failed)?;
        }
        Operation::Write { data: Data::Guest(segments), durable } => {
            let mut buffer = Vec::new();
            batches(&segments, |at, batch, len| {
                buffer.resize(len as usize, 0);
                pieces(batch, &mut buffer)
                    .try_for_each(|(place, piece)| shared.memory.read(place, piece))
                    .map_err(lost)?;
                let at = offset.checked_add(at).ok_or(Failure::Beyond)?;
                block_on(image.write(at, &[IoSlice::new(&buffer)], durable)).map_err(failed)
            })?;
        }
        Operation::Flush => block_on(image.flush()).map_err(failed)?,
        Operation::Discard { len } => block_on(image.erase(offset, len, Erase::Discard)).map_err(failed)?,
        Operation::Zero { len } => block_on(image.erase(offset, len, Erase::Zero)).map_err(failed)?,
    }
    Ok(Vec::new())
}

fn lost(_: memory::Error) -> Failure {
    Failure::Memory
}

/// Calls `each` with batches of at most [`CHUNK`] bytes: how far each is from the start, its segments, its length.
fn batches(
    segments: &[Segment],
    mut each: impl FnMut(u64, &[Segment], u64) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut segments = segments.iter();
    let mut rest: Option<Segment> = None;
    let mut batch = Vec::new();
    let mut done = 0u64;
    loop {
        let mut len = 0;
        while len < CHUNK
            && let Some(segment) = rest.take().or_else(|| segments.next().copied())
        {
            let now = segment.len.min(CHUNK - len);
            batch.push(Segment { len: now, ..segment });
            len += now;
            if now < segment.len {
                let at = Gpa(segment.at.0.checked_add(now).ok_or(Failure::Memory)?);
                rest = Some(Segment { at, len: segment.len - now });
            }
        }
        if len == 0 {
            return Ok(());
        }
        each(done, &batch, len)?;
        batch.clear();
        done = done.checked_add(len).ok_or(Failure::Beyond)?;
    }
}

/// The segments of a batch, each with its part of the buffer.
fn pieces<'a>(batch: &'a [Segment], buffer: &'a mut [u8]) -> impl Iterator<Item = (Gpa, &'a mut [u8])> {
    let mut rest = buffer;
    batch.iter().map(move |segment| {
        let (piece, behind) = std::mem::take(&mut rest).split_at_mut(segment.len as usize);
        rest = behind;
        (segment.at, piece)
    })
}

fn failure(error: &disk::Error) -> Failure {
    match error {
        disk::Error::Beyond { .. } => Failure::Beyond,
        disk::Error::ReadOnly { .. } => Failure::ReadOnly,
        disk::Error::Host { cause, .. } if cause.kind() == ErrorKind::StorageFull => Failure::NoSpace,
        _ => Failure::Disk,
    }
}
