//! Processes that wait for each other: pipes, sockets, events.

use std::ffi::c_int;

use super::call;
use crate::workload::{Unit, Workload, mix_bytes};

pub(super) const ALL: &[Workload] = &[
    Workload::new("pipe-ping-pong", "1,000 bytes to another process and back", || ping_pong(call::pipe, call::pipe)),
    Workload::new("socket-ping-pong", "1,000 bytes by a UNIX socket and back", socket_ping_pong),
    Workload::new("pipe-bulk", "8 MiB through a pipe to another process", || bulk(call::pipe)),
    Workload::new("socket-bulk", "8 MiB through a UNIX socket to another process", || {
        bulk(|| {
            let [a, b] = call::sockets();
            [a, b]
        })
    }),
    Workload::new("epoll", "16 event counters watched by epoll, 2,500 rounds", epoll),
    Workload::new("poll-select", "poll and select over 60 pipes, 1,500 rounds", poll),
    Workload::new("yield-processes", "two processes that yield to each other, 2,000 times", yields),
];

fn ping_pong(there: fn() -> [c_int; 2], back: fn() -> [c_int; 2]) -> Unit {
    Box::new(move || {
        let (there, back) = (there(), back());
        let child = call::child(|| {
            let mut byte = [0];
            for _ in 0..1_000 {
                call::read(there[0], &mut byte);
                call::write(back[1], &[byte[0].wrapping_mul(3)]);
            }
            0
        });
        let mut byte = [1];
        for n in 0..1_000u32 {
            call::write(there[1], &[byte[0] ^ n as u8]);
            call::read(back[0], &mut byte);
        }
        call::wait_well(child);
        call::close(&[there, back].concat());
        u64::from(byte[0])
    })
}

fn socket_ping_pong() -> Unit {
    Box::new(|| {
        let [a, b] = call::sockets();
        let child = call::child(|| {
            let mut byte = [0];
            for _ in 0..1_000 {
                call::read(b, &mut byte);
                call::write(b, &[byte[0].wrapping_mul(5)]);
            }
            0
        });
        let mut byte = [1];
        for n in 0..1_000u32 {
            call::write(a, &[byte[0] ^ n as u8]);
            call::read(a, &mut byte);
        }
        call::wait_well(child);
        call::close(&[a, b]);
        u64::from(byte[0])
    })
}

fn bulk(ends: fn() -> [c_int; 2]) -> Unit {
    Box::new(move || {
        let [from, to] = ends();
        let child = call::child(|| {
            let block: Vec<u8> = (0..32 << 10).map(|n| (n % 251) as u8).collect();
            for _ in 0..256 {
                let mut sent = 0;
                while sent < block.len() {
                    // SAFETY: so many bytes are there.
                    let n = unsafe { libc::write(to, block[sent..].as_ptr().cast(), block.len() - sent) };
                    sent += call::checked("write", n as c_int) as usize;
                }
            }
            0
        });
        call::close(&[to]);
        let mut block = vec![0; 64 << 10];
        let mut total = 0;
        loop {
            let got = call::read(from, &mut block);
            if got == 0 {
                break;
            }
            total += got;
        }
        call::wait_well(child);
        call::close(&[from]);
        mix_bytes(total as u64, &block[..64])
    })
}

fn epoll() -> Unit {
    Box::new(|| {
        // SAFETY: no preconditions.
        let watch = call::checked("epoll_create1", unsafe { libc::epoll_create1(0) });
        let counters: Vec<c_int> = (0..16u64)
            .map(|n| {
                // SAFETY: no preconditions but a valid structure.
                unsafe {
                    let counter = call::checked("eventfd", libc::eventfd(0, 0));
                    let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: n };
                    call::checked("epoll_ctl", libc::epoll_ctl(watch, libc::EPOLL_CTL_ADD, counter, &raw mut event));
                    counter
                }
            })
            .collect();
        let mut sum = 0;
        for round in 0..2_500usize {
            call::write(counters[round * 7 % 16], &1u64.to_le_bytes());
            let mut events = [libc::epoll_event { events: 0, u64: 0 }; 4];
            // SAFETY: room for four events.
            let ready = unsafe { libc::epoll_wait(watch, events.as_mut_ptr(), 4, -1) };
            for event in &events[..call::checked("epoll_wait", ready) as usize] {
                let mut value = [0; 8];
                call::read(counters[event.u64 as usize], &mut value);
                sum += u64::from_le_bytes(value) * (event.u64 + 1);
            }
        }
        call::close(&counters);
        call::close(&[watch]);
        sum
    })
}

fn poll() -> Unit {
    Box::new(|| {
        let pipes: Vec<[c_int; 2]> = (0..60).map(|_| call::pipe()).collect();
        let mut sum = 0;
        for round in 0..1_500usize {
            let one = round * 13 % 60;
            call::write(pipes[one][1], b"x");
            let ready = if round % 2 == 0 {
                let mut list: Vec<libc::pollfd> =
                    pipes.iter().map(|p| libc::pollfd { fd: p[0], events: libc::POLLIN, revents: 0 }).collect();
                // SAFETY: so many entries are there.
                call::checked("poll", unsafe { libc::poll(list.as_mut_ptr(), list.len() as u64, -1) });
                list.iter().position(|p| p.revents != 0)
            } else {
                // SAFETY: a set of plain data, filled before it is used; descriptors below 1024.
                unsafe {
                    let mut set: libc::fd_set = std::mem::zeroed();
                    pipes.iter().for_each(|p| libc::FD_SET(p[0], &raw mut set));
                    let (none, most) = (std::ptr::null_mut(), pipes[59][1] + 1);
                    call::checked("select", libc::select(most, &raw mut set, none, none, std::ptr::null_mut()));
                    pipes.iter().position(|p| libc::FD_ISSET(p[0], &raw const set))
                }
            };
            call::read(pipes[one][0], &mut [0]);
            sum += ready.unwrap_or(1000) as u64;
        }
        call::close(pipes.as_flattened());
        sum
    })
}

fn yields() -> Unit {
    Box::new(|| {
        let step = || {
            for _ in 0..1_000 {
                // SAFETY: no preconditions.
                unsafe { libc::sched_yield() };
            }
        };
        let child = call::child(|| {
            step();
            0
        });
        step();
        call::wait_well(child);
        1
    })
}
