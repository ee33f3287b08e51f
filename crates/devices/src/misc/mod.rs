//! Devices of virtual machines that no real one has: debug output, the end of a test, the report of a panic.

mod debug_exit;
mod debug_port;
mod pvpanic;

pub use debug_exit::DebugExit;
pub use debug_port::DebugPort;
pub use pvpanic::{PanicEvent, Pvpanic};
