//! SMBIOS: what the machine says it is (DMTF DSP0134, *System Management BIOS Reference Specification 3.6*).

use memory::{Gpa, GuestMemory};

use crate::Board;

/// The structures with their entry point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tables {
    /// What goes to `base`: the 64-bit entry point, then the structures.
    pub bytes: Vec<u8>,
    /// Where the first byte goes.
    pub base: Gpa,
}

const ENTRY_LEN: usize = 24;
/// Where the structures start, from the entry point.
const TABLE: usize = 32;
const NO_HANDLE: u16 = 0xfffe;
const MEMORY_ARRAY: u16 = 0x1000;
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// The structures of `board` with `cpus` CPUs, `ram` bytes of RAM and this identity, in the order of RFC 9562.
#[must_use]
pub fn build(board: &Board, cpus: u32, ram: u64, uuid: [u8; 16]) -> Tables {
    let mut table = Structures::default();
    bios(&mut table);
    system(&mut table, board, uuid);
    chassis(&mut table);
    processor(&mut table, cpus);
    memory_array(&mut table, ram);
    memory_device(&mut table, ram);
    let (low, high) = board.split_ram(ram);
    mapped(&mut table, 0, low);
    if high > 0 {
        mapped(&mut table, crate::board::HIGH_RAM, high);
    }
    // Boot information: no errors detected (7.33).
    table.add(32, 0x2000, &[0; 7], &[]);
    table.add(127, 0x7f00, &[], &[]);

    let base = board.smbios.start;
    let mut bytes = b"_SM3_\0".to_vec();
    // Length, version 3.6.0, entry point revision 1, reserved (5.2.2).
    bytes.extend([ENTRY_LEN as u8, 3, 6, 0, 1, 0]);
    bytes.extend((table.0.len() as u32).to_le_bytes());
    bytes.extend((base + TABLE as u64).to_le_bytes());
    bytes[5] = bytes.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte));
    bytes.resize(TABLE, 0);
    bytes.extend(table.0);
    Tables { bytes, base: Gpa(base) }
}

impl Tables {
    /// The entry point, whose pointer is for who places the structures to set, and the structures.
    #[must_use]
    pub fn split(&self) -> (Vec<u8>, &[u8]) {
        const POINTER: usize = 16;
        const CHECKSUM: usize = 5;
        let (entry, table) = self.bytes.split_at_checked(TABLE).unwrap_or((&self.bytes, &[]));
        let mut entry = entry.get(..ENTRY_LEN).unwrap_or(entry).to_vec();
        entry.iter_mut().skip(POINTER).for_each(|byte| *byte = 0);
        entry.iter_mut().skip(CHECKSUM).take(1).for_each(|byte| *byte = 0);
        let sum = entry.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte));
        entry.iter_mut().skip(CHECKSUM).take(1).for_each(|byte| *byte = sum);
        (entry, table)
    }

    /// Puts the structures into guest memory.
    ///
    /// # Errors
    /// [`memory::Error::Hole`] when the board's memory is not there.
    pub fn write(&self, mem: &GuestMemory) -> memory::Result<()> {
        mem.write(self.base, &self.bytes)
    }
}

/// Structures one after the other.
#[derive(Default)]
struct Structures(Vec<u8>);

impl Structures {
    /// Appends a structure: header, fields, strings (6.1).
    fn add(&mut self, kind: u8, handle: u16, fields: &[u8], strings: &[&str]) {
        self.0.extend([kind, 4 + fields.len() as u8]);
        self.0.extend(handle.to_le_bytes());
        self.0.extend(fields);
        for string in strings {
            self.0.extend(string.as_bytes());
            self.0.push(0);
        }
        self.0.extend(if strings.is_empty() { &[0, 0][..] } else { &[0] });
    }
}

/// The bytes of the fields, little-endian.
macro_rules! fields {
    ($($value:expr),* $(,)?) => {{
        let mut fields = Vec::new();
        $(fields.extend($value.to_le_bytes());)*
        fields
    }};
}

/// BIOS information (7.1): characteristics are not told, but that this is a virtual machine.
fn bios(table: &mut Structures) {
    let fields = fields!(1u8, 2u8, 0xe000u16, 3u8, 0u8, 1u64 << 3, 0u8, 1u8 << 4, 1u8, 0u8, 0xffu8, 0xffu8, 0u16);
    table.add(0, 0, &fields, &["Husk", "1", "01/01/2025"]);
}

/// System information (7.2): the first three parts of the UUID are little-endian.
fn system(table: &mut Structures, board: &Board, uuid: [u8; 16]) {
    let [a, b, c, d, e, f, g, h, rest @ ..] = uuid;
    let mut fields = fields!(1u8, 2u8, 3u8, 0u8);
    fields.extend([d, c, b, a, f, e, h, g]);
    fields.extend(rest);
    // Woken by the power switch; no SKU, no family.
    fields.extend([6, 0, 0]);
    table.add(1, 0x100, &fields, &["Husk", "Virtual Machine", board.name]);
}

/// Chassis (7.4): another kind, all safe.
fn chassis(table: &mut Structures) {
    let fields = fields!(1u8, 1u8, 0u8, 0u8, 0u8, 3u8, 3u8, 3u8, 2u8, 0u32, 0u8, 0u8, 0u8, 0u8, 0u8);
    table.add(3, 0x300, &fields, &["Husk"]);
}

