//! The quick way through repeated string instructions: a stretch within one page of RAM at a time, forward.

use crate::cpu::{Cpu, Exec, reg, sreg};
use crate::mem::Word;
use crate::op::{Op, has};

use super::alu::{Binary, Sub};

const PAGE: u64 = 4096;

const SI: u8 = reg::RSI as u8;
const DI: u8 = reg::RDI as u8;

/// What has been done at once. The index registers have been moved, the counter has not.
#[derive(Clone, Copy, Default)]
pub(super) struct Pass {
    pub(super) elements: u64,
    /// A comparison has ended the instruction.
    pub(super) ends: bool,
}

/// A stretch of elements at one of the index registers.
struct Stretch {
    linear: u64,
    elements: u64,
}

/// How many elements from `seg`:`index` on lie in one page, in the segment and before the index register wraps, at
/// most `limit`; `None` if not even one does.
fn stretch<T: Word, A: Word>(cpu: &mut Cpu, seg: usize, index: u8, limit: u64, write: bool) -> Option<Stretch> {
    let offset = A::get(cpu, index).to_u64();
    let highest = A::from_u64(!0).to_u64();
    // The element that ends at the highest offset would make the register wrap; it is left to the slow way.
    let before_wrap = (highest - offset) / T::SIZE;
    let limit = limit.min(before_wrap).min(PAGE / T::SIZE);
    if limit == 0 {
        return None;
    }
    // A fault here is not raised: the slow way finds it again at the right element.
    let linear = cpu.seg_address(seg, offset, limit * T::SIZE, write).ok()?;
    let elements = limit.min((PAGE - (linear & (PAGE - 1))) / T::SIZE);
    (elements > 0).then_some(Stretch { linear, elements })
}

/// Moves an index register past `elements`.
fn advance<T: Word, A: Word>(cpu: &mut Cpu, index: u8, elements: u64) {
    let value = A::get(cpu, index).to_u64().wrapping_add(elements * T::SIZE);
    A::set(cpu, index, A::from_u64(value));
}

/// REP MOVS.
pub(super) struct CopyString;

impl CopyString {
    pub(super) fn run<T: Word, A: Word>(cpu: &mut Cpu, op: &Op, limit: u64) -> Exec<Pass> {
        let Some(from) = stretch::<T, A>(cpu, usize::from(op.seg), SI, limit, false) else {
            return Ok(Pass::default());
        };
        let Some(to) = stretch::<T, A>(cpu, sreg::ES, DI, from.elements, true) else {
            return Ok(Pass::default());
        };
        let elements = to.elements;
        let length = elements * T::SIZE;
        let Some(source) = cpu.host_range(from.linear, length, false)? else { return Ok(Pass::default()) };
        let Some(target) = cpu.host_target(to.linear, length)? else { return Ok(Pass::default()) };
        // SAFETY: both ranges are guest RAM within a page each, and stay mapped during the instruction.
        unsafe { copy_forward::<T>(source, target.host, length as usize) };
        cpu.wrote_to(&target);
        advance::<T, A>(cpu, SI, elements);
        advance::<T, A>(cpu, DI, elements);
        Ok(Pass { elements, ends: false })
    }
}

/// Copies as a loop over elements of ascending address does, which repeats a pattern if the target begins inside the
/// source.
///
/// # Safety
/// Both ranges of `length` bytes, a multiple of the element size, must be valid; they may overlap.
unsafe fn copy_forward<T: Word>(source: *const u8, target: *mut u8, length: usize) {
    let distance = (target as usize).wrapping_sub(source as usize);
    if distance >= length || distance == 0 {
        // The target does not begin inside the source: the order does not matter.
        // SAFETY: the caller's promise.
        unsafe { std::ptr::copy(source, target, length) };
        return;
    }
    let mut done = 0;
    if distance >= T::SIZE as usize {
        // Pieces no longer than the distance do not overlap, and each reads what the one before has written.
        while done < length {
            let piece = distance.min(length - done);
            // SAFETY: within the ranges.
            unsafe { std::ptr::copy_nonoverlapping(source.add(done), target.add(done), piece) };
            done += piece;
        }
        return;
    }
    while done < length {
        // SAFETY: within the ranges.
        unsafe { T::store(target.add(done), T::load(source.add(done))) };
        done += T::SIZE as usize;
    }
}

/// REP STOS.
pub(super) struct FillString;

impl FillString {
    pub(super) fn run<T: Word, A: Word>(cpu: &mut Cpu, limit: u64) -> Exec<Pass> {
        let Some(to) = stretch::<T, A>(cpu, sreg::ES, DI, limit, true) else { return Ok(Pass::default()) };
        let length = to.elements * T::SIZE;
        let Some(target) = cpu.host_target(to.linear, length)? else { return Ok(Pass::default()) };
        let value = T::get(cpu, reg::RAX as u8);
        // SAFETY: the range is guest RAM within a page.
        unsafe { fill::<T>(target.host, value, to.elements as usize) };
        cpu.wrote_to(&target);
        advance::<T, A>(cpu, DI, to.elements);
        Ok(Pass { elements: to.elements, ends: false })
    }
}

