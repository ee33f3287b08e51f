//! Payloads of bzImages: decompressed by the loader if it can, left to the bzImage if not.

use std::io::Write;

use super::super::unpack::Compression;
use super::super::vmlinux::{self, Unfit};
use super::*;

const ALL: [Compression; 6] =
    [Compression::Gzip, Compression::Bzip2, Compression::Lzma, Compression::Xz, Compression::Lz4, Compression::Zstd];
const ENTRY: u64 = PREFERRED + 0x40;
/// The first segment's length in the file, more than one read of the loader.
const TEXT: usize = 200_000;
/// The second one's address, length in the file and length in memory.
const DATA: (u64, usize, u64) = (PREFERRED + MIB, 3000, 70_000);

/// Something that looks a little like code: runs, and calls for the x86 filter to change.
fn text() -> Vec<u8> {
    let mut text = Vec::new();
    for i in 0u32.. {
        text.extend([0x90, 0xe8]);
        text.extend((i % 97 * 16).to_le_bytes());
        text.resize(text.len() + (i % 13) as usize, i as u8);
        if text.len() >= TEXT {
            break;
        }
    }
    text.truncate(TEXT);
    text
}

/// A kernel of two segments, with something behind them as relocations are.
fn vmlinux(wide: bool) -> Vec<u8> {
    let (header_len, offsets) = (if wide { 56 } else { 32 }, (0x1000, 0x3_2000u64));
    let mut file = vec![0; offsets.1 as usize];
    put(&mut file, 0, &[0x7f, b'E', b'L', b'F', if wide { 2 } else { 1 }, 1, 1]);
    put(&mut file, 18, &[if wide { 62 } else { 3 }, 0]);
    put(&mut file, 24, &ENTRY.to_le_bytes());
    let table = if wide { 64 } else { 52 };
    put(&mut file, if wide { 32 } else { 28 }, &[table as u8, 0, 0, 0]);
    put(&mut file, if wide { 54 } else { 42 }, &[header_len as u8, 0, 2, 0]);
    let loads = [(offsets.0, PREFERRED, TEXT as u64, TEXT as u64), (offsets.1, DATA.0, DATA.1 as u64, DATA.2)];
    for (i, (offset, at, data_len, len)) in loads.into_iter().enumerate() {
        let header = table + i * header_len;
        put(&mut file, header, &1u32.to_le_bytes());
        let fields = [offset, 0, at, data_len, len];
        for (field, value) in fields.into_iter().enumerate() {
            if wide {
                put(&mut file, header + 8 + 8 * field, &value.to_le_bytes());
            } else {
                put(&mut file, header + 4 + 4 * field, &(value as u32).to_le_bytes());
            }
        }
    }
    put(&mut file, offsets.0 as usize, &text());
    file.extend([0xda; DATA.1]);
    file.extend([0x33; 500]);
    file
}

/// The contents compressed as kernels are, their length behind them.
fn pack(compression: Compression, contents: &[u8]) -> Vec<u8> {
    let mut packed = match compression {
        Compression::Gzip => {
            let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
            writer.write_all(contents).unwrap();
            // It ends in the length as it is.
            return writer.finish().unwrap();
        }
        Compression::Bzip2 => {
            let mut writer = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::best());
            writer.write_all(contents).unwrap();
            writer.finish().unwrap()
        }
        Compression::Lzma => {
            let options = lzma_rust2::LzmaOptions::with_preset(6);
            let mut writer = lzma_rust2::LzmaWriter::new_use_header(Vec::new(), &options, None).unwrap();
            writer.write_all(contents).unwrap();
            writer.finish().unwrap()
        }
        Compression::Xz => {
            let mut options = lzma_rust2::XzOptions::with_preset(6);
            options.set_check_sum_type(lzma_rust2::CheckType::Crc32);
            options.prepend_pre_filter(lzma_rust2::FilterType::BcjX86, 0);
            let mut writer = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
            writer.write_all(contents).unwrap();
            writer.finish().unwrap()
        }
        Compression::Lz4 => {
            let mut packed = 0x184c_2102u32.to_le_bytes().to_vec();
            // The last block is the short one; smaller blocks than the format's are as good to a reader.
            for block in contents.chunks(100_000) {
                let block = lz4_flex::block::compress(block);
                packed.extend((block.len() as u32).to_le_bytes());
                packed.extend(block);
            }
            packed
        }
        Compression::Zstd => ruzstd::encoding::compress_to_vec(contents, ruzstd::encoding::CompressionLevel::Fastest),
    };
    packed.extend((contents.len() as u32).to_le_bytes());
    packed
}

