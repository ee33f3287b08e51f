//! The keys of a keyboard: their scan codes, their names, and how characters are typed with them.
//!
//! The codes are those of Microsoft's Keyboard Scan Code Specification (revision 1.3a, appendices A and B).

mod combination;
mod keysym;
mod names;
mod us;

use std::fmt;

pub use combination::{Combination, KeyError};
pub use keysym::{Meaning, of_keysym};
pub use us::{Stroke, stroke, strokes};

/// The prefix of an extended key in scan code set 1.
const EXTENDED: u8 = 0xe0;

/// A key of the keyboard, known by its make code in scan code set 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(u16);

impl Key {
    /// The left Shift key.
    pub const SHIFT: Self = Self(0x2a);
    /// The right Shift key.
    pub const SHIFT_R: Self = Self(0x36);
    /// The left Ctrl key.
    pub const CTRL: Self = Self(0x1d);
    /// The right Ctrl key.
    pub const CTRL_R: Self = Self(0xe01d);
    /// The left Alt key.
    pub const ALT: Self = Self(0x38);
    /// The right Alt key.
    pub const ALT_R: Self = Self(0xe038);
    /// The key that prints the screen; with Alt it is SysRq.
    pub const PRINT: Self = Self(0xe037);
    /// The Pause key; with Ctrl it is Break.
    pub const PAUSE: Self = Self(0xe11d);
    /// SysRq as a key of its own.
    pub const SYSRQ: Self = Self(0x54);
    /// What Ctrl makes of the Pause key.
    const BREAK: Self = Self(0xe046);

    /// The key with this make code: one byte, or E0h in the high byte and the code below it.
    #[must_use]
    pub fn new(code: u16) -> Option<Self> {
        let [prefix, low] = code.to_be_bytes();
        let good = matches!(prefix, 0 | EXTENDED) && (1..0x80).contains(&low);
        (good || code == Self::PAUSE.0).then_some(Self(code))
    }

    /// The key of a number as it is sent by screen protocols: a make code in one byte, with bit 7 for an extended key, or
    /// the two bytes of an extended key.
    #[must_use]
    pub fn of_number(number: u32) -> Option<Self> {
        let code = u16::try_from(number).ok()?;
        let code = if (0x80..0x100).contains(&code) { u16::from(EXTENDED) << 8 | code & 0x7f } else { code };
        // Pause has no make code of one or two bytes, so that of Break stands for it.
        if code == Self::BREAK.0 { Some(Self::PAUSE) } else { Self::new(code) }
    }

    /// The bytes of scan code set 1 that the key sends when it goes down. With `alt` or `ctrl` held, some keys are others.
    #[must_use]
    pub fn make(self, alt: bool, ctrl: bool) -> Vec<u8> {
        match self {
            Self::PRINT if alt => vec![0x54],
            Self::PRINT if ctrl => vec![EXTENDED, 0x37],
            Self::PRINT => vec![EXTENDED, 0x2a, EXTENDED, 0x37],
            Self::PAUSE if ctrl => vec![EXTENDED, 0x46, EXTENDED, 0xc6],
            Self::PAUSE => vec![0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5],
            Self(code) => match code.to_be_bytes() {
                [0, low] => vec![low],
                [prefix, low] => vec![prefix, low],
            },
        }
    }

    /// The bytes of scan code set 1 that it sends when it goes up, after it has sent `make`. Some keys send none.
    #[must_use]
    pub fn release(self, make: &[u8]) -> Vec<u8> {
        match make {
            _ if self == Self::PAUSE => Vec::new(),
            [EXTENDED, 0x2a, EXTENDED, low] => vec![EXTENDED, low | 0x80, EXTENDED, 0xaa],
            _ => make.iter().map(|byte| if *byte == EXTENDED { EXTENDED } else { byte | 0x80 }).collect(),
        }
    }

    /// The key's name, if it has one.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        names::name(self)
    }

    /// The key with this name, whatever its case.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        names::key(name)
    }

    /// The names of all keys, the usual one of each.
    pub fn all_names() -> impl Iterator<Item = &'static str> {
        names::all()
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "{:#x}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_what_is_none() {
        assert_eq!(Key::of_number(0x1e), Key::named("a"));
        assert_eq!(Key::of_number(0xc8), Key::named("up"));
        assert_eq!(Key::of_number(0xe048), Key::named("up"));
        assert_eq!(Key::of_number(0xc6), Some(Key::PAUSE));
        for none in [0, 0x80, 0x100, 0xe000, 0xe080, 0xe1ff, 0x1_001e, u32::MAX] {
            assert_eq!(Key::of_number(none), None, "{none:#x}");
        }
    }

    #[test]
    fn makes_and_breaks() {
        let bytes = |key: Key, alt, ctrl| {
            let make = key.make(alt, ctrl);
            (make.clone(), key.release(&make))
        };
        assert_eq!(bytes(Key(0x1e), false, false), (vec![0x1e], vec![0x9e]));
        assert_eq!(bytes(Key::ALT_R, false, false), (vec![0xe0, 0x38], vec![0xe0, 0xb8]));
        let print = (vec![0xe0, 0x2a, 0xe0, 0x37], vec![0xe0, 0xb7, 0xe0, 0xaa]);
        assert_eq!(bytes(Key::PRINT, false, false), print);
        assert_eq!(bytes(Key::PRINT, true, false), (vec![0x54], vec![0xd4]));
        assert_eq!(bytes(Key::PAUSE, false, false), (vec![0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5], vec![]));
        assert_eq!(bytes(Key::PAUSE, false, true), (vec![0xe0, 0x46, 0xe0, 0xc6], vec![]));
    }
}
