//! The definition block: what a guest cannot find by looking (ACPI 6.5, chapters 5 and 6).

use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, And, Arg, CreateDWordField, Device, EISAName, Field, FieldAccessType,
    FieldEntry, FieldLockRule, FieldUpdateRule, IO, If, Memory32Fixed, Method, Name, OpRegion, OpRegionSpace, Or,
    PackageBuilder, Path, ResourceTemplate, Return, Scope, Store, ZERO,
};
use acpi_tables::sdt::Sdt;
use acpi_tables::{Aml, AmlSink};

use super::Contents;
use super::tables::{OEM_ID, OEM_REVISION, OEM_TABLE};
use crate::Board;

/// The pieces of a scope, already in byte code.
#[derive(Default)]
struct Code(Vec<u8>);

impl Code {
    fn add(&mut self, term: &dyn Aml) {
        term.to_aml_bytes(&mut self.0);
    }

    fn name(&mut self, name: &str, value: &dyn Aml) {
        self.add(&Name::new(name.into(), value));
    }

    /// A device with its plug-and-play ID.
    fn device(&mut self, name: &str, id: &str, fill: impl FnOnce(&mut Code)) {
        let mut body = Code::default();
        body.name("_HID", &EISAName::new(id));
        fill(&mut body);
        self.add(&Device::new(name.into(), vec![&body]));
    }

    /// The resources of a device.
    fn resources(&mut self, resources: &[&dyn Aml]) {
        self.name("_CRS", &ResourceTemplate::new(resources.to_vec()));
    }
}

impl Aml for Code {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(&self.0);
    }
}

/// The short interrupt descriptor (6.4.2.1): an ISA interrupt, edge-triggered, active high, not shared.
struct IsaIrq(u8);

impl Aml for IsaIrq {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.byte(0x22);
        sink.word(1 << (self.0 & 15));
    }
}

/// The extended interrupt descriptor (6.4.3.6): level-triggered, active high, shared, one or several to choose from.
struct PciIrqs<'a>(&'a [u8]);

impl PciIrqs<'_> {
    /// Where the first interrupt number is.
    const NUMBER: u8 = 5;
}

impl Aml for PciIrqs<'_> {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.byte(0x89);
        sink.word(2 + 4 * self.0.len() as u16);
        // Consumer, level, high, shared.
        sink.byte(1 | 1 << 3);
        sink.byte(self.0.len() as u8);
        self.0.iter().for_each(|irq| sink.dword((*irq).into()));
    }
}

/// The whole table.
pub(super) fn build(board: &Board, contents: &Contents) -> Vec<u8> {
    let mut code = Code::default();
    code.name("PICF", &ZERO);
    code.add(&Method::new("_PIC".into(), 1, false, vec![&Store::new(&Path::new("PICF"), &Arg(0))]));
    code.add(&Scope::new("\\_SB_".into(), vec![&system(board, contents)]));
    let mut s5 = PackageBuilder::new();
    [board.pm.s5, board.pm.s5, 0, 0].iter().for_each(|value| s5.add_element(value));
    code.name("_S5_", &s5);

    let mut sdt = Sdt::new(*b"DSDT", 36, 2, OEM_ID, OEM_TABLE, OEM_REVISION);
    sdt.append_slice(&code.0);
    sdt.as_slice().to_vec()
}

