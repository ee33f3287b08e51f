//! Decoded blocks and how they are found again.
//!
//! A block is a run of instructions without a jump in it, within one page (or a single instruction across two). It is
//! known by its physical address, RIP and code size, so it survives changes of the page tables; a small direct-mapped
//! cache by RIP, valid for one epoch of the TLB, finds it without a translation. It also remembers the code generation
//! of its page: when somebody has written there, the bytes it came from are compared before it runs again.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use memory::{Gpa, PAGE_SIZE, code_lines};

use crate::cpu::{CodeSize, Cpu, Exec};
use crate::op::Op;

/// Decoded instructions.
pub(crate) struct Block {
    pub(crate) ops: Box<[Op]>,
    /// The bytes they came from.
    pub(crate) bytes: Box<[u8]>,
    /// Where the bytes lie: one page, or two if the only instruction crosses into another.
    source: [Option<Source>; 2],
}

/// A piece of a block's bytes in guest memory.
#[derive(Clone, Copy)]
pub(crate) struct Source {
    pub(crate) phys: u64,
    pub(crate) page: usize,
    pub(crate) len: usize,
    pub(crate) generation: u32,
    /// Where the generation of the page is kept.
    pub(crate) cell: NonNull<AtomicU32>,
}

impl Source {
    /// The code lines of the page that it lies in.
    fn lines(&self) -> u64 {
        code_lines((self.phys & (PAGE_SIZE - 1)) as usize, self.len)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    phys: u64,
    rip: u64,
    size: CodeSize,
}

/// Multiplicative hashing: the keys are addresses, and a guest that makes them collide slows down itself only.
#[derive(Default)]
pub(crate) struct AddressHasher(u64);

impl Hasher for AddressHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|b| self.write_u64((*b).into()));
    }
    fn write_u64(&mut self, n: u64) {
        self.0 = (self.0.rotate_left(5) ^ n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    fn write_isize(&mut self, n: isize) {
        self.write_u64(n as u64);
    }
}

/// Makes [`AddressHasher`]s.
pub(crate) type AddressHash = BuildHasherDefault<AddressHasher>;

#[derive(Clone, Copy)]
struct Jump {
    rip: u64,
    /// The base of CS: the same RIP is another address in another code segment.
    base: u64,
    /// TLB epoch, code size and privilege in one word.
    context: u64,
    block: *const Block,
}

const JUMPS: usize = 4096;

/// Where in [`BlockCache::jumps`] a block at `rip` is remembered.
#[inline(always)]
fn slot(rip: u64) -> usize {
    (rip ^ rip >> 12) as usize & (JUMPS - 1)
}

/// A bound on the decoded instructions of one vCPU: about 16 MiB. When it is reached everything is forgotten, which
/// costs less than finding out what is still used.
const MOST_OPS: usize = 350_000;

/// The blocks of one vCPU.
pub(crate) struct BlockCache {
    blocks: HashMap<Key, Box<Block>, AddressHash>,
    jumps: Box<[Jump]>,
    ops: usize,
    /// A block that came from no memory and is not kept.
    transient: Option<Box<Block>>,
}

// SAFETY: the pointers in `jumps` lead to blocks in `blocks`, which move along.
unsafe impl Send for BlockCache {}

impl BlockCache {
    pub(crate) fn new() -> Self {
        let none = Jump { rip: 0, base: 0, context: 0, block: std::ptr::null() };
        Self { blocks: HashMap::default(), jumps: vec![none; JUMPS].into(), ops: 0, transient: None }
    }

    fn clear(&mut self) {
        self.blocks.clear();
        self.ops = 0;
        self.jumps.fill(Jump { rip: 0, base: 0, context: 0, block: std::ptr::null() });
    }
}

impl Block {
    /// A block of `ops` decoded from `bytes`, which lie at `source`.
    pub(crate) fn new(ops: Vec<Op>, bytes: &[u8], source: [Option<Source>; 2]) -> Self {
        Self { ops: ops.into(), bytes: bytes.into(), source }
    }

    /// Whether nobody has written to the page that the block came from; for blocks of one page.
    #[inline(always)]
    fn is_current(&self) -> bool {
        // SAFETY: the cell belongs to the guest's memory, which lives as long as the partition.
        self.source[0].as_ref().is_some_and(|s| unsafe { s.cell.as_ref() }.load(Ordering::Acquire) == s.generation)
    }
}

impl Cpu {
    /// Forgets all blocks; none may be running.
    pub(crate) fn forget_blocks(&mut self) {
        self.blocks.clear();
    }

    /// The block at RIP, decoded if need be. The pointer is good until the next call.
    #[inline]
    pub(crate) fn find_block(&mut self) -> Exec<*const Block> {
        let mode = (self.code_size as u64) | u64::from(self.cpl == 3);
        let jump = &self.blocks.jumps[slot(self.rip)];
        if jump.rip == self.rip
            && jump.context == self.mmu.epoch(self.cpl == 3) << 8 | mode
            && jump.base == self.seg[crate::cpu::sreg::CS].base
        {
            // SAFETY: entries that match lead to live blocks: `clear` and the removal of a block empty theirs.
            let block = unsafe { &*jump.block };
            if block.is_current() && (self.is64() || self.within_limit(block)) {
                return Ok(jump.block);
            }
        }
        self.find_slow(mode)
    }

    /// Whether all of the block lies within the limit of CS.
    fn within_limit(&self, block: &Block) -> bool {
        self.rip.saturating_add(block.bytes.len() as u64).saturating_sub(1)
            <= u64::from(self.seg[crate::cpu::sreg::CS].limit)
    }

    #[cold]
    #[inline(never)]
    fn find_slow(&mut self, mode: u64) -> Exec<*const Block> {
        let lin = self.fetch_address()?;
        let phys = self.translate_fetch(lin)?;
        let context = self.mmu.epoch(self.cpl == 3) << 8 | mode;
        let key = Key { phys, rip: self.rip, size: self.code_size };
        if let Some(block) = self.blocks.blocks.get(&key) {
            let block: *const Block = &raw const **block;
            // SAFETY: just found; nothing is freed before `remove` below.
            let (current, second, within) =
                unsafe { ((*block).is_current(), (*block).source[1], self.is64() || self.within_limit(&*block)) };
            match second {
                None if within && (current || self.revalidate(key)) => return Ok(self.remember(context, block)),
                Some(second) if within && current && self.is_there(lin, &second)? => return Ok(block),
                _ => {}
            }
            if let Some(old) = self.blocks.blocks.remove(&key) {
                self.blocks.ops -= old.ops.len();
                // The only slot that a block with this RIP can be in.
                let jump = &mut self.blocks.jumps[slot(key.rip)];
                if std::ptr::eq(jump.block, &raw const *old) {
                    jump.context = 0;
                }
            }
        }
        if self.blocks.ops > MOST_OPS {
            self.blocks.clear();
        }
        let (block, keep) = self.decode_block(lin, phys)?;
        self.stats.blocks_decoded += 1;
        // What CS's limit cuts off must not be found again under another limit.
        if !keep || !(self.is64() || self.within_limit(&block)) {
            return Ok(&raw const **self.blocks.transient.insert(Box::new(block)));
        }
        self.blocks.ops += block.ops.len();
        let block = self.blocks.blocks.entry(key).insert_entry(Box::new(block));
        let block: *const Block = &raw const **block.get();
        // SAFETY: just inserted.
        if unsafe { (*block).source[1].is_none() } {
            self.remember(context, block);
        }
        Ok(block)
    }

    /// Whether the second page of an instruction that starts at `lin` is still the one it was decoded from, unwritten. Such
    /// blocks are looked up each time, since the epoch of one page says nothing of the other.
    fn is_there(&mut self, lin: u64, second: &Source) -> Exec<bool> {
        let phys = self.translate_fetch_at((lin | 0xfff).wrapping_add(1))?;
        Ok(phys == second.phys && self.shared.memory.flags().generation(second.page) == second.generation)
    }

    fn remember(&mut self, context: u64, block: *const Block) -> *const Block {
        self.blocks.jumps[slot(self.rip)] =
            Jump { rip: self.rip, base: self.seg[crate::cpu::sreg::CS].base, context, block };
        block
    }

    /// Compares a block whose page has been written with the bytes that are there now. Whether they are the same.
    fn revalidate(&mut self, key: Key) -> bool {
        self.stats.revalidations += 1;
        let Some(block) = self.blocks.blocks.get(&key) else { return false };
        let Some(source) = block.source[0] else { return false };
        let generation = self.guard_code(source.page, source.lines());
        let mut now = vec![0; source.len];
        if self.shared.memory.read(Gpa(source.phys), &mut now).is_err() {
            return false;
        }
        let Some(block) = self.blocks.blocks.get_mut(&key) else { return false };
        if *now != *block.bytes {
            return false;
        }
        block.source[0] = Some(Source { generation, ..source });
        true
    }
}
