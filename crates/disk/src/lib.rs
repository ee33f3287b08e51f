//! Images behind the disks, written once: async, for every front end and every tool.
//!
//! - [`image::Image`] is the joint: a node of a disk's graph.
//! - [`file::HostFile`] is a file or block device of the host, with locks; [`raw::Raw`] a disk of its bytes.
//! - [`qcow2::Qcow2`] is QEMU's format, complete; its module tells how it survives a kill.
//! - [`open()`] opens whatever is there with its chain of backing files; [`create()`] makes a new image.
//! - [`cipher::Cipher`] is the joint to encryption.

#![forbid(unsafe_code)]

pub mod buffers;
pub mod cipher;
mod create;
mod error;
pub mod file;
mod holder;
pub mod image;
pub mod import;
pub mod luks;
mod open;
mod probed;
pub mod qcow2;
pub mod raw;
mod temporary;
mod turn;
mod vdi;
mod vhd;
mod vhdx;
pub mod vmdk;

pub use create::{CreateOptions, Preallocation, create};
pub use error::{Error, Result};
pub use image::{Erase, Extent, Image, Info, Kind, block_on, read_at, write_at};
pub use open::{Format, OpenOptions, Unlock, open, probe};
pub use temporary::temporary;
