//! Message-signalled interrupts as a capability of a function (PCI 3.0, 6.8.1): 64-bit address, per-vector masking.

use super::{ConfigError, ConfigSpace};
use crate::{MsiMessage, MsiPort};

/// The capability's ID.
const ID: u8 = 5;
/// Offsets in the capability.
const CONTROL: usize = 2;
const ADDRESS: usize = 4;
const DATA: usize = 12;
const MASK: usize = 16;
const PENDING: usize = 20;
const LENGTH: usize = 24;
/// Bits of the message control register.
const ENABLE: u16 = 1;
const WIDE: u16 = 1 << 7;
const MASKABLE: u16 = 1 << 8;

/// The capability of a function. Its registers are in the function's configuration space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Msi {
    at: usize,
    /// The vectors that the function asks for, as a power of two.
    most: u8,
}

impl Msi {
    /// Gives a function the capability, with 2 to the power of `vectors` vectors, 5 at most.
    ///
    /// # Errors
    /// [`ConfigError::Full`] when there is no room for it.
    pub fn add(config: &mut ConfigSpace, vectors: u8) -> Result<Self, ConfigError> {
        let most = vectors.min(5);
        let control = WIDE | MASKABLE | u16::from(most) << 1;
        let mut body = [0; LENGTH - CONTROL];
        let mut writable = [0; LENGTH - CONTROL];
        body[..2].copy_from_slice(&control.to_le_bytes());
        writable[..2].copy_from_slice(&(ENABLE | 7 << 4).to_le_bytes());
        writable[ADDRESS - CONTROL..DATA - CONTROL].fill(0xff);
        writable[ADDRESS - CONTROL] = 0xfc;
        writable[DATA - CONTROL..DATA - CONTROL + 2].fill(0xff);
        let mask = u32::MAX >> (32 - (1 << most));
        writable[MASK - CONTROL..PENDING - CONTROL].copy_from_slice(&mask.to_le_bytes());
        let at = config.add_capability(ID, &body, &writable)?;
        Ok(Self { at: at.into(), most })
    }

    /// Whether the guest has chosen messages: the function then leaves its interrupt pin alone.
    #[must_use]
    pub fn is_enabled(&self, config: &ConfigSpace) -> bool {
        config.u16(self.at + CONTROL) & ENABLE != 0
    }

    /// Whether a write of so many bytes at `offset` touches the capability: [`Msi::follow`] is then due.
    #[must_use]
    pub fn covers(&self, offset: u16, len: usize) -> bool {
        let start = usize::from(offset);
        start < self.at + LENGTH && start + len > self.at
    }

    /// Sends the message of a vector, or notes it while that is masked. Nothing happens while messages are off.
    ///
    /// A guest that has granted fewer vectors than asked for gets the first of them for the others.
    pub fn send(&self, config: &mut ConfigSpace, vector: u8, port: &MsiPort) {
        if !self.is_enabled(config) {
            return;
        }
        let granted = 1u8 << self.granted(config);
        let vector = if vector < granted { vector } else { 0 };
        if config.u32(self.at + MASK) >> vector & 1 != 0 {
            let pending = config.u32(self.at + PENDING);
            config.set_u32(self.at + PENDING, pending | 1 << vector);
        } else {
            port.send(self.message(config, vector));
        }
    }

    /// Sends what is no longer masked: to be called after the guest has written the capability.
    pub fn follow(&self, config: &mut ConfigSpace, port: &MsiPort) {
        if !self.is_enabled(config) {
            return;
        }
        let pending = config.u32(self.at + PENDING);
        let ready = pending & !config.u32(self.at + MASK);
        config.set_u32(self.at + PENDING, pending & !ready);
        let vectors = 0..1u8 << self.most;
        vectors.filter(|vector| ready >> vector & 1 != 0).for_each(|vector| port.send(self.message(config, vector)));
    }

    /// The granted vectors, as a power of two.
    fn granted(&self, config: &ConfigSpace) -> u8 {
        ((config.u16(self.at + CONTROL) >> 4 & 7) as u8).min(self.most)
    }

    fn message(&self, config: &ConfigSpace, vector: u8) -> MsiMessage {
        let address = u64::from(config.u32(self.at + ADDRESS)) | u64::from(config.u32(self.at + ADDRESS + 4)) << 32;
        // The lowest bits of the data tell the vector.
        let mask = (1u32 << self.granted(config)) - 1;
        let data = u32::from(config.u16(self.at + DATA)) & !mask | u32::from(vector) & mask;
        MsiMessage { address, data }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::super::Identity;
    use super::*;

    fn port() -> (MsiPort, impl Fn() -> Vec<(u64, u32)>) {
        let sent = Arc::new(Mutex::new(Vec::new()));
        let list = Arc::clone(&sent);
        let port = MsiPort::from_fn(move |msg| list.lock().unwrap().push((msg.address, msg.data)));
        (port, move || std::mem::take(&mut *sent.lock().unwrap()))
    }

    #[test]
    fn messages_carry_their_vector_and_wait_while_masked() {
        let mut config = ConfigSpace::new(Identity::default());
        let msi = Msi::add(&mut config, 2).unwrap();
        let (port, sent) = port();
        msi.send(&mut config, 1, &port);
        assert_eq!(sent(), [], "off");
        assert_eq!(config.u16(msi.at + CONTROL), 0x184);
        let at = msi.at as u16;
        config.write(at + 4, &0xfee0_1007u32.to_le_bytes());
        config.write(at + 8, &1u32.to_le_bytes());
        config.write(at + 12, &0x4043u16.to_le_bytes());
        // On, with four vectors.
        config.write(at + 2, &(1u16 | 2 << 4).to_le_bytes());
        assert!(msi.is_enabled(&config) && msi.covers(at + 2, 2) && !msi.covers(at + 24, 4));
        msi.send(&mut config, 2, &port);
        assert_eq!(sent(), [(0x1_fee0_1004, 0x4042)]);
        config.write(at + 16, &[0xff; 4]);
        assert_eq!(config.u32(msi.at + MASK), 0xf);
        msi.send(&mut config, 3, &port);
        msi.send(&mut config, 3, &port);
        msi.send(&mut config, 0, &port);
        assert_eq!((sent(), config.u32(msi.at + PENDING)), (Vec::new(), 9));
        config.write(at + 20, &[0; 4]);
        config.write(at + 16, &[1]);
        msi.follow(&mut config, &port);
        assert_eq!((sent(), config.u32(msi.at + PENDING)), (vec![(0x1_fee0_1004, 0x4043)], 1));
        // One vector granted: all come as the first.
        config.write(at + 2, &1u16.to_le_bytes());
        config.write(at + 16, &[0]);
        msi.follow(&mut config, &port);
        msi.send(&mut config, 3, &port);
        assert_eq!(sent(), [(0x1_fee0_1004, 0x4043); 2]);
    }
}
