use memory::{Kind, Region};

use super::descriptor::{INDIRECT, NEXT, WRITE};
use super::*;

const RAM: u64 = 1 << 20;
const TABLE: u64 = 0x1000;
const DRIVER: u64 = 0x2000;
const DEVICE: u64 = 0x3000;
const ELSEWHERE: u64 = 0x8000;

struct Bench {
    memory: GuestMemory,
    queue: Queue,
    size: u16,
}

impl Bench {
    fn new(size: u16, features: u64) -> Self {
        let memory = GuestMemory::new(&[Region { start: Gpa(0), len: RAM, kind: Kind::Ram }]).unwrap();
        let mut queue = Queue::new(memory.clone(), 256);
        queue.configure(|state| {
            *state = QueueState { size, descriptors: TABLE, driver: DRIVER, device: DEVICE, layout: None };
        });
        queue.enable(features);
        assert!(queue.is_enabled());
        Self { memory, queue, size }
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        self.memory.write(Gpa(at), bytes).unwrap();
    }

    fn u16(&self, at: u64) -> u16 {
        u16::from_le_bytes(self.memory.read_array(Gpa(at)).unwrap())
    }

    /// A descriptor of either layout: the last two fields are what they are there.
    fn descriptor(&self, table: u64, index: u64, at: u64, len: u32, last: (u16, u16)) {
        self.put(table + 16 * index, &at.to_le_bytes());
        self.put(table + 16 * index + 8, &len.to_le_bytes());
        self.put(table + 16 * index + 12, &last.0.to_le_bytes());
        self.put(table + 16 * index + 14, &last.1.to_le_bytes());
    }

    /// Makes the chain at `head` of a split queue available, as number `n` of all.
    fn available(&self, n: u16, head: u16) {
        self.put(DRIVER + 4 + 2 * u64::from(n % self.size), &head.to_le_bytes());
        self.put(DRIVER + 2, &n.wrapping_add(1).to_le_bytes());
    }

    fn broken(&mut self) -> Broken {
        self.queue.take().unwrap_err()
    }

    fn chain(&mut self) -> Chain {
        self.queue.take().unwrap().unwrap()
    }
}

fn segments(buffers: Buffers) -> Vec<(u64, u64)> {
    buffers.into_segments().iter().map(|segment| (segment.at.0, segment.len)).collect()
}

#[test]
fn a_split_queue_gives_chains_and_takes_them_back_in_any_order() {
    let mut bench = Bench::new(4, 0);
    assert_eq!(bench.queue.take(), Ok(None));
    bench.descriptor(TABLE, 0, 0x5000, 16, (NEXT, 2));
    bench.descriptor(TABLE, 2, 0x6000, 32, (NEXT | WRITE, 3));
    bench.descriptor(TABLE, 3, 0x7000, 1, (WRITE, 9));
    bench.descriptor(TABLE, 1, 0x9000, 5, (0, 0));
    bench.available(0, 0);
    bench.available(1, 1);
    let (first, second) = (bench.chain(), bench.chain());
    assert_eq!(bench.queue.take(), Ok(None));
    assert_eq!(segments(first.readable), [(0x5000, 16)]);
    assert_eq!(segments(first.writable), [(0x6000, 32), (0x7000, 1)]);
    assert_eq!(segments(second.readable), [(0x9000, 5)]);
    assert!(!bench.queue.take_interrupt().unwrap());
    bench.queue.finish(second.token, 0).unwrap();
    bench.queue.finish(first.token, 33).unwrap();
    assert_eq!(bench.u16(DEVICE + 2), 2);
    let used: [u8; 16] = bench.memory.read_array(Gpa(DEVICE + 4)).unwrap();
    assert_eq!(used, [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 33, 0, 0, 0]);
    assert!(bench.queue.take_interrupt().unwrap() && !bench.queue.take_interrupt().unwrap());
    // The driver wants no interrupts.
    bench.put(DRIVER, &1u16.to_le_bytes());
    bench.available(2, 1);
    let third = bench.chain();
    bench.queue.finish(third.token, 0).unwrap();
    assert!(!bench.queue.take_interrupt().unwrap());
    // Notifications.
    bench.queue.hush().unwrap();
    assert_eq!(bench.u16(DEVICE), 1);
    assert!(!bench.queue.ask().unwrap());
    assert_eq!(bench.u16(DEVICE), 0);
    bench.available(3, 1);
    assert!(bench.queue.ask().unwrap());
}

