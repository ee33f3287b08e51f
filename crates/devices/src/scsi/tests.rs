use ::disk::Info;

use super::*;
use crate::block::{Data, Operation, Request};

const BLOCKS: u64 = 0x1_0000;

fn target_with(change: impl FnOnce(&mut Info)) -> Target {
    let mut info = Info::new("disk".into(), "raw", BLOCKS * 512);
    change(&mut info);
    let mut target = Target::default();
    target.add(0, ScsiDisk::new(&info, "SERIAL".into()));
    assert_eq!(run(&mut target, &[0; 6]), Step::Refused(Sense::RESET));
    target
}

fn target() -> Target {
    target_with(|_| {})
}

fn run(target: &mut Target, cdb: &[u8]) -> Step {
    run_with(target, cdb, &[])
}

fn run_with(target: &mut Target, cdb: &[u8], out: &[u8]) -> Step {
    target.execute(0, cdb, &mut |len| out[..len.min(out.len())].to_vec())
}

fn data(target: &mut Target, cdb: &[u8]) -> Vec<u8> {
    match run(target, cdb) {
        Step::Done(data) => data,
        other => panic!("{other:?}"),
    }
}

fn flush() -> Step {
    Step::Work(vec![Request { offset: 0, operation: Operation::Flush }])
}

#[test]
fn a_disk_says_what_it_is() {
    let mut target = target();
    let inquiry = data(&mut target, &[0x12, 0, 0, 0, 96, 0]);
    assert_eq!((inquiry.len(), inquiry[0], inquiry[2], inquiry[4]), (36, 0, 6, 31));
    assert_eq!(data(&mut target, &[0x12, 0, 0, 0, 5, 0]).len(), 5);
    for page in data(&mut target, &[0x12, 1, 0, 0, 255, 0]).split_off(4) {
        let page_data = data(&mut target, &[0x12, 1, page, 0, 255, 0]);
        assert_eq!((page_data[1], page_data[3] as usize), (page, page_data.len() - 4));
    }
    assert_eq!(&data(&mut target, &[0x12, 1, 0x80, 0, 255, 0])[4..], b"SERIAL");
    assert_eq!(&data(&mut target, &[0x12, 1, 0x83, 0, 255, 0])[8..], b"HUSK    SERIAL");
    assert_eq!(run(&mut target, &[0x12, 1, 0x55, 0, 255, 0]), Step::Refused(Sense::FIELD));
    assert_eq!(run(&mut target, &[0x12, 0, 0x80, 0, 255, 0]), Step::Refused(Sense::FIELD));
    assert_eq!(data(&mut target, &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0]), [0, 0, 0xff, 0xff, 0, 0, 2, 0]);
    let capacity = data(&mut target, &[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0]);
    assert_eq!((&capacity[..12], capacity[13]), (&[0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 2, 0][..], 3));
    assert_eq!(
        run(&mut target, &[0x9e, 0x11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0]),
        Step::Refused(Sense::NO_COMMAND)
    );
    let mut large = target_with(|info| info.size = 4 << 40);
    assert_eq!(data(&mut large, &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0])[..4], [0xff; 4]);
    let mut wide = target_with(|info| info.logical_block = 4096);
    assert_eq!(data(&mut wide, &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0]), [0, 0, 0x1f, 0xff, 0, 0, 0x10, 0]);
    assert_eq!(run(&mut wide, &[0x28, 0, 0, 0, 0, 2, 0, 0, 3, 0]), Step::Read { offset: 8192, len: 12288 });
}

#[test]
fn blocks_are_read_and_written_by_commands_of_all_lengths() {
    let mut target = target();
    let (offset, len) = (0x123 * 512, 0x10 * 512);
    let commands: [&[u8]; 4] = [
        &[0x08, 0, 1, 0x23, 0x10, 0],
        &[0x28, 0, 0, 0, 1, 0x23, 0, 0, 0x10, 0],
        &[0xa8, 0, 0, 0, 1, 0x23, 0, 0, 0, 0x10, 0, 0],
        &[0x88, 0, 0, 0, 0, 0, 0, 0, 1, 0x23, 0, 0, 0, 0x10, 0, 0],
    ];
    for cdb in commands {
        assert_eq!(run(&mut target, cdb), Step::Read { offset, len });
        let mut write = cdb.to_vec();
        write[0] += 2;
        assert_eq!(run(&mut target, &write), Step::Write { offset, len, durable: false });
        if cdb.len() > 6 {
            write[1] |= 8;
            assert_eq!(run(&mut target, &write), Step::Write { offset, len, durable: true }, "FUA");
            // WRITE AND VERIFY.
            write[0] += 4;
            write[1] = 0;
            assert_eq!(run(&mut target, &write), Step::Write { offset, len, durable: true });
            write[0] += 1;
            assert_eq!(run(&mut target, &write), Step::Done(Vec::new()), "VERIFY");
        }
    }
    assert_eq!(run(&mut target, &[0x08, 0, 0, 0, 0, 0]), Step::Read { offset: 0, len: 256 * 512 });
    assert_eq!(run(&mut target, &[0x28, 0, 0, 0, 0, 0, 0, 0, 0, 0]), Step::Done(Vec::new()));
    assert_eq!(run(&mut target, &[0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0]), flush());
}

