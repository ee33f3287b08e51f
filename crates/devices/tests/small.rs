//! The small ports and the bridges.

use std::sync::{Arc, Mutex};

use devices::chipset::{HostBridge, IsaBridge, PirqInputs, Port92, PostPort};
use devices::misc::{DebugExit, DebugPort, PanicEvent, Pvpanic};
use machine::pci::PciFunction;
use machine::{Effect, LineSink};
use testkit::rig::{Access, Bytes, Probe};

#[test]
fn port92_resets_on_the_edge_and_keeps_a20_open() {
    let port = Port92::new();
    assert_eq!(port.in8(0, 0), 0x02);
    assert_eq!(port.out8(0, 0, 0x00), Effect::None);
    assert_eq!(port.in8(0, 0), 0x02);
    assert_eq!(port.out8(0, 0, 0x01), Effect::Reset);
    assert_eq!(port.out8(0, 0, 0x01), Effect::None);
}

#[test]
fn post_codes_are_kept() {
    let port = PostPort::new();
    let _ = port.out8(0, 0, 0x42);
    assert_eq!((port.in8(0, 0), port.lock().unwrap().code()), (0x42, 0x42));
}

#[test]
fn test_ports() {
    let out = Bytes::new();
    let debug = DebugPort::new(Box::new(out.sink()));
    assert_eq!(debug.in8(0, 0), 0xe9);
    let _ = debug.out8(0, 0, b'h');
    let _ = debug.out32(0, 0, u32::from_le_bytes(*b"usk\n"));
    assert_eq!(out.take(), b"husk\n");
    let exit = DebugExit::new();
    assert_eq!(exit.out8(0, 0, 7), Effect::Exit(7));
    assert_eq!(exit.out32(0, 0, 0x2a), Effect::Exit(0x2a));
    assert_eq!(exit.out8(0, 1, 7), Effect::None);
    let events = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&events);
    let panic = Pvpanic::new(move |event| seen.lock().unwrap().push(event));
    assert_eq!(panic.in8(0, 0), 3);
    let _ = panic.out8(0, 0, 1);
    let _ = panic.out8(0, 0, 2);
    assert_eq!(*events.lock().unwrap(), [PanicEvent::Panicked, PanicEvent::CrashLoaded]);
}

fn dword(function: &Mutex<impl PciFunction>, offset: u16) -> u32 {
    let mut data = [0; 4];
    function.lock().unwrap().config_read(offset, &mut data);
    u32::from_le_bytes(data)
}

#[test]
fn the_bridges_say_where_things_are() {
    let mch = HostBridge::q35(0xb000_0000..0xc000_0000, None);
    assert_eq!((dword(&mch, 0), dword(&mch, 8) >> 8), (0x29c0_8086, 0x06_0000));
    assert_eq!((dword(&mch, 0x60), dword(&mch, 0x64)), (0xb000_0001, 0));
    let small = HostBridge::q35(0xe000_0000..0xe400_0000, None);
    assert_eq!(dword(&small, 0x60), 0xe000_0005, "64 buses");
    let lpc = IsaBridge::ich9(0x600, Vec::new());
    assert_eq!((dword(&lpc, 0), dword(&lpc, 8) >> 8), (0x2918_8086, 0x06_0100));
    assert_eq!((dword(&lpc, 0x40), dword(&lpc, 0x44) & 0xff), (0x601, 0x80));
    assert_eq!(dword(&lpc, 0x60), 0x8080_8080);
}

#[test]
fn pirqs_share_isa_lines_as_routed() {
    let probes: Vec<Probe> = (0..16).map(|_| Probe::new()).collect();
    let lpc = IsaBridge::ich9(0x600, probes.iter().map(Probe::line).collect());
    let pirqs = PirqInputs::new(&lpc);
    let route = |register: u16, value: u8| {
        let _ = lpc.lock().unwrap().config_write(register, &[value]);
    };
    pirqs.set_input(0, true);
    assert!(probes.iter().all(|probe| !probe.is_high()), "nothing is routed at first");
    route(0x60, 0x0b);
    assert!(probes[11].is_high());
    route(0x68, 0x0b);
    pirqs.set_input(4, true);
    pirqs.set_input(0, false);
    assert!(probes[11].is_high(), "shared");
    route(0x68, 0x8b);
    assert!(!probes[11].is_high());
    route(0x68, 0x08);
    assert!(!probes[8].is_high(), "IRQ8 cannot be shared");
}
