//! The common configuration: features, status, and the queues one at a time (virtio 1.2, 4.1.4.3).

use super::VirtioPci;
use super::layout::{COMMON_LEN, NOTIFY_STEP};
use crate::virtio::QueueState;

/// No message for this.
pub(super) const NO_VECTOR: u16 = 0xffff;

/// Device status (virtio 1.2, 2.1).
pub(super) mod status {
    pub(crate) const DRIVER_OK: u8 = 4;
    pub(crate) const FEATURES_OK: u8 = 8;
    pub(crate) const NEEDS_RESET: u8 = 64;
}

impl VirtioPci {
    /// The registers, as a driver would read them all.
    fn common(&self) -> [u8; COMMON_LEN as usize] {
        let half = |bits: u64, select: u32| match select {
            0 => bits as u32,
            1 => (bits >> 32) as u32,
            _ => 0,
        };
        let mut bytes = [0; COMMON_LEN as usize];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        let regs = &self.registers;
        put(0, &regs.device_select.to_le_bytes());
        put(4, &half(self.offered(), regs.device_select).to_le_bytes());
        put(8, &regs.driver_select.to_le_bytes());
        put(12, &half(regs.features, regs.driver_select).to_le_bytes());
        put(16, &regs.config_vector.to_le_bytes());
        put(18, &(self.queues.len() as u16).to_le_bytes());
        put(20, &[regs.status, 0]);
        put(22, &regs.queue_select.to_le_bytes());
        let selected = usize::from(regs.queue_select);
        if let (Some(queue), Some(vector)) = (self.queues.get(selected), regs.vectors.get(selected)) {
            let state = queue.state();
            put(24, &state.size.to_le_bytes());
            put(26, &vector.to_le_bytes());
            put(28, &u16::from(queue.is_enabled()).to_le_bytes());
            // The notification offset, counted in steps.
            put(30, &regs.queue_select.to_le_bytes());
            put(32, &state.descriptors.to_le_bytes());
            put(40, &state.driver.to_le_bytes());
            put(48, &state.device.to_le_bytes());
        } else {
            put(26, &NO_VECTOR.to_le_bytes());
        }
        bytes
    }

    pub(super) fn read_common(&self, offset: u64, data: &mut [u8]) {
        let bytes = self.common();
        for (byte, at) in data.iter_mut().zip(offset..) {
            *byte = usize::try_from(at).ok().and_then(|at| bytes.get(at).copied()).unwrap_or(0xff);
        }
    }

    /// A register is written whole; those of 64 bits in halves, too.
    pub(super) fn write_common(&mut self, offset: u64, data: &[u8]) {
        let mut bytes = [0; 8];
        bytes.iter_mut().zip(data).for_each(|(to, from)| *to = *from);
        let value = u64::from_le_bytes(bytes);
        let (word, long) = (value as u16, value as u32);
        match (offset, data.len()) {
            (0, 4) => self.registers.device_select = long,
            (8, 4) => self.registers.driver_select = long,
            (12, 4) => self.write_features(long),
            (16, 2) => self.registers.config_vector = self.vector(word),
            (20, 1) => self.write_status(value as u8),
            (22, 2) => self.registers.queue_select = word,
            (24, 2) => self.configure(|state| state.size = word),
            (26, 2) => {
                let (vector, selected) = (self.vector(word), self.registers.queue_select);
                if let Some(place) = self.registers.vectors.get_mut(usize::from(selected)) {
                    *place = vector;
                }
            }
            (28, 2) if word == 1 => self.enable_queue(),
            (32 | 36, 4 | 8) => self.configure(|state| overlay(&mut state.descriptors, offset - 32, value, data.len())),
            (40 | 44, 4 | 8) => self.configure(|state| overlay(&mut state.driver, offset - 40, value, data.len())),
            (48 | 52, 4 | 8) => self.configure(|state| overlay(&mut state.device, offset - 48, value, data.len())),
            (58, 2) if word == 1 => self.reset_queue(),
            _ => {}
        }
    }

    fn configure(&mut self, change: impl FnOnce(&mut QueueState)) {
        if let Some(queue) = self.queues.get_mut(usize::from(self.registers.queue_select)) {
            queue.configure(change);
        }
    }

    fn write_features(&mut self, value: u32) {
        let regs = &mut self.registers;
        if regs.status & status::FEATURES_OK != 0 {
            return;
        }
        match regs.driver_select {
            0 => regs.features = regs.features & !0xffff_ffff | u64::from(value),
            1 => regs.features = regs.features & 0xffff_ffff | u64::from(value) << 32,
            _ => {}
        }
    }

    /// A message that there is, or none.
    fn vector(&self, word: u16) -> u16 {
        if word < self.msix.messages() { word } else { NO_VECTOR }
    }
}

/// Writes a half of a register, or all of it.
fn overlay(register: &mut u64, half: u64, value: u64, len: usize) {
    *register = match (half, len) {
        (0, 8) => value,
        (0, _) => *register & !0xffff_ffff | value,
        (_, 4) => *register & 0xffff_ffff | value << 32,
        _ => *register,
    };
}

/// The queue that is notified at an offset of the part for that.
pub(super) fn notified(offset: u64) -> usize {
    (offset / u64::from(NOTIFY_STEP)) as usize
}
