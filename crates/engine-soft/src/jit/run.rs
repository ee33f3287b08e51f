//! Entering translated code, and what it comes back for.

use std::sync::atomic::Ordering;

use x86::Segment;
use x86::bits::{cr0, cr4};

use super::JUMP_SLOTS;
use super::cache::{Jit, Key, Point};
use super::context::{image_of, rflags_of};
use super::stubs::Exit;
use super::translate::mode;
use crate::cpu::{Cpu, Exec, sreg};
use crate::fpu;
use crate::lane::Lane;
use crate::mmu::is_canonical;

/// `arch_prctl`: sets the base of GS.
const ARCH_SET_GS: i32 = 0x1001;

/// All signals but those that instructions raise.
fn all_but_faults() -> libc::sigset_t {
    // SAFETY: the set is filled before it is used.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigfillset(&raw mut set);
        for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP] {
            libc::sigdelset(&raw mut set, signal);
        }
        set
    }
}

/// Sets the calling thread's mask of blocked signals; gives the old one.
fn set_mask(mask: &libc::sigset_t) -> libc::sigset_t {
    // SAFETY: two sets of the right type.
    unsafe {
        let mut old = std::mem::zeroed();
        libc::pthread_sigmask(libc::SIG_SETMASK, mask, &raw mut old);
        old
    }
}

/// Spaces are spread over the table of jumps by a few bits of their numbers, so that processes that run the same program
/// do not get in each other's way.
pub(super) const JUMP_MIXES: u64 = 8;
pub(super) const JUMP_MIX_SHIFT: u32 = JUMP_SLOTS.trailing_zeros() - 3;

/// The slot of the table of jumps for `rip` in a space with this [`Context::jump_mix`](super::Context).
#[inline(always)]
fn jump_slot(rip: u64, mix: u64) -> usize {
    (rip ^ mix) as usize & (JUMP_SLOTS - 1)
}

/// Takes `rip` out of the table where it leads to `code`, in whichever space.
fn forget_jump(jumps: &mut [[u64; 2]; JUMP_SLOTS], rip: u64, code: u64) {
    for mix in 0..JUMP_MIXES {
        let slot = &mut jumps[jump_slot(rip, mix << JUMP_MIX_SHIFT)];
        if slot[1] == code {
            *slot = [0; 2];
        }
    }
}

impl Cpu {
    /// The translator, which is there where this is called.
    #[inline(always)]
    pub(super) fn translator(&mut self) -> &mut Jit {
        match &mut self.translator {
            Some(jit) => jit,
            None => unreachable!("called from translated code, or on the way to it"),
        }
    }

    /// Tells translated code where things are.
    pub(crate) fn prepare_context(&mut self) {
        self.jit.next_filled = super::layout::FILLED as u64;
        if let Some(jit) = &self.translator {
            self.jit.code_base = jit.memory.address(0) as u64;
        }
    }