#[test]
fn the_disk_has_an_end() {
    let mut target = target();
    let beyond = Step::Refused(Sense::BEYOND);
    assert_eq!(run(&mut target, &[0x28, 0, 0, 0, 0xff, 0xff, 0, 0, 2, 0]), beyond);
    assert_eq!(run(&mut target, &[0x28, 0, 0, 1, 0, 0, 0, 0, 0, 0]), Step::Done(Vec::new()), "nothing at the end");
    assert_eq!(run(&mut target, &[0x28, 0, 0, 1, 0, 1, 0, 0, 0, 0]), beyond);
    for op in [0x88, 0x8a, 0x91, 0x8f] {
        let mut cdb = [0xff; 16];
        (cdb[0], cdb[1]) = (op, 0);
        assert_eq!(run(&mut target, &cdb), beyond, "{op:#x}");
    }
}

#[test]
fn what_is_not_needed_is_unmapped() {
    let mut target = target();
    let list = |ranges: &[(u64, u32)]| {
        let mut list = vec![0; 8];
        list[3] = 16 * ranges.len() as u8;
        for (first, count) in ranges {
            list.extend(first.to_be_bytes());
            list.extend(count.to_be_bytes());
            list.extend([0; 4]);
        }
        list
    };
    let cdb = |len: usize| [0x42, 0, 0, 0, 0, 0, 0, 0, len as u8, 0];
    let two = list(&[(1, 2), (7, 0), (8, 1)]);
    let discard =
        |first: u64, count: u64| Request { offset: first * 512, operation: Operation::Discard { len: count * 512 } };
    assert_eq!(run_with(&mut target, &cdb(56), &two), Step::Work(vec![discard(1, 2), discard(8, 1)]));
    assert_eq!(run_with(&mut target, &cdb(0), &two), Step::Done(Vec::new()));
    assert_eq!(run_with(&mut target, &cdb(60), &two), Step::Refused(Sense::PARAMETER_LENGTH));
    assert_eq!(run_with(&mut target, &cdb(24), &list(&[(BLOCKS, 1)])), Step::Refused(Sense::BEYOND));
    assert_eq!(run_with(&mut target, &cdb(24), &list(&[(u64::MAX, 5)])), Step::Refused(Sense::BEYOND));
    assert_eq!(run_with(&mut target, &cdb(24), &list(&[(0, u32::MAX)])), Step::Refused(Sense::PARAMETER));
}

#[test]
fn the_same_is_written_over_and_over() {
    let mut target = target();
    let zero = Step::Work(vec![Request { offset: 1024, operation: Operation::Zero { len: 1536 } }]);
    let ten = |flags| [0x41, flags, 0, 0, 0, 2, 0, 0, 3, 0];
    assert_eq!(run_with(&mut target, &ten(0), &[0; 512]), zero);
    assert_eq!(run_with(&mut target, &ten(8), &[0; 512]), zero);
    let sixteen = [0x93, 8 | 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0];
    assert_eq!(run(&mut target, &sixteen), zero, "without data");
    let written = Operation::Write { data: Data::Bytes(vec![5; 1536]), durable: false };
    let written = Step::Work(vec![Request { offset: 1024, operation: written }]);
    assert_eq!(run_with(&mut target, &ten(0), &[5; 512]), written);
    assert_eq!(run_with(&mut target, &ten(8), &[5; 512]), Step::Refused(Sense::FIELD));
    assert_eq!(run_with(&mut target, &ten(0), &[5; 100]), Step::Refused(Sense::PARAMETER_LENGTH));
    let none = [0x41, 0, 0, 0, 0, 2, 0, 0, 0, 0];
    assert_eq!(run_with(&mut target, &none, &[0; 512]), Step::Refused(Sense::FIELD));
}

