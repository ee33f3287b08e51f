//! X11's keysyms (X Window System Protocol, appendix A), as screen protocols send them.

use super::{Key, Stroke, us};

/// What a keysym stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// A key that types nothing, or whose character does not depend on Shift.
    Key(Key),
    /// A character, typed as on a US keyboard.
    Character(Stroke),
}

/// Keysyms of keys, from FE00h on, and their names.
const KEYS: &[(u32, &str)] = &[
    (0xfe03, "alt_r"),
    (0xfe20, "tab"),
    (0xff08, "backspace"),
    (0xff09, "tab"),
    (0xff0a, "ret"),
    (0xff0d, "ret"),
    (0xff13, "pause"),
    (0xff14, "scroll_lock"),
    (0xff15, "sysrq"),
    (0xff1b, "esc"),
    (0xff20, "menu"),
    (0xff22, "muhenkan"),
    (0xff23, "henkan"),
    (0xff25, "hiragana"),
    (0xff26, "katakana"),
    (0xff27, "katakanahiragana"),
    (0xff50, "home"),
    (0xff51, "left"),
    (0xff52, "up"),
    (0xff53, "right"),
    (0xff54, "down"),
    (0xff55, "pgup"),
    (0xff56, "pgdn"),
    (0xff57, "end"),
    (0xff61, "print"),
    (0xff63, "insert"),
    (0xff67, "menu"),
    (0xff6b, "pause"),
    (0xff7e, "alt_r"),
    (0xff7f, "num_lock"),
    (0xff8d, "kp_enter"),
    (0xff95, "kp_7"),
    (0xff96, "kp_4"),
    (0xff97, "kp_8"),
    (0xff98, "kp_6"),
    (0xff99, "kp_2"),
    (0xff9a, "kp_9"),
    (0xff9b, "kp_3"),
    (0xff9c, "kp_1"),
    (0xff9d, "kp_5"),
    (0xff9e, "kp_0"),
    (0xff9f, "kp_decimal"),
    (0xffaa, "kp_multiply"),
    (0xffab, "kp_add"),
    (0xffac, "kp_comma"),
    (0xffad, "kp_subtract"),
    (0xffae, "kp_decimal"),
    (0xffaf, "kp_divide"),
    (0xffb0, "kp_0"),
    (0xffb1, "kp_1"),
    (0xffb2, "kp_2"),
    (0xffb3, "kp_3"),
    (0xffb4, "kp_4"),
    (0xffb5, "kp_5"),
    (0xffb6, "kp_6"),
    (0xffb7, "kp_7"),
    (0xffb8, "kp_8"),
    (0xffb9, "kp_9"),
    (0xffbd, "kp_equals"),
    (0xffe1, "shift"),
    (0xffe2, "shift_r"),
    (0xffe3, "ctrl"),
    (0xffe4, "ctrl_r"),
    (0xffe5, "caps_lock"),
    (0xffe6, "caps_lock"),
    (0xffe7, "meta_l"),
    (0xffe8, "meta_r"),
    (0xffe9, "alt"),
    (0xffea, "alt_r"),
    (0xffeb, "meta_l"),
    (0xffec, "meta_r"),
    (0xffff, "delete"),
];

/// The keysyms of F1 and the keys after it.
const F1: u32 = 0xffbe;
const F24: u32 = F1 + 23;
/// Where Unicode begins.
const UNICODE: u32 = 0x0100_0000;

/// What `keysym` stands for; `None` when the keyboard has no such key.
#[must_use]
pub fn of_keysym(keysym: u32) -> Option<Meaning> {
    match keysym {
        0x20..=0x7e => us::stroke(char::from_u32(keysym)?).map(Meaning::Character),
        UNICODE.. => us::stroke(char::from_u32(keysym - UNICODE)?).map(Meaning::Character),
        F1..=F24 => Key::named(&format!("f{}", keysym - F1 + 1)).map(Meaning::Key),
        _ => {
            let (_, name) = KEYS.iter().find(|(known, _)| *known == keysym)?;
            Key::named(name).map(Meaning::Key)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keysyms_have_keys() {
        for (keysym, name) in KEYS {
            assert!(of_keysym(*keysym).is_some(), "{name}");
        }
        assert_eq!(of_keysym(0xffc9), Key::named("f12").map(Meaning::Key));
        let upper = of_keysym(0x41);
        assert!(matches!(upper, Some(Meaning::Character(Stroke { shift: true, letter: true, .. }))));
        assert_eq!(of_keysym(UNICODE + 0x41), upper);
        for none in [0, 0xe9, 0xfe00, 0xff00, UNICODE + 0x20ac, u32::MAX] {
            assert_eq!(of_keysym(none), None, "{none:#x}");
        }
    }
}
