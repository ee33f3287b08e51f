//! Code that is written and re-written while it runs: by itself, beside data, by other threads, by new mappings.

use std::arch::asm;
use std::arch::x86_64::__cpuid;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use crate::sys;

type Function = extern "C" fn() -> u32;

/// Writes `mov eax, value; ret`.
fn write_return(at: *mut u8, value: u32) {
    let mut code = [0xb8, 0, 0, 0, 0, 0xc3];
    code[1..5].copy_from_slice(&value.to_le_bytes());
    // SAFETY: callers give room in a mapping of their own.
    unsafe { std::ptr::copy_nonoverlapping(code.as_ptr(), at, code.len()) };
}

fn call(at: *mut u8) -> u32 {
    // SAFETY: callers have written a function there.
    let f: Function = unsafe { std::mem::transmute(at) };
    f()
}

pub fn run() {
    let page = sys::map(None, 0x4000, sys::PROT_RWX);

    let mut sum = 0u64;
    for i in 0..2_000u32 {
        write_return(page, i.wrapping_mul(2_654_435_761));
        sum += u64::from(call(page));
    }
    println!("rewritten {sum}");

    // `inc dword ptr [rip + 0x1f6]; mov eax, [rip + 0x1f0]; ret`: the counter lives 512 bytes behind, in the same page.
    let code = [0xff, 0x05, 0xfa, 0x01, 0, 0, 0x8b, 0x05, 0xf4, 0x01, 0, 0, 0xc3];
    let near = sys::map(None, 0x1000, sys::PROT_RWX);
    // SAFETY: inside of the page.
    unsafe { std::ptr::copy_nonoverlapping(code.as_ptr(), near, code.len()) };
    let counted: u32 = (0..2_000).map(|_| call(near)).fold(0, u32::wrapping_add);
    println!("data beside code {counted}");

    next_instruction(page);
    across_pages(page);
    own_loop(page);
    protections();
    remapped();
    other_thread(page);
}

/// A store that changes the very next instruction, inside of one straight line of code.
fn next_instruction(page: *mut u8) {
    // mov byte ptr [rip + 1], cl; mov eax, 0; ret
    let code = [0x88, 0x0d, 0x01, 0, 0, 0, 0xb8, 0, 0, 0, 0, 0xc3];
    let mut seen = Vec::new();
    for i in 0..200u8 {
        let result: u32;
        // SAFETY: the code is whole before it is called, and touches EAX and itself only.
        unsafe {
            std::ptr::copy_nonoverlapping(code.as_ptr(), page, code.len());
            asm!("call {f}", f = in(reg) page, in("cl") i, out("eax") result, clobber_abi("C"));
        }
        seen.push(result);
    }
    println!("next instruction {}", seen.iter().enumerate().all(|(i, x)| i as u32 == *x));
}

/// An instruction that lies in two pages, changed in the second one only.
fn across_pages(page: *mut u8) {
    // SAFETY: three bytes before the end of the first page, inside of the mapping.
    let at = unsafe { page.add(0x0ffd) };
    write_return(at, 0x0102_0304);
    let mut sum = 0u64;
    for i in 0..500u32 {
        // SAFETY: the last byte of the immediate value, in the second page.
        unsafe { at.add(4).write_volatile(i as u8) };
        sum += u64::from(call(at));
    }
    println!("across pages {sum:#x}");
}

/// A loop that patches the amount it adds in each round.
fn own_loop(page: *mut u8) {
    // again: add eax, 0x01010101; inc byte ptr [rip - 10] (the lowest byte of the amount); dec ecx; jnz again; ret
    let code = [0x05, 1, 1, 1, 1, 0xfe, 0x05, 0xf6, 0xff, 0xff, 0xff, 0xff, 0xc9, 0x75, 0xf1, 0xc3];
    let result: u32;
    // SAFETY: the code is whole before it is called, and touches EAX, ECX and itself only.
    unsafe {
        std::ptr::copy_nonoverlapping(code.as_ptr(), page, code.len());
        asm!("call {f}", f = in(reg) page, inout("ecx") 1_000 => _, inout("eax") 0 => result, clobber_abi("C"));
    }
    println!("own loop {result:#x}");
}

/// Never writable and executable at once, as careful compilers do it.
fn protections() {
    let page = sys::map(None, 0x1000, sys::PROT_RW);
    let mut sum = 0u64;
    for i in 0..200 {
        sys::protect(page, 0x1000, sys::PROT_RW);
        write_return(page, i * 3);
        sys::protect(page, 0x1000, sys::PROT_RX);
        sum += u64::from(call(page));
    }
    println!("protections {sum}");
}

/// Another page of code at the same address.
fn remapped() {
    let page = sys::map(None, 0x1000, sys::PROT_RWX);
    let mut sum = 0u64;
    for i in 0..200 {
        sys::map(Some(page), 0x1000, sys::PROT_RWX);
        write_return(page, i * 5);
        sum += u64::from(call(page));
    }
    println!("remapped {sum}");
}

/// One thread writes, the other serializes and runs: Intel SDM volume 3, section 8.1.3.
fn other_thread(page: *mut u8) {
    let (round, at) = (AtomicU32::new(0), page as usize);
    let (mut sum, mut wrong) = (0u64, 0);
    std::thread::scope(|s| {
        s.spawn(|| {
            for i in 1..=1_000u32 {
                write_return(at as *mut u8, i * 7);
                round.store(i * 2, SeqCst);
                while round.load(SeqCst) != i * 2 + 1 {
                    std::hint::spin_loop();
                    std::thread::yield_now();
                }
            }
        });
        for i in 1..=1_000u32 {
            while round.load(SeqCst) != i * 2 {
                std::hint::spin_loop();
                std::thread::yield_now();
            }
            __cpuid(0);
            let got = call(at as *mut u8);
            sum += u64::from(got);
            wrong += u32::from(got != i * 7);
            round.store(i * 2 + 1, SeqCst);
        }
    });
    println!("other thread {sum} wrong {wrong}");
}