/// \_SB: the PCI root, what is beside it, the CPUs.
fn system(board: &Board, contents: &Contents) -> Code {
    let mut code = Code::default();
    code.device("PCI0", "PNP0A08", |dev| pci_root(dev, board, contents));
    code.device("HPET", "PNP0103", |dev| {
        dev.name("_UID", &ZERO);
        dev.resources(&[&Memory32Fixed::new(false, board.hpet as u32, 0x400)]);
    });
    code.device("MBRD", "PNP0C02", |dev| {
        let pm = IO::new(board.pm.base, board.pm.base, 1, board.pm.len as u8);
        let elcr = IO::new(board.ports.elcr, board.ports.elcr, 1, 2);
        match &board.ecam {
            Some(ecam) => {
                let ecam = Memory32Fixed::new(true, ecam.start as u32, (ecam.end - ecam.start) as u32);
                dev.resources(&[&ecam, &pm, &elcr]);
            }
            None => dev.resources(&[&pm, &elcr]),
        }
    });
    for id in 0..contents.cpus {
        let mut body = Code::default();
        body.name("_HID", &"ACPI0007");
        body.name("_UID", &id);
        code.add(&Device::new(Path::new(&format!("C{id:03X}")), vec![&body]));
    }
    code
}

/// The PCI root bridge: windows, interrupts, and the devices behind its ISA bridge.
fn pci_root(dev: &mut Code, board: &Board, contents: &Contents) {
    dev.name("_CID", &EISAName::new("PNP0A03"));
    dev.name("_UID", &ZERO);
    dev.name("_BBN", &ZERO);
    let last_bus = board.ecam.as_ref().map_or(255, |e| ((e.end - e.start) >> 20).saturating_sub(1) as u16);
    let config = board.ports.pci_config;
    let memory = |start: u64, end: u64| {
        AddressSpace::new_memory(AddressSpaceCacheable::NotCacheable, true, start as u32, (end - 1) as u32, None)
    };
    let high = board.pci_memory_high(contents.ram);
    dev.resources(&[
        &AddressSpace::new_bus_number(0u16, last_bus),
        &IO::new(config, config, 1, 8),
        &AddressSpace::new_io(0u16, config - 1, None),
        &AddressSpace::new_io(config + 8, 0xffffu16, None),
        &memory(crate::board::VGA_HOLE.start, crate::board::VGA_HOLE.end),
        &memory(board.pci_memory.start, board.pci_memory.end),
        &AddressSpace::new_memory(AddressSpaceCacheable::Cacheable, true, high.start, high.end - 1, None),
    ]);
    routing(dev, board);
    let mut isa = Code::default();
    isa.name("_ADR", &(u32::from(board.isa_bridge.device) << 16 | u32::from(board.isa_bridge.function)));
    links(&mut isa, board);
    isa_devices(&mut isa, board, contents);
    dev.add(&Device::new("ISA_".into(), vec![&isa]));
}

/// Which interrupt each pin of each device on bus 0 reaches (6.2.13): an input of the I/O APIC, or through a link
/// device the PIC.
fn routing(dev: &mut Code, board: &Board) {
    let (mut apic, mut pic) = (PackageBuilder::new(), PackageBuilder::new());
    for device in 0..32u8 {
        for pin in 0..4u8 {
            let address = u32::from(device) << 16 | 0xffff;
            let entry = |source: &dyn Aml, index: u32| {
                let mut entry = PackageBuilder::new();
                entry.add_element(&address);
                entry.add_element(&pin);
                entry.add_element(source);
                entry.add_element(&index);
                entry
            };
            apic.add_element(&entry(&ZERO, board.intx_gsi(device, pin)));
            let link = Path::new(&format!("\\_SB_.PCI0.ISA_.{}", link_name(board.pirq(device, pin))));
            pic.add_element(&entry(&link, 0));
        }
    }
    dev.name("PRTA", &apic);
    dev.name("PRTP", &pic);
    let (in_use, apic, pic) = (Path::new("PICF"), Path::new("PRTA"), Path::new("PRTP"));
    let with_apic = Return::new(&apic);
    let choice = If::new(&in_use, vec![&with_apic]);
    dev.add(&Method::new("_PRT".into(), 0, false, vec![&choice, &Return::new(&pic)]));
}

fn link_name(pirq: u8) -> String {
    format!("LNK{}", char::from(b'A' + (pirq & 7)))
}

