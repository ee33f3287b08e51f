//! A parallel NOR flash chip of Intel's command set 0001h with an 8-bit bus (Intel StrataFlash J3 datasheet, 290667,
//! chapter 4), as firmware finds it below its own code.
//!
//! While it is read as memory its content is ROM to the guest, which engines read and run from without asking; writes are
//! commands. A command that has reads tell something else takes the content off the memory map until the next one puts it
//! back.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use machine::{At, Device, Drained, Effect, Schema, Shared, Snapshot, State, StateError};
use memory::{Kind, Store};
use serde::{Deserialize, Serialize};

use super::content::{Content, ERASED};
use super::query::{BUFFER, identifier, query};
use crate::regs::{decode, require};

/// The size in bytes of a block, the unit that is erased.
pub const FLASH_BLOCK: u64 = 4096;

/// Commands (4.2).
mod command {
    pub(super) const PROGRAM: u8 = 0x40;
    pub(super) const PROGRAM_TOO: u8 = 0x10;
    pub(super) const ERASE: u8 = 0x20;
    pub(super) const CLEAR_STATUS: u8 = 0x50;
    pub(super) const LOCK: u8 = 0x60;
    pub(super) const READ_STATUS: u8 = 0x70;
    pub(super) const READ_IDENTIFIER: u8 = 0x90;
    pub(super) const READ_QUERY: u8 = 0x98;
    pub(super) const SUSPEND: u8 = 0xb0;
    pub(super) const CONFIRM: u8 = 0xd0;
    pub(super) const PROGRAM_BUFFER: u8 = 0xe8;
}

/// Bits of the status register (4.6): ready; erasing has failed; programming has failed.
const READY: u8 = 1 << 7;
const ERASE_FAILED: u8 = 1 << 5;
const PROGRAM_FAILED: u8 = 1 << 4;

/// Takes the blocks that have changed, in the order in which they were. Called under the device's lock: it must not block
/// for long.
pub trait FlashOut: Send {
    /// Takes the block at `offset`.
    fn put(&mut self, offset: u64, block: &[u8]);
}

impl<F: FnMut(u64, &[u8]) + Send> FlashOut for F {
    fn put(&mut self, offset: u64, block: &[u8]) {
        self(offset, block);
    }
}

/// A chip cannot be made of this.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FlashError {
    /// Its content is not of whole blocks, or not as large as its place.
    #[error("{bytes} bytes are no content of a flash chip of {size} bytes in blocks of 4 KiB")]
    Size {
        /// The length of the content.
        bytes: u64,
        /// The size of the chip.
        size: u64,
    },
}

/// What reads tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Mode {
    Array,
    Status,
    Identifier,
    Query,
}

/// What the next write is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Next {
    Command,
    Program,
    EraseConfirm,
    LockConfirm,
    BufferCount,
    /// So many bytes of the buffer are still to come.
    BufferData(u8),
    BufferConfirm,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct FlashState {
    mode: Mode,
    next: Next,
    status: u8,
    /// The bytes of the write buffer with their offsets.
    buffer: Vec<(u64, u8)>,
}

impl FlashState {
    fn power_on() -> Self {
        Self { mode: Mode::Array, next: Next::Command, status: READY, buffer: Vec::new() }
    }
}

#[derive(Serialize, Deserialize)]
struct SavedFlash {
    state: FlashState,
    content: Content,
}

/// The chip. Window 0: its bytes, at the addresses of the store's range.
pub struct CfiFlash {
    /// Its content, with the addresses where it is seen.
    store: Store,
    range: Range<u64>,
    /// Tells the engine that the memory map has changed.
    changed: Box<dyn Fn() + Send + Sync>,
    out: Option<Box<dyn FlashOut>>,
    state: FlashState,
    /// The content is on the memory map.
    mapped: bool,
    /// The block that has changed since it was last put out.
    touched: Option<u64>,
}