/// A bzImage with a payload.
fn around(payload: &[u8]) -> Vec<u8> {
    const OFFSET: usize = 0x400;
    let mut file = bzimage();
    file.truncate(1536 + OFFSET);
    file.extend(payload);
    file.resize(file.len().next_multiple_of(16) + 64, 0);
    let code = (file.len() - 1536) as u32;
    put(&mut file, 0x1f4, &(code / 16).to_le_bytes());
    put(&mut file, 0x248, &(OFFSET as u32).to_le_bytes());
    put(&mut file, 0x24c, &(payload.len() as u32).to_le_bytes());
    file
}

fn bytes_at(mem: &GuestMemory, at: u64, len: usize) -> Vec<u8> {
    let mut data = vec![0; len];
    mem.read(Gpa(at), &mut data).unwrap();
    data
}

fn start(mem: &GuestMemory, kernel: &[u8], entry: EntryMode) -> Entry {
    load(mem, board(), kernel, Some(b"initrd"), "quiet", entry).unwrap()
}

#[test]
fn a_payload_is_decompressed_to_where_it_runs() {
    for compression in ALL {
        for wide in [true, false] {
            let payload = pack(compression, &vmlinux(wide));
            assert_eq!(Compression::of(&payload), Some(compression));
            let kernel = around(&payload);
            let mem = memory(64 * MIB);
            // What an earlier run has left behind.
            mem.write(Gpa(PREFERRED), &vec![0xee; 3 << 20]).unwrap();
            let entry = start(&mem, &kernel, EntryMode::Auto);
            let mode = if wide { EntryMode::Boot64 } else { EntryMode::Boot32 };
            assert_eq!((entry.mode, entry.ip), (mode, Gpa(ENTRY)), "{compression:?}");
            assert!(bytes_at(&mem, PREFERRED, TEXT) == text(), "{compression:?}");
            assert_eq!(bytes_at(&mem, PREFERRED + TEXT as u64, 1), [0xee], "not a part of the kernel");
            let data = bytes_at(&mem, DATA.0, DATA.2 as usize + 1);
            let (stored, cleared) = data.split_at(DATA.1);
            assert!(stored.iter().all(|byte| *byte == 0xda));
            let (last, cleared) = cleared.split_last().unwrap();
            assert!(cleared.iter().all(|byte| *byte == 0) && *last == 0xee);
            // The kernel is told the same as if it had decompressed itself.
            let told = bytes_at(&mem, entry.info.0, 4096);
            let other = memory(64 * MIB);
            let itself = start(&other, &kernel, EntryMode::Boot64);
            assert_eq!(itself.ip, Gpa(PREFERRED + 0x200));
            assert!(told == bytes_at(&other, itself.info.0, 4096));
            assert_eq!(cpu(entry).gpr[6], entry.info.0);
        }
    }
}

#[test]
fn a_bzimage_decompresses_itself_if_asked() {
    let kernel = around(&pack(Compression::Xz, &vmlinux(true)));
    for (mode, offset) in [(EntryMode::Boot64, 0x200), (EntryMode::Boot32, 0)] {
        let mem = memory(64 * MIB);
        let entry = start(&mem, &kernel, mode);
        assert_eq!((entry.mode, entry.ip), (mode, Gpa(PREFERRED + offset)));
        assert_eq!(read(&mem, PREFERRED), [0x90; 8]);
    }
}

#[test]
fn a_kernel_that_is_not_moved_runs_at_the_preferred_address() {
    let mut kernel = around(&pack(Compression::Gzip, &vmlinux(true)));
    kernel[0x234] = 0;
    let mem = memory(64 * MIB);
    assert_eq!(start(&mem, &kernel, EntryMode::Auto).ip, Gpa(ENTRY));
    assert_eq!(start(&mem, &kernel, EntryMode::Boot64).ip, Gpa(0x10_0200));
    let text = load(&memory(20 * MIB - 4096), board(), &kernel, None, "", EntryMode::Boot64).unwrap_err().to_string();
    assert_eq!(text, "19 MiB of memory are too little for this kernel and initrd; give the VM at least 20 MiB");
}

/// Loads the payload itself.
fn unpack(payload: &[u8]) -> Result<vmlinux::Vmlinux, Unfit> {
    vmlinux::load(&memory(64 * MIB), payload, PREFERRED..PREFERRED + INIT_SIZE)
}

