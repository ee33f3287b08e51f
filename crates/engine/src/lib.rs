//! The narrow waist between a machine and the CPU that runs its code.
//!
//! An [`Engine`] makes a [`Partition`] (one virtual machine's CPUs and local APICs) over a [`GuestMemory`];
//! the partition makes [`Vcpu`]s, each run by a thread of its own. A running vCPU reaches the machine
//! through [`CpuIo`], which stands for the pins of a CPU: port and memory-mapped I/O, the acknowledge cycle
//! of the PIC and the end-of-interrupt broadcast. The machine reaches the CPUs by [`Partition::send_msi`] and
//! [`Partition::signal`]. Engines know nothing of devices and devices nothing of engines.
//!
//! Interrupts follow the split model: the local APIC belongs to the engine; PIC, IOAPIC, PIT, HPET and
//! RTC to the machine. Time belongs to the engine: see [`Clock`].
#![forbid(unsafe_code)]

mod clock;
mod debug;
mod fast_path;
mod stat;

use std::sync::Arc;

use base::Event;
pub use clock::{Alarm, Clock, VmTime};
pub use debug::{Breakpoint, BreakpointKind, Breakpoints, DebugEvent};
pub use fast_path::{Doorbell, IoAddr, IoSpace, IrqFd};
use memory::GuestMemory;
pub use stat::{Amount, Stat};
use x86::{CpuModel, CpuState};

/// What went wrong in an engine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host lacks something the engine needs.
    #[error("{what} is not available on this host: {fix}")]
    Unsupported {
        /// What is missing.
        what: String,
        /// What the user can do about it.
        fix: String,
    },
    /// A configuration beyond the engine's [`Limits`].
    #[error("{0}")]
    Config(String),
    /// A call to the host's operating system failed.
    #[error("{what}: {source}")]
    Host {
        /// The operation.
        what: String,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// The state handed to [`Vcpu::set_state`] is not one a CPU can be in.
    #[error("invalid CPU state: {0}")]
    State(String),
    /// The engine itself failed; the guest cannot go on.
    #[error("the engine cannot go on: {0}")]
    Internal(String),
}

/// The result of an engine's operation.
pub type Result<T> = std::result::Result<T, Error>;

/// What an engine can do.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The most vCPUs of one partition.
    pub max_vcpus: u32,
    /// The ceiling of what a CPU model may offer on this host.
    pub ceiling: CpuModel,
    /// Whether writes of the guest can be logged per page.
    pub dirty_log: bool,
}

/// What a partition is made of.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// The number of vCPUs; identifiers and APIC IDs run from 0 to `vcpus - 1`.
    pub vcpus: u32,
    /// The name of the VM, for thread names and messages.
    pub name: String,
}

/// A way to run x86 code.
pub trait Engine: Send + Sync {
    /// The engine's name as the user writes it: `soft`, `kvm`.
    fn name(&self) -> &'static str;
    /// What the engine can do on this host.
    fn limits(&self) -> &Limits;
    /// Makes a partition over `mem`.
    ///
    /// # Errors
    /// [`Error::Config`] when `cfg` goes beyond [`Engine::limits`]; [`Error::Host`] when the host refuses.
    fn create(&self, cfg: &EngineConfig, mem: &GuestMemory) -> Result<Arc<dyn Partition>>;
    /// Makes a partition for a guest that is running on another engine: over the memory that it has, with the clock that
    /// it knows. Its vCPUs are then given their states.
    ///
    /// # Errors
    /// As [`Engine::create`]; [`Error::Config`] from an engine that takes no guests over.
    fn take_over(&self, cfg: &EngineConfig, mem: &GuestMemory, clock: &Clock) -> Result<Arc<dyn Partition>> {
        let _ = (cfg, mem, clock);
        Err(Error::Config(format!("engine {} does not take over running guests", self.name())))
    }
}

/// The CPUs of one virtual machine with their local APICs and their clock.
pub trait Partition: Send + Sync {
    /// Makes vCPU `id`, in the state that power-on leaves it in: number 0 runs, the others wait for SIPI.
    ///
    /// # Errors
    /// [`Error::Config`] for an `id` that is out of range or taken, or a model beyond the engine's ceiling.
    fn vcpu(&self, id: u32, model: &CpuModel) -> Result<Box<dyn Vcpu>>;
    /// Delivers a message-signalled interrupt: how the IOAPIC and PCI functions enter.
    fn send_msi(&self, msg: MsiMessage);
    /// Drives a pin of CPU `cpu`; out-of-range CPUs are ignored.
    fn signal(&self, cpu: u32, signal: Signal);
    /// Tells the engine that the regions of `mem` have changed.
    ///
    /// # Errors
    /// [`Error::Host`] when the host refuses the new layout.
    fn layout_changed(&self, mem: &GuestMemory) -> Result<()>;
    /// The partition's virtual time.
    fn clock(&self) -> &Clock;
    /// The log of the pages that the guest has written.
    fn dirty(&self) -> &dyn DirtyLog;
    /// An event that delivers `msg` without a thread of this process; `None` where the engine has no such way, or no
    /// more of them.
    fn msi_event(&self, msg: MsiMessage) -> Option<IrqFd> {
        let _ = msg;
        None
    }
    /// Has the guest's writes to `at` signal `event` instead of reaching the bus; `None` where the engine has no such
    /// way, or no more of them.
    fn doorbell(&self, at: IoAddr, event: &Event) -> Option<Doorbell> {
        let _ = (at, event);
        None
    }
}

