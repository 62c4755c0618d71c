//! Captions of metrics: what a report says beside each curve. Stages write them, the report reads them.

/// The part of a stage's page where a metric is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// Whether the stage does what it is for.
    Main,
    /// Whether training is stable.
    Health,
    /// Time and throughput.
    Speed,
}

/// The caption of one metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caption {
    /// The name of the metric in `metrics.jsonl`.
    pub metric: &'static str,
    /// Where it is shown.
    pub group: Group,
    /// The heading of its chart.
    pub title: &'static str,
    /// What it means and how it should look, in a sentence or two.
    pub text: &'static str,
}

impl Caption {
    /// A caption in [`Group::Main`].
    pub const fn main(metric: &'static str, title: &'static str, text: &'static str) -> Self {
        Self {
            metric,
            group: Group::Main,
            title,
            text,
        }
    }

    /// A caption in [`Group::Health`].
    pub const fn health(metric: &'static str, title: &'static str, text: &'static str) -> Self {
        Self {
            metric,
            group: Group::Health,
            title,
            text,
        }
    }

    /// A caption in [`Group::Speed`].
    pub const fn speed(metric: &'static str, title: &'static str, text: &'static str) -> Self {
        Self {
            metric,
            group: Group::Speed,
            title,
            text,
        }
    }
}