    /// Prepares the calling thread for translated code.
    pub(crate) fn enter_thread(&mut self) {
        let Some(jit) = &self.translator else { return };
        let code = jit.memory.address(0) as usize;
        fpu::signal::watch_thread(
            code..code + jit.memory.len(),
            code + jit.stubs.fault as usize,
            &raw mut self.jit.target,
            &raw mut self.jit.fault_flags,
        );
        let lane = self.jit.cpu as usize;
        // SAFETY: nothing in a Rust program of this platform uses GS.
        let done = unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_SET_GS, lane) };
        if done == 0 && !self.jit.ready {
            // A handler would find the guest's stack pointer; what comes of the code itself has a stack of its own.
            self.jit.signals = set_mask(&all_but_faults());
            self.jit.ready = true;
        }
    }

    /// The calling thread runs no translated code of this CPU any more.
    pub(crate) fn leave_thread(&mut self) {
        if std::mem::take(&mut self.jit.ready) {
            set_mask(&self.jit.signals);
        }
    }

    pub(super) fn lane(&self) -> *mut Lane {
        // A lane starts with its CPU.
        self.jit.cpu.cast()
    }

    /// Forgets the translations of `lines` of `page`.
    pub(crate) fn forget_translated(&mut self, page: usize, lines: u64) {
        let lane = self.lane();
        let Some(jit) = &mut self.translator else { return };
        let killed = jit.invalidate(page, lines, |rip, code| {
            // SAFETY: the lane's table, which only this thread uses, and not while this runs.
            forget_jump(unsafe { &mut (*lane).jumps }, rip, code);
        });
        self.stats.jit.invalidations += killed;
        if killed != 0 && jit.note_rewritten(page) {
            // The rest of the page, too: then writes to it cost nothing.
            self.shared.memory.flags().release_code(page);
        }
    }

    /// Notes that all translations are out of date. What has led here may be one of them, or look at one, so they are
    /// there until the next time that one is looked for; none is entered before.
    pub(crate) fn outdate_translations(&mut self) {
        if self.translator.is_some() {
            self.jit.outdated = true;
            self.forget_shortcuts();
            self.clear_jumps();
        }
    }

    /// Forgets the translations if they are out of date, unless one of them has called.
    fn forget_outdated(&mut self) {
        if self.jit.outdated && !self.jit.inside {
            self.forget_translations();
        }
    }

    /// Forgets all translations.
    pub(super) fn forget_translations(&mut self) {
        self.jit.outdated = false;
        self.forget_shortcuts();
        let Some(jit) = &mut self.translator else { return };
        jit.clear();
        self.stats.jit.cache_flushes += 1;
        self.clear_jumps();
    }

    fn clear_jumps(&mut self) {
        // SAFETY: as above.
        unsafe { (*self.lane()).jumps = [[0; 2]; JUMP_SLOTS] };
    }

    /// Runs translated code from RIP on; `false` if what is there is the interpreter's.
    pub(crate) fn run_translated(&mut self) -> bool {
        if !self.jit.ready {
            return false;
        }
        let Some(mode) = self.translation_mode() else { return false };
        self.forget_outdated();
        let code = match self.find_translation(mode) {
            Ok(Some(code)) => code,
            Ok(None) => return false,
            Err(_) => {
                self.deliver_fault();
                return true;
            }
        };
        let mut next = Some(code);
        while let Some(code) = next {
            next = self.run_code(code);
            if self.leave != 0 || self.jit.outdated || self.slot.attention().load(Ordering::Relaxed) != 0 {
                break;
            }
        }
        true
    }

    /// Enters the code at `code`, and sees to what it comes back for. Gives the code for the RIP that it has come to, if
    /// it has been found on the way.
    fn run_code(&mut self, code: *const u8) -> Option<*const u8> {
        match self.enter(code) {
            Exit::Called => self.plain_form(),
            Exit::Poll => {
                let site = self.jit.site as usize;
                self.rip = self.translator().exits[site].rip;
                self.stats.jit.exits_interrupt += 1;
                None
            }
            Exit::Indirect => {
                self.indirect();
                None
            }
            Exit::Link => self.follow(),
            Exit::Fault => {
                self.host_fault();
                None
            }
            Exit::Stale => {
                self.drop_stale();
                None
            }
        }
    }

    /// Enters the code at `code`.
    pub(super) fn enter(&mut self, code: *const u8) -> Exit {
        let jit = self.translator();
        let enter = jit.memory.address(jit.stubs.enter as usize);
        self.jit.flags = image_of(self.flags.bits());
        self.stats.jit.entries += 1;
        self.jit.inside = true;
        // SAFETY: the stub follows the calling convention; GS is this CPU's lane, since `enter_thread`.
        let exit = unsafe {
            let enter: unsafe extern "C" fn(*const u8, *mut Self) -> u32 = std::mem::transmute(enter);
            // The stub finds the CPU by GS; handing it over tells the compiler that everything in it may change.
            enter(code, &raw mut *self)
        };
        self.jit.inside = false;
        self.flags.set_bits(rflags_of(self.jit.flags));
        Exit::from_code(exit)
    }

    /// A block could not look up together what it accesses: its plain form runs from RIP on.
    fn plain_form(&mut self) -> Option<*const u8> {
        if !std::mem::take(&mut self.jit.wants_plain) {
            return None;
        }
        let mode = self.translation_mode()?;
        match self.find_block_number(mode | mode::PLAIN) {
            Ok(form) => Some(self.translator().entry(form?)),
            Err(_) => {
                self.deliver_fault();
                None
            }
        }
    }

    /// An indirect jump has led to what the table of jumps does not know.
    pub(super) fn indirect(&mut self) {
        self.stats.jit.exits_indirect += 1;
        if !self.is64() || is_canonical(self.rip) {
            return;
        }
        // The jump itself raises #GP: it is run again by the interpreter, from before it.
        let site = self.jit.site;
        let jit = self.translator();
        let Some(block) = jit.block_at(site) else { return };
        let (rip, ..) = jit.instruction_at(block, site);
        self.undo_jump(rip);
    }

    /// Puts RSP back to where it was before the jump at `rip`, and runs that in the interpreter.
    fn undo_jump(&mut self, rip: u64) {
        use iced_x86::{Decoder, DecoderOptions, Mnemonic};
        self.rip = rip;
        let mut bytes = [0; 15];
        let mut len = 0;
        while len < bytes.len() {
            let Ok(at) = self.translate_fetch_at(rip.wrapping_add(len as u64)) else { break };
            if self.shared.memory.read(memory::Gpa(at), &mut bytes[len..=len]).is_err() {
                break;
            }
            len += 1;
        }
        let instr = Decoder::with_ip(64, &bytes[..len], rip, DecoderOptions::NONE).decode();
        let moved = match instr.mnemonic() {
            Mnemonic::Ret | Mnemonic::Call => i64::from(instr.stack_pointer_increment()),
            _ => 0,
        };
        self.regs[crate::cpu::reg::RSP] = self.regs[crate::cpu::reg::RSP].wrapping_sub(moved as u64);
        self.jit.ended = (rip, false);
        if self.run_one().is_err() {
            self.fault_in_code();
        } else {
            self.jit.ended.1 = true;
        }
    }

    /// A direct jump leads to what is not translated yet, or not linked.
    fn follow(&mut self) -> Option<*const u8> {
        self.stats.jit.exits_link += 1;
        let exit = self.jit.site;
        let jit = self.translator();
        let flushes = jit.flushes;
        let from = jit.exits.get(exit as usize)?;
        let (rip, space_checked) = (from.rip, from.space != 0);
        let block = jit.blocks.get(from.from as usize)?;
        let (key, variant) = (block.key, block.has_variant && jit.is_first_exit(exit));
        self.rip = rip;
        if self.slot.attention().load(Ordering::Relaxed) != 0 {
            return None;
        }
        if variant {
            let mode = self.translation_mode()?;
            let form = self.find_block_number(mode | mode::PLAIN).ok().flatten()?;
            let jit = self.translator();
            if jit.flushes == flushes {
                jit.link(exit, form, 0);
            }
            return Some(jit.entry(form));
        }
        let now = self.translation_mode()?;
        match self.find_block_number(now) {
            Ok(to) => {
                let to = to?;
                let space = (self.jit.space_tag >> 32) as u32;
                let jit = self.translator();
                // A block in two pages is good for one space only, which a jump within the page does not ask for.
                let good = space_checked || !jit.blocks[to as usize].crosses;
                let same = space_checked || now & mode::TAGGED == key.mode & mode::TAGGED;
                if jit.flushes == flushes && good && same {
                    jit.link(exit, to, space);
                }
                Some(jit.entry(to))
            }
            Err(_) => {
                self.deliver_fault();
                None
            }
        }
    }

    /// The host has raised an exception in translated code: the interpreter raises the guest's.
    pub(super) fn host_fault(&mut self) {
        let at = self.jit.target;
        let jit = self.translator();
        let Some(offset) = jit.memory.offset(at) else { return };
        let Some(block) = jit.block_at(offset as u32) else { return };
        let (rip, index, _) = jit.instruction_at(block, offset as u32);
        if jit.point_of(block, index) & Point::FLAGS_IN_HOST != 0 {
            self.flags.set_bits(rflags_of(image_of(self.jit.fault_flags)));
        }
        self.rip = rip;
        self.stats.jit.exits_fault += 1;
        self.jit.ended = (self.rip, false);
        if self.run_one().is_err() {
            self.fault_in_code();
        } else {
            self.jit.ended.1 = true;
        }
    }

    /// The code for RIP in `mode`.
    fn find_translation(&mut self, mode: u8) -> Exec<Option<*const u8>> {
        if let Some(code) = self.known_translation(mode) {
            return Ok(Some(code));
        }
        Ok(self.find_block_number(mode)?.map(|block| self.translator().entry(block)))
    }

    /// The code for RIP in `mode`, if the table of jumps has it.
    #[inline]
    pub(super) fn known_translation(&mut self, mode: u8) -> Option<*const u8> {
        self.tag_space(mode);
        // SAFETY: the lane's table, which only this thread uses.
        let slot = unsafe { (&(*self.lane()).jumps)[jump_slot(self.rip, self.jit.jump_mix)] };
        let known = slot[0] == self.rip.wrapping_add(self.jit.space_tag) && slot[1] != 0;
        known.then_some(slot[1] as *const u8)
    }

    /// Works out the tag of the space and mode that code runs in.
    #[inline]
    fn tag_space(&mut self, mode: u8) {
        let space = self.mmu.space(self.cpl == 3);
        if self.mmu.take_wrapped() {
            self.clear_jumps();
        }
        self.jit.jump_mix = (u64::from(space) % JUMP_MIXES) << JUMP_MIX_SHIFT;
        self.jit.space_tag = u64::from(space << 6 | u16::from(mode & mode::TAGGED)) << 48;
    }

    /// The block at RIP in `mode`, translated if need be, and put into the table of jumps.
    pub(super) fn find_block_number(&mut self, mode: u8) -> Exec<Option<u32>> {
        let lin = self.fetch_address()?;
        let phys = self.translate_fetch(lin)?;
        self.forget_outdated();
        let key = Key { phys, rip: self.rip, mode };
        let mut found = self.translator().known.get(&key).copied();
        if let Some(block) = found
            && let Some(second) = self.translator().second_of(block)
            && self.translate_fetch_at((lin | 0xfff).wrapping_add(1))? != second
        {
            self.forget_block(block);
            found = None;
        }
        // The look at the second page may have told so.
        if self.jit.outdated {
            found = None;
        }
        if found.is_none() {
            let start = std::time::Instant::now();
            found = self.translate_block(lin, phys, mode)?;
            self.stats.jit.translate_ns += start.elapsed().as_nanos() as u64;
        }
        // Fetches may have given the space a number.
        self.tag_space(mode);
        if let Some(block) = found
            && !self.jit.hold
            && mode & mode::PLAIN == 0
        {
            let code = self.translator().entry(block) as u64;
            let tag = self.rip.wrapping_add(self.jit.space_tag);
            // SAFETY: as above.
            unsafe { (&mut (*self.lane()).jumps)[jump_slot(self.rip, self.jit.jump_mix)] = [tag, code] };
        }
        Ok(found)
    }

    /// A block has found that its source has changed.
    pub(super) fn drop_stale(&mut self) {
        let block = self.jit.site;
        let Some(key) = self.translator().blocks.get(block as usize).map(|block| block.key) else { return };
        self.rip = key.rip;
        self.stats.jit.self_checks += 1;
        self.forget_block(block);
    }

    /// Forgets one block.
    pub(super) fn forget_block(&mut self, block: u32) {
        let (rip, code) = self.translator().kill(block);
        self.forget_jump(rip, code);
    }

    /// Takes `rip` out of the table of jumps if it leads to `code`.
    fn forget_jump(&mut self, rip: u64, code: u64) {
        // SAFETY: the lane's table, which only this thread uses, and not while this runs.
        forget_jump(unsafe { &mut (*self.lane()).jumps }, rip, code);
    }

    /// Floating point and vectors are switched on as far as the model has them.
    pub(super) fn fpu_mode(&self) -> u8 {
        let avx = !self.model.has(x86::Feature::Avx) || self.cr4 & cr4::OSXSAVE != 0 && self.xcr0 & 6 == 6;
        let on = self.cr0 & (cr0::EM | cr0::TS) == 0 && self.cr0 & cr0::NE != 0 && self.cr4 & cr4::OSFXSR != 0 && avx;
        if on { mode::FPU } else { 0 }
    }

    /// For 32-bit code: whether the segments are flat, and which of FS and GS may be used with their base alone; `None`
    /// where segments have to be looked at for each access.
    pub(super) fn flat_mode(&self) -> Option<u8> {
        if !self.protected() || self.v86() {
            return None;
        }
        let flat = |index: usize, needs: u16| {
            let s = &self.seg[index];
            s.base == 0 && s.limit == u32::MAX && s.is_usable() && s.attr & needs == needs
        };
        let data = |index| {
            let s = &self.seg[index];
            flat(index, Segment::WRITABLE_OR_READABLE)
                && !s.has(Segment::CODE)
                && !s.has(Segment::EXPAND_DOWN_OR_CONFORMING)
        };
        let all = flat(sreg::CS, 0)
            && data(sreg::SS)
            && data(sreg::DS)
            && data(sreg::ES)
            && self.seg[sreg::SS].has(Segment::DB);
        if !all {
            return None;
        }
        let whole = |index: usize| {
            let s = &self.seg[index];
            s.is_usable()
                && s.limit == u32::MAX
                && s.has(Segment::WRITABLE_OR_READABLE)
                && !s.has(Segment::CODE)
                && !s.has(Segment::EXPAND_DOWN_OR_CONFORMING)
        };
        let bit = |set: bool, bit: u8| if set { bit } else { 0 };
        Some(bit(whole(sreg::FS), mode::FS) | bit(whole(sreg::GS), mode::GS))
    }
}
