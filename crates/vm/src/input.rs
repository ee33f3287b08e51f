//! The outside end of the PS/2 keyboard and mouse.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use devices::input::{I8042, MouseEvent};
use display::keys::Key;
use display::{Buttons, Input, Leds, Motion, Pointer};
use machine::Shared;

use crate::hardware::lock;

/// The keyboard and the mouse behind the keyboard controller.
pub(crate) struct Ps2Input {
    controller: Shared<I8042>,
    /// The keys that are down, and what they have sent for it.
    down: Mutex<HashMap<Key, Vec<u8>>>,
    read: Arc<AllRead>,
}

#[derive(Default)]
struct AllRead {
    /// Counts how often the guest has read all keys.
    times: Mutex<u64>,
    changed: Condvar,
}

impl Ps2Input {
    pub(crate) fn new(controller: Shared<I8042>) -> Arc<Self> {
        let read = Arc::<AllRead>::default();
        let told = Arc::clone(&read);
        lock(&controller).on_all_keys_read(move || {
            *lock(&told.times) += 1;
            told.changed.notify_all();
        });
        Arc::new(Self { controller, down: Mutex::default(), read })
    }
}

impl Input for Ps2Input {
    fn key(&self, key: Key, down: bool) -> bool {
        let mut held = lock(&self.down);
        if !down {
            let Some(make) = held.remove(&key) else { return false };
            lock(&self.controller).release(&key.release(&make));
            return true;
        }
        let has = |one: Key, other: Key| held.contains_key(&one) || held.contains_key(&other);
        let (alt, ctrl) = (has(Key::ALT, Key::ALT_R), has(Key::CTRL, Key::CTRL_R));
        // A key that repeats says what it has said.
        let make = held.get(&key).cloned().unwrap_or_else(|| key.make(alt, ctrl));
        let taken = lock(&self.controller).press(&make);
        if taken {
            held.insert(key, make);
        }
        taken
    }

    fn release_all(&self) {
        let mut held = lock(&self.down);
        let mut controller = lock(&self.controller);
        for (key, make) in held.drain() {
            controller.release(&key.release(&make));
        }
    }

    fn pointer(&self, event: Pointer) {
        let (dx, dy) = match event.motion {
            Motion::By { dx, dy } => (dx, dy.saturating_neg()),
            Motion::To { .. } => (0, 0),
        };
        let short = |len: i32| len.clamp(i32::from(i16::MIN), i32::from(i16::MAX)) as i16;
        let Buttons { left, middle, right, back, forward } = event.buttons;
        let bits = [left, right, middle, back, forward];
        let buttons = bits.iter().rev().fold(0, |bits, down| bits << 1 | u8::from(*down));
        lock(&self.controller).mouse(MouseEvent { dx: short(dx), dy: short(dy), wheel: event.wheel.into(), buttons });
    }

    fn is_absolute(&self) -> bool {
        false
    }

    fn leds(&self) -> Leds {
        let bits = lock(&self.controller).leds();
        Leds { scroll: bits & 1 != 0, num: bits & 2 != 0, caps: bits & 4 != 0 }
    }

    fn wait_for_room(&self, patience: Duration) -> bool {
        let end = Instant::now() + patience;
        loop {
            let before = *lock(&self.read.times);
            if lock(&self.controller).all_keys_read() {
                return true;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let times = lock(&self.read.times);
            drop(self.read.changed.wait_timeout_while(times, left, |times| *times == before));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use machine::{At, Device, Line};

    fn input() -> (Arc<Ps2Input>, Shared<I8042>) {
        let controller = I8042::build(Line::unconnected(), Line::unconnected());
        (Ps2Input::new(Arc::clone(&controller)), controller)
    }

    fn read(controller: &Shared<I8042>) -> Vec<u8> {
        let mut all = Vec::new();
        let byte = |window| {
            let mut data = [0];
            lock(controller).read(At { window, offset: 0 }, &mut data);
            data[0]
        };
        while byte(1) & 1 != 0 {
            all.push(byte(0));
        }
        all
    }

    #[test]
    fn keys_go_down_and_up() {
        let (input, controller) = input();
        let key = |name: &str| Key::named(name).unwrap();
        assert!(display::press(&*input, &[Key::CTRL, Key::ALT, key("delete")]));
        assert_eq!(read(&controller), [0x1d, 0x38, 0xe0, 0x53, 0xe0, 0xd3, 0xb8, 0x9d]);
        assert!(!input.key(key("a"), false), "what is not down does not go up");
        assert!(input.key(Key::ALT, true) && input.key(Key::PRINT, true) && input.key(Key::ALT, false));
        input.release_all();
        assert_eq!(read(&controller), [0x38, 0x54, 0xb8, 0xd4], "SysRq goes up as it went down");
    }

    #[test]
    fn a_guest_that_reads_nothing_loses_whole_keys() {
        let (input, controller) = input();
        let names = ["a", "up", "ctrl_r", "print", "pause", "b", "c"];
        let keys: Vec<_> = names.iter().cycle().take(400).map(|name| Key::named(name).unwrap()).collect();
        let taken: Vec<_> = keys.iter().filter(|key| display::press(&*input, &[**key])).collect();
        assert!(taken.len() >= 16 && taken.len() < 100, "{}", taken.len());
        assert!(!input.wait_for_room(Duration::ZERO));
        let mut expected = Vec::new();
        for key in taken {
            let make = key.make(false, false);
            expected.extend([make.clone(), key.release(&make)].concat());
        }
        assert_eq!(read(&controller), expected);
        assert!(input.wait_for_room(Duration::ZERO));
    }
}