/// The interrupt router's link devices (6.2; Intel ICH9 data sheet, 13.1.12 and 13.1.15: registers from 60h and, where
/// there are eight, from 68h; bit 7 for "not routed", bits 0 to 3 the ISA interrupt).
fn links(isa: &mut Code, board: &Board) {
    const NOT_ROUTED: u8 = 0x80;
    let register = |pirq: u8| [b'P', b'R', b'Q', b'A' + pirq];
    let four = |from: u8| (from..from + 4).map(|pirq| FieldEntry::Named(register(pirq), 8));
    let fields = four(0).chain([FieldEntry::Reserved(32)]).chain(four(4)).collect();
    isa.add(&OpRegion::new("PIRQ".into(), OpRegionSpace::PCIConfig, &0x60u8, &12u8));
    isa.add(&Field::new(
        "PIRQ".into(),
        FieldAccessType::Byte,
        FieldLockRule::NoLock,
        FieldUpdateRule::Preserve,
        fields,
    ));
    for pirq in 0..board.pirqs {
        let register = Path::new(&String::from_utf8_lossy(&register(pirq)));
        isa.device(&link_name(pirq), "PNP0C0F", |link| {
            link.name("_UID", &pirq);
            link.name("_PRS", &ResourceTemplate::new(vec![&PciIrqs(board.pirq_choices)]));
            let off = And::new(&ZERO, &register, &NOT_ROUTED);
            let absent = Return::new(&9u8);
            let choice = If::new(&off, vec![&absent]);
            link.add(&Method::new("_STA".into(), 0, false, vec![&choice, &Return::new(&11u8)]));
            let disable = Or::new(&register, &register, &NOT_ROUTED);
            link.add(&Method::new("_DIS".into(), 0, false, vec![&disable]));
            let (buffer, number) = (Path::new("BUFF"), Path::new("IRQN"));
            let template = ResourceTemplate::new(vec![&PciIrqs(&[0])]);
            let fill = And::new(&number, &register, &0xfu8);
            link.add(&Method::new(
                "_CRS".into(),
                0,
                true,
                vec![
                    &Name::new("BUFF".into(), &template),
                    &CreateDWordField::new(&number, &buffer, &PciIrqs::NUMBER),
                    &fill,
                    &Return::new(&buffer),
                ],
            ));
            link.add(&Method::new(
                "_SRS".into(),
                1,
                true,
                vec![&CreateDWordField::new(&number, &Arg(0), &PciIrqs::NUMBER), &Store::new(&register, &number)],
            ));
        });
    }
}

/// The devices at fixed ports.
fn isa_devices(isa: &mut Code, board: &Board, contents: &Contents) {
    let (ports, irqs) = (&board.ports, &board.irqs);
    let io = |port: u16, len: u8| IO::new(port, port, 1, len);
    for (i, (port, irq)) in ports.serial.iter().zip(irqs.serial).enumerate().take(contents.serial_ports) {
        isa.device(&format!("COM{}", i + 1), "PNP0501", |dev| {
            dev.name("_UID", &(i as u8 + 1));
            dev.resources(&[&io(*port, 8), &IsaIrq(irq)]);
        });
    }
    isa.device("PS2K", "PNP0303", |dev| {
        dev.resources(&[&io(ports.i8042_data, 1), &io(ports.i8042_command, 1), &IsaIrq(irqs.keyboard)]);
    });
    isa.device("PS2M", "PNP0F13", |dev| dev.resources(&[&IsaIrq(irqs.mouse)]));
    isa.device("RTC_", "PNP0B00", |dev| dev.resources(&[&io(ports.rtc, 4), &IsaIrq(irqs.rtc)]));
    if contents.panic_port {
        // The ID by which guests know this port (QEMU, pvpanic device specification).
        let mut body = Code::default();
        body.name("_HID", &"QEMU0001");
        body.resources(&[&io(ports.pvpanic, 1)]);
        isa.add(&Device::new("PEVT".into(), vec![&body]));
    }
}
