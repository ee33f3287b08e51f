use super::*;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

#[test]
fn boards_are_found_by_name() {
    for name in Board::names() {
        assert_eq!(Board::named(name).unwrap().name, name);
    }
    assert_eq!(Board::named("q36").unwrap_err().to_string(), "no board is named \"q36\"; choose one of: q35-1, pc-1");
}

#[test]
fn the_layout_leaves_the_holes_free() {
    for name in Board::names() {
        let board = Board::named(name).unwrap();
        for ram in [4 * MIB, 512 * MIB, board.low_ram_limit, board.low_ram_limit + 4096, 16 * GIB] {
            let regions = board.layout(ram);
            let total: u64 = regions.iter().map(|r| r.len).sum();
            assert_eq!(total, ram - 0x2_0000, "all but the video hole");
            let busy =
                [Some(VGA_HOLE), board.ecam.clone(), Some(board.pci_memory.clone()), Some(board.pci_memory_high(ram))];
            for region in &regions {
                for hole in busy.iter().flatten() {
                    assert!(
                        region.start.0 + region.len <= hole.start || region.start.0 >= hole.end,
                        "{name} {region:x?} {hole:x?}"
                    );
                }
            }
            memory::GuestMemory::new(&regions[..2]).unwrap();
        }
    }
}

#[test]
fn parts_do_not_lie_over_each_other() {
    for name in Board::names() {
        let board = Board::named(name).unwrap();
        let mut ranges =
            vec![board.pci_memory.clone(), board.ioapic..board.ioapic + 0x1000, board.hpet..board.hpet + 0x400];
        ranges.push(board.lapic..board.lapic + 0x1000);
        ranges.extend(board.ecam.clone());
        ranges.sort_by_key(|r| r.start);
        assert!(ranges.windows(2).all(|pair| pair[0].end <= pair[1].start), "{name}");
        assert!(ranges.iter().all(|r| r.start >= board.low_ram_limit && r.end <= HIGH_RAM));
        assert!(board.acpi.start >= VGA_HOLE.end && board.acpi.end <= board.smbios.start);
        // Where operating systems look for the entry point.
        assert!(board.smbios.start >= 0xf_0000 && board.smbios.end <= MIB);
        assert!(u32::from(board.pm.base + board.pm.len) <= board.pci_ports.start);
    }
}

#[test]
fn pins_of_neighbours_reach_different_inputs() {
    let board = Board::named("q35-1").unwrap();
    assert_eq!(board.intx_gsi(0, 0), 16);
    assert_eq!(board.intx_gsi(31, 3), 16 + 34 % 8);
    assert!((0..32).all(|device| (0..4).all(|pin| (16..board.ioapic_inputs).contains(&board.intx_gsi(device, pin)))));
    assert_ne!(board.intx_gsi(1, 0), board.intx_gsi(2, 0));
}
