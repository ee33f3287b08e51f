//! The names of the keys: the names that QEMU's monitor has for them, those of X11's keysyms, and a few that people try.

use super::Key;

/// Make code, usual name, other names; all in lower case.
const NAMES: &[(u16, &str, &[&str])] = &[
    (0x01, "esc", &["escape"]),
    (0x02, "1", &[]),
    (0x03, "2", &[]),
    (0x04, "3", &[]),
    (0x05, "4", &[]),
    (0x06, "5", &[]),
    (0x07, "6", &[]),
    (0x08, "7", &[]),
    (0x09, "8", &[]),
    (0x0a, "9", &[]),
    (0x0b, "0", &[]),
    (0x0c, "minus", &[]),
    (0x0d, "equal", &[]),
    (0x0e, "backspace", &[]),
    (0x0f, "tab", &[]),
    (0x10, "q", &[]),
    (0x11, "w", &[]),
    (0x12, "e", &[]),
    (0x13, "r", &[]),
    (0x14, "t", &[]),
    (0x15, "y", &[]),
    (0x16, "u", &[]),
    (0x17, "i", &[]),
    (0x18, "o", &[]),
    (0x19, "p", &[]),
    (0x1a, "bracket_left", &["bracketleft"]),
    (0x1b, "bracket_right", &["bracketright"]),
    (0x1c, "ret", &["return", "enter"]),
    (0x1d, "ctrl", &["control", "ctrl_l", "control_l"]),
    (0x1e, "a", &[]),
    (0x1f, "s", &[]),
    (0x20, "d", &[]),
    (0x21, "f", &[]),
    (0x22, "g", &[]),
    (0x23, "h", &[]),
    (0x24, "j", &[]),
    (0x25, "k", &[]),
    (0x26, "l", &[]),
    (0x27, "semicolon", &[]),
    (0x28, "apostrophe", &[]),
    (0x29, "grave_accent", &["grave"]),
    (0x2a, "shift", &["shift_l"]),
    (0x2b, "backslash", &[]),
    (0x2c, "z", &[]),
    (0x2d, "x", &[]),
    (0x2e, "c", &[]),
    (0x2f, "v", &[]),
    (0x30, "b", &[]),
    (0x31, "n", &[]),
    (0x32, "m", &[]),
    (0x33, "comma", &[]),
    (0x34, "dot", &["period"]),
    (0x35, "slash", &[]),
    (0x36, "shift_r", &[]),
    (0x37, "kp_multiply", &["asterisk"]),
    (0x38, "alt", &["alt_l"]),
    (0x39, "spc", &["space"]),
    (0x3a, "caps_lock", &["capslock"]),
    (0x3b, "f1", &[]),
    (0x3c, "f2", &[]),
    (0x3d, "f3", &[]),
    (0x3e, "f4", &[]),
    (0x3f, "f5", &[]),
    (0x40, "f6", &[]),
    (0x41, "f7", &[]),
    (0x42, "f8", &[]),
    (0x43, "f9", &[]),
    (0x44, "f10", &[]),
    (0x45, "num_lock", &["numlock"]),
    (0x46, "scroll_lock", &["scrolllock"]),
    (0x47, "kp_7", &["kp_home"]),
    (0x48, "kp_8", &["kp_up"]),
    (0x49, "kp_9", &["kp_page_up", "kp_prior"]),
    (0x4a, "kp_subtract", &[]),
    (0x4b, "kp_4", &["kp_left"]),
    (0x4c, "kp_5", &["kp_begin"]),
    (0x4d, "kp_6", &["kp_right"]),
    (0x4e, "kp_add", &[]),
    (0x4f, "kp_1", &["kp_end"]),
    (0x50, "kp_2", &["kp_down"]),
    (0x51, "kp_3", &["kp_page_down", "kp_next"]),
    (0x52, "kp_0", &["kp_insert"]),
    (0x53, "kp_decimal", &["kp_delete"]),
    (0x54, "sysrq", &["sys_req"]),
    (0x56, "less", &[]),
    (0x57, "f11", &[]),
    (0x58, "f12", &[]),
    (0x59, "kp_equals", &["kp_equal"]),
    (0x64, "f13", &[]),
    (0x65, "f14", &[]),
    (0x66, "f15", &[]),
    (0x67, "f16", &[]),
    (0x68, "f17", &[]),
    (0x69, "f18", &[]),
    (0x6a, "f19", &[]),
    (0x6b, "f20", &[]),
    (0x6c, "f21", &[]),
    (0x6d, "f22", &[]),
    (0x6e, "f23", &[]),
    (0x70, "katakanahiragana", &["hiragana_katakana"]),
    (0x73, "ro", &[]),
    (0x76, "f24", &[]),
    (0x77, "hiragana", &[]),
    (0x78, "katakana", &[]),
    (0x79, "henkan", &[]),
    (0x7b, "muhenkan", &[]),
    (0x7d, "yen", &[]),
    (0x7e, "kp_comma", &["kp_separator"]),
    (0xe010, "audioprev", &["xf86audioprev"]),
    (0xe019, "audionext", &["xf86audionext"]),
    (0xe01c, "kp_enter", &[]),
    (0xe01d, "ctrl_r", &["control_r"]),
    (0xe020, "audiomute", &["xf86audiomute"]),
    (0xe021, "calculator", &["xf86calculator"]),
    (0xe022, "audioplay", &["xf86audioplay"]),
    (0xe024, "audiostop", &["xf86audiostop"]),
    (0xe02e, "volumedown", &["xf86audiolowervolume"]),
    (0xe030, "volumeup", &["xf86audioraisevolume"]),
    (0xe032, "ac_home", &["xf86homepage"]),
    (0xe035, "kp_divide", &[]),
    (0xe037, "print", &["prtsc", "printscreen"]),
    (0xe038, "alt_r", &["altgr", "iso_level3_shift"]),
    (0xe047, "home", &[]),
    (0xe048, "up", &[]),
    (0xe049, "pgup", &["page_up", "pageup", "prior"]),
    (0xe04b, "left", &[]),
    (0xe04d, "right", &[]),
    (0xe04f, "end", &[]),
    (0xe050, "down", &[]),
    (0xe051, "pgdn", &["page_down", "pagedown", "next"]),
    (0xe052, "insert", &["ins"]),
    (0xe053, "delete", &["del"]),
    (0xe05b, "meta_l", &["meta", "super", "super_l", "win"]),
    (0xe05c, "meta_r", &["super_r"]),
    (0xe05d, "menu", &["compose"]),
    (0xe05e, "power", &["xf86poweroff"]),
    (0xe05f, "sleep", &["xf86sleep"]),
    (0xe063, "wake", &["xf86wakeup"]),
    (0xe065, "find", &["xf86search"]),
    (0xe066, "ac_bookmarks", &["xf86favorites"]),
    (0xe067, "ac_refresh", &["xf86refresh"]),
    (0xe068, "stop", &["xf86stop"]),
    (0xe069, "ac_forward", &["xf86forward"]),
    (0xe06a, "ac_back", &["xf86back"]),
    (0xe06b, "computer", &["xf86mycomputer"]),
    (0xe06c, "mail", &["xf86mail"]),
    (0xe06d, "mediaselect", &["xf86audiomedia"]),
    (0xe11d, "pause", &["break"]),
];

/// The usual name of `key`.
pub(super) fn name(key: Key) -> Option<&'static str> {
    NAMES.iter().find(|(code, ..)| *code == key.0).map(|(_, name, _)| *name)
}

/// The key of this name.
pub(super) fn key(name: &str) -> Option<Key> {
    let name = name.to_ascii_lowercase();
    let bears = |(_, usual, others): &&(u16, &str, &[&str])| *usual == name || others.contains(&name.as_str());
    NAMES.iter().find(bears).map(|(code, ..)| Key(*code))
}

/// All usual names.
pub(super) fn all() -> impl Iterator<Item = &'static str> {
    NAMES.iter().map(|(_, name, _)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_code_and_no_name_is_there_twice() {
        let (mut codes, mut seen) = (HashSet::new(), HashSet::new());
        for (code, name, others) in NAMES {
            assert!(codes.insert(code), "{code:#x}");
            assert_eq!(Key::new(*code), Some(Key(*code)));
            for name in std::iter::once(name).chain(*others) {
                assert!(seen.insert(name.to_ascii_lowercase()) && !name.contains('-'), "{name}");
            }
        }
        assert_eq!(key("Page_Up"), key("PRIOR"));
        assert_eq!(key("nothing"), None);
    }
}
