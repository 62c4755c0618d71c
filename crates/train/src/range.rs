//! The numbers that a setting may have.

use std::fmt::{self, Display};
use std::ops::{self, Bound, RangeBounds as _};

use toml::Value;

/// An interval of numbers, each end in it, out of it or open. NaN and the infinities are in none.
///
/// ```
/// use rlhf_train::Range;
/// assert_eq!(Range::above(0.0, 1.0).to_string(), "above 0 and at most 1");
/// assert_eq!(Range::from(0.0..1.0).to_string(), "at least 0 and below 1");
/// assert_eq!(Range::from(1..=1000).to_string(), "from 1 to 1000");
/// assert!(Range::from(1..).contains(5.0) && !Range::from(1..).contains(f64::INFINITY));
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    low: Bound<f64>,
    high: Bound<f64>,
}

impl Range {
    /// Above `low` and at most `high`.
    pub fn above(low: f64, high: f64) -> Self {
        Self {
            low: Bound::Excluded(low),
            high: Bound::Included(high),
        }
    }

    /// Above `low` and below `high`.
    pub fn inside(low: f64, high: f64) -> Self {
        Self {
            low: Bound::Excluded(low),
            high: Bound::Excluded(high),
        }
    }

    /// Whether `x` is one of the numbers.
    pub fn contains(&self, x: f64) -> bool {
        x.is_finite() && (self.low, self.high).contains(&x)
    }

    /// The first number in `value` that is not in the range; lists and tables are searched too.
    pub(crate) fn refuses(&self, value: &Value) -> Option<f64> {
        match value {
            Value::Integer(n) => Some(*n as f64).filter(|x| !self.contains(*x)),
            Value::Float(x) => Some(*x).filter(|x| !self.contains(*x)),
            Value::Array(values) => values.iter().find_map(|value| self.refuses(value)),
            Value::Table(table) => table.values().find_map(|value| self.refuses(value)),
            _ => None,
        }
    }

    /// A number just outside at each end that there is.
    pub fn outside(&self) -> Vec<f64> {
        let beyond = |bound, step: f64| match bound {
            Bound::Included(x) => Some(x + step),
            Bound::Excluded(x) => Some(x),
            Bound::Unbounded => None,
        };
        [beyond(self.low, -1.0), beyond(self.high, 1.0)]
            .into_iter()
            .flatten()
            .collect()
    }
}

impl From<ops::RangeInclusive<f64>> for Range {
    fn from(range: ops::RangeInclusive<f64>) -> Self {
        Self {
            low: Bound::Included(*range.start()),
            high: Bound::Included(*range.end()),
        }
    }
}

impl From<ops::Range<f64>> for Range {
    fn from(range: ops::Range<f64>) -> Self {
        Self {
            low: Bound::Included(range.start),
            high: Bound::Excluded(range.end),
        }
    }
}

impl From<ops::RangeInclusive<u64>> for Range {
    fn from(range: ops::RangeInclusive<u64>) -> Self {
        Self::from(*range.start() as f64..=*range.end() as f64)
    }
}

impl From<ops::RangeFrom<u64>> for Range {
    fn from(range: ops::RangeFrom<u64>) -> Self {
        Self {
            low: Bound::Included(range.start as f64),
            high: Bound::Unbounded,
        }
    }
}

impl Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let low = match self.low {
            Bound::Included(x) => format!("at least {}", short(x)),
            Bound::Excluded(x) => format!("above {}", short(x)),
            Bound::Unbounded => String::new(),
        };
        let high = match self.high {
            Bound::Included(x) => format!("at most {}", short(x)),
            Bound::Excluded(x) => format!("below {}", short(x)),
            Bound::Unbounded => String::new(),
        };
        match (self.low, self.high) {
            (Bound::Included(a), Bound::Included(b)) => {
                write!(f, "from {} to {}", short(a), short(b))
            }
            (Bound::Unbounded, _) => f.write_str(&high),
            (_, Bound::Unbounded) => f.write_str(&low),
            _ => write!(f, "{low} and {high}"),
        }
    }
}

/// A number as one would write it: 1e9 rather than 1000000000, 1e-5 rather than 0.00001.
pub(crate) fn short(x: f64) -> String {
    let size = x.abs();
    match size == 0.0 || (1e-3..1e6).contains(&size) || !x.is_finite() {
        true => format!("{x}"),
        false => format!("{x:e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_in_or_out_as_it_is_written_and_no_number_that_is_none_is_in() {
        for (range, inside, outside) in [
            (Range::above(0.0, 1.0), [1e-30, 1.0], [0.0, 1.1]),
            (Range::inside(0.0, 1.0), [1e-30, 0.9], [0.0, 1.0]),
            (Range::from(0.0..=1.0), [0.0, 1.0], [-1e-9, 1.1]),
            (Range::from(0.0..1.0), [0.0, 0.9], [-1e-9, 1.0]),
            (Range::from(1..=9), [1.0, 9.0], [0.0, 10.0]),
            (Range::from(1..), [1.0, 1e18], [0.0, f64::INFINITY]),
        ] {
            assert!(inside.iter().all(|x| range.contains(*x)), "{range}");
            assert!(outside.iter().all(|x| !range.contains(*x)), "{range}");
            assert!(!range.contains(f64::NAN) && !range.contains(f64::NEG_INFINITY));
            assert!(range.outside().iter().all(|x| !range.contains(*x)));
        }
    }

    #[test]
    fn numbers_inside_lists_and_tables_are_seen() {
        let range = Range::from(0.0..=1.0);
        let table: toml::Table = "v = [0.5, {a = 1, b = 2}, \"9\"]".parse().unwrap();
        assert_eq!(range.refuses(&table["v"]), Some(2.0));
        assert_eq!(range.refuses(&Value::String("9".into())), None);
    }
}