impl CfiFlash {
    /// The chip with this content at `range`, the addresses of `store`; blocks that change go to `out`, and `changed` tells
    /// the engine of a new memory map.
    ///
    /// # Errors
    /// [`FlashError::Size`] when content, range and store are not of one size in whole blocks.
    pub fn build(
        store: Store,
        range: Range<u64>,
        content: &[u8],
        out: Option<Box<dyn FlashOut>>,
        changed: impl Fn() + Send + Sync + 'static,
    ) -> Result<Shared<Self>, FlashError> {
        let (bytes, size) = (content.len() as u64, store.bytes());
        let fits = bytes == size && range.end.checked_sub(range.start) == Some(size);
        if !fits || !size.is_multiple_of(FLASH_BLOCK) || store.write(0, content).is_err() {
            return Err(FlashError::Size { bytes, size });
        }
        let state = FlashState::power_on();
        let mut chip = Self { store, range, changed: Box::new(changed), out, state, mapped: false, touched: None };
        chip.follow();
        Ok(Arc::new(Mutex::new(chip)))
    }

    /// Puts the content onto the memory map or takes it off, as the mode says.
    fn follow(&mut self) {
        let wanted = self.state.mode == Mode::Array;
        if wanted {
            self.put_out();
        }
        if wanted == self.mapped {
            return;
        }
        self.mapped = wanted;
        if let Err(error) = self.store.switch(self.range.clone(), wanted.then_some((0, Kind::Rom))) {
            tracing::warn!(%error, "flash");
        }
        (self.changed)();
    }

    /// A byte of the content.
    fn byte(&self, offset: u64) -> u8 {
        let mut byte = [ERASED];
        // Outside of the chip there is nothing.
        let _ = self.store.read(offset, &mut byte);
        byte[0]
    }

    fn change(&mut self, offset: u64, bytes: &[u8]) {
        let block = offset - offset % FLASH_BLOCK;
        if self.touched != Some(block) {
            self.put_out();
        }
        if self.store.write(offset, bytes).is_ok() {
            self.touched = Some(block);
        }
    }

    /// Hands on the block that has changed.
    fn put_out(&mut self) {
        let (Some(block), Some(out)) = (self.touched.take(), &mut self.out) else { return };
        let mut bytes = [ERASED; FLASH_BLOCK as usize];
        if self.store.read(block, &mut bytes).is_ok() {
            out.put(block, &bytes);
        }
    }

    /// Programs a byte: ones become zeros, never the other way round.
    fn program(&mut self, offset: u64, value: u8) {
        let old = self.byte(offset);
        if old & value != old {
            self.change(offset, &[old & value]);
        }
        self.state.status |= READY;
    }

    fn erase(&mut self, offset: u64) {
        let block = offset - offset % FLASH_BLOCK;
        self.change(block, &[ERASED; FLASH_BLOCK as usize]);
        self.state.status |= READY;
    }

    /// A sequence that is none: both bits of failure say so (4.6).
    fn refuse(&mut self) {
        self.state.status |= READY | ERASE_FAILED | PROGRAM_FAILED;
        self.state.buffer.clear();
        self.state.next = Next::Command;
    }

    fn write_byte(&mut self, offset: u64, value: u8) {
        match std::mem::replace(&mut self.state.next, Next::Command) {
            Next::Command => self.command(value),
            Next::Program => self.program(offset, value),
            Next::EraseConfirm if value == command::CONFIRM => self.erase(offset),
            // Nothing is ever locked.
            Next::LockConfirm => self.state.status |= READY,
            Next::BufferCount if usize::from(value) < BUFFER => self.state.next = Next::BufferData(value),
            Next::BufferData(left) => {
                self.state.buffer.push((offset, value));
                self.state.next = left.checked_sub(1).map_or(Next::BufferConfirm, Next::BufferData);
            }
            Next::BufferConfirm if value == command::CONFIRM => {
                for (offset, value) in std::mem::take(&mut self.state.buffer) {
                    self.program(offset, value);
                }
                self.state.status |= READY;
            }
            Next::EraseConfirm | Next::BufferCount | Next::BufferConfirm => self.refuse(),
        }
    }

