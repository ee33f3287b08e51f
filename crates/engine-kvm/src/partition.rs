//! A partition: one VM of the kernel with its memory, interrupts and vCPUs.

use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use base::Event;
use engine::{
    Clock, DirtyLog, Doorbell, EngineConfig, Error, IoAddr, IoSpace, IrqFd, MsiMessage, Partition, Result, Signal, Vcpu,
};
use kvm_bindings::{
    KVM_CAP_SPLIT_IRQCHIP, kvm_enable_cap, kvm_ioeventfd, kvm_ioeventfd_flag_nr_datamatch,
    kvm_ioeventfd_flag_nr_deassign, kvm_ioeventfd_flag_nr_pio,
};
use kvm_ioctls::{Kvm, VmFd};
use memory::GuestMemory;
use x86::CpuModel;

use crate::capabilities::Capabilities;
use crate::cpuid::HostCpuid;
use crate::dirty::Log;
use crate::irq::{IOAPIC_PINS, Routes};
use crate::kick::Seat;
use crate::slots::{Slots, set_vmx_pages};
use crate::vcpu::KvmVcpu;
use crate::{ioctl, state};

/// The message that reaches one CPU by its APIC ID (SDM vol. 3A, 11.11.1), with this delivery mode.
fn message_to(apic_id: u32, mode: u32) -> MsiMessage {
    let (low, high) = (u64::from(apic_id & 0xff) << 12, u64::from(apic_id & !0xff) << 32);
    // The level bit: asserted.
    MsiMessage { address: high | 0xfee0_0000 | low, data: mode << 8 | 1 << 14 }
}

/// Delivery modes of a message (SDM vol. 3A, 11.11.2).
mod delivery {
    pub(super) const SMI: u32 = 2;
    pub(super) const NMI: u32 = 4;
    pub(super) const INIT: u32 = 5;
}

/// What all vCPUs of a partition see.
pub(crate) struct Shared {
    // Before the memory, so that the kernel's slots go first.
    pub(crate) vm: Arc<VmFd>,
    /// The memory of the slots; the newest last. It stays mapped for as long as the VM may use it.
    memory: Mutex<GuestMemory>,
    pub(crate) slots: Mutex<Slots>,
    pub(crate) routes: Routes,
    pub(crate) clock: Clock,
    pub(crate) capabilities: Capabilities,
    pub(crate) host_cpuid: Arc<HostCpuid>,
    pub(crate) state: Arc<state::Shared>,
    pub(crate) vcpus: u32,
    ceiling: CpuModel,
    seats: Vec<OnceLock<Arc<Seat>>>,
    pub(crate) log: Log,
}

/// A lock that a panicking thread has left is as good as any: what it guards is changed in whole steps.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// The memory that the guest has now.
    pub(crate) fn memory(&self) -> GuestMemory {
        lock(&self.memory).clone()
    }
}

/// The CPUs of one machine.
pub(crate) struct KvmPartition {
    shared: Arc<Shared>,
}

impl KvmPartition {
    pub(crate) fn new(
        kvm: &Kvm,
        cfg: &EngineConfig,
        memory: &GuestMemory,
        clock: &Clock,
        capabilities: &Capabilities,
        host_cpuid: &Arc<HostCpuid>,
        ceiling: &CpuModel,
    ) -> Result<Self> {
        let vm = Arc::new(create_vm(kvm)?);
        set_vmx_pages(&vm, memory)?;
        let args = [u64::from(IOAPIC_PINS), 0, 0, 0];
        vm.enable_cap(&kvm_enable_cap { cap: KVM_CAP_SPLIT_IRQCHIP, args, ..Default::default() })
            .map_err(|error| Error::Host { what: "KVM refuses a split irqchip".into(), source: error.into() })?;
        let state = state::Shared::new(kvm, &vm, clock)?;
        let log = Log::new(&vm, capabilities);
        memory.prefer_huge_pages();
        let mut slots = Slots::new(capabilities.max_slots);
        slots.follow(&vm, memory)?;
        let shared = Arc::new(Shared {
            vm,
            memory: Mutex::new(memory.clone()),
            slots: Mutex::new(slots),
            routes: Routes::default(),
            clock: clock.clone(),
            capabilities: capabilities.clone(),
            host_cpuid: Arc::clone(host_cpuid),
            state,
            vcpus: cfg.vcpus,
            ceiling: ceiling.clone(),
            seats: (0..cfg.vcpus).map(|_| OnceLock::new()).collect(),
            log,
        });
        Ok(Self { shared })
    }
}

/// Creates a VM, which may take a while to be interrupted in.
fn create_vm(kvm: &Kvm) -> Result<VmFd> {
    loop {
        match kvm.create_vm() {
            Ok(vm) => return Ok(vm),
            Err(error) if error.errno() == libc::EINTR => {}
            Err(error) => {
                let what = match error.errno() {
                    libc::ENOMEM => "the host has no memory for another VM",
                    libc::EBUSY => "another hypervisor (VirtualBox, VMware) has the processor's virtualization",
                    _ => "KVM refuses to create a VM",
                };
                return Err(Error::Host { what: what.into(), source: error.into() });
            }
        }
    }
}

