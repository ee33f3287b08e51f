//! Ports and device memory: widths, strings, accesses across pages, ROM.

mod common;

use common::{Machine, Pin};
use iced_x86::code_asm::*;
use memory::{Gpa, Kind, Region};
use testkit::bare::{Bare, CODE};

/// Somewhere without memory.
const DEVICE: u32 = 0x4000_0000;

#[test]
fn ports_of_all_widths() {
    let Some(engine) = common::engine() else { return };
    let bare = Bare::protected();
    bare.code(32, CODE, |a| {
        a.mov(eax, 0x4433_2211)?;
        a.out(0x10, al)?;
        a.out(0x11, ax)?;
        a.out(0x12, eax)?;
        a.mov(edx, 0x1234)?;
        a.out(dx, al)?;
        a.out(dx, ax)?;
        a.out(dx, eax)?;
        a.mov(eax, -1)?;
        a.in_(al, 0x20)?;
        a.mov(ebx, eax)?;
        a.in_(ax, 0x21)?;
        a.mov(ecx, eax)?;
        a.in_(eax, 0x22)?;
        common::exit(a)
    });
    let mut machine = Machine::new(&engine, &bare);
    machine.run();
    let out = |port, data: &[u8]| Pin::Out(port, data.to_vec());
    let expected = [
        out(0x10, &[0x11]),
        out(0x11, &[0x11, 0x22]),
        out(0x12, &[0x11, 0x22, 0x33, 0x44]),
        out(0x1234, &[0x11]),
        out(0x1234, &[0x11, 0x22]),
        out(0x1234, &[0x11, 0x22, 0x33, 0x44]),
        Pin::In(0x20, 1),
        Pin::In(0x21, 2),
        Pin::In(0x22, 4),
    ];
    assert_eq!(machine.recorder.log(), expected);
    let state = machine.cpus[0].state().unwrap();
    assert_eq!([state.gpr[3], state.gpr[1], state.gpr[0]], [0xffff_ff20, 0xffff_2221, 0x2524_2322]);
}

