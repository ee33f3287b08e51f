use memory::GuestMemory;
use x86::bits::{cr0, cr4, efer};
use x86::{CpuState, Segment};

use super::*;

mod packed;

const MIB: u64 = 1 << 20;
const PREFERRED: u64 = 0x100_0000;
const INIT_SIZE: u64 = 4 * MIB;

fn board() -> &'static Board {
    Board::named("q35-1").unwrap()
}

fn memory(ram: u64) -> GuestMemory {
    GuestMemory::new(&board().layout(ram)).unwrap()
}

fn put(file: &mut [u8], at: usize, data: &[u8]) {
    file[at..at + data.len()].copy_from_slice(data);
}

/// A bzImage of protocol 2.15 with two setup sectors and 8 KiB of code.
fn bzimage() -> Vec<u8> {
    let mut file = vec![0; 512 * 3 + 8192];
    put(&mut file, 0x1f1, &[2]);
    put(&mut file, 0x1f4, &(8192u32 / 16).to_le_bytes());
    put(&mut file, 0x1fe, &[0x55, 0xaa, 0xeb, 0x6a]);
    put(&mut file, 0x202, b"HdrS");
    put(&mut file, 0x206, &[0x0f, 2]);
    put(&mut file, 0x211, &[1]);
    put(&mut file, 0x214, &0x10_0000u32.to_le_bytes());
    put(&mut file, 0x22c, &0x7fff_ffffu32.to_le_bytes());
    put(&mut file, 0x230, &0x20_0000u32.to_le_bytes());
    put(&mut file, 0x234, &[1, 21, 1, 0]);
    put(&mut file, 0x238, &2047u32.to_le_bytes());
    put(&mut file, 0x258, &PREFERRED.to_le_bytes());
    put(&mut file, 0x260, &(INIT_SIZE as u32).to_le_bytes());
    file[1536..].fill(0x90);
    file
}

/// An ELF file with a segment at 2 MiB, 64 bytes in the file and 4096 in memory, and a PVH note.
fn elf(wide: bool) -> Vec<u8> {
    let mut file = vec![0; 512];
    put(&mut file, 0, &[0x7f, b'E', b'L', b'F', if wide { 2 } else { 1 }, 1, 1]);
    put(&mut file, 18, &[if wide { 62 } else { 3 }, 0]);
    let headers = [(1u32, 256u64, 0x20_0000u64, 64u64, 4096u64), (4, 320, 0, 24, 24)];
    for (i, (kind, offset, at, file_len, mem_len)) in headers.into_iter().enumerate() {
        if wide {
            put(&mut file, 32, &64u64.to_le_bytes());
            put(&mut file, 54, &[56, 0, 2, 0]);
            let header = 64 + 56 * i;
            put(&mut file, header, &kind.to_le_bytes());
            for (field, value) in [(8, offset), (24, at), (32, file_len), (40, mem_len)] {
                put(&mut file, header + field, &value.to_le_bytes());
            }
        } else {
            put(&mut file, 28, &52u32.to_le_bytes());
            put(&mut file, 42, &[32, 0, 2, 0]);
            for (field, value) in [(0, kind.into()), (4, offset), (12, at), (16, file_len), (20, mem_len)] {
                put(&mut file, 52 + 32 * i + field, &(value as u32).to_le_bytes());
            }
        }
    }
    file[256..320].fill(0xf4);
    put(&mut file, 320, &[4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0, b'X', b'e', b'n', 0, 0x10, 0, 0x20, 0]);
    put(&mut file, 340, &[0; 4]);
    file
}

fn read<const N: usize>(mem: &GuestMemory, at: u64) -> [u8; N] {
    mem.read_array(Gpa(at)).unwrap()
}

fn long(mem: &GuestMemory, at: u64) -> u64 {
    u32::from_le_bytes(read(mem, at)).into()
}

fn quad(mem: &GuestMemory, at: u64) -> u64 {
    u64::from_le_bytes(read(mem, at))
}

fn cpu(entry: Entry) -> CpuState {
    let mut cpu = CpuState::power_on(0, 0);
    entry.apply(&mut cpu);
    cpu
}

