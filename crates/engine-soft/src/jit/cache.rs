//! The translated blocks of a vCPU, how they are found, linked and forgotten.

use std::collections::{HashMap, HashSet};
use std::io;

use super::asm::Asm;
use super::stubs::{self, Stubs};
use crate::block::AddressHash;
use crate::exec_memory::ExecMemory;
use crate::op::Op;

/// A page whose code has been dropped so many times is rewritten often.
const OFTEN: u32 = 8;

/// Makes room for `more`, without as much of it to spare as there is already.
pub(super) fn reserve<T>(list: &mut Vec<T>, more: usize) {
    if list.capacity() - list.len() < more {
        list.reserve_exact(more.max(list.len() / 8 + 1024));
    }
}

/// No block, no exit.
pub(super) const NONE: u32 = u32::MAX;

/// What a block is known by: code of the same bytes is not the same at another RIP or in another mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) phys: u64,
    pub(super) rip: u64,
    pub(super) mode: u8,
}

/// A translated block.
pub(super) struct Block {
    pub(super) key: Key,
    /// Its code: from where to where in the code memory.
    pub(super) code: (u32, u32),
    /// Its only instruction goes on in another page: where is in [`Jit::seconds`].
    pub(super) crosses: bool,
    /// It compares its own source before it runs, which nobody watches.
    pub(super) checks: bool,
    /// The start of its entries in [`Jit::points`], one more than instructions, of which there are `count`.
    pub(super) points: u32,
    pub(super) count: u16,
    /// The lines of the page that it depends on.
    pub(super) lines: u64,
    /// The first of the exits that lead here.
    pub(super) incoming: u32,
    /// The first of its exits leads to its form without a stack window.
    pub(super) has_variant: bool,
    pub(super) dead: bool,
}

/// A direct way from one block to another.
pub(super) struct Exit {
    pub(super) from: u32,
    pub(super) rip: u64,
    /// The place of the jump's distance.
    pub(super) jump: u32,
    /// Where the jump leads when it is not linked: so far behind that place.
    pub(super) stub: u16,
    /// The place of the number of the space that it holds for: so far before that place; 0 if it stays in its page.
    pub(super) space: u8,
    /// If it leads to its own block, so far behind its start.
    pub(super) round: u8,
    /// How many instructions of its block come before it, and the flags that are needed behind it.
    pub(super) after: u8,
    pub(super) live: u8,
    /// The block that it leads to, and the next exit that leads there.
    pub(super) to: u32,
    pub(super) next: u32,
}

/// Where an instruction's code starts, from the block's start, and its length in the guest's code. The last one of a
/// block is for what comes behind its instructions.
#[derive(Clone, Copy)]
pub(super) struct Point {
    pub(super) host: u16,
    pub(super) len: u8,
    /// The status flags that are needed there, as iced numbers them, and the bits below.
    pub(super) live: u8,
}

impl Point {
    /// The instruction is one of the vector or x87 unit, whose operands may have to be aligned.
    pub(super) const UNIT: u8 = 0x40;
    /// Where the host raises an exception for it, the flags are in the host's register.
    pub(super) const FLAGS_IN_HOST: u8 = 0x80;
}

/// What a page held when a block was last translated from it. It may have been written since.
pub(super) struct PageCopy {
    pub(super) bytes: [u8; 4096],
    /// The number of the page.
    pub(super) of: Option<usize>,
}

/// The translator's state of one vCPU.
pub(crate) struct Jit {
    pub(super) memory: ExecMemory,
    pub(super) stubs: Stubs,
    /// Where the blocks start, behind the stubs, and where the next one goes.
    first: u32,
    pub(super) next: u32,
    pub(super) asm: Asm,
    /// Where a block is translated from; taken while that is done.
    pub(super) source: Option<Box<PageCopy>>,
    /// In the order of their code.
    pub(super) blocks: Vec<Block>,
    pub(super) exits: Vec<Exit>,
    pub(super) points: Vec<Point>,
    pub(super) known: HashMap<Key, u32, AddressHash>,
    /// Where the second pages of blocks that cross are.
    pub(super) seconds: HashMap<u32, u64, AddressHash>,
    pub(super) by_page: HashMap<usize, Vec<u32>, AddressHash>,
    /// The interpreter's form of instructions that are called out.
    #[allow(clippy::vec_box, reason = "translated code holds their addresses")]
    pub(super) ops: Vec<Box<Op>>,
    /// How often everything has been forgotten.
    pub(super) flushes: u64,
    /// How often code was dropped because a page was written.
    rewritten: HashMap<usize, u32, AddressHash>,
    /// The number of cells in use.
    pub(super) cells: u32,
    /// The RIPs of instructions whose access goes from page to page.
    pub(super) demoted: HashSet<u64, AddressHash>,
    /// RORX is there.
    pub(super) bmi2: bool,
    /// What instructions that could not be done in place were decoded to, by their code's place.
    pub(super) singles: HashMap<u32, Box<Op>, AddressHash>,
    /// The plain forms that accesses that could not be looked up together have gone on in, by the place of the look-up.
    pub(super) plain_at: HashMap<u32, u32, AddressHash>,
}

