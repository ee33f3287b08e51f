//! The SCSI host (virtio 1.2, 5.6). The commands themselves are tested where they are.

use std::sync::Arc;

use devices::virtio::{Scsi, ScsiUnit};
use disk::Image;
use testkit::folder::Folder;
use testkit::rig::Access;

use super::driver::{CONFIG, Driver, EVENT_IDX, INDIRECT, PACKED, image};

const LEN: usize = 1 << 20;
const UNIT: [u8; 8] = [1, 0, 0x40, 0, 0, 0, 0, 0];

/// A host with units 0 and 300 of target 0.
pub(crate) fn host(image: &Arc<dyn Image>, memory: &memory::GuestMemory) -> Scsi {
    let unit = |lun, serial: &str| ScsiUnit { target: 0, lun, image: Arc::clone(image), serial: serial.into() };
    Scsi::new(vec![unit(0, "ONE"), unit(300, "TWO")], memory, 2)
}

pub(crate) fn driver(name: &str) -> Driver {
    let folder = Folder::new(&format!("virtio-scsi-{name}"));
    let image = image(&folder, "disk", LEN);
    Driver::new(move |memory| Box::new(host(&image, &memory)), Some(folder))
}

pub(crate) struct Answer {
    pub(crate) residual: u32,
    pub(crate) status: u8,
    response: u8,
    sense: Vec<u8>,
    data: Vec<u8>,
}

/// Sends a command to the first queue of requests.
pub(crate) fn command(driver: &mut Driver, unit: [u8; 8], cdb: &[u8], out: &[u8], room: u32) -> Answer {
    let mut header = [0; 19 + 32];
    header[..8].copy_from_slice(&unit);
    header[8] = 0x77;
    header[19..19 + cdb.len()].copy_from_slice(cdb);
    let (_, parts) = driver.request(2, &[&header, out], &[12 + 96, room]);
    let field = |at: usize| u32::from_le_bytes(parts[0][at..at + 4].try_into().unwrap());
    Answer {
        residual: field(4),
        status: parts[0][10],
        response: parts[0][11],
        sense: parts[0][12..12 + field(0) as usize].to_vec(),
        data: parts[1].clone(),
    }
}

fn started(name: &str, features: u64) -> Driver {
    let mut driver = driver(&format!("{name}-{features:x}"));
    driver.start(features);
    for unit in [UNIT, [1, 0, 0x41, 44, 0, 0, 0, 0]] {
        let answer = command(&mut driver, unit, &[0; 6], &[], 0);
        assert_eq!((answer.status, answer.sense[2], answer.sense[12]), (2, 6, 0x29), "it was powered on");
    }
    driver
}

