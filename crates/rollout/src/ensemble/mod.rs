//! How sure a reward is: an ensemble of small heads on the hidden states that a reward model scores.
//!
//! 1. [`Ensemble`]: H small networks over the same features, each started and fed from a random stream of its own, so that they agree
//!    where the judgements leave no doubt and differ elsewhere;
//! 2. [`Ensemble::fit`]: refits all of them to the judgements so far, in seconds, because the features are computed once;
//! 3. [`infomax`], [`delta_ucb`], [`thompson`]: what a further judgement would be worth; [`Rule`], [`Opinions`]: which one to ask for;
//! 4. [`Features`]: the hidden states, of a reward model or of a language model;
//! 5. [`save_heads`], [`load_heads`]: the heads of a reward model beside it.

mod disagreement;
mod features;
mod fit;
mod head;
mod rule;
mod saved;

pub use disagreement::{delta_ucb, differences, infomax, mean_and_sd, thompson};
pub use features::Features;
pub use fit::Judged;
pub use head::Ensemble;
pub use rule::{Opinions, Rule};
pub use saved::{load_heads, save_heads};
