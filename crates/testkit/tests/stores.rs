//! Memory that devices map while the guest runs, on both engines: what an access to a device has changed is what the next
//! instruction sees.

use std::sync::{Arc, OnceLock};

use engine::{CpuIo, EngineConfig, Kicker, Partition, Stop};
use iced_x86::code_asm::*;
use memory::{Gpa, GuestMemory, Kind, Region, Store, StoreConfig};
use testkit::bare::{Bare, CODE, EXIT, RAM};
use testkit::choice::chosen;
use x86::CpuModel;

/// The pages of a flash chip.
const FLASH: u32 = 0x100_0000;
/// Two places for video memory.
const HERE: u32 = 0x200_0000;
const THERE: u32 = 0x300_0000;
const VIDEO_BYTES: u64 = 0x4000;

/// A flash chip whose reads are its status after a command, and a port that moves the video memory.
struct Machine {
    memory: GuestMemory,
    flash: Store,
    video: Store,
    kicker: Kicker,
    partition: OnceLock<Arc<dyn Partition>>,
}

impl Machine {
    fn changed(&self) {
        self.partition.get().unwrap().layout_changed(&self.memory).unwrap();
    }
}

impl CpuIo for Machine {
    fn mmio_read(&self, addr: u64, data: &mut [u8]) {
        data.fill(if addr >> 12 == u64::from(FLASH >> 12) { 0x80 } else { 0xff });
    }

    fn mmio_write(&self, addr: u64, data: &[u8]) {
        if addr >> 12 != u64::from(FLASH >> 12) {
            return;
        }
        let page = u64::from(FLASH)..u64::from(FLASH) + 0x1000;
        self.flash.switch(page, (data[0] == 0xff).then_some((0, Kind::Rom))).unwrap();
        self.changed();
    }

    fn port_read(&self, _: u16, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn port_write(&self, port: u16, data: &[u8]) {
        if port == EXIT {
            return self.kicker.kick();
        }
        let at = match data[0] {
            0 => None,
            1 => Some(Gpa(HERE.into())),
            _ => Some(Gpa(THERE.into())),
        };
        self.video.place(at).unwrap();
        self.changed();
    }

    fn pic_ack(&self) -> Option<u8> {
        None
    }

    fn eoi(&self, _: u8) {}
}

/// Runs a guest; gives its registers and the page addresses in the dirty log.
fn run(build: impl FnOnce(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>) -> ([u64; 16], Vec<u64>, Store) {
    let bare = Bare::protected();
    bare.code(32, CODE, build);
    let mut contents = vec![0; RAM as usize];
    bare.memory.read(Gpa(0), &mut contents).unwrap();
    let stores = [
        StoreConfig::switched("flash", FLASH.into()..u64::from(FLASH) + 0x1000, 0x1000),
        StoreConfig::movable("video", VIDEO_BYTES),
    ];
    let memory = GuestMemory::with_stores(&[Region { start: Gpa(0), len: RAM, kind: Kind::Ram }], &stores).unwrap();
    memory.write(Gpa(0), &contents).unwrap();
    let [flash, video] = ["flash", "video"].map(|name| memory.store(name).unwrap());
    flash.write(0, &[0x11; 0x1000]).unwrap();
    flash.switch(FLASH.into()..u64::from(FLASH) + 0x1000, Some((0, Kind::Rom))).unwrap();
    let engine = chosen().open();
    let model = CpuModel::named("x86-64-v3").unwrap().intersect(&engine.limits().ceiling);
    let partition = engine.create(&EngineConfig { vcpus: 1, name: "stores".into() }, &memory).unwrap();
    let mut vcpu = partition.vcpu(0, &model).unwrap();
    vcpu.set_state(&bare.state).unwrap();
    let kicker = vcpu.kicker();
    let machine = Machine { memory, flash, video: video.clone(), kicker, partition: OnceLock::new() };
    assert!(machine.partition.set(Arc::clone(&partition)).is_ok());
    partition.dirty().start();
    partition.clock().resume();
    assert_eq!(vcpu.run(&machine).unwrap(), Stop::Kicked);
    let mut dirty = Vec::new();
    partition.dirty().collect(&mut |page| dirty.push(page));
    (vcpu.state().unwrap().gpr, dirty, video)
}

#[test]
fn flash_is_rom_until_it_is_written() {
    let (gpr, _, _) = run(|a| {
        // Warm: the page is in the TLB as memory.
        a.mov(eax, dword_ptr(FLASH))?;
        a.mov(byte_ptr(FLASH), 0x70)?;
        a.movzx(ebx, byte_ptr(FLASH + 4))?;
        a.mov(byte_ptr(FLASH), 0xff)?;
        a.movzx(ecx, byte_ptr(FLASH + 4))?;
        // A read and a write of one instruction.
        a.or(byte_ptr(FLASH), 0x60)?;
        a.movzx(edx, byte_ptr(FLASH + 8))?;
        a.out(i32::from(EXIT), al)
    });
    assert_eq!([gpr[0], gpr[3], gpr[1], gpr[2]], [0x1111_1111, 0x80, 0x11, 0x80]);
}

#[test]
fn video_memory_is_ram_where_it_is_placed() {
    let (gpr, dirty, video) = run(|a| {
        a.mov(edi, dword_ptr(HERE))?;
        a.mov(al, 1)?;
        a.out(0x10, al)?;
        a.mov(dword_ptr(HERE + 0x1000), 0x1234_5678)?;
        // mov eax, 42; ret
        a.mov(dword_ptr(HERE + 0x2000), 0x0000_2ab8)?;
        a.mov(dword_ptr(HERE + 0x2004), 0x0000_c300)?;
        a.mov(ebx, HERE + 0x2000)?;
        a.call(ebx)?;
        a.mov(ebx, eax)?;
        a.mov(al, 2)?;
        a.out(0x10, al)?;
        a.mov(ecx, dword_ptr(THERE + 0x1000))?;
        a.mov(edx, dword_ptr(HERE + 0x1000))?;
        // Other code at the same place, by a write through the new address.
        a.mov(byte_ptr(THERE + 0x2001), 43)?;
        a.mov(esi, THERE + 0x2000)?;
        a.call(esi)?;
        a.mov(esi, eax)?;
        a.out(i32::from(EXIT), al)
    });
    let expected = [0xffff_ffff, 42, 0x1234_5678, 0xffff_ffff, 43];
    assert_eq!([gpr[7], gpr[3], gpr[1], gpr[2], gpr[6]], expected);
    // Known by the addresses that it has now.
    let there = |n: u64| u64::from(THERE) + n;
    let video_pages: Vec<_> = dirty.iter().copied().filter(|page| *page >= u64::from(HERE)).collect();
    assert_eq!(video_pages, [there(0x1000), there(0x2000)]);
    let mut word = [0; 4];
    video.read(0x1000, &mut word).unwrap();
    assert_eq!(word, [0x78, 0x56, 0x34, 0x12]);
}
