//! What ends an entry, and what is done about it.

use std::time::Instant;

use engine::{CpuIo, Result, Stop};
use kvm_bindings::{
    KVM_EXIT_DEBUG, KVM_EXIT_DIRTY_RING_FULL, KVM_EXIT_FAIL_ENTRY, KVM_EXIT_HLT, KVM_EXIT_INTERNAL_ERROR,
    KVM_EXIT_INTR, KVM_EXIT_IO, KVM_EXIT_IO_IN, KVM_EXIT_IOAPIC_EOI, KVM_EXIT_IRQ_WINDOW_OPEN, KVM_EXIT_MMIO,
    KVM_EXIT_SHUTDOWN, KVM_EXIT_SYSTEM_EVENT, KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN,
};

use crate::failure;
use crate::partition::lock;
use crate::vcpu::KvmVcpu;

impl KvmVcpu {
    /// Does what the last exit asks for: whether it ends the run, and whether its instruction only ends with the next
    /// entry.
    pub(crate) fn attend(&mut self, io: &dyn CpuIo) -> Result<(Option<Stop>, bool)> {
        let reason = self.seat.page().exit().reason();
        let stop = match reason {
            KVM_EXIT_IO => {
                self.timed(|cpu| cpu.port_access(io));
                return Ok((None, true));
            }
            KVM_EXIT_MMIO => {
                self.counters.mmio += 1;
                self.timed(|cpu| cpu.memory_access(io));
                return Ok((None, true));
            }
            KVM_EXIT_IOAPIC_EOI => {
                self.counters.eoi += 1;
                io.eoi(self.seat.page().exit().eoi().vector);
                None
            }
            KVM_EXIT_IRQ_WINDOW_OPEN => {
                self.counters.interrupt_window += 1;
                None
            }
            KVM_EXIT_DEBUG => {
                self.counters.debug += 1;
                let exit = self.seat.page().exit().debug().arch;
                self.debugger.event(&self.fd, &exit)?.map(Stop::Debug)
            }
            KVM_EXIT_SHUTDOWN => Some(Stop::TripleFault),
            KVM_EXIT_SYSTEM_EVENT => self.system_event()?,
            KVM_EXIT_DIRTY_RING_FULL => {
                self.counters.dirty_ring += 1;
                let slots = lock(&self.shared.slots);
                self.shared.log.make_room(&self.shared.vm, &slots)?;
                None
            }
            // The kernel halts the CPU by itself and says why it was interrupted by an error.
            KVM_EXIT_HLT | KVM_EXIT_INTR => {
                self.counters.other += 1;
                None
            }
            KVM_EXIT_INTERNAL_ERROR => {
                return Err(failure::internal(self.id, &self.fd, self.seat.page().exit(), &self.shared.memory()));
            }
            KVM_EXIT_FAIL_ENTRY => {
                return Err(failure::entry(self.id, &self.fd, self.seat.page().exit(), &self.shared.memory()));
            }
            other => return Err(failure::unknown(self.id, &self.fd, other, &self.shared.memory())),
        };
        Ok((stop, false))
    }

    /// Runs a device's code and counts its time.
    fn timed(&mut self, access: impl FnOnce(&mut Self)) {
        let start = Instant::now();
        access(self);
        let spent = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.counters.device_ns = self.counters.device_ns.saturating_add(spent);
    }

    /// A port access; a string instruction's elements come together.
    fn port_access(&mut self, io: &dyn CpuIo) {
        let page = self.seat.page();
        let access = page.exit().io();
        let size = usize::from(access.size).clamp(1, 4);
        let start = usize::try_from(access.data_offset).unwrap_or(usize::MAX);
        // The kernel keeps the data within one page.
        for n in 0..(access.count as usize).min(4096) {
            self.counters.pio += 1;
            let at = start.saturating_add(n * size);
            let mut data = [0xff; 4];
            let Some(data) = data.get_mut(..size) else { return };
            if u32::from(access.direction) == KVM_EXIT_IO_IN {
                io.port_read(access.port, data);
                page.write(at, data);
            } else {
                page.read(at, data);
                io.port_write(access.port, data);
            }
        }
    }

    /// An access to device memory, or a write to ROM, which nobody answers.
    fn memory_access(&mut self, io: &dyn CpuIo) {
        let exit = self.seat.page().exit();
        let access = exit.mmio();
        let mut data = access.data;
        let len = (access.len as usize).min(data.len());
        let mut at = 0;
        // Odd lengths are what an access across pages leaves on either side.
        while at < len {
            let n = 1 << (len - at).ilog2();
            let addr = access.phys_addr.wrapping_add(at as u64);
            if let Some(part) = data.get_mut(at..at + n) {
                if access.is_write != 0 { io.mmio_write(addr, part) } else { io.mmio_read(addr, part) }
            }
            at += n;
        }
        if access.is_write == 0 {
            exit.answer_mmio(data);
        }
    }

    /// The VM asks for its end.
    fn system_event(&mut self) -> Result<Option<Stop>> {
        self.counters.other += 1;
        match self.seat.page().exit().system_event().type_ {
            KVM_SYSTEM_EVENT_SHUTDOWN => Ok(Some(Stop::PowerOff)),
            KVM_SYSTEM_EVENT_RESET => Ok(Some(Stop::Reset)),
            other => {
                let what = format!("reports event {other} of the whole VM, which Husk does not know");
                Err(failure::report(self.id, &self.fd, &what, None, &self.shared.memory()))
            }
        }
    }
}
