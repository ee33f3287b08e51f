//! A test case, its outcome, and the arena of memory in which it runs.

/// The arena: linear addresses, the same on the host and in the engine.
pub(crate) mod arena {
    /// The first byte of the data pages. Below is a hole.
    pub(crate) const DATA: u64 = 0x2000_0000;
    /// The data pages, readable, no code: 0 to 2 writable, 3 read-only, 4 a hole, 5 writable. Behind is a hole.
    pub(crate) const DATA_PAGES: usize = 6;
    /// The length of the data in bytes, with the hole.
    pub(crate) const DATA_LEN: usize = DATA_PAGES * PAGE;
    /// The page that is read-only.
    pub(crate) const READ_ONLY: usize = 3;
    /// The page that is not there.
    pub(crate) const HOLE: usize = 4;
    /// The first byte of the code pages, readable and executable, with holes on both sides.
    pub(crate) const CODE: u64 = 0x1000_0000;
    /// The number of code pages.
    pub(crate) const CODE_PAGES: usize = 2;
    /// The length of the code in bytes.
    pub(crate) const CODE_LEN: usize = CODE_PAGES * PAGE;
    /// The size of a page.
    pub(crate) const PAGE: usize = 4096;
    /// What fills the code pages: `int3`.
    pub(crate) const TRAP: u8 = 0xcc;

    /// Whether data page `page` is there.
    pub(crate) fn is_present(page: usize) -> bool {
        page != HOLE
    }

    /// Whether data page `page` can be written.
    pub(crate) fn is_writable(page: usize) -> bool {
        page != HOLE && page != READ_ONLY
    }
}

/// The size of an XSAVE area in standard format with x87, SSE and AVX.
pub(crate) const XSAVE_LEN: usize = 832;
/// The most bytes of code in a case.
pub(crate) const CODE_MAX: usize = 320;
/// The most bytes of memory that a case changes from the template before it runs.
pub(crate) const PATCH_MAX: usize = 2048;

/// A piece of the data pages that differs from the template before the case runs.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(crate) struct Patch {
    /// The offset from [`arena::DATA`].
    pub(crate) at: u32,
    /// Where its bytes start in [`Case::patch_bytes`].
    pub(crate) from: u16,
    /// Its length.
    pub(crate) len: u16,
}

/// A user-mode state and the code that starts there. Plain data: it lies in memory shared with the child.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Case {
    /// x87, SSE and AVX in the standard format of XSAVE.
    pub(crate) xsave: [u8; XSAVE_LEN],
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15.
    pub(crate) gpr: [u64; 16],
    /// Where the code is put and started.
    pub(crate) rip: u64,
    /// The status flags and DF.
    pub(crate) rflags: u64,
    /// The length of the code.
    pub(crate) code_len: u32,
    /// The number of patches.
    pub(crate) patch_count: u32,
    /// What is changed in memory.
    pub(crate) patches: [Patch; 16],
    /// Ranges of the data pages (offset, length) that are zeroed before outcomes are compared: the SDM leaves them open.
    pub(crate) blank: [(u32, u32); 4],
    /// The code.
    pub(crate) code: [u8; CODE_MAX],
    /// The bytes of the patches.
    pub(crate) patch_bytes: [u8; PATCH_MAX],
}

impl Case {
    /// A case without code.
    pub(crate) fn empty() -> Self {
        Self {
            xsave: [0; XSAVE_LEN],
            gpr: [0; 16],
            rip: 0,
            rflags: 2,
            code_len: 0,
            patch_count: 0,
            patches: [Patch::default(); 16],
            blank: [(0, 0); 4],
            code: [0; CODE_MAX],
            patch_bytes: [0; PATCH_MAX],
        }
    }

    /// The code.
    pub(crate) fn code(&self) -> &[u8] {
        &self.code[..self.code_len as usize]
    }

    /// The patches as offset and bytes.
    pub(crate) fn patches(&self) -> impl Iterator<Item = (usize, &[u8])> {
        self.patches[..self.patch_count as usize]
            .iter()
            .map(|p| (p.at as usize, &self.patch_bytes[p.from as usize..][..p.len as usize]))
    }

