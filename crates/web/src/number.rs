//! Numbers as the report writes them.

/// Three decimals; whole numbers as they are, very large and very small ones by their power of ten.
pub(crate) fn short(x: f64) -> String {
    let size = x.abs();
    let text = if x == 0.0 {
        "0".to_owned()
    } else if x.fract() == 0.0 && size < 1e7 {
        format!("{x:.0}")
    } else if (1e-3..1e5).contains(&size) {
        format!("{x:.3}")
    } else {
        format!("{x:.2e}")
    };
    text.replace('-', "−")
}

/// Three decimals, whole numbers too: where numbers are compared.
pub(crate) fn fixed(x: f64) -> String {
    format!("{x:.3}").replace('-', "−")
}

/// A share as a percentage.
pub(crate) fn percent(x: f64) -> String {
    format!("{:.1} %", 100.0 * x)
}

/// An interval of percentages.
pub(crate) fn percents((low, high): (f64, f64)) -> String {
    format!("[{:.1}, {:.1}]", 100.0 * low, 100.0 * high)
}

/// An interval of numbers.
pub(crate) fn interval((low, high): (f64, f64)) -> String {
    format!("[{}, {}]", fixed(low), fixed(high))
}

/// A length of time.
pub(crate) fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match (whole / 3600, whole / 60 % 60, whole % 60) {
        (0, 0, _) if seconds < 10.0 => format!("{seconds:.1} s"),
        (0, 0, s) => format!("{s} s"),
        (0, m, s) => format!("{m} min {s:02} s"),
        (h, m, _) => format!("{h} h {m:02} min"),
    }
}

/// Bytes.
pub(crate) fn bytes(n: f64) -> String {
    match n / 1024.0 / 1024.0 {
        mib if mib < 1024.0 => format!("{mib:.0} MiB"),
        mib => format!("{:.1} GiB", mib / 1024.0),
    }
}

/// A count: 919k, 1.5M.
pub(crate) fn count(n: f64) -> String {
    match n {
        n if n < 1e4 => format!("{n:.0}"),
        n if n < 1e6 => format!("{:.0}k", n / 1e3),
        n if n < 1e9 => format!("{:.1}M", n / 1e6),
        n => format!("{:.1}G", n / 1e9),
    }
}

/// The date and the time of an RFC 3339 time in UTC, to the minute; what is no such time as it is.
pub(crate) fn date(time: &str) -> String {
    match (time.get(..10), time.get(10..11), time.get(11..16)) {
        (Some(day), Some("T"), Some(minute)) => format!("{day} {minute} UTC"),
        _ => time.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_have_a_minus_sign() {
        let cases = [
            (0.0, "0"),
            (-0.0, "0"),
            (-0.25, "−0.250"),
            (12.0, "12"),
            (1e-5, "1.00e−5"),
            (123_456.5, "1.23e5"),
        ];
        for (x, expected) in cases {
            assert_eq!(short(x), expected);
        }
        assert_eq!(fixed(-1.0), "−1.000");
        assert_eq!(
            (percent(0.5), percents((0.4, 0.61))),
            ("50.0 %".into(), "[40.0, 61.0]".into())
        );
        assert_eq!(
            (count(919_296.0), count(1.35e8)),
            ("919k".into(), "135.0M".into())
        );
    }

    #[test]
    fn times_and_sizes_are_for_people() {
        let cases = [
            (3.04, "3.0 s"),
            (59.4, "59 s"),
            (59.6, "1 min 00 s"),
            (3725.0, "1 h 02 min"),
        ];
        for (seconds, expected) in cases {
            assert_eq!(duration(seconds), expected);
        }
        assert_eq!(bytes(79_663_104.0), "76 MiB");
        assert_eq!(bytes(1610.0 * 1024.0 * 1024.0), "1.6 GiB");
        assert_eq!(date("2025-11-26T03:53:07Z"), "2025-11-26 03:53 UTC");
        assert_eq!(date("yesterday"), "yesterday");
    }
}
