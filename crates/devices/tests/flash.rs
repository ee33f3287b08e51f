//! The flash chip for firmware's variables, by its commands.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use devices::flash::{CfiFlash, FLASH_BLOCK, FlashOut};
use machine::{At, Device, Shared, Snapshot};
use memory::{Gpa, GuestMemory, StoreConfig};

const SIZE: u64 = 4 * FLASH_BLOCK;
const START: u64 = 0xffc0_0000;

/// Blocks that were put out, with their offsets.
type Blocks = Vec<(u64, Vec<u8>)>;

struct Chip {
    chip: Shared<CfiFlash>,
    memory: GuestMemory,
    out: Arc<Mutex<Blocks>>,
    changes: Arc<AtomicU32>,
}

fn memory() -> GuestMemory {
    GuestMemory::with_stores(&[], &[StoreConfig::switched("variables", START..START + SIZE, SIZE)]).unwrap()
}

fn chip(content: &[u8]) -> Chip {
    let (memory, out, changes) = (memory(), Arc::<Mutex<Blocks>>::default(), Arc::<AtomicU32>::default());
    let (to, count) = (Arc::clone(&out), Arc::clone(&changes));
    let put: Box<dyn FlashOut> =
        Box::new(move |offset: u64, block: &[u8]| to.lock().unwrap().push((offset, block.to_vec())));
    let store = memory.store("variables").unwrap();
    let changed = move || _ = count.fetch_add(1, Ordering::Relaxed);
    let chip = CfiFlash::build(store, START..START + SIZE, content, Some(put), changed).unwrap();
    Chip { chip, memory, out, changes }
}

impl Chip {
    fn write(&self, offset: u64, bytes: &[u8]) {
        for byte in bytes {
            let _ = self.chip.lock().unwrap().write(At { window: 0, offset }, &[*byte]);
        }
    }

    fn read(&self, offset: u64) -> u8 {
        let mut byte = [0];
        self.chip.lock().unwrap().read(At { window: 0, offset }, &mut byte);
        byte[0]
    }

    /// What the guest sees without asking anybody.
    fn seen(&self, offset: u64) -> Option<u8> {
        self.memory.read_array::<1>(Gpa(START + offset)).ok().map(|[byte]| byte)
    }

    /// The blocks that have been put out since.
    fn put(&self) -> Blocks {
        std::mem::take(&mut self.out.lock().unwrap())
    }
}

fn content() -> Vec<u8> {
    (0..SIZE).map(|n| (n >> 4) as u8).collect()
}

#[test]
fn firmware_finds_that_it_is_flash() {
    let chip = chip(&content());
    assert_eq!((chip.seen(0x234), chip.changes.load(Ordering::Relaxed)), (Some(0x23), 1));
    assert!(!chip.memory.is_ram(Gpa(START), 1));
    // OVMF: the status is cleared, and the content still reads; then the status does, and it is zero.
    chip.write(0x234, &[0x50]);
    assert_eq!((chip.seen(0x234), chip.read(0x234)), (Some(0x23), 0x23));
    chip.write(0x234, &[0x70]);
    assert_eq!((chip.seen(0x234), chip.read(0x234)), (None, 0));
    chip.write(0x234, &[0xff]);
    assert_eq!((chip.seen(0x234), chip.changes.load(Ordering::Relaxed)), (Some(0x23), 3));
    assert!(chip.put().is_empty());
}

#[test]
fn bytes_are_programmed_and_blocks_erased() {
    let chip = chip(&content());
    chip.write(0x1008, &[0x20, 0xd0]);
    assert_eq!((chip.seen(0x1000), chip.read(0x1000)), (None, 0x80));
    // What is programmed twice has the zeros of both.
    chip.write(0x1010, &[0x10, 0xa5, 0x40, 0x3c]);
    assert!(chip.put().is_empty(), "the block is put out whole, when it is done");
    chip.write(0x1010, &[0xff]);
    assert_eq!(
        [0xfff, 0x1000, 0x100f, 0x1010, 0x1fff, 0x2000].map(|at| chip.seen(at).unwrap()),
        [0xff, 0xff, 0xff, 0x24, 0xff, 0]
    );
    let mut block = vec![0xff; 4096];
    block[0x10] = 0x24;
    assert_eq!(chip.put(), [(0x1000, block)]);
    // Two blocks in one go are put out one after the other.
    chip.write(0x3fff, &[0x40, 0x00]);
    chip.write(0x0000, &[0x20, 0xd0, 0xff]);
    assert_eq!(chip.put().iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), [0x3000, 0]);
}

#[test]
fn buffers_are_programmed() {
    let chip = chip(&vec![0xff; SIZE as usize]);
    chip.write(0x2000, &[0xe8]);
    assert_eq!(chip.read(0x2000), 0x80, "the buffer is free");
    chip.write(0x2000, &[3]);
    for (offset, byte) in [(0x2004, 1), (0x2005, 2), (0x2006, 3), (0x2007, 4)] {
        chip.write(offset, &[byte]);
    }
    chip.write(0x2000, &[0xd0, 0xff]);
    assert_eq!(
        [0x2003, 0x2004, 0x2005, 0x2006, 0x2007, 0x2008].map(|at| chip.seen(at).unwrap()),
        [0xff, 1, 2, 3, 4, 0xff]
    );
    // More than it holds, no confirmation, and an erasure that is not confirmed.
    for sequence in [&[0xe8, 32][..], &[0xe8, 0, 5, 0xff], &[0x20, 0xff]] {
        chip.write(0x3000, sequence);
        assert_eq!(chip.read(0x3000), 0xb0, "{sequence:x?}");
        chip.write(0x3000, &[0x50, 0xff]);
    }
    assert_eq!(chip.seen(0x3000), Some(0xff));
}

#[test]
fn it_says_what_it_is() {
    let chip = chip(&content());
    chip.write(0x55, &[0x98]);
    assert_eq!([0x10, 0x11, 0x12, 0x27, 0x2d, 0x2f].map(|at| chip.read(at)), [b'Q', b'R', b'Y', 14, 3, 0x10]);
    chip.write(0, &[0x90]);
    assert_eq!([0, 1, 2].map(|at| chip.read(at)), [0x89, 0x16, 0]);
    chip.chip.lock().unwrap().reset();
    assert_eq!(chip.seen(0x10), Some(1));
}

#[test]
fn a_state_brings_its_content_along() {
    let (from, to) = (chip(&content()), chip(&vec![0xff; SIZE as usize]));
    from.write(0x1010, &[0x20, 0xd0, 0x40]);
    let state = from.chip.lock().unwrap().save().unwrap();
    to.chip.lock().unwrap().load(1, state.clone()).unwrap();
    assert_eq!((to.read(0), to.put().len()), (0x80, 3));
    to.write(0x1010, &[0x12]);
    to.write(0, &[0xff]);
    assert_eq!([0x1000, 0x1010, 0x2345].map(|at| to.seen(at).unwrap()), [0xff, 0x12, 0x34]);
    assert!(to.chip.lock().unwrap().load(2, state).is_err());
    let small = memory().store("variables").unwrap();
    assert!(CfiFlash::build(small, START..START + SIZE, &[0; 4096], None, || {}).is_err());
}
