//! The socket that the CPUs are plugged into: the partition that runs the guest now. Devices know the socket only, so
//! that a guest can go on in another partition.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use base::Event;
use engine::{Clock, DirtyLog, Doorbell, IoAddr, IrqFd, MsiMessage, Partition, Result, Signal, Vcpu};
use memory::GuestMemory;
use x86::CpuModel;

/// More messages than the machine's devices send while it is paused.
const MOST_HELD: usize = 4096;

/// What reaches the CPUs from the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Message {
    Msi(MsiMessage),
    Signal(u32, Signal),
}

struct Plugged {
    partition: Arc<dyn Partition>,
    /// While the CPUs are between two partitions: what has come for them.
    held: Option<Vec<Message>>,
}

/// The socket.
pub(crate) struct Socket {
    plugged: RwLock<Plugged>,
    /// The clock of all its partitions.
    clock: Clock,
}

impl Socket {
    pub(crate) fn new(partition: Arc<dyn Partition>) -> Self {
        let clock = partition.clock().clone();
        Self { plugged: RwLock::new(Plugged { partition, held: None }), clock }
    }

    fn read(&self) -> RwLockReadGuard<'_, Plugged> {
        self.plugged.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Plugged> {
        self.plugged.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn partition(&self) -> Arc<dyn Partition> {
        Arc::clone(&self.read().partition)
    }

    /// From now on messages wait.
    pub(crate) fn hold(&self) {
        self.write().held.get_or_insert_default();
    }

    /// Has them delivered, to `partition` if there is a new one, and so those that come from now on.
    pub(crate) fn release(&self, partition: Option<Arc<dyn Partition>>) {
        let mut plugged = self.write();
        if let Some(partition) = partition {
            plugged.partition = partition;
        }
        let held = plugged.held.take().unwrap_or_default();
        held.into_iter().for_each(|message| deliver(&*plugged.partition, message));
    }

    fn send(&self, message: Message) {
        let plugged = self.read();
        if plugged.held.is_none() {
            return deliver(&*plugged.partition, message);
        }
        drop(plugged);
        let mut plugged = self.write();
        match &mut plugged.held {
            None => deliver(&*plugged.partition, message),
            // An interrupt that waits already is the same one; a signal's last level counts.
            Some(held) if matches!(message, Message::Msi(_)) && held.contains(&message) => {}
            Some(held) if held.len() < MOST_HELD => held.push(message),
            Some(_) => tracing::warn!(?message, "lost on the way between two engines"),
        }
    }
}

fn deliver(partition: &dyn Partition, message: Message) {
    match message {
        Message::Msi(msi) => partition.send_msi(msi),
        Message::Signal(cpu, signal) => partition.signal(cpu, signal),
    }
}

impl Partition for Socket {
    fn vcpu(&self, id: u32, model: &CpuModel) -> Result<Box<dyn Vcpu>> {
        self.partition().vcpu(id, model)
    }

    fn send_msi(&self, msg: MsiMessage) {
        self.send(Message::Msi(msg));
    }

    fn signal(&self, cpu: u32, signal: Signal) {
        self.send(Message::Signal(cpu, signal));
    }

    fn layout_changed(&self, mem: &GuestMemory) -> Result<()> {
        self.partition().layout_changed(mem)
    }

    fn clock(&self) -> &Clock {
        &self.clock
    }

    fn dirty(&self) -> &dyn DirtyLog {
        self
    }

    fn msi_event(&self, msg: MsiMessage) -> Option<IrqFd> {
        self.partition().msi_event(msg)
    }

    fn doorbell(&self, at: IoAddr, event: &Event) -> Option<Doorbell> {
        self.partition().doorbell(at, event)
    }
}

impl DirtyLog for Socket {
    fn start(&self) {
        self.partition().dirty().start();
    }

    fn stop(&self) {
        self.partition().dirty().stop();
    }

    fn collect(&self, page: &mut dyn FnMut(u64)) {
        self.partition().dirty().collect(page);
    }
}
