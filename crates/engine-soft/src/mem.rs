//! How instructions reach memory: segments, the TLB's fast path, and everything that the fast path does not do.

use std::arch::asm;

use x86::Segment;
use x86::bits::vector;

use crate::cpu::{Cpu, Exec, Raised, reg, sreg};
use crate::flags::Flags;
use crate::mmu::{Access, Target, is_canonical, table};
use crate::op::{HIGH_BYTE, Op, has};

const PAGE: u64 = 4096;

/// An operand size: `u8`, `u16`, `u32`, `u64`.
pub(crate) trait Word: Copy + Eq + std::fmt::Debug + 'static {
    const BITS: u32;
    const SIZE: u64;
    fn from_u64(value: u64) -> Self;
    /// Zero-extended.
    fn to_u64(self) -> u64;
    /// Sign-extended.
    fn sext(self) -> u64;
    /// Reads register `reg` in this size.
    fn get(cpu: &Cpu, reg: u8) -> Self;
    /// Writes register `reg` in this size: 4 bytes clear the upper half, fewer leave the rest.
    fn set(cpu: &mut Cpu, reg: u8, value: Self);
    /// # Safety
    /// `at` must point to `SIZE` readable bytes.
    unsafe fn load(at: *const u8) -> Self;
    /// # Safety
    /// `at` must point to `SIZE` writable bytes.
    unsafe fn store(at: *mut u8, value: Self);
    /// Locked compare-and-exchange; gives the old value. Atomic for addresses of any alignment.
    ///
    /// # Safety
    /// `at` must point to `SIZE` writable bytes.
    unsafe fn compare_exchange(at: *mut u8, old: Self, new: Self) -> Self;
}

/// Guest memory is written by other threads at any time and at any alignment, which no Rust reference or atomic
/// allows; one host instruction per access is exactly what the guest's own instruction would have done.
macro_rules! word {
    ($t:ty, $s:ty, $size:literal, $reg:ident, $ptr:literal, $acc:tt, $modifier:literal, $get:expr, $set:expr) => {
        impl Word for $t {
            const BITS: u32 = $size * 8;
            const SIZE: u64 = $size;
            #[inline(always)]
            fn from_u64(value: u64) -> Self {
                value as $t
            }
            #[inline(always)]
            fn to_u64(self) -> u64 {
                self as u64
            }
            #[inline(always)]
            fn sext(self) -> u64 {
                self as $s as i64 as u64
            }
            #[inline(always)]
            fn get(cpu: &Cpu, reg: u8) -> Self {
                let get: fn(&Cpu, u8) -> $t = $get;
                get(cpu, reg)
            }
            #[inline(always)]
            fn set(cpu: &mut Cpu, reg: u8, value: Self) {
                let set: fn(&mut Cpu, u8, $t) = $set;
                set(cpu, reg, value);
            }
            #[inline(always)]
            unsafe fn load(at: *const u8) -> Self {
                let value: $t;
                // SAFETY: the caller's promise.
                unsafe {
                    asm!(concat!("mov {0", $modifier, "}, ", $ptr, " ptr [{1}]"), out($reg) value, in(reg) at,
                        options(nostack, preserves_flags, readonly));
                }
                value
            }
            #[inline(always)]
            unsafe fn store(at: *mut u8, value: Self) {
                // SAFETY: the caller's promise.
                unsafe {
                    asm!(concat!("mov ", $ptr, " ptr [{1}], {0", $modifier, "}"), in($reg) value, in(reg) at,
                        options(nostack, preserves_flags));
                }
            }
            #[inline(always)]
            unsafe fn compare_exchange(at: *mut u8, old: Self, new: Self) -> Self {
                let mut seen = old;
                // SAFETY: the caller's promise.
                unsafe {
                    asm!(concat!("lock cmpxchg ", $ptr, " ptr [{1}], {0", $modifier, "}"), in($reg) new, in(reg) at,
                        inout($acc) seen, options(nostack));
                }
                seen
            }
        }
    };
}

