//! What translated code calls.
//!
//! Each gets the CPU with all registers of the guest in memory, and gives the address of the code to go on at, or null to
//! leave translated code.

use std::ptr;
use std::sync::atomic::Ordering;

use iced_x86::Decoder;
use memory::Gpa;

use super::cache::Point;
use super::context::{NO_WINDOW, image_of, rflags_of};
use super::stubs::Callees;
use super::translate::mode;
use x86::bits::{rflags, vector};

use crate::cpu::{Cpu, Exec, leave};
use crate::features;
use crate::mmu::{Access, is_canonical};
use crate::op::{Op, has};

type Resume = *const u8;

const PAGE: u64 = 4096;

/// The addresses of the functions here.
pub(super) fn callees() -> Callees {
    let slow_read: extern "C" fn(*mut Cpu) -> Resume = slow_read;
    let slow_write: extern "C" fn(*mut Cpu) -> Resume = slow_write;
    let call: unsafe extern "C" fn(*mut Cpu, *const Op) -> Resume = call;
    let call_flags: unsafe extern "C" fn(*mut Cpu, *const Op) -> Resume = call_flags;
    let window: extern "C" fn(*mut Cpu) -> Resume = window;
    let demote: extern "C" fn(*mut Cpu) -> Resume = demote;
    let group: unsafe extern "C" fn(*mut Cpu, u64) -> Resume = group;
    Callees {
        slow_read: slow_read as usize as u64,
        slow_write: slow_write as usize as u64,
        call: call as usize as u64,
        call_flags: call_flags as usize as u64,
        window: window as usize as u64,
        demote: demote as usize as u64,
        group: group as usize as u64,
    }
}

/// The CPU of translated code.
///
/// # Safety
/// `cpu` comes from [`super::Context::cpu`], and whoever has entered translated code makes no use of its reference
/// meanwhile.
unsafe fn of<'a>(cpu: *mut Cpu) -> &'a mut Cpu {
    // SAFETY: the caller's promise.
    unsafe { &mut *cpu }
}

extern "C" fn slow_read(cpu: *mut Cpu) -> Resume {
    // SAFETY: called from translated code.
    unsafe { of(cpu) }.slow_access(Access::Read)
}

extern "C" fn slow_write(cpu: *mut Cpu) -> Resume {
    // SAFETY: called from translated code.
    unsafe { of(cpu) }.slow_access(Access::Write)
}

unsafe extern "C" fn call(cpu: *mut Cpu, op: *const Op) -> Resume {
    // SAFETY: called from translated code, which gives an operation that its block keeps.
    let (cpu, op) = unsafe { (of(cpu), &*op) };
    cpu.leave = 0;
    cpu.rip = op.next;
    cpu.stats.jit.callouts += 1;
    let done = (op.run)(cpu, op);
    if done.is_ok() && cpu.leave == 0 && cpu.rip == op.next {
        return cpu.site();
    }
    cpu.flags.set_bits(rflags_of(cpu.jit.flags));
    cpu.end_call(done.is_err(), op)
}

unsafe extern "C" fn call_flags(cpu: *mut Cpu, op: *const Op) -> Resume {
    // SAFETY: as above.
    let (cpu, op) = unsafe { (of(cpu), &*op) };
    cpu.leave = 0;
    cpu.rip = op.next;
    cpu.stats.jit.callouts += 1;
    cpu.flags.set_bits(rflags_of(cpu.jit.flags));
    let done = (op.run)(cpu, op);
    cpu.jit.flags = image_of(cpu.flags.bits());
    if done.is_ok() && cpu.leave == 0 && cpu.rip == op.next {
        return cpu.site();
    }
    cpu.end_call(done.is_err(), op)
}

extern "C" fn window(cpu: *mut Cpu) -> Resume {
    // SAFETY: called from translated code.
    unsafe { of(cpu) }.open_window()
}