    fn command(&mut self, value: u8) {
        let (mode, next) = match value {
            command::PROGRAM | command::PROGRAM_TOO => (Mode::Status, Next::Program),
            command::ERASE => (Mode::Status, Next::EraseConfirm),
            command::LOCK => (Mode::Status, Next::LockConfirm),
            command::PROGRAM_BUFFER => {
                self.state.buffer.clear();
                (Mode::Status, Next::BufferCount)
            }
            // Nothing ever goes on for so long that it could be suspended.
            command::READ_STATUS | command::SUSPEND | command::CONFIRM => (Mode::Status, Next::Command),
            command::READ_IDENTIFIER => (Mode::Identifier, Next::Command),
            command::READ_QUERY => (Mode::Query, Next::Command),
            command::CLEAR_STATUS => {
                // All of it, ready or not: that it then reads zero is how firmware tells the chip from RAM and from ROM.
                self.state.status = 0;
                (Mode::Array, Next::Command)
            }
            _ => (Mode::Array, Next::Command),
        };
        (self.state.mode, self.state.next) = (mode, next);
    }
}

impl Device for CfiFlash {
    fn read(&mut self, at: At, data: &mut [u8]) {
        for (byte, offset) in data.iter_mut().zip(at.offset..) {
            *byte = match self.state.mode {
                Mode::Array => self.byte(offset),
                Mode::Status => self.state.status,
                Mode::Identifier => identifier(offset),
                Mode::Query => query(self.store.bytes(), offset),
            };
        }
    }

    fn write(&mut self, at: At, data: &[u8]) -> Effect {
        for (byte, offset) in data.iter().zip(at.offset..) {
            self.write_byte(offset, *byte);
        }
        self.follow();
        Effect::None
    }

    fn reset(&mut self) {
        self.state = FlashState::power_on();
        self.follow();
    }

    fn pause(&mut self) -> Drained {
        self.put_out();
        Drained
    }

    fn resume(&mut self) {}
}

impl Drop for CfiFlash {
    fn drop(&mut self) {
        self.put_out();
    }
}

impl Snapshot for CfiFlash {
    fn schema(&self) -> Schema {
        Schema { name: "cfi-flash", version: 1 }
    }

    fn save(&mut self) -> Result<State, StateError> {
        let mut bytes = vec![ERASED; self.store.bytes() as usize];
        let whole = self.store.read(0, &mut bytes);
        require(self.schema(), whole.is_ok(), "its content cannot be read")?;
        State::of(&SavedFlash { state: self.state.clone(), content: Content::of(&bytes) })
    }

    fn load(&mut self, version: u16, state: State) -> Result<(), StateError> {
        let SavedFlash { state, content } = decode(self.schema(), version, state)?;
        let size = self.store.bytes();
        let bytes = content.bytes(size as usize);
        let left = match state.next {
            Next::BufferData(left) => usize::from(left) + 1,
            _ => 0,
        };
        let fits = state.buffer.len() + left <= BUFFER && state.buffer.iter().all(|(offset, _)| *offset < size);
        let bytes = bytes.filter(|_| fits);
        require(self.schema(), bytes.is_some(), "the content is not of this size, or the buffer too full")?;
        self.put_out();
        for (block, offset) in
            bytes.iter().flat_map(|all| all.chunks(FLASH_BLOCK as usize)).zip((0..).step_by(FLASH_BLOCK as usize))
        {
            let mut old = [0; FLASH_BLOCK as usize];
            if self.store.read(offset, &mut old).is_ok() && old != *block {
                self.change(offset, block);
            }
        }
        self.put_out();
        self.state = state;
        self.follow();
        Ok(())
    }
}