impl Jit {
    /// A translator with `size` bytes for code.
    ///
    /// # Errors
    /// The host's refusal of the memory.
    pub(crate) fn new(size: usize) -> io::Result<Self> {
        let memory = ExecMemory::map(c"husk-code", size)?;
        let mut asm = Asm::default();
        let stubs = stubs::write(&mut asm, &super::calls::callees());
        let len = asm.len() as u32;
        memory.write(0, asm.finish(0));
        let first = len.next_multiple_of(64);
        Ok(Self {
            memory,
            stubs,
            first,
            next: first,
            asm,
            source: None,
            blocks: Vec::new(),
            exits: Vec::new(),
            points: Vec::new(),
            known: HashMap::default(),
            seconds: HashMap::default(),
            by_page: HashMap::default(),
            ops: Vec::new(),
            flushes: 0,
            rewritten: HashMap::default(),
            cells: 0,
            demoted: HashSet::default(),
            bmi2: std::arch::is_x86_feature_detected!("bmi2"),
            singles: HashMap::default(),
            plain_at: HashMap::default(),
        })
    }

    /// How many bytes of code there are.
    pub(super) fn used(&self) -> u64 {
        u64::from(self.next - self.first)
    }

    /// Forgets everything. The table of jumps is the caller's to clear.
    pub(super) fn clear(&mut self) {
        self.blocks.clear();
        self.exits.clear();
        self.points.clear();
        self.known.clear();
        self.seconds.clear();
        self.by_page.clear();
        self.ops.clear();
        self.cells = 0;
        self.rewritten.clear();
        self.demoted.clear();
        self.singles.clear();
        self.plain_at.clear();
        self.next = self.first;
        self.memory.discard(self.first as usize);
        self.flushes += 1;
    }

    /// Where the second page of `block` is, if it crosses into one.
    pub(super) fn second_of(&self, block: u32) -> Option<u64> {
        if self.blocks[block as usize].crosses { self.seconds.get(&block).copied() } else { None }
    }

    /// Whether `exit` is the first one of its block.
    pub(super) fn is_first_exit(&self, exit: u32) -> bool {
        let from = self.exits[exit as usize].from;
        exit.checked_sub(1).is_none_or(|before| self.exits[before as usize].from != from)
    }

    /// Notes that code of `page` was dropped because it was written to; whether that has now been often enough to let
    /// its code look after itself.
    pub(super) fn note_rewritten(&mut self, page: usize) -> bool {
        let times = self.rewritten.entry(page).or_default();
        *times += 1;
        *times == OFTEN
    }

    /// Whether the code of `page` is rewritten often.
    pub(super) fn is_rewritten(&self, page: usize) -> bool {
        self.rewritten.get(&page).is_some_and(|times| *times >= OFTEN)
    }

    /// The address of a block's code.
    pub(super) fn entry(&self, block: u32) -> *const u8 {
        self.memory.address(self.blocks[block as usize].code.0 as usize)
    }

    /// The block whose code holds `offset`.
    pub(super) fn block_at(&self, offset: u32) -> Option<u32> {
        let index = self.blocks.partition_point(|block| block.code.0 <= offset).checked_sub(1)?;
        (offset < self.blocks[index].code.1).then_some(index as u32)
    }