unsafe extern "C" fn group(cpu: *mut Cpu, range: u64) -> Resume {
    // SAFETY: called from translated code.
    unsafe { of(cpu) }.look_up_range(range >> 1, range & 1 != 0)
}

extern "C" fn demote(cpu: *mut Cpu) -> Resume {
    // SAFETY: called from translated code.
    unsafe { of(cpu) }.demote_cell()
}

impl Cpu {
    /// The code at the place that translated code has noted.
    pub(super) fn site(&mut self) -> Resume {
        let site = self.jit.site as usize;
        self.translator().memory.address(site)
    }

    fn end_call(&mut self, raised: bool, op: &Op) -> Resume {
        self.jit.ended = (op.rip(), !raised && !self.is_repeating(op));
        if raised {
            self.rip = self.wrap_rip(op.rip());
            self.fault_in_code();
            self.stats.jit.exits_fault += 1;
        } else {
            self.stats.jit.exits_callout += 1;
        }
        self.jit.flags = image_of(self.flags.bits());
        self.onward()
    }

    /// The code for RIP where an instruction has changed what code is run, if it is in the table of jumps and nothing has
    /// to be looked at before; null leaves translated code.
    fn onward(&mut self) -> Resume {
        let pending = self.slot.pending().load(Ordering::Relaxed) & self.interest;
        let seen = self.leave & !leave::BLOCK == 0 && !self.shadow && !self.halted && !self.jit.hold;
        let stepped = self.system_flags & rflags::TF != 0 || self.watch.steps();
        if pending != 0 || !seen || stepped || self.jit.outdated || self.slot.attention().load(Ordering::Relaxed) != 0 {
            return ptr::null();
        }
        let Some(mode) = self.translation_mode() else { return ptr::null() };
        let Some(code) = self.known_translation(mode) else { return ptr::null() };
        // It holds for the next instruction, and is about breakpoints, of which there are none.
        self.system_flags &= !rflags::RF;
        self.leave = 0;
        code
    }

    /// An access that the TLB does not serve: fills it, or runs the whole instruction in the interpreter.
    fn slow_access(&mut self, access: Access) -> Resume {
        self.stats.jit.slow_accesses += 1;
        self.leave = 0;
        let lin = self.jit.linear;
        let table = self.data_table;
        let page = lin & !(PAGE - 1);
        let tag = |cpu: &Self| {
            let entry = cpu.mmu.entry(table, lin);
            if access == Access::Write { entry.write } else { entry.read }
        };
        if access == Access::Read
            && let Some(behind) = self.read_across(lin)
        {
            return behind;
        }
        // What the TLB knows and does not serve is an access across pages. The exceptions of the vector and x87 units, as
        // for operands that are not aligned, come before that a page is not there or becomes dirty.
        if tag(self) != page && !self.of_unit() {
            let saved = self.cr2;
            match self.translate(lin, access, table) {
                Ok(_) if self.leave == 0 && tag(self) == page => return self.site(),
                // Near a page's end it may go on where there is no address: that comes first then.
                Err(_) if self.fault.vector == vector::PF && lin & (PAGE - 1) < PAGE - 64 => {
                    return self.fault_at_site();
                }
                _ => self.cr2 = saved,
            }
        }
        self.run_single()
    }

    /// Whether the instruction at the noted place is one of the vector or x87 unit.
    fn of_unit(&mut self) -> bool {
        let site = self.jit.site;
        let jit = self.translator();
        let Some(block) = jit.block_at(site) else { return false };
        let (_, index, _) = jit.instruction_at(block, site);
        jit.point_of(block, index) & Point::UNIT != 0
    }