impl Partition for KvmPartition {
    fn vcpu(&self, id: u32, model: &CpuModel) -> Result<Box<dyn Vcpu>> {
        let shared = &self.shared;
        let missing = model.missing_from(&shared.ceiling);
        if !missing.is_empty() {
            let names: Vec<_> = missing.iter().map(ToString::to_string).collect();
            return Err(Error::Config(format!("CPU model {}: this host lacks {}", model.name(), names.join(", "))));
        }
        let Some(place) = shared.seats.get(id as usize) else {
            return Err(Error::Config(format!("vCPU {id}: the partition has {}", shared.vcpus)));
        };
        let vcpu = KvmVcpu::new(id, model, shared)?;
        if place.set(Arc::clone(vcpu.seat())).is_err() {
            return Err(Error::Config(format!("vCPU {id} exists already")));
        }
        Ok(Box::new(vcpu))
    }

    fn send_msi(&self, msg: MsiMessage) {
        self.shared.routes.send(&self.shared.vm, msg);
    }

    fn signal(&self, cpu: u32, signal: Signal) {
        let mode = match signal {
            Signal::ExtInt(high) => {
                if let Some(seat) = self.shared.seats.get(cpu as usize).and_then(OnceLock::get) {
                    seat.set_extint(high);
                }
                return;
            }
            Signal::Smi if !self.shared.capabilities.smm => return,
            Signal::Smi => delivery::SMI,
            // By message, since the calls for it wait for the vCPU's thread to leave the guest.
            Signal::Nmi => delivery::NMI,
            Signal::Init => delivery::INIT,
        };
        if cpu < self.shared.vcpus {
            self.shared.routes.send(&self.shared.vm, message_to(cpu, mode));
        }
    }

    fn layout_changed(&self, mem: &GuestMemory) -> Result<()> {
        let mut memory = lock(&self.shared.memory);
        let mut slots = lock(&self.shared.slots);
        self.shared.log.keep(&self.shared.vm, &slots, &memory);
        slots.follow(&self.shared.vm, mem)?;
        // Only now may the former memory go.
        *memory = mem.clone();
        Ok(())
    }

    fn clock(&self) -> &Clock {
        &self.shared.clock
    }

    fn dirty(&self) -> &dyn DirtyLog {
        &*self.shared
    }

    fn msi_event(&self, msg: MsiMessage) -> Option<IrqFd> {
        let event = Event::new().ok()?;
        let kept = event.try_clone().ok()?;
        match self.shared.routes.connect(&self.shared.vm, msg, &event) {
            Ok(gsi) => Some(IrqFd::new(event, Box::new(Route { shared: Arc::clone(&self.shared), gsi, event: kept }))),
            Err(error) => {
                tracing::debug!(%error, "no interrupt by eventfd");
                None
            }
        }
    }

    fn doorbell(&self, at: IoAddr, event: &Event) -> Option<Doorbell> {
        let event = event.try_clone().ok()?;
        let mut flags = 0;
        if at.space == IoSpace::Port {
            flags |= 1 << kvm_ioeventfd_flag_nr_pio;
        }
        if at.value.is_some() {
            flags |= 1 << kvm_ioeventfd_flag_nr_datamatch;
        }
        let bell = kvm_ioeventfd {
            datamatch: at.value.unwrap_or(0),
            addr: at.addr,
            len: u32::from(at.len),
            fd: event.as_fd().as_raw_fd(),
            flags,
            ..Default::default()
        };
        match ioctl::ioeventfd(&*self.shared.vm, bell) {
            Ok(()) => Some(Doorbell::new(Box::new(Bell { shared: Arc::clone(&self.shared), bell, _event: event }))),
            Err(error) => {
                tracing::debug!(?at, %error, "no doorbell by eventfd");
                None
            }
        }
    }
}

impl DirtyLog for Shared {
    fn start(&self) {
        self.log.start(&self.vm, &mut lock(&self.slots), &self.memory());
    }

    fn stop(&self) {
        self.log.stop(&self.vm, &mut lock(&self.slots));
    }

    fn collect(&self, page: &mut dyn FnMut(u64)) {
        let pages = self.log.collect(&self.vm, &lock(&self.slots), &self.memory());
        pages.into_iter().for_each(page);
    }
}

/// An interrupt connected to an eventfd.
struct Route {
    shared: Arc<Shared>,
    gsi: u32,
    event: Event,
}

impl Drop for Route {
    fn drop(&mut self) {
        self.shared.routes.disconnect(&self.shared.vm, self.gsi, &self.event);
    }
}

/// A doorbell connected to an eventfd.
struct Bell {
    shared: Arc<Shared>,
    bell: kvm_ioeventfd,
    /// Kept, since the kernel finds the connection by it.
    _event: Event,
}

impl Drop for Bell {
    fn drop(&mut self) {
        let bell = kvm_ioeventfd { flags: self.bell.flags | 1 << kvm_ioeventfd_flag_nr_deassign, ..self.bell };
        if let Err(error) = ioctl::ioeventfd(&*self.shared.vm, bell) {
            tracing::warn!(%error, "a doorbell stays");
        }
    }
}
