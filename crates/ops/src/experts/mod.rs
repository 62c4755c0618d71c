//! A mixture of experts: rows go to the experts that a router chose for their tokens, are multiplied by the weights of those, and come back.
//!
//! Shazeer et al. 2017, arXiv:1701.06538. Every expert is multiplied with all of its rows at once; there is no capacity beyond which
//! tokens are dropped.

mod cpu;
mod gpu;
mod quantised;
pub(crate) mod reference;
mod routing;

use candle_core::{Result, Tensor, bail};

use crate::apply::{apply1, apply2};
use crate::backend::{Backend, backend};
pub use quantised::quantised_expert_linear;
pub use routing::Routing;

/// `y[r] = x[token of r]`: rows for the experts. `x` is `[T, H]`, the result `[T·K, H]`.
pub fn dispatch(x: &Tensor, routing: &Routing) -> Result<Tensor> {
    let (tokens, _) = x.dims2()?;
    if tokens != routing.num_tokens() {
        bail!(
            "dispatch: the routing of {} tokens, and {tokens} rows",
            routing.num_tokens()
        )
    }
    match backend(&[x]) {
        Backend::Fused => apply1(x, cpu::Dispatch(routing.clone())),
        Backend::Kernel => gpu::dispatch(x, routing),
        Backend::Reference => reference::dispatch(x, routing),
    }
}

/// `y[r] = x[r]·W[expert of r]ᵀ`. `x` is `[T·K, in]`, `w` `[E, out, in]`, the result `[T·K, out]`.
pub fn expert_linear(x: &Tensor, w: &Tensor, routing: &Routing) -> Result<Tensor> {
    check_rows(x, w.dims3()?, routing)?;
    match backend(&[x, w]) {
        Backend::Fused => apply2(x, w, cpu::ExpertLinear(routing.clone())),
        Backend::Kernel => gpu::expert_linear(x, w, routing),
        Backend::Reference => reference::expert_linear(x, w, routing),
    }
}

/// `y[t] = Σ_k weights[t, k] · x[row of (t, k)]`: what the experts of a token say, added up. `x` is `[T·K, H]`, `weights` `[T, K]`, the
/// result `[T, H]`.
pub fn combine(x: &Tensor, weights: &Tensor, routing: &Routing) -> Result<Tensor> {
    let (rows, _) = x.dims2()?;
    if rows != routing.rows().len() || weights.dims() != [routing.num_tokens(), routing.chosen()] {
        bail!(
            "combine: {} tokens of {} experts each, and operands {:?} and {:?}",
            routing.num_tokens(),
            routing.chosen(),
            x.dims(),
            weights.dims()
        )
    }
    match backend(&[x, weights]) {
        Backend::Fused => apply2(x, weights, cpu::Combine(routing.clone())),
        Backend::Kernel => gpu::combine(x, weights, routing),
        Backend::Reference => reference::combine(x, weights, routing),
    }
}

/// Refuses operands that are not those of `routing` and of a weight `[experts, outputs, inputs]`.
fn check_rows(
    x: &Tensor,
    (experts, outputs, inputs): (usize, usize, usize),
    routing: &Routing,
) -> Result<()> {
    if x.dims() != [routing.rows().len(), inputs] || experts != routing.num_experts() {
        bail!(
            "expert linear: {} rows for {} experts, and operands {:?} and {:?}",
            routing.rows().len(),
            routing.num_experts(),
            x.dims(),
            [experts, outputs, inputs]
        )
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TestRng, check_op};

    #[test]
    fn agrees_with_the_reference_and_finite_differences() {
        let mut rng = TestRng::new(1);
        // Tokens, experts, experts of a token, inputs, outputs. Of 9 experts one token reaches few.
        for (tokens, all, chosen, inputs, outputs) in [
            (1, 1, 1, 1, 1),
            (1, 9, 2, 3, 4),
            (7, 4, 3, 5, 6),
            (60, 5, 2, 40, 33),
            (0, 3, 2, 4, 5),
        ] {
            let routing = Routing::top(&rng.tensor(&[tokens, all]), chosen).unwrap();
            let what = format!("{tokens} tokens to {chosen} of {all}");
            let x = rng.tensor(&[tokens, inputs]);
            check_op(
                &format!("dispatch {what}"),
                &[x],
                |t| dispatch(&t[0], &routing),
                &|t| reference::dispatch(&t[0], &routing),
            );
            let x = rng.tensor(&[tokens * chosen, inputs]);
            let w = rng.tensor(&[all, outputs, inputs]);
            check_op(
                &format!("linear {what}"),
                &[x.clone(), w],
                |t| expert_linear(&t[0], &t[1], &routing),
                &|t| reference::expert_linear(&t[0], &t[1], &routing),
            );
            let weights = rng.tensor(&[tokens, chosen]);
            check_op(
                &format!("combine {what}"),
                &[x, weights],
                |t| combine(&t[0], &t[1], &routing),
                &|t| reference::combine(&t[0], &t[1], &routing),
            );
        }
    }

    /// The oracle is the definition: each token alone through the matrices of its experts.
    #[test]
    fn every_token_gets_the_weighted_answers_of_its_experts() {
        let mut rng = TestRng::new(2);
        let (tokens, all, chosen) = (11, 4, 2);
        let routing = Routing::top(&rng.tensor(&[tokens, all]), chosen).unwrap();
        let (x, w) = (rng.tensor(&[tokens, 5]), rng.tensor(&[all, 3, 5]));
        let weights = rng.tensor(&[tokens, chosen]);
        let rows = dispatch(&x, &routing).unwrap();
        let rows = expert_linear(&rows, &w, &routing).unwrap();
        let found = combine(&rows, &weights, &routing).unwrap();
        let experts = routing.experts(x.device()).unwrap();
        let experts = experts.to_vec2::<u32>().unwrap();
        for (token, experts) in experts.iter().enumerate() {
            let mut want = Tensor::zeros((1, 3), x.dtype(), x.device()).unwrap();
            for (rank, expert) in experts.iter().enumerate() {
                let matrix = w.get(*expert as usize).unwrap();
                let row = x.narrow(0, token, 1).unwrap();
                let said = row.matmul(&matrix.t().unwrap()).unwrap();
                let weight = weights.get(token).unwrap().get(rank).unwrap();
                want = (want + said.broadcast_mul(&weight).unwrap()).unwrap();
            }
            let found = found.narrow(0, token, 1).unwrap();
            crate::testing::assert_close(&found, &want, 1e-6, &format!("token {token}"));
        }
    }

    #[test]
    fn operands_of_another_routing_are_refused() {
        let mut rng = TestRng::new(3);
        let routing = Routing::top(&rng.tensor(&[3, 4]), 2).unwrap();
        assert!(dispatch(&rng.tensor(&[2, 5]), &routing).is_err());
        let rows = rng.tensor(&[6, 5]);
        assert!(expert_linear(&rows, &rng.tensor(&[3, 2, 5]), &routing).is_err());
        assert!(expert_linear(&rows, &rng.tensor(&[4, 2, 6]), &routing).is_err());
        assert!(combine(&rows, &rng.tensor(&[3, 1]), &routing).is_err());
    }
}