    /// If the read at the noted place is one across two pages: puts the operand together, for the code behind the check to
    /// take it from there.
    fn read_across(&mut self, lin: u64) -> Option<Resume> {
        let (size, which) = ((self.jit.access & 0xff) as usize, (self.jit.access >> 8) as usize);
        let end = lin.checked_add(size as u64)?;
        let sound = if self.is64() { is_canonical(lin) && is_canonical(end - 1) } else { end <= 1 << 32 };
        if !sound || size > 32 || (lin & (PAGE - 1)) + size as u64 <= PAGE {
            return None;
        }
        let saved = (self.cr2, self.fault);
        let mut bytes = [0; 32];
        if self.read_bytes(lin, &mut bytes[..size]).is_err() || self.leave != 0 {
            (self.cr2, self.fault) = saved;
            return None;
        }
        // Aligned as it was.
        let at = (lin & 31) as usize;
        self.jit.across.0[at..at + size].copy_from_slice(&bytes[..size]);
        *self.jit.scratch.get_mut(which)? = &raw const self.jit.across.0[at] as u64;
        let behind = self.jit.behind as usize;
        Some(self.translator().memory.address(behind))
    }

    /// Delivers the exception that the access at the noted place has raised.
    fn fault_at_site(&mut self) -> Resume {
        let site = self.jit.site;
        let Some(block) = self.translator().block_at(site) else { return ptr::null() };
        self.rip = self.translator().instruction_at(block, site).0;
        self.flags.set_bits(rflags_of(self.jit.flags));
        self.jit.ended = (self.rip, false);
        self.fault_in_code();
        self.stats.jit.exits_fault += 1;
        self.jit.flags = image_of(self.flags.bits());
        self.onward()
    }

    /// Delivers an exception that translated code has raised, unless it is to be held.
    pub(super) fn fault_in_code(&mut self) {
        if self.jit.hold {
            self.jit.held = Some(self.fault);
        } else {
            self.deliver_fault();
        }
    }

    /// Whether `op` is a string instruction that has made way for an interrupt and goes on.
    fn is_repeating(&self, op: &Op) -> bool {
        op.has(has::REP | has::REPNE) && self.rip == op.rip()
    }

    /// Runs the instruction at the noted place in the interpreter, and goes on behind it.
    fn run_single(&mut self) -> Resume {
        let site = self.jit.site;
        let Some(block) = self.translator().block_at(site) else { return ptr::null() };
        let (rip, index, _) = self.translator().instruction_at(block, site);
        self.rip = rip;
        self.flags.set_bits(rflags_of(self.jit.flags));
        self.leave = 0;
        let Ok(next) = self.run_kept(block, index, site) else {
            self.rip = rip;
            self.jit.ended = (rip, false);
            self.fault_in_code();
            self.stats.jit.exits_fault += 1;
            self.jit.flags = image_of(self.flags.bits());
            return self.onward();
        };
        self.jit.flags = image_of(self.flags.bits());
        self.stats.jit.callouts += 1;
        self.jit.ended = (rip, self.rip != rip);
        // A call may lead to what comes next; behind a block's last instruction there need not be any code.
        let last = index + 1 == usize::from(self.translator().blocks[block as usize].count);
        if self.leave != 0 || self.rip != next || last {
            return self.onward();
        }
        match self.translator().code_of(block, index + 1) {
            // The code behind it may expect the flags in the host's register.
            Some(code) => {
                self.jit.after = code as u64;
                let stub = self.translator().stubs.resume as usize;
                self.translator().memory.address(stub)
            }
            None => ptr::null(),
        }
    }

    /// Runs instruction `index` of `block`, at RIP, by the interpreter. Gives where it leads to if it does not jump.
    fn run_kept(&mut self, block: u32, index: usize, site: u32) -> Exec<u64> {
        let rip = self.rip;
        let outdated = self.jit.outdated;
        let jit = self.translator();
        let block = &jit.blocks[block as usize];
        let len = u64::from(jit.points[block.points as usize + index].len);
        if block.dead || block.crosses || block.checks || outdated {
            // What is there now is what counts, and it is not what comes next in this block.
            self.run_one()?;
            return Ok(self.rip.wrapping_add(1));
        }
        let at = block.key.phys.wrapping_add(rip.wrapping_sub(block.key.rip));
        let op = match jit.singles.get(&site) {
            Some(op) => **op,
            None => {
                let mut bytes = [0; 15];
                let bytes = &mut bytes[..len as usize];
                if self.shared.memory.read(Gpa(at), bytes).is_err() {
                    return Err(self.ud());
                }
                let mut decoder = Decoder::with_ip(self.code_size as u32, bytes, rip, features::decoding(&self.model));
                let op = self.lower_one(&decoder.decode());
                self.translator().singles.insert(site, Box::new(op));
                op
            }
        };
        self.rip = op.next;
        (op.run)(self, &op)?;
        Ok(op.next)
    }

