//! A partition: what the vCPUs of one machine share.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use engine::{Clock, DirtyLog, EngineConfig, Error, MsiMessage, Partition, Result, Signal, Vcpu};
use memory::{CodeListener, Gpa, GuestMemory};
use x86::CpuModel;
use x86::lapic::{DeliveryMode, IpiRequest};

use crate::fpu::Thunks;
use crate::options::SoftOptions;
use crate::pending::{Pending, Slot};
use crate::stats::Stopwatch;
use crate::vcpu::SoftVcpu;

/// What all vCPUs of a partition see.
pub(crate) struct Shared {
    pub(crate) memory: GuestMemory,
    pub(crate) clock: Clock,
    pub(crate) slots: Vec<Arc<Slot>>,
    pub(crate) thunks: Thunks,
    pub(crate) options: SoftOptions,
    pub(crate) stopwatch: Stopwatch,
    /// Puts writes to code into the mail of all vCPUs. Kept for the memory, which only borrows it.
    _code_listener: Arc<CodeListener>,
    /// Held by the vCPU that makes a page a code page.
    pub(crate) code_lock: Mutex<()>,
    /// Held by a LOCKed access across pages.
    pub(crate) split_lock: Mutex<()>,
    /// Where the search for the lowest priority starts, so that equals take turns.
    turn: AtomicU32,
}

/// The CPUs of one machine.
pub(crate) struct SoftPartition {
    shared: Arc<Shared>,
    ceiling: CpuModel,
    taken: Mutex<Vec<bool>>,
}

impl SoftPartition {
    pub(crate) fn new(
        cfg: &EngineConfig,
        memory: &GuestMemory,
        clock: &Clock,
        ceiling: CpuModel,
        options: SoftOptions,
    ) -> Result<Self> {
        let host = |what: &str| {
            let what = what.to_owned();
            move |source| Error::Host { what, source }
        };
        let thunks = Thunks::new().map_err(host("cannot map memory for host instructions"))?;
        let slots: Vec<_> = (0..cfg.vcpus).map(|id| Slot::new(id, clock)).collect();
        let told = slots.clone();
        let code_listener: Arc<CodeListener> =
            Arc::new(move |page, lines| told.iter().for_each(|slot| slot.post_code_write(page, lines)));
        memory.flags().listen(&code_listener);
        let shared = Arc::new(Shared {
            memory: memory.clone(),
            slots,
            clock: clock.clone(),
            thunks,
            options,
            stopwatch: Stopwatch::start(),
            _code_listener: code_listener,
            code_lock: Mutex::new(()),
            split_lock: Mutex::new(()),
            turn: AtomicU32::new(0),
        });
        Ok(Self { shared, ceiling, taken: Mutex::new(vec![false; cfg.vcpus as usize]) })
    }
}

impl Shared {
    /// Sends a message to the local APICs that accept it; `from` is the sender if it is one of them.
    pub(crate) fn send(&self, request: &IpiRequest, from: Option<u32>) {
        let accepting = || {
            let accepts =
                move |(id, slot): &(usize, &Arc<Slot>)| slot.lapic().accepts(request, from == Some(*id as u32));
            self.slots.iter().enumerate().filter(accepts)
        };
        if request.mode == DeliveryMode::LowestPriority {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed) as usize % self.slots.len();
            let rank = |(id, slot): &(usize, &Arc<Slot>)| {
                let lapic = slot.lapic();
                (!lapic.is_enabled(), lapic.ppr() >> 4, (id + self.slots.len() - turn) % self.slots.len())
            };
            if let Some((_, slot)) = accepting().min_by_key(rank) {
                slot.deliver(request);
            }
            return;
        }
        accepting().for_each(|(_, slot)| slot.deliver(request));
    }
}

impl SoftPartition {
    pub(crate) fn soft_vcpu(&self, id: u32, model: &CpuModel) -> Result<SoftVcpu> {
        let missing = model.missing_from(&self.ceiling);
        if !missing.is_empty() {
            let names: Vec<_> = missing.iter().map(ToString::to_string).collect();
            return Err(Error::Config(format!("CPU model {}: this host lacks {}", model.name(), names.join(", "))));
        }
        let mut taken = self.taken.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match taken.get_mut(id as usize) {
            Some(taken) if !*taken => *taken = true,
            Some(_) => return Err(Error::Config(format!("vCPU {id} exists already"))),
            None => return Err(Error::Config(format!("vCPU {id}: the partition has {}", self.shared.slots.len()))),
        }
        Ok(SoftVcpu::new(id, model, &self.shared))
    }
}

