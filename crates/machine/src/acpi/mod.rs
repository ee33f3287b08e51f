//! ACPI tables (ACPI 6.5) that describe a board.

mod dsdt;
mod script;
mod tables;

pub use script::{LoaderFiles, loader_files};

use acpi_tables::{Aml, facs::FACS, rsdp::Rsdp};
use memory::{Gpa, GuestMemory};

use crate::Board;

/// What a machine on a board has, as far as the tables tell of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contents {
    /// The CPUs, of APIC IDs 0 to `cpus - 1`.
    pub cpus: u32,
    /// The RAM in bytes.
    pub ram: u64,
    /// The serial ports, from the board's first one on.
    pub serial_ports: usize,
    /// Whether there is the port by which a guest tells of its panic.
    pub panic_port: bool,
}

/// The tables in guest memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tables {
    /// What goes to `base`.
    pub bytes: Vec<u8>,
    /// Where the first byte goes.
    pub base: Gpa,
    /// The root pointer.
    pub rsdp: Gpa,
}

/// The tables cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AcpiError {
    /// They do not fit into the board's room for them.
    #[error("the ACPI tables take {len} bytes, more than the {room} of board {board}; use fewer CPUs")]
    Full {
        /// The bytes needed.
        len: usize,
        /// The bytes there are.
        room: u64,
        /// The board.
        board: &'static str,
    },
    /// The board does not take so many CPUs.
    #[error("board {board} takes 1 to {most} CPUs, not {cpus}")]
    Cpus {
        /// The CPUs asked for.
        cpus: u32,
        /// The most there can be.
        most: u32,
        /// The board.
        board: &'static str,
    },
}

/// The tables of `board` with these contents.
///
/// # Errors
/// [`AcpiError`] with too many CPUs.
pub fn build(board: &Board, contents: &Contents) -> Result<Tables, AcpiError> {
    let Placed { bytes: placed, tables: starts, .. } = place(board, contents, board.acpi.start)?;
    let listed: Vec<u64> = starts.iter().map(|start| board.acpi.start + *start as u64).collect();
    let mut layout = Layout { base: board.acpi.start, bytes: placed };
    let xsdt = layout.put(&tables::xsdt(&listed));
    let rsdp = bytes(&Rsdp::new(tables::OEM_ID, xsdt));
    layout.bytes[..rsdp.len()].copy_from_slice(&rsdp);
    let (len, room) = (layout.bytes.len(), board.acpi.end - board.acpi.start);
    if len as u64 > room {
        return Err(AcpiError::Full { len, room, board: board.name });
    }
    Ok(Tables { bytes: layout.bytes, base: Gpa(layout.base), rsdp: Gpa(layout.base) })
}

/// The tables that the list of tables names, with what is behind them.
struct Placed {
    bytes: Vec<u8>,
    /// Where the FADT starts in `bytes`.
    fadt: usize,
    /// Where the tables start.
    tables: Vec<usize>,
}

/// Puts the tables one after the other, with pointers to where they are when the first byte is at `base`. Before them is
/// room for the root pointer.
fn place(board: &Board, contents: &Contents, base: u64) -> Result<Placed, AcpiError> {
    let cpus = contents.cpus;
    if cpus == 0 || cpus > board.max_cpus {
        return Err(AcpiError::Cpus { cpus, most: board.max_cpus, board: board.name });
    }
    let mut layout = Layout { base, bytes: vec![0; Rsdp::len()] };
    let facs = layout.put(&bytes(&FACS::new()));
    let dsdt = layout.put(&dsdt::build(board, contents));
    let fadt = layout.put(&tables::fadt(board, facs, dsdt));
    let mut listed = vec![fadt, layout.put(&tables::madt(board, cpus)), layout.put(&tables::hpet(board))];
    listed.extend(tables::mcfg(board).map(|mcfg| layout.put(&mcfg)));
    let inside = |at: u64| (at - base) as usize;
    Ok(Placed { bytes: layout.bytes, fadt: inside(fadt), tables: listed.into_iter().map(inside).collect() })
}

impl Tables {
    /// Puts the tables into guest memory.
    ///
    /// # Errors
    /// [`memory::Error::Hole`] when the board's memory is not there.
    pub fn write(&self, mem: &GuestMemory) -> memory::Result<()> {
        mem.write(self.base, &self.bytes)
    }
}

/// Tables one after the other.
struct Layout {
    base: u64,
    bytes: Vec<u8>,
}

impl Layout {
    /// Appends a table and gives its address, a multiple of 64 as the FACS demands.
    fn put(&mut self, table: &[u8]) -> u64 {
        let at = self.bytes.len().next_multiple_of(64);
        self.bytes.resize(at, 0);
        self.bytes.extend_from_slice(table);
        self.base + at as u64
    }
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut out = Vec::new();
    table.to_aml_bytes(&mut out);
    out
}

#[cfg(test)]
mod tests;