#[test]
fn strings_from_and_to_ports() {
    let Some(engine) = common::engine() else { return };
    let bare = Bare::protected();
    bare.write(0x2_0000, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    bare.code(32, CODE, |a| {
        a.cld()?;
        for (port, count) in [(0x10, 3), (0x11, 2), (0x12, 2)] {
            a.mov(esi, 0x2_0000)?;
            a.mov(ecx, count)?;
            a.mov(edx, port)?;
            match port {
                0x10 => a.rep().outsb()?,
                0x11 => a.rep().outsw()?,
                _ => a.rep().outsd()?,
            }
        }
        a.mov(edi, 0x3_0000)?;
        a.mov(ecx, 3)?;
        a.mov(edx, 0x20)?;
        a.rep().insb()?;
        a.mov(ecx, 2)?;
        a.mov(edx, 0x21)?;
        a.rep().insw()?;
        a.mov(ecx, 2)?;
        a.mov(edx, 0x22)?;
        a.rep().insd()?;
        common::exit(a)
    });
    let mut machine = Machine::new(&engine, &bare);
    machine.run();
    let outs: Vec<_> = machine.recorder.log().into_iter().filter(|pin| matches!(pin, Pin::Out(..))).collect();
    let out = |port, data: &[u8]| Pin::Out(port, data.to_vec());
    let expected = [
        out(0x10, &[1]),
        out(0x10, &[2]),
        out(0x10, &[3]),
        out(0x11, &[1, 2]),
        out(0x11, &[3, 4]),
        out(0x12, &[1, 2, 3, 4]),
        out(0x12, &[5, 6, 7, 8]),
    ];
    assert_eq!(outs, expected);
    let read: [u8; 15] = machine.memory.read_array(Gpa(0x3_0000)).unwrap();
    let expected = [0x20, 0x30, 0x40, 0x21, 0x22, 0x31, 0x32, 0x22, 0x23, 0x24, 0x25, 0x32, 0x33, 0x34, 0x35];
    assert_eq!(read, expected);
    let state = machine.cpus[0].state().unwrap();
    assert_eq!([state.gpr[1], state.gpr[7]], [0, 0x3_000f]);
}

#[test]
fn device_memory_of_all_widths() {
    let Some(engine) = common::engine() else { return };
    let bare = Bare::protected();
    bare.code(32, CODE, |a| {
        a.mov(eax, 0x4433_2211)?;
        a.mov(edi, DEVICE)?;
        a.mov(byte_ptr(edi), al)?;
        a.mov(word_ptr(edi + 2), ax)?;
        a.mov(dword_ptr(edi + 4), eax)?;
        a.movzx(ebx, byte_ptr(edi + 0x10))?;
        a.movzx(ecx, word_ptr(edi + 0x20))?;
        a.mov(edx, dword_ptr(edi + 0x30))?;
        common::exit(a)
    });
    let mut machine = Machine::new(&engine, &bare);
    machine.run();
    let base = u64::from(DEVICE);
    let expected = [
        Pin::Write(base, vec![0x11]),
        Pin::Write(base + 2, vec![0x11, 0x22]),
        Pin::Write(base + 4, vec![0x11, 0x22, 0x33, 0x44]),
        Pin::Read(base + 0x10, 1),
        Pin::Read(base + 0x20, 2),
        Pin::Read(base + 0x30, 4),
    ];
    assert_eq!(machine.recorder.log(), expected);
    let state = machine.cpus[0].state().unwrap();
    assert_eq!([state.gpr[3], state.gpr[1], state.gpr[2]], [0x10, 0x2120, 0x3332_3130]);
}

#[test]
fn eight_bytes_at_once_and_across_pages() {
    let Some(engine) = common::engine() else { return };
    let bare = Bare::long();
    // The page at 0x5000 and the one behind it are the device's.
    for page in [5, 6u64] {
        bare.write64(0x10_3000 + 8 * page, (u64::from(DEVICE) + (page << 12)) | 3);
    }
    bare.code(64, CODE, |a| {
        a.mov(rax, 0x8877_6655_4433_2211u64)?;
        a.mov(edi, 0x5000)?;
        a.mov(qword_ptr(rdi), rax)?;
        a.mov(rbx, qword_ptr(rdi + 8))?;
        // Three bytes in one page, five in the next.
        a.mov(qword_ptr(rdi + 0xffd), rax)?;
        a.mov(rcx, qword_ptr(rdi + 0xffd))?;
        common::exit(a)
    });
    let mut machine = Machine::new(&engine, &bare);
    machine.run();
    let base = u64::from(DEVICE) + 0x5000;
    let log = machine.recorder.log();
    assert_eq!(
        log[..2],
        [Pin::Write(base, vec![0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88]), Pin::Read(base + 8, 8)]
    );
    // The rest in whatever parts, as long as they are powers of two.
    let mut written = [0u8; 8];
    for pin in &log[2..] {
        if let Pin::Write(addr, data) = pin {
            assert!(data.len().is_power_of_two(), "{pin:?}");
            let at = (addr - base - 0xffd) as usize;
            written[at..at + data.len()].copy_from_slice(data);
        }
    }
    assert_eq!(u64::from_le_bytes(written), 0x8877_6655_4433_2211);
    let state = machine.cpus[0].state().unwrap();
    assert_eq!([state.gpr[3], state.gpr[1]], [0x0f0e_0d0c_0b0a_0908, 0x0403_0201_00ff_fefd]);
}

#[test]
fn rom_reads_and_is_not_written() {
    let Some(engine) = common::engine() else { return };
    const ROM: u32 = 0xffff_0000;
    let bare = Bare::protected();
    bare.code(32, CODE, |a| {
        a.mov(eax, dword_ptr(ROM + 0x100))?;
        a.mov(dword_ptr(ROM + 0x100), 0x1234_5678)?;
        a.mov(ebx, dword_ptr(ROM + 0x100))?;
        a.mov(ecx, ROM + 0x200)?;
        a.jmp(ecx)
    });
    let rom = Region { start: Gpa(u64::from(ROM)), len: 0x1_0000, kind: Kind::Rom };
    let mut machine = Machine::with(&engine, &bare, 1, &[rom]);
    machine.memory.write(Gpa(u64::from(ROM) + 0x100), &0xdead_beefu32.to_le_bytes()).unwrap();
    // out 0xf4, al
    machine.memory.write(Gpa(u64::from(ROM) + 0x200), &[0xe6, 0xf4]).unwrap();
    machine.run();
    let state = machine.cpus[0].state().unwrap();
    assert_eq!([state.gpr[0], state.gpr[3]], [0xdead_beef; 2]);
    assert_eq!(machine.recorder.log(), [Pin::Write(u64::from(ROM) + 0x100, vec![0x78, 0x56, 0x34, 0x12])]);
}

#[test]
fn regions_come_and_go() {
    let Some(engine) = common::engine() else { return };
    const MORE: u32 = 0x1000_0000;
    let bare = Bare::protected();
    bare.code(32, CODE, |a| {
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.mov(eax, dword_ptr(MORE))?;
        a.out(1, eax)?;
        common::exit(a)?;
        a.jmp(again)
    });
    let more = Region { start: Gpa(u64::from(MORE)), len: 0x1000, kind: Kind::Ram };
    let mut machine = Machine::with(&engine, &bare, 1, &[more]);
    machine.memory.write(Gpa(u64::from(MORE)), &[7]).unwrap();
    machine.run();
    // A memory without that region, the rest as it was.
    let less = memory::GuestMemory::new(&[Region { start: Gpa(0), len: testkit::bare::RAM, kind: Kind::Ram }]).unwrap();
    let mut contents = vec![0; testkit::bare::RAM as usize];
    machine.memory.read(Gpa(0), &mut contents).unwrap();
    less.write(Gpa(0), &contents).unwrap();
    machine.partition.layout_changed(&less).unwrap();
    machine.run();
    machine.partition.layout_changed(&machine.memory).unwrap();
    machine.run();
    assert_eq!(machine.recorder.port(1), [7, 0x0302_0100, 7]);
}
