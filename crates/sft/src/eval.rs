//! Held-out loss.

use anyhow::{Result, ensure};
use rlhf_dataset::order::micro_batches;
use rlhf_lm::{CausalLm, Example, ExampleBatch};

/// Loss per target token over all `rows`, in nats; its exponential is the perplexity.
///
/// `model` should record no graph (built over a frozen view of its parameters).
pub fn mean_loss(model: &CausalLm, rows: &[Example], micro_batch_tokens: usize) -> Result<f64> {
    let lengths: Vec<usize> = rows.iter().map(|row| row.ids().len()).collect();
    let (mut total, mut targets) = (0.0, 0);
    for micro in micro_batches(&lengths, micro_batch_tokens) {
        let part: Vec<&Example> = rows[micro].iter().collect();
        targets += part.iter().map(|row| row.num_targets()).sum::<usize>();
        let loss = ExampleBatch::pack(&part, model.device())?.loss(model, 1)?;
        total += f64::from(rlhf_ops::read_to_host(&loss)?[0]);
    }
    let loss = total / targets as f64;
    ensure!(
        loss.is_finite(),
        "the loss over {} rows is {loss}: the weights are damaged or have diverged, or --dtype cannot hold the numbers between them",
        rows.len()
    );
    Ok(loss)
}
