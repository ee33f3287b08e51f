//! A writer of host code: bytes, with jumps between a hot and a cold stream.
//!
//! Only the few forms that the translator needs. Everything of a vCPU is addressed relative to GS.

/// Host registers by their number.
pub(super) mod r {
    pub(crate) const RAX: u8 = 0;
    pub(crate) const RCX: u8 = 1;
    pub(crate) const RBX: u8 = 3;
    pub(crate) const RSP: u8 = 4;
    pub(crate) const RBP: u8 = 5;
    pub(crate) const RSI: u8 = 6;
    pub(crate) const RDI: u8 = 7;
    pub(crate) const R10: u8 = 10;
    pub(crate) const R11: u8 = 11;
    pub(crate) const R12: u8 = 12;
    pub(crate) const R13: u8 = 13;
    pub(crate) const R14: u8 = 14;
    pub(crate) const R15: u8 = 15;
}

/// Condition codes.
pub(super) mod cc {
    pub(crate) const E: u8 = 4;
    pub(crate) const NE: u8 = 5;
    pub(crate) const A: u8 = 7;
}

/// A place in the code, perhaps not yet known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Label(u16);

/// Where code goes: what usually runs, and behind it what seldom does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Stream {
    #[default]
    Hot,
    Cold,
}

#[derive(Clone, Copy)]
struct Fixup {
    stream: Stream,
    at: u32,
    label: Label,
    /// Not a jump's distance but the offset of the label from the start of the code memory.
    absolute: bool,
}

/// Code in the making.
#[derive(Default)]
pub(super) struct Asm {
    hot: Vec<u8>,
    cold: Vec<u8>,
    stream: Stream,
    labels: Vec<Option<(Stream, u32)>>,
    fixups: Vec<Fixup>,
    /// Jumps to places elsewhere in the code memory: stream, position of the distance, offset of the target.
    outward: Vec<(Stream, u32, u32)>,
}

impl Asm {
    pub(super) fn clear(&mut self) {
        self.hot.clear();
        self.cold.clear();
        self.stream = Stream::Hot;
        self.labels.clear();
        self.fixups.clear();
        self.outward.clear();
    }

    fn buf(&mut self) -> &mut Vec<u8> {
        match self.stream {
            Stream::Hot => &mut self.hot,
            Stream::Cold => &mut self.cold,
        }
    }

    /// Chooses the stream that is written from now on.
    pub(super) fn stream(&mut self, stream: Stream) {
        self.stream = stream;
    }

    /// How much has been written into the hot stream.
    pub(super) fn hot_len(&self) -> usize {
        self.hot.len()
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.buf().extend_from_slice(bytes);
    }

    pub(super) fn byte(&mut self, byte: u8) {
        self.buf().push(byte);
    }

    pub(super) fn imm32(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }

