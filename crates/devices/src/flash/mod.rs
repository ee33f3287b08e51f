//! Flash memory on the memory bus: the chip that firmware keeps its variables in.

mod chip;
mod content;
mod query;

pub use chip::{CfiFlash, FLASH_BLOCK, FlashError, FlashOut};
