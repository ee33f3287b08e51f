//! The firmware configuration device: numbered items and files that firmware reads, byte by byte or by DMA (QEMU, *fw_cfg*
//! specification).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use machine::firmware::{Items, key};
use machine::{At, Device, Drained, Effect, Schema, Shared, Snapshot, State, StateError};
use memory::{Gpa, GuestMemory};
use serde::{Deserialize, Serialize};

use crate::regs::decode;

/// What the item of this name reads.
const SIGNATURE: &[u8] = b"QEMU";
/// The ID: there are the ports, and there is DMA.
const FEATURES: u32 = 1 | 1 << 1;
/// What the DMA register reads, so that the guest knows it.
const DMA_SIGNATURE: [u8; 8] = *b"QEMU CFG";
/// The selector's bit that once meant writing.
const WRITE_CHANNEL: u16 = 1 << 14;

/// Bits of a DMA request's control word.
const ERROR: u32 = 1;
const READ: u32 = 1 << 1;
const SKIP: u32 = 1 << 2;
const SELECT: u32 = 1 << 3;
const WRITE: u32 = 1 << 4;

/// A request reads or skips at most this many bytes beyond the end of an item, where there are zeros.
const MOST_BEYOND: u32 = 1 << 20;
/// Memory is written in pieces of this size.
const PIECE: usize = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
struct FwCfgState {
    selector: u16,
    /// The next byte of the item.
    offset: u32,
    /// The upper half of the address of a DMA request.
    dma_high: u32,
}

/// The device. Windows: 0 selector (word, offset 0) and data (byte, offset 1); 1 the address of a DMA request, big-endian,
/// 8 bytes, of which the lower half starts it.
pub struct FwCfg {
    items: BTreeMap<u16, Arc<[u8]>>,
    memory: GuestMemory,
    state: FwCfgState,
}

impl FwCfg {
    /// The device with these items; requests are read from and answered to `memory`.
    #[must_use]
    pub fn new(items: &Items, memory: GuestMemory) -> Shared<Self> {
        let mut all = items.numbered.clone();
        all.insert(key::SIGNATURE, SIGNATURE.into());
        all.insert(key::ID, FEATURES.to_le_bytes().as_slice().into());
        all.insert(key::FILE_DIRECTORY, items.directory().into());
        all.extend((key::FIRST_FILE..).zip(items.files.values().cloned()));
        Arc::new(Mutex::new(Self { items: all, memory, state: FwCfgState::default() }))
    }

    fn select(&mut self, selector: u16) {
        self.state.selector = selector & !WRITE_CHANNEL;
        self.state.offset = 0;
    }

    /// The rest of the selected item.
    fn rest(&self) -> &[u8] {
        let item = self.items.get(&self.state.selector).map_or(&[][..], |item| item);
        item.get(self.state.offset as usize..).unwrap_or_default()
    }

    /// The next byte; zeros behind the end.
    fn next(&mut self) -> u8 {
        match self.rest().first().copied() {
            Some(byte) => {
                self.state.offset += 1;
                byte
            }
            None => 0,
        }
    }

    fn skip(&mut self, len: u32) {
        let len = u32::try_from(self.rest().len()).unwrap_or(u32::MAX).min(len);
        self.state.offset += len;
    }

    /// Carries out the request at `at`. What cannot be answered, because the request is nowhere, is not.
    fn dma(&mut self, at: u64) {
        let Ok(request) = self.memory.read_array::<16>(Gpa(at)) else { return };
        let [a, b, c, d, e, f, g, h, address @ ..] = request;
        let (control, len) = (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]));
        if control & SELECT != 0 {
            self.select((control >> 16) as u16);
        }
        // Nothing is to be written here.
        let left = u32::try_from(self.rest().len()).unwrap_or(u32::MAX);
        let fits = control & WRITE == 0 && len <= left.saturating_add(MOST_BEYOND);
        let done = match control & (READ | SKIP) {
            _ if !fits => false,
            0 => true,
            bits if bits & READ != 0 => self.copy(u64::from_be_bytes(address), len),
            _ => {
                self.skip(len);
                true
            }
        };
        let answer = if done { 0 } else { ERROR };
        if self.memory.is_ram(Gpa(at), 4)
            && let Err(error) = self.memory.write(Gpa(at), &u32::to_be_bytes(answer))
        {
            tracing::debug!(%error, "firmware configuration");
        }
    }

    /// Writes the next `len` bytes of the item to `at`. Returns whether that is RAM.
    fn copy(&mut self, at: u64, len: u32) -> bool {
        if !self.memory.is_ram(Gpa(at), len.into()) {
            return false;
        }
        let len = len as usize;
        let rest = self.rest();
        let from_item = rest.get(..len).unwrap_or(rest);
        let zeros = std::iter::repeat_n(&[0; PIECE][..], (len - from_item.len()).div_ceil(PIECE));
        let (mut at, mut left) = (at, len);
        for piece in std::iter::once(from_item).chain(zeros) {
            let piece = piece.get(..left).unwrap_or(piece);
            if self.memory.write(Gpa(at), piece).is_err() {
                return false;
            }
            at += piece.len() as u64;
            left -= piece.len();
        }
        self.skip(len as u32);
        true
    }
}

impl Device for FwCfg {
    fn read(&mut self, at: At, data: &mut [u8]) {
        for (byte, offset) in data.iter_mut().zip(at.offset..) {
            *byte = match (at.window, offset) {
                (0, _) => self.next(),
                (1, offset) => DMA_SIGNATURE.get(offset as usize).copied().unwrap_or(0xff),
                _ => 0xff,
            };
        }
    }

    fn write(&mut self, at: At, data: &[u8]) -> Effect {
        match (at.window, at.offset, data) {
            (0, 0, &[low, high]) => self.select(u16::from_le_bytes([low, high])),
            (1, 0, &[a, b, c, d]) => self.state.dma_high = u32::from_be_bytes([a, b, c, d]),
            (1, 4, &[a, b, c, d]) => {
                let high = std::mem::take(&mut self.state.dma_high);
                self.dma(u64::from(high) << 32 | u64::from(u32::from_be_bytes([a, b, c, d])));
            }
            (1, 0, &[a, b, c, d, e, f, g, h]) => self.dma(u64::from_be_bytes([a, b, c, d, e, f, g, h])),
            _ => {}
        }
        Effect::None
    }

    fn reset(&mut self) {
        self.state = FwCfgState::default();
    }

    fn pause(&mut self) -> Drained {
        Drained
    }

    fn resume(&mut self) {}
}

impl Snapshot for FwCfg {
    fn schema(&self) -> Schema {
        Schema { name: "fw-cfg", version: 1 }
    }

    fn save(&mut self) -> Result<State, StateError> {
        State::of(&self.state)
    }

    fn load(&mut self, version: u16, state: State) -> Result<(), StateError> {
        self.state = decode(self.schema(), version, state)?;
        Ok(())
    }
}
