//! The host's CPU: a child process that runs cases in user mode between two signals.
//!
//! The child needs no trampoline: the kernel's signal frame holds every register of the program, the extended state among
//! them. The handler takes the outcome of a case out of the frame, puts the next case into it and returns; the code
//! of each case ends in a trap or a fault, which is the next signal. A batch of cases costs one system call each.
//!
//! The child is locked in by seccomp's strict mode (read, write, exit, sigreturn), its data pages are not executable and
//! a timer ends cases that hang.

use std::ffi::{c_int, c_void};
use std::io;
use std::mem::size_of;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use super::case::{Case, Outcome, XSAVE_LEN, arena, fold_page};

/// The most cases of one batch.
pub(crate) const BATCH: usize = 256;

/// What parent and child share.
#[repr(C, align(4096))]
struct Shared {
    data_template: [u8; arena::DATA_LEN],
    /// The data pages as the last case of the batch has left them.
    final_memory: [u8; arena::DATA_LEN],
    count: u32,
    /// The case under way.
    current: AtomicU32,
    cases: [Case; BATCH],
    outcomes: [Outcome; BATCH],
}

/// The child with its shared memory.
pub(crate) struct Host {
    shared: *mut Shared,
    child: Option<Child>,
}

struct Child {
    pid: libc::pid_t,
    go: c_int,
    done: c_int,
}

/// A case has killed the child.
#[derive(Debug)]
pub(crate) struct Killed {
    /// The index of the case in its batch.
    pub(crate) index: usize,
}

impl Host {
    /// Shares memory; the child comes with the first batch.
    pub(crate) fn open() -> io::Result<Self> {
        // SAFETY: an anonymous mapping at an address of the kernel's choice.
        let at = unsafe {
            libc::mmap(
                ptr::null_mut(),
                size_of::<Shared>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { shared: at.cast(), child: None })
    }

    /// Runs up to [`BATCH`] cases over data pages that start as `template`, and gives their outcomes.
    pub(crate) fn run(&mut self, template: &[u8], cases: &[Case]) -> io::Result<Result<&[Outcome], Killed>> {
        assert!(template.len() == arena::DATA_LEN && cases.len() <= BATCH && !cases.is_empty());
        if self.child.is_none() {
            self.child = Some(Child::start(self.shared)?);
        }
        // SAFETY: the child waits for `go`, so nobody else touches the shared memory now; both copies are in bounds by
        // the assertion above.
        unsafe {
            ptr::copy_nonoverlapping(
                template.as_ptr(),
                (&raw mut (*self.shared).data_template).cast(),
                arena::DATA_LEN,
            );
            ptr::copy_nonoverlapping(cases.as_ptr(), (&raw mut (*self.shared).cases).cast(), cases.len());
            (*self.shared).count = cases.len() as u32;
        }
        let child = self.child.as_ref().expect("started above");
        if child.batch() {
            // SAFETY: the child has written the outcomes and waits again.
            return Ok(Ok(unsafe {
                std::slice::from_raw_parts((&raw const (*self.shared).outcomes).cast(), cases.len())
            }));
        }
        self.child = None;
        // SAFETY: the child is dead.
        let index = unsafe { (*self.shared).current.load(Ordering::SeqCst) } as usize;
        Ok(Err(Killed { index }))
    }

    /// The data pages as the last case of the last batch has left them.
    pub(crate) fn final_memory(&self) -> Vec<u8> {
        // SAFETY: the child waits.
        unsafe { (&raw const (*self.shared).final_memory).read() }.to_vec()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.child = None;
        // SAFETY: mapped in `open` with this size; the child has its own mapping and is gone.
        unsafe { libc::munmap(self.shared.cast(), size_of::<Shared>()) };
    }
}

impl Child {
    fn start(shared: *mut Shared) -> io::Result<Self> {
        // A child forked between the pipes' making and the closing of their far ends would keep those open.
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut go, mut done) = ([0; 2], [0; 2]);
        // SAFETY: both are arrays of two descriptors; the child only uses what is async-signal-safe and never returns.
        unsafe {
            if libc::pipe2(go.as_mut_ptr(), libc::O_CLOEXEC) != 0
                || libc::pipe2(done.as_mut_ptr(), libc::O_CLOEXEC) != 0
            {
                return Err(io::Error::last_os_error());
            }
            match libc::fork() {
                -1 => Err(io::Error::last_os_error()),
                0 => {
                    // The child keeps no write end of its own input, so that it ends when the parent does.
                    libc::close(go[1]);
                    libc::close(done[0]);
                    child_main(shared, go[0], done[1])
                }
                pid => {
                    libc::close(go[0]);
                    libc::close(done[1]);
                    Ok(Self { pid, go: go[1], done: done[0] })
                }
            }
        }
    }

