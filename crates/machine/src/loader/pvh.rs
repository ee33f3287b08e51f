//! The PVH boot ABI (Xen, `docs/misc/pvh.pandoc` and `public/arch-x86/hvm/start_info.h`).

use memory::Gpa;

use super::elf::Elf;
use super::fill::clear;
use super::{Boot, Entry, EntryMode, LoadError, e820, place};

const MAGIC: u32 = 0x336e_c578;
const INFO_LEN: u64 = 56;
const MODULE_LEN: u64 = 32;
/// The length of Linux's own buffer, its final zero excluded: the ABI names no limit.
const COMMAND_LINE_MAX: u64 = 2047;

/// Loads the segments and writes the start info.
pub(super) fn load(boot: &Boot<'_>, file: &[u8]) -> Result<Entry, LoadError> {
    let elf = Elf::parse(file)?;
    let data = elf.loads.iter().map(|load| load.data(file)).collect::<Result<Vec<_>, _>>()?;
    let pvh_entry = elf.pvh_entry(file)?;
    let end = elf.loads.iter().map(|load| load.at.saturating_add(load.len)).max().unwrap_or(0);
    let inside = elf.loads.iter().any(|load| (load.at..load.at.saturating_add(load.len)).contains(&pvh_entry));
    if elf.loads.iter().any(|load| load.at < place::KERNEL_LEAST) {
        return Err(LoadError::Damaged { reason: "it wants to be loaded below 1 MiB" });
    }
    if !inside || pvh_entry > u64::from(u32::MAX) {
        return Err(LoadError::Damaged { reason: "its PVH entry is outside of what is loaded" });
    }
    let (initrd, initrd_len) = boot.write_initrd(end.next_multiple_of(memory::PAGE_SIZE), 1 << 32)?;
    for (load, data) in elf.loads.iter().zip(data) {
        boot.mem.write(Gpa(load.at), data)?;
        // The memory may hold an earlier run. `Boot::write_initrd` has checked that there is RAM.
        clear(boot.mem, load.at + load.data_len..load.at + load.len)?;
    }
    let cmdline = boot.write_command_line(COMMAND_LINE_MAX)?;
    let map = e820::map(boot.mem, boot.board);
    let modules = u32::from(initrd_len > 0);
    let info = Gpa(place::PVH_INFO);
    let module = info.0 + INFO_LEN;
    let memmap = module + MODULE_LEN;
    let mut out = Vec::new();
    [MAGIC, 1, 0, modules].iter().for_each(|word| out.extend(word.to_le_bytes()));
    let module_list = if modules > 0 { module } else { 0 };
    [module_list, cmdline.0, boot.board.acpi.start, memmap].iter().for_each(|word| out.extend(word.to_le_bytes()));
    [map.len() as u32, 0].iter().for_each(|word| out.extend(word.to_le_bytes()));
    [initrd.0, initrd_len, 0, 0].iter().for_each(|word| out.extend(word.to_le_bytes()));
    for range in &map {
        [range.start, range.len].iter().for_each(|word| out.extend(word.to_le_bytes()));
        [range.kind as u32, 0].iter().for_each(|word| out.extend(word.to_le_bytes()));
    }
    boot.mem.write(info, &out)?;
    let entry = Entry { mode: EntryMode::Pvh, ip: Gpa(pvh_entry), info };
    entry.write_tables(boot.mem)?;
    Ok(entry)
}
