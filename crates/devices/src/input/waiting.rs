//! What is typed and done with the mouse before the guest has read what came before: it is no part of any device's state.

use std::collections::VecDeque;

use super::ps2_mouse::MouseEvent;

/// So many keys may wait; who types more is told that they are not taken.
const MOST_KEYS: usize = 64;
/// Releases of keys that were taken are taken too, but for those of a caller who invents them.
const MOST_WITH_RELEASES: usize = 512;
/// So many changes of the mouse's buttons may wait.
const MOST_EVENTS: usize = 32;

/// The bell that tells that all keys have been read.
type Bell = Box<dyn Fn() + Send>;

/// What waits.
#[derive(Default)]
pub(super) struct Waiting {
    /// The bytes of scan code set 1 of each key that goes down or up.
    keys: VecDeque<Vec<u8>>,
    mouse: VecDeque<MouseEvent>,
    all_read: Option<Bell>,
}

impl Waiting {
    pub(super) fn press(&mut self, set1: &[u8]) -> bool {
        let room = self.keys.len() < MOST_KEYS;
        if room {
            self.keys.push_back(set1.to_vec());
        }
        room
    }

    pub(super) fn release(&mut self, set1: &[u8]) {
        if self.keys.len() < MOST_WITH_RELEASES && !set1.is_empty() {
            self.keys.push_back(set1.to_vec());
        }
    }

    pub(super) fn next_key(&mut self) -> Option<Vec<u8>> {
        self.keys.pop_front()
    }

    pub(super) fn has_keys(&self) -> bool {
        !self.keys.is_empty()
    }

    pub(super) fn mouse(&mut self, event: MouseEvent) {
        let full = self.mouse.len() >= MOST_EVENTS;
        match self.mouse.back_mut() {
            // Motions add up; where there are too many clicks, the last state of the buttons counts.
            Some(last) if full || last.buttons == event.buttons => {
                last.dx = last.dx.saturating_add(event.dx);
                last.dy = last.dy.saturating_add(event.dy);
                last.wheel = last.wheel.saturating_add(event.wheel);
                last.buttons = event.buttons;
            }
            _ => self.mouse.push_back(event),
        }
    }

    pub(super) fn next_mouse(&mut self) -> Option<MouseEvent> {
        self.mouse.pop_front()
    }

    pub(super) fn clear(&mut self) {
        self.keys.clear();
        self.mouse.clear();
        self.ring();
    }

    pub(super) fn on_all_read(&mut self, bell: Bell) {
        self.all_read = Some(bell);
    }

    pub(super) fn ring(&self) {
        if let Some(bell) = &self.all_read {
            bell();
        }
    }
}
