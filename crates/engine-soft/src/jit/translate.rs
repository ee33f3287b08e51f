//! From a RIP to a translated block.

use std::borrow::Cow;

use iced_x86::{Instruction, Mnemonic};
use memory::{Gpa, code_lines};

use super::CELLS;
use super::cache::{Block, Exit, Key, NONE, PageCopy, Point, reserve};
use super::emit::{Emitter, Progress, stack_operand};
use super::scan::{Ins, Kind, MOST, Scan, Source, ends_block};
use crate::cpu::{CodeSize, Cpu, Exec};
use crate::lockstep;
use crate::mmu::table;
use crate::options::Translator;

const PAGE: u64 = 4096;

/// The bits of a block's mode.
pub(super) mod mode {
    /// 32-bit code.
    pub(crate) const SHORT: u8 = 1;
    /// Where the number of the TLB's table is.
    pub(crate) const TABLE: u8 = 1;
    /// Floating point and vectors are switched on as far as the CPU model has them.
    pub(crate) const FPU: u8 = 8;
    /// In 32-bit code: FS and GS have no limits.
    pub(crate) const FS: u8 = 0x10;
    pub(crate) const GS: u8 = 0x20;
    /// The form that checks each access by itself, without stack window and groups.
    pub(crate) const PLAIN: u8 = 0x80;
    /// The bits that are part of a jump target's tag.
    pub(crate) const TAGGED: u8 = 0x3f;
}

/// Where a block's source lies.
struct Origin {
    page: usize,
    /// The lines of the page that the block depends on.
    lines: u64,
    /// Where the rest of its only instruction lies, if that is in another page: the address and the page.
    second: Option<(u64, usize)>,
    /// Where the block itself looks whether its source has changed.
    own: Option<*mut u8>,
}

/// The widest range of the stack that goes through the window.
const WIDEST: i32 = 1024;

impl Cpu {
    /// Translates the block at RIP, linear address `lin` and physical address `phys`; `None` if that cannot be done.
    pub(super) fn translate_block(&mut self, lin: u64, phys: u64, mode: u8) -> Exec<Option<u32>> {
        let fresh = || Box::new(PageCopy { bytes: [0; PAGE as usize], of: None });
        let mut source = self.translator().source.take().unwrap_or_else(fresh);
        let block = self.translate_from(&mut source, lin, phys, mode);
        self.translator().source = Some(source);
        block
    }

    fn translate_from(&mut self, source: &mut PageCopy, lin: u64, phys: u64, mode: u8) -> Exec<Option<u32>> {
        let memory = self.shared.memory.clone();
        // ROM too: its bytes change in the ways those of RAM do, but for the guest's own stores.
        let Some(host) = memory.host_page(Gpa(phys)) else { return Ok(None) };
        let start = phys & !(PAGE - 1);
        let offset = (phys & (PAGE - 1)) as usize;
        let key = Key { phys, rip: self.rip, mode };
        let model = self.model.clone();
        loop {
            // Code that is rewritten again and again looks after itself, and at nothing around it.
            let alone = self.translator().is_rewritten(host.index);
            let known = source.of == Some(host.index);
            let copied = if alone { offset..(PAGE as usize).min(offset + MOST * 15) } else { 0..PAGE as usize };
            if !known && memory.read(Gpa(start + copied.start as u64), &mut source.bytes[copied]).is_err() {
                return Ok(None);
            }
            // What comes of an old copy shows below.
            source.of = (!alone).then_some(host.index);
            let page = &source.bytes;
            let rip = key.rip;
            let long = mode & mode::SHORT == 0;
            let plain = [long || mode & mode::FS != 0, long || mode & mode::GS != 0];
            let units = mode & mode::FPU != 0;
            let (before, table) = (&page[..offset], mode >> mode::TABLE & 3);
            let scan_bytes =
                |bytes: &[u8]| Source { bytes, before, rip, long, plain, table, units, alone, model: &model }.scan();
            let mut bytes = Cow::Borrowed(&page[offset..]);
            let mut scan = scan_bytes(&bytes);
            if known && (scan.list.is_empty() || alone) {
                source.of = None;
                continue;
            }
            if self.shared.options.translator == Translator::LockStep {
                // Interrupts are held back behind STI by other means here and there.
                let same = |ins: &Ins| ins.instr.mnemonic() != Mnemonic::Sti;
                scan.keep_to(|ins| lockstep::may_run_twice(&ins.instr) && same(ins));
                if scan.list.is_empty() && !scan.truncated {
                    return Ok(None);
                }
            }
            let mut second = None;
            if scan.list.is_empty() {
                if !scan.truncated {
                    return Ok(None);
                }
                let tail = self.translate_fetch_at((lin | 0xfff).wrapping_add(1))?;
                let mut more = [0; 15];
                if memory.host_page(Gpa(tail)).is_none() || memory.read(Gpa(tail), &mut more).is_err() {
                    return Ok(None);
                }
                bytes.to_mut().extend_from_slice(&more);
                scan = scan_bytes(&bytes);
                scan.list.truncate(1);
                let Some(first) = scan.list.first_mut() else { return Ok(None) };
                // Nothing is known of what comes behind.
                first.live_after = super::scan::STATUS;
                // An instruction that is not one may be cut again, and is the interpreter's.
                let twice =
                    self.shared.options.translator != Translator::LockStep || lockstep::may_run_twice(&first.instr);
                if first.instr.is_invalid() || !twice {
                    return Ok(None);
                }
                scan.used = first.len();
                scan.ends = ends_block(first.kind);
                second = Some(tail);
            }
            // What is beyond the limit of the code segment is the interpreter's to find out.
            if mode & mode::SHORT != 0 && key.rip + scan.used as u64 > 1 << 32 {
                return Ok(None);
            }
            if alone && second.is_none() {
                scan.end_after_write();
                let own = Some(host.ptr.wrapping_add(offset));
                let origin = Origin { page: host.index, lines: 0, second: None, own };
                return Ok(Some(self.write_block(key, &scan, &bytes, origin)));
            }
            let from = (offset as i32 + scan.looked_at.0).max(0) as usize;
            let to = (offset as i32 + scan.looked_at.1).min(PAGE as i32) as usize;
            let in_page = scan.used.min(PAGE as usize - offset);
            let lines = code_lines(offset, in_page) | if from < to { code_lines(from, to - from) } else { 0 };
            self.guard_code(host.index, lines);
            let mut second_page = None;
            if let Some(tail) = second {
                let Some(page) = memory.host_page(Gpa(tail)) else { return Ok(None) };
                self.guard_code(page.index, code_lines(0, scan.used - in_page));
                second_page = Some(page.index);
            }
            // What was read before the lines were marked may have changed since.
            let read = from.min(offset)..to.max(offset + in_page);
            if !memory.holds(Gpa(start + read.start as u64), &page[read]) {
                source.of = None;
                continue;
            }
            if let Some(tail) = second {
                let mut more = [0; 15];
                let rest = scan.used - in_page;
                if memory.read(Gpa(tail), &mut more).is_err() || more[..rest] != bytes[in_page..in_page + rest] {
                    source.of = None;
                    continue;
                }
            }
            let origin = Origin { page: host.index, lines, second: second.zip(second_page), own: None };
            return Ok(Some(self.write_block(key, &scan, &bytes, origin)));
        }
    }

