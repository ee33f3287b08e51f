//! What a VM is to be, as one tree that can be stored.

use machine::{Board, loader};
use serde::{Deserialize, Serialize};

/// The CPU model of a VM that names none: a baseline that can move between hosts.
pub const DEFAULT_CPU_MODEL: &str = "x86-64-v3";

/// The most serial ports of a VM.
pub const MAX_SERIAL_PORTS: usize = 4;

/// The names of the CPU models.
#[must_use]
pub fn cpu_models() -> Vec<&'static str> {
    x86::CpuModel::NAMES.to_vec()
}

/// The names of the boards that a VM can have.
#[must_use]
pub fn boards() -> Vec<&'static str> {
    Board::names()
}

/// A VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The name, for people and for the process list.
    pub name: String,
    /// The board, with its version.
    pub board: String,
    /// The virtual CPUs.
    pub cpus: Cpus,
    /// The amount of RAM in bytes.
    pub memory: u64,
    /// The kernel's command line.
    pub append: String,
    /// How the kernel is entered.
    pub entry: EntryMode,
    /// Whether the guest has the port that ends the VM with an exit code, for tests.
    pub debug_exit: bool,
    /// The display.
    pub video: Video,
    /// What a reset of the machine does.
    pub on_reset: OnReset,
    /// What a triple fault does.
    pub on_triple_fault: OnTripleFault,
    /// What a panic of the guest's kernel does.
    pub on_guest_panic: OnGuestPanic,
    /// The order in which firmware looks for systems to boot, as OpenFirmware paths; its own order if there is none.
    pub boot_order: Vec<String>,
    /// Firmware uses the first serial port as its screen and keyboard.
    pub firmware_console: bool,
    /// The real-time clock at power-on, in seconds since 1970; the host's clock if there is none.
    pub power_on: Option<u64>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: "husk".into(),
            board: "q35-1".into(),
            cpus: Cpus::default(),
            memory: 512 << 20,
            append: "console=ttyS0".into(),
            entry: EntryMode::default(),
            debug_exit: false,
            video: Video::default(),
            on_reset: OnReset::default(),
            on_triple_fault: OnTripleFault::default(),
            on_guest_panic: OnGuestPanic::default(),
            boot_order: Vec::new(),
            firmware_console: true,
            power_on: None,
        }
    }
}

/// The virtual CPUs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cpus {
    /// How many.
    pub count: u32,
    /// The name of their model.
    pub model: String,
    /// What the model has and the engine cannot do on this host is left out; otherwise the VM is refused.
    pub relaxed: bool,
}

impl Default for Cpus {
    fn default() -> Self {
        Self { count: 1, model: DEFAULT_CPU_MODEL.into(), relaxed: false }
    }
}

/// How a kernel is entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EntryMode {
    /// The quickest way: a bzImage is decompressed before the guest starts, and the kernel inside is entered without
    /// address space randomisation.
    #[default]
    Auto,
    /// The 64-bit entry of the Linux boot protocol: a bzImage decompresses itself.
    Boot64,
    /// The 32-bit entry of the Linux boot protocol: a bzImage decompresses itself.
    Boot32,
    /// The PVH entry.
    Pvh,
}

impl From<EntryMode> for loader::EntryMode {
    fn from(mode: EntryMode) -> Self {
        match mode {
            EntryMode::Auto => Self::Auto,
            EntryMode::Boot64 => Self::Boot64,
            EntryMode::Boot32 => Self::Boot32,
            EntryMode::Pvh => Self::Pvh,
        }
    }
}

/// A display.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Video {
    /// None.
    #[default]
    None,
    /// A VGA with the Bochs display interface, on PCI.
    Std,
}

/// What a reset of the machine does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnReset {
    /// The machine starts again.
    #[default]
    Restart,
    /// The VM ends.
    Exit,
}

/// What a triple fault does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnTripleFault {
    /// The VM ends, as an error.
    #[default]
    End,
    /// The machine is reset, as hardware does it.
    Reset,
}

/// What a panic of the guest's kernel does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnGuestPanic {
    /// The VM ends, as an error, when the kernel has said all.
    #[default]
    End,
    /// The guest is left to itself.
    Ignore,
}
