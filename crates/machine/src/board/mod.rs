//! Boards as data: where everything is. The same numbers wire the machine, describe it in ACPI and in the E820 map.

mod catalogue;

use std::ops::Range;

use memory::{Gpa, Kind, Region};

use crate::pci::Bdf;

/// Which chipset a board is built around.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chipset {
    /// Intel Q35 with ICH9.
    Q35,
    /// Intel 440FX with PIIX.
    I440fx,
}

/// A versioned board. A name stands for one layout for ever: a change gets a new name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Board {
    /// The name, for example `q35-1`.
    pub name: &'static str,
    /// The chipset.
    pub chipset: Chipset,
    /// The end of RAM below 4 GiB at most; what does not fit goes on at 4 GiB.
    pub low_ram_limit: u64,
    /// The memory-mapped PCI configuration window.
    pub ecam: Option<Range<u64>>,
    /// Where PCI functions get memory below 4 GiB.
    pub pci_memory: Range<u64>,
    /// Where PCI functions get I/O ports.
    pub pci_ports: Range<u32>,
    /// The I/O APIC's registers.
    pub ioapic: u64,
    /// The I/O APIC's ID.
    pub ioapic_id: u8,
    /// The number of the I/O APIC's inputs; its GSIs start at 0.
    pub ioapic_inputs: u32,
    /// The HPET's registers.
    pub hpet: u64,
    /// The low half of the HPET's capabilities register.
    pub hpet_id: u32,
    /// The local APICs' registers.
    pub lapic: u64,
    /// The ports of the parts.
    pub ports: Ports,
    /// The ISA interrupts of the parts.
    pub irqs: Irqs,
    /// The power-management ports.
    pub pm: Pm,
    /// The inputs of the interrupt router: PIRQA and so on.
    pub pirqs: u8,
    /// The input that INTA# of device 0 reaches.
    pub pirq_shift: u8,
    /// The ISA IRQs that the interrupt router may be set to.
    pub pirq_choices: &'static [u8],
    /// The LPC or ISA bridge, which holds the interrupt router.
    pub isa_bridge: Bdf,
    /// The memory for ACPI tables; the RSDP is at its start.
    pub acpi: Range<u64>,
    /// The memory for SMBIOS structures; the entry point is at its start.
    pub smbios: Range<u64>,
    /// The least RAM that the board works with, in bytes.
    pub min_ram: u64,
    /// The most RAM in bytes.
    pub max_ram: u64,
    /// The most CPUs.
    pub max_cpus: u32,
}

/// First ports of the parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names of the parts")]
pub struct Ports {
    pub pic_master: u16,
    pub pic_slave: u16,
    /// The PIC's edge/level registers, two ports.
    pub elcr: u16,
    pub pit: u16,
    /// Port B: speaker gate and the state of PIT channel 2.
    pub port_b: u16,
    /// Data and command port.
    pub i8042_data: u16,
    pub i8042_command: u16,
    /// The POST code port.
    pub post: u16,
    /// Index and data port; bit 7 of the index masks NMIs.
    pub rtc: u16,
    /// Fast A20 and reset.
    pub port_92: u16,
    /// Four serial ports of 8 ports each.
    pub serial: [u16; 4],
    /// The debug console.
    pub debug: u16,
    /// The port with which a test guest ends the VM.
    pub test_exit: u16,
    /// Address and data, 8 ports, the reset control register among them.
    pub pci_config: u16,
    /// The reset control register.
    pub reset_control: u16,
    /// Selector and data of the firmware configuration.
    pub fw_cfg: u16,
    /// The byte with which a guest tells that it has panicked.
    pub pvpanic: u16,
}

/// ISA interrupts of the parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names of the parts")]
pub struct Irqs {
    /// At the PIC; at the I/O APIC it is GSI [`Irqs::pit_gsi`].
    pub pit: u8,
    /// The I/O APIC's input for the PIT.
    pub pit_gsi: u32,
    pub keyboard: u8,
    pub mouse: u8,
    pub rtc: u8,
    pub serial: [u8; 4],
    /// The ACPI interrupt, level-triggered.
    pub sci: u8,
}