    fn write_block(&mut self, key: Key, scan: &Scan, bytes: &[u8], Origin { page, lines, second, own }: Origin) -> u32 {
        let mut asm = std::mem::take(&mut self.translator().asm);
        let long = key.mode & mode::SHORT == 0;
        let window = if key.mode & mode::PLAIN == 0 && second.is_none() { window(scan, long) } else { None };
        let (mut ops, mut ways, mut points) = (Vec::new(), Vec::new(), Vec::new());
        let (mut len, mut offsets, mut cells, mut round) = (0, Vec::new(), 0, 0);
        let demoted = std::mem::take(&mut self.translator().demoted);
        for _ in 0..2 {
            asm.clear();
            ops.clear();
            let jit = self.translator();
            let (stubs, bmi2) = (jit.stubs, jit.bmi2);
            let count = self.shared.options.count && self.shared.options.translator == Translator::On;
            let jit = self.translator();
            let first_cell = jit.cells as usize;
            let (block, first_exit) = (jit.blocks.len() as u32, jit.exits.len() as u32);
            let cpu = &*self;
            let mut lower = |instr: &Instruction| {
                ops.push(Box::new(cpu.lower_one(instr)));
                ops.last().map_or(std::ptr::null(), |op| &raw const **op)
            };
            let table = key.mode >> mode::TABLE & 3;
            // The supervisor's accesses are too many and each too rare.
            let remembers = long && table == table::USER;
            cells = 0;
            let mut cell = |rip: u64| {
                let has = remembers && first_cell + cells < CELLS && !demoted.contains(&rip);
                has.then(|| {
                    cells += 1;
                    (first_cell + cells - 1) as u32
                })
            };
            let mut emitter = Emitter {
                asm: &mut asm,
                stubs: &stubs,
                scan,
                bytes,
                rip: key.rip,
                long,
                table,
                bmi2,
                count,
                block,
                first_exit,
                window,
                lower: &mut lower,
                cell: &mut cell,
                own,
                alone: cpu.shared.slots.len() == 1,
                plain: key.mode & mode::PLAIN != 0,
                now: Progress::start(scan, key.rip),
            };
            emitter.block();
            let Progress { starts, mut faults, ways: written, head, .. } = emitter.now;
            faults.push(0);
            ways = written;
            round = head.and_then(|head| u8::try_from(asm.offset(head)).ok()).unwrap_or(0);
            len = asm.len() as u32;
            let behind = scan.list.last().map_or((0, 0), |ins| (0, ins.live_after as u8));
            let lives = scan.list.iter().map(|ins| (ins.len() as u8, ins.live_before() as u8)).chain([behind]);
            points = starts
                .iter()
                .zip(lives)
                .zip(faults)
                .map(|((start, (len, live)), faults)| {
                    let host = asm.offset(*start) as u16;
                    Point { host, len, live: live | faults }
                })
                .collect();
            offsets = ways
                .iter()
                .map(|way| (asm.offset(way.jump), asm.offset(way.stub), way.space.map(|label| asm.offset(label))))
                .collect();
            let jit = self.translator();
            if (jit.next + len) as usize <= jit.memory.len() {
                break;
            }
            // No room: the numbers of exits and blocks start over, too.
            self.forget_translations();
        }
        for index in 0..cells {
            let first = self.translator().cells as usize;
            self.new_cell(first + index);
        }
        let jit = self.translator();
        jit.cells += cells as u32;
        jit.demoted = demoted;
        let base = jit.next;
        let code = asm.finish(base);
        tracing::trace!(rip = key.rip, mode = key.mode, at = ?jit.memory.address(base as usize), "{code:02x?}");
        jit.memory.write(base as usize, code);
        let block = jit.blocks.len() as u32;
        let first_point = jit.points.len() as u32;
        reserve(&mut jit.points, points.len());
        jit.points.append(&mut points);
        let has_variant = ways.first().is_some_and(|way| way.variant);
        reserve(&mut jit.exits, ways.len());
        reserve(&mut jit.blocks, 1);
        for (way, (jump, stub, space)) in ways.iter().zip(&offsets) {
            jit.exits.push(Exit {
                from: block,
                rip: way.rip,
                round: if way.round { round } else { 0 },
                after: way.after as u8,
                live: way.live as u8,
                jump: base + jump - 4,
                stub: (stub + 4 - jump) as u16,
                space: space.map_or(0, |at| (jump - at) as u8),
                to: NONE,
                next: NONE,
            });
        }
        jit.blocks.push(Block {
            key,
            code: (base, base + len),
            crosses: second.is_some(),
            checks: own.is_some(),
            points: first_point,
            count: scan.list.len() as u16,
            lines,
            incoming: NONE,
            has_variant,
            dead: false,
        });
        jit.ops.append(&mut ops);
        jit.known.insert(key, block);
        if own.is_none() {
            jit.by_page.entry(page).or_default().push(block);
        }
        if let Some((phys, page)) = second {
            jit.seconds.insert(block, phys);
            // A block is killed by its own lines only: one that has a second page is listed there with all of them.
            jit.blocks[block as usize].lines = u64::MAX;
            jit.by_page.entry(page).or_default().push(block);
        }
        jit.next = (base + len).next_multiple_of(16);
        // Seen twice, code counts twice: the mapping that it is written through lets go of what is finished.
        if jit.next >> 20 != base >> 20 {
            jit.memory.let_go();
            if jit.next >> 22 != base >> 22 {
                // Lists that have grown leave their old places behind.
                base::trim_heap();
            }
        }
        jit.asm = asm;
        let used = jit.used();
        let stats = &mut self.stats.jit;
        stats.blocks_translated += 1;
        stats.guest_bytes += scan.used as u64;
        stats.host_bytes += u64::from(len);
        stats.cache_used = used;
        block
    }

