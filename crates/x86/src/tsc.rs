//! The time-stamp counter as a function of virtual time (SDM vol. 3B, 18.17).

use crate::Msrs;

const NANOS: u64 = 1_000_000_000;

/// A counter that ticks at a fixed rate of virtual time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tsc {
    /// Its rate in hertz, not zero.
    hz: u64,
    /// What it is ahead of the ticks since time zero (two's complement).
    offset: u64,
}

impl Tsc {
    /// The rates in hertz that a guest may have.
    pub const RATES: std::ops::RangeInclusive<u64> = 1_000_000..=100_000_000_000;

    /// At `hz` and `offset` ticks ahead (two's complement); a rate outside of [`Tsc::RATES`] is taken as the nearest one in it.
    #[must_use]
    pub fn new(hz: u64, offset: u64) -> Self {
        Self { hz: hz.clamp(*Self::RATES.start(), *Self::RATES.end()), offset }
    }

    /// One tick a nanosecond from time zero.
    #[must_use]
    pub const fn nanoseconds() -> Self {
        Self { hz: NANOS, offset: 0 }
    }

    /// That of a CPU with these MSRs.
    #[must_use]
    pub fn of(msrs: &Msrs) -> Self {
        Self::new(msrs.tsc_hz, msrs.tsc_offset)
    }

    /// The same counter with another offset.
    #[must_use]
    pub const fn with_offset(self, offset: u64) -> Self {
        Self { offset, ..self }
    }

    /// What it shows at virtual time `now_ns`.
    #[must_use]
    #[inline]
    pub const fn at(&self, now_ns: u64) -> u64 {
        let ticks = if self.hz == NANOS { now_ns } else { (now_ns as u128 * self.hz as u128 / NANOS as u128) as u64 };
        ticks.wrapping_add(self.offset)
    }

    /// How many nanoseconds from `now_ns` it takes until it shows at least `value`; saturating.
    #[must_use]
    pub const fn until(&self, value: u64, now_ns: u64) -> u64 {
        let Some(ticks) = value.checked_sub(self.at(now_ns)) else { return 0 };
        if self.hz == NANOS {
            return ticks;
        }
        let nanos = (ticks as u128 * NANOS as u128).div_ceil(self.hz as u128);
        if nanos > u64::MAX as u128 { u64::MAX } else { nanos as u64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_reached_when_its_time_has_come() {
        for hz in [NANOS, 2_600_000_000, 999_999_937, 1_000_000] {
            let tsc = Tsc::new(hz, 0u64.wrapping_sub(12_345));
            for (value, now) in [(5_000_000u64, 1_000_000), (u64::from(u32::MAX), 77), (1 << 40, 3)] {
                let wait = tsc.until(value, now);
                assert!(tsc.at(now + wait) >= value, "{hz} {value} {now}");
                // No more than a tick too late.
                let tick = NANOS.div_ceil(hz);
                assert!(wait <= tick || tsc.at(now + wait - tick) < value, "{hz} {value} {now}");
            }
        }
        assert_eq!(Tsc::nanoseconds().until(5, 9), 0);
        assert_eq!(Tsc::new(1_000_000, 0).until(u64::MAX, 0), u64::MAX);
    }

    #[test]
    fn large_times_do_not_overflow() {
        let tsc = Tsc::new(3_000_000_000, 5);
        assert_eq!(tsc.at(1 << 62), ((1u128 << 62) * 3 + 5) as u64);
        assert_eq!(Tsc::new(0, 0), Tsc::new(1_000_000, 0));
    }
}
