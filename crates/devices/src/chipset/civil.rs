//! The proleptic Gregorian calendar, as arithmetic on days since 1970-01-01.

/// A date and time of day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Civil {
    pub(super) year: i64,
    /// 1 to 12.
    pub(super) month: u8,
    /// 1 to 31.
    pub(super) day: u8,
    pub(super) hour: u8,
    pub(super) minute: u8,
    pub(super) second: u8,
}

/// Days from 0000-03-01 to 1970-01-01.
const EPOCH: i64 = 719_468;
/// Days of 400 years.
const CYCLE: i64 = 146_097;

impl Civil {
    /// The date and time `seconds` after 1970-01-01 00:00:00.
    pub(super) fn of(seconds: i64) -> Self {
        let days = seconds.div_euclid(86_400) + EPOCH;
        let of_day = seconds.rem_euclid(86_400);
        // Years begin in March, so that the leap day is their last one.
        let cycle = days.div_euclid(CYCLE);
        let day = days.rem_euclid(CYCLE);
        let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
        let of_year = day - (365 * year + year / 4 - year / 100);
        let month = (5 * of_year + 2) / 153;
        let of_month = of_year - (153 * month + 2) / 5;
        let month = if month < 10 { month + 3 } else { month - 9 };
        Self {
            year: cycle * 400 + year + i64::from(month <= 2),
            month: month as u8,
            day: (of_month + 1) as u8,
            hour: (of_day / 3600) as u8,
            minute: (of_day / 60 % 60) as u8,
            second: (of_day % 60) as u8,
        }
    }

    /// Seconds since 1970-01-01 00:00:00. Fields that are out of range overflow into the next larger one.
    pub(super) fn seconds(&self) -> i64 {
        let months = i64::from(self.month) - 1;
        let (year, month) = (self.year + months.div_euclid(12), months.rem_euclid(12));
        let (year, month) = if month < 2 { (year - 1, month + 10) } else { (year, month - 2) };
        let (cycle, of_cycle) = (year.div_euclid(400), year.rem_euclid(400));
        let of_year = (153 * month + 2) / 5 + i64::from(self.day) - 1;
        let days = cycle * CYCLE + of_cycle * 365 + of_cycle / 4 - of_cycle / 100 + of_year - EPOCH;
        days * 86_400 + i64::from(self.hour) * 3600 + i64::from(self.minute) * 60 + i64::from(self.second)
    }

    /// The day of the week of `seconds` after 1970-01-01: 0 is Sunday.
    pub(super) fn weekday(seconds: i64) -> u8 {
        (seconds.div_euclid(86_400) + 4).rem_euclid(7) as u8
    }
}

#[cfg(test)]
mod tests {
    use super::Civil;

    #[test]
    fn known_dates() {
        let leap = Civil { year: 2000, month: 2, day: 29, hour: 23, minute: 59, second: 59 };
        assert_eq!(leap.seconds(), 951_868_799);
        assert_eq!(Civil::of(951_868_799), leap);
        assert_eq!(Civil::of(951_868_800).month, 3);
        assert_eq!(Civil::of(0), Civil { year: 1970, month: 1, day: 1, hour: 0, minute: 0, second: 0 });
        assert_eq!(Civil::weekday(0), 4);
    }

    #[test]
    fn there_and_back_over_five_centuries() {
        for day in (-40_000..160_000).step_by(13) {
            let seconds = day * 86_400 + 12_345;
            assert_eq!(Civil::of(seconds).seconds(), seconds);
        }
    }
}
