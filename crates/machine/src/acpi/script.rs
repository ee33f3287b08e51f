//! The same tables for firmware, which puts them where it likes: files with pointers relative to their starts, and a
//! script that says what to allocate, which pointers to move and which checksums to set (QEMU, *fw_cfg* specification,
//! and the ACPI linker/loader commands of `etc/table-loader`).

use acpi_tables::rsdp::Rsdp;

use super::{AcpiError, Contents, Placed, bytes, place, tables};
use crate::Board;

/// The files of the firmware configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoaderFiles {
    /// `etc/acpi/rsdp`.
    pub rsdp: Vec<u8>,
    /// `etc/acpi/tables`.
    pub tables: Vec<u8>,
    /// `etc/table-loader`.
    pub script: Vec<u8>,
}

const RSDP: &str = "etc/acpi/rsdp";
const TABLES: &str = "etc/acpi/tables";
/// A command's length, and that of a file's name in it.
const COMMAND: usize = 128;
const NAME: usize = 56;

/// Where a header has its checksum, and how long it is (ACPI 6.5, 5.2.6).
const CHECKSUM: usize = 9;
const LENGTH: usize = 4;
/// Pointers in the FADT (5.2.9): offset and length.
const FADT_POINTERS: [(usize, u8); 3] = [(36, 4), (40, 4), (140, 8)];
/// The XSDT's entries (5.2.8).
const XSDT_ENTRIES: usize = 36;
/// The RSDP (5.2.5.3): the pointer to the XSDT, the two checksums and what each of them covers.
const RSDP_XSDT: usize = 24;
const RSDP_CHECKSUMS: [(usize, u32); 2] = [(8, 20), (32, 36)];

/// Where an allocation may be.
#[derive(Clone, Copy)]
enum Zone {
    High = 1,
    /// Where operating systems look for the RSDP.
    Segment = 2,
}

/// The files for `board` with these contents.
///
/// # Errors
/// [`AcpiError`] with too many CPUs.
pub fn loader_files(board: &Board, contents: &Contents) -> Result<LoaderFiles, AcpiError> {
    let Placed { bytes: mut file, fadt, tables: mut starts, .. } = place(board, contents, 0)?;
    let listed: Vec<u64> = starts.iter().map(|start| *start as u64).collect();
    // The RSDP has a file of its own, and the DSDT is not listed: it is behind the FADT.
    let xsdt = file.len().next_multiple_of(64);
    file.resize(xsdt, 0);
    file.extend(tables::xsdt(&listed));
    let mut rsdp = bytes(&Rsdp::new(tables::OEM_ID, xsdt as u64));

    let mut script = Script::default();
    script.allocate(RSDP, 16, Zone::Segment);
    script.allocate(TABLES, 64, Zone::High);
    for (offset, len) in FADT_POINTERS {
        script.pointer((TABLES, fadt + offset, len), TABLES);
    }
    for entry in 0..listed.len() {
        script.pointer((TABLES, xsdt + XSDT_ENTRIES + 8 * entry, 8), TABLES);
    }
    starts.push(xsdt);
    for start in starts {
        let len = file.get(start + LENGTH..start + LENGTH + 4).and_then(|len| len.try_into().ok());
        script.checksum(TABLES, start + CHECKSUM, start, len.map_or(0, u32::from_le_bytes));
        file.iter_mut().skip(start + CHECKSUM).take(1).for_each(|byte| *byte = 0);
    }
    script.pointer((RSDP, RSDP_XSDT, 8), TABLES);
    for (offset, len) in RSDP_CHECKSUMS {
        rsdp.iter_mut().skip(offset).take(1).for_each(|byte| *byte = 0);
        script.checksum(RSDP, offset, 0, len);
    }
    Ok(LoaderFiles { rsdp, tables: file, script: script.0 })
}

/// Commands one after the other, all numbers little-endian.
#[derive(Default)]
struct Script(Vec<u8>);

impl Script {
    fn command(&mut self, number: u32, fill: impl FnOnce(&mut Vec<u8>)) {
        let mut command = number.to_le_bytes().to_vec();
        fill(&mut command);
        command.resize(COMMAND, 0);
        self.0.extend(command);
    }

    /// Allocates memory for a file and reads it there.
    fn allocate(&mut self, file: &str, align: u32, zone: Zone) {
        self.command(1, |command| {
            name(command, file);
            command.extend(align.to_le_bytes());
            command.push(zone as u8);
        });
    }

