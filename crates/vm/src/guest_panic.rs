//! Noticing that the guest's kernel has panicked, by what it says on its console.

use std::sync::Arc;

use devices::CharOut;

use crate::control::Control;

/// What Linux says first (`kernel/panic.c`).
const START: &[u8] = b"Kernel panic - not syncing";
/// What it says last.
const END: &[u8] = b"---[ end Kernel panic";
/// More of a line than this is not looked at.
const LONGEST: usize = 512;

/// A tap on the console, which passes everything on.
pub(crate) struct PanicTap {
    out: Box<dyn CharOut>,
    control: Arc<Control>,
    line: Vec<u8>,
    panicked: bool,
}

impl PanicTap {
    pub(crate) fn new(out: Box<dyn CharOut>, control: Arc<Control>) -> Self {
        Self { out, control, line: Vec::new(), panicked: false }
    }

    fn end_line(&mut self) {
        let start = find(&self.line, START).filter(|_| !self.panicked && find(&self.line, END).is_none());
        if let Some(at) = start {
            self.panicked = true;
            let text = String::from_utf8_lossy(self.line.get(at..).unwrap_or_default());
            self.control.guest_panicked(printable(&text));
        }
        if self.panicked && find(&self.line, END).is_some() {
            self.panicked = false;
            self.control.guest_panic_is_over();
        }
        self.line.clear();
    }
}

impl CharOut for PanicTap {
    fn put(&mut self, bytes: &[u8]) {
        self.out.put(bytes);
        if self.panicked {
            self.control.guest_panic_goes_on();
        }
        for &byte in bytes {
            match byte {
                b'\n' => self.end_line(),
                _ if self.line.len() < LONGEST => self.line.push(byte),
                _ => {}
            }
        }
    }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|part| part == what)
}

/// The guest's text without what could act on a terminal.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Outcome;

    #[test]
    fn a_panic_is_noticed_when_it_is_all_said() {
        let control = Arc::new(Control::new(1));
        let mut tap = PanicTap::new(Box::new(|_: &[u8]| {}), Arc::clone(&control));
        tap.put(b"# echo Kernel panic\r\n[    1.0] Kernel pa");
        tap.put(b"nic - not syncing: VFS\x1b[0m: no root\r\n");
        assert!(control.panic_text().is_some());
        assert_eq!(control.outcome(), None);
        tap.put(b"Call Trace:\r\n[    1.1] ---[ end Kernel panic - not syncing: VFS ]---\r\n");
        assert_eq!(control.outcome(), Some(Outcome::GuestPanic("Kernel panic - not syncing: VFS[0m: no root".into())));
    }

    #[test]
    fn endless_lines_are_bounded() {
        let mut tap = PanicTap::new(Box::new(|_: &[u8]| {}), Arc::new(Control::new(1)));
        (0..100).for_each(|_| tap.put(&[b'a'; 100]));
        assert_eq!(tap.line.len(), LONGEST);
    }
}