word!(
    u8,
    i8,
    1,
    reg_byte,
    "byte",
    "al",
    "",
    |cpu, r| if r & HIGH_BYTE != 0 {
        (cpu.regs[(r & 3) as usize] >> 8) as u8
    } else {
        cpu.regs[(r & 31) as usize] as u8
    },
    |cpu, r, v| if r & HIGH_BYTE != 0 {
        let full = &mut cpu.regs[(r & 3) as usize];
        *full = *full & !0xff00 | u64::from(v) << 8;
    } else {
        let full = &mut cpu.regs[(r & 31) as usize];
        *full = *full & !0xff | u64::from(v);
    }
);
word!(u16, i16, 2, reg, "word", "ax", ":x", |cpu, r| cpu.regs[(r & 31) as usize] as u16, |cpu, r, v| {
    let full = &mut cpu.regs[(r & 31) as usize];
    *full = *full & !0xffff | u64::from(v);
});
word!(u32, i32, 4, reg, "dword", "eax", ":e", |cpu, r| cpu.regs[(r & 31) as usize] as u32, |cpu, r, v| {
    cpu.regs[(r & 31) as usize] = u64::from(v);
});
word!(u64, i64, 8, reg, "qword", "rax", ":r", |cpu, r| cpu.regs[(r & 31) as usize], |cpu, r, v| {
    cpu.regs[(r & 31) as usize] = v;
});

/// A range of RAM within one page that is about to be written.
pub(crate) struct HostTarget {
    pub(crate) host: *mut u8,
    lin: u64,
    len: u64,
    /// The page, if there was no right to write it silently.
    page: Option<usize>,
}

/// The size of the next bus access of `left` bytes: devices see 1, 2, 4 or 8.
fn bus_piece(left: usize) -> usize {
    match left {
        8.. => 8,
        4.. => 4,
        2.. => 2,
        _ => 1,
    }
}

impl Cpu {
    /// The linear address of `op`'s memory operand of `size` bytes, segment checks done.
    #[inline(always)]
    pub(crate) fn address(&mut self, op: &Op, size: u64, write: bool) -> Exec<u64> {
        let offset = op.offset(self);
        if op.has(has::SEGMENTED) {
            return self.segmented(op.seg as usize, offset, size, write);
        }
        // 64-bit mode: only FS and GS have a base.
        if op.seg as usize >= sreg::FS {
            Ok(offset.wrapping_add(self.seg[op.seg as usize % 6].base))
        } else {
            Ok(offset)
        }
    }

    /// The linear address of `size` bytes at `offset` of segment `seg` in the current mode, segment checks done.
    pub(crate) fn seg_address(&mut self, seg: usize, offset: u64, size: u64, write: bool) -> Exec<u64> {
        if self.is64() {
            let base = if seg >= sreg::FS { self.seg[seg].base } else { 0 };
            return Ok(offset.wrapping_add(base));
        }
        self.segmented(seg, offset, size, write)
    }

    /// SDM vol. 3A, 5.3 and 5.5: limit and type checks outside of 64-bit mode.
    fn segmented(&mut self, seg: usize, offset: u64, size: u64, write: bool) -> Exec<u64> {
        let s = self.seg[seg % 6];
        let last = offset.wrapping_add(size - 1);
        let mut ok = if s.has(Segment::S | Segment::EXPAND_DOWN_OR_CONFORMING) && !s.has(Segment::CODE) {
            let top = if s.has(Segment::DB) { 0xffff_ffff } else { 0xffff };
            offset > u64::from(s.limit) && last <= top
        } else {
            last <= u64::from(s.limit)
        };
        // An access that wraps around the end of a flat 4 GiB segment is within its limit.
        if !ok && s.limit == u32::MAX && !s.has(Segment::EXPAND_DOWN_OR_CONFORMING) {
            ok = true;
        }
        if !self.paragraph_segments() {
            let kind_ok = if s.has(Segment::CODE) {
                !write && s.has(Segment::WRITABLE_OR_READABLE)
            } else {
                !write || s.has(Segment::WRITABLE_OR_READABLE)
            };
            ok = ok && kind_ok && s.is_usable();
        }
        if !ok {
            return Err(if seg == sreg::SS { self.ss(0) } else { self.gp(0) });
        }
        Ok(s.base.wrapping_add(offset) & 0xffff_ffff)
    }

