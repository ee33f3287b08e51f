//! A client's keys: what is on a key becomes the key of a US keyboard.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use crate::input::Input;
use crate::keys::{Key, Meaning, Stroke, of_keysym};

/// No hand holds more keys.
const MOST: usize = 64;

/// The keys that one client holds.
pub(super) struct Keyboard {
    input: Arc<dyn Input>,
    /// By keysym: with another layout or with Shift, what goes up may be called otherwise than what went down.
    down: HashMap<u32, Key>,
    /// Those that came with their codes.
    coded: Vec<Key>,
}

impl Keyboard {
    pub(super) fn new(input: Arc<dyn Input>) -> Self {
        Self { input, down: HashMap::new(), coded: Vec::new() }
    }

    /// A key with its code.
    pub(super) fn coded(&mut self, down: bool, number: u32) {
        let Some(key) = Key::of_number(number) else { return };
        if !down {
            self.coded.retain(|held| *held != key);
        } else if !self.coded.contains(&key) {
            if self.coded.len() == MOST {
                return;
            }
            self.coded.push(key);
        }
        self.input.key(key, down);
    }

    /// A key by what is on it.
    pub(super) fn key(&mut self, down: bool, keysym: u32) {
        if !down {
            if let Some(key) = self.down.remove(&keysym) {
                self.input.key(key, false);
            }
            return;
        }
        let Some(meaning) = of_keysym(keysym) else { return };
        let key = match meaning {
            Meaning::Key(key) | Meaning::Character(Stroke { key, .. }) => key,
        };
        let room = self.down.len() < MOST;
        match self.down.entry(keysym) {
            Entry::Vacant(entry) if room => {
                entry.insert(key);
            }
            Entry::Vacant(_) => return,
            Entry::Occupied(_) => {}
        }
        match meaning {
            Meaning::Key(key) => {
                self.input.key(key, true);
            }
            Meaning::Character(stroke) => self.character(stroke),
        }
    }

    /// Presses a character's key, with Shift as a US keyboard needs it, whatever the client's needed.
    fn character(&mut self, stroke: Stroke) {
        let shift = stroke.shift != (stroke.letter && self.input.leds().caps);
        let held: Vec<Key> = self.held().filter(|key| matches!(*key, Key::SHIFT | Key::SHIFT_R)).collect();
        // With Ctrl or Alt it is the key that is meant.
        let meant = self.held().any(|key| matches!(key, Key::CTRL | Key::CTRL_R | Key::ALT));
        match (shift, held.is_empty()) {
            (true, true) if !meant => {
                // Without room for Shift it would be another character.
                if self.input.key(Key::SHIFT, true) {
                    self.input.key(stroke.key, true);
                    self.input.key(Key::SHIFT, false);
                }
            }
            (false, false) if !meant => {
                for shift in &held {
                    self.input.key(*shift, false);
                }
                self.input.key(stroke.key, true);
                for shift in held {
                    if !self.input.key(shift, true) {
                        self.down.retain(|_, key| *key != shift);
                        self.coded.retain(|key| *key != shift);
                    }
                }
            }
            _ => {
                self.input.key(stroke.key, true);
            }
        }
    }

    fn held(&self) -> impl Iterator<Item = Key> {
        self.down.values().chain(&self.coded).copied()
    }
}

impl Drop for Keyboard {
    /// Who goes away holds nothing.
    fn drop(&mut self) {
        let held: Vec<Key> = self.held().collect();
        for key in held {
            self.input.key(key, false);
        }
    }
}
