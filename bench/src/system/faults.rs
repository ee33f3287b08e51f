//! Memory that the kernel gives, shares, protects and takes back.

use std::os::fd::AsRawFd;

use super::{call, place};
use crate::workload::{Unit, Workload, mix};

pub(super) const ALL: &[Workload] = &[
    Workload::new("page-faults", "maps 8 MiB, touches each page, unmaps", touch),
    Workload::new("small-maps", "1,500 mappings of one page, touched and unmapped", small),
    Workload::new("mprotect", "3,000 times the rights of a page, with a read and a write between", rights),
    Workload::new("map-file", "a file of 2 MiB in memory, mapped and read page by page", file),
    Workload::new("grow-heap", "a vector that grows to 8 MiB by moving", grow),
    Workload::new("madvise", "pages given back with MADV_DONTNEED and touched again", advise),
    Workload::new("many-pages", "reads across 2,048 mapped pages in random order: the TLB", wide),
];

const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;

/// Writes to each page and returns the sum of what is there.
fn each_page(place: *mut u8, pages: usize) -> u64 {
    (0..pages)
        .map(|page| {
            // SAFETY: callers name pages of a mapping of theirs.
            unsafe {
                let cell = place.add(page * 4096 + 8);
                cell.write_volatile(page as u8);
                u64::from(cell.read_volatile())
            }
        })
        .sum()
}

fn touch() -> Unit {
    Box::new(|| {
        let place = call::map(8 << 20, RW);
        // SAFETY: the mapping is this function's own. Small pages, however the system is set up.
        unsafe { libc::madvise(place.cast(), 8 << 20, libc::MADV_NOHUGEPAGE) };
        let sum = each_page(place, 2048);
        call::unmap(place, 8 << 20);
        sum
    })
}

fn small() -> Unit {
    Box::new(|| {
        let sums = (0..1_500).map(|_| {
            let place = call::map(4096, RW);
            let sum = each_page(place, 1) + 1;
            call::unmap(place, 4096);
            sum
        });
        sums.sum()
    })
}

fn rights() -> Unit {
    let place = call::map(16 * 4096, RW);
    Box::new(move || {
        let mut sum = 0;
        for n in 0..1_500usize {
            // SAFETY: inside of the mapping, with the rights of the moment.
            unsafe {
                let page = place.add(n % 16 * 4096);
                call::protect(page, 4096, libc::PROT_READ);
                sum += u64::from(page.add(9).read_volatile());
                call::protect(page, 4096, RW);
                page.add(9).write_volatile(n as u8);
            }
        }
        // SAFETY: as above; each unit begins alike.
        (0..16).for_each(|page| unsafe { place.add(page * 4096 + 9).write_volatile(0) });
        sum
    })
}

fn file() -> Unit {
    let path = place::folder().join("mapped");
    std::fs::write(&path, vec![3u8; 2 << 20]).expect("room for a file");
    Box::new(move || {
        let file = std::fs::File::open(&path).expect("it was written");
        let place = call::map_as(2 << 20, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd());
        // SAFETY: inside of the mapping.
        let sum = (0..512).map(|page| u64::from(unsafe { place.add(page * 4096).read_volatile() })).sum();
        call::unmap(place, 2 << 20);
        sum
    })
}

fn grow() -> Unit {
    Box::new(|| {
        let mut list: Vec<u64> = Vec::new();
        for n in 0..1 << 20 {
            list.push(n * 3);
        }
        list.iter().step_by(1001).fold(0, |sum, x| mix(sum, *x))
    })
}

fn advise() -> Unit {
    let place = call::map(1 << 20, RW);
    Box::new(move || {
        let rounds = (0..6).map(|_| {
            let sum = each_page(place, 256);
            // SAFETY: a mapping of this workload's own; its content may go.
            call::checked("madvise", unsafe { libc::madvise(place.cast(), 1 << 20, libc::MADV_DONTNEED) });
            sum
        });
        rounds.sum()
    })
}

fn wide() -> Unit {
    let place = call::map(8 << 20, RW);
    each_page(place, 2048);
    Box::new(move || {
        let mut page = 1usize;
        (0..400_000).fold(0u64, |sum, _| {
            page = (page * 1_103 + 12_345) & 2047;
            // SAFETY: inside of the mapping.
            sum.rotate_left(1) ^ u64::from(unsafe { place.add(page * 4096 + page).read() })
        })
    })
}