#[test]
fn a_split_queue_goes_round_and_its_indices_wrap() {
    let mut bench = Bench::new(8, feature::EVENT_IDX);
    bench.descriptor(TABLE, 5, 0x5000, 16, (WRITE, 0));
    for n in 0..70_000u32 {
        bench.available(n as u16, 5);
        let chain = bench.chain();
        bench.queue.finish(chain.token, n).unwrap();
        assert_eq!(bench.u16(DEVICE + 2), (n + 1) as u16);
        let at = DEVICE + 4 + 8 * u64::from(n % 8);
        assert_eq!(bench.memory.read_array::<8>(Gpa(at)).unwrap(), (5 | u64::from(n) << 32).to_le_bytes());
    }
}

#[test]
fn a_split_queue_interrupts_at_the_event_that_the_driver_waits_for() {
    let mut bench = Bench::new(8, feature::EVENT_IDX);
    bench.descriptor(TABLE, 0, 0x5000, 16, (WRITE, 0));
    let event = DRIVER + 4 + 2 * 8;
    let mut n = 0;
    let mut use_some = |bench: &mut Bench, count: u16| {
        for _ in 0..count {
            bench.available(n, 0);
            let chain = bench.chain();
            bench.queue.finish(chain.token, 0).unwrap();
            n += 1;
        }
        bench.queue.take_interrupt().unwrap()
    };
    assert!(use_some(&mut bench, 1), "the first one of all is told");
    bench.put(event, &3u16.to_le_bytes());
    assert!(!use_some(&mut bench, 2));
    assert!(use_some(&mut bench, 1), "the fourth one is number 3");
    assert!(!use_some(&mut bench, 1), "only once");
    bench.put(event, &6u16.to_le_bytes());
    assert!(use_some(&mut bench, 4), "passed in the middle of several");
    // The device says for which one it wants to be notified.
    assert!(!bench.queue.ask().unwrap());
    assert_eq!(bench.u16(DEVICE + 4 + 8 * 8), n);
}