    /// Opens the stack window at the noted address, if its page may be accessed silently.
    fn open_window(&mut self) -> Resume {
        self.leave = 0;
        let (lin, block) = (self.jit.linear, self.jit.site);
        let table = self.data_table;
        let saved = (self.cr2, self.fault);
        let found = self.translate(lin, Access::Read, table);
        (self.cr2, self.fault) = saved;
        let page = lin & !(PAGE - 1);
        let entry = *self.mmu.entry(table, lin);
        if found.is_ok() && entry.read == page && self.leave == 0 {
            let before = (self.jit.window_read, self.jit.window_write);
            self.jit.window_read = page;
            self.jit.window_write = if entry.write == page { page } else { NO_WINDOW };
            let same = before == (self.jit.window_read, self.jit.window_write);
            self.jit.window_delta = entry.host.wrapping_sub(page);
            if !same {
                let retry = self.jit.target as u32 as usize;
                return self.translator().memory.address(retry);
            }
        }
        // Not to be had as the block needs it.
        let Some(block) = self.translator().blocks.get(block as usize) else { return ptr::null() };
        self.rip = block.key.rip;
        self.jit.wants_plain = true;
        ptr::null()
    }

    /// Looks up the `size` bytes at the noted address, for the access at the noted place and others.
    fn look_up_range(&mut self, size: u64, write: bool) -> Resume {
        self.leave = 0;
        let lin = self.jit.linear;
        let table = self.data_table;
        let page = lin & !(PAGE - 1);
        if lin - page + size <= PAGE {
            let tag = |cpu: &Self| {
                let entry = cpu.mmu.entry(table, lin);
                if write { entry.write } else { entry.read }
            };
            // What has missed although it is known would miss for ever.
            let known = tag(self) == page;
            if !known {
                let saved = (self.cr2, self.fault);
                // What is wrong with the access will be found by the one that it is wrong for.
                let _ = self.translate(lin, Access::Read, table);
                (self.cr2, self.fault) = saved;
            }
            if tag(self) == page && self.leave == 0 && !(known && self.cell_has(page)) {
                let host = self.mmu.entry(table, lin).host;
                return self.fill_cell(page, host);
            }
        }
        // Ranges across pages are not rare where much data is gone through: on without leaving.
        let site = self.jit.site;
        let onward = !self.jit.hold && self.leave == 0;
        let jit = self.translator();
        if onward
            && let Some(form) = jit.plain_at.get(&site).copied()
            && !jit.blocks[form as usize].dead
        {
            return jit.entry(form);
        }
        let Some(block) = jit.block_at(site) else { return ptr::null() };
        let (crosses, flushes) = (jit.blocks[block as usize].crosses, jit.flushes);
        self.rip = jit.instruction_at(block, site).0;
        if onward
            && let Some(mode) = self.translation_mode()
            && let Ok(Some(form)) = self.find_block_number(mode | mode::PLAIN)
            && self.leave == 0
        {
            let jit = self.translator();
            // All that makes a block right for where it is runs the same for the two, but for a second page.
            if !crosses && !jit.blocks[form as usize].crosses && jit.flushes == flushes {
                jit.plain_at.insert(site, form);
            }
            return jit.entry(form);
        }
        self.jit.wants_plain = true;
        ptr::null()
    }
}
