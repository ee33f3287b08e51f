//! Sizes of pages, and sets of pages that fit into little memory.

/// The size of a page that maps memory (SDM vol. 3A, table 4-1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum PageSize {
    Kib4 = 0,
    Mib2 = 1,
    /// 32-bit paging only.
    Mib4 = 2,
    Gib1 = 3,
}

impl PageSize {
    pub(super) const ALL: [Self; 4] = [Self::Kib4, Self::Mib2, Self::Mib4, Self::Gib1];

    /// The size of two bits.
    #[inline(always)]
    pub(super) const fn from_bits(bits: u64) -> Self {
        Self::ALL[(bits & 3) as usize]
    }

    /// The number of bits of an offset.
    #[inline(always)]
    pub(super) const fn shift(self) -> u32 {
        [12, 21, 22, 30][self as usize]
    }

    /// A bit of its own in a mask of sizes.
    #[inline(always)]
    pub(super) const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// The sizes in a mask of them, the least first.
#[inline(always)]
pub(super) fn sizes(mask: u8) -> impl Iterator<Item = PageSize> {
    PageSize::ALL.into_iter().filter(move |size| mask & size.bit() != 0)
}

const BITS: u32 = 14;
const WORDS: usize = 1 << (BITS - 6);

/// A set of pages that may take a page for a member that is none, but never the other way round (a Bloom filter with
/// two bits a page). A thousand pages in it make it err for one page in a hundred.
pub(super) struct PageSet {
    bits: [u64; WORDS],
    /// The sizes of its pages.
    sizes: u8,
}

impl PageSet {
    pub(super) const EMPTY: Self = Self { bits: [0; WORDS], sizes: 0 };

    /// The places of the two bits: word and mask each.
    #[inline(always)]
    fn places(lin: u64, size: PageSize) -> [(usize, u64); 2] {
        let hash = (lin >> size.shift() ^ (size as u64) << 60).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        [hash >> (64 - BITS), hash >> (64 - 2 * BITS)].map(|at| ((at >> 6) as usize & (WORDS - 1), 1 << (at & 63)))
    }

    /// Adds the page of `size` that holds `lin`.
    #[inline(always)]
    pub(super) fn add(&mut self, lin: u64, size: PageSize) {
        self.sizes |= size.bit();
        for (word, bit) in Self::places(lin, size) {
            self.bits[word] |= bit;
        }
    }

    /// Whether a page that holds `lin` may be in it.
    pub(super) fn may_hold(&self, lin: u64) -> bool {
        sizes(self.sizes).any(|size| Self::places(lin, size).iter().all(|(word, bit)| self.bits[*word] & bit != 0))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sizes == 0
    }

    pub(super) fn clear(&mut self) {
        if !self.is_empty() {
            *self = Self::EMPTY;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_of_pages_forgets_none_and_errs_seldom() {
        let mut set = Box::new(PageSet::EMPTY);
        let page = |i: u64| 0x7f00_0000_0000 + i * 0x3000;
        assert!(set.is_empty() && !set.may_hold(0));
        (0..300).for_each(|i| set.add(page(i), PageSize::Kib4));
        assert!((0..300).all(|i| set.may_hold(page(i) + 0xfff)));
        let wrong = (0..3000).filter(|i| set.may_hold(page(*i) + 0x1000)).count();
        assert!(wrong < 60, "{wrong} of 3000");
        set.clear();
        assert!(set.is_empty() && (0..300).all(|i| !set.may_hold(page(i))));
    }

    #[test]
    fn a_large_page_is_one_member() {
        let mut set = Box::new(PageSet::EMPTY);
        for (i, size) in PageSize::ALL.into_iter().enumerate() {
            assert_eq!(PageSize::from_bits(i as u64), size);
            let base = 1 << 40 | (i as u64) << 32;
            set.add(base | 0x1000, size);
            assert!(set.may_hold(base | ((1 << size.shift()) - 1) & !0xfff | 0x1000));
            assert!(!set.may_hold(base + (1 << size.shift()) + 0x1000));
        }
    }
}