#[test]
fn hostile_split_queues_are_broken() {
    let new = || Bench::new(4, feature::INDIRECT_DESC);
    let broken = |prepare: &dyn Fn(&Bench)| {
        let mut bench = new();
        prepare(&bench);
        bench.available(0, 0);
        bench.broken()
    };
    assert_eq!(broken(&|b| b.descriptor(TABLE, 0, 0, 16, (NEXT, 0))), Broken::Long);
    let circle = |b: &Bench| {
        b.descriptor(TABLE, 0, 0, 16, (NEXT, 1));
        b.descriptor(TABLE, 1, 0, 0, (NEXT, 0));
    };
    assert_eq!(broken(&circle), Broken::Long);
    assert_eq!(broken(&|b| b.descriptor(TABLE, 0, 0, 16, (NEXT, 4))), Broken::Index { index: 4 });
    let order = |b: &Bench| {
        b.descriptor(TABLE, 0, 0, 16, (NEXT | WRITE, 1));
        b.descriptor(TABLE, 1, 0, 16, (0, 0));
    };
    assert_eq!(broken(&order), Broken::Order);
    assert_eq!(broken(&|b| b.descriptor(TABLE, 0, 0, 16, (INDIRECT | NEXT, 1))), Broken::Table);
    assert_eq!(broken(&|b| b.descriptor(TABLE, 0, ELSEWHERE, 17, (INDIRECT, 0))), Broken::Table);
    assert_eq!(broken(&|b| b.descriptor(TABLE, 0, ELSEWHERE, 0, (INDIRECT, 0))), Broken::Table);
    assert_eq!(broken(&|b| b.descriptor(TABLE, 0, ELSEWHERE, 16 * 1025, (INDIRECT, 0))), Broken::Long);
    let nested = |b: &Bench| {
        b.descriptor(TABLE, 0, ELSEWHERE, 16, (INDIRECT, 0));
        b.descriptor(ELSEWHERE, 0, ELSEWHERE, 16, (INDIRECT, 0));
    };
    assert_eq!(broken(&nested), Broken::Table);
    let outside = |b: &Bench| b.descriptor(TABLE, 0, RAM - 8, 16, (INDIRECT, 0));
    assert_eq!(broken(&outside), Broken::Memory { at: Gpa(RAM - 8) });
    let looped = |b: &Bench| {
        b.descriptor(TABLE, 0, ELSEWHERE, 32, (INDIRECT, 0));
        b.descriptor(ELSEWHERE, 0, 0, 1, (NEXT, 0));
    };
    assert_eq!(broken(&looped), Broken::Long);
    // Indirect tables that were not agreed on.
    let mut bench = Bench::new(4, 0);
    bench.descriptor(TABLE, 0, ELSEWHERE, 16, (INDIRECT, 0));
    bench.available(0, 0);
    assert_eq!(bench.broken(), Broken::Table);
    // A head beyond the table, an index that jumps, more than there is room for.
    let mut bench = new();
    bench.available(0, 4);
    assert_eq!(bench.broken(), Broken::Index { index: 4 });
    let mut bench = new();
    bench.put(DRIVER + 2, &5u16.to_le_bytes());
    assert_eq!(bench.broken(), Broken::Jump { index: 5 });
    let mut bench = new();
    for n in 0..4 {
        bench.available(n, 0);
        bench.chain();
    }
    bench.available(4, 0);
    assert_eq!(bench.broken(), Broken::Full);
    // Rings outside of memory.
    for at in [RAM - 1, u64::MAX - 1, 1 << 62] {
        let mut queue = Queue::new(bench.memory.clone(), 256);
        queue.configure(|state| (state.driver, state.descriptors, state.device) = (at, at, at));
        queue.enable(0);
        assert!(matches!(queue.take(), Err(Broken::Memory { .. })));
        assert!(queue.ask().is_err() && queue.finish(Token { id: 0, places: 1 }, 0).is_err());
    }
}

#[test]
fn an_indirect_table_is_one_chain() {
    let mut bench = Bench::new(4, feature::INDIRECT_DESC);
    bench.descriptor(TABLE, 0, 0x5000, 16, (NEXT, 1));
    bench.descriptor(TABLE, 1, ELSEWHERE, 16 * 600, (INDIRECT, 0));
    for n in 0..600 {
        bench.descriptor(
            ELSEWHERE,
            n,
            0x4_0000 + 32 * n,
            32,
            (if n == 599 { WRITE } else { WRITE | NEXT }, n as u16 + 1),
        );
    }
    bench.available(0, 0);
    let chain = bench.chain();
    assert_eq!((chain.readable.len(), chain.writable.len()), (16, 600 * 32));
}

/// The flags of a descriptor that is available in the first round, or in the second.
const FIRST: u16 = 1 << 7;
const SECOND: u16 = 1 << 15;

