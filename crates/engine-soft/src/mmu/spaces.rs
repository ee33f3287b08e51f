//! Address spaces: the contexts that process-context identifiers tell apart (SDM vol. 3A, 4.10.1), and numbers for what
//! code fetches see of them.
//!
//! A context is what has been cached under one PCID since it was last flushed; a generation stands for it, which tags
//! its translations in the second-level TLB. Where the guest uses no PCIDs there is one, of PCID 0. Global translations
//! belong to a generation of their own.
//!
//! A space is a set of translations of code: each context has one for user code, and all share one for the supervisor,
//! whose code lies in global pages as a rule. Its number tags jump targets: as long as a space keeps its number, code
//! that was fetched under it is still where it was.

use super::pages::{PageSet, PageSize};

/// The highest number of a space; zero is none.
pub(crate) const LAST_SPACE: u16 = 1023;

/// The contexts that are remembered. Linux uses six PCIDs, and twice as many with its user page tables apart.
const CONTEXTS: usize = 16;

/// Generations have this many bits.
pub(super) const GENERATION_BITS: u32 = 26;
const LAST_GENERATION: u32 = (1 << GENERATION_BITS) - 1;

/// No PCID.
const NONE: u16 = u16::MAX;

/// Translations of code under one number.
struct Space {
    /// Zero: none yet. It gets one when it is put to use.
    id: u16,
    /// The pages that code has been fetched from.
    pages: PageSet,
    /// Whether some of them are global, and whether some are not.
    globals: bool,
    locals: bool,
}

impl Space {
    const NEW: Self = Self { id: 0, pages: PageSet::EMPTY, globals: false, locals: false };

    /// The translations have changed. A number under which nothing was fetched is as good as new.
    fn forget(&mut self) {
        if !self.pages.is_empty() {
            self.id = 0;
            self.pages.clear();
            (self.globals, self.locals) = (false, false);
        }
    }

    /// Takes the number away, whatever was fetched.
    fn renumber(&mut self) {
        self.forget();
        self.id = 0;
    }
}

struct Context {
    pcid: u16,
    generation: u32,
    /// When it was last entered.
    used: u64,
    space: Box<Space>,
}

/// All contexts and spaces of a vCPU.
pub(crate) struct Spaces {
    /// The numbers of the spaces that code is fetched from now: the supervisor's and the user's.
    pub(crate) now: [u16; 2],
    /// The generation of the current context and that of global translations.
    pub(super) local: u32,
    pub(super) global: u32,
    supervisor: Box<Space>,
    contexts: Box<[Context; CONTEXTS]>,
    /// The current context.
    current: usize,
    entered: u64,
    next_id: u16,
    next_generation: u32,
    /// How often the numbers of spaces have started over, and whether they have since somebody asked.
    wraps: u64,
    pub(crate) wrapped: bool,
    /// Generations have started over: what they tag is void.
    stale: bool,
}

impl Spaces {
    pub(super) fn new() -> Self {
        let context = || Context { pcid: NONE, generation: 0, used: 0, space: Box::new(Space::NEW) };
        let mut spaces = Self {
            now: [0; 2],
            local: 0,
            global: 0,
            supervisor: Box::new(Space::NEW),
            contexts: Box::new([(); CONTEXTS].map(|()| context())),
            current: 0,
            entered: 0,
            next_id: 1,
            next_generation: 1,
            wraps: 0,
            wrapped: false,
            stale: false,
        };
        spaces.reset(0);
        spaces
    }

    /// The number of the space of user code or the supervisor's, with what makes it different from any before.
    #[inline(always)]
    pub(super) fn epoch(&self, user: bool) -> u64 {
        self.wraps << 10 | u64::from(self.now[usize::from(user)])
    }

    /// Whether numbers have been given out again since the last call.
    pub(super) fn take_wrapped(&mut self) -> bool {
        std::mem::take(&mut self.wrapped)
    }

    /// Whether generations have been given out again since the last call.
    pub(super) fn take_stale(&mut self) -> bool {
        std::mem::take(&mut self.stale)
    }

    /// Notes that code has been fetched at `lin`.
    #[inline(always)]
    pub(super) fn fetched(&mut self, lin: u64, user: bool, size: PageSize, global: bool) {
        let space = if user { &mut *self.contexts[self.current & (CONTEXTS - 1)].space } else { &mut *self.supervisor };
        space.pages.add(lin, size);
        space.globals |= global;
        space.locals |= !global;
    }

