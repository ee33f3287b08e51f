//! What a VNC client says after it has come in: whatever it is, it is heard without a panic and in bounded memory.
#![no_main]

use std::sync::Arc;
use std::time::Duration;

use display::keys::Key;
use display::{Input, Leds, Pointer};
use libfuzzer_sys::fuzz_target;

/// Takes everything.
struct Sink;

impl Input for Sink {
    fn key(&self, key: Key, down: bool) -> bool {
        assert!(!key.make(down, false).is_empty());
        true
    }

    fn release_all(&self) {}

    fn pointer(&self, _: Pointer) {}

    fn is_absolute(&self) -> bool {
        true
    }

    fn leds(&self) -> Leds {
        Leds::default()
    }

    fn wait_for_room(&self, _: Duration) -> bool {
        true
    }
}

fuzz_target!(|data: &[u8]| {
    let input: Arc<dyn Input> = Arc::new(Sink);
    let heard = display::vnc::hear(data, &input);
    // The shortest message has four bytes.
    assert!(heard <= data.len() / 4);
});