    /// Adds the address of `file` to a pointer: its file, offset and length.
    fn pointer(&mut self, (within, offset, len): (&str, usize, u8), file: &str) {
        self.command(2, |command| {
            name(command, within);
            name(command, file);
            command.extend((offset as u32).to_le_bytes());
            command.push(len);
        });
    }

    /// Sets the byte at `offset` so that `len` bytes from `start` add up to zero.
    fn checksum(&mut self, file: &str, offset: usize, start: usize, len: u32) {
        self.command(3, |command| {
            name(command, file);
            command.extend((offset as u32).to_le_bytes());
            command.extend((start as u32).to_le_bytes());
            command.extend(len.to_le_bytes());
        });
    }
}

fn name(command: &mut Vec<u8>, name: &str) {
    let end = command.len() + NAME;
    command.extend(name.as_bytes());
    command.resize(end, 0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn number(data: &[u8], at: usize, len: usize) -> u64 {
        data[at..at + len].iter().rev().fold(0, |n, byte| n << 8 | u64::from(*byte))
    }

    fn text(data: &[u8]) -> String {
        data.iter().take_while(|byte| **byte != 0).map(|byte| char::from(*byte)).collect()
    }

    /// Does what firmware does with the script; gives the files and where they are.
    fn run(files: &LoaderFiles) -> HashMap<String, (u64, Vec<u8>)> {
        let source = HashMap::from([(RSDP, &files.rsdp), (TABLES, &files.tables)]);
        let mut placed: HashMap<String, (u64, Vec<u8>)> = HashMap::new();
        for command in files.script.chunks(COMMAND) {
            let (first, second) = (text(&command[4..60]), text(&command[60..116]));
            match number(command, 0, 4) {
                1 => {
                    let align = number(command, 60, 4);
                    let at: u64 = if command[64] == 2 { 0xf_1230 } else { 0x3ffe_0fc0 };
                    assert_eq!(at % align, 0);
                    placed.insert(first.clone(), (at, source[first.as_str()].clone()));
                }
                2 => {
                    let (offset, len) = (number(command, 116, 4) as usize, usize::from(command[120]));
                    let base = placed[&second].0;
                    let file = &mut placed.get_mut(&first).unwrap().1;
                    let value = number(file, offset, len) + base;
                    file[offset..offset + len].copy_from_slice(&value.to_le_bytes()[..len]);
                }
                3 => {
                    let [at, start, len] = [60, 64, 68].map(|field| number(command, field, 4) as usize);
                    let file = &mut placed.get_mut(&first).unwrap().1;
                    let sum = file[start..start + len].iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
                    file[at] = file[at].wrapping_sub(sum);
                }
                other => panic!("command {other}"),
            }
        }
        placed
    }

    #[test]
    fn firmware_can_place_the_tables() {
        for board in ["pc-1", "q35-1"].map(|name| Board::named(name).unwrap()) {
            let contents = Contents { cpus: 3, ram: 1 << 30, serial_ports: 1, panic_port: true };
            let placed = run(&loader_files(board, &contents).unwrap());
            let (base, tables) = &placed[TABLES];
            let rsdp = &placed[RSDP].1;
            let sum = |data: &[u8]| data.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
            assert_eq!((sum(&rsdp[..20]), sum(&rsdp[..36]), &rsdp[..8]), (0, 0, &b"RSD PTR "[..]));
            let table = |at: u64| {
                let at = (at - base) as usize;
                let table = &tables[at..at + number(tables, at + LENGTH, 4) as usize];
                (text(&table[..4]), table.to_vec())
            };
            let (signature, xsdt) = table(number(rsdp, RSDP_XSDT, 8));
            assert_eq!((signature.as_str(), sum(&xsdt)), ("XSDT", 0));
            let listed: Vec<_> = (XSDT_ENTRIES..xsdt.len()).step_by(8).map(|at| table(number(&xsdt, at, 8))).collect();
            let names: Vec<_> = listed.iter().map(|(name, _)| name.as_str()).collect();
            let all = ["FACP", "APIC", "HPET", "MCFG"];
            assert_eq!(names, all[..if board.ecam.is_some() { 4 } else { 3 }]);
            assert!(listed.iter().all(|(_, table)| sum(table) == 0));
            let fadt = &listed[0].1;
            let (name, dsdt) = table(number(fadt, 140, 8));
            assert_eq!((name.as_str(), sum(&dsdt), number(fadt, 40, 4)), ("DSDT", 0, number(fadt, 140, 8)));
            assert_eq!(table(number(fadt, 36, 4)).0, "FACS");
            assert_eq!(number(fadt, 36, 4) % 64, 0);
        }
    }
}
