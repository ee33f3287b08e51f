//! Where thunks are kept: host code that is never writable and executable at once.

use std::collections::HashMap;
use std::io;
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::exec_memory::ExecMemory;
use crate::fpu::signal;
use crate::fpu::thunk::{Built, Thunk};

/// Room for every form of every instruction with each of its immediates; pages are taken as they are used.
const ARENA: usize = 16 << 20;

/// All thunks of the process: they know nothing of a partition.
#[derive(Clone, Copy)]
pub(crate) struct Thunks(&'static Arena);

struct Arena {
    /// Written under the lock of `known` only, and where no published thunk lies.
    memory: ExecMemory,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    used: usize,
    thunks: HashMap<Box<[u8]>, &'static Thunk>,
}

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
        self.0.memory.write(at, &built.code);
        // SAFETY: a thunk's code follows the calling convention of an `Entry`.
        let entry = unsafe { std::mem::transmute::<*const u8, super::thunk::Entry>(self.0.memory.address(at)) };
        known.used = at + built.code.len();
        // As many as there are forms of instructions; they live as long as the process.
        let thunk: &'static Thunk = Box::leak(Box::new(built.with_entry(entry)));
        known.thunks.insert(key.into(), thunk);
        Some(thunk)
    }
}

impl Arena {
    fn map() -> io::Result<Self> {
        let memory = ExecMemory::map(c"husk-thunks", ARENA)?;
        let exit = super::thunk::fault_exit().ok_or(io::ErrorKind::Unsupported)?;
        memory.write(0, &exit);
        let code = memory.address(0) as usize;
        signal::catch_fpe(code..code + ARENA, code)?;
        Ok(Self { memory, known: Mutex::new(Known { used: exit.len(), thunks: HashMap::new() }) })
    }
}
