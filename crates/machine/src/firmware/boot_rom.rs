//! The option ROM that boots the kernel of the firmware configuration: firmware of the BIOS kind knows no kernels, but
//! runs what an option ROM offers (Plug and Play BIOS specification 1.0A, 3; BIOS Boot specification 1.01).

use iced_x86::IcedError;
use iced_x86::code_asm::*;

use super::items::key;
use super::kernel::KernelParts;

/// The name of the ROM as a file of the firmware configuration.
pub const BOOT_ROM_NAME: &str = "genroms/linuxboot.bin";

/// Where the entry points are, from the start of the ROM.
const INIT: usize = 3;
const PNP_POINTER: usize = 0x1a;
const PNP: usize = 0x20;
const PNP_LEN: usize = 0x20;
const PRODUCT: usize = 0x40;
const CODE: usize = 0x60;
/// ROMs come in units of this.
const UNIT: usize = 512;
/// RAM that is free when a system is booted: the request to the device, and the stack below it.
const REQUEST: u32 = 0x7c00;

/// The device (QEMU, *fw_cfg* specification).
const SELECTOR: u32 = 0x510;
const DMA_HIGH: u32 = 0x514;
const DMA_LOW: u32 = 0x518;
/// Select the item, and read it.
const SELECT_READ: i32 = 1 << 3 | 1 << 1;
/// The error bit of the request's first word, which is big-endian.
const FAILED: u32 = 1 << 24;

/// The ROM. `None` only if the assembler refuses this very code, which a test rules out.
#[must_use]
pub fn boot_rom() -> Option<Vec<u8>> {
    let code = assemble().ok()?;
    let mut rom = vec![0; (CODE + code.len() + 1).next_multiple_of(UNIT)];
    let units = u8::try_from(rom.len() / UNIT).ok()?;
    put(&mut rom, 0, &[0x55, 0xaa, units]);
    // Nothing to initialise: a far return, with AX as it was.
    put(&mut rom, INIT, &[0xcb]);
    put(&mut rom, PNP_POINTER, &(PNP as u16).to_le_bytes());
    let mut pnp = [0; PNP_LEN];
    put(&mut pnp, 0, b"$PnP\x01\x02");
    put(&mut pnp, 0x10, &(PRODUCT as u16).to_le_bytes());
    // The bootstrap entry vector.
    put(&mut pnp, 0x1a, &(CODE as u16).to_le_bytes());
    let sum = pnp.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte));
    put(&mut pnp, 9, &[sum]);
    put(&mut rom, PNP, &pnp);
    put(&mut rom, PRODUCT, b"Linux kernel\0");
    put(&mut rom, CODE, &code);
    let sum = rom.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte));
    if let Some(last) = rom.last_mut() {
        *last = sum;
    }
    Some(rom)
}

fn put(to: &mut [u8], at: usize, from: &[u8]) {
    to.iter_mut().skip(at).zip(from).for_each(|(to, from)| *to = *from);
}

/// The bootstrap entry: fetches the parts of the kernel to their places and enters the setup code as the boot protocol
/// demands.
fn assemble() -> Result<Vec<u8>, IcedError> {
    const PARTS: [(u16, u16, u16); 4] = [
        (key::SETUP_ADDRESS, key::SETUP_SIZE, key::SETUP_DATA),
        (key::COMMAND_LINE_ADDRESS, key::COMMAND_LINE_SIZE, key::COMMAND_LINE_DATA),
        (key::KERNEL_ADDRESS, key::KERNEL_SIZE, key::KERNEL_DATA),
        (key::INITRD_ADDRESS, key::INITRD_SIZE, key::INITRD_DATA),
    ];
    let mut a = CodeAssembler::new(16)?;
    let (mut number, mut fetch, mut failed) = (a.create_label(), a.create_label(), a.create_label());
    a.cli()?;
    a.cld()?;
    a.xor(ax, ax)?;
    a.mov(ds, ax)?;
    a.mov(es, ax)?;
    a.mov(ss, ax)?;
    a.mov(sp, REQUEST)?;
    for (address, size, data) in PARTS {
        let mut empty = a.create_label();
        a.mov(bx, u32::from(address))?;
        a.call(number)?;
        a.mov(esi, eax)?;
        a.mov(bx, u32::from(size))?;
        a.call(number)?;
        a.test(eax, eax)?;
        a.jz(empty)?;
        a.mov(bx, u32::from(data))?;
        a.call(fetch)?;
        a.set_label(&mut empty)?;
        a.nop()?;
    }
    a.mov(bx, u32::from(key::SETUP_ADDRESS))?;
    a.call(number)?;
    a.shr(eax, 4)?;
    a.jz(failed)?;
    for segment in [ds, es, fs, gs, ss] {
        a.mov(segment, ax)?;
    }
    a.mov(esp, u32::from(KernelParts::STACK))?;
    // The entry is 200h behind the start.
    a.add(ax, 0x20)?;
    a.push(ax)?;
    a.xor(ax, ax)?;
    a.push(ax)?;
    a.retf()?;

    // There is nothing to boot here: the next one, please.
    a.set_label(&mut failed)?;
    a.sti()?;
    a.int(0x18)?;

    // EAX = the number in item BX.
    a.set_label(&mut number)?;
    a.mov(dx, SELECTOR)?;
    a.mov(ax, bx)?;
    a.out(dx, ax)?;
    a.inc(dx)?;
    for _ in 0..4 {
        a.in_(al, dx)?;
        a.ror(eax, 8)?;
    }
    a.ret()?;

    // Has the device write EAX bytes of item BX to address ESI.
    a.set_label(&mut fetch)?;
    let mut wait = a.create_label();
    a.shl(ebx, 16)?;
    a.or(ebx, SELECT_READ)?;
    a.bswap(ebx)?;
    a.mov(dword_ptr(REQUEST), ebx)?;
    a.bswap(eax)?;
    a.mov(dword_ptr(REQUEST + 4), eax)?;
    a.xor(eax, eax)?;
    a.mov(dword_ptr(REQUEST + 8), eax)?;
    a.bswap(esi)?;
    a.mov(dword_ptr(REQUEST + 12), esi)?;
    a.mov(dx, DMA_HIGH)?;
    a.out(dx, eax)?;
    a.mov(eax, REQUEST)?;
    a.bswap(eax)?;
    a.mov(dx, DMA_LOW)?;
    a.out(dx, eax)?;
    a.set_label(&mut wait)?;
    a.mov(eax, dword_ptr(REQUEST))?;
    a.test(eax, FAILED)?;
    a.jnz(failed)?;
    a.test(eax, eax)?;
    a.jnz(wait)?;
    a.ret()?;
    a.assemble(CODE as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn firmware_knows_the_rom() {
        let rom = boot_rom().unwrap();
        assert_eq!((&rom[..2], usize::from(rom[2]) * UNIT), (&[0x55, 0xaa][..], rom.len()));
        let sum = |data: &[u8]| data.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        assert_eq!((sum(&rom), sum(&rom[PNP..PNP + PNP_LEN])), (0, 0));
        // cli; cld: the entry.
        assert_eq!(rom[CODE..CODE + 2], [0xfa, 0xfc]);
    }
}
