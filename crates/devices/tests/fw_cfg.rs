//! What firmware reads of the configuration device, by its ports and by DMA.

use std::sync::{Arc, Mutex};

use devices::misc::FwCfg;
use machine::firmware::{Items, key};
use machine::{At, Device};
use memory::{Gpa, GuestMemory, Kind, Region};

fn device() -> (Arc<Mutex<FwCfg>>, GuestMemory) {
    let region = |start, kind| Region { start: Gpa(start), len: 0x1000, kind };
    let memory = GuestMemory::new(&[region(0, Kind::Ram), region(0x1000, Kind::Rom)]).unwrap();
    let mut items = Items::default();
    items.number(key::CPU_COUNT, &[4, 0]);
    items.file("opt/x", b"hello");
    (FwCfg::new(&items, memory.clone()), memory)
}

fn select(device: &mut FwCfg, item: u16) {
    let _ = device.write(At { window: 0, offset: 0 }, &item.to_le_bytes());
}

fn bytes<const N: usize>(device: &mut FwCfg) -> [u8; N] {
    let mut data = [0xee; N];
    data.chunks_mut(1).for_each(|byte| device.read(At { window: 0, offset: 1 }, byte));
    data
}

/// Has a request carried out; gives its control word afterwards.
fn dma(device: &mut FwCfg, memory: &GuestMemory, control: u32, len: u32, to: u64) -> u32 {
    let request = [&control.to_be_bytes()[..], &len.to_be_bytes(), &to.to_be_bytes()].concat();
    memory.write(Gpa(0x100), &request).unwrap();
    let _ = device.write(At { window: 1, offset: 0 }, &[0; 4]);
    let _ = device.write(At { window: 1, offset: 4 }, &0x100u32.to_be_bytes());
    u32::from_be_bytes(memory.read_array(Gpa(0x100)).unwrap())
}

#[test]
fn items_are_read_by_bytes() {
    let (device, _) = device();
    let mut device = device.lock().unwrap();
    for (item, holds) in
        [(0, *b"QEMU"), (1, [3, 0, 0, 0]), (key::CPU_COUNT, [4, 0, 0, 0]), (0x77, [0; 4]), (0x20, *b"hell")]
    {
        select(&mut device, item);
        assert_eq!(bytes(&mut device), holds, "{item:#x}");
    }
    assert_eq!(bytes(&mut device), *b"o\0");
    let mut signature = [0; 8];
    device.read(At { window: 1, offset: 0 }, &mut signature);
    assert_eq!(&signature, b"QEMU CFG");
}

#[test]
fn items_are_read_by_dma() {
    let (device, memory) = device();
    let mut device = device.lock().unwrap();
    memory.write(Gpa(0x200), &[0xee; 8]).unwrap();
    assert_eq!(dma(&mut device, &memory, 0x20 << 16 | 8 | 2, 2, 0x200), 0);
    assert_eq!(dma(&mut device, &memory, 4, 1, 0), 0);
    // Zeros behind the end.
    assert_eq!(dma(&mut device, &memory, 2, 4, 0x202), 0);
    assert_eq!(&memory.read_array(Gpa(0x200)).unwrap(), b"helo\0\0\xee\xee");
    // Into ROM, into nothing, without end, and a write.
    for (control, len, to) in [(2, 1, 0x1000), (2, 16, 0xff8), (2, u32::MAX, 0), (16, 1, 0x200)] {
        assert_eq!(dma(&mut device, &memory, 0x20 << 16 | 8 | control, len, to), 1, "{control} {len} {to:#x}");
    }
    // A request that is nowhere, or in ROM, harms nobody.
    let _ = device.write(At { window: 1, offset: 0 }, &[0xff; 8]);
    let _ = device.write(At { window: 1, offset: 0 }, &0x1000u64.to_be_bytes());
}