#[test]
fn commands_reach_the_units() {
    for features in [0, EVENT_IDX | INDIRECT, PACKED | EVENT_IDX | INDIRECT] {
        let mut driver = started("commands", features);
        let answer = command(&mut driver, UNIT, &[0x12, 0, 0, 0, 96, 0], &[], 96);
        assert_eq!((answer.response, answer.status, answer.residual), (0, 0, 60));
        assert_eq!(&answer.data[8..16], b"HUSK    ");
        let content: Vec<u8> = (0..1024u32).map(|n| (n % 251) as u8).collect();
        let answer = command(&mut driver, UNIT, &[0x2a, 0, 0, 0, 0, 9, 0, 0, 2, 0], &content, 0);
        assert_eq!((answer.response, answer.status, answer.residual), (0, 0, 0));
        let answer = command(&mut driver, UNIT, &[0x28, 0, 0, 0, 0, 8, 0, 0, 3, 0], &[], 3 * 512 + 7);
        assert_eq!((answer.response, answer.status, answer.residual), (0, 0, 7));
        assert_eq!((answer.data[0], &answer.data[512..1536]), (8, &content[..]));
        let answer = command(&mut driver, UNIT, &[0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[], 0);
        assert_eq!((answer.response, answer.status), (0, 0));
        // Two ranges are unmapped, one after the other.
        let mut list = [0; 40];
        list[1] = 38;
        list[3] = 32;
        (list[15], list[19], list[31], list[35]) = (8, 8, 64, 8);
        let answer = command(&mut driver, UNIT, &[0x42, 0, 0, 0, 0, 0, 0, 0, 40, 0], &list, 0);
        assert_eq!((answer.response, answer.status), (0, 0));
        assert_eq!(driver.status(), 15);
    }
}

#[test]
fn what_is_not_there_is_told() {
    let mut driver = started("absent", 0);
    for unit in [[1, 1, 0x40, 0, 0, 0, 0, 0], [2, 0, 0, 0, 0, 0, 0, 0], [1, 0, 0x40, 0, 1, 0, 0, 0]] {
        assert_eq!(command(&mut driver, unit, &[0; 6], &[], 0).response, 3, "no such target");
    }
    let absent = [1, 0, 0x40, 7, 0, 0, 0, 0];
    let answer = command(&mut driver, absent, &[0; 6], &[], 0);
    assert_eq!((answer.response, answer.status, answer.sense[12]), (0, 2, 0x25));
    assert_eq!(command(&mut driver, absent, &[0x12, 0, 0, 0, 36, 0], &[], 36).data[0], 0x7f);
    let answer = command(&mut driver, absent, &[0xa0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0], &[], 256);
    assert_eq!((answer.residual, answer.data[3]), (256 - 24, 16));
    assert_eq!((&answer.data[8..10], &answer.data[16..18]), (&[0, 0][..], &[0x41, 44][..]));
}

#[test]
fn data_that_do_not_fit_are_an_overrun() {
    let mut driver = started("overrun", 0);
    let answer = command(&mut driver, UNIT, &[0x28, 0, 0, 0, 0, 0, 0, 0, 2, 0], &[], 512);
    assert_eq!((answer.response, answer.data[0]), (1, 0xee));
    let answer = command(&mut driver, UNIT, &[0x2a, 0, 0, 0, 0, 0, 0, 0, 2, 0], &[1; 512], 0);
    assert_eq!(answer.response, 1);
    assert_eq!(command(&mut driver, UNIT, &[0x12, 0, 0, 0, 96, 0], &[], 10).response, 1);
    // The disk ends before.
    let answer = command(&mut driver, UNIT, &[0x28, 0, 0, 0, 8, 0, 0, 0, 1, 0], &[], 512);
    assert_eq!((answer.response, answer.status, answer.sense[2], answer.sense[12]), (0, 2, 5, 0x21));
}

#[test]
fn tasks_are_managed() {
    let mut driver = started("tasks", 0);
    let mut manage = |function: u8, unit: [u8; 8]| {
        let mut request = [0; 24];
        request[4] = function;
        request[8..16].copy_from_slice(&unit);
        let (written, parts) = driver.request(0, &[&request], &[1]);
        assert_eq!(written, 1);
        parts[0][0]
    };
    assert_eq!(manage(0, UNIT), 0, "there is nothing to abort");
    assert_eq!(manage(6, UNIT), 0);
    assert_eq!(manage(5, UNIT), 0);
    assert_eq!(manage(9, UNIT), 11);
    assert_eq!(manage(5, [1, 0, 0x40, 1, 0, 0, 0, 0]), 12);
    assert_eq!(manage(5, [1, 9, 0x40, 0, 0, 0, 0, 0]), 3);
    assert_eq!(driver.request(0, &[&[1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]], &[5]).1, [[0; 5]], "no events to ask for");
    // The unit was reset.
    assert_eq!(command(&mut driver, UNIT, &[0; 6], &[], 0).sense[12], 0x29);
    assert_eq!(command(&mut driver, UNIT, &[0; 6], &[], 0).status, 0);
}

#[test]
fn a_task_that_is_to_be_aborted_is_waited_for() {
    let mut driver = started("abort", INDIRECT);
    let mut header = [0; 19 + 32];
    header[..8].copy_from_slice(&UNIT);
    header[8] = 5;
    header[19..29].copy_from_slice(&[0x28, 0, 0, 0, 0, 8, 0, 1, 0, 0]);
    let read = driver.submit(2, &[&header], &[12 + 96, 256 * 512]);
    let mut request = [0; 24];
    request[8..16].copy_from_slice(&UNIT);
    request[16] = 5;
    let abort = driver.submit(0, &[&request], &[1]);
    driver.notify(2);
    driver.notify(0);
    driver.settle();
    assert_eq!(driver.take(&read).unwrap().1[0][10..12], [0, 0]);
    assert_eq!(driver.take(&abort).unwrap().1, [[0]]);
}

#[test]
fn sizes_of_fields_are_the_drivers() {
    let mut driver = started("sizes", 0);
    let function = Arc::clone(&driver.function);
    assert_eq!((function.in32(0, CONFIG), function.in32(0, CONFIG + 20), function.in32(0, CONFIG + 24)), (2, 96, 32));
    let _ = function.out32(0, CONFIG + 20, 20);
    let _ = function.out32(0, CONFIG + 24, 16);
    let mut header = [0; 19 + 16];
    header[..8].copy_from_slice(&UNIT);
    header[19] = 0xff;
    let (_, parts) = driver.request(2, &[&header], &[12 + 20]);
    assert_eq!((parts[0][0], parts[0][10], parts[0][12 + 12]), (18, 2, 0x20), "no such command");
    assert_eq!(driver.status(), 15);
}