#[test]
fn a_packed_queue_gives_chains_and_takes_them_back_in_any_order() {
    let mut bench = Bench::new(5, feature::PACKED | feature::INDIRECT_DESC);
    assert_eq!(bench.queue.take(), Ok(None));
    bench.descriptor(TABLE, 0, 0x5000, 16, (0, FIRST | NEXT));
    bench.descriptor(TABLE, 1, 0x6000, 32, (7, FIRST | WRITE));
    bench.descriptor(ELSEWHERE, 0, 0x7000, 3, (0, 0));
    bench.descriptor(ELSEWHERE, 1, 0x7100, 4, (0, WRITE));
    bench.descriptor(TABLE, 2, ELSEWHERE, 32, (8, FIRST | INDIRECT));
    let (first, second) = (bench.chain(), bench.chain());
    assert_eq!(bench.queue.take(), Ok(None));
    assert_eq!((segments(first.readable), segments(first.writable)), (vec![(0x5000, 16)], vec![(0x6000, 32)]));
    assert_eq!((segments(second.readable), segments(second.writable)), (vec![(0x7000, 3)], vec![(0x7100, 4)]));
    bench.queue.finish(second.token, 4).unwrap();
    let used: [u8; 8] = bench.memory.read_array(Gpa(TABLE + 8)).unwrap();
    assert_eq!(used, [4, 0, 0, 0, 8, 0, (WRITE & 0xff) as u8 | 0x80, 0x80]);
    bench.queue.finish(first.token, 0).unwrap();
    // It goes where the second one, which took one place, ends.
    let used: [u8; 8] = bench.memory.read_array(Gpa(TABLE + 16 + 8)).unwrap();
    assert_eq!(used, [0, 0, 0, 0, 7, 0, 0x80, 0x80]);
    // Round the corner: a chain of three from the fourth place on.
    for n in [3, 4] {
        bench.descriptor(TABLE, n, 0x5000, 16, (0, FIRST | NEXT));
    }
    bench.descriptor(TABLE, 0, 0x5000, 16, (2, SECOND));
    let third = bench.chain();
    assert_eq!(third.readable.len(), 48);
    bench.queue.finish(third.token, 0).unwrap();
    assert_eq!(bench.u16(TABLE + 16 * 3 + 14), FIRST | SECOND);
    bench.descriptor(TABLE, 1, 0x5000, 16, (3, SECOND));
    let fourth = bench.chain();
    bench.queue.finish(fourth.token, 0).unwrap();
    assert_eq!(bench.u16(TABLE + 16 + 14), 0, "used in the second round");
}

#[test]
fn a_packed_queue_interrupts_at_the_event_that_the_driver_waits_for() {
    let mut bench = Bench::new(4, feature::PACKED | feature::EVENT_IDX);
    let mut n = 0u16;
    let mut use_some = |bench: &mut Bench, count: u16| {
        for _ in 0..count {
            let round = if (n / 4).is_multiple_of(2) { FIRST } else { SECOND };
            bench.descriptor(TABLE, u64::from(n % 4), 0x5000, 16, (0, round));
            let chain = bench.chain();
            bench.queue.finish(chain.token, 0).unwrap();
            n += 1;
        }
        bench.queue.take_interrupt().unwrap()
    };
    let wait_for = |bench: &Bench, index: u16, wrap: bool| {
        bench.put(DRIVER, &(index | u16::from(wrap) << 15).to_le_bytes());
        bench.put(DRIVER + 2, &2u16.to_le_bytes());
    };
    assert!(use_some(&mut bench, 1), "the first one of all is told");
    wait_for(&bench, 2, true);
    assert!(!use_some(&mut bench, 1));
    assert!(use_some(&mut bench, 1));
    wait_for(&bench, 0, false);
    assert!(!use_some(&mut bench, 1), "the last place of the first round");
    assert!(use_some(&mut bench, 1), "the first place of the second round");
    wait_for(&bench, 3, false);
    assert!(use_some(&mut bench, 4), "passed on the way round");
    bench.put(DRIVER + 2, &1u16.to_le_bytes());
    assert!(!use_some(&mut bench, 1));
    bench.put(DRIVER + 2, &0u16.to_le_bytes());
    assert!(use_some(&mut bench, 1));
    // The device says for which one it wants to be notified.
    assert!(!bench.queue.ask().unwrap());
    assert_eq!((bench.u16(DEVICE), bench.u16(DEVICE + 2)), ((n % 4) | (u16::from((n / 4).is_multiple_of(2)) << 15), 2));
}

