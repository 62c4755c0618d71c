//! The time at which an item is shown.

use std::time::{SystemTime, UNIX_EPOCH};

/// What a session takes the time from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// The system's, for people.
    System,
    /// None: where programs judge, the same judgements give the same bytes.
    Absent,
}

impl Clock {
    /// Now, as RFC 3339 has it, in UTC and whole seconds.
    pub fn now(self) -> Option<String> {
        match self {
            Clock::Absent => None,
            // A clock before 1970 is set wrongly.
            Clock::System => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
                Some(rfc3339(since.as_secs()))
            }
        }
    }
}

/// The date and time `seconds` after the beginning of 1970.
///
/// Days become a date by eras of 400 years that begin in March: Hinnant, chrono-Compatible Low-Level Date Algorithms, civil_from_days.
fn rfc3339(seconds: u64) -> String {
    let (days, of_day) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (year, month) = match month < 10 {
        true => (year + era * 400, month + 3),
        false => (year + era * 400 + 1, month - 9),
    };
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `date -u -d @N +%FT%TZ`.
    #[test]
    fn seconds_become_dates() {
        for (seconds, date) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(seconds), date);
        }
    }
}
