//! Checks that stop a diverged run.

use candle_core::Tensor;
use rlhf_lm::{Gradients, Params};

use crate::{Error, Result};

/// Errors on NaN or infinity; call before the optimizer step.
pub fn check_finite(step: u64, what: &'static str, number: f64) -> Result<()> {
    if number.is_finite() {
        Ok(())
    } else {
        Err(Error::Diverged { step, what, number })
    }
}

/// Errors if the model after the update of `step` gives a loss or a gradient that is not finite; `loss` is that of one row.
///
/// An update that ruins the weights shows only in the next forward pass. Call this before a checkpoint or the model is saved, so that
/// a resumed run never starts from ruined weights.
pub fn check_update(step: u64, params: &Params, loss: &Tensor) -> Result<()> {
    let mut gradients = Gradients::new();
    gradients.accumulate(params, loss)?;
    let loss = Gradients::read(&loss.detach(), &[&gradients])?[0];
    check_finite(step, "the loss after the update", f64::from(loss))?;
    check_finite(
        step,
        "the gradient norm after the update",
        gradients.norm()?,
    )
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