impl Partition for SoftPartition {
    fn vcpu(&self, id: u32, model: &CpuModel) -> Result<Box<dyn Vcpu>> {
        Ok(Box::new(self.soft_vcpu(id, model)?))
    }

    fn send_msi(&self, msg: MsiMessage) {
        if let Some(request) = IpiRequest::from_msi(msg.address, msg.data) {
            self.shared.send(&request, None);
        }
    }

    fn signal(&self, cpu: u32, signal: Signal) {
        let Some(slot) = self.shared.slots.get(cpu as usize) else { return };
        match signal {
            Signal::ExtInt(high) => slot.set_extint(high),
            Signal::Nmi => slot.post(Pending::NMI),
            Signal::Init => slot.post_init(),
            // There is no system-management mode.
            Signal::Smi => {}
        }
    }

    fn layout_changed(&self, _: &GuestMemory) -> Result<()> {
        self.shared.slots.iter().for_each(|slot| slot.post(Pending::LAYOUT));
        Ok(())
    }

    fn clock(&self) -> &Clock {
        &self.shared.clock
    }

    fn dirty(&self) -> &dyn DirtyLog {
        &*self.shared
    }
}

impl DirtyLog for Shared {
    fn start(&self) {
        self.collect(&mut |_| {});
    }

    /// Nothing to do: pages tell that they are dirty whether somebody asks or not, for it costs nothing.
    fn stop(&self) {}

    fn collect(&self, page: &mut dyn FnMut(u64)) {
        let mut dirty = Vec::new();
        for region in self.memory.regions() {
            for at in (region.start.0..region.start.0 + region.len).step_by(memory::PAGE_SIZE as usize) {
                if self.memory.host_page(Gpa(at)).is_some_and(|p| self.memory.flags().take_dirty(p.index)) {
                    dirty.push(at);
                }
            }
        }
        // Pages that are written silently have to report again: all rights to that are withdrawn after the flags are
        // clear, and what was written in between is in the pages the caller is about to read.
        self.withdraw_write_rights(None);
        dirty.into_iter().for_each(page);
    }
}

#[cfg(test)]
mod tests {
    use engine::{DirtyLog, EngineConfig, Vcpu};
    use memory::{Gpa, GuestMemory, Kind, Region};
    use x86::{CpuModel, CpuState, Segment};

    use super::SoftPartition;
    use crate::options::SoftOptions;

    #[test]
    fn the_dirty_log_tells_of_each_page_once_per_write() {
        let mem = GuestMemory::new(&[Region { start: Gpa(0), len: 0x8000, kind: Kind::Ram }]).unwrap();
        // Real mode: mov [bx], al; inc bx; jmp $-5, in page 1; BX goes through page 5.
        mem.write(Gpa(0x1000), &[0x88, 0x07, 0x43, 0xeb, 0xfb]).unwrap();
        let model = CpuModel::named("x86-64-v2").unwrap();
        let config = EngineConfig { vcpus: 1, name: "test".into() };
        let partition =
            SoftPartition::new(&config, &mem, &engine::Clock::start().unwrap(), model.clone(), SoftOptions::default())
                .unwrap();
        let mut vcpu = partition.soft_vcpu(0, &model).unwrap();
        let mut state = CpuState::power_on(0, model.signature());
        state.seg = [Segment::real(0); 6];
        state.rip = 0x1000;
        state.gpr[3] = 0x5000;
        vcpu.set_state(&state).unwrap();
        let collect = || {
            let mut pages = Vec::new();
            partition.shared.collect(&mut |page| pages.push(page));
            pages
        };
        partition.shared.start();
        assert_eq!(collect(), []);
        for _ in 0..3 {
            assert_eq!(vcpu.cpu.run_blocks(100), None);
            assert_eq!(collect(), [0x5000]);
            assert_eq!(collect(), []);
        }
    }
}