#[test]
fn a_bzimage_starts_in_long_mode() {
    let mem = memory(64 * MIB);
    let initrd = vec![7; 5000];
    let entry = load(&mem, board(), &bzimage(), Some(&initrd), "console=ttyS0", EntryMode::Auto).unwrap();
    assert_eq!((entry.mode, entry.ip), (EntryMode::Boot64, Gpa(PREFERRED + 0x200)));
    assert_eq!(read(&mem, PREFERRED), [0x90; 8]);
    let info = entry.info.0;
    assert_eq!(&read(&mem, info + 0x202), b"HdrS");
    assert_eq!(read(&mem, info + 0x210), [0xff, 1]);
    assert_eq!(quad(&mem, info + 0x70), board().acpi.start);
    assert_eq!(read(&mem, long(&mem, info + 0x228)), *b"console=ttyS0\0");
    let at = long(&mem, info + 0x218);
    assert_eq!((long(&mem, info + 0x21c), at), (5000, 64 * MIB - 8192));
    assert_eq!((read(&mem, at), read(&mem, at + 4999)), ([7, 7], [7, 0]));
    // The map: conventional memory, three reserved ranges, the rest.
    assert_eq!(read(&mem, info + 0x1e8), [6]);
    assert_eq!((quad(&mem, info + 0x2d0), quad(&mem, info + 0x2d8), long(&mem, info + 0x2e0)), (0, 0x9_fc00, 1));

    let cpu = cpu(entry);
    assert_eq!(cpu.rip, PREFERRED + 0x200);
    assert_eq!(cpu.gpr[6], info);
    assert_eq!((cpu.cr0 & (cr0::PE | cr0::PG), cpu.cr4), (cr0::PE | cr0::PG, cr4::PAE));
    assert_eq!(cpu.msrs.efer, efer::LME | efer::LMA);
    assert!(cpu.seg[1].has(Segment::LONG | Segment::CODE | Segment::PRESENT) && !cpu.seg[1].has(Segment::DB));
    assert_eq!((cpu.seg[1].selector, cpu.seg[3].selector), (0x10, 0x18));
    // The page tables map the entry onto itself.
    let pdpt = quad(&mem, cpu.cr3) & !0xfff;
    let pd = quad(&mem, pdpt) & !0xfff;
    assert_eq!(quad(&mem, pd + 8 * (PREFERRED >> 21)), PREFERRED | 0x83);
    assert_eq!(quad(&mem, (quad(&mem, pdpt + 24) & !0xfff) + 8 * 511), 0xffe0_0083);
}

#[test]
fn a_bzimage_starts_in_protected_mode() {
    let mem = memory(64 * MIB);
    let entry = load(&mem, board(), &bzimage(), None, "", EntryMode::Boot32).unwrap();
    let cpu = cpu(entry);
    assert_eq!((cpu.rip, cpu.gpr[6]), (PREFERRED, entry.info.0));
    assert_eq!((cpu.cr0 & cr0::PG, cpu.cr4, cpu.msrs.efer, cpu.rflags), (0, 0, 0, 2));
    assert_eq!(cpu.seg[1].limit, 0xffff_ffff);
    assert_eq!((cpu.lapic.lvt_lint0, cpu.lapic.svr), (0x700, 0x1ff));
    // The descriptors in memory are what the registers hold.
    assert_eq!(quad(&mem, cpu.gdt.base + 0x10), 0x00cf_9b00_0000_ffff);
    assert_eq!(quad(&mem, cpu.gdt.base + 0x18), 0x00cf_9300_0000_ffff);
    assert_eq!(quad(&mem, cpu.gdt.base + 0x20), 0x0000_8b00_0000_0067);
    assert_eq!((long(&mem, entry.info.0 + 0x218), long(&mem, entry.info.0 + 0x21c)), (0, 0));
}

#[test]
fn a_kernel_without_the_64_bit_entry_starts_in_protected_mode() {
    let mut kernel = bzimage();
    kernel[0x236] = 0;
    let mem = memory(64 * MIB);
    assert_eq!(load(&mem, board(), &kernel, None, "", EntryMode::Auto).unwrap().mode, EntryMode::Boot32);
    let text = load(&mem, board(), &kernel, None, "", EntryMode::Boot64).unwrap_err().to_string();
    assert_eq!(text, "the kernel is a 32-bit bzImage and has no boot64 entry; use boot32 or auto");
}