    /// A non-canonical address in the stack segment is #SS, not #GP (SDM vol. 3A, 6.15, interrupt 12).
    #[cold]
    pub(crate) fn blame(&mut self, op: &Op, raised: Raised) -> Raised {
        if self.fault.vector == vector::GP && op.seg as usize == sreg::SS && self.is64() {
            return self.ss(0);
        }
        raised
    }

    /// Loads `op`'s memory operand.
    #[inline(always)]
    pub(crate) fn load<T: Word>(&mut self, op: &Op) -> Exec<T> {
        let lin = self.address(op, T::SIZE, false)?;
        match self.read_lin(lin) {
            Ok(value) => Ok(value),
            Err(raised) => Err(self.blame(op, raised)),
        }
    }

    /// Stores to `op`'s memory operand.
    #[inline(always)]
    pub(crate) fn store<T: Word>(&mut self, op: &Op, value: T) -> Exec {
        let lin = self.address(op, T::SIZE, true)?;
        match self.write_lin(lin, value) {
            Ok(()) => Ok(()),
            Err(raised) => Err(self.blame(op, raised)),
        }
    }

    /// Reads, computes and writes back `op`'s memory operand; atomically with LOCK. `f` may run several times, each
    /// time from the flags of before; they are set when the write has succeeded.
    #[inline(always)]
    pub(crate) fn modify<T: Word, R>(&mut self, op: &Op, f: impl Fn(&mut Flags, T) -> (T, R)) -> Exec<R> {
        let lin = self.address(op, T::SIZE, true)?;
        let entry = self.mmu.entry(self.data_table, lin);
        if lin.wrapping_sub(entry.write) <= PAGE - T::SIZE {
            let host = lin.wrapping_sub(entry.write).wrapping_add(entry.host) as *mut u8;
            // SAFETY: a write tag covers the whole access.
            return Ok(unsafe { self.modify_host(host, op.has(has::LOCK), f) });
        }
        match self.modify_slow(lin, op.has(has::LOCK), f) {
            Ok(r) => Ok(r),
            Err(raised) => Err(self.blame(op, raised)),
        }
    }

    /// # Safety
    /// `host` must point to `T::SIZE` writable bytes.
    #[inline(always)]
    unsafe fn modify_host<T: Word, R>(&mut self, host: *mut u8, lock: bool, f: impl Fn(&mut Flags, T) -> (T, R)) -> R {
        // SAFETY: the caller's promise.
        let mut old = unsafe { T::load(host) };
        loop {
            let mut flags = self.flags;
            let (new, r) = f(&mut flags, old);
            if lock {
                // SAFETY: the caller's promise.
                let seen = unsafe { T::compare_exchange(host, old, new) };
                if seen != old {
                    old = seen;
                    continue;
                }
            } else {
                // SAFETY: the caller's promise.
                unsafe { T::store(host, new) };
            }
            self.flags = flags;
            return r;
        }
    }

