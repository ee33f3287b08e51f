//! What a virtio device does, behind whatever transport.

use machine::Snapshot;

use super::{Broken, Queue};

/// A kind of device, as virtio 1.2, chapter 5 has them. The transport holds its lock around each call.
///
/// A kind that waits for something takes the chains that are available, remembers their tokens, and rings the bell when it
/// has something to give back; the transport calls [`Kind::finished`] then. Its state is saved when nothing is under way.
pub trait Kind: Snapshot + Send {
    /// The device ID (virtio 1.2, 5).
    fn id(&self) -> u16;

    /// PCI class, subclass and programming interface in bits 16, 8 and 0.
    fn class(&self) -> u32;

    /// The features of the kind, bits 0 to 23 and 50 up. Those of rings and transport are not its business.
    fn features(&self) -> u64;

    /// The most places of each of its queues, powers of two.
    fn queues(&self) -> Vec<u16>;

    /// The configuration that the driver reads.
    fn config(&self) -> Vec<u8>;

    /// The driver writes the configuration.
    fn write_config(&mut self, offset: u64, data: &[u8]);

    /// Driver and device have agreed on these features.
    fn agree(&mut self, features: u64);

    /// There may be something in a queue. The work is bounded: what is too much is left, and the queue told to
    /// [hold](Queue::hold).
    ///
    /// # Errors
    /// [`Broken`] when the driver has broken the rules.
    fn notified(&mut self, index: usize, queues: &mut [Queue]) -> Result<(), Broken>;

    /// Gives back what is finished: all of it, whatever goes wrong.
    ///
    /// # Errors
    /// As [`Kind::notified`], the first one.
    fn finished(&mut self, queues: &mut [Queue]) -> Result<(), Broken>;

    /// Hangs up the bell, which is rung when [`Kind::finished`] has something to do, on a thread that holds no lock.
    fn on_finished(&mut self, ring: Box<dyn Fn() + Send + Sync>);

    /// Returns when the disks are at nothing; what they have finished is still to be given back, and may go on then.
    fn drain(&mut self);

    /// Whether all is given back.
    fn is_idle(&self) -> bool;

    /// Back to the state of power-on. What was under way is waited for, and forgotten.
    fn reset(&mut self);
}
