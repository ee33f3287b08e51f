//! The map of memory that a kernel is told (ACPI 6.5, 15.1).

use memory::{GuestMemory, Kind};

use crate::Board;
use crate::board::EBDA;

/// What a range of addresses is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Type {
    /// RAM for the guest to use.
    Ram = 1,
    /// Not to be used.
    Reserved = 2,
    /// ACPI tables: RAM once they have been read.
    Acpi = 3,
}

/// A range of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The first address.
    pub start: u64,
    /// The length in bytes.
    pub len: u64,
    /// What it is.
    pub kind: Type,
}

/// The map of `board` with memory `mem`, in order of address, no two ranges overlapping.
#[must_use]
pub fn map(mem: &GuestMemory, board: &Board) -> Vec<Range> {
    const MIB: u64 = 1 << 20;
    let range = |start: u64, end: u64, kind| (start < end).then(|| Range { start, len: end - start, kind });
    let mut map = Vec::new();
    for region in mem.regions().filter(|r| r.kind == Kind::Ram) {
        let (start, end) = (region.start.0, region.start.0.saturating_add(region.len));
        map.extend(range(start, end.min(EBDA), Type::Ram));
        map.extend(range(start.max(MIB), end, Type::Ram));
    }
    map.extend(range(EBDA, crate::board::VGA_HOLE.start, Type::Reserved));
    map.extend(range(board.acpi.start, board.acpi.end, Type::Reserved));
    map.extend(range(board.smbios.start, board.smbios.end, Type::Reserved));
    map.extend(board.ecam.as_ref().and_then(|ecam| range(ecam.start, ecam.end, Type::Reserved)));
    map.sort_by_key(|r| r.start);
    map
}