/// The power-management ports (ACPI 6.5, 4.8.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pm {
    /// The first port.
    pub base: u16,
    /// The number of ports.
    pub len: u16,
    /// Offset of PM1a_EVT: status and enable, 4 ports.
    pub event: u16,
    /// Offset of PM1a_CNT, 2 ports.
    pub control: u16,
    /// Offset of PM_TMR, 4 ports.
    pub timer: u16,
    /// Offset of GPE0: status and enable.
    pub gpe0: u16,
    /// The length of GPE0 in ports.
    pub gpe0_len: u16,
    /// The port that takes the two commands below.
    pub smi_command: u16,
    /// The command that turns ACPI on.
    pub acpi_enable: u8,
    /// The command that turns ACPI off.
    pub acpi_disable: u8,
    /// SLP_TYP of S5 in PM1a_CNT.
    pub s5: u8,
}

/// There is no board of this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no board is named {name:?}; choose one of: {}", Board::names().join(", "))]
pub struct UnknownBoard {
    /// The name asked for.
    pub name: String,
}

/// The first address above 4 GiB.
pub const HIGH_RAM: u64 = 1 << 32;
/// Where the video memory starts: the end of conventional memory.
pub const VGA_HOLE: Range<u64> = 0xa_0000..0xc_0000;
/// The end of conventional memory that a guest may use: above is the extended BIOS data area.
pub const EBDA: u64 = 0x9_fc00;

impl Board {
    /// The board of this name.
    ///
    /// # Errors
    /// [`UnknownBoard`], which names those that there are.
    pub fn named(name: &str) -> Result<&'static Self, UnknownBoard> {
        let found = catalogue::BOARDS.iter().find(|board| board.name == name);
        found.ok_or_else(|| UnknownBoard { name: name.to_owned() })
    }

    /// The names of all boards.
    #[must_use]
    pub fn names() -> Vec<&'static str> {
        catalogue::BOARDS.iter().map(|board| board.name).collect()
    }

    /// How much of `ram` bytes is below 4 GiB, and how much above.
    #[must_use]
    pub fn split_ram(&self, ram: u64) -> (u64, u64) {
        let low = ram.min(self.low_ram_limit);
        (low, ram - low)
    }

    /// The memory regions of a machine with `ram` bytes of RAM, whole pages. The video hole costs 128 KiB of it.
    #[must_use]
    pub fn layout(&self, ram: u64) -> Vec<Region> {
        let (low, high) = self.split_ram(ram & !(memory::PAGE_SIZE - 1));
        let parts = [0..VGA_HOLE.start.min(low), VGA_HOLE.end..low, HIGH_RAM..HIGH_RAM + high];
        let parts = parts.into_iter().filter(|part| part.start < part.end);
        parts.map(|part| Region { start: Gpa(part.start), len: part.end - part.start, kind: Kind::Ram }).collect()
    }

    /// Where PCI functions get memory above 4 GiB in a machine with `ram` bytes of RAM.
    #[must_use]
    pub fn pci_memory_high(&self, ram: u64) -> Range<u64> {
        const GIB: u64 = 1 << 30;
        let start = (HIGH_RAM + self.split_ram(ram).1).next_multiple_of(32 * GIB);
        start..start + 32 * GIB
    }

    /// The interrupt router's input, PIRQA as 0, of interrupt pin `pin` (0 is INTA#) of a device on bus 0.
    #[must_use]
    pub fn pirq(&self, device: u8, pin: u8) -> u8 {
        device.wrapping_add(pin).wrapping_add(self.pirq_shift) % self.pirqs
    }

    /// The I/O APIC's input of interrupt pin `pin` (0 is INTA#) of a device on bus 0.
    #[must_use]
    pub fn intx_gsi(&self, device: u8, pin: u8) -> u32 {
        16 + u32::from(self.pirq(device, pin))
    }
}

#[cfg(test)]
mod tests;
