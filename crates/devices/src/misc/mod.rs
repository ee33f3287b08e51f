//! Devices of virtual machines that no real one has: debug output, the end of a test, the report of a panic, what firmware is told.

mod debug_exit;
mod debug_port;
mod fw_cfg;
mod pvpanic;

pub use debug_exit::DebugExit;
pub use debug_port::DebugPort;
pub use fw_cfg::FwCfg;
pub use pvpanic::{PanicEvent, Pvpanic};