/// One CPU, owned by the thread that runs it.
pub trait Vcpu: Send {
    /// Runs guest code until something ends the run. HLT, I/O and the local APIC never do.
    ///
    /// # Errors
    /// [`Error::Internal`] when the engine cannot go on; the message holds the registers.
    fn run(&mut self, io: &dyn CpuIo) -> Result<Stop>;
    /// A handle with which other threads make [`Vcpu::run`] return [`Stop::Kicked`].
    fn kicker(&self) -> Kicker;
    /// The architectural state, the same type for every engine.
    ///
    /// # Errors
    /// [`Error::Host`] when the host refuses to tell.
    fn state(&mut self) -> Result<CpuState>;
    /// Loads a state.
    ///
    /// # Errors
    /// [`Error::State`] when `state` is not one a CPU can be in.
    fn set_state(&mut self, state: &CpuState) -> Result<()>;
    /// Sets the debugger's breakpoints, which the guest cannot see.
    ///
    /// # Errors
    /// [`Error::Config`] when there are more than the engine can do.
    fn set_breakpoints(&mut self, breakpoints: &Breakpoints) -> Result<()>;
    /// What the engine has counted so far. To be asked by the thread that runs the vCPU.
    fn stats(&self) -> Vec<Stat> {
        Vec::new()
    }
}

/// The pins of a CPU: [`Vcpu::run`] calls out, it does not return for I/O.
///
/// `data` is 1, 2, 4 or 8 bytes for memory and 1, 2 or 4 for ports. Addresses nobody answers at read as ones.
pub trait CpuIo: Sync {
    /// Reads device memory at guest-physical `addr`.
    fn mmio_read(&self, addr: u64, data: &mut [u8]);
    /// Writes device memory at guest-physical `addr`.
    fn mmio_write(&self, addr: u64, data: &[u8]);
    /// Reads an I/O port.
    fn port_read(&self, port: u16, data: &mut [u8]);
    /// Writes an I/O port.
    fn port_write(&self, port: u16, data: &[u8]);
    /// The acknowledge cycle of the PIC: the vector to deliver, `None` when the PIC no longer asks.
    fn pic_ack(&self) -> Option<u8>;
    /// A local APIC has ended a level-triggered interrupt.
    fn eoi(&self, vector: u8);
}

/// Why a run has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// Somebody used the [`Kicker`].
    Kicked,
    /// The CPU asks for a reset of the machine.
    Reset,
    /// The CPU asks for the machine to be powered off.
    PowerOff,
    /// A fault while delivering a double fault: real machines reset.
    TripleFault,
    /// A breakpoint or single step of the debugger.
    Debug(DebugEvent),
}

/// A pin of the CPU or a message to it that is no MSI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// The level of INTR, driven by the PIC; the vector is fetched by [`CpuIo::pic_ack`].
    ExtInt(bool),
    /// A non-maskable interrupt.
    Nmi,
    /// A system-management interrupt.
    Smi,
    /// INIT, as by port 92h or the keyboard controller's reset line.
    Init,
}

/// A message-signalled interrupt, as written to the bus (Intel SDM vol. 3A, 11.11).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MsiMessage {
    /// The address: `0xFEEx_xxxx` with destination, redirection hint and destination mode.
    pub address: u64,
    /// The data: vector, delivery mode, level and trigger.
    pub data: u32,
}

/// The pages that the guest has written since somebody last asked.
pub trait DirtyLog: Send + Sync {
    /// Starts logging, with all pages clean.
    fn start(&self);
    /// Stops logging.
    fn stop(&self);
    /// Calls `page` with the guest-physical address of each page written since the last call, and forgets them.
    fn collect(&self, page: &mut dyn FnMut(u64));
}

/// Makes a running vCPU return. Cheap to clone; outlives its vCPU harmlessly.
#[derive(Clone)]
pub struct Kicker(Arc<dyn Fn() + Send + Sync>);

impl Kicker {
    /// A kicker that calls `kick`, which must neither block nor lose a kick that comes before the run.
    pub fn new(kick: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(kick))
    }

    /// Makes the current run, or the next if none is under way, return [`Stop::Kicked`].
    pub fn kick(&self) {
        (self.0)();
    }
}

impl std::fmt::Debug for Kicker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Kicker")
    }
}
