//! The models that learn: the policy, and the critic beside or upon it.

use rlhf_lm::{Params, ScalarModel};
use rlhf_train::AdamW;

/// A model that learns: its weights, the model over them, a view of the same weights that records no graph, and its optimizer.
pub(crate) struct Learner<M> {
    pub(crate) params: Params,
    pub(crate) model: M,
    pub(crate) view: M,
    pub(crate) adam: AdamW,
}

/// The critic V.
pub(crate) enum Critic {
    /// A model of its own.
    Separate(Learner<ScalarModel>),
    /// A head among the policy's parameters, which one optimizer moves together; both models read the policy's trunk.
    Shared {
        /// Records a graph.
        model: ScalarModel,
        /// Records none.
        view: ScalarModel,
    },
}
