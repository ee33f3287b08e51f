//! Sizes and entries of tables, by the sections "Cluster mapping" and "Extended L2 Entries" of the specification.

use crate::qcow2::header::Header;

/// Of an L1 or L2 entry: what it points to has a refcount of exactly one.
pub(super) const COPIED: u64 = 1 << 63;
/// Of an L2 entry: a compressed cluster.
pub(super) const COMPRESSED: u64 = 1 << 62;
/// Of a standard L2 entry: reads as zeros.
pub(super) const ZERO: u64 = 1;
/// Of entries: the offset in the file.
pub(super) const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// Subclusters of a cluster in images that have them.
pub(super) const SUBCLUSTERS: u32 = 32;

/// A number of 8 bytes, big endian; 0 where the bytes end before.
pub(super) fn be64(data: &[u8], at: usize) -> u64 {
    data.get(at..at.saturating_add(8)).and_then(|b| b.try_into().ok()).map_or(0, u64::from_be_bytes)
}

/// A number of 4 bytes, big endian; 0 where the bytes end before.
pub(super) fn be32(data: &[u8], at: usize) -> u32 {
    data.get(at..at.saturating_add(4)).and_then(|b| b.try_into().ok()).map_or(0, u32::from_be_bytes)
}

/// A number of 2 bytes, big endian; 0 where the bytes end before.
pub(super) fn be16(data: &[u8], at: usize) -> u16 {
    data.get(at..at.saturating_add(2)).and_then(|b| b.try_into().ok()).map_or(0, u16::from_be_bytes)
}

/// Puts bytes where there is room for them.
pub(super) fn put(data: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = data.get_mut(at..at.saturating_add(bytes.len())) {
        place.copy_from_slice(bytes);
    }
}

/// What never changes while an image is open.
#[derive(Clone, Copy, Debug)]
pub(super) struct Geometry {
    pub(super) version: u32,
    pub(super) cluster_bits: u32,
    pub(super) refcount_order: u32,
    /// Extended L2 entries.
    pub(super) extended: bool,
    /// Guest clusters are in an external file, each at its guest offset.
    pub(super) external: bool,
    /// The external file is to be a raw image on its own.
    pub(super) raw_external: bool,
}

impl Geometry {
    pub(super) fn of(header: &Header) -> Self {
        Self {
            version: header.version,
            cluster_bits: header.cluster_bits,
            refcount_order: header.refcount_order,
            extended: header.extended_l2(),
            external: header.external_data(),
            raw_external: header.raw_external(),
        }
    }

    /// Bytes of a cluster.
    pub(super) fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// The number of clusters for `bytes`.
    pub(super) fn clusters(&self, bytes: u64) -> u64 {
        bytes.div_ceil(self.cluster())
    }

    /// Bytes of an L2 entry.
    pub(super) fn entry(&self) -> u64 {
        if self.extended { 16 } else { 8 }
    }

    /// Entries of an L2 table.
    pub(super) fn entries(&self) -> u64 {
        self.cluster() / self.entry()
    }

    /// Bytes of the disk that one L2 table maps.
    pub(super) fn covered(&self) -> u64 {
        self.entries() << self.cluster_bits
    }

    /// Entries that an L1 table for a disk of `size` bytes needs.
    pub(super) fn l1_entries(&self, size: u64) -> u64 {
        size.div_ceil(self.covered())
    }

    /// Pieces of a cluster that are allocated on their own.
    pub(super) fn pieces(&self) -> u32 {
        if self.extended { SUBCLUSTERS } else { 1 }
    }

    /// Bytes of a piece.
    pub(super) fn piece(&self) -> u64 {
        self.cluster() / u64::from(self.pieces())
    }

    /// Refcounts in a refcount block.
    pub(super) fn refcounts(&self) -> u64 {
        (self.cluster() * 8) >> self.refcount_order
    }

    /// The highest refcount.
    pub(super) fn most_references(&self) -> u64 {
        match self.refcount_order {
            6.. => u64::MAX,
            order => (1 << (1 << order)) - 1,
        }
    }

    /// Where a compressed cluster's data is: offset in the file and most bytes.
    pub(super) fn compressed(&self, word: u64) -> (u64, u64) {
        let bits = 62 - (self.cluster_bits - 8);
        let at = word & ((1 << bits) - 1);
        let sectors = ((word & (COMPRESSED - 1)) >> bits) + 1;
        (at, sectors * 512 - at % 512)
    }

