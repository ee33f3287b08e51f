//! The items of the firmware configuration device: numbered ones, and files.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::Board;
use crate::acpi::LoaderFiles;

/// The numbers of items (QEMU, *fw_cfg* specification).
#[allow(missing_docs, reason = "the specification's own names")]
pub mod key {
    pub const SIGNATURE: u16 = 0x00;
    pub const ID: u16 = 0x01;
    pub const UUID: u16 = 0x02;
    pub const RAM_SIZE: u16 = 0x03;
    pub const CPU_COUNT: u16 = 0x05;
    pub const KERNEL_ADDRESS: u16 = 0x07;
    pub const KERNEL_SIZE: u16 = 0x08;
    pub const INITRD_ADDRESS: u16 = 0x0a;
    pub const INITRD_SIZE: u16 = 0x0b;
    pub const MAX_CPUS: u16 = 0x0f;
    pub const KERNEL_DATA: u16 = 0x11;
    pub const INITRD_DATA: u16 = 0x12;
    pub const COMMAND_LINE_ADDRESS: u16 = 0x13;
    pub const COMMAND_LINE_SIZE: u16 = 0x14;
    pub const COMMAND_LINE_DATA: u16 = 0x15;
    pub const SETUP_ADDRESS: u16 = 0x16;
    pub const SETUP_SIZE: u16 = 0x17;
    pub const SETUP_DATA: u16 = 0x18;
    pub const FILE_DIRECTORY: u16 = 0x19;
    /// The first file; the others follow.
    pub const FIRST_FILE: u16 = 0x20;
}

/// The longest name of a file in bytes: 56 with the final zero.
const LONGEST_NAME: usize = 55;
/// The most files, so that their numbers stay below those with other meanings.
const MOST_FILES: usize = 0x1000;

/// Items by number, and files by name.
#[derive(Debug, Clone, Default)]
pub struct Items {
    /// The numbered items but the signature, the ID and the directory, which are the device's own.
    pub numbered: BTreeMap<u16, Arc<[u8]>>,
    /// The files. Their order gives their numbers.
    pub files: BTreeMap<String, Arc<[u8]>>,
}

/// What firmware is told of the machine.
pub struct Machine<'a> {
    /// The board.
    pub board: &'a Board,
    /// The RAM in bytes.
    pub ram: u64,
    /// The CPUs.
    pub cpus: u32,
    /// The ACPI tables.
    pub acpi: &'a LoaderFiles,
    /// The entry point and the structures of SMBIOS.
    pub smbios: (&'a [u8], &'a [u8]),
    /// The I/O port of the serial port that is the firmware's console too, where there is no screen.
    pub serial_console: Option<u16>,
}

/// A file's name is not one that firmware can read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("firmware file {name:?}: a name has 1 to 55 characters of ASCII without spaces, and starts with opt/ or etc/")]
pub struct FileNameError {
    /// The name.
    pub name: String,
}

/// Checks the name of a file that the user gives to the guest.
///
/// # Errors
/// [`FileNameError`].
pub fn check_file_name(name: &str) -> Result<(), FileNameError> {
    let starts = ["opt/", "etc/"].iter().any(|start| name.strip_prefix(start).is_some_and(|rest| !rest.is_empty()));
    let good = starts && name.len() <= LONGEST_NAME && name.bytes().all(|byte| byte.is_ascii_graphic());
    if good { Ok(()) } else { Err(FileNameError { name: name.to_owned() }) }
}

impl Items {
    /// The items that tell firmware what `machine` is.
    #[must_use]
    pub fn of(machine: &Machine<'_>) -> Self {
        let mut items = Self::default();
        let cpus = u16::try_from(machine.cpus).unwrap_or(u16::MAX);
        items.number(key::UUID, &[0; 16]);
        items.number(key::RAM_SIZE, &machine.ram.to_le_bytes());
        items.number(key::CPU_COUNT, &cpus.to_le_bytes());
        items.number(key::MAX_CPUS, &cpus.to_le_bytes());
        items.file("etc/e820", &e820(machine.board, machine.ram));
        items.file("etc/acpi/rsdp", &machine.acpi.rsdp);
        items.file("etc/acpi/tables", &machine.acpi.tables);
        items.file("etc/table-loader", &machine.acpi.script);
        items.file("etc/smbios/smbios-anchor", machine.smbios.0);
        items.file("etc/smbios/smbios-tables", machine.smbios.1);
        // ACPI sleep states: S5 only, its type the board's; the highest bit says that there is a state.
        items.file("etc/system-states", &[0, 0, 0, 0, 0, 0x80 | machine.board.pm.s5]);
        if let Some(port) = machine.serial_console {
            items.file("etc/sercon-port", &port.to_le_bytes());
        }
        items
    }