    #[cold]
    #[inline(never)]
    fn modify_slow<T: Word, R>(&mut self, lin: u64, lock: bool, f: impl Fn(&mut Flags, T) -> (T, R)) -> Exec<R> {
        self.check_access(self.data_table, lin, T::SIZE, Access::Write)?;
        if lin & (PAGE - 1) <= PAGE - T::SIZE
            && let Target::Ram { host, page, writable: true } = self.translate(lin, Access::Write, self.data_table)?
        {
            // SAFETY: the access lies in one page of RAM.
            let r = unsafe { self.modify_host(host, lock, f) };
            self.wrote(page, lin, T::SIZE);
            return Ok(r);
        }
        // Across pages or to a device: both pages are probed before the first byte, then a read and a write. LOCK
        // across pages excludes other such accesses of the partition, not plain ones.
        let shared = std::sync::Arc::clone(&self.shared);
        let _excluded = lock.then(|| shared.split_lock.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        self.probe(lin, T::SIZE, true)?;
        let old = self.read_lin::<T>(lin)?;
        let mut flags = self.flags;
        let (new, r) = f(&mut flags, old);
        self.write_lin(lin, new)?;
        self.flags = flags;
        Ok(r)
    }

    /// Reads at the current privilege.
    #[inline(always)]
    pub(crate) fn read_lin<T: Word>(&mut self, lin: u64) -> Exec<T> {
        self.read_in(self.data_table, lin)
    }

    /// Writes at the current privilege.
    #[inline(always)]
    pub(crate) fn write_lin<T: Word>(&mut self, lin: u64, value: T) -> Exec {
        self.write_in(self.data_table, lin, value)
    }

    /// Reads as the CPU itself does: descriptors, task states.
    pub(crate) fn read_sys<T: Word>(&mut self, lin: u64) -> Exec<T> {
        self.read_in(self.system_table(), lin)
    }

    /// Writes as the CPU itself does.
    pub(crate) fn write_sys<T: Word>(&mut self, lin: u64, value: T) -> Exec {
        self.write_in(self.system_table(), lin, value)
    }

    /// Changes a word as the CPU itself does, atomically; gives the old value.
    pub(crate) fn update_sys<T: Word>(&mut self, lin: u64, f: impl Fn(T) -> T) -> Exec<T> {
        let table = self.system_table();
        if lin & (PAGE - 1) <= PAGE - T::SIZE
            && let Target::Ram { host, page, writable: true } = self.translate(lin, Access::Write, table)?
        {
            let flags = self.flags;
            // SAFETY: the access lies in one page of RAM.
            let old = unsafe { self.modify_host(host, true, |_, old: T| (f(old), old)) };
            self.flags = flags;
            self.wrote(page, lin, T::SIZE);
            return Ok(old);
        }
        let old = self.read_in::<T>(table, lin)?;
        self.write_in(table, lin, f(old))?;
        Ok(old)
    }

    /// Implicit accesses are the supervisor's, and AC does not lift SMAP for them (SDM vol. 3A, 4.6).
    fn system_table(&self) -> u8 {
        if self.cr4 & x86::bits::cr4::SMAP == 0 { table::SUPERVISOR_AC } else { table::SUPERVISOR }
    }

    #[inline(always)]
    fn read_in<T: Word>(&mut self, table: u8, lin: u64) -> Exec<T> {
        let entry = self.mmu.entry(table, lin);
        if lin.wrapping_sub(entry.read) <= PAGE - T::SIZE {
            // SAFETY: a read tag covers the whole access.
            return Ok(unsafe { T::load(lin.wrapping_sub(entry.read).wrapping_add(entry.host) as *const u8) });
        }
        self.read_slow(table, lin)
    }

    #[inline(always)]
    fn write_in<T: Word>(&mut self, table: u8, lin: u64, value: T) -> Exec {
        let entry = self.mmu.entry(table, lin);
        if lin.wrapping_sub(entry.write) <= PAGE - T::SIZE {
            // SAFETY: a write tag covers the whole access.
            unsafe { T::store(lin.wrapping_sub(entry.write).wrapping_add(entry.host) as *mut u8, value) };
            return Ok(());
        }
        self.write_slow(table, lin, value)
    }

    #[cold]
    #[inline(never)]
    fn read_slow<T: Word>(&mut self, table: u8, lin: u64) -> Exec<T> {
        self.check_access(table, lin, T::SIZE, Access::Read)?;
        if lin & (PAGE - 1) > PAGE - T::SIZE {
            let mut bytes = [0; 8];
            self.read_bytes_in(table, lin, &mut bytes[..T::SIZE as usize])?;
            return Ok(T::from_u64(u64::from_le_bytes(bytes)));
        }
        match self.translate(lin, Access::Read, table)? {
            // SAFETY: the access lies in one page of guest memory.
            Target::Ram { host, .. } => Ok(unsafe { T::load(host) }),
            Target::Bus(at) => {
                let mut bytes = [0; 8];
                self.bus_read(at, &mut bytes[..T::SIZE as usize]);
                Ok(T::from_u64(u64::from_le_bytes(bytes)))
            }
        }
    }

    #[cold]
    #[inline(never)]
    fn write_slow<T: Word>(&mut self, table: u8, lin: u64, value: T) -> Exec {
        self.check_access(table, lin, T::SIZE, Access::Write)?;
        let bytes = value.to_u64().to_le_bytes();
        if lin & (PAGE - 1) > PAGE - T::SIZE {
            return self.write_bytes_in(table, lin, &bytes[..T::SIZE as usize]);
        }
        match self.translate(lin, Access::Write, table)? {
            Target::Ram { host, page, writable: true } => {
                // SAFETY: the access lies in one page of RAM.
                unsafe { T::store(host, value) };
                self.wrote(page, lin, T::SIZE);
            }
            Target::Ram { .. } => {}
            Target::Bus(at) => self.bus_write(at, &bytes[..T::SIZE as usize]),
        }
        Ok(())
    }

    /// What only the slow path looks at: alignment checks and watched addresses.
    fn check_access(&mut self, table: u8, lin: u64, size: u64, access: Access) -> Exec {
        self.note_watch(lin, size, access == Access::Write);
        if table == table::CHECKED && size.is_power_of_two() && lin & (size - 1) != 0 {
            return Err(self.raise_code(vector::AC, 0));
        }
        Ok(())
    }

    /// After a write of `len` bytes at `lin`, in page `page` of RAM, that was not silent.
    #[inline]
    pub(crate) fn wrote(&mut self, page: usize, lin: u64, len: u64) {
        self.shared.memory.flags().written(page, (lin & (PAGE - 1)) as usize, len as usize);
        // The lines may have lost their marks to another vCPU's write, which is in the mail too.
        if self.code_mail_waits() {
            self.serve_code_writes();
        }
    }

    /// Reads any number of bytes at the current privilege; all pages are probed before the first byte is read.
    pub(crate) fn read_bytes(&mut self, lin: u64, data: &mut [u8]) -> Exec {
        self.read_bytes_in(self.data_table, lin, data)
    }

    /// Writes any number of bytes at the current privilege; all pages are probed before the first byte is written.
    pub(crate) fn write_bytes(&mut self, lin: u64, data: &[u8]) -> Exec {
        self.write_bytes_in(self.data_table, lin, data)
    }

    fn read_bytes_in(&mut self, table: u8, lin: u64, data: &mut [u8]) -> Exec {
        self.probe_in(table, lin, data.len() as u64, Access::Read)?;
        self.note_watch(lin, data.len() as u64, false);
        let mut done = 0;
        while done < data.len() {
            let here = self.wrap_linear(lin.wrapping_add(done as u64));
            let n = (data.len() - done).min((PAGE - (here & (PAGE - 1))) as usize);
            let part = &mut data[done..done + n];
            match self.translate(here, Access::Read, table)? {
                // SAFETY: `n` stays in the page; the guest may write meanwhile, any bytes are valid.
                Target::Ram { host, .. } => unsafe { std::ptr::copy_nonoverlapping(host, part.as_mut_ptr(), n) },
                Target::Bus(at) => {
                    let mut from = 0;
                    while from < n {
                        let size = bus_piece(n - from);
                        self.bus_read(at + from as u64, &mut part[from..from + size]);
                        from += size;
                    }
                }
            }
            done += n;
        }
        Ok(())
    }

    fn write_bytes_in(&mut self, table: u8, lin: u64, data: &[u8]) -> Exec {
        self.probe_in(table, lin, data.len() as u64, Access::Write)?;
        self.note_watch(lin, data.len() as u64, true);
        let mut done = 0;
        while done < data.len() {
            let here = self.wrap_linear(lin.wrapping_add(done as u64));
            let n = (data.len() - done).min((PAGE - (here & (PAGE - 1))) as usize);
            let part = &data[done..done + n];
            match self.translate(here, Access::Write, table)? {
                Target::Ram { host, page, writable: true } => {
                    // SAFETY: as in `read_bytes_in`.
                    unsafe { std::ptr::copy_nonoverlapping(part.as_ptr(), host, n) };
                    self.wrote(page, here, n as u64);
                }
                Target::Ram { .. } => {}
                Target::Bus(at) => {
                    let mut from = 0;
                    while from < n {
                        let size = bus_piece(n - from);
                        self.bus_write(at + from as u64, &part[from..from + size]);
                        from += size;
                    }
                }
            }
            done += n;
        }
        Ok(())
    }

    /// Raises what an access of `len` bytes would; touches nothing but A and D bits.
    pub(crate) fn probe(&mut self, lin: u64, len: u64, write: bool) -> Exec {
        self.probe_in(self.data_table, lin, len, if write { Access::Write } else { Access::Read })
    }

    fn probe_in(&mut self, table: u8, lin: u64, len: u64, access: Access) -> Exec {
        let Some(last) = len.checked_sub(1) else { return Ok(()) };
        // An access that crosses into non-canonical addresses is #GP whatever its first page holds.
        if !is_canonical(lin.wrapping_add(last)) {
            return Err(self.gp(0));
        }
        let mut here = lin;
        let pages = ((lin & (PAGE - 1)) + last) / PAGE;
        for _ in 0..=pages {
            self.translate(self.wrap_linear(here), access, table)?;
            here = (here & !(PAGE - 1)).wrapping_add(PAGE);
        }
        Ok(())
    }

    /// Outside of long mode linear addresses have 32 bits.
    #[inline]
    fn wrap_linear(&self, lin: u64) -> u64 {
        if self.long_mode() { lin } else { lin & 0xffff_ffff }
    }

    /// A pointer to `len` bytes at `lin`, if they are RAM in one page that may be accessed directly; the write is then
    /// accounted for. `None`: go by [`Cpu::read_bytes`] or [`Cpu::write_bytes`].
    #[inline]
    pub(crate) fn host_range(&mut self, lin: u64, len: u64, write: bool) -> Exec<Option<*mut u8>> {
        if len == 0 || (lin & (PAGE - 1)) + len > PAGE {
            return Ok(None);
        }
        let table = self.data_table;
        for _ in 0..2 {
            let entry = self.mmu.entry(table, lin);
            let tag = if write { entry.write } else { entry.read };
            if lin.wrapping_sub(tag) < PAGE {
                return Ok(Some(lin.wrapping_sub(tag).wrapping_add(entry.host) as *mut u8));
            }
            self.translate(lin, if write { Access::Write } else { Access::Read }, table)?;
        }
        Ok(None)
    }

    /// Where to write `len` bytes at `lin` if they are RAM in one page, with or without code; to be followed by
    /// [`Cpu::wrote_to`]. `None`: go by [`Cpu::write_bytes`].
    #[inline]
    pub(crate) fn host_target(&mut self, lin: u64, len: u64) -> Exec<Option<HostTarget>> {
        if len == 0 || (lin & (PAGE - 1)) + len > PAGE {
            return Ok(None);
        }
        let table = self.data_table;
        let entry = self.mmu.entry(table, lin);
        if lin.wrapping_sub(entry.write) < PAGE {
            let host = lin.wrapping_sub(entry.write).wrapping_add(entry.host) as *mut u8;
            return Ok(Some(HostTarget { host, lin, len, page: None }));
        }
        let Target::Ram { host, page, writable: true } = self.translate(lin, Access::Write, table)? else {
            return Ok(None);
        };
        if table == table::CHECKED || self.watch.covers(lin & !(PAGE - 1)) {
            return Ok(None);
        }
        Ok(Some(HostTarget { host, lin, len, page: Some(page) }))
    }

    /// After a write to all of `target`.
    #[inline]
    pub(crate) fn wrote_to(&mut self, target: &HostTarget) {
        if let Some(page) = target.page {
            self.wrote(page, target.lin, target.len);
        }
    }

    fn bus_read(&mut self, at: u64, data: &mut [u8]) {
        self.stats.mmio += 1;
        if self.is_lapic_page(at) {
            return self.lapic_mmio_read(at, data);
        }
        self.call_out(|io| io.mmio_read(at, data));
    }

    fn bus_write(&mut self, at: u64, data: &[u8]) {
        self.stats.mmio += 1;
        if self.is_lapic_page(at) {
            return self.lapic_mmio_write(at, data);
        }
        self.call_out(|io| io.mmio_write(at, data));
    }

    /// The width of the stack pointer: 16, 32 or 64 bits.
    #[inline]
    pub(crate) fn stack_bits(&self) -> u32 {
        if self.is64() {
            64
        } else if self.seg[sreg::SS].has(Segment::DB) {
            32
        } else {
            16
        }
    }

    /// The stack pointer, cut to the stack's width.
    #[inline]
    pub(crate) fn sp(&self) -> u64 {
        let rsp = self.regs[reg::RSP];
        match self.stack_bits() {
            64 => rsp,
            32 => rsp & 0xffff_ffff,
            _ => rsp & 0xffff,
        }
    }

    /// Sets the stack pointer; on a 16-bit stack the upper part stays.
    #[inline]
    pub(crate) fn set_sp(&mut self, value: u64) {
        let rsp = &mut self.regs[reg::RSP];
        match self.code_size {
            crate::cpu::CodeSize::Bits64 => *rsp = value,
            _ if self.seg[sreg::SS].has(Segment::DB) => *rsp = value & 0xffff_ffff,
            _ => *rsp = *rsp & !0xffff | value & 0xffff,
        }
    }

    /// Pushes; the stack pointer changes only when the write has succeeded.
    #[inline(always)]
    pub(crate) fn push<T: Word>(&mut self, value: T) -> Exec {
        if self.is64() {
            let sp = self.regs[reg::RSP].wrapping_sub(T::SIZE);
            self.write_lin(sp, value).map_err(|r| self.blame_stack(r))?;
            self.regs[reg::RSP] = sp;
            return Ok(());
        }
        let sp = self.wrap_sp(self.sp().wrapping_sub(T::SIZE));
        let lin = self.segmented(sreg::SS, sp, T::SIZE, true)?;
        self.write_lin(lin, value)?;
        self.set_sp(sp);
        Ok(())
    }

    /// Pops; the stack pointer changes only when the read has succeeded.
    #[inline(always)]
    pub(crate) fn pop<T: Word>(&mut self) -> Exec<T> {
        if self.is64() {
            let sp = self.regs[reg::RSP];
            let value = self.read_lin(sp).map_err(|r| self.blame_stack(r))?;
            self.regs[reg::RSP] = sp.wrapping_add(T::SIZE);
            return Ok(value);
        }
        let sp = self.sp();
        let lin = self.segmented(sreg::SS, sp, T::SIZE, false)?;
        let value = self.read_lin(lin)?;
        self.set_sp(sp.wrapping_add(T::SIZE));
        Ok(value)
    }

    fn wrap_sp(&self, sp: u64) -> u64 {
        if self.stack_bits() == 32 { sp & 0xffff_ffff } else { sp & 0xffff }
    }

    #[cold]
    fn blame_stack(&mut self, raised: Raised) -> Raised {
        if self.fault.vector == vector::GP { self.ss(0) } else { raised }
    }
}
