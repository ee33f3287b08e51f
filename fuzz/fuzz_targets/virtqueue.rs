//! Hostile virtqueues: whatever is in the rings, and in the tables that they lead to, a queue gives chains within its bounds
//! or says what is broken; it never panics.
#![no_main]

use devices::virtio::{Queue, QueueState};
use memory::{Gpa, GuestMemory, Kind, Region};

const RAM: u64 = 64 << 10;

libfuzzer_sys::fuzz_target!(|input: (u8, u16, [u32; 3], &[u8])| {
    let (choice, size, areas, content) = input;
    let memory = GuestMemory::new(&[Region { start: Gpa(0), len: RAM, kind: Kind::Ram }]).expect("64 KiB");
    let content = &content[..content.len().min(RAM as usize)];
    memory.write(Gpa(0), content).expect("it fits");
    // Indirect tables, the event index, the packed layout.
    let bits = [(1, 1 << 28), (2, 1 << 29), (4, 1 << 34)];
    let features: u64 = bits.iter().filter(|(bit, _)| choice & bit != 0).map(|(_, feature)| feature).sum();
    let mut queue = Queue::new(memory.clone(), 256);
    queue.configure(|state: &mut QueueState| {
        state.size = if choice & 8 == 0 { 1 << (size % 9) } else { size };
        // Inside of memory, or near the end of all addresses.
        let [descriptors, driver, device] =
            areas.map(|area| if choice & 16 == 0 { u64::from(area) % RAM } else { u64::MAX - u64::from(area) % 64 });
        (state.descriptors, state.driver, state.device) = (descriptors, driver, device);
    });
    queue.enable(features);
    let mut taken = Vec::new();
    for round in 0..1024u32 {
        match queue.take() {
            Ok(Some(chain)) => {
                let _ = chain.readable.read(&memory, 4096);
                let _ = chain.writable.write(&memory, &content[..content.len().min(64)]);
                taken.push(chain.token);
                assert!(taken.len() <= usize::from(queue.size()), "more under way than the ring has places");
            }
            Ok(None) => {
                let _ = queue.ask();
                let Some(token) = taken.pop() else { return };
                let _ = queue.finish(token, round);
            }
            Err(_) => break,
        }
        let _ = queue.take_interrupt();
    }
    taken.into_iter().for_each(|token| _ = queue.finish(token, 1));
    let state = queue.state().clone();
    let mut other = Queue::new(memory, 256);
    if other.fits(&state, features) {
        other.restore(state.clone(), features);
        assert_eq!(*other.state(), state);
    }
});