    /// Sets a numbered item.
    pub fn number(&mut self, key: u16, data: &[u8]) {
        self.numbered.insert(key, data.into());
    }

    /// Sets a file.
    pub fn file(&mut self, name: &str, data: &[u8]) {
        if self.files.len() < MOST_FILES {
            self.files.insert(name.to_owned(), data.into());
        }
    }

    /// Sets the order in which firmware looks for systems to boot: OpenFirmware paths, the first first.
    pub fn boot_order(&mut self, paths: &[String]) {
        let mut list = paths.join("\n").into_bytes();
        list.push(0);
        self.file("bootorder", &list);
    }

    /// Adds to that order, behind what it has.
    pub fn add_boot_order(&mut self, paths: &[String]) {
        if paths.is_empty() {
            return;
        }
        let before = self.files.get("bootorder").map(|list| String::from_utf8_lossy(list).into_owned());
        let before = before.as_deref().unwrap_or_default().trim_end_matches('\0');
        let paths: Vec<String> = before.lines().map(str::to_owned).chain(paths.iter().cloned()).collect();
        self.boot_order(&paths);
    }

    /// The directory of the files as the guest reads it: a count, then size, number and name of each, big-endian.
    #[must_use]
    pub fn directory(&self) -> Vec<u8> {
        let mut directory = (self.files.len() as u32).to_be_bytes().to_vec();
        for ((name, data), number) in self.files.iter().zip(key::FIRST_FILE..) {
            directory.extend(u32::try_from(data.len()).unwrap_or(u32::MAX).to_be_bytes());
            directory.extend(number.to_be_bytes());
            directory.extend([0; 2]);
            let mut field = [0; LONGEST_NAME + 1];
            field.iter_mut().zip(name.bytes().take(LONGEST_NAME)).for_each(|(to, from)| *to = from);
            directory.extend(field);
        }
        directory
    }
}

/// The RAM, as ranges of start, length and type, little-endian. What lies in it that is not for use, firmware knows.
fn e820(board: &Board, ram: u64) -> Vec<u8> {
    const RAM: u32 = 1;
    let (low, high) = board.split_ram(ram);
    let mut map = Vec::new();
    for (start, len) in [(0, low), (crate::board::HIGH_RAM, high)] {
        if len != 0 {
            map.extend(start.to_le_bytes());
            map.extend(len.to_le_bytes());
            map.extend(RAM.to_le_bytes());
        }
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_lists_the_files() {
        let mut items = Items::default();
        items.file("opt/b", &[1, 2, 3]);
        items.file("etc/a", &[0; 300]);
        let directory = items.directory();
        assert_eq!(directory.len(), 4 + 2 * 64);
        assert_eq!(directory[..18], *b"\0\0\0\x02\0\0\x01\x2c\0\x20\0\0etc/a\0");
        assert_eq!(directory[68..82], *b"\0\0\0\x03\0\x21\0\0opt/b\0");
    }

    #[test]
    fn names_are_checked() {
        for good in ["opt/org.example/x", "etc/boot-fail-wait"] {
            check_file_name(good).unwrap();
        }
        let long = format!("opt/{}", "x".repeat(52));
        for bad in ["", "opt/", "bootorder", "opt/a b", "opt/\u{fc}", &long] {
            assert!(check_file_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ram_above_the_hole_is_told() {
        let board = Board::named("pc-1").unwrap();
        assert_eq!(e820(board, 1 << 30).len(), 20);
        let map = e820(board, 8 << 30);
        assert_eq!(map[20..28], (1u64 << 32).to_le_bytes());
        let len = |at: usize| u64::from_le_bytes(map[at..at + 8].try_into().unwrap());
        assert_eq!(len(8) + len(28), 8 << 30);
    }
}