    /// Lets the child run the batch; `false` when it has died.
    fn batch(&self) -> bool {
        let mut byte = [0u8; 1];
        // SAFETY: descriptors and buffer are live.
        unsafe {
            loop {
                let n = libc::write(self.go, byte.as_ptr().cast(), 1);
                if n == 1 {
                    break;
                }
                if io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
                    return false;
                }
            }
            loop {
                let n = libc::read(self.done, byte.as_mut_ptr().cast(), 1);
                if n >= 0 || io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
                    return n == 1 && byte[0] == READY;
                }
            }
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // SAFETY: the child is ours and not yet waited for; the descriptors are ours.
        unsafe {
            libc::kill(self.pid, libc::SIGKILL);
            libc::waitpid(self.pid, ptr::null_mut(), 0);
            libc::close(self.go);
            libc::close(self.done);
        }
    }
}

/// What the child writes when a batch is done.
const READY: u8 = 0x52;
/// The general registers of a frame in the order of [`Case::gpr`].
const GPRS: [c_int; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];
/// A timer tick of this length that finds the same case under way as the last one ends it, in microseconds.
const TICK: i64 = 30_000;
/// The kernel's own bytes in the legacy area of a frame start here (`struct _fpx_sw_bytes`).
const SW_RESERVED: usize = 464;
/// The length of what the child can write though programs cannot: the code pages and the read-only page.
const ALIAS_LEN: usize = arena::CODE_LEN + arena::PAGE;

/// The child's state. It has one thread, and the handler runs with all signals blocked.
struct Run {
    shared: *mut Shared,
    /// The code pages and behind them the read-only page, writable.
    code: *mut u8,
    /// The case under way, `None` between batches.
    case: Option<usize>,
    /// What interrupts the child's own code to start a batch: registers and legacy area of the frame.
    home: [i64; 23],
    home_fpu: [u8; SW_RESERVED],
    home_header: u64,
    ticked: usize,
}

static mut RUN: Run = Run {
    shared: ptr::null_mut(),
    code: ptr::null_mut(),
    case: None,
    home: [0; 23],
    home_fpu: [0; SW_RESERVED],
    home_header: 0,
    ticked: usize::MAX,
};

