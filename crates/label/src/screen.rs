//! An item as text: for a terminal, and for whoever reads a log.

use rlhf_base::Text;

use crate::Kind;
use crate::judgement::Shown;

/// The prompt and the answers, each behind what one types for it. Nothing of it can move the cursor or colour the screen: control
/// characters are shown, not sent.
pub fn as_text(kind: Kind, shown: &Shown) -> String {
    let mut out = String::new();
    if !shown.item.prompt.is_empty() {
        out.push_str(&format!("{}\n\n", harmless(&shown.item.prompt)));
    }
    for (place, &i) in shown.sides.iter().enumerate() {
        let answer = &shown.item.answers[i];
        let cut = if answer.finished { "" } else { " […]" };
        let label = match kind {
            Kind::Pair => ["f  ", "j  "][place].to_owned(),
            Kind::Ranking => format!("{}  ", place + 1),
            Kind::Rating | Kind::Thumbs => String::new(),
        };
        let text = harmless(&answer.text);
        let text = text.trim();
        // Further lines stand below the first, behind its label.
        let indented = text.replace('\n', &format!("\n{}", " ".repeat(label.len())));
        out.push_str(&format!("{label}{indented}{cut}\n"));
    }
    out
}

/// A text whose control characters can be seen.
fn harmless(text: &Text) -> String {
    let seen = |c: char| match c {
        '\n' | '\t' => c,
        // Unicode has a picture of each of the first 32, and of delete.
        '\0'..='\x1f' => char::from_u32(0x2400 + u32::from(c)).unwrap_or('␦'),
        '\x7f' => '␡',
        c if c.is_control() => '␦',
        c => c,
    };
    text.to_string().chars().map(seen).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::item::{Answer, Candidates};

    #[test]
    fn a_screen_shows_prompt_and_answers_and_sends_no_control_characters() {
        let answer = |text: &str, finished| Answer {
            text: Text::from(text),
            model: Some("secret".to_owned()),
            finished,
        };
        let answers = vec![answer("one\ntwo", true), answer("\x1b[2Jred\x07", false)];
        let all = Candidates::new(Text::from("q?"), answers, None);
        let shown = Shown {
            id: "x.0".to_owned(),
            item: all.item(Kind::Pair, &[0, 1]),
            sides: vec![1, 0],
            repeat: false,
            strategy: "random".to_owned(),
        };
        let text = as_text(Kind::Pair, &shown);
        assert_eq!(text, "q?\n\nf  ␛[2Jred␇ […]\nj  one\n   two\n");
    }
}