    /// The L2 entry of compressed data.
    pub(super) fn compressed_entry(&self, at: u64, len: u64) -> Option<u64> {
        let bits = 62 - (self.cluster_bits - 8);
        let sectors = (at % 512 + len).div_ceil(512).saturating_sub(1);
        let fits = at >> bits.min(56) == 0 && sectors < 1 << (62 - bits);
        fits.then_some(COMPRESSED | sectors << bits | at)
    }

    /// First and last cluster of the file that a compressed cluster's data touches.
    pub(super) fn compressed_clusters(&self, word: u64) -> (u64, u64) {
        let (at, len) = self.compressed(word);
        (at >> self.cluster_bits, (at + len - 1) >> self.cluster_bits)
    }

    /// A refcount in a block.
    pub(super) fn refcount(&self, block: &[u8], index: u64) -> u64 {
        let at = index as usize;
        match self.refcount_order {
            order @ 0..=2 => {
                let bits = 1 << order;
                let bit = at * bits;
                let byte = block.get(bit / 8).copied().unwrap_or(0);
                u64::from(byte >> (bit % 8)) & ((1 << bits) - 1)
            }
            3 => u64::from(block.get(at).copied().unwrap_or(0)),
            4 => u64::from(be16(block, at * 2)),
            5 => u64::from(be32(block, at * 4)),
            _ => be64(block, at * 8),
        }
    }

    /// Sets a refcount in a block; the value must fit.
    pub(super) fn set_refcount(&self, block: &mut [u8], index: u64, value: u64) {
        let at = index as usize;
        match self.refcount_order {
            order @ 0..=2 => {
                let bits = 1 << order;
                let bit = at * bits;
                let mask = (((1u32 << bits) - 1) << (bit % 8)) as u8;
                if let Some(byte) = block.get_mut(bit / 8) {
                    *byte = *byte & !mask | (value << (bit % 8)) as u8 & mask;
                }
            }
            3 => put(block, at, &[value as u8]),
            4 => put(block, at * 2, &(value as u16).to_be_bytes()),
            5 => put(block, at * 4, &(value as u32).to_be_bytes()),
            _ => put(block, at * 8, &value.to_be_bytes()),
        }
    }
}

/// An L2 entry: its word and, with extended entries, its bitmap: allocated pieces below, zero pieces above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) word: u64,
    pub(super) bitmap: u64,
}

impl Entry {
    pub(super) const NONE: Self = Self { word: 0, bitmap: 0 };

    pub(super) fn is_compressed(self) -> bool {
        self.word & COMPRESSED != 0
    }

    /// The cluster in the file that it holds a reference to.
    pub(super) fn offset(self) -> u64 {
        self.word & OFFSET
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn geometry(cluster_bits: u32, refcount_order: u32) -> Geometry {
        Geometry { version: 3, cluster_bits, refcount_order, extended: false, external: false, raw_external: false }
    }

    #[test]
    fn refcounts_of_every_width_keep_to_their_place() {
        for order in 0..=6 {
            let geometry = geometry(9, order);
            let most = geometry.most_references();
            let mut block = vec![0; 512];
            for index in (0..geometry.refcounts()).step_by(3) {
                geometry.set_refcount(&mut block, index, most.min(index + 1));
            }
            for index in 0..geometry.refcounts() {
                let wanted = if index % 3 == 0 { most.min(index + 1) } else { 0 };
                assert_eq!(geometry.refcount(&block, index), wanted, "order {order} index {index}");
            }
        }
        // "bit 0 means the least significant bit in this context"
        let mut block = [0];
        geometry(9, 1).set_refcount(&mut block, 1, 3);
        assert_eq!(block, [0b1100]);
    }

    #[test]
    fn compressed_entries_come_back() {
        for bits in 9..=21 {
            let geometry = geometry(bits, 4);
            for (at, len) in [(5 << bits, 1), ((9 << bits) - 3, 400), ((7 << bits) + 511, (1 << bits) - 1)] {
                let word = geometry.compressed_entry(at, len).unwrap();
                let (found, most) = geometry.compressed(word);
                assert_eq!(found, at);
                assert!(most >= len && most < len + 512, "{bits} {at} {len} {most}");
            }
        }
        assert_eq!(geometry(21, 4).compressed_entry(1 << 49, 10), None);
    }
}
