//! When a step computed and when it exchanged.

use std::time::Instant;

use serde_json::{Value, json};

/// The backward passes during which gradients were sent, and the exchange of each bucket.
#[derive(Debug, Default)]
pub(super) struct Trace {
    pub(super) backward: Vec<(Instant, Instant)>,
    pub(super) buckets: Vec<Bucket>,
}

/// A bucket: its numbers, when all of them were there, and when their exchange began and ended.
#[derive(Debug)]
pub(super) struct Bucket {
    pub(super) numbers: usize,
    pub(super) ready: Instant,
    pub(super) begun: Instant,
    pub(super) ended: Instant,
}

impl Trace {
    /// In seconds since the first backward pass began.
    pub(super) fn to_json(&self) -> Value {
        let Some((origin, _)) = self.backward.first() else {
            return Value::Null;
        };
        // To the microsecond.
        let at = |it: &Instant| (it.duration_since(*origin).as_secs_f64() * 1e6).round() / 1e6;
        let passes = self.backward.iter();
        let passes = passes.map(|(begun, ended)| json!({"begin": at(begun), "end": at(ended)}));
        let buckets = self.buckets.iter().map(|it| {
            json!({"numbers": it.numbers, "ready": at(&it.ready), "begin": at(&it.begun), "end": at(&it.ended)})
        });
        json!({
            "backward": passes.collect::<Vec<_>>(),
            "buckets": buckets.collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_are_seconds_since_the_backward_pass_began() {
        let now = Instant::now();
        let after = |milliseconds| now + Duration::from_millis(milliseconds);
        let trace = Trace {
            backward: vec![(now, after(500))],
            buckets: vec![Bucket {
                numbers: 7,
                ready: after(100),
                begun: after(125),
                ended: after(250),
            }],
        };
        assert_eq!(
            trace.to_json(),
            json!({
                "backward": [{"begin": 0.0, "end": 0.5}],
                "buckets": [{"numbers": 7, "ready": 0.1, "begin": 0.125, "end": 0.25}],
            })
        );
        assert_eq!(Trace::default().to_json(), Value::Null);
    }
}
