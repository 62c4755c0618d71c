//! What a metric means, for people who look at its curve.

/// Where a curve stands in a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// What the stage is about.
    Main,
    /// What tells whether it is healthy.
    Health,
    /// What it costs.
    Speed,
}

/// Title, meaning and place of one metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caption {
    /// Its name in `metrics.jsonl`.
    pub metric: &'static str,
    /// Where its curve stands.
    pub group: Group,
    /// What it is called.
    pub title: &'static str,
    /// What it means, and what to look for.
    pub text: &'static str,
}
