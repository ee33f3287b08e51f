//! The keys that are for Husk and not for the guest.

/// What the user has typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Typed {
    /// Bytes for the guest.
    Data(Vec<u8>),
    /// Ctrl-A b: the BREAK condition.
    Break,
    /// Ctrl-A x: stop the VM.
    Stop,
    /// Ctrl-A h: show the keys.
    Help,
    /// Ctrl-A p: press the power button.
    PowerButton,
    /// Ctrl-A s: show what the engine has counted.
    Stats,
}

/// Ctrl-A, which makes the next key one of ours.
const ESCAPE: u8 = 1;

/// What Ctrl-A h shows.
pub(crate) const HELP: &str = "
Ctrl-A x       stop the VM
Ctrl-A p       press its power button
Ctrl-A b       send a BREAK (magic SysRq)
Ctrl-A s       show what the engine has counted
Ctrl-A h       show these keys
Ctrl-A Ctrl-A  send Ctrl-A
";

/// The state between two reads: whether the last byte was Ctrl-A.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    escaped: bool,
}

impl Keys {
    /// Sorts what was typed, in order.
    pub(crate) fn sort(&mut self, bytes: &[u8]) -> Vec<Typed> {
        let mut typed = Vec::new();
        let mut data = Vec::new();
        for &byte in bytes {
            let key = match (std::mem::take(&mut self.escaped), byte) {
                (false, ESCAPE) => {
                    self.escaped = true;
                    continue;
                }
                (true, b'x' | b'X') => Typed::Stop,
                (true, b'h' | b'H' | b'?') => Typed::Help,
                (true, b'b' | b'B') => Typed::Break,
                (true, b'p' | b'P') => Typed::PowerButton,
                (true, b's' | b'S') => Typed::Stats,
                // Ctrl-A twice is one; any other key stands for itself.
                (_, other) => {
                    data.push(other);
                    continue;
                }
            };
            if !data.is_empty() {
                typed.push(Typed::Data(std::mem::take(&mut data)));
            }
            typed.push(key);
        }
        if !data.is_empty() {
            typed.push(Typed::Data(data));
        }
        typed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_sorted_from_data() {
        let data = |bytes: &[u8]| Typed::Data(bytes.to_vec());
        let mut keys = Keys::default();
        assert_eq!(keys.sort(b"ls\r"), [data(b"ls\r")]);
        assert_eq!(keys.sort(b"a\x01bc\x01\x01d"), [data(b"a"), Typed::Break, data(b"c\x01d")]);
        assert_eq!(keys.sort(b"\x01"), []);
        assert_eq!(keys.sort(b"x"), [Typed::Stop]);
        assert_eq!(keys.sort(b"x"), [data(b"x")]);
        assert_eq!(keys.sort(b"\x01h\x01p\x01s\x01z"), [Typed::Help, Typed::PowerButton, Typed::Stats, data(b"z")]);
    }
}