    pub(super) fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() as u16 - 1)
    }

    /// The label is here.
    pub(super) fn bind(&mut self, label: Label) {
        let at = self.buf().len() as u32;
        self.labels[usize::from(label.0)] = Some((self.stream, at));
    }

    /// A new label, here.
    pub(super) fn here(&mut self) -> Label {
        let label = self.label();
        self.bind(label);
        label
    }

    fn rel32(&mut self, label: Label) {
        let (stream, at) = (self.stream, self.buf().len() as u32);
        self.fixups.push(Fixup { stream, at, label, absolute: false });
        self.imm32(0);
    }

    pub(super) fn jmp(&mut self, label: Label) {
        self.byte(0xe9);
        self.rel32(label);
    }

    pub(super) fn jcc(&mut self, cc: u8, label: Label) {
        self.bytes(&[0x0f, 0x80 | cc]);
        self.rel32(label);
    }

    /// The distance of a jump whose opcode has been written.
    pub(super) fn jump_distance(&mut self, label: Label) {
        self.rel32(label);
    }

    /// A jump to offset `target` of the code memory.
    pub(super) fn jmp_out(&mut self, target: u32) {
        self.byte(0xe9);
        self.outward(target);
    }

    /// A call of what is at offset `target` of the code memory.
    pub(super) fn call_to(&mut self, target: u32) {
        self.byte(0xe8);
        self.outward(target);
    }

    /// An instruction on `gs:[at]`: its prefixes behind GS and its opcode in `opcode`, `reg` in its ModRM.
    pub(super) fn gs_absolute(&mut self, opcode: &[u8], reg: u8, at: i32) {
        self.byte(0x65);
        self.bytes(opcode);
        self.bytes(&[0x04 | (reg & 7) << 3, 0x25]);
        self.imm32(at as u32);
    }

    /// `test byte gs:[at], imm`
    pub(super) fn gs_test8(&mut self, at: i32, imm: u8) {
        self.gs_absolute(&[0xf6], 0, at);
        self.byte(imm);
    }

    fn outward(&mut self, target: u32) {
        let (stream, at) = (self.stream, self.buf().len() as u32);
        self.outward.push((stream, at, target));
        self.imm32(0);
    }

    /// `mov dword gs:[at], offset of label`
    pub(super) fn gs_store_label(&mut self, at: i32, label: Label) {
        self.bytes(&[0x65, 0xc7, 0x04, 0x25]);
        self.imm32(at as u32);
        let (stream, position) = (self.stream, self.buf().len() as u32);
        self.fixups.push(Fixup { stream, at: position, label, absolute: true });
        self.imm32(0);
    }

    /// `op reg, gs:[at]` (or the other way for a store), 64 bits.
    pub(super) fn gs(&mut self, opcode: u8, reg: u8, at: i32) {
        self.bytes(&[0x65, 0x48 | (reg >> 3) << 2, opcode, 0x04 | (reg & 7) << 3, 0x25]);
        self.imm32(at as u32);
    }

    /// `mov reg, gs:[at]`
    pub(super) fn gs_load(&mut self, reg: u8, at: i32) {
        self.gs(0x8b, reg, at);
    }

    /// `mov gs:[at], reg`
    pub(super) fn gs_store(&mut self, at: i32, reg: u8) {
        self.gs(0x89, reg, at);
    }

    /// `mov gs:[at], reg`, 32 bits.
    pub(super) fn gs_store32(&mut self, at: i32, reg: u8) {
        self.byte(0x65);
        if reg >= 8 {
            self.byte(0x44);
        }
        self.bytes(&[0x89, 0x04 | (reg & 7) << 3, 0x25]);
        self.imm32(at as u32);
    }

    /// `mov dword gs:[at], imm`
    pub(super) fn gs_store_imm32(&mut self, at: i32, imm: u32) {
        self.bytes(&[0x65, 0xc7, 0x04, 0x25]);
        self.imm32(at as u32);
        self.imm32(imm);
    }

    /// `mov qword gs:[at], imm`, sign-extended.
    pub(super) fn gs_store_imm64(&mut self, at: i32, imm: i32) {
        self.bytes(&[0x65, 0x48, 0xc7, 0x04, 0x25]);
        self.imm32(at as u32);
        self.imm32(imm as u32);
    }

    /// `cmp dword gs:[at], imm`
    pub(super) fn gs_cmp_imm32(&mut self, at: i32, imm: u32) {
        self.bytes(&[0x65, 0x81, 0x3c, 0x25]);
        self.imm32(at as u32);
        self.imm32(imm);
    }

    /// `cmp dword gs:[at], imm`
    pub(super) fn gs_cmp_imm8(&mut self, at: i32, imm: i8) {
        self.bytes(&[0x65, 0x83, 0x3c, 0x25]);
        self.imm32(at as u32);
        self.byte(imm as u8);
    }

    /// `jmp gs:[at]`
    pub(super) fn gs_jmp(&mut self, at: i32) {
        self.bytes(&[0x65, 0xff, 0x24, 0x25]);
        self.imm32(at as u32);
    }

    /// `op reg, gs:[base + at]`, 64 bits; `base` is neither RSP nor R12.
    pub(super) fn gs_indexed(&mut self, opcode: u8, reg: u8, base: u8, at: i32) {
        self.bytes(&[0x65, 0x48 | (reg >> 3) << 2 | base >> 3, opcode, 0x80 | (reg & 7) << 3 | base & 7]);
        self.imm32(at as u32);
    }

    /// `movzx reg, word gs:[at]`
    pub(super) fn gs_load16(&mut self, reg: u8, at: i32) {
        self.byte(0x65);
        if reg >= 8 {
            self.byte(0x44);
        }
        self.bytes(&[0x0f, 0xb7, 0x04 | (reg & 7) << 3, 0x25]);
        self.imm32(at as u32);
    }

    /// `mov reg, gs:[at]`, 32 bits.
    pub(super) fn gs_load32(&mut self, reg: u8, at: i32) {
        self.byte(0x65);
        if reg >= 8 {
            self.byte(0x44);
        }
        self.bytes(&[0x8b, 0x04 | (reg & 7) << 3, 0x25]);
        self.imm32(at as u32);
    }

    /// `test byte gs:[base], 1`; `base` is one of R8 to R15 but R12.
    pub(super) fn gs_test_indexed_odd(&mut self, base: u8) {
        self.bytes(&[0x65, 0x41, 0xf6, 0x80 | base & 7]);
        self.imm32(0);
        self.byte(1);
    }

    /// `mov dword gs:[base], reg`; both are among R8 to R15, `base` is not R12.
    pub(super) fn gs_store32_indexed(&mut self, base: u8, reg: u8) {
        self.bytes(&[0x65, 0x45, 0x89, 0x80 | (reg & 7) << 3 | base & 7]);
        self.imm32(0);
    }

    /// `sub dword gs:[base + at], 1`; `base` is one of R8 to R15, but not R12.
    pub(super) fn gs_decrement_indexed(&mut self, base: u8, at: i32) {
        self.bytes(&[0x65, 0x41, 0x83, 0xa8 | base & 7]);
        self.imm32(at as u32);
        self.byte(1);
    }

    /// `jmp gs:[base + at]`; `base` is one of R8 to R15, but not R12.
    pub(super) fn gs_jmp_indexed(&mut self, base: u8, at: i32) {
        self.bytes(&[0x65, 0x41, 0xff, 0xa0 | base & 7]);
        self.imm32(at as u32);
    }

    /// `mov dst, src`, 64 bits.
    pub(super) fn mov(&mut self, dst: u8, src: u8) {
        self.bytes(&[0x48 | (src >> 3) << 2 | dst >> 3, 0x89, 0xc0 | (src & 7) << 3 | dst & 7]);
    }

    /// `mov dst, src`, 32 bits.
    pub(super) fn mov32(&mut self, dst: u8, src: u8) {
        if dst >= 8 || src >= 8 {
            self.byte(0x40 | (src >> 3) << 2 | dst >> 3);
        }
        self.bytes(&[0x89, 0xc0 | (src & 7) << 3 | dst & 7]);
    }

    /// The shortest `mov dst, imm`; leaves the flags.
    pub(super) fn mov_imm(&mut self, dst: u8, imm: u64) {
        if imm <= u64::from(u32::MAX) {
            if dst >= 8 {
                self.byte(0x41);
            }
            self.byte(0xb8 | dst & 7);
            self.imm32(imm as u32);
        } else if imm as i64 == i64::from(imm as i32) {
            self.bytes(&[0x48 | dst >> 3, 0xc7, 0xc0 | dst & 7]);
            self.imm32(imm as u32);
        } else {
            self.bytes(&[0x48 | dst >> 3, 0xb8 | dst & 7]);
            self.bytes(&imm.to_le_bytes());
        }
    }

    /// `lea dst, [base + index << scale + disp]`, 64 bits or, with `short`, 32; no index: `None`.
    pub(super) fn lea(&mut self, dst: u8, base: Option<u8>, index: Option<(u8, u8)>, disp: i32, short: bool) {
        let wide = if short { 0 } else { 8 };
        let rex = 0x40 | wide | (dst >> 3) << 2 | index.map_or(0, |(i, _)| (i >> 3) << 1) | base.map_or(0, |b| b >> 3);
        self.bytes(&[rex, 0x8d]);
        self.address(dst, base, index, disp);
    }

    /// ModRM, SIB and displacement of `[base + index << scale + disp]`.
    pub(super) fn address(&mut self, reg: u8, base: Option<u8>, index: Option<(u8, u8)>, disp: i32) {
        let reg = (reg & 7) << 3;
        let Some(base) = base else {
            let (i, s) = index.unwrap_or((4, 0));
            self.bytes(&[reg | 4, s << 6 | (i & 7) << 3 | 5]);
            return self.imm32(disp as u32);
        };
        let (mode, small) = match disp {
            0 if base & 7 != 5 => (0, true),
            -128..=127 => (0x40, true),
            _ => (0x80, false),
        };
        if index.is_some() || base & 7 == 4 {
            let (i, s) = index.unwrap_or((4, 0));
            self.bytes(&[mode | reg | 4, s << 6 | (i & 7) << 3 | base & 7]);
        } else {
            self.byte(mode | reg | base & 7);
        }
        match (mode, small) {
            (0, _) => {}
            (_, true) => self.byte(disp as u8),
            _ => self.imm32(disp as u32),
        }
    }

    /// `op reg, [base + index + disp]`, 64 bits.
    pub(super) fn memory(&mut self, opcode: u8, reg: u8, base: u8, index: Option<(u8, u8)>, disp: i32) {
        let rex = 0x48 | (reg >> 3) << 2 | index.map_or(0, |(i, _)| (i >> 3) << 1) | base >> 3;
        self.bytes(&[rex, opcode]);
        self.address(reg, Some(base), index, disp);
    }

    /// An arithmetic instruction with an immediate, `/n` in `which`, 64 bits.
    pub(super) fn alu_imm(&mut self, which: u8, dst: u8, imm: i32) {
        let rex = 0x48 | dst >> 3;
        if (-128..=127).contains(&imm) {
            self.bytes(&[rex, 0x83, 0xc0 | which << 3 | dst & 7, imm as u8]);
        } else {
            self.bytes(&[rex, 0x81, 0xc0 | which << 3 | dst & 7]);
            self.imm32(imm as u32);
        }
    }

    /// `and dst, imm`, 32 bits.
    pub(super) fn and32_imm(&mut self, dst: u8, imm: u32) {
        if dst >= 8 {
            self.byte(0x41);
        }
        self.bytes(&[0x81, 0xe0 | dst & 7]);
        self.imm32(imm);
    }

    /// `rorx dst, src, count`, 64 bits.
    pub(super) fn rorx(&mut self, dst: u8, src: u8, count: u8) {
        let not = |bit: u8| (bit ^ 1) & 1;
        self.bytes(&[0xc4, not(dst >> 3) << 7 | 1 << 6 | not(src >> 3) << 5 | 3, 0xfb, 0xf0]);
        self.bytes(&[0xc0 | (dst & 7) << 3 | src & 7, count]);
    }

    /// `shl` (4) or `shr` (5) of `dst` by `count`, 64 bits.
    pub(super) fn shift(&mut self, which: u8, dst: u8, count: u8) {
        self.bytes(&[0x48 | dst >> 3, 0xc1, 0xc0 | which << 3 | dst & 7, count]);
    }

    /// How many bytes [`Asm::finish`] will give.
    pub(super) fn len(&self) -> usize {
        self.hot.len() + self.cold.len()
    }

    /// The offset of a label from the start of this code.
    pub(super) fn offset(&self, label: Label) -> u32 {
        match self.labels[usize::from(label.0)] {
            Some((Stream::Hot, at)) => at,
            Some((Stream::Cold, at)) => self.hot.len() as u32 + at,
            None => 0,
        }
    }

    /// The code, with all jumps resolved, to be put at offset `base` of the code memory.
    pub(super) fn finish(&mut self, base: u32) -> &[u8] {
        let hot = self.hot.len() as u32;
        let place = |stream: Stream, at: u32| if stream == Stream::Hot { at } else { hot + at };
        let mut patches = Vec::with_capacity(self.fixups.len() + self.outward.len());
        for fixup in &self.fixups {
            let target = self.offset(fixup.label);
            let from = place(fixup.stream, fixup.at);
            let value = if fixup.absolute { base + target } else { target.wrapping_sub(from + 4) };
            patches.push((from, value));
        }
        for (stream, at, target) in &self.outward {
            let from = place(*stream, *at);
            patches.push((from, target.wrapping_sub(base + from + 4)));
        }
        self.hot.extend_from_slice(&self.cold);
        self.cold.clear();
        for (at, value) in patches {
            self.hot[at as usize..at as usize + 4].copy_from_slice(&value.to_le_bytes());
        }
        &self.hot
    }
}
