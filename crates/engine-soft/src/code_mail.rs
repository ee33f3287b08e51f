//! What a vCPU is told of writes to code, until it gets to it.

/// Writes to code that a vCPU has not been told of yet.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum CodeWrites {
    /// Pages by their index, each with the lines that were written.
    Lines(Vec<(usize, u64)>),
    /// More than it is worth to tell apart.
    Anywhere,
}

/// The most pages that are told apart.
const MOST: usize = 64;

impl CodeWrites {
    pub(crate) const NONE: Self = Self::Lines(Vec::new());

    /// Adds `lines` of page `page`.
    pub(crate) fn add(&mut self, page: usize, lines: u64) {
        let Self::Lines(list) = self else { return };
        if let Some(last) = list.last_mut().filter(|last| last.0 == page) {
            last.1 |= lines;
        } else if list.len() < MOST {
            list.push((page, lines));
        } else {
            *self = Self::Anywhere;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_bounded_memory() {
        let mut writes = CodeWrites::NONE;
        for line in 0..64 {
            writes.add(7, 1 << line);
        }
        assert_eq!(writes, CodeWrites::Lines(vec![(7, u64::MAX)]));
        for page in 8..8 + MOST - 1 {
            writes.add(page, 1);
        }
        assert!(matches!(&writes, CodeWrites::Lines(list) if list.len() == MOST));
        writes.add(7, 1);
        writes.add(7, 1);
        assert_eq!(writes, CodeWrites::Anywhere);
    }
}