#[test]
fn modes_are_told_and_changed() {
    let mut target = target();
    let caching = data(&mut target, &[0x1a, 0, 8, 0, 255, 0]);
    assert_eq!((caching.len(), caching[0], caching[2], &caching[4..7]), (24, 23, 0x10, &[8, 18, 4][..]));
    assert_eq!(data(&mut target, &[0x5a, 0, 8, 0, 0, 0, 0, 0, 255, 0])[8..11], [8, 18, 4]);
    let all = data(&mut target, &[0x1a, 0, 0x3f, 0, 255, 0]);
    assert_eq!(all.len(), 4 + 12 + 20 + 12);
    assert_eq!(run(&mut target, &[0x1a, 0, 0xc8, 0, 255, 0]), Step::Refused(Sense::NO_SAVING));
    assert_eq!(run(&mut target, &[0x1a, 0, 0x1c, 0, 255, 0]), Step::Refused(Sense::FIELD));
    // The cache is turned off, which writes it out; then writes are durable.
    let mut page = vec![0; 4];
    page.extend(&caching[4..]);
    page[6] = 0;
    assert_eq!(run_with(&mut target, &[0x15, 0x10, 0, 0, 24, 0], &page), flush());
    assert_eq!(data(&mut target, &[0x1a, 0, 8, 0, 255, 0])[6], 0);
    let write = [0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0];
    assert_eq!(run(&mut target, &write), Step::Write { offset: 0, len: 512, durable: true });
    page[7] = 1;
    assert_eq!(run_with(&mut target, &[0x15, 0x10, 0, 0, 24, 0], &page), Step::Refused(Sense::PARAMETER));
    for len in 1..24 {
        let step = run_with(&mut target, &[0x15, 0x10, 0, 0, len, 0], &page);
        assert!(len == 4 || step == Step::Refused(Sense::PARAMETER_LENGTH), "{len}: {step:?}");
    }
    let state = target.state();
    target.reset(None);
    assert_eq!(run(&mut target, &[0; 6]), Step::Refused(Sense::RESET));
    assert_eq!(data(&mut target, &[0x1a, 0, 8, 0, 255, 0])[6], 4);
    target.restore(state);
    assert_eq!(data(&mut target, &[0x1a, 0, 8, 0, 255, 0])[6], 0);
}

#[test]
fn a_disk_that_cannot_be_written_is_protected() {
    let mut target = target_with(|info| info.read_only = true);
    assert_eq!(data(&mut target, &[0x1a, 0, 8, 0, 255, 0])[2], 0x90);
    for cdb in
        [[0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0], [0x41, 0, 0, 0, 0, 0, 0, 0, 1, 0], [0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0]]
    {
        assert_eq!(run(&mut target, &cdb), Step::Refused(Sense::PROTECTED), "{:#x}", cdb[0]);
    }
    assert_eq!(data(&mut target, &[0x12, 1, 0xb2, 0, 255, 0])[5], 0);
}

#[test]
fn attention_waits_for_a_command_that_can_tell() {
    let mut target = target();
    target.reset(Some(0));
    assert_eq!(data(&mut target, &[0x12, 0, 0, 0, 36, 0]).len(), 36);
    assert_eq!(data(&mut target, &[0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0]).len(), 16);
    let sense = data(&mut target, &[0x03, 0, 0, 0, 18, 0]);
    assert_eq!((sense[0], sense[2], sense[12]), (0x70, 6, 0x29));
    assert_eq!(data(&mut target, &[0x03, 1, 0, 0, 18, 0]), [0x72, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(run(&mut target, &[0; 6]), Step::Done(Vec::new()));
}

#[test]
fn no_command_panics() {
    let mut random = testkit::rig::Random::new(11);
    let mut target = target();
    for _ in 0..200_000 {
        let mut cdb = [0; 16];
        cdb[..8].copy_from_slice(&random.draw().to_le_bytes());
        cdb[8..].copy_from_slice(&random.draw().to_le_bytes());
        let out = vec![random.draw() as u8; random.below(1024) as usize];
        if let Step::Read { offset, len } | Step::Write { offset, len, .. } = run_with(&mut target, &cdb, &out) {
            assert!(offset + len <= BLOCKS * 512);
        }
    }
}
