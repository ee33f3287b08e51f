//! What all devices must do.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use machine::{At, Clock, Device, State};

use super::{Random, held};

/// The accesses of random traffic.
const ACCESSES: u32 = 100_000;

/// The battery's options.
pub struct Battery<'a> {
    /// The windows of the device: number and length in bytes.
    pub windows: &'a [(u8, u64)],
    /// The clock that is moved between accesses, for devices that live by time.
    pub clock: Option<&'a Clock>,
    /// Whether a reset gives the state of power-on. Only what a battery keeps does not.
    pub forgets: bool,
    /// The seed of the traffic; a failure says it.
    pub seed: u64,
}

/// Puts fresh devices from `make` through the battery: random traffic never panics; a save after a load is the save
/// that was loaded; a reset gives the state of power-on; states of an unknown version or form are refused and change
/// nothing.
///
/// # Panics
/// When the device fails.
pub fn battery(make: impl Fn() -> Arc<Mutex<dyn Device>>, windows: &[(u8, u64)]) {
    Battery { windows, clock: None, forgets: true, seed: 1 }.run(make);
}

fn save(device: &Mutex<dyn Device>) -> State {
    held(device).save().expect("a device can be saved")
}

fn version(device: &Mutex<dyn Device>) -> u16 {
    held(device).schema().version
}

impl Battery<'_> {
    /// Runs the battery.
    ///
    /// # Panics
    /// When the device fails.
    pub fn run(&self, make: impl Fn() -> Arc<Mutex<dyn Device>>) {
        self.refuses(&*make());
        let device = make();
        let at_power_on = save(&*device);
        self.same_after_load(&at_power_on, &*make());
        let mut random = Random::new(self.seed);
        for n in 0..ACCESSES {
            self.access(&*device, &mut random);
            if n % 10_000 == 9_999 {
                let state = save(&*device);
                self.same_after_load(&state, &*make());
            }
        }
        held(&*device).reset();
        if self.forgets && self.clock.is_none() {
            assert_eq!(save(&*device), at_power_on, "a reset gives the state of power-on (seed {})", self.seed);
        } else if self.forgets {
            // Time has gone on: compare with a device that is as old.
            let other = make();
            held(&*other).reset();
            assert_eq!(save(&*device), save(&*other), "a reset gives the state of power-on (seed {})", self.seed);
        }
    }

    fn access(&self, device: &Mutex<dyn Device>, random: &mut Random) {
        let (window, length) = self.windows[random.below(self.windows.len() as u64) as usize];
        let size = 1usize << random.below(4);
        let mut offset = random.below(length);
        if random.below(4) != 0 {
            offset &= !(size as u64 - 1);
        }
        let at = At { window, offset };
        let mut data = random.draw().to_le_bytes();
        // Small and extreme values reach more than noise does.
        match random.below(4) {
            0 => data = (random.draw() & 0xff).to_le_bytes(),
            1 if random.below(8) == 0 => data = [0xff; 8],
            _ => {}
        }
        if random.below(2) == 0 {
            held(device).read(at, &mut data[..size]);
        } else {
            let _ = held(device).write(at, &data[..size]);
        }
        if let Some(clock) = self.clock
            && random.below(8) == 0
        {
            let most = if random.below(100) == 0 { 4_000_000_000 } else { 100_000 };
            clock.advance(Duration::from_nanos(random.below(most)));
        }
    }

    fn same_after_load(&self, state: &State, other: &Mutex<dyn Device>) {
        let version = version(other);
        held(other).load(version, state.clone()).expect("a device loads what it has saved");
        assert_eq!(save(other), *state, "saved, loaded and saved again (seed {})", self.seed);
        let _ = held(other).pause();
        held(other).resume();
        assert_eq!(save(other), *state, "a pause changes nothing (seed {})", self.seed);
    }

    fn refuses(&self, device: &Mutex<dyn Device>) {
        let before = save(device);
        let unknown = version(device) + 1;
        assert!(held(device).load(unknown, before.clone()).is_err(), "an unknown version is refused");
        let version = version(device);
        let nonsense = State::of(&"nonsense").expect("a string is data");
        assert!(held(device).load(version, nonsense).is_err(), "a state of another form is refused");
        assert_eq!(save(device), before, "a refused state changes nothing");
    }
}
