//! The battery, and rings of garbage.

use std::sync::{Arc, Mutex};

use devices::virtio::{Kind, VirtioPci};
use machine::pci::PciFunction;
use machine::{At, Device, Drained, Effect, Schema, Snapshot, State, StateError};
use memory::Gpa;
use testkit::rig::{Messages, Probe, Random, battery};

use super::driver::{Driver, EVENT_IDX, INDIRECT, PACKED, memory};
use super::{blk, scsi};

/// Configuration space as window 1 beside the BAR.
struct Whole(Arc<Mutex<VirtioPci>>);

impl Device for Whole {
    fn read(&mut self, at: At, data: &mut [u8]) {
        let mut function = self.0.lock().unwrap();
        if at.window == 0 { function.read(at, data) } else { function.config_read(at.offset as u16, data) }
    }
    fn write(&mut self, at: At, data: &[u8]) -> Effect {
        let mut function = self.0.lock().unwrap();
        if at.window == 0 { function.write(at, data) } else { function.config_write(at.offset as u16, data) }
    }
    fn reset(&mut self) {
        self.0.lock().unwrap().reset();
    }
    fn pause(&mut self) -> Drained {
        self.0.lock().unwrap().pause()
    }
    fn resume(&mut self) {
        self.0.lock().unwrap().resume();
    }
}

impl Snapshot for Whole {
    fn schema(&self) -> Schema {
        self.0.lock().unwrap().schema()
    }
    fn save(&mut self) -> Result<State, StateError> {
        self.0.lock().unwrap().save()
    }
    fn load(&mut self, version: u16, state: State) -> Result<(), StateError> {
        self.0.lock().unwrap().load(version, state)
    }
}

fn through_the_battery(make: impl Fn(memory::GuestMemory) -> Box<dyn Kind>) {
    let make = || {
        let memory = memory();
        let function = VirtioPci::build(make(memory.clone()), &memory, Messages::new().port(), Probe::new().line());
        Arc::new(Mutex::new(Whole(function.unwrap()))) as Arc<Mutex<dyn Device>>
    };
    // The whole, and once more where something happens: the common configuration, and the notifications.
    battery(make, &[(0, 0x8000), (0, 60), (0, 60), (0x0, 0x3010), (1, 0x100)]);
}

#[test]
fn a_disk_goes_through_the_battery() {
    let folder = testkit::folder::Folder::new("virtio-blk-battery");
    let image = super::driver::image(&folder, "disk", 1 << 20);
    through_the_battery(|memory| Box::new(devices::virtio::Blk::new(Arc::clone(&image), memory, "S".into(), 2)));
}

#[test]
fn a_scsi_host_goes_through_the_battery() {
    let folder = testkit::folder::Folder::new("virtio-scsi-battery");
    let image = super::driver::image(&folder, "disk", 1 << 20);
    through_the_battery(|memory| Box::new(scsi::host(&image, &memory)));
}

/// Rings of garbage, and half of them almost sound: nothing panics, nothing hangs, and a reset brings the device back.
fn abused(make: impl Fn(&str) -> Driver, works: impl Fn(&mut Driver)) {
    let mut random = Random::new(7);
    for (n, features) in [0, EVENT_IDX, INDIRECT, PACKED, PACKED | EVENT_IDX | INDIRECT].into_iter().enumerate() {
        let mut driver = make(&format!("abuse-{n}"));
        for _ in 0..100 {
            driver.start(features);
            let queues = driver.rings.len() as u64;
            for _ in 0..20 {
                let queue = random.below(queues) as usize;
                let [table, available, used] = driver.rings[queue].areas();
                // Descriptors that are small numbers most of the time, so that they lead somewhere.
                for n in 0..16 {
                    let at = if random.below(8) == 0 { random.draw() } else { random.below(4 << 20) };
                    let len = if random.below(8) == 0 { random.draw() as u32 } else { random.below(2048) as u32 };
                    let (third, fourth) = (random.below(16) as u16, random.below(16) as u16);
                    let fourth = if random.below(4) == 0 { random.draw() as u16 } else { fourth | 0x80 };
                    driver.memory.write(Gpa(table + 16 * n), &at.to_le_bytes()).unwrap();
                    driver.memory.write(Gpa(table + 16 * n + 8), &len.to_le_bytes()).unwrap();
                    driver.memory.write(Gpa(table + 16 * n + 12), &third.to_le_bytes()).unwrap();
                    driver.memory.write(Gpa(table + 16 * n + 14), &fourth.to_le_bytes()).unwrap();
                }
                for n in 0..18 {
                    driver.memory.write(Gpa(available + 2 * n), &(random.below(20) as u16).to_le_bytes()).unwrap();
                    driver.memory.write(Gpa(used + 2 * n), &(random.below(20) as u16).to_le_bytes()).unwrap();
                }
                // Sound requests in places where they may be looked for.
                let at = random.below(4 << 20) & !15;
                let _ = driver.memory.write(Gpa(at), &random.below(16).to_le_bytes());
                driver.notify(queue);
            }
            driver.settle();
            let state = driver.function.lock().unwrap().save().unwrap();
            driver.function.lock().unwrap().load(1, state).unwrap();
        }
        driver.start(features);
        works(&mut driver);
    }
}

#[test]
fn a_disk_survives_rings_of_garbage() {
    abused(
        |name| blk::disk(name, 2),
        |driver| {
            let mut header = [0; 16];
            header[0] = 4;
            assert_eq!(driver.request(0, &[&header], &[1]).1, [[0]]);
        },
    );
}

#[test]
fn a_scsi_host_survives_rings_of_garbage() {
    abused(scsi::driver, |driver| {
        // The unit tells first that it was reset.
        for status in [2, 0] {
            assert_eq!(scsi::command(driver, [1, 0, 0x40, 0, 0, 0, 0, 0], &[0; 6], &[], 0).status, status);
        }
    });
}
