//! The tables of plain data (ACPI 6.5, chapter 5).

use acpi_tables::fadt::{FADTBuilder, Flags, PmProfile};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::sdt::Sdt;

use super::bytes;
use crate::Board;

pub(super) const OEM_ID: [u8; 6] = *b"HUSK  ";
pub(super) const OEM_TABLE: [u8; 8] = *b"HUSKPC  ";
pub(super) const OEM_REVISION: u32 = 1;

/// IA-PC boot architecture flags (ACPI 6.5, table 5.11).
const LEGACY_DEVICES: u16 = 1;
const I8042: u16 = 1 << 1;
const NO_VGA: u16 = 1 << 2;
/// The RTC register that holds the century.
const CENTURY: u8 = 0x32;
/// Worst-case latencies in µs above which a C-state is not there.
const NO_C2: u16 = 101;
const NO_C3: u16 = 1001;
/// What a write to the reset control register has to be: full reset through the CPU's reset.
const RESET_VALUE: u8 = 0x0e;

fn table(signature: [u8; 4], revision: u8, body: &[u8]) -> Vec<u8> {
    let mut sdt = Sdt::new(signature, 36, revision, OEM_ID, OEM_TABLE, OEM_REVISION);
    sdt.append_slice(body);
    sdt.as_slice().to_vec()
}

/// The fixed description table (5.2.9).
pub(super) fn fadt(board: &Board, facs: u64, dsdt: u64) -> Vec<u8> {
    let pm = &board.pm;
    let port = |offset: u16| pm.base + offset;
    let gas =
        |offset: u16, len: u16, size| GAS::new(AddressSpace::SystemIo, (len * 8) as u8, 0, size, port(offset).into());
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE, OEM_REVISION)
        .preferred_pm_profile(PmProfile::Desktop)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        .flag(Flags::SlpButton)
        .flag(Flags::FixRtc)
        .flag(Flags::ResetRegSup);
    fadt.dsdt = (dsdt as u32).into();
    fadt.x_dsdt = dsdt.into();
    // One of the two only (5.2.9, X_FIRMWARE_CTRL).
    fadt.firmware_ctrl = (facs as u32).into();
    fadt.sci_int = u16::from(board.irqs.sci).into();
    fadt.smi_cmd = u32::from(pm.smi_command).into();
    fadt.acpi_enable = pm.acpi_enable;
    fadt.acpi_disable = pm.acpi_disable;
    fadt.pm1a_evt_blk = u32::from(port(pm.event)).into();
    fadt.pm1a_cnt_blk = u32::from(port(pm.control)).into();
    fadt.pm_tmr_blk = u32::from(port(pm.timer)).into();
    fadt.gpe0_blk = u32::from(port(pm.gpe0)).into();
    fadt.pm1_evt_len = 4;
    fadt.pm1_cnt_len = 2;
    fadt.pm_tmr_len = 4;
    fadt.gpe0_blk_len = pm.gpe0_len as u8;
    fadt.p_lvl2_lat = NO_C2.into();
    fadt.p_lvl3_lat = NO_C3.into();
    fadt.century = CENTURY;
    fadt.iapc_boot_arch = (LEGACY_DEVICES | I8042 | NO_VGA).into();
    let reset = board.ports.reset_control.into();
    fadt.reset_reg = GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, reset);
    fadt.reset_value = RESET_VALUE;
    fadt.x_pm1a_evt_blk = gas(pm.event, 4, AccessSize::WordAccess);
    fadt.x_pm1a_cnt_blk = gas(pm.control, 2, AccessSize::WordAccess);
    fadt.x_pm_tmr_blk = gas(pm.timer, 4, AccessSize::DwordAccess);
    fadt.x_gpe0_blk = gas(pm.gpe0, pm.gpe0_len, AccessSize::ByteAccess);
    bytes(&fadt.finalize())
}

/// The interrupt controllers (5.2.12).
pub(super) fn madt(board: &Board, cpus: u32) -> Vec<u8> {
    const PCAT_COMPAT: u32 = 1;
    const ENABLED: u32 = 1;
    const ACTIVE_HIGH: u16 = 1;
    const LEVEL: u16 = 3 << 2;
    let mut body = Vec::new();
    body.extend((board.lapic as u32).to_le_bytes());
    body.extend(PCAT_COMPAT.to_le_bytes());
    for id in 0..cpus {
        // APIC ID 255 is the broadcast one: from there on, x2APIC.
        if let Some(short) = u8::try_from(id).ok().filter(|short| *short < 255) {
            body.extend([0, 8, short, short]);
            body.extend(ENABLED.to_le_bytes());
        } else {
            body.extend([9, 16, 0, 0]);
            [id, ENABLED, id].iter().for_each(|word| body.extend(word.to_le_bytes()));
        }
    }
    body.extend([1, 12, board.ioapic_id, 0]);
    [board.ioapic as u32, 0].iter().for_each(|word| body.extend(word.to_le_bytes()));
    let sci = board.irqs.sci;
    for (irq, gsi, flags) in [(board.irqs.pit, board.irqs.pit_gsi, 0), (sci, sci.into(), ACTIVE_HIGH | LEVEL)] {
        body.extend([2, 10, 0, irq]);
        body.extend(gsi.to_le_bytes());
        body.extend(flags.to_le_bytes());
    }
    // The NMI is at LINT1 of all CPUs.
    body.extend([4, 6, 0xff, 0, 0, 1]);
    if cpus > 255 {
        body.extend([10, 12, 0, 0, 0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0]);
    }
    table(*b"APIC", 5, &body)
}

/// The high precision event timer (IA-PC HPET specification 1.0a, 3.2.4).
pub(super) fn hpet(board: &Board) -> Vec<u8> {
    const LEAST_TICKS: u16 = 0x80;
    let mut body = board.hpet_id.to_le_bytes().to_vec();
    body.extend(bytes(&GAS::new(AddressSpace::SystemMemory, 64, 0, AccessSize::Undefined, board.hpet)));
    body.push(0);
    body.extend(LEAST_TICKS.to_le_bytes());
    body.push(0);
    table(*b"HPET", 1, &body)
}

/// The memory-mapped configuration window (PCI Firmware specification 3.2, 4.1.2).
pub(super) fn mcfg(board: &Board) -> Option<Vec<u8>> {
    let ecam = board.ecam.as_ref()?;
    let last_bus = ((ecam.end - ecam.start) >> 20).saturating_sub(1) as u8;
    let mut body = vec![0; 8];
    body.extend(ecam.start.to_le_bytes());
    body.extend([0, 0, 0, last_bus, 0, 0, 0, 0]);
    Some(table(*b"MCFG", 1, &body))
}

/// The list of the other tables (5.2.8).
pub(super) fn xsdt(listed: &[u64]) -> Vec<u8> {
    table(*b"XSDT", 1, &listed.iter().flat_map(|at| at.to_le_bytes()).collect::<Vec<_>>())
}
