//! Where thunks are kept: host code that is never writable and executable at once.

use std::collections::HashMap;
use std::io;
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::fpu::signal;
use crate::fpu::thunk::{Built, Thunk};

/// Room for every form of every instruction with each of its immediates; pages are taken as they are used.
const ARENA: usize = 16 << 20;

/// All thunks of the process: they know nothing of a partition.
#[derive(Clone, Copy)]
pub(crate) struct Thunks(&'static Arena);

struct Arena {
    /// The same memory: writable here...
    writable: *mut u8,
    /// ...and executable there.
    code: *const u8,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    used: usize,
    thunks: HashMap<Box<[u8]>, &'static Thunk>,
}

// SAFETY: `writable` is written under the lock of `known` only, and where no published thunk lies.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

static ARENA_ONCE: OnceLock<Result<Arena, i32>> = OnceLock::new();

impl Thunks {
    /// The process's thunks.
    ///
    /// # Errors
    /// The host's refusal of a memory file, its mappings or the signal handler.
    pub(crate) fn new() -> io::Result<Self> {
        let made = ARENA_ONCE.get_or_init(|| Arena::map().map_err(|e| e.raw_os_error().unwrap_or(libc::ENOMEM)));
        made.as_ref().map(Self).map_err(|e| io::Error::from_raw_os_error(*e))
    }

    /// The thunk with this `key`, made by `build` if it is new; `None` if it cannot be made.
    pub(crate) fn get(&self, key: &[u8], build: impl FnOnce() -> Option<Built>) -> Option<&'static Thunk> {
        let mut known = self.0.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(thunk) = known.thunks.get(key) {
            return Some(thunk);
        }
        let built = build()?;
        let at = known.used.next_multiple_of(16);
        if at + built.code.len() > ARENA {
            return None;
        }
        // SAFETY: within the mapping, behind everything that has been published.
        let entry = unsafe {
            std::ptr::copy_nonoverlapping(built.code.as_ptr(), self.0.writable.add(at), built.code.len());
            std::mem::transmute::<*const u8, super::thunk::Entry>(self.0.code.add(at))
        };
        known.used = at + built.code.len();
        // As many as there are forms of instructions; they live as long as the process.
        let thunk: &'static Thunk = Box::leak(Box::new(built.with_entry(entry)));
        known.thunks.insert(key.into(), thunk);
        Some(thunk)
    }
}

impl Arena {
    fn map() -> io::Result<Self> {
        let check = |ptr: *mut libc::c_void| {
            if ptr == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(ptr.cast::<u8>()) }
        };
        // SAFETY: a new memory file, mapped twice at addresses of the kernel's choice; the descriptor is closed once.
        let (writable, code) = unsafe {
            let fd = libc::memfd_create(c"husk-thunks".as_ptr(), libc::MFD_CLOEXEC);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            let map = |prot| check(libc::mmap(std::ptr::null_mut(), ARENA, prot, libc::MAP_SHARED, fd, 0));
            let sized = if libc::ftruncate(fd, ARENA as i64) == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
            let maps = sized
                .and_then(|()| Ok((map(libc::PROT_READ | libc::PROT_WRITE)?, map(libc::PROT_READ | libc::PROT_EXEC)?)));
            libc::close(fd);
            maps?
        };
        let exit = super::thunk::fault_exit().ok_or(io::ErrorKind::Unsupported)?;
        // SAFETY: within the mapping, which nobody else knows yet.
        unsafe { std::ptr::copy_nonoverlapping(exit.as_ptr(), writable, exit.len()) };
        signal::catch_fpe(code as usize..code as usize + ARENA, code as usize)?;
        Ok(Self { writable, code, known: Mutex::new(Known { used: exit.len(), thunks: HashMap::new() }) })
    }
}
