//! Interrupts on their way to the local APICs in the kernel: messages, routes and eventfds.
//!
//! Of the split interrupt controller the kernel has the local APICs. A message goes there by itself (`KVM_SIGNAL_MSI`),
//! but the end of a level-triggered interrupt is told only for vectors that a routing entry of one of the first
//! [`IOAPIC_PINS`] interrupt numbers holds. So each level-triggered message is put into one of these entries before it is
//! sent for the first time.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use base::Event;
use engine::{Error, MsiMessage, Result};
use kvm_bindings::{
    KVM_IRQ_ROUTING_MSI, KVM_IRQFD_FLAG_DEASSIGN, KvmIrqRouting, kvm_irq_routing_entry, kvm_irqfd, kvm_msi,
};
use kvm_ioctls::VmFd;

use crate::ioctl;

/// The interrupt numbers whose level-triggered messages the kernel watches for their end.
pub(crate) const IOAPIC_PINS: u32 = 24;
/// The most routing entries that Linux takes.
const MOST_ROUTES: u32 = 4096;
/// The bit of a message's data that says level-triggered (SDM vol. 3A, 11.11.2).
const LEVEL_TRIGGERED: u32 = 1 << 15;

/// The routing table of a VM.
#[derive(Default)]
pub(crate) struct Routes(Mutex<Table>);

#[derive(Default)]
struct Table {
    /// Level-triggered messages, the one used last at the end.
    level: Vec<(u32, MsiMessage)>,
    /// Messages of eventfds by their interrupt number.
    events: BTreeMap<u32, MsiMessage>,
}

impl Routes {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Delivers `message`.
    pub(crate) fn send(&self, vm: &VmFd, message: MsiMessage) {
        if message.data & LEVEL_TRIGGERED != 0 {
            let mut table = self.lock();
            if table.hold(message)
                && let Err(error) = table.write(vm)
            {
                tracing::warn!("the end of interrupt {:#x} will not be told: {error}", message.data & 0xff);
            }
        }
        let msi = kvm_msi {
            address_lo: message.address as u32,
            address_hi: (message.address >> 32) as u32,
            data: message.data,
            ..Default::default()
        };
        // Zero and errors say that nobody has taken it, as on the bus of a real machine.
        if let Err(error) = vm.signal_msi(msi) {
            tracing::debug!(?message, %error, "a message that nobody takes");
        }
    }

    /// Has the kernel tell the end of level-triggered interrupts that CPU `apic_id` has been given elsewhere: those whose
    /// vector is set in `vectors`.
    pub(crate) fn expect(&self, vm: &VmFd, apic_id: u32, vectors: &[u32; 8]) -> Result<()> {
        let address = u64::from(apic_id & !0xff) << 32 | 0xfee0_0000 | u64::from(apic_id & 0xff) << 12;
        let set = (0..256u32).filter(|vector| vectors[*vector as usize / 32] >> (vector % 32) & 1 != 0);
        let mut table = self.lock();
        let mut new = false;
        for vector in set {
            new |= table.hold(MsiMessage { address, data: vector | LEVEL_TRIGGERED | 1 << 14 });
        }
        if new { table.write(vm) } else { Ok(()) }
    }

    /// Has `event` deliver `message` when it is signalled. Gives the interrupt number.
    pub(crate) fn connect(&self, vm: &VmFd, message: MsiMessage, event: &Event) -> Result<u32> {
        let mut table = self.lock();
        let Some(gsi) = (IOAPIC_PINS..MOST_ROUTES).find(|gsi| !table.events.contains_key(gsi)) else {
            return Err(Error::Config("KVM has no more interrupt routes".into()));
        };
        table.events.insert(gsi, message);
        let connected = table.write(vm).and_then(|()| {
            let irqfd = kvm_irqfd { fd: event.as_fd().as_raw_fd() as u32, gsi, ..Default::default() };
            let what = "KVM refuses to connect an eventfd to an interrupt".into();
            ioctl::irqfd(vm, irqfd).map_err(|source| Error::Host { what, source })
        });
        if let Err(error) = connected {
            table.events.remove(&gsi);
            return Err(error);
        }
        Ok(gsi)
    }

    /// Takes a connection of [`Routes::connect`] away.
    pub(crate) fn disconnect(&self, vm: &VmFd, gsi: u32, event: &Event) {
        let flags = KVM_IRQFD_FLAG_DEASSIGN;
        let irqfd = kvm_irqfd { fd: event.as_fd().as_raw_fd() as u32, gsi, flags, ..Default::default() };
        if let Err(error) = ioctl::irqfd(vm, irqfd) {
            tracing::warn!(gsi, %error, "an eventfd stays connected");
            return;
        }
        let mut table = self.lock();
        table.events.remove(&gsi);
        if let Err(error) = table.write(vm) {
            tracing::warn!(gsi, %error, "an interrupt route stays");
        }
    }
}

impl Table {
    /// Notes a level-triggered message as just used. True if the kernel has to be told.
    fn hold(&mut self, message: MsiMessage) -> bool {
        if let Some(at) = self.level.iter().position(|(_, held)| *held == message) {
            let used = self.level.remove(at);
            self.level.push(used);
            return false;
        }
        let free = (0..IOAPIC_PINS).find(|gsi| self.level.iter().all(|(used, _)| used != gsi));
        let gsi = free.unwrap_or_else(|| self.level.remove(0).0);
        self.level.push((gsi, message));
        true
    }

    /// Tells the kernel all routes.
    fn write(&self, vm: &VmFd) -> Result<()> {
        let routes = self.level.iter().copied().chain(self.events.iter().map(|(gsi, message)| (*gsi, *message)));
        let entries: Vec<_> = routes.map(|(gsi, message)| entry(gsi, message)).collect();
        let routing = KvmIrqRouting::from_entries(&entries).map_err(|e| Error::Internal(format!("{e:?}")))?;
        vm.set_gsi_routing(&routing)
            .map_err(|error| Error::Host { what: "KVM refuses interrupt routes".into(), source: error.into() })
    }
}

fn entry(gsi: u32, message: MsiMessage) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_MSI, ..Default::default() };
    entry.u.msi.address_lo = message.address as u32;
    entry.u.msi.address_hi = (message.address >> 32) as u32;
    entry.u.msi.data = message.data;
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(vector: u32) -> MsiMessage {
        MsiMessage { address: 0xfee0_0000, data: vector | LEVEL_TRIGGERED }
    }

    #[test]
    fn level_triggered_messages_keep_their_entries_and_the_oldest_makes_way() {
        let mut table = Table::default();
        assert!((0..24).all(|vector| table.hold(level(vector))));
        assert!(!table.hold(level(0)), "known");
        assert!(table.hold(level(100)), "new");
        assert!(!table.hold(level(0)), "used lately");
        assert!(table.hold(level(1)), "the oldest has made way");
        let mut numbers: Vec<_> = table.level.iter().map(|(gsi, _)| *gsi).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..24).collect::<Vec<_>>());
    }
}
