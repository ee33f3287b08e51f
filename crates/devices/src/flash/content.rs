//! A chip's content as state: its blocks that are not erased, as text.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::FLASH_BLOCK;

/// What erased flash reads.
pub(super) const ERASED: u8 = 0xff;

/// The blocks by number, each as hexadecimal digits up to the last byte that is not erased.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Content {
    blocks: BTreeMap<u32, String>,
}

impl Content {
    /// The content of these bytes, whole blocks.
    pub(super) fn of(bytes: &[u8]) -> Self {
        let text = |block: &[u8]| {
            let used = block.iter().rposition(|byte| *byte != ERASED).map_or(0, |last| last + 1);
            let digit = |nibble: u8| char::from_digit(nibble.into(), 16).unwrap_or('0');
            block.iter().take(used).flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect::<String>()
        };
        let blocks = (0..).zip(bytes.chunks(FLASH_BLOCK as usize).map(text));
        Self { blocks: blocks.filter(|(_, text)| !text.is_empty()).collect() }
    }

    /// The bytes of a chip of `size` bytes; `None` when they are not such a chip's.
    pub(super) fn bytes(&self, size: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![ERASED; size];
        for (block, text) in &self.blocks {
            let start = usize::try_from(*block).ok()?.checked_mul(FLASH_BLOCK as usize)?;
            let place = bytes.get_mut(start..start.checked_add(FLASH_BLOCK as usize)?)?;
            let digits = text.as_bytes();
            if digits.len() % 2 != 0 || digits.len() / 2 > place.len() {
                return None;
            }
            let digit = |byte: u8| char::from(byte).to_digit(16);
            for (to, pair) in place.iter_mut().zip(digits.chunks(2)) {
                let &[high, low] = pair else { return None };
                *to = (digit(high)? << 4 | digit(low)?) as u8;
            }
        }
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_comes_back() {
        let mut bytes = vec![ERASED; 0x3000];
        bytes[0x1005] = 0x5a;
        bytes[0x2fff] = 0;
        let content = Content::of(&bytes);
        assert_eq!(content.blocks.keys().copied().collect::<Vec<_>>(), [1, 2]);
        assert_eq!(content.bytes(0x3000), Some(bytes));
        assert_eq!(content.bytes(0x2000), None);
        for bad in ["0", "0g", &"00".repeat(0x1001)] {
            assert_eq!(Content { blocks: [(0, bad.to_owned())].into() }.bytes(0x1000), None);
        }
    }
}
