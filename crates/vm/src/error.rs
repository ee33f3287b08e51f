//! Why a VM cannot be built or started.

use machine::firmware::{FileNameError, RomError};
use machine::{
    Overlap,
    acpi::AcpiError,
    board::UnknownBoard,
    loader::LoadError,
    pci::{ConfigError, PciError},
};

/// Why a VM cannot be built or started: the object, the cause and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The board's name.
    #[error("board: {0}")]
    Board(#[from] UnknownBoard),
    /// The CPU model's name.
    #[error("CPU model: {0}")]
    Model(#[from] x86::ModelError),
    /// A model that offers more than this host can do.
    #[error("CPU model {model}: this host cannot do {}; choose a lesser one of {}, or leave that out (--cpu-relaxed)", missing.join(", "), x86::CpuModel::NAMES.join(", "))]
    Beyond {
        /// The model.
        model: &'static str,
        /// The features that the host lacks.
        missing: Vec<String>,
    },
    /// The number of CPUs.
    #[error("{count} CPUs: the machine has room for {most}; give it 1 to {most}")]
    Cpus {
        /// The number asked for.
        count: u32,
        /// The most there can be.
        most: u32,
    },
    /// More CPUs than the engine can run.
    #[error(
        "{count} CPUs: engine {engine} runs {most} on this host; give it 1 to {most}, or another engine (--engine)"
    )]
    EngineCpus {
        /// The number asked for.
        count: u32,
        /// The most there can be.
        most: u32,
        /// The engine.
        engine: &'static str,
    },
    /// Too little or too much memory.
    #[error("{} MiB of memory: board {board} takes {} MiB to {} MiB; choose an amount between", bytes >> 20, least >> 20, most >> 20)]
    Memory {
        /// The amount asked for in bytes.
        bytes: u64,
        /// The board.
        board: &'static str,
        /// The least in bytes.
        least: u64,
        /// The most in bytes.
        most: u64,
    },
    /// More serial ports than a board has.
    #[error("{count} serial ports: the machine has room for {most}; leave some out")]
    SerialPorts {
        /// The number asked for.
        count: usize,
        /// The most there can be.
        most: usize,
    },
    /// A file that was handed over cannot be read.
    #[error("{name}: {}; check the file", cause(source))]
    Read {
        /// The file's name.
        name: String,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// A file that is larger than the guest memory that it has to be in.
    #[error("{name}: larger than the machine's memory below 4 GiB, which has {} MiB; use a smaller file or give the VM more", memory >> 20)]
    TooLarge {
        /// The file's name.
        name: String,
        /// That memory in bytes.
        memory: u64,
    },
    /// The kernel or the initial RAM disk.
    #[error("{}{source}", file.as_ref().map(|name| format!("{name}: ")).unwrap_or_default())]
    Load {
        /// The file that is to blame, if it is one.
        file: Option<String>,
        /// What is wrong.
        source: LoadError,
    },
    /// The host has no such memory.
    #[error("{0}")]
    Reserve(#[from] memory::Error),
    /// The engine refuses.
    #[error("engine: {0}")]
    Engine(#[from] engine::Error),
    /// The ACPI tables.
    #[error("{0}")]
    Acpi(#[from] AcpiError),
    /// What is to be the firmware is none.
    #[error("{name}: {source}")]
    Firmware {
        /// The file's name.
        name: String,
        /// What is wrong.
        source: RomError,
    },
    /// A file of the firmware configuration.
    #[error("{0}")]
    FirmwareFile(#[from] FileNameError),
    /// More disks than the board has places for.
    #[error("{count} disks: board {board} has no room for them; board pc has places for 4 (--machine pc)")]
    Disks {
        /// The number asked for.
        count: usize,
        /// The board.
        board: &'static str,
    },
    /// A PCI function contradicts itself.
    #[error("wiring: {0}")]
    Config(#[from] ConfigError),
    /// There is neither a kernel nor firmware.
    #[error("nothing to run: the VM has neither firmware nor a kernel; give it one of them")]
    NothingToRun,
    /// The board's data contradict themselves.
    #[error("wiring: {0}")]
    Overlap(#[from] Overlap),
    /// As above, on the PCI bus.
    #[error("wiring: {0}")]
    Pci(#[from] PciError),
    /// The host refuses a thread.
    #[error("cannot start thread {name}: {source}; raise the limit on processes (ulimit -u)")]
    Thread {
        /// The thread.
        name: String,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// [`crate::Vm::start`] for the second time.
    #[error("the VM has been started already")]
    Started,
    /// A running VM is asked for, and it has not been started yet or has ended.
    #[error("the VM is not running")]
    NotRunning,
    /// The guest cannot go on on another engine; it stays where it is.
    #[error("cannot move to engine {engine}: {reason}; the guest stays where it is")]
    Move {
        /// The engine.
        engine: &'static str,
        /// Why.
        reason: String,
    },
}

/// An error of the operating system without its number.
fn cause(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

impl Error {
    /// Whether the input is to blame, and not Husk or the host.
    #[must_use]
    pub fn is_input(&self) -> bool {
        match self {
            Self::Board(_)
            | Self::Firmware { .. }
            | Self::FirmwareFile(_)
            | Self::NothingToRun
            | Self::Disks { .. }
            | Self::Model(_)
            | Self::Beyond { .. }
            | Self::Cpus { .. }
            | Self::EngineCpus { .. }
            | Self::Memory { .. }
            | Self::SerialPorts { .. } => true,
            Self::Read { .. } | Self::TooLarge { .. } | Self::Load { .. } | Self::Reserve(_) | Self::Acpi(_) => true,
            Self::Engine(e) => matches!(e, engine::Error::Config(_)),
            Self::Overlap(_) | Self::Pci(_) | Self::Thread { .. } | Self::Started => false,
            Self::NotRunning | Self::Move { .. } | Self::Config(_) => false,
        }
    }
}