/// The child: sets up arena, signals and sandbox, then runs batches until its input closes.
///
/// # Safety
/// In a forked child only, with `shared` mapped.
unsafe fn child_main(shared: *mut Shared, go: c_int, done: c_int) -> ! {
    // SAFETY: plain system calls with live arguments. The fixed mappings do not replace anything of the program, which lies
    // far above 4 GiB; `MAP_FIXED_NOREPLACE` makes sure.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        let refuse = |code| -> ! { libc::_exit(code) };
        let fd = libc::memfd_create(c"oracle".as_ptr(), 0);
        if fd < 0 || libc::ftruncate(fd, ALIAS_LEN as i64) != 0 {
            refuse(10);
        }
        let fixed = libc::MAP_FIXED_NOREPLACE | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        for page in (0..arena::DATA_PAGES).filter(|page| arena::is_writable(*page)) {
            let at = (arena::DATA as usize + page * arena::PAGE) as *mut c_void;
            let rw = libc::PROT_READ | libc::PROT_WRITE;
            if libc::mmap(at, arena::PAGE, rw, fixed | libc::MAP_POPULATE, -1, 0) != at {
                refuse(11);
            }
        }
        let at = arena::CODE as *mut c_void;
        let rx = libc::PROT_READ | libc::PROT_EXEC;
        if libc::mmap(at, arena::CODE_LEN, rx, libc::MAP_FIXED_NOREPLACE | libc::MAP_SHARED, fd, 0) != at {
            refuse(12);
        }
        let at = (arena::DATA as usize + arena::READ_ONLY * arena::PAGE) as *mut c_void;
        let shared_file = libc::MAP_FIXED_NOREPLACE | libc::MAP_SHARED | libc::MAP_POPULATE;
        if libc::mmap(at, arena::PAGE, libc::PROT_READ, shared_file, fd, arena::CODE_LEN as i64) != at {
            refuse(15);
        }
        let rw = libc::PROT_READ | libc::PROT_WRITE;
        let code = libc::mmap(ptr::null_mut(), ALIAS_LEN, rw, libc::MAP_SHARED, fd, 0);
        let stack_len = 1 << 18;
        let stack = libc::mmap(ptr::null_mut(), stack_len, rw, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0);
        if code == libc::MAP_FAILED || stack == libc::MAP_FAILED {
            refuse(13);
        }
        ptr::write_bytes(code.cast::<u8>(), arena::TRAP, arena::CODE_LEN);
        let alternate = libc::stack_t { ss_sp: stack, ss_flags: 0, ss_size: stack_len };
        libc::sigaltstack(&raw const alternate, ptr::null_mut());
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_signal as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigfillset(&raw mut action.sa_mask);
        for signal in
            [libc::SIGSEGV, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP, libc::SIGBUS, libc::SIGSYS, libc::SIGVTALRM]
        {
            libc::sigaction(signal, &raw const action, ptr::null_mut());
        }
        let interval = libc::timeval { tv_sec: 0, tv_usec: TICK };
        let timer = libc::itimerval { it_interval: interval, it_value: interval };
        libc::syscall(libc::SYS_setitimer, libc::ITIMER_VIRTUAL, &raw const timer, ptr::null_mut::<c_void>());
        let run = &raw mut RUN;
        (*run).shared = shared;
        (*run).code = code.cast();
        // From here on: read, write, exit and sigreturn.
        if libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_STRICT) != 0 {
            refuse(14);
        }
        loop {
            let mut byte = READY;
            if libc::read(go, (&raw mut byte).cast(), 1) != 1 {
                libc::syscall(libc::SYS_exit, 0);
            }
            load_template(run);
            // The handler runs the whole batch and comes back here with every register restored.
            std::arch::asm!("int3");
            byte = READY;
            if libc::write(done, (&raw const byte).cast(), 1) != 1 {
                libc::syscall(libc::SYS_exit, 0);
            }
        }
    }
}

/// Where the child writes data page `page`.
///
/// # Safety
/// In the child.
unsafe fn writable(run: *mut Run, page: usize) -> *mut u8 {
    // SAFETY: `code` maps the code pages and the read-only page.
    unsafe {
        if page == arena::READ_ONLY {
            (*run).code.add(arena::CODE_LEN)
        } else {
            (arena::DATA as usize + page * arena::PAGE) as *mut u8
        }
    }
}

/// Fills the data pages with the template.
///
/// # Safety
/// In the child, between batches.
unsafe fn load_template(run: *mut Run) {
    // SAFETY: the arena and the shared memory are mapped.
    unsafe {
        let template = (&raw const (*(*run).shared).data_template).cast::<u8>();
        for page in (0..arena::DATA_PAGES).filter(|page| arena::is_present(*page)) {
            ptr::copy_nonoverlapping(template.add(page * arena::PAGE), writable(run, page), arena::PAGE);
        }
    }
}

/// Every signal of the child: the end of a case, the start of a batch, or the timer.
extern "C" fn on_signal(signal: c_int, _info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel hands over a frame that is ours until we return; all signals are blocked and the child has one
    // thread, so nobody else uses `RUN` or the shared memory.
    unsafe {
        let run = &raw mut RUN;
        let registers = &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs;
        let fpu = (*context.cast::<libc::ucontext_t>()).uc_mcontext.fpregs.cast::<u8>();
        let Some(index) = (*run).case else {
            if signal == libc::SIGTRAP {
                (*run).home.copy_from_slice(registers);
                ptr::copy_nonoverlapping(fpu, (&raw mut (*run).home_fpu).cast(), SW_RESERVED);
                (*run).home_header = fpu.add(512).cast::<u64>().read();
                begin(run, 0, registers, fpu);
            }
            return;
        };
        let mut vector = registers[libc::REG_TRAPNO as usize] as u32;
        if signal == libc::SIGVTALRM {
            if (*run).ticked != index {
                (*run).ticked = index;
                return;
            }
            vector = Outcome::HANG;
        }
        end(run, index, vector, registers, fpu);
        if index + 1 < (*(*run).shared).count as usize {
            begin(run, index + 1, registers, fpu);
        } else {
            (*run).case = None;
            registers.copy_from_slice(&(*run).home);
            ptr::copy_nonoverlapping((&raw const (*run).home_fpu).cast(), fpu, SW_RESERVED);
            fpu.add(512).cast::<u64>().write((*run).home_header);
            keep_system_flags();
        }
    }
}

