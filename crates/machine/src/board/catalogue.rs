//! The boards that there are.

use crate::pci::Bdf;

use super::{Board, Chipset, Irqs, Pm, Ports};

const PC_PORTS: Ports = Ports {
    pic_master: 0x20,
    pic_slave: 0xa0,
    elcr: 0x4d0,
    pit: 0x40,
    port_b: 0x61,
    i8042_data: 0x60,
    i8042_command: 0x64,
    post: 0x80,
    rtc: 0x70,
    port_92: 0x92,
    serial: [0x3f8, 0x2f8, 0x3e8, 0x2e8],
    debug: 0x402,
    test_exit: 0x501,
    pci_config: 0xcf8,
    reset_control: 0xcf9,
    fw_cfg: 0x510,
    pvpanic: 0x505,
};

const PC_IRQS: Irqs = Irqs { pit: 0, pit_gsi: 2, keyboard: 1, mouse: 12, rtc: 8, serial: [4, 3, 4, 3], sci: 9 };

const PM: Pm = Pm {
    base: 0x600,
    len: 0x80,
    event: 0,
    control: 4,
    timer: 8,
    gpe0: 0x20,
    gpe0_len: 0x10,
    smi_command: 0xb2,
    acpi_enable: 2,
    acpi_disable: 3,
    s5: 0,
};

const Q35_1: Board = Board {
    name: "q35-1",
    chipset: Chipset::Q35,
    low_ram_limit: 0xb000_0000,
    ecam: Some(0xb000_0000..0xc000_0000),
    pci_memory: 0xc000_0000..0xfec0_0000,
    pci_ports: 0x1000..0x1_0000,
    ioapic: 0xfec0_0000,
    ioapic_id: 0,
    ioapic_inputs: 24,
    hpet: 0xfed0_0000,
    // Revision 1, three 64-bit timers, legacy replacement, vendor Intel.
    hpet_id: 0x8086_a201,
    lapic: 0xfee0_0000,
    ports: PC_PORTS,
    irqs: PC_IRQS,
    pm: PM,
    pirqs: 8,
    pirq_shift: 0,
    pirq_choices: &[5, 10, 11],
    isa_bridge: Bdf::root(0x1f, 0),
    acpi: 0xe_0000..0xf_0000,
    smbios: 0xf_0000..0x10_0000,
    min_ram: 4 << 20,
    max_ram: 1 << 40,
    max_cpus: 255,
};

/// All boards, the default one first.
pub(super) const BOARDS: &[Board] = &[
    Q35_1,
    Board {
        name: "pc-1",
        chipset: Chipset::I440fx,
        ecam: None,
        pci_memory: 0xb000_0000..0xfec0_0000,
        pirqs: 4,
        // Device 1, the bridge itself, has INTA# at PIRQA.
        pirq_shift: 3,
        isa_bridge: Bdf::root(1, 0),
        ..Q35_1
    },
];
