//! Signals: delivery, masks, faults that are repaired and retried, traps, timers, other stacks.

use std::arch::asm;
use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering::SeqCst};

use crate::sys::{self, SigInfo};

static COUNT: AtomicUsize = AtomicUsize::new(0);
static CODE: AtomicI32 = AtomicI32::new(0);
static WHERE: AtomicUsize = AtomicUsize::new(0);
static PAGE: AtomicUsize = AtomicUsize::new(0);
static STACK: AtomicUsize = AtomicUsize::new(0);

const PAGES: usize = 16;

extern "C" fn count(_: c_int, info: *mut SigInfo, _: *mut c_void) {
    COUNT.fetch_add(1, SeqCst);
    // SAFETY: the kernel's own structure.
    CODE.store(unsafe { (*info).code }, SeqCst);
    let here = 0u8;
    STACK.store(&raw const here as usize, SeqCst);
}

/// Makes the page of the fault accessible: the instruction that faulted runs again.
extern "C" fn repair(_: c_int, info: *mut SigInfo, _: *mut c_void) {
    // SAFETY: the kernel's own structure.
    let (addr, code) = unsafe { ((*info).addr, (*info).code) };
    COUNT.fetch_add(1, SeqCst);
    CODE.store(code, SeqCst);
    WHERE.store(addr - PAGE.load(SeqCst), SeqCst);
    sys::protect((addr & !0xfff) as *mut u8, 0x1000, sys::PROT_RW);
}

/// Ends the child that faulted, with what the kernel said in its exit code.
extern "C" fn report(signal: c_int, info: *mut SigInfo, _: *mut c_void) {
    // SAFETY: the kernel's own structure.
    std::process::exit(unsafe { (signal * 8 + (*info).code) & 0x7f });
}

fn taken() -> (usize, i32) {
    (COUNT.swap(0, SeqCst), CODE.swap(0, SeqCst))
}

pub fn run() {
    sys::handle(sys::SIGUSR1, count, 0);
    for _ in 0..100 {
        sys::raise_signal(sys::SIGUSR1);
    }
    println!("raised {:?}", taken());

    sys::block(sys::SIGUSR1, true);
    for _ in 0..10 {
        sys::raise_signal(sys::SIGUSR1);
    }
    let held = COUNT.load(SeqCst);
    sys::block(sys::SIGUSR1, false);
    println!("held back {held}, then {:?}", taken());

    let stack = sys::alternate_stack();
    sys::handle(sys::SIGUSR2, count, sys::SA_ONSTACK);
    sys::raise_signal(sys::SIGUSR2);
    println!("alternate stack {} {:?}", stack.contains(&STACK.load(SeqCst)), taken());

    sys::handle(sys::SIGALRM, count, 0);
    sys::block(sys::SIGALRM, true);
    sys::ring_every(2_000);
    for _ in 0..10 {
        sys::suspend();
    }
    sys::ring_every(0);
    sys::block(sys::SIGALRM, false);
    println!("alarms {}", taken().0 >= 10);

    faults();
    stepping();
    let all = [sys::SIGILL, sys::SIGFPE, sys::SIGSEGV, sys::SIGTRAP];
    all.into_iter().for_each(sys::unhandle);
    for (name, f) in FATAL {
        let handled = sys::in_child(|| {
            all.into_iter().for_each(|signal| sys::handle(signal, report, 0));
            f();
            0
        });
        let plain = sys::in_child(|| {
            f();
            0
        });
        // Without the bit that says whether a core was dumped.
        println!("{name}: handler {:#x}, status {:#x}", handled >> 8, plain & !0x80);
    }
}

/// Reads and writes of forbidden pages, across their borders and inside of string instructions.
fn faults() {
    let page = sys::map(None, PAGES << 12, sys::PROT_NONE);
    PAGE.store(page as usize, SeqCst);
    sys::handle(sys::SIGSEGV, repair, sys::SA_ONSTACK);
    let say = |what: &str| {
        println!("{what}: {:?} at {:#x}", taken(), WHERE.swap(0, SeqCst));
        sys::protect(page, PAGES << 12, sys::PROT_NONE);
    };
    // SAFETY: each access is inside of the mapping; the handler makes it possible.
    unsafe {
        page.add(0x123).write_volatile(7);
        say("write");
        println!("read {}", page.add(0x123).read_volatile());
        say("read");
        page.add(0x1ffc).cast::<u64>().write_unaligned(0x1122_3344_5566_7788);
        say("across");
        let mut value = 5u64;
        asm!("lock xadd [{p}], {v}", p = in(reg) page.add(0x3010), v = inout(reg) value);
        println!("xadd {value}");
        say("locked");
        asm!("rep movsb", inout("rcx") 0x3000usize => _, inout("rsi") page.add(0x123) => _, inout("rdi") page.add(0x8ff0) => _);
        println!("moved {}", page.add(0x8ff0).read_volatile());
        say("string");
        asm!("std", "rep stosq", "cld", inout("rcx") 0x400usize => _, inout("rdi") page.add(0x6ff8) => _, in("rax") 0x55aau64);
        println!("stored {:#x}", page.add(0x5008).cast::<u64>().read_volatile());
        say("string down");
        asm!("push {old}", "mov {old}, rsp", "mov rsp, {p}", "push 77", "pop {v}", "mov rsp, {old}", "pop {old}",
            old = out(reg) _, p = in(reg) page.add(0xa004), v = out(reg) value);
        println!("stack {value}");
        say("push");
    }
}

/// Single step by the trap flag: one trap for each instruction.
fn stepping() {
    sys::handle(sys::SIGTRAP, count, 0);
    // SAFETY: restores the flags; the traps only count.
    unsafe {
        asm!(
            "pushfq", "or qword ptr [rsp], 0x100", "popfq",
            "nop", "mov eax, 1", "add eax, eax", "nop",
            "pushfq", "and qword ptr [rsp], -257", "popfq",
            out("rax") _,
        );
    }
    println!("single steps {:?}", taken());
    // SAFETY: the handler only counts.
    unsafe { asm!("int3") };
    println!("breakpoint {:?}", taken());
}

const FATAL: [(&str, fn()); 9] = [
    // SAFETY of all: the fault ends the child process.
    ("ud2", || unsafe { asm!("ud2") }),
    ("divide by zero", || unsafe { asm!("div {0:e}", in(reg) 0, inout("eax") 1 => _, inout("edx") 0 => _) }),
    ("divide overflow", || unsafe { asm!("idiv {0:e}", in(reg) -1, inout("eax") i32::MIN => _, inout("edx") -1 => _) }),
    ("null", || unsafe { asm!("mov al, [{0}]", in(reg) 8usize, out("al") _) }),
    ("not canonical", || unsafe { asm!("mov al, [{0}]", in(reg) 1usize << 63, out("al") _) }),
    ("hlt", || unsafe { asm!("hlt") }),
    ("jump nowhere", || unsafe { asm!("jmp {0}", in(reg) 0x10usize) }),
    ("sse exception", || unsafe {
        let mxcsr = 0x1d80u32;
        asm!("ldmxcsr [{0}]", "divsd {1}, {2}", in(reg) &raw const mxcsr, inout(xmm_reg) 1.0f64 => _, in(xmm_reg) 0.0f64)
    }),
    ("x87 exception", || unsafe {
        let control = 0x37bu16;
        asm!("fldcw word ptr [{0}]", "fld1", "fldz", "fdivp", "fwait", in(reg) &raw const control)
    }),
];