/// Processor (7.5): one socket with all CPUs as its cores.
fn processor(table: &mut Structures, cpus: u32) {
    const CENTRAL: u8 = 3;
    const OTHER: u8 = 1;
    const POPULATED_ENABLED: u8 = 0x41;
    const NO_CACHE: u16 = 0xffff;
    // 255 in the short field says that the long one counts.
    let (short, long) = (cpus.min(255) as u8, cpus.min(0xfffe) as u16);
    let mut fields = fields!(1u8, CENTRAL, OTHER, 2u8, 0u64, 0u8, 0u8, 0u16, 0u16, 0u16, POPULATED_ENABLED, OTHER);
    fields.extend(fields!(NO_CACHE, NO_CACHE, NO_CACHE, 0u8, 0u8, 0u8, short, short, short));
    // 64-bit capable, multi-core when it is.
    let features = 1u16 << 2 | u16::from(cpus > 1) << 3;
    fields.extend(fields!(features, u16::from(OTHER), long, long, long));
    table.add(4, 0x400, &fields, &["CPU 0", "Husk"]);
}

/// Physical memory array (7.17): system memory without error correction.
fn memory_array(table: &mut Structures, ram: u64) {
    const EXTENDED: u32 = 0x8000_0000;
    let kib = u32::try_from(ram / KIB).ok().filter(|kib| *kib < EXTENDED);
    let fields = fields!(1u8, 3u8, 3u8, kib.unwrap_or(EXTENDED), NO_HANDLE, 1u16, kib.map_or(ram, |_| 0));
    table.add(16, MEMORY_ARRAY, &fields, &[]);
}

/// Memory device (7.18): one module with all of it.
fn memory_device(table: &mut Structures, ram: u64) {
    const DIMM: u8 = 9;
    const RAM: u8 = 7;
    const UNKNOWN_DETAIL: u16 = 1 << 2;
    const EXTENDED: u16 = 0x7fff;
    let mib = ram / MIB;
    let short = u16::try_from(mib).ok().filter(|mib| *mib < EXTENDED).unwrap_or(EXTENDED);
    let long = if short == EXTENDED { mib.min(0x7fff_ffff) as u32 } else { 0 };
    let mut fields = fields!(MEMORY_ARRAY, NO_HANDLE, 0xffffu16, 0xffffu16, short, DIMM, 0u8, 1u8, 0u8, RAM);
    fields.extend(fields!(UNKNOWN_DETAIL, 0u16, 2u8, 0u8, 0u8, 0u8, 0u8, long, 0u16, 0u16, 0u16, 0u16));
    table.add(17, 0x1100, &fields, &["DIMM 0", "Husk"]);
}

/// Memory array mapped address (7.20).
fn mapped(table: &mut Structures, start: u64, len: u64) {
    let handle = if start == 0 { 0x1300u16 } else { 0x1301 };
    let end = start + len - 1;
    let fits = end / KIB < 0xffff_ffff;
    let short = |at: u64| if fits { (at / KIB) as u32 } else { 0xffff_ffff };
    let long = |at: u64| if fits { 0 } else { at };
    let fields = fields!(short(start), short(end), MEMORY_ARRAY, 1u8, long(start), long(end));
    table.add(19, handle, &fields, &[]);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kind, formatted length and strings of each structure.
    fn structures(mut table: &[u8]) -> Vec<(u8, u8, Vec<String>)> {
        let mut found = Vec::new();
        while !table.is_empty() {
            let (kind, len) = (table[0], table[1]);
            let strings = &table[usize::from(len)..];
            let end = strings.windows(2).position(|pair| pair == [0, 0]).unwrap();
            let texts = strings[..end].split(|byte| *byte == 0).filter(|text| !text.is_empty());
            found.push((kind, len, texts.map(|text| String::from_utf8(text.to_vec()).unwrap()).collect()));
            table = &strings[end + 2..];
        }
        found
    }

    #[test]
    fn the_structures_are_well_formed() {
        let board = Board::named("q35-1").unwrap();
        for ram in [64 * MIB, 16 << 30, 1 << 40] {
            let tables = build(board, 4, ram, [7; 16]);
            let entry = &tables.bytes[..ENTRY_LEN];
            assert_eq!(&entry[..5], b"_SM3_");
            assert_eq!(entry.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0);
            let at = u64::from_le_bytes(entry[16..24].try_into().unwrap()) - tables.base.0;
            let len = u32::from_le_bytes(entry[12..16].try_into().unwrap()) as usize;
            let found = structures(&tables.bytes[at as usize..][..len]);
            // The lengths of the specification's versions 3.1, 2.4, 2.7, 3.0, 2.7, 2.8, 2.7, 2.3.
            let mut lengths =
                vec![(0, 26), (1, 27), (3, 22), (4, 48), (16, 23), (17, 40), (19, 31), (32, 11), (127, 4)];
            if ram > board.low_ram_limit {
                lengths.insert(6, (19, 31));
            }
            assert_eq!(found.iter().map(|(kind, len, _)| (*kind, *len)).collect::<Vec<_>>(), lengths);
            assert_eq!(found[1].2, ["Husk", "Virtual Machine", "q35-1"]);
            assert!(board.smbios.contains(&(tables.base.0 + tables.bytes.len() as u64)));
        }
    }
}