    /// Changes memory at linear address `at`; what is outside of the present data pages is left out.
    pub(crate) fn patch(&mut self, at: u64, bytes: &[u8]) {
        let mut done = 0;
        while done < bytes.len() {
            let offset = at.wrapping_add(done as u64).wrapping_sub(arena::DATA);
            let page = (offset / arena::PAGE as u64) as usize;
            let n = (arena::PAGE - (offset as usize & (arena::PAGE - 1))).min(bytes.len() - done);
            if offset < arena::DATA_LEN as u64 && arena::is_present(page) {
                self.patch_inside(offset as u32, &bytes[done..done + n]);
            }
            done += n;
        }
    }

    fn patch_inside(&mut self, at: u32, bytes: &[u8]) {
        let index = self.patch_count as usize;
        let from = self.patches[..index].last().map_or(0, |p| p.from as usize + p.len as usize);
        if index < self.patches.len() && from + bytes.len() <= PATCH_MAX {
            self.patch_bytes[from..from + bytes.len()].copy_from_slice(bytes);
            self.patches[index] = Patch { at, from: from as u16, len: bytes.len() as u16 };
            self.patch_count += 1;
        }
    }

    /// Leaves `len` bytes at linear address `at` out of the comparison.
    pub(crate) fn blank(&mut self, at: u64, len: u32) {
        let offset = at.wrapping_sub(arena::DATA);
        if offset < arena::DATA_LEN as u64
            && let Some(slot) = self.blank.iter_mut().find(|slot| slot.1 == 0)
        {
            *slot = (offset as u32, len.min(arena::DATA_LEN as u32 - offset as u32));
        }
    }
}

/// How a case ended.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C, align(64))]
pub(crate) struct Outcome {
    /// The extended state; FOP, FIP, FDP, MXCSR_MASK and the header are zero.
    pub(crate) xsave: [u8; XSAVE_LEN],
    /// The general registers in the order of [`Case::gpr`].
    pub(crate) gpr: [u64; 16],
    /// Behind the trap, or at the instruction that faulted.
    pub(crate) rip: u64,
    /// CF, PF, AF, ZF, SF, DF and OF.
    pub(crate) rflags: u64,
    /// The exception's vector; [`Outcome::HANG`] when there was none for too long.
    pub(crate) vector: u32,
    /// Its error code, zero where it has none.
    pub(crate) error_code: u32,
    /// The address of a page fault, else zero.
    pub(crate) cr2: u64,
    /// A hash of the blocks of memory that differ from the template.
    pub(crate) memory: u64,
    /// Which 64-byte blocks of the data pages differ from the template.
    pub(crate) changed: [u64; arena::DATA_PAGES],
}

impl Outcome {
    /// In [`Outcome::vector`]: the case did not end.
    pub(crate) const HANG: u32 = 0x100;
    /// The bits of RFLAGS that are compared.
    pub(crate) const FLAGS: u64 = 0xcd5;

    /// An outcome with everything zero.
    pub(crate) const fn zero() -> Self {
        Self {
            xsave: [0; XSAVE_LEN],
            gpr: [0; 16],
            rip: 0,
            rflags: 0,
            vector: 0,
            error_code: 0,
            cr2: 0,
            memory: 0,
            changed: [0; arena::DATA_PAGES],
        }
    }

    /// Brings what is not compared to a common form.
    pub(crate) fn normalise(&mut self) {
        self.xsave[6..24].fill(0);
        self.xsave[28..32].fill(0);
        self.xsave[416..576].fill(0);
        self.rflags &= Self::FLAGS;
        if self.vector != 14 {
            self.cr2 = 0;
        } else if self.cr2 >= (1 << 47) - arena::PAGE as u64 {
            // Linux hides from user programs what is mapped beyond their part.
            self.error_code &= !1;
        }
    }
}

/// Folds the blocks of `page` (a present data page) that differ from the template into `outcome`, and says which they are.
pub(crate) fn fold_page(outcome: &mut Outcome, index: usize, page: &[u8], template: &[u8]) -> u64 {
    let mut changed = 0u64;
    for (block, (now, before)) in page.chunks_exact(64).zip(template.chunks_exact(64)).enumerate() {
        if now == before {
            continue;
        }
        changed |= 1 << block;
        let mut hash = outcome.memory ^ ((index as u64) << 32 | block as u64 | 1 << 63);
        for word in now.chunks_exact(8) {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(word);
            hash = (hash ^ u64::from_le_bytes(bytes)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        }
        outcome.memory = hash;
    }
    outcome.changed[index] = changed;
    changed
}