    /// The mode in which code at RIP is translated; `None` if it is the interpreter's.
    #[inline]
    pub(super) fn translation_mode(&self) -> Option<u8> {
        let long = match self.code_size {
            CodeSize::Bits64 => true,
            CodeSize::Bits32 => false,
            CodeSize::Bits16 => return None,
        };
        // What is done in place relies on privilege level 0 or 3.
        if self.data_table == crate::mmu::table::CHECKED || matches!(self.cpl, 1 | 2) {
            return None;
        }
        let mut mode = self.data_table << mode::TABLE;
        if !long {
            mode |= mode::SHORT | self.flat_mode()?;
        }
        Some(mode | self.fpu_mode())
    }
}

/// The range around RSP at the block's start that its stack accesses are in, and whether some of them write.
fn window(scan: &Scan, long: bool) -> Option<(i32, i32, bool)> {
    let width = if long { 8 } else { 4 };
    let (mut low, mut high, mut write, mut any) = (i32::MAX, i32::MIN, false, false);
    for ins in &scan.list {
        let Some(rsp) = ins.rsp else { continue };
        let mut add = |from: i32, size: i32, writes: bool| {
            low = low.min(rsp + from);
            high = high.max(rsp + from + size);
            write |= writes;
            any = true;
        };
        match ins.kind {
            Kind::Push | Kind::Call | Kind::CallIndirect => add(-width, width, true),
            Kind::Pop | Kind::Ret => add(0, width, false),
            _ => {}
        }
        let writes = match ins.kind {
            Kind::Memory { write } => write,
            Kind::Push | Kind::JumpIndirect | Kind::CallIndirect => false,
            _ => continue,
        };
        if let Some(disp) = stack_operand(ins)
            && (-WIDEST..=WIDEST).contains(&disp)
        {
            add(disp, ins.instr.memory_size().size() as i32, writes);
        } else if stack_operand(ins).is_some() {
            return None;
        }
    }
    (any && high - low <= WIDEST).then_some((low, high, write))
}
