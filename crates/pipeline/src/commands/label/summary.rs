//! What a session of judging came to, in words.

use rlhf_label::{Estimate, Session, Share, Summary};

/// What to do with the file.
const NEXT: &str = "next: rlhf reward --prefs";

/// The lines that a session ends with.
pub(crate) fn text(session: &Session, summary: &Summary) -> String {
    let file = session.journal().path().display();
    let list = |counts: &mut dyn Iterator<Item = String>| counts.collect::<Vec<_>>().join(", ");
    let all: usize = summary.annotators.values().sum();
    if all == 0 {
        return "nothing was judged\n".to_owned();
    }
    let said = list(&mut summary.said.iter().map(|(what, n)| format!("{n} × {what}")));
    let mut out = format!("{file}: {all} judgements, {said}\n");
    if summary.annotators.len() > 1 {
        let by = list(
            &mut summary
                .annotators
                .iter()
                .map(|(name, n)| format!("{name} {n}")),
        );
        out.push_str(&format!("  by {by}\n"));
    }
    let agreement = &summary.agreement;
    let share = |what: &str, share: &Option<Share>| match share {
        Some(it) => format!(
            "  {what}: {:.2} [{:.2}, {:.2}] of {}\n",
            it.share, it.low, it.high, it.of
        ),
        None => String::new(),
    };
    out.push_str(&share("judged again as before", &agreement.oneself));
    let estimate = |what: &str, estimate: &Option<Estimate>| match estimate {
        Some(Estimate {
            value,
            interval: Some((low, high)),
        }) => Some(format!("{what} {value:.2} [{low:.2}, {high:.2}]")),
        Some(Estimate { value, .. }) => Some(format!("{what} {value:.2}")),
        None => None,
    };
    let between = [
        estimate("Cohen's κ", &agreement.kappa),
        estimate("Krippendorff's α nominal", &agreement.alpha_nominal),
        estimate("ordinal", &agreement.alpha_ordinal),
    ];
    let between: Vec<String> = between.into_iter().flatten().collect();
    if !between.is_empty() {
        out.push_str(&format!(
            "  between annotators, {} items: {}\n",
            agreement.shared,
            between.join(", ")
        ));
    }
    out.push_str(&share("for the answer that stood first", &agreement.first));
    out.push_str(&share("for the longer answer", &agreement.longer));
    let demonstrations = session.journal().demonstrations();
    if demonstrations.exists() {
        out.push_str(&format!(
            "  rewritten answers: {}\n",
            demonstrations.display()
        ));
    }
    out.push_str(&format!("{NEXT} {file}\n"));
    out
}
