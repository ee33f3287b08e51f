//! The chipset: interrupt controllers, timers, clock, power management, PCI, keyboard controller.

use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use devices::chipset::{
    AcpiPm, AcpiPmConfig, HostBridge, Hpet, I8254, I8259Pair, IntrPin, Ioapic, IoapicInputs, IsaBridge, LegacyRoute,
    Mc146818, PicInputs, Piix4Pm, PirqInputs, Port92, PostPort, RtcConfig,
};
use devices::input::I8042;
use engine::Signal;
use machine::board::Chipset;
use machine::firmware::ShadowRam;
use machine::pci::{Bdf, ConfigPorts, Ecam, PciBus};
use machine::{MsiPort, Shared};

use super::irq::Irqs;
use super::{Wiring, ports};
use crate::{Config, Error};

/// What others need of the chipset.
pub(super) struct Parts {
    pub(super) pic: Shared<I8259Pair>,
    pub(super) ioapic: Shared<Ioapic>,
    pub(super) pm: Shared<AcpiPm>,
    pub(super) pci: Arc<PciBus>,
    pub(super) keyboard: Shared<I8042>,
}

const IOAPIC_BYTES: u64 = 0x1000;
const HPET_BYTES: u64 = 0x400;

/// The chipset of the board, with `shadow` for firmware.
pub(super) fn build(
    wiring: &mut Wiring,
    config: &Config,
    shadow: Option<Arc<ShadowRam>>,
) -> Result<(Parts, Irqs), Error> {
    let board = wiring.board;
    let at = &board.ports;
    let clock = wiring.partition.clock().clone();

    let partition = Arc::clone(&wiring.partition);
    let pic = I8259Pair::build(IntrPin::new(move |high| partition.signal(0, Signal::ExtInt(high))));
    wiring.at_ports(&pic, &[ports(at.pic_master, 2), ports(at.pic_slave, 2), ports(at.elcr, 2)])?;
    let msi = MsiPort::to(Arc::clone(&wiring.partition));
    let ioapic = Ioapic::build(board.ioapic_id, msi.clone());
    wiring.at_memory(&ioapic, board.ioapic..board.ioapic + IOAPIC_BYTES)?;
    let mut irqs = Irqs::new(board, &PicInputs::new(&pic), &IoapicInputs::new(&ioapic));

    let legacy = LegacyRoute::new(irqs.isa(board.irqs.pit), irqs.isa(board.irqs.rtc));
    let pit = I8254::build(&clock, legacy.pit_line());
    wiring.at_ports(&pit, &[ports(at.pit, 4), ports(at.port_b, 1)])?;
    let rtc = Mc146818::build(&clock, rtc_config(wiring, config), legacy.rtc_line());
    wiring.at_ports(&rtc, &[ports(at.rtc, 4)])?;
    let hpet = Hpet::build(&clock, legacy, irqs.inputs_20_up(), msi);
    wiring.at_memory(&hpet, board.hpet..board.hpet + HPET_BYTES)?;

    let pm_config = AcpiPmConfig {
        acpi_enable: board.pm.acpi_enable,
        acpi_disable: board.pm.acpi_disable,
        ..AcpiPmConfig::default()
    };
    let pm = AcpiPm::build(&clock, pm_config, irqs.isa(board.irqs.sci));
    wiring.at_ports(&pm, &[ports(board.pm.base, board.pm.len), ports(board.pm.smi_command, 2)])?;
    wiring.at_ports(&Port92::new(), &[ports(at.port_92, 1)])?;
    // A second window at EDh, where some kernels write for a delay.
    wiring.at_ports(&PostPort::new(), &[ports(at.post, 1), ports(0xed, 1)])?;
    let keyboard = I8042::build(irqs.isa(board.irqs.keyboard), irqs.isa(board.irqs.mouse));
    wiring.at_ports(&keyboard, &[ports(at.i8042_data, 1), ports(at.i8042_command, 1)])?;

    let pci = pci(wiring, &mut irqs, shadow)?;
    Ok((Parts { pic, ioapic, pm, pci, keyboard }, irqs))
}

fn pci(wiring: &mut Wiring, irqs: &mut Irqs, shadow: Option<Arc<ShadowRam>>) -> Result<Arc<PciBus>, Error> {
    let board = wiring.board;
    let (memory, partition) = (wiring.memory.clone(), Arc::clone(&wiring.partition));
    let pci = PciBus::with_memory(Arc::clone(&wiring.ports), Arc::clone(&wiring.mmio), move || {
        if let Err(error) = partition.layout_changed(&memory) {
            tracing::error!(%error, "memory behind a PCI window");
        }
    });
    let config_ports = Arc::new(Mutex::new(ConfigPorts::new(Arc::clone(&pci))));
    wiring.at_ports(&config_ports, &[ports(board.ports.pci_config, 8)])?;
    if let Some(range) = board.ecam.clone() {
        wiring.at_memory(&Arc::new(Mutex::new(Ecam::new(Arc::clone(&pci)))), range)?;
    }
    let isa = (0..16).map(|irq| irqs.isa(irq)).collect();
    let shadowed = shadow.is_some();
    let (host, bridge) = match board.chipset {
        Chipset::Q35 => {
            (HostBridge::q35(board.ecam.clone().unwrap_or_default(), shadow), IsaBridge::ich9(board.pm.base, isa))
        }
        Chipset::I440fx => (HostBridge::i440fx(shadow), IsaBridge::piix3(isa)),
    };
    wiring.add_function(&pci, Bdf::root(0, 0), &host)?;
    wiring.add_function(&pci, board.isa_bridge, &bridge)?;
    if board.chipset == Chipset::I440fx {
        let pm = Bdf { function: 3, ..board.isa_bridge };
        wiring.add_function(&pci, pm, &Piix4Pm::new(board.pm.base, board.irqs.sci))?;
    }
    irqs.connect_pirqs(board, &PirqInputs::new(&bridge));
    if shadowed {
        wiring.mmio.map(ShadowRam::range(), host, HostBridge::SHADOW_WINDOW)?;
    }
    Ok(pci)
}

fn rtc_config(wiring: &Wiring, config: &Config) -> RtcConfig {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (low, high) = wiring.board.split_ram(config.memory);
    RtcConfig::at(config.power_on.unwrap_or_else(now)).with_memory(low, high)
}