#[test]
fn an_elf_file_starts_by_pvh() {
    for wide in [false, true] {
        let mem = memory(32 * MIB);
        // What an earlier run has left behind.
        mem.write(Gpa(0x20_0040), &[0xee; 8]).unwrap();
        let entry = load(&mem, board(), &elf(wide), Some(b"initrd"), "quiet", EntryMode::Auto).unwrap();
        let cpu = cpu(entry);
        assert_eq!((cpu.rip, cpu.gpr[3], cpu.cr0 & cr0::PG), (0x20_0010, entry.info.0, 0));
        assert_eq!((read(&mem, 0x20_003f), read(&mem, 0x20_0040)), ([0xf4], [0; 8]));
        let info = entry.info.0;
        assert_eq!((long(&mem, info), long(&mem, info + 4), long(&mem, info + 12)), (0x336e_c578, 1, 1));
        let module = quad(&mem, info + 16);
        assert_eq!(read(&mem, quad(&mem, module)), *b"initrd");
        assert_eq!(quad(&mem, module + 8), 6);
        assert_eq!(read(&mem, quad(&mem, info + 24)), *b"quiet\0");
        assert_eq!(quad(&mem, info + 32), board().acpi.start);
        let map = quad(&mem, info + 40);
        assert_eq!((long(&mem, info + 48), quad(&mem, map + 8), long(&mem, map + 16)), (6, 0x9_fc00, 1));
    }
}

#[test]
fn the_map_follows_the_memory() {
    use e820::{Range, Type};
    let high = 3 << 30;
    let mem = memory(board().low_ram_limit + high);
    let range = |start, len, kind| Range { start, len, kind };
    assert_eq!(
        e820::map(&mem, board()),
        [
            range(0, 0x9_fc00, Type::Ram),
            range(0x9_fc00, 0x400, Type::Reserved),
            range(0xe_0000, 0x1_0000, Type::Reserved),
            range(0xf_0000, 0x1_0000, Type::Reserved),
            range(MIB, board().low_ram_limit - MIB, Type::Ram),
            range(0xb000_0000, 0x1000_0000, Type::Reserved),
            range(1 << 32, high, Type::Ram),
        ]
    );
}

#[test]
fn the_initrd_stays_below_the_limit_of_the_kernel() {
    let mut kernel = bzimage();
    put(&mut kernel, 0x22c, &0x1ff_ffffu32.to_le_bytes());
    let mem = memory(64 * MIB);
    let entry = load(&mem, board(), &kernel, Some(&[1; 4096]), "", EntryMode::Auto).unwrap();
    assert_eq!(long(&mem, entry.info.0 + 0x218), 32 * MIB - 4096);
    let large = vec![1; 13 << 20];
    let text = load(&mem, board(), &kernel, Some(&large), "", EntryMode::Auto).unwrap_err().to_string();
    assert_eq!(text, "the initrd has 13631488 bytes, but this kernel takes 12582912 at most; use a smaller initrd");
}

fn refusal(kernel: &[u8]) -> String {
    let text = load(&memory(64 * MIB), board(), kernel, None, "", EntryMode::Auto).unwrap_err().to_string();
    assert!(!text.contains('\n'));
    text
}

#[test]
fn what_is_no_kernel_is_named() {
    for (start, looks) in [
        (&b"\x1f\x8b\x08"[..], "is gzip data"),
        (b"\xfd7zXZ\0", "is xz data"),
        (b"", "is empty"),
        (b"#!/bin/sh\n", "is text"),
        (b"070701", "is a cpio archive"),
        (b"MZ\0\0", "is a Windows or EFI program"),
        (b"\0\0", "starts with zeros"),
        (b"\x80\x81", "has no header that is known"),
        (b"\x7fELF\x02\x02\x01", "is an ELF file for another kind of computer"),
    ] {
        let mut file = start.to_vec();
        if !start.is_empty() && looks != "is text" {
            file.resize(1024, 0);
        }
        assert!(refusal(&file).contains(looks), "{looks}: {}", refusal(&file));
    }
    let mut crowd = elf(true);
    put(&mut crowd, 56, &[0xff, 0xff]);
    assert!(refusal(&crowd).contains("too many ELF segments"));
    let mut no_note = elf(true);
    no_note[328] = 17;
    assert!(refusal(&no_note).contains("without a PVH entry note"));
}

