//! C's `strftime`, which chat templates call for today's date.

use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since 1970.
pub(crate) fn seconds_now() -> i64 {
    // A clock before 1970 is a broken clock; the template then prints the epoch.
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs() as i64)
}

/// C's `strftime` for a moment in UTC, English names; unknown directives are kept as they are.
pub(crate) fn strftime(format: &str, unix_seconds: i64) -> String {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    const DAYS: [&str; 7] = [
        "Thursday",
        "Friday",
        "Saturday",
        "Sunday",
        "Monday",
        "Tuesday",
        "Wednesday",
    ];
    let days = unix_seconds.div_euclid(86_400);
    let second = unix_seconds.rem_euclid(86_400);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let (year, month, day, day_of_year) = civil_date(days);
    let month_name = MONTHS[month as usize - 1];
    let day_name = DAYS[days.rem_euclid(7) as usize]; // 1 January 1970 was a Thursday
    let hour12 = (hour + 11) % 12 + 1;

    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut directive = chars.next();
        let unpadded = directive == Some('-');
        if unpadded {
            directive = chars.next();
        }
        let number = |n: i64, width: usize| {
            let width = if unpadded { 0 } else { width };
            format!("{n:0width$}")
        };
        match directive {
            Some('Y') => out.push_str(&year.to_string()),
            Some('y') => out.push_str(&number(year.rem_euclid(100), 2)),
            Some('m') => out.push_str(&number(month, 2)),
            Some('d') => out.push_str(&number(day, 2)),
            Some('j') => out.push_str(&number(day_of_year, 3)),
            Some('H') => out.push_str(&number(hour, 2)),
            Some('I') => out.push_str(&number(hour12, 2)),
            Some('M') => out.push_str(&number(minute, 2)),
            Some('S') => out.push_str(&number(second, 2)),
            Some('p') => out.push_str(if hour < 12 { "AM" } else { "PM" }),
            Some('B') => out.push_str(month_name),
            Some('b') => out.push_str(&month_name[..3]),
            Some('A') => out.push_str(day_name),
            Some('a') => out.push_str(&day_name[..3]),
            Some('F') => out.push_str(&format!("{year}-{month:02}-{day:02}")),
            Some('T') => out.push_str(&format!("{hour:02}:{minute:02}:{second:02}")),
            Some('%') => out.push('%'),
            other => {
                out.push_str(if unpadded { "%-" } else { "%" });
                out.extend(other);
            }
        }
    }
    out
}

/// (year, month 1–12, day 1–31, day of the year 1–366) of the proleptic Gregorian calendar, `days`
/// after 1 January 1970.
fn civil_date(days: i64) -> (i64, i64, i64, i64) {
    let leap = |y: i64| (y % 4 == 0 && y % 100 != 0) || y % 400 == 0;
    // The calendar repeats every 400 years = 146 097 days, so at most 400 years are walked.
    let mut year = 1970 + 400 * days.div_euclid(146_097);
    let mut rest = days.rem_euclid(146_097);
    while rest >= 365 + i64::from(leap(year)) {
        rest -= 365 + i64::from(leap(year));
        year += 1;
    }
    let day_of_year = rest + 1;
    let lengths = [
        31,
        28 + i64::from(leap(year)),
        31,
        30,
        31,
        30,
        31,
        31,
        30,
        31,
        30,
        31,
    ];
    let mut month = 1;
    for length in lengths {
        if rest < length {
            break;
        }
        rest -= length;
        month += 1;
    }
    (year, month, rest + 1, day_of_year)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        // Oracle: GNU date, `date -u -d @SECONDS +FORMAT`.
        let all = "%Y-%m-%d %H:%M:%S %a %A %b %B %j %I %p %y %-d/%-m %F %T %% %Q";
        for (seconds, expected) in [
            (
                0,
                "1970-01-01 00:00:00 Thu Thursday Jan January 001 12 AM 70 1/1 1970-01-01 00:00:00 % %Q",
            ),
            (
                951_782_400,
                "2000-02-29 00:00:00 Tue Tuesday Feb February 060 12 AM 00 29/2 2000-02-29 00:00:00 % %Q",
            ),
            (
                1_735_689_599,
                "2024-12-31 23:59:59 Tue Tuesday Dec December 366 11 PM 24 31/12 2024-12-31 23:59:59 % %Q",
            ),
            (
                4_107_587_696,
                "2100-03-01 12:34:56 Mon Monday Mar March 060 12 PM 00 1/3 2100-03-01 12:34:56 % %Q",
            ),
            (
                -1,
                "1969-12-31 23:59:59 Wed Wednesday Dec December 365 11 PM 69 31/12 1969-12-31 23:59:59 % %Q",
            ),
        ] {
            assert_eq!(strftime(all, seconds), expected);
        }
    }
}
