use std::sync::Arc;

use disk::raw::Raw;
use memory::{Gpa, GuestMemory, Kind, Region};
use testkit::folder::Folder;

use super::*;
use crate::block::Backend;

fn medium(folder: &Folder, name: &str, blocks: u64) -> Backend {
    let path = folder.join(name);
    std::fs::File::create(&path).unwrap().set_len(blocks * BLOCK).unwrap();
    let file = disk::file::HostFile::open(&path, disk::file::Access::Read).unwrap();
    let memory = GuestMemory::new(&[Region { start: Gpa(0), len: 4096, kind: Kind::Ram }]).unwrap();
    Backend::new(Arc::new(Raw::new(Arc::new(file))), memory, String::new())
}

fn data(reply: Result<Reply, Sense>) -> Vec<u8> {
    match reply {
        Ok(Reply::Data(data)) => data,
        other => panic!("{other:?}"),
    }
}

const READY: [u8; 12] = [0; 12];

#[test]
fn an_empty_drive_takes_a_disc_and_gives_it_back() {
    let folder = Folder::new("tray");
    let tray = Tray::new(None);
    let mut drive = CdDrive::new(Arc::clone(&tray), "S".into());
    assert_eq!(drive.command(&READY), Err(Sense::RESET));
    assert_eq!(drive.command(&READY), Err(Sense::NO_MEDIUM));
    let sense = data(drive.command(&[3, 0, 0, 0, 18]));
    assert_eq!((sense[0], sense[2], sense[12], sense[13]), (0x70, 2, 0x3a, 1));
    assert_eq!(data(drive.command(&[3, 0, 0, 0, 18]))[2], 0, "it is told once");

    tray.insert(medium(&folder, "a", 1000)).unwrap();
    assert_eq!(data(drive.command(&[0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8]))[4..6], [2, 2]);
    assert_eq!(drive.command(&READY), Err(Sense::CHANGED));
    assert_eq!(drive.command(&READY), Ok(Reply::Done));
    assert_eq!(data(drive.command(&[0x25])), [0, 0, 3, 0xe7, 0, 0, 8, 0]);
    assert_eq!(drive.command(&[0x28, 0, 0, 0, 3, 0xe7, 0, 0, 1]), Ok(Reply::Read { offset: 999 * BLOCK, len: BLOCK }));
    assert_eq!(drive.command(&[0x28, 0, 0, 0, 3, 0xe7, 0, 0, 2]), Err(Sense::BEYOND));
    assert_eq!(drive.command(&[0xa8, 0, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]), Err(Sense::BEYOND));

    // A locked tray stays closed, and the guest learns of the wish.
    drive.command(&[0x1e, 0, 0, 0, 1]).unwrap();
    assert_eq!(drive.command(&[0x1b, 0, 0, 0, 2]), Err(Sense::REMOVAL_PREVENTED));
    assert_eq!(tray.eject(false), Err(Locked));
    assert_eq!(data(drive.command(&[0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8]))[4..6], [1, 2]);
    drive.command(&[0x1e, 0, 0, 0, 0]).unwrap();
    drive.command(&[0x1b, 0, 0, 0, 2]).unwrap();
    assert!(tray.is_open() && !tray.is_empty());
    assert_eq!(drive.command(&READY), Err(Sense::TRAY_OPEN));
    drive.command(&[0x1b, 0, 0, 0, 3]).unwrap();
    assert_eq!((drive.command(&READY), drive.command(&READY)), (Err(Sense::CHANGED), Ok(Reply::Done)));
    tray.eject(false).unwrap();
    assert_eq!(drive.command(&READY), Err(Sense::TRAY_OPEN));
    assert!(tray.is_empty());
}

#[test]
fn a_force_opens_what_the_guest_has_locked() {
    let folder = Folder::new("tray-force");
    let tray = Tray::new(Some(medium(&folder, "a", 10)));
    let mut drive = CdDrive::new(Arc::clone(&tray), "S".into());
    let _ = drive.command(&READY);
    drive.command(&[0x1e, 0, 0, 0, 1]).unwrap();
    assert_eq!(tray.insert(medium(&folder, "b", 20)), Err(Locked));
    tray.eject(true).unwrap();
    assert!(!tray.is_locked() && tray.is_empty());
}

#[test]
fn a_large_disc_is_a_dvd() {
    let folder = Folder::new("dvd");
    for (blocks, profile) in [(300_000, 8), (2_000_000, 0x10)] {
        let mut drive = CdDrive::new(Tray::new(Some(medium(&folder, "a", blocks))), "S".into());
        let _ = drive.command(&READY);
        let answer = data(drive.command(&[0x46, 0, 0, 0, 0, 0, 0, 0, 0xff]));
        assert_eq!(answer[6..8], [0, profile]);
        assert_eq!(u32::from_be_bytes(answer[..4].try_into().unwrap()) as usize, answer.len() - 4);
        let dvd = drive.command(&[0xad, 0, 0, 0, 0, 0, 0, 0, 8, 0]);
        assert_eq!(dvd.is_ok(), profile == 0x10);
    }
}

#[test]
fn answers_are_of_the_length_that_they_say_and_are_cut() {
    let folder = Folder::new("answers");
    let mut drive = CdDrive::new(Tray::new(Some(medium(&folder, "a", 75 * 60))), "S1".into());
    let _ = drive.command(&READY);
    let inquiry = data(drive.command(&[0x12, 0, 0, 0, 0xff]));
    assert_eq!((inquiry.len(), inquiry[0], inquiry[4]), (36, 5, 31));
    assert_eq!(data(drive.command(&[0x12, 0, 0, 0, 5])).len(), 5);
    assert_eq!(data(drive.command(&[0x12, 1, 0x80, 0, 0xff])), [5, 0x80, 0, 2, b'S', b'1']);
    let toc = data(drive.command(&[0x43, 2, 0, 0, 0, 0, 0, 1, 0]));
    // The end is at one minute and two seconds.
    assert_eq!((toc[..4].to_vec(), toc[14], toc[16..20].to_vec()), (vec![0, 18, 1, 1], 0xaa, vec![0, 1, 2, 0]));
    let modes = data(drive.command(&[0x5a, 0, 0x3f, 0, 0, 0, 0, 1, 0]));
    assert_eq!(usize::from(modes[1]) + 2, modes.len());
    assert_eq!(data(drive.command(&[0x1a, 0, 0x2a, 0, 0xff])).len(), 24);
    assert_eq!(drive.command(&[0x5a, 0, 0x05, 0, 0, 0, 0, 1, 0]), Err(Sense::FIELD));
    assert_eq!(drive.command(&[0xff]), Err(Sense::NO_COMMAND));
    assert_eq!(drive.command(&[0x12, 0, 0, 0, 0]), Ok(Reply::Done), "nothing is asked for");
}

#[test]
fn no_command_panics() {
    let folder = Folder::new("any-command");
    let mut random = testkit::rig::Random::new(4);
    let mut drive = CdDrive::new(Tray::new(Some(medium(&folder, "a", 10))), "S".into());
    for n in 0..200_000u64 {
        let mut block = [random.draw().to_le_bytes(), random.draw().to_le_bytes()].concat();
        block[0] = n as u8;
        if random.below(2) == 0 {
            block[2..6].fill(0);
        }
        match drive.command(&block[..random.below(17) as usize]) {
            Ok(Reply::Read { offset, len }) => assert!(len != 0 && offset + len <= 10 * BLOCK),
            Ok(Reply::Data(data)) => assert!(!data.is_empty() && data.len() <= 4096),
            _ => {}
        }
    }
}