    /// The generation of `pcid`, if anything is cached under it.
    pub(super) fn generation(&self, pcid: u16) -> Option<u32> {
        self.contexts.iter().find(|context| context.pcid == pcid).map(|context| context.generation)
    }

    /// The current PCID.
    pub(super) fn pcid(&self) -> u16 {
        self.contexts[self.current].pcid
    }

    /// Makes the context of `pcid` the current one; unless `keep`, what was cached under it is void. The caller has
    /// emptied the first-level TLB of the old one.
    pub(super) fn enter(&mut self, pcid: u16, keep: bool) {
        self.leave();
        let found = self.contexts.iter().position(|context| context.pcid == pcid);
        // The one that was left longest ago makes room.
        let oldest = || self.contexts.iter().enumerate().min_by_key(|(_, c)| c.used).map_or(0, |(index, _)| index);
        self.current = found.unwrap_or_else(oldest);
        self.entered += 1;
        let context = &mut self.contexts[self.current];
        context.used = self.entered;
        context.pcid = pcid;
        if !keep || found.is_none() {
            context.space.forget();
            self.renew_generation();
        }
        self.settle();
    }

    /// What the supervisor has fetched from pages of the current context is void.
    fn leave(&mut self) {
        if self.supervisor.locals {
            self.supervisor.forget();
        }
    }

    fn renew_generation(&mut self) {
        if self.next_generation >= LAST_GENERATION {
            self.start_over();
        }
        self.contexts[self.current].generation = self.next_generation;
        self.next_generation += 1;
    }

    /// All generations have been used.
    fn start_over(&mut self) {
        self.stale = true;
        let current = self.contexts[self.current].pcid;
        for context in self.contexts.iter_mut().filter(|context| context.pcid != current) {
            context.pcid = NONE;
            context.space.forget();
        }
        self.global = 1;
        self.next_generation = 2;
    }

    /// All that is cached is void, global or not; `pcid` is the current one.
    pub(super) fn reset(&mut self, pcid: u16) {
        self.forget_contexts();
        self.supervisor.forget();
        if self.next_generation >= LAST_GENERATION {
            self.start_over();
        }
        self.global = self.next_generation;
        self.next_generation += 1;
        self.enter(pcid, false);
    }

    /// All that is cached is void but for global translations.
    pub(super) fn forget_locals(&mut self) {
        let pcid = self.pcid();
        self.forget_contexts();
        self.enter(pcid, false);
    }

    fn forget_contexts(&mut self) {
        for context in self.contexts.iter_mut() {
            context.pcid = NONE;
            context.used = 0;
            context.space.forget();
        }
    }

    /// What is cached under `pcid`, which is not the current one, is void.
    pub(super) fn forget(&mut self, pcid: u16) {
        if let Some(context) = self.contexts.iter_mut().find(|context| context.pcid == pcid) {
            context.pcid = NONE;
            context.used = 0;
            context.space.forget();
        }
    }

    /// The translations of `lin` under `pcid` are void, and with `globals` its global ones for all.
    pub(super) fn forget_page(&mut self, lin: u64, pcid: u16, globals: bool) {
        let current = self.contexts[self.current].pcid;
        for context in self.contexts.iter_mut().filter(|context| !context.space.pages.is_empty()) {
            let concerned = context.pcid == pcid || globals && context.space.globals;
            if concerned && context.space.pages.may_hold(lin) {
                context.space.forget();
            }
        }
        if (globals || pcid == current) && self.supervisor.pages.may_hold(lin) {
            self.supervisor.forget();
        }
        self.settle();
    }

    /// Gives the spaces in use their numbers.
    fn settle(&mut self) {
        let current = self.current;
        // Both may need one.
        if self.next_id >= LAST_SPACE {
            let missing = self.supervisor.id == 0 || self.contexts[current].space.id == 0;
            if missing {
                self.next_id = 1;
                self.wraps += 1;
                self.wrapped = true;
                self.contexts.iter_mut().for_each(|context| context.space.renumber());
                self.supervisor.renumber();
            }
        }
        for space in [&mut *self.supervisor, &mut *self.contexts[current].space] {
            if space.id == 0 {
                space.id = self.next_id;
                self.next_id += 1;
            }
        }
        let context = &self.contexts[current];
        self.local = context.generation;
        self.now = [self.supervisor.id, context.space.id];
    }
}

#[cfg(test)]
impl Spaces {
    /// As after so many generations.
    pub(super) fn age(&mut self, generation: u32) {
        self.next_generation = generation;
    }
}