#[test]
fn truncated_and_damaged_kernels_are_refused() {
    let whole = bzimage();
    assert!(
        refusal(&whole[..5000])
            .starts_with("the kernel file is truncated: the kernel proper ends at byte 9728, the file at")
    );
    assert!(refusal(&whole[..0x250]).contains("the setup header"));
    let elf = elf(true);
    for len in [5, 20, 63, 100, 300] {
        assert!(refusal(&elf[..len]).contains("truncated"), "{len}");
    }
    let with = |at: usize, data: &[u8]| {
        let mut kernel = whole.clone();
        put(&mut kernel, at, data);
        refusal(&kernel)
    };
    assert!(with(0x206, &[5, 2]).contains("boot protocol 2.05, older than 2.06"));
    assert!(with(0x211, &[0]).contains("zImage"));
    assert!(with(0x201, &[0x10]).contains("setup header is too short"));
    assert!(with(0x258, &0x1000u64.to_le_bytes()).contains("below 1 MiB"));
}

#[test]
fn too_little_memory_is_told_with_the_least_that_does() {
    let load_with = |ram: u64| load(&memory(ram * MIB), board(), &bzimage(), Some(&[1; 100]), "", EntryMode::Auto);
    let text = load_with(16).unwrap_err().to_string();
    assert_eq!(text, "16 MiB of memory are too little for this kernel and initrd; give the VM at least 21 MiB");
    assert!(load_with(20).is_err());
    load_with(21).unwrap();
}

#[test]
fn bad_command_lines_and_initrds_are_refused() {
    let mem = memory(64 * MIB);
    let with = |cmdline: &str, initrd: Option<&[u8]>| load(&mem, board(), &bzimage(), initrd, cmdline, EntryMode::Auto);
    with(&"x".repeat(2047), None).unwrap();
    let text = with(&"x".repeat(2048), None).unwrap_err().to_string();
    assert_eq!(text, "the kernel command line has 2048 bytes, but this kernel takes 2047 at most; shorten it");
    assert!(matches!(with("a\0b", None), Err(LoadError::CommandLineZero)));
    assert!(matches!(with("", Some(&[])), Err(LoadError::InitrdEmpty)));
    assert!(matches!(
        load(&mem, board(), &bzimage(), None, "", EntryMode::Pvh),
        Err(LoadError::NoEntry { entry: EntryMode::Pvh, .. })
    ));
    assert!(matches!(load(&mem, board(), &elf(true), None, "", EntryMode::Boot32), Err(LoadError::NoEntry { .. })));
}

/// Whatever is in the file, the loader gives an entry or an error.
#[test]
fn random_files_do_not_trip_the_loader() {
    let mem = memory(32 * MIB);
    let seeds = [bzimage(), elf(false), elf(true)];
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    // xorshift64
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let (mut loaded, mut refused) = (0, 0);
    for _ in 0..6000 {
        let mut file = seeds[random(seeds.len())].clone();
        for _ in 0..=random(6) {
            // Mostly where the headers are.
            let most = if random(4) == 0 { file.len() } else { file.len().min(0x280) };
            let (at, any, pick) = (random(most), random(256) as u8, random(6));
            file[at] = [0, 1, 0x7f, 0x80, 0xff, any][pick];
        }
        if random(8) == 0 {
            let len = random(file.len());
            file.truncate(len);
        }
        let initrd = [0x55; 300];
        match load(&mem, board(), &file, (random(2) == 0).then_some(&initrd), "console=ttyS0", EntryMode::Auto) {
            Ok(entry) => {
                cpu(entry);
                loaded += 1;
            }
            Err(error) => {
                assert!(!error.to_string().is_empty());
                refused += 1;
            }
        }
    }
    assert!(loaded > 500 && refused > 500, "{loaded} loaded, {refused} refused");
}
