//! Finding the caption of a metric, and its place on the page.

use rlhf_base::caption::{Caption, Group};

/// What the page shows of a metric besides its values. Sorts in the order of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Shown<'a> {
    pub(crate) group: Group,
    /// The place in the list of captions; metrics without a caption come last.
    place: usize,
    /// The name in `metrics.jsonl`.
    pub(crate) metric: &'a str,
    pub(crate) title: &'a str,
    pub(crate) text: &'a str,
}

/// `metric` by its caption, the first of that name; without one it is shown under its own name.
pub(crate) fn shown<'a>(metric: &'a str, captions: &[Caption]) -> Shown<'a> {
    if let Some(place) = captions.iter().position(|c| c.metric == metric) {
        let Caption {
            group, title, text, ..
        } = captions[place];
        return Shown {
            group,
            place,
            metric,
            title,
            text,
        };
    }
    let (group, text) = if metric.starts_with("time/") {
        (Group::Speed, "Seconds in a step.")
    } else if metric.starts_with("eval/") {
        (Group::Main, "")
    } else {
        (Group::Health, "")
    };
    Shown {
        group,
        place: captions.len(),
        metric,
        title: metric,
        text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPTIONS: &[Caption] = &[
        Caption::speed("b", "B", "second"),
        Caption::main("loss", "Loss", "first"),
    ];

    #[test]
    fn metrics_are_shown_by_group_then_by_place_then_by_name() {
        let mut all = ["time/x", "zebra", "ant", "eval/x", "b", "loss"].map(|m| shown(m, CAPTIONS));
        all.sort();
        let order = all.map(|shown| shown.metric);
        assert_eq!(order, ["loss", "eval/x", "ant", "zebra", "b", "time/x"]);
    }

    #[test]
    fn a_metric_without_a_caption_is_shown_under_its_own_name() {
        assert_eq!(shown("zebra/stripes", CAPTIONS).title, "zebra/stripes");
        assert_eq!(shown("b", CAPTIONS).title, "B");
    }
}
