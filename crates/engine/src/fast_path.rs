//! Ways between devices and CPUs that do without the vCPU's thread, where an engine has them.

use std::any::Any;

use base::Event;

/// An address that the guest writes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IoAddr {
    /// Ports or memory.
    pub space: IoSpace,
    /// The port number or guest-physical address.
    pub addr: u64,
    /// The width of the writes meant, in bytes: 1, 2, 4 or 8; zero for any.
    pub len: u8,
    /// The value written, if only one is meant; it needs a width.
    pub value: Option<u64>,
}

/// The two spaces of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IoSpace {
    /// I/O ports.
    Port,
    /// Guest-physical memory.
    Memory,
}

/// A message-signalled interrupt that an event delivers. Dropping it takes the connection away.
pub struct IrqFd {
    event: Event,
    _connection: Box<dyn Any + Send + Sync>,
}

impl IrqFd {
    /// The interrupt that `event` delivers for as long as `connection` lives.
    pub fn new(event: Event, connection: Box<dyn Any + Send + Sync>) -> Self {
        Self { event, _connection: connection }
    }

    /// What to signal.
    #[must_use]
    pub fn event(&self) -> &Event {
        &self.event
    }
}

impl std::fmt::Debug for IrqFd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("IrqFd").field(&self.event).finish()
    }
}

/// An address whose writes signal an event instead of reaching the bus. Dropping it takes the connection away.
pub struct Doorbell {
    _connection: Box<dyn Any + Send + Sync>,
}

impl Doorbell {
    /// A doorbell for as long as `connection` lives.
    #[must_use]
    pub fn new(connection: Box<dyn Any + Send + Sync>) -> Self {
        Self { _connection: connection }
    }
}

impl std::fmt::Debug for Doorbell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Doorbell")
    }
}
