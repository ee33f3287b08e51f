//! The characters of a keyboard with the US layout.

use super::Key;

/// The rows of the keyboard: the make code of the first key, and what the keys of the row type without and with Shift.
const ROWS: [(u16, &str, &str); 6] = [
    (0x02, "1234567890-=", "!@#$%^&*()_+"),
    (0x10, "qwertyuiop[]", "QWERTYUIOP{}"),
    (0x1e, "asdfghjkl;'`", "ASDFGHJKL:\"~"),
    (0x2b, "\\zxcvbnm,./", "|ZXCVBNM<>?"),
    (0x39, " ", " "),
    (0x0e, "\u{8}\t", "\u{8}\t"),
];

/// How a character is typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stroke {
    /// The key.
    pub key: Key,
    /// Whether Shift has to be held.
    pub shift: bool,
    /// Whether Caps Lock turns Shift around for it.
    pub letter: bool,
}

/// How `character` is typed; `None` when a US keyboard has no key for it.
#[must_use]
pub fn stroke(character: char) -> Option<Stroke> {
    let letter = character.is_ascii_alphabetic();
    match character {
        '\n' | '\r' => return Some(Stroke { key: Key(0x1c), shift: false, letter }),
        '\u{1b}' => return Some(Stroke { key: Key(0x01), shift: false, letter }),
        _ => {}
    }
    ROWS.iter().find_map(|(first, plain, shifted)| {
        let place = |row: &str| row.chars().position(|c| c == character);
        let (at, shift) = place(plain).map(|at| (at, false)).or_else(|| place(shifted).map(|at| (at, true)))?;
        Some(Stroke { key: Key(first + u16::try_from(at).ok()?), shift, letter })
    })
}

/// How `text` is typed.
///
/// # Errors
/// The first character that a US keyboard has no key for.
pub fn strokes(text: &str) -> Result<Vec<Stroke>, char> {
    // The end of a line is one key, whatever it is written as.
    let text = text.replace("\r\n", "\n");
    text.chars().map(|c| stroke(c).ok_or(c)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_printable_character_has_its_key() {
        for byte in b' '..=b'~' {
            let stroke = stroke(char::from(byte)).unwrap();
            assert!(stroke.key.name().is_some(), "{byte:#x}");
        }
        let code = |c| stroke(c).map(|stroke| (stroke.key.0, stroke.shift));
        assert_eq!(code('a'), Some((0x1e, false)));
        assert_eq!(code('Z'), Some((0x2c, true)));
        assert_eq!(code('='), Some((0x0d, false)));
        assert_eq!(code('`'), Some((0x29, false)));
        assert_eq!(code('"'), Some((0x28, true)));
        assert_eq!(code('?'), Some((0x35, true)));
        assert_eq!(code('\\'), Some((0x2b, false)));
        assert_eq!(code('\t'), Some((0x0f, false)));
        assert_eq!(code('ß'), None);
        assert_eq!(strokes("a\r\nb").map(|all| all.len()), Ok(3));
        assert_eq!(strokes("aé"), Err('é'));
    }
}
