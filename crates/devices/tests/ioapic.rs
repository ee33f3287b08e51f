//! The I/O APIC against its datasheet.

use std::sync::{Arc, Mutex};

use devices::chipset::{Ioapic, IoapicInputs};
use machine::{LineSink, MsiMessage};
use testkit::rig::{Access, Messages};

struct Apic {
    ioapic: Arc<Mutex<Ioapic>>,
    inputs: Arc<IoapicInputs>,
    messages: Messages,
}

impl Apic {
    fn new() -> Self {
        let messages = Messages::new();
        let ioapic = Ioapic::build(1, messages.port());
        Self { inputs: IoapicInputs::new(&ioapic), ioapic, messages }
    }

    fn read(&self, index: u8) -> u32 {
        let _ = self.ioapic.out32(0, 0, index.into());
        self.ioapic.in32(0, 0x10)
    }

    fn write(&self, index: u8, value: u32) {
        let _ = self.ioapic.out32(0, 0, index.into());
        let _ = self.ioapic.out32(0, 0x10, value);
    }

    fn entry(&self, pin: u8, low: u32, destination: u8) {
        self.write(0x11 + 2 * pin, u32::from(destination) << 24);
        self.write(0x10 + 2 * pin, low);
    }

    fn edge(&self, pin: u32) {
        self.inputs.set_input(pin, true);
        self.inputs.set_input(pin, false);
    }
}

#[test]
fn identity_and_reset_values() {
    let apic = Apic::new();
    assert_eq!(apic.read(0), 0x0100_0000);
    assert_eq!(apic.read(1), 0x0017_0020);
    assert_eq!(apic.read(0x10), 0x0001_0000);
    apic.write(0, 0x0f00_0000);
    assert_eq!(apic.read(0), 0x0f00_0000);
    apic.write(0x3e, 0xffff_ffff);
    assert_eq!(apic.read(0x3e), 0x0001_afff, "delivery status and remote IRR are read-only");
    assert_eq!(apic.read(0x40), 0, "there is no 25th entry");
}

#[test]
fn an_edge_is_one_message_and_a_masked_one_is_none() {
    let apic = Apic::new();
    apic.edge(4);
    apic.entry(4, 0x0000_0041, 3);
    assert_eq!(apic.messages.take(), []);
    apic.edge(4);
    assert_eq!(apic.messages.take(), [MsiMessage { address: 0xfee0_3000, data: 0x41 }]);
    // Logical destination, lowest priority.
    apic.entry(5, 0x0000_0942, 0xff);
    apic.edge(5);
    assert_eq!(apic.messages.take(), [MsiMessage { address: 0xfeef_f00c, data: 0x142 }]);
}

#[test]
fn a_level_comes_again_after_each_eoi_while_it_is_high() {
    let apic = Apic::new();
    apic.entry(16, 0x0000_8050, 0);
    apic.inputs.set_input(16, true);
    let message = MsiMessage { address: 0xfee0_0000, data: 0xc050 };
    assert_eq!(apic.messages.take(), [message]);
    assert_eq!(apic.read(0x30) & 1 << 14, 1 << 14, "remote IRR");
    apic.inputs.set_input(16, false);
    apic.inputs.set_input(16, true);
    assert_eq!(apic.messages.take(), [], "in service");
    apic.ioapic.lock().unwrap().eoi(0x51);
    assert_eq!(apic.messages.take(), [], "another vector");
    apic.ioapic.lock().unwrap().eoi(0x50);
    assert_eq!(apic.messages.take(), [message]);
    apic.inputs.set_input(16, false);
    let _ = apic.ioapic.out32(0, 0x40, 0x50);
    assert_eq!((apic.messages.take(), apic.read(0x30) & 1 << 14), (vec![], 0));
}

#[test]
fn unmasking_a_high_level_sends() {
    let apic = Apic::new();
    apic.entry(17, 0x0001_8051, 0);
    apic.inputs.set_input(17, true);
    assert_eq!(apic.messages.take(), []);
    apic.entry(17, 0x0000_8051, 0);
    assert_eq!(apic.messages.take().len(), 1);
    // Edge and back clears remote IRR, as software without the EOI register does.
    apic.entry(17, 0x0001_0051, 0);
    apic.entry(17, 0x0000_8051, 0);
    assert_eq!(apic.messages.take().len(), 1);
}
