//! Held-out loss.

use anyhow::{Result, ensure};
use rlhf_dataset::order::micro_batches;
use rlhf_lm::{CausalLm, Example, ExampleBatch};
use rlhf_train::Comm;

/// Loss per target token over all `rows`, in nats; its exponential is the perplexity.
///
/// `model` should record no graph (built over a frozen view of its parameters). The ranks of `comm` share the rows.
pub fn mean_loss(
    model: &CausalLm,
    rows: &[Example],
    micro_batch_tokens: usize,
    comm: &Comm,
) -> Result<f64> {
    let lengths: Vec<usize> = rows.iter().map(|row| row.ids().len()).collect();
    let own = comm.deal(&lengths);
    let lengths: Vec<usize> = own.iter().map(|&row| lengths[row]).collect();
    let mut total = [0.0];
    for micro in micro_batches(&lengths, micro_batch_tokens) {
        let part: Vec<&Example> = own[micro].iter().map(|&row| &rows[row]).collect();
        let loss = ExampleBatch::pack(&part, model.device())?.loss(model, 1)?;
        total[0] += f64::from(rlhf_ops::read_to_host(&loss)?[0]);
    }
    comm.sum(&mut total)?;
    let targets: usize = rows.iter().map(Example::num_targets).sum();
    let loss = total[0] / targets as f64;
    ensure!(
        loss.is_finite(),
        "the loss over {} rows is {loss}: the weights are damaged or have diverged, or --dtype cannot hold the numbers between them",
        rows.len()
    );
    Ok(loss)
}
