//! When to stop because training has come to nothing.

use crate::{Error, Result};

/// Refuses a `number` that is none: the loss of a step, or what the model makes of a row after it.
///
/// A loss is checked before its gradient moves anything. What the last update did shows only when the model is asked again, so ask it before a
/// checkpoint or the model itself is saved: else a resumed run would start from weights that are beyond help.
pub fn check_finite(step: u64, what: &'static str, number: f64) -> Result<()> {
    if number.is_finite() {
        Ok(())
    } else {
        Err(Error::Diverged { step, what, number })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_is_none_is_refused_with_its_step_and_its_name() {
        assert!(check_finite(3, "the loss", -1e300).is_ok());
        let message = check_finite(3, "the loss", f64::NAN)
            .unwrap_err()
            .to_string();
        assert!(
            message.starts_with("step 3: the loss is NaN: training has diverged"),
            "{message}"
        );
    }
}