/// What sigreturn does not restore (NT, ID) it takes over from the handler: a program that has set it must not pass it on.
fn keep_system_flags() {
    // SAFETY: sets the flags that are the default of the ABI.
    unsafe { std::arch::asm!("push 0x202", "popfq") };
}

/// Puts case `index` into the arena and the frame.
///
/// # Safety
/// In the handler.
unsafe fn begin(run: *mut Run, index: usize, registers: &mut [i64; 23], fpu: *mut u8) {
    // SAFETY: the parent only sends cases whose code and patches lie inside of the arena.
    unsafe {
        let shared = (*run).shared;
        (*shared).current.store(index as u32, Ordering::SeqCst);
        (*run).case = Some(index);
        (*run).ticked = usize::MAX;
        let case = &*(&raw const (*shared).cases).cast::<Case>().add(index);
        for (at, bytes) in case.patches() {
            let to = writable(run, at / arena::PAGE).add(at % arena::PAGE);
            ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
        }
        let code = case.code();
        ptr::copy_nonoverlapping(code.as_ptr(), (*run).code.add((case.rip - arena::CODE) as usize), code.len());
        for (register, value) in GPRS.iter().zip(case.gpr) {
            registers[*register as usize] = value as i64;
        }
        registers[libc::REG_RIP as usize] = case.rip as i64;
        registers[libc::REG_EFL as usize] = ((case.rflags & Outcome::FLAGS) | 0x202) as i64;
        ptr::copy_nonoverlapping(case.xsave.as_ptr(), fpu, SW_RESERVED);
        // All of x87, SSE and AVX from the frame, everything else in its initial state.
        fpu.add(512).cast::<u64>().write(7);
        ptr::copy_nonoverlapping(case.xsave.as_ptr().add(576), fpu.add(576), XSAVE_LEN - 576);
        keep_system_flags();
    }
}

/// Takes the outcome of case `index` out of the frame and brings the arena back to the template.
///
/// # Safety
/// In the handler.
unsafe fn end(run: *mut Run, index: usize, vector: u32, registers: &[i64; 23], fpu: *const u8) {
    // SAFETY: as in `begin`; every page looked at is mapped.
    unsafe {
        let shared = (*run).shared;
        let case = &*(&raw const (*shared).cases).cast::<Case>().add(index);
        let outcome = &mut *(&raw mut (*shared).outcomes).cast::<Outcome>().add(index);
        *outcome = Outcome::zero();
        for (value, register) in outcome.gpr.iter_mut().zip(GPRS) {
            *value = registers[register as usize] as u64;
        }
        outcome.rip = registers[libc::REG_RIP as usize] as u64;
        outcome.rflags = registers[libc::REG_EFL as usize] as u64;
        outcome.vector = vector;
        outcome.error_code = registers[libc::REG_ERR as usize] as u32;
        outcome.cr2 = registers[libc::REG_CR2 as usize] as u64;
        ptr::copy_nonoverlapping(fpu, outcome.xsave.as_mut_ptr(), XSAVE_LEN);
        outcome.normalise();
        for (at, len) in case.blank.iter().map(|b| (b.0 as usize, b.1 as usize)) {
            for byte in (at..at + len).filter(|byte| arena::is_present(byte / arena::PAGE)) {
                writable(run, byte / arena::PAGE).add(byte % arena::PAGE).write(0);
            }
        }
        let keep = index + 1 == (*shared).count as usize;
        for page in (0..arena::DATA_PAGES).filter(|page| arena::is_present(*page)) {
            let memory = std::slice::from_raw_parts_mut(writable(run, page), arena::PAGE);
            let at = page * arena::PAGE;
            if keep {
                let to = (&raw mut (*shared).final_memory).cast::<u8>().add(at);
                ptr::copy_nonoverlapping(memory.as_ptr(), to, arena::PAGE);
            }
            let template =
                std::slice::from_raw_parts((&raw const (*shared).data_template).cast::<u8>().add(at), arena::PAGE);
            let mut changed = fold_page(outcome, page, memory, template);
            while changed != 0 {
                let block = changed.trailing_zeros() as usize * 64;
                memory[block..block + 64].copy_from_slice(&template[block..block + 64]);
                changed &= changed - 1;
            }
        }
        let code = (*run).code.add((case.rip - arena::CODE) as usize);
        ptr::write_bytes(code, arena::TRAP, case.code_len as usize);
    }
}
