//! What tests of the other crates stand on.
#![forbid(unsafe_code)]

pub mod bare;
pub mod boot;
pub mod choice;
pub mod folder;
pub mod garbage;
pub mod payload;
pub mod rig;
