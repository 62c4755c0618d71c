//! An axis: the values it spans, and where its ticks lie.

/// One axis: the values it spans and where its ticks lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Axis {
    pub(crate) low: f64,
    pub(crate) high: f64,
    step: f64,
}

impl Axis {
    /// The smallest span of round ticks that encloses `values`; `None` without values.
    pub(crate) fn around(values: impl Iterator<Item = f64>) -> Option<Self> {
        let exact = Self::within(values)?;
        let step = exact.step;
        Some(Self {
            low: (exact.low / step).floor() * step,
            high: (exact.high / step).ceil() * step,
            step,
        })
    }

    /// From the lowest to the highest of `values` and no further; the round ticks lie inside.
    pub(crate) fn within(values: impl Iterator<Item = f64>) -> Option<Self> {
        let (mut low, mut high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| {
            (l.min(v), h.max(v))
        });
        if low > high {
            return None;
        }
        if high - low <= f64::EPSILON * high.abs().max(1e-300) * 8.0 {
            // A constant, or one point: give it room on both sides.
            let room = if high == 0.0 { 1.0 } else { high.abs() * 0.1 };
            (low, high) = (low - room, high + room);
        }
        Some(Self {
            low,
            high,
            step: round_step((high - low) / 5.0),
        })
    }

    /// From zero, or from below it where values are, to the highest of `values`: for quantities that start at zero, such as steps and KL.
    pub(crate) fn from_zero(values: impl Iterator<Item = f64>) -> Option<Self> {
        Self::within(values.chain([0.0]))
    }

    /// From `low` to `high`, as they are.
    pub(crate) fn fixed(low: f64, high: f64) -> Self {
        Self {
            low,
            high,
            step: round_step((high - low) / 5.0),
        }
    }

    /// Where `value` lies between the ends, 0 to 1.
    pub(crate) fn share(&self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low)
    }

    pub(crate) fn ticks(&self) -> Vec<f64> {
        // A thousandth of a step allows for the rounding of the division.
        let first = (self.low / self.step - 1e-3).ceil() as i64;
        let last = (self.high / self.step + 1e-3).floor() as i64;
        (first..=last).map(|i| i as f64 * self.step).collect()
    }

    pub(crate) fn label(&self, tick: f64) -> String {
        if tick == 0.0 {
            return "0".to_owned(); // `i * step` gives -0.0 for no `i`, and "0.000" says no more
        }
        if !(1e-3..1e5).contains(&self.high.abs().max(self.low.abs())) {
            return format!("{tick:.1e}").replace('-', "−");
        }
        let decimals = (-self.step.log10().floor()).clamp(0.0, 6.0) as usize;
        format!("{tick:.decimals$}").replace('-', "−")
    }
}

/// The next of 1, 2, 5 × 10ⁿ at or above `raw`.
fn round_step(raw: f64) -> f64 {
    let power = 10f64.powf(raw.log10().floor());
    let digit = raw / power;
    let round = [1.0, 2.0, 5.0]
        .into_iter()
        .find(|d| digit <= d * (1.0 + 1e-9))
        .unwrap_or(10.0);
    round * power
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand: a fifth of the span 0.93 is 0.186, the next of 1, 2, 5 × 10ⁿ is 0.2.
    #[test]
    fn ticks_are_round_and_enclose_the_values() {
        let axis = Axis::around([0.04, 0.97].into_iter()).unwrap();
        assert_eq!(axis.ticks().len(), 6);
        assert_eq!((axis.low, axis.high), (0.0, 1.0));
        assert_eq!(axis.label(0.2), "0.2");
        let axis = Axis::around([-3.0, 12.0].into_iter()).unwrap();
        assert_eq!(axis.ticks(), [-5.0, 0.0, 5.0, 10.0, 15.0]);
        assert_eq!(axis.label(0.0), "0");
        assert_eq!(axis.label(-5.0), "−5");
    }

    #[test]
    fn an_axis_ends_where_its_values_end_and_may_start_at_zero() {
        let axis = Axis::within([1.0, 120.0].into_iter()).unwrap();
        assert_eq!(axis.ticks(), [50.0, 100.0]);
        let axis = Axis::from_zero([1.0, 120.0].into_iter()).unwrap();
        assert_eq!((axis.low, axis.high), (0.0, 120.0));
        let axis = Axis::from_zero([-0.1, 2.0].into_iter()).unwrap();
        assert_eq!(axis.low, -0.1);
        assert_eq!(Axis::fixed(0.0, 1.0).ticks().len(), 6);
        assert!(Axis::around(std::iter::empty()).is_none());
    }

    #[test]
    fn one_value_has_room_on_both_sides() {
        let axis = Axis::around([3.0].into_iter()).unwrap();
        assert!(axis.low < 3.0 && axis.high > 3.0);
        let axis = Axis::around([0.0].into_iter()).unwrap();
        assert!(axis.low < 0.0 && axis.high > 0.0);
    }
}
