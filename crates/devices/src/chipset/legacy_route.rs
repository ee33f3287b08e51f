//! Who drives IRQ0 and IRQ8: the PIT and the RTC, or the HPET in their place (IA-PC HPET Specification 1.0a, 2.3.5,
//! LegacyReplacement Route).

use std::sync::{Arc, Mutex, PoisonError};

use machine::{Line, LineSink, Wire};

/// The switch in front of IRQ0 and IRQ8.
pub struct LegacyRoute {
    switch: Mutex<Switch>,
}

struct Switch {
    replaced: bool,
    /// What PIT and RTC drive, seen or not.
    below: [bool; 2],
    /// What the HPET drives, seen or not.
    hpet: [bool; 2],
    out: [Line; 2],
}

impl Switch {
    fn update(&self) {
        let levels = if self.replaced { &self.hpet } else { &self.below };
        for (line, level) in self.out.iter().zip(levels) {
            line.set(*level);
        }
    }
}

impl LegacyRoute {
    /// A switch that drives these two lines, at first with what PIT and RTC say.
    #[must_use]
    pub fn new(irq0: Line, irq8: Line) -> Arc<Self> {
        let switch = Switch { replaced: false, below: [false; 2], hpet: [false; 2], out: [irq0, irq8] };
        Arc::new(Self { switch: Mutex::new(switch) })
    }

    /// The line for the PIT's counter 0.
    #[must_use]
    pub fn pit_line(self: &Arc<Self>) -> Line {
        Wire::new(vec![(Arc::clone(self) as Arc<dyn LineSink>, 0)]).driver()
    }

    /// The line for the RTC.
    #[must_use]
    pub fn rtc_line(self: &Arc<Self>) -> Line {
        Wire::new(vec![(Arc::clone(self) as Arc<dyn LineSink>, 1)]).driver()
    }

    /// Gives the lines to the HPET, or back.
    pub(crate) fn replace(&self, replaced: bool) {
        self.change(|switch| switch.replaced = replaced);
    }

    /// What the HPET's timer `timer` (0 or 1) drives.
    pub(crate) fn set_hpet(&self, timer: usize, high: bool) {
        self.change(|switch| {
            if let Some(level) = switch.hpet.get_mut(timer) {
                *level = high;
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut Switch)) {
        let mut switch = self.switch.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut switch);
        switch.update();
    }
}

impl LineSink for LegacyRoute {
    fn set_input(&self, input: u32, high: bool) {
        self.change(|switch| {
            if let Some(level) = switch.below.get_mut(input as usize) {
                *level = high;
            }
        });
    }
}