#[test]
fn a_payload_that_is_cut_is_left_to_the_bzimage() {
    for compression in ALL {
        let whole = pack(compression, &vmlinux(true));
        let (packed, len) = whole.split_at(whole.len() - 4);
        for cut in [0, 1, 5, 12, 20, 100, packed.len() / 2, packed.len() - 1] {
            let mut payload = packed[..cut].to_vec();
            payload.extend(len);
            let reason = unpack(&payload).unwrap_err();
            assert!(matches!(reason, Unfit::Compression | Unfit::Damaged(_)), "{compression:?} {cut}: {reason}");
            let entry = start(&memory(64 * MIB), &around(&payload), EntryMode::Auto);
            assert_eq!((entry.mode, entry.ip), (EntryMode::Boot64, Gpa(PREFERRED + 0x200)));
        }
    }
}

#[test]
fn a_payload_holds_what_it_claims() {
    for compression in ALL {
        let whole = pack(compression, &vmlinux(true));
        let claims = |len: u32| {
            let mut payload = whole.clone();
            let at = payload.len() - 4;
            put(&mut payload, at, &len.to_le_bytes());
            unpack(&payload).unwrap_err()
        };
        let len = vmlinux(true).len() as u32;
        assert!(matches!(claims(len - 1), Unfit::Length { .. } | Unfit::Damaged(_)), "{compression:?}");
        assert!(matches!(claims(len + 1), Unfit::Damaged(_)), "{compression:?}");
        assert!(matches!(claims(0x3000), Unfit::Segments), "{compression:?}");
        assert!(matches!(claims(3), Unfit::Elf(_)), "{compression:?}");
        assert!(matches!(claims(u32::MAX), Unfit::Large { .. }), "{compression:?}");
    }
    assert!(matches!(unpack(b"LZO\0 and more"), Err(Unfit::Compression)));
    assert!(matches!(unpack(&pack(Compression::Lz4, b"no kernel")), Err(Unfit::NotElf)));
}

#[test]
fn segments_stay_where_the_kernel_may_be() {
    // The address of the second segment, its offset in the file, its length in memory, and the entry.
    let second = 64 + 56;
    for (at, value) in [
        (second + 24, PREFERRED - 0x1000),
        (second + 24, PREFERRED + INIT_SIZE - 0x1000),
        (second + 24, u64::MAX - 100),
        (second + 40, INIT_SIZE),
        (second + 40, u64::MAX - DATA.0),
        (second + 8, 0x2000),
        (second + 8, u64::MAX),
        (second + 32, 10_000),
        (24, PREFERRED + TEXT as u64),
        (24, 0),
    ] {
        let mut file = vmlinux(true);
        put(&mut file, at, &value.to_le_bytes());
        let reason = unpack(&pack(Compression::Lz4, &file)).unwrap_err();
        assert!(matches!(reason, Unfit::Segments | Unfit::Elf(_)), "{at} {value:#x}: {reason}");
    }
    let mut file = vmlinux(true);
    file[18] = 40;
    assert!(matches!(unpack(&pack(Compression::Gzip, &file)), Err(Unfit::Elf(_))));
}

/// A window larger than kernels have is refused before it is allocated.
#[test]
fn windows_are_bounded() {
    let mut lzma = pack(Compression::Lzma, &vmlinux(true));
    put(&mut lzma, 1, &0xf000_0000u32.to_le_bytes());
    // A Zstandard frame without a checksum and content size, with a window of 3.75 TiB.
    let zstd = [&b"\x28\xb5\x2f\xfd\0\xff\x01\0\0"[..], &[0; 64]].concat();
    for payload in [lzma, zstd] {
        let reason = unpack(&payload).unwrap_err();
        assert!(matches!(reason, Unfit::Damaged(_)), "{reason}");
    }
}

/// Whatever is in a payload, the loader gives an entry.
#[test]
fn random_damage_does_not_trip_the_loader() {
    let mem = memory(64 * MIB);
    let seeds: Vec<_> = ALL.iter().map(|compression| pack(*compression, &vmlinux(true))).collect();
    let mut state = 0x1234_5678_9abc_def1u64;
    // xorshift64
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let (mut loaded, mut left) = (0, 0);
    for turn in 0..1200 {
        let mut payload = seeds[turn % seeds.len()].clone();
        for _ in 0..=random(3) {
            let most = if random(2) == 0 { payload.len() } else { 64 };
            let (at, any, pick) = (random(most), random(256) as u8, random(4));
            payload[at] = [0, 0xff, any, payload[at] ^ 1][pick];
        }
        match vmlinux::load(&mem, &payload, PREFERRED..PREFERRED + INIT_SIZE) {
            Ok(_) => loaded += 1,
            Err(_) => left += 1,
        }
    }
    assert!(loaded > 0 && left > 600, "{loaded} loaded, {left} left");
}