#[test]
fn hostile_packed_queues_are_broken() {
    let new = || Bench::new(4, feature::PACKED | feature::INDIRECT_DESC);
    let mut bench = new();
    for n in 0..4 {
        bench.descriptor(TABLE, n, 0x5000, 16, (0, FIRST | NEXT));
    }
    assert_eq!(bench.broken(), Broken::Long);
    let mut bench = new();
    bench.descriptor(TABLE, 0, ELSEWHERE, 16, (0, FIRST | INDIRECT | NEXT));
    assert_eq!(bench.broken(), Broken::Table);
    let mut bench = new();
    bench.descriptor(TABLE, 0, ELSEWHERE, 32, (0, FIRST | INDIRECT));
    bench.descriptor(ELSEWHERE, 0, 0x5000, 16, (0, WRITE));
    bench.descriptor(ELSEWHERE, 1, 0x5000, 16, (0, 0));
    assert_eq!(bench.broken(), Broken::Order);
    // All places are taken, and the driver makes one available again.
    let mut bench = new();
    for n in 0..4 {
        bench.descriptor(TABLE, n, 0x5000, 16, (n as u16, FIRST));
        bench.chain();
    }
    bench.descriptor(TABLE, 0, 0x5000, 16, (0, SECOND));
    assert_eq!(bench.broken(), Broken::Full);
}

#[test]
fn a_state_goes_on_where_it_was() {
    for features in [feature::EVENT_IDX, feature::EVENT_IDX | feature::PACKED] {
        let mut bench = Bench::new(4, features);
        let packed = features & feature::PACKED != 0;
        bench.descriptor(TABLE, 0, 0x5000, 16, if packed { (0, FIRST) } else { (0, 0) });
        bench.descriptor(TABLE, 1, 0x6000, 16, if packed { (1, FIRST) } else { (0, 0) });
        bench.available(0, 0);
        let chain = bench.chain();
        bench.queue.finish(chain.token, 0).unwrap();
        let state = bench.queue.state().clone();
        let mut other = Queue::new(bench.memory.clone(), 256);
        assert!(other.fits(&state, features) && !other.fits(&state, features ^ feature::PACKED));
        other.restore(state.clone(), features);
        assert_eq!(*other.state(), state);
        bench.available(1, 1);
        assert_eq!(segments(other.take().unwrap().unwrap().readable), [(0x6000, 16)]);
        assert!(!other.fits(&QueueState { size: 512, ..state.clone() }, features));
        assert!(!Queue::new(bench.memory.clone(), 2).fits(&state, features));
    }
}

#[test]
fn buffers_come_apart_anywhere() {
    let memory = GuestMemory::new(&[Region { start: Gpa(0), len: RAM, kind: Kind::Ram }]).unwrap();
    let mut all = Buffers::default();
    [(0x100, 10), (0x200, 0), (0x300, 20)].iter().for_each(|(at, len)| all.push(Gpa(*at), *len));
    assert_eq!(all.write(&memory, &(0..40).collect::<Vec<_>>()), Ok(30));
    assert_eq!(all.read(&memory, 12), Ok((0..12).collect()));
    let mut rest = all.clone();
    assert_eq!(segments(rest.take_front(12)), [(0x100, 10), (0x300, 2)]);
    assert_eq!(segments(rest.take_back(1)), [(0x313, 1)]);
    assert_eq!(segments(rest.clone()), [(0x302, 17)]);
    assert_eq!(segments(rest.take_back(100)), [(0x302, 17)]);
    assert!(rest.is_empty() && rest.take_front(1).is_empty());
    assert_eq!(segments(all.take_front(10)), [(0x100, 10)]);
}
