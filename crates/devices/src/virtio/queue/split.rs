//! The split virtqueue: a table of descriptors, a ring of what is available and a ring of what is used (virtio 1.2, 2.7).

use std::sync::atomic::{Ordering, fence};

use serde::{Deserialize, Serialize};

use super::chain::{Chain, Token};
use super::descriptor::{Descriptor, INDIRECT, MOST, NEXT, Walk};
use super::{Broken, Rings};

/// Of the available ring: the driver wants no interrupts.
const NO_INTERRUPT: u16 = 1;
/// Of the used ring: the device wants no notifications.
const NO_NOTIFY: u16 = 1;
/// The rings start behind their flags and index.
const RING: u64 = 4;
/// Bytes of an entry of the used ring.
const USED: u64 = 8;

/// How far the device is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Split {
    next_available: u16,
    next_used: u16,
    /// What `next_used` was when the driver was last thought of.
    told: Option<u16>,
}

impl Split {
    pub(super) fn new() -> Self {
        Self { next_available: 0, next_used: 0, told: None }
    }

    pub(super) fn next(&mut self, rings: &Rings<'_>) -> Result<Option<Chain>, Broken> {
        if self.waiting(rings)? == 0 {
            return Ok(None);
        }
        fence(Ordering::Acquire);
        let place = u64::from(self.next_available % rings.size);
        let head = rings.read_u16(rings.driver, RING + 2 * place)?;
        self.next_available = self.next_available.wrapping_add(1);
        let mut walk = Walk::default();
        let (mut index, mut table, mut entries, mut most) =
            (head, rings.descriptors, u32::from(rings.size), u32::from(rings.size));
        let mut direct = true;
        loop {
            if u32::from(index) >= entries {
                return Err(Broken::Index { index });
            }
            let descriptor = Descriptor::read(rings.memory, table, index.into())?;
            let (flags, next) = descriptor.split();
            if flags & INDIRECT != 0 {
                entries = Walk::table(descriptor, flags, rings.indirect && direct)?;
                (index, table, most, direct) = (0, descriptor.at, MOST, false);
                continue;
            }
            walk.take(descriptor, flags, most)?;
            if flags & NEXT == 0 {
                break;
            }
            index = next;
        }
        let token = Token { id: head, places: 1 };
        Ok(Some(Chain { readable: walk.readable, writable: walk.writable, token }))
    }

    pub(super) fn finish(&mut self, rings: &Rings<'_>, token: Token, written: u32) -> Result<(), Broken> {
        let place = u64::from(self.next_used % rings.size);
        let entry = u64::from(token.id) | u64::from(written) << 32;
        rings.put(rings.device, RING + USED * place, &entry.to_le_bytes())?;
        self.next_used = self.next_used.wrapping_add(1);
        fence(Ordering::Release);
        rings.put(rings.device, 2, &self.next_used.to_le_bytes())
    }

    pub(super) fn wants_interrupt(&mut self, rings: &Rings<'_>) -> Result<bool, Broken> {
        fence(Ordering::SeqCst);
        if !rings.events {
            return Ok(rings.read_u16(rings.driver, 0)? & NO_INTERRUPT == 0);
        }
        let event = rings.read_u16(rings.driver, RING + 2 * u64::from(rings.size))?;
        let (new, old) = (self.next_used, self.told.replace(self.next_used));
        Ok(old.is_none_or(|old| new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)))
    }

    pub(super) fn hush(&mut self, rings: &Rings<'_>) -> Result<(), Broken> {
        // With events, the driver notifies only for the one that the device has asked for.
        if rings.events { Ok(()) } else { rings.put(rings.device, 0, &NO_NOTIFY.to_le_bytes()) }
    }

    pub(super) fn ask(&mut self, rings: &Rings<'_>) -> Result<bool, Broken> {
        if rings.events {
            let at = RING + USED * u64::from(rings.size);
            rings.put(rings.device, at, &self.next_available.to_le_bytes())?;
        } else {
            rings.put(rings.device, 0, &[0, 0])?;
        }
        fence(Ordering::SeqCst);
        Ok(self.waiting(rings)? != 0)
    }

    /// How many chains are available.
    fn waiting(&self, rings: &Rings<'_>) -> Result<u16, Broken> {
        let index = rings.read_u16(rings.driver, 2)?;
        let waiting = index.wrapping_sub(self.next_available);
        if waiting > rings.size { Err(Broken::Jump { index }) } else { Ok(waiting) }
    }
}
