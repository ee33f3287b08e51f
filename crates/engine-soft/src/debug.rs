//! Watched addresses: the guest's debug registers (SDM vol. 3B, 18.2) and the debugger's breakpoints.

use engine::{BreakpointKind, Breakpoints};
use x86::bits::cr4;

use crate::cpu::Cpu;

/// Addresses that need a closer look.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    /// From DR0 to DR3: first address, length, whether reads count too, the bit of DR6.
    data: Vec<(u64, u64, bool, u64)>,
    /// From DR0 to DR3: address and bit of DR6.
    code: Vec<(u64, u64)>,
    /// With CR4.DE, from DR0 to DR3: first port, length, the bit of DR6.
    ports: Vec<(u64, u64, u64)>,
    /// The debugger's.
    debugger: Breakpoints,
    /// Where it was stopped last: going on from there does not stop again.
    pub(crate) stopped_at: Option<u64>,
    /// DR6 bits of the data breakpoints that the current instruction has met.
    pub(crate) hit: u64,
}

impl Watch {
    /// Whether each instruction has to be looked at.
    #[inline]
    pub(crate) fn steps(&self) -> bool {
        let guest = !(self.code.is_empty() && self.data.is_empty() && self.ports.is_empty());
        guest || self.debugger.single_step || !self.debugger.list.is_empty()
    }

    /// Whether data in the page at `page` is watched.
    pub(crate) fn covers(&self, page: u64) -> bool {
        self.data.iter().any(|(at, len, ..)| at.wrapping_add(len - 1) >> 12 >= page >> 12 && at >> 12 <= page >> 12)
    }

    /// Whether the debugger steps.
    pub(crate) fn single_step(&self) -> bool {
        self.debugger.single_step
    }

    /// Whether the debugger stops at `lin`.
    pub(crate) fn stops_at(&self, lin: u64) -> bool {
        self.debugger.list.iter().any(|b| b.kind == BreakpointKind::Execute && b.addr == lin)
    }

    /// The DR6 bits of the guest's instruction breakpoints at `lin`.
    pub(crate) fn code_at(&self, lin: u64) -> u64 {
        self.code.iter().filter(|(at, _)| *at == lin).fold(0, |all, (_, bit)| all | bit)
    }
}

impl Cpu {
    /// Takes up a change of DR0 to DR3, DR7 or CR4.DE.
    pub(crate) fn watch_changed(&mut self) {
        let dr7 = self.dr[5];
        self.watch.data.clear();
        self.watch.code.clear();
        self.watch.ports.clear();
        for i in 0..4 {
            if dr7 >> (2 * i) & 3 == 0 {
                continue;
            }
            let len = [1, 2, 8, 4][(dr7 >> (18 + 4 * i) & 3) as usize];
            let at = self.dr[i as usize];
            match dr7 >> (16 + 4 * i) & 3 {
                0 => self.watch.code.push((at, 1 << i)),
                1 => self.watch.data.push((at & !(len - 1), len, false, 1 << i)),
                3 => self.watch.data.push((at & !(len - 1), len, true, 1 << i)),
                2 if self.cr4 & cr4::DE != 0 => self.watch.ports.push((at & !(len - 1), len, 1 << i)),
                // Without CR4.DE the encoding is undefined.
                _ => {}
            }
        }
        self.mmu_flush_all();
    }

    /// Sets the debugger's breakpoints.
    pub(crate) fn set_debugger(&mut self, breakpoints: &Breakpoints) {
        self.watch.debugger = breakpoints.clone();
    }

    /// Notes an access to `size` ports from `port` that may be watched.
    pub(crate) fn note_port(&mut self, port: u16, size: u64) {
        let port = u64::from(port);
        let hit = self.watch.ports.iter().filter(|(at, len, _)| port < at.saturating_add(*len) && *at < port + size);
        self.watch.hit |= hit.fold(0, |all, (.., bit)| all | bit);
    }

    /// Notes an access that may be watched.
    #[inline]
    pub(crate) fn note_watch(&mut self, lin: u64, size: u64, write: bool) {
        if self.watch.data.is_empty() {
            return;
        }
        let hit = self.watch.data.iter().filter(|(at, len, reads, _)| {
            (write || *reads) && lin < at.saturating_add(*len) && *at < lin.saturating_add(size)
        });
        self.watch.hit |= hit.fold(0, |all, (.., bit)| all | bit);
    }
}
