//! People judge answers: what is shown to whom, what was said, and how well it agrees. No HTTP and no terminal here: those who show items
//! ask a [`Session`].
//!
//! 1. [`Kind`], [`Verdict`]: what is asked, and what is said;
//! 2. [`Candidates`], [`Item`], [`Shown`]: a prompt with its answers, what is judged of them, and how it stands on a screen;
//! 3. [`Judgement`]: the rows that a judgement becomes in a file of feedback, from which everything is read back;
//! 4. [`Journal`]: the file, which loses nothing;
//! 5. [`Pool`], [`Arrivals`], [`Sampling`]: where items come from, also while they are still sampled;
//! 6. [`Strategy`]: which item comes next; [`Learned`] finds out which one is worth most;
//! 7. [`Session`]: who judges what next, repetitions, overlap, and steps back;
//! 8. [`Progress`], [`Agreement`]: how far it is, and what the judgements say about those who judged;
//! 9. [`Simulated`]: annotators that are programs;
//! 10. [`Key`], [`as_text`]: what is typed, and what is read, in a terminal.

mod agreement;
mod alpha;
mod choose;
mod clock;
mod error;
mod item;
mod journal;
mod judgement;
mod keys;
mod kind;
mod learner;
mod pool;
mod progress;
mod sampling;
mod screen;
mod session;
mod simulated;
mod strategy;
mod verdict;

pub use agreement::{Agreement, Estimate, Share};
pub use choose::Learned;
pub use clock::Clock;
pub use error::{Error, Result};
pub use item::{Answer, Candidates, Item};
pub use journal::{Journal, demonstrations_of};
pub use judgement::{Judgement, Past, Said, Shown};
pub use keys::Key;
pub use kind::Kind;
pub use pool::{Arrivals, Pool};
pub use progress::{Progress, Summary};
pub use sampling::{Sampling, Speaker, answers_of};
pub use screen::as_text;
pub use session::{Next, Session, Settings, Undone, check_name};
pub use simulated::{Simulated, SimulatedSpec};
pub use strategy::{Choice, Choose, Random, Strategy};
pub use verdict::{Rewritten, Verdict};
