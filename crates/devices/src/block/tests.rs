use disk::raw::Raw;
use memory::{Gpa, Kind, Region};
use testkit::folder::Folder;

use super::*;

const SIZE: usize = 8 << 20;

struct Bench {
    backend: Backend,
    memory: GuestMemory,
    _folder: Folder,
}

impl Bench {
    fn new(name: &str) -> Self {
        let folder = Folder::new(name);
        let path = folder.join("disk");
        std::fs::write(&path, vec![0; SIZE]).unwrap();
        let file = disk::file::HostFile::open(&path, disk::file::Access::Write).unwrap();
        let memory = GuestMemory::new(&[Region { start: Gpa(0), len: 4 << 20, kind: Kind::Ram }]).unwrap();
        let backend = Backend::new(Arc::new(Raw::new(Arc::new(file))), memory.clone(), "S1".into());
        Self { backend, memory, _folder: folder }
    }

    fn one(&self, offset: u64, operation: Operation) -> Result<Vec<u8>, Failure> {
        self.backend.start(7, Request { offset, operation });
        self.backend.drain();
        let mut finished = self.backend.take_finished();
        assert_eq!(finished.len(), 1);
        assert_eq!(finished[0].tag, 7);
        finished.remove(0).result
    }
}

fn segments(list: &[(u64, u64)]) -> Data {
    Data::Guest(list.iter().map(|&(at, len)| Segment { at: Gpa(at), len }).collect())
}

#[test]
fn what_is_scattered_comes_together() {
    let bench = Bench::new("scattered");
    let content: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    bench.memory.write(Gpa(0x1000), &content).unwrap();
    // One segment is longer than a batch, one empty, and the last ends in the middle of a sector.
    let from = segments(&[(0x1000, 100), (0x1000 + 100, 1_500_000), (0, 0), (0x1000 + 1_500_100, 1_499_900)]);
    assert_eq!(from.len(), 3_000_000);
    assert_eq!(bench.one(777, Operation::Write { data: from, durable: true }), Ok(Vec::new()));
    assert_eq!(bench.one(777, Operation::Read(Data::Bytes(vec![0; 3_000_000]))).unwrap(), content);
    bench.memory.write(Gpa(0), &vec![0; 4 << 20]).unwrap();
    assert!(bench.one(777, Operation::Read(segments(&[(0x20_0000, 1_000_000), (0x1000, 10)]))).is_ok());
    let mut back = vec![0; 1_000_000];
    bench.memory.read(Gpa(0x20_0000), &mut back).unwrap();
    assert_eq!(back, content[..1_000_000]);
    assert_eq!(bench.memory.read_array::<10>(Gpa(0x1000)).unwrap(), content[1_000_000..1_000_010]);
}

#[test]
fn what_is_erased_reads_as_zeros() {
    let bench = Bench::new("erased");
    let write = |bytes| Operation::Write { data: Data::Bytes(bytes), durable: false };
    bench.one(0, write(vec![1; 8192])).unwrap();
    bench.one(4096, Operation::Zero { len: 4096 }).unwrap();
    bench.one(0, Operation::Flush).unwrap();
    let read = bench.one(4095, Operation::Read(Data::Bytes(vec![7; 3]))).unwrap();
    assert_eq!(read, [1, 0, 0]);
    assert!(bench.one(0, Operation::Discard { len: 4096 }).is_ok());
}

#[test]
fn failures_are_told_apart() {
    let bench = Bench::new("failures");
    let end = SIZE as u64;
    assert_eq!(bench.one(end - 1, Operation::Read(Data::Bytes(vec![0; 2]))), Err(Failure::Beyond));
    assert_eq!(bench.one(u64::MAX, Operation::Read(segments(&[(0, 1 << 20), (0, 1)]))), Err(Failure::Beyond));
    assert_eq!(bench.one(0, Operation::Read(segments(&[(4 << 20, 512)]))), Err(Failure::Memory));
    let huge = Operation::Write { data: segments(&[(u64::MAX - 10, u64::MAX)]), durable: false };
    assert_eq!(bench.one(0, huge), Err(Failure::Memory));
}

#[test]
fn the_bell_rings_for_each_of_many_requests_at_once() {
    let bench = Bench::new("bell");
    let (sender, receiver) = std::sync::mpsc::channel();
    bench.backend.on_finished(move || sender.send(()).unwrap());
    for tag in 0..100 {
        bench
            .backend
            .start(tag, Request { offset: 4096 * tag, operation: Operation::Read(segments(&[(4096 * tag, 4096)])) });
    }
    let mut tags = Vec::new();
    while tags.len() < 100 {
        receiver.recv().unwrap();
        tags.extend(bench.backend.take_finished().into_iter().map(|done| done.tag));
    }
    tags.sort_unstable();
    assert_eq!(tags, (0..100).collect::<Vec<_>>());
}

#[test]
fn who_holds_the_lock_that_the_bell_wants_can_drain() {
    let bench = Bench::new("drain");
    let lock = Arc::new(Mutex::new(()));
    let wanted = Arc::clone(&lock);
    bench.backend.on_finished(move || drop(wanted.lock()));
    let held = lock.lock().unwrap();
    for tag in 0..100 {
        bench.backend.start(tag, Request { offset: 0, operation: Operation::Read(Data::Bytes(vec![0; 512])) });
    }
    bench.backend.drain();
    assert_eq!(bench.backend.take_finished().len(), 100);
    drop(held);
}