/// Writes `value` `elements` times.
///
/// # Safety
/// The range must be valid.
unsafe fn fill<T: Word>(target: *mut u8, value: T, elements: usize) {
    let bytes = value.to_u64().to_le_bytes();
    let size = T::SIZE as usize;
    if bytes.iter().take(size).all(|byte| *byte == bytes[0]) {
        // SAFETY: the caller's promise.
        unsafe { std::ptr::write_bytes(target, bytes[0], elements * size) };
        return;
    }
    for i in 0..elements {
        // SAFETY: within the range.
        unsafe { T::store(target.add(i * size), value) };
    }
}

/// REPE or REPNE CMPS.
pub(super) struct CompareStrings;

impl CompareStrings {
    pub(super) fn run<T: Word, A: Word>(cpu: &mut Cpu, op: &Op, limit: u64) -> Exec<Pass> {
        let Some(first) = stretch::<T, A>(cpu, usize::from(op.seg), SI, limit, false) else {
            return Ok(Pass::default());
        };
        let Some(second) = stretch::<T, A>(cpu, sreg::ES, DI, first.elements, false) else {
            return Ok(Pass::default());
        };
        let length = second.elements * T::SIZE;
        let Some(a) = cpu.host_range(first.linear, length, false)? else { return Ok(Pass::default()) };
        let Some(b) = cpu.host_range(second.linear, length, false)? else { return Ok(Pass::default()) };
        let until_equal = op.has(has::REPNE);
        let mut elements = 0;
        let mut ends = false;
        let mut last = (T::from_u64(0), T::from_u64(0));
        while elements < second.elements && !ends {
            let at = (elements * T::SIZE) as usize;
            // SAFETY: within the ranges.
            last = unsafe { (T::load(a.add(at)), T::load(b.add(at))) };
            ends = (last.0 == last.1) == until_equal;
            elements += 1;
        }
        Sub::run(&mut cpu.flags, last.0, last.1);
        advance::<T, A>(cpu, SI, elements);
        advance::<T, A>(cpu, DI, elements);
        Ok(Pass { elements, ends })
    }
}

/// REPE or REPNE SCAS.
pub(super) struct ScanString;

impl ScanString {
    pub(super) fn run<T: Word, A: Word>(cpu: &mut Cpu, op: &Op, limit: u64) -> Exec<Pass> {
        let Some(at) = stretch::<T, A>(cpu, sreg::ES, DI, limit, false) else { return Ok(Pass::default()) };
        let length = at.elements * T::SIZE;
        let Some(string) = cpu.host_range(at.linear, length, false)? else { return Ok(Pass::default()) };
        let wanted = T::get(cpu, reg::RAX as u8);
        let until_equal = op.has(has::REPNE);
        let mut elements = 0;
        let mut ends = false;
        let mut last = wanted;
        while elements < at.elements && !ends {
            // SAFETY: within the range.
            last = unsafe { T::load(string.add((elements * T::SIZE) as usize)) };
            ends = (last == wanted) == until_equal;
            elements += 1;
        }
        Sub::run(&mut cpu.flags, wanted, last);
        advance::<T, A>(cpu, DI, elements);
        Ok(Pass { elements, ends })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the processor does: one element after the other.
    fn by_definition<T: Word>(memory: &mut [u8], from: usize, to: usize, elements: usize) {
        let size = T::SIZE as usize;
        for i in 0..elements {
            let element = memory[from + i * size..from + (i + 1) * size].to_vec();
            memory[to + i * size..to + (i + 1) * size].copy_from_slice(&element);
        }
    }

    fn check<T: Word>() {
        let original: Vec<u8> = (0..100).collect();
        for from in 0..20 {
            for to in 0..20 {
                for elements in 0..=8 {
                    let mut expected = original.clone();
                    by_definition::<T>(&mut expected, from, to, elements);
                    let mut memory = original.clone();
                    let base = memory.as_mut_ptr();
                    // SAFETY: 20 + 8 * 8 bytes at most, of 100.
                    unsafe { copy_forward::<T>(base.add(from), base.add(to), elements * T::SIZE as usize) };
                    assert_eq!(memory, expected, "{} x {elements}, {from} to {to}", T::SIZE);
                }
            }
        }
    }

    #[test]
    fn overlapping_copies_are_those_of_a_loop() {
        check::<u8>();
        check::<u16>();
        check::<u32>();
        check::<u64>();
    }

    #[test]
    fn fills_repeat_the_element() {
        let mut memory = [0u8; 13];
        // SAFETY: 12 of 13 bytes.
        unsafe { fill(memory.as_mut_ptr(), 0x0403_0201u32, 3) };
        assert_eq!(memory, [1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4, 0]);
        // SAFETY: as above.
        unsafe { fill(memory.as_mut_ptr(), 0x5555u16, 6) };
        assert_eq!(memory, [0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0]);
    }
}
