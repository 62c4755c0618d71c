//! What the texts of a file hold that their writer may not have meant: told once, with a count and an example.

use rlhf_base::Text;

use crate::Tokenizer;
use crate::conversation::texts;

/// Counts over the rows of a file.
#[derive(Clone, Debug, Default)]
pub struct TextNotes {
    special: Tally,
    glued: Tally,
    raw: Tally,
    asked: usize,
}

#[derive(Clone, Debug, Default)]
struct Tally {
    rows: usize,
    /// Of the first such row.
    example: String,
}

impl Tally {
    fn add(&mut self, example: impl FnOnce() -> String) {
        if self.rows == 0 {
            self.example = example();
        }
        self.rows += 1;
    }
}

impl TextNotes {
    /// Looks at a row: a prompt and the answers to it.
    pub fn row(&mut self, tokenizer: &Tokenizer, prompt: &Text, answers: &[&Text]) {
        let mut spelled = None;
        for text in [prompt].into_iter().chain(answers.iter().copied()) {
            let parts = match text {
                Text::Plain(text) => vec![text.as_str()],
                Text::Chat(chat) => texts(chat),
            };
            spelled = spelled.or_else(|| parts.iter().find_map(|t| tokenizer.spelled_special(t)));
        }
        if let Some(token) = spelled {
            self.special.add(|| token.to_owned());
        }
        let Text::Plain(prompt) = prompt else {
            return;
        };
        if tokenizer.converses() {
            self.asked += usize::from(!prompt.is_empty());
            return;
        }
        if tokenizer.has_chat_template() && !prompt.is_empty() {
            self.raw.add(String::new);
        }
        for answer in answers {
            if let Text::Plain(answer) = answer
                && glued(prompt, answer)
            {
                self.glued.add(|| seam(prompt, answer));
                break;
            }
        }
    }

    /// Looks at a plain text.
    pub fn text(&mut self, tokenizer: &Tokenizer, text: &str) {
        if let Some(token) = tokenizer.spelled_special(text) {
            self.special.add(|| token.to_owned());
        }
    }

    /// What there is to tell, a sentence each.
    pub fn told(&self, tokenizer: &Tokenizer) -> Vec<String> {
        let mut told = Vec::new();
        let Tally { rows, example } = &self.special;
        if *rows > 0 {
            told.push(match tokenizer.allows_special() {
                false => format!(
                    "{rows} rows spell a special token, such as {example:?}: it is read as plain text; with --allow-special as the token"
                ),
                true => format!("{rows} rows spell a special token, such as {example:?}: it is read as the token (--allow-special)"),
            });
        }
        let Tally { rows, example } = &self.glued;
        if *rows > 0 {
            told.push(format!(
                "in {rows} rows nothing stands between prompt and answer, such as {example:?}: end the prompt or begin the answer with \
                 the blank that belongs between them"
            ));
        }
        if self.asked > 0 {
            told.push(format!(
                "{} prompts are plain strings: each is put into the model's chat template as a user's turn; with --raw taken as it is",
                self.asked
            ));
        }
        if self.raw.rows > 0 {
            told.push(format!(
                "{} prompts are taken as they are, outside the model's chat template (raw)",
                self.raw.rows
            ));
        }
        told
    }
}

/// Whether a plain prompt and its answer run into one another: "zero?It is".
///
/// The prompt ends in a letter, a digit or a mark that a blank follows, and the answer begins with a letter or digit. Scripts that are
/// written without blanks are no fault.
pub fn glued(prompt: &str, answer: &str) -> bool {
    let (Some(last), Some(first)) = (prompt.chars().next_back(), answer.chars().next()) else {
        return false;
    };
    // Thai, Lao and Khmer, and everything from the Tibetan and East Asian blocks on.
    let unspaced = |c: char| {
        let c = u32::from(c);
        (0x0E00..0x1000).contains(&c) || (0x1780..0x1800).contains(&c) || c >= 0x2E80
    };
    (last.is_alphanumeric() || ".,;:!?)]}\"'”’»…".contains(last))
        && first.is_alphanumeric()
        && !unspaced(last)
        && !unspaced(first)
}

/// The end of the prompt with the beginning of the answer.
fn seam(prompt: &str, answer: &str) -> String {
    let skip = prompt.chars().count().saturating_sub(15);
    let end: String = prompt.chars().skip(skip).collect();
    end + &answer.chars().take(15).collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train_bpe;

    #[test]
    fn a_seam_without_a_blank_is_noticed_where_the_script_has_blanks() {
        for (prompt, answer) in [("zero?", "It is"), ("Sincerely", "Best"), ("A:", "4")] {
            assert!(glued(prompt, answer), "{prompt:?} {answer:?}");
        }
        for (prompt, answer) in [
            ("zero?", " It is"),
            ("zero?\n", "It is"),
            ("", "It is"),
            ("The owl is", "."),
            ("(", "It"),
            ("what is it ", ""),
            ("狐は何色？", "赤"),
            ("สีอะไร", "แดง"),
        ] {
            assert!(!glued(prompt, answer), "{prompt:?} {answer:?}");
        }
    }

    #[test]
    fn each_kind_is_told_once_with_its_count_and_first_example() {
        let tokenizer = train_bpe(["a b"].into_iter(), 260, &["<|end|>"]).unwrap();
        let mut notes = TextNotes::default();
        assert_eq!(notes.told(&tokenizer), Vec::<String>::new());
        let text = |text: &str| Text::from(text);
        notes.row(
            &tokenizer,
            &text("What is zero?"),
            &[&text("It is nothing.")],
        );
        notes.row(&tokenizer, &text("Well?"), &[&text(" Yes"), &text("No")]);
        notes.row(&tokenizer, &text("Well?"), &[&text(" the <|end|>")]);
        notes.text(&tokenizer, "<|end|>");
        let told = notes.told(&tokenizer);
        assert_eq!(told.len(), 2);
        assert!(told[0].starts_with("2 rows spell") && told[0].contains("\"<|end|>\""));
        assert!(
            told[1].starts_with("in 2 rows") && told[1].contains("\"What is zero?It is nothing.\"")
        );
        let allowed = notes.told(&tokenizer.allow_special(true));
        assert!(allowed[0].contains("as the token"), "{allowed:?}");
    }
}
