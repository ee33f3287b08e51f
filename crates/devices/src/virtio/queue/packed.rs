//! The packed virtqueue: one ring of descriptors that driver and device both write (virtio 1.2, 2.8).

use std::sync::atomic::{Ordering, fence};

use serde::{Deserialize, Serialize};

use super::chain::{Chain, Token};
use super::descriptor::{Descriptor, INDIRECT, LEN, NEXT, WRITE, Walk};
use super::{Broken, Rings};

/// Flags of a descriptor: available, and used, in the round of the ring whose wrap counter they equal.
const AVAILABLE: u16 = 1 << 7;
const USED: u16 = 1 << 15;

/// Of an event structure: notifications are wanted, are not, or for one descriptor.
const ENABLE: u16 = 0;
const DISABLE: u16 = 1;
const ONE: u16 = 2;

/// A place in the ring, and the parity of the round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    index: u16,
    wrap: bool,
}

impl Place {
    const START: Self = Self { index: 0, wrap: true };

    /// The place `by` further; `by` is at most the ring's size.
    fn after(self, by: u16, size: u16) -> Self {
        let index = u32::from(self.index) + u32::from(by);
        match index.checked_sub(u32::from(size)) {
            Some(index) => Self { index: index as u16, wrap: !self.wrap },
            None => Self { index: index as u16, ..self },
        }
    }

    /// As the fields of an event structure hold it.
    fn bits(self) -> u16 {
        self.index | u16::from(self.wrap) << 15
    }
}

/// How far the device is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Packed {
    next_available: Place,
    next_used: Place,
    /// What `next_used` was when the driver was last thought of.
    told: Option<Place>,
}

impl Packed {
    pub(super) fn new() -> Self {
        Self { next_available: Place::START, next_used: Place::START, told: None }
    }

    /// Whether a device of a ring of this size can be there.
    pub(super) fn fits(&self, size: u16) -> bool {
        [Some(self.next_available), Some(self.next_used), self.told].iter().flatten().all(|place| place.index < size)
    }

    pub(super) fn next(&mut self, rings: &Rings<'_>) -> Result<Option<Chain>, Broken> {
        if !self.is_available(rings)? {
            return Ok(None);
        }
        fence(Ordering::Acquire);
        let mut walk = Walk::default();
        let (mut place, mut places) = (self.next_available, 0);
        let id = loop {
            let descriptor = Descriptor::read(rings.memory, rings.descriptors, place.index.into())?;
            let (id, flags) = descriptor.packed();
            places += 1;
            place = place.after(1, rings.size);
            if flags & INDIRECT != 0 {
                // Each descriptor of the table counts, one after the other.
                let entries = Walk::table(descriptor, flags, rings.indirect)?;
                for index in 0..entries {
                    let inner = Descriptor::read(rings.memory, descriptor.at, index.into())?;
                    walk.take(inner, inner.packed().1, entries + u32::from(places))?;
                }
            } else {
                walk.take(descriptor, flags, rings.size.into())?;
            }
            if flags & NEXT == 0 {
                break id;
            }
            if places == rings.size {
                return Err(Broken::Long);
            }
        };
        self.next_available = place;
        Ok(Some(Chain { readable: walk.readable, writable: walk.writable, token: Token { id, places } }))
    }

    pub(super) fn finish(&mut self, rings: &Rings<'_>, token: Token, written: u32) -> Result<(), Broken> {
        let at = LEN * u64::from(self.next_used.index);
        let mut entry = [0; 6];
        entry[..4].copy_from_slice(&written.to_le_bytes());
        entry[4..].copy_from_slice(&token.id.to_le_bytes());
        rings.put(rings.descriptors, at + 8, &entry)?;
        fence(Ordering::Release);
        let round = if self.next_used.wrap { AVAILABLE | USED } else { 0 };
        let flags = round | if written != 0 { WRITE } else { 0 };
        rings.put(rings.descriptors, at + 14, &flags.to_le_bytes())?;
        self.next_used = self.next_used.after(token.places, rings.size);
        Ok(())
    }

    pub(super) fn wants_interrupt(&mut self, rings: &Rings<'_>) -> Result<bool, Broken> {
        fence(Ordering::SeqCst);
        let (new, old) = (self.next_used, self.told.replace(self.next_used));
        match rings.read_u16(rings.driver, 2)? {
            DISABLE => Ok(false),
            ONE if rings.events => {
                let event = rings.read_u16(rings.driver, 0)?;
                // Indices of an earlier round are so much smaller.
                let behind =
                    |index: u16, wrap: bool| if wrap == new.wrap { index } else { index.wrapping_sub(rings.size) };
                let event = behind(event & 0x7fff, event >> 15 != 0);
                let passed = |old: Place| {
                    new.index.wrapping_sub(event).wrapping_sub(1) < new.index.wrapping_sub(behind(old.index, old.wrap))
                };
                Ok(old.is_none_or(passed))
            }
            _ => Ok(true),
        }
    }

    pub(super) fn hush(&mut self, rings: &Rings<'_>) -> Result<(), Broken> {
        rings.put(rings.device, 2, &DISABLE.to_le_bytes())
    }

    pub(super) fn ask(&mut self, rings: &Rings<'_>) -> Result<bool, Broken> {
        if rings.events {
            rings.put(rings.device, 0, &self.next_available.bits().to_le_bytes())?;
            fence(Ordering::Release);
            rings.put(rings.device, 2, &ONE.to_le_bytes())?;
        } else {
            rings.put(rings.device, 2, &ENABLE.to_le_bytes())?;
        }
        fence(Ordering::SeqCst);
        self.is_available(rings)
    }

    fn is_available(&self, rings: &Rings<'_>) -> Result<bool, Broken> {
        let Place { index, wrap } = self.next_available;
        let flags = rings.read_u16(rings.descriptors, LEN * u64::from(index) + 14)?;
        Ok((flags & AVAILABLE != 0) == wrap && (flags & USED != 0) != wrap)
    }
}