    /// The instruction of `block` whose code holds `offset`: its RIP, its number and its length.
    pub(super) fn instruction_at(&self, block: u32, offset: u32) -> (u64, usize, u8) {
        let block = &self.blocks[block as usize];
        let points = &self.points[block.points as usize..][..usize::from(block.count)];
        let within = offset - block.code.0;
        let mut rip = block.key.rip;
        for (i, point) in points.iter().enumerate() {
            let end = points.get(i + 1).map_or(u32::MAX, |next| next.host.into());
            if within < end {
                return (rip, i, point.len);
            }
            rip = rip.wrapping_add(point.len.into());
        }
        (rip, 0, 0)
    }

    /// What is known of the instructions of `block`, and of what is behind them.
    pub(super) fn points_of(&self, block: u32) -> &[Point] {
        let block = &self.blocks[block as usize];
        &self.points[block.points as usize..][..=usize::from(block.count)]
    }

    /// What is known of instruction `index` of `block`: as [`Point::live`].
    pub(super) fn point_of(&self, block: u32, index: usize) -> u8 {
        self.points_of(block).get(index).map_or(0, |point| point.live)
    }

    /// The address of the code of instruction `index` of `block`, if there is one.
    pub(super) fn code_of(&self, block: u32, index: usize) -> Option<*const u8> {
        let start = self.blocks[block as usize].code.0 as usize;
        self.points_of(block).get(index).map(|point| self.memory.address(start + usize::from(point.host)))
    }

    /// Leads `exit` to `block`, in the space with the tag `space` if it leaves its page.
    pub(super) fn link(&mut self, exit: u32, block: u32, space: u32) {
        let Exit { jump, space: space_at, to, from, round, .. } = self.exits[exit as usize];
        let entry = self.blocks[block as usize].code.0 + if from == block { u32::from(round) } else { 0 };
        if space_at != 0 {
            self.memory.write(jump as usize - usize::from(space_at), &space.to_le_bytes());
        }
        if to == block {
            return;
        }
        if to != NONE {
            self.take_out(exit, to);
        }
        self.memory.write(jump as usize, &entry.wrapping_sub(jump + 4).to_le_bytes());
        let next = std::mem::replace(&mut self.blocks[block as usize].incoming, exit);
        let exit = &mut self.exits[exit as usize];
        (exit.to, exit.next) = (block, next);
    }

    /// Takes `exit` out of the list of those that lead to `block`.
    fn take_out(&mut self, exit: u32, block: u32) {
        let after = self.exits[exit as usize].next;
        if self.blocks[block as usize].incoming == exit {
            self.blocks[block as usize].incoming = after;
            return;
        }
        let mut at = self.blocks[block as usize].incoming;
        while at != NONE {
            let next = self.exits[at as usize].next;
            if next == exit {
                self.exits[at as usize].next = after;
                return;
            }
            at = next;
        }
    }

    /// Makes sure that nobody comes to `block` any more. Gives its RIP and the address of its code, for the table of
    /// jumps.
    pub(super) fn kill(&mut self, block: u32) -> (u64, u64) {
        let dead = &mut self.blocks[block as usize];
        dead.dead = true;
        let key = dead.key;
        let mut exit = std::mem::replace(&mut dead.incoming, NONE);
        while exit != NONE {
            let e = &mut self.exits[exit as usize];
            let distance = u32::from(e.stub).wrapping_sub(4);
            self.memory.write(e.jump as usize, &distance.to_le_bytes());
            e.to = NONE;
            exit = std::mem::replace(&mut e.next, NONE);
        }
        if self.known.get(&key) == Some(&block) {
            self.known.remove(&key);
        }
        (key.rip, self.entry(block) as u64)
    }

    /// Kills the blocks that depend on `lines` of `page`; `forget` is told of each.
    pub(super) fn invalidate(&mut self, page: usize, lines: u64, mut forget: impl FnMut(u64, u64)) -> u64 {
        let Some(list) = self.by_page.get_mut(&page) else { return 0 };
        let mut list = std::mem::take(list);
        let mut killed = 0;
        list.retain(|block| {
            let hit = self.blocks[*block as usize].lines & lines != 0;
            if hit {
                let (rip, code) = self.kill(*block);
                forget(rip, code);
                killed += 1;
            }
            !hit
        });
        if list.is_empty() {
            self.by_page.remove(&page);
        } else {
            self.by_page.insert(page, list);
        }
        killed
    }
}
