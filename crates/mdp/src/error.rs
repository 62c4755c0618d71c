//! Errors.

/// The errors of this crate. Each message says what was expected, what was found, and what to do.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// A distribution that is not one: negative, not finite, or not summing to 1.
    #[error("{what}: expected probabilities ≥ 0 that sum to 1, found {found}; check the table row")]
    NotADistribution {
        /// Which row or pair, in words.
        what: String,
        /// The offending entry or sum.
        found: String,
    },
    /// A table whose size does not match the process it is used with.
    #[error(
        "{what}: expected {expected} entries, found {found}; the table belongs to another process"
    )]
    WrongSize {
        /// Which table, in words.
        what: String,
        /// How many entries it should have.
        expected: usize,
        /// How many it has.
        found: usize,
    },
    /// A transition to a state that does not exist.
    #[error("{what}: next state {next} does not exist, states are 0..{states}")]
    NoSuchState {
        /// Which transition, in words.
        what: String,
        /// The state it names.
        next: usize,
        /// How many states there are.
        states: usize,
    },
    /// An argument out of its range.
    #[error("{name} must be {range}, found {found}")]
    OutOfRange {
        /// The argument.
        name: &'static str,
        /// The range.
        range: &'static str,
        /// The value.
        found: f64,
    },
    /// With γ = 1 a value is finite only if the episode ends.
    #[error(
        "state {state} never reaches an end and γ = 1, so its value is not defined; choose γ < 1 or a policy that ends"
    )]
    NeverEnds {
        /// The first such state.
        state: usize,
    },
    /// A Markov process with several closed classes has several stationary distributions.
    #[error(
        "the stationary distribution is not unique: the process has {classes} closed classes, sets of states that are never left"
    )]
    NotUnique {
        /// How many closed classes there are.
        classes: usize,
    },
    /// An iteration that did not converge.
    #[error(
        "{what} has not converged after {sweeps} sweeps (last change {change:e}); choose γ < 1 or a larger tolerance"
    )]
    NotConverged {
        /// Which iteration.
        what: &'static str,
        /// How many sweeps were made.
        sweeps: usize,
        /// The largest change of the last sweep.
        change: f64,
    },
    /// A sampled episode that does not end.
    #[error(
        "an episode has not ended after {steps} steps; choose a policy that ends, or more exploration"
    )]
    EndlessEpisode {
        /// How many steps were taken.
        steps: usize,
    },
    /// A policy that takes an action of probability 0 under the reference: its KL is infinite.
    #[error(
        "action {action} in state {state} has probability 0 under the reference, so the KL is infinite; give it some, or do not take it"
    )]
    OutsideReference {
        /// The state.
        state: usize,
        /// The action.
        action: usize,
    },
    /// A map of a grid that cannot be read.
    #[error(
        "grid map, line {line}: {problem}; use '.' free, '#' wall, '+' end with +1, '-' end with −1, '0' end with 0, in lines of one length"
    )]
    BadMap {
        /// Line of the map, from 1.
        line: usize,
        /// What is wrong there.
        problem: String,
    },
    /// An unknown name.
    #[error("unknown {kind} {found:?}; known: {known}")]
    Unknown {
        /// What it should name.
        kind: &'static str,
        /// The name.
        found: String,
        /// The known names.
        known: String,
    },
}

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;

/// Far above the rounding of a sum of some thousand probabilities in f64, far below a real mistake.
const SUM_TOLERANCE: f64 = 1e-9;

/// Checks `p_i ≥ 0` and `Σ p_i = 1`; `what` names the row in the error.
pub(crate) fn check_distribution(
    p: impl Iterator<Item = f64>,
    what: impl Fn() -> String,
) -> Result<()> {
    let mut sum = 0.0;
    for (i, x) in p.enumerate() {
        if !(x.is_finite() && x >= 0.0) {
            return Err(Error::NotADistribution {
                what: what(),
                found: format!("{x} at {i}"),
            });
        }
        sum += x;
    }
    if (sum - 1.0).abs() > SUM_TOLERANCE {
        return Err(Error::NotADistribution {
            what: what(),
            found: format!("the sum {sum}"),
        });
    }
    Ok(())
}

/// Checks `found == expected`; `what` names the table in the error.
pub(crate) fn check_size(what: impl Into<String>, expected: usize, found: usize) -> Result<()> {
    if expected == found {
        Ok(())
    } else {
        Err(Error::WrongSize {
            what: what.into(),
            expected,
            found,
        })
    }
}

/// Checks 0 ≤ γ ≤ 1.
pub(crate) fn check_discount(gamma: f64) -> Result<()> {
    if (0.0..=1.0).contains(&gamma) {
        Ok(())
    } else {
        Err(Error::OutOfRange {
            name: "the discount γ",
            range: "between 0 and 1",
            found: gamma,
        })
    }
}
