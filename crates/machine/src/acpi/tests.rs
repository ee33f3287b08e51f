use std::process::Command;

use super::*;

fn contents(cpus: u32) -> Contents {
    Contents { cpus, ram: 6 << 30, serial_ports: 4, panic_port: true }
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// The table at an address, by its own length; its checksum is right.
fn table(tables: &Tables, at: u64) -> &[u8] {
    let start = usize::try_from(at - tables.base.0).unwrap();
    let len = u32::from_le_bytes(tables.bytes[start + 4..start + 8].try_into().unwrap()) as usize;
    let table = &tables.bytes[start..start + len];
    if &table[..4] != b"FACS" {
        assert_eq!(sum(table), 0, "checksum of {:?}", String::from_utf8_lossy(&table[..4]));
    }
    table
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// All tables that the root pointer leads to, by signature.
fn walk(tables: &Tables) -> Vec<(String, Vec<u8>)> {
    let rsdp = &tables.bytes[usize::try_from(tables.rsdp.0 - tables.base.0).unwrap()..][..36];
    assert_eq!(&rsdp[..8], b"RSD PTR ");
    assert_eq!((sum(&rsdp[..20]), sum(rsdp)), (0, 0));
    let xsdt = table(tables, u64_at(rsdp, 24));
    let mut found = vec![xsdt];
    found.extend(xsdt[36..].chunks(8).map(|entry| table(tables, u64_at(entry, 0))));
    let fadt = *found.iter().find(|t| &t[..4] == b"FACP").unwrap();
    assert_eq!(u64::from(u32_at(fadt, 40)), u64_at(fadt, 140));
    found.push(table(tables, u64_at(fadt, 140)));
    found.push(table(tables, u32_at(fadt, 36).into()));
    found.iter().map(|t| (String::from_utf8(t[..4].to_vec()).unwrap(), t.to_vec())).collect()
}

#[test]
fn every_pointer_lands_and_every_checksum_is_right() {
    for (board, names) in [
        ("q35-1", &["XSDT", "FACP", "APIC", "HPET", "MCFG", "DSDT", "FACS"][..]),
        ("pc-1", &["XSDT", "FACP", "APIC", "HPET", "DSDT", "FACS"][..]),
    ] {
        let board = Board::named(board).unwrap();
        for cpus in [1, 2, 255] {
            let tables = build(board, &contents(cpus)).unwrap();
            let found: Vec<_> = walk(&tables).into_iter().map(|(name, _)| name).collect();
            assert_eq!(found, names);
            assert!(board.acpi.contains(&(tables.base.0 + tables.bytes.len() as u64)));
            assert!(tables.rsdp.0.is_multiple_of(16), "old kernels look at multiples of 16 only");
        }
    }
}

#[test]
fn the_facs_is_aligned() {
    let tables = build(Board::named("q35-1").unwrap(), &contents(1)).unwrap();
    let fadt = &walk(&tables)[1].1;
    assert!(u32_at(fadt, 36).is_multiple_of(64));
}

#[test]
fn the_madt_lists_each_cpu() {
    let board = Board { max_cpus: 300, ..Board::named("q35-1").unwrap().clone() };
    for cpus in [1u32, 4, 256] {
        let madt = tables::madt(&board, cpus);
        let (mut ids, mut at) = (Vec::new(), 44);
        while at < madt.len() {
            match madt[at] {
                0 => ids.push(u32::from(madt[at + 3])),
                9 => ids.push(u32_at(&madt, at + 4)),
                _ => {}
            }
            at += usize::from(madt[at + 1]);
        }
        assert_eq!(at, madt.len());
        assert_eq!(ids, (0..cpus).collect::<Vec<_>>());
    }
}

#[test]
fn a_bad_number_of_cpus_is_refused() {
    let board = Board::named("q35-1").unwrap();
    let text = build(board, &contents(256)).unwrap_err().to_string();
    assert_eq!(text, "board q35-1 takes 1 to 255 CPUs, not 256");
    assert!(build(board, &contents(0)).is_err());
    let small = Board { acpi: 0xe_0000..0xe_0100, ..board.clone() };
    assert!(matches!(build(&small, &contents(1)), Err(AcpiError::Full { .. })));
}

/// The reference compiler reads the tables back, and compiles what it has read without a complaint.
#[test]
fn the_reference_compiler_accepts_the_tables() {
    if Command::new("iasl").arg("-v").output().is_err() {
        eprintln!("SKIPPED: iasl is not installed (Debian package acpica-tools), the tables are not checked with it");
        return;
    }
    let dir = std::env::temp_dir().join(format!("husk-acpi-test-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    for board in Board::names() {
        let tables = build(Board::named(board).unwrap(), &contents(3)).unwrap();
        for (name, table) in walk(&tables).into_iter().filter(|(name, _)| name != "FACS") {
            let file = dir.join(format!("{board}-{name}.aml"));
            std::fs::write(&file, table).unwrap();
            iasl(&["-d".as_ref(), file.as_os_str()]);
            let said = iasl(&["-f".as_ref(), file.with_extension("dsl").as_os_str()]);
            // For data tables it says nothing but where it has put them.
            if name == "DSDT" {
                assert!(said.contains(" 0 Errors, 0 Warnings"), "{board} {name}: {said}");
            }
        }
    }
    std::fs::remove_dir_all(dir).unwrap();
}

fn iasl(args: &[&std::ffi::OsStr]) -> String {
    let out = Command::new("iasl").args(args).output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "iasl {args:?}: {said}");
    said
}
