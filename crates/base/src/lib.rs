//! What Husk needs of the host's operating system, behind safe interfaces.

pub mod disk_file;
mod event;
mod file;
mod heap;
mod last_resort;
mod mapping;
mod passing;
mod process;
mod pty;
mod signals;
mod terminal;

pub use event::Event;
pub use file::open_at_once;
pub use heap::trim_heap;
pub use mapping::{HUGE_PAGE, Mapping};
pub use passing::{receive_file, send_file};
pub use process::{memory_bytes, name_thread, online_cpus, thread_cpu_time};
pub use pty::Pty;
pub use signals::{Interrupt, Interrupts};
pub use terminal::{RawMode, WindowSize, is_cooked, window_size};
