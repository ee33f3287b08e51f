//! The smallest guest: it says that it runs, makes exits, and says after each kind that it is done.

/// What it writes to the first serial port, in this order.
pub(super) const STARTED: &[u8] = b"\x01";
pub(super) const PORTS_DONE: &[u8] = b"\x02";
pub(super) const MMIO_DONE: &[u8] = b"\x03";

/// Where it is in memory.
const AT: u64 = 0x10_0000;
/// The port of power-on self tests: nobody does anything with what is written there.
const PORT: u8 = 0x80;
/// The main counter of the HPET (IA-PC HPET Specification 1.0a, 2.3.1), a device outside of KVM.
const HPET_COUNTER: u32 = 0xfed0_00f0;

/// An ELF file with a PVH entry (Xen, `docs/misc/pvh.pandoc`): 32-bit protected mode, flat segments, no paging.
pub(super) fn kernel(ports: u32, reads: u32) -> Vec<u8> {
    const HEADERS: u64 = 64 + 2 * 56;
    let note = note();
    let code = code(ports, reads);
    let code_at = HEADERS + note.len() as u64;
    let entry = AT + code_at;
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    // Executable, x86-64, version 1; then the entry and the program headers' place (gABI 4.1, ELF header).
    file.extend([2u16, 62].iter().flat_map(|n| n.to_le_bytes()));
    file.extend(1u32.to_le_bytes());
    file.extend([entry, 64, 0].iter().flat_map(|n| n.to_le_bytes()));
    file.extend(0u32.to_le_bytes());
    file.extend([64u16, 56, 2, 64, 0, 0].iter().flat_map(|n| n.to_le_bytes()));
    let len = code_at + code.len() as u64;
    let mut header = |kind: u32, offset: u64, len: u64, align: u64| {
        file.extend([kind, 7].iter().flat_map(|n| n.to_le_bytes()));
        file.extend([offset, AT + offset, AT + offset, len, len, align].iter().flat_map(|n| n.to_le_bytes()));
    };
    header(1, 0, len, 0x1000);
    header(4, HEADERS, note.len() as u64, 4);
    file.extend(note_with(entry, note));
    file.extend(code);
    file
}

/// The note that names the entry, with no entry yet.
fn note() -> Vec<u8> {
    const PHYS32_ENTRY: u32 = 18;
    let mut note: Vec<u8> = [4u32, 8, PHYS32_ENTRY].iter().flat_map(|n| n.to_le_bytes()).collect();
    note.extend(b"Xen\0");
    note.extend([0; 8]);
    note
}

fn note_with(entry: u64, mut note: Vec<u8>) -> Vec<u8> {
    note.truncate(16);
    note.extend(entry.to_le_bytes());
    note
}

/// The code (SDM, volume 2), the same in every mode with 32-bit operands.
fn code(ports: u32, reads: u32) -> Vec<u8> {
    let mut code = Vec::new();
    let say = |code: &mut Vec<u8>, what: &[u8]| {
        // mov edx, 0x3f8; mov al, what; out dx, al
        code.extend([0xba, 0xf8, 0x03, 0, 0, 0xb0, what[0], 0xee]);
    };
    say(&mut code, STARTED);
    // mov ecx, ports; again: out PORT, al; dec ecx; jnz again
    code.push(0xb9);
    code.extend(ports.to_le_bytes());
    code.extend([0xe6, PORT, 0x49, 0x75, 0xfb]);
    say(&mut code, PORTS_DONE);
    // mov ecx, reads; again: mov eax, [HPET_COUNTER]; dec ecx; jnz again
    code.push(0xb9);
    code.extend(reads.to_le_bytes());
    code.push(0xa1);
    code.extend(HPET_COUNTER.to_le_bytes());
    code.extend([0x49, 0x75, 0xf8]);
    say(&mut code, MMIO_DONE);
    // cli; halted: hlt; jmp halted
    code.extend([0xfa, 0xf4, 0xeb, 0xfd]);
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_entry_is_where_the_code_is() {
        let file = kernel(1, 1);
        let word = |at: usize| u64::from_le_bytes(file[at..at + 8].try_into().unwrap());
        let entry = word(24);
        assert_eq!(word(64 + 56 + 56 + 16), entry);
        assert_eq!(file[(entry - AT) as usize], 0xba);
        assert_eq!(word(64 + 32), file.len() as u64);
    }
}
