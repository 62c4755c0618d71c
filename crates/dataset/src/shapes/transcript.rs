//! Two answers with their prompt in both: their shared beginning is the prompt.
//!
//! Of HH-RLHF transcripts (`\n\nHuman: … \n\nAssistant: …`) the prompt is everything up to and including the last shared
//! `\n\nAssistant:`. Other strings are cut before the last white space that they share, so that no word is split. Lists of
//! messages share whole messages. Answers that share nothing have no prompt, which is an error: what they answer is not known.

use rlhf_base::Text;

const NO_PROMPT: &str = "there is no prompt, and the two answers share no beginning that could be it: name its field with --map prompt=FIELD, or \
     put \"prompt\": \"\" into rows that have none";

const ASSISTANT: &str = "\n\nAssistant:";

/// Prompt, chosen and rejected answer of two texts that begin alike.
pub(super) fn split(chosen: Text, rejected: Text) -> Result<(Text, Text, Text), String> {
    match (chosen, rejected) {
        (Text::Plain(chosen), Text::Plain(rejected)) => {
            let cut = shared_prompt(&chosen, &rejected);
            if cut == 0 {
                return Err(NO_PROMPT.to_owned());
            }
            Ok((
                Text::from(&chosen[..cut]),
                Text::from(&chosen[cut..]),
                Text::from(&rejected[cut..]),
            ))
        }
        (Text::Chat(chosen), Text::Chat(rejected)) => {
            let (mut chosen, mut rejected) = (chosen.messages, rejected.messages);
            let shared = chosen
                .iter()
                .zip(&rejected)
                .take_while(|(a, b)| a == b)
                .count();
            // Each keeps its last message, also where one answer is the beginning of the other.
            let cut = shared.min(chosen.len() - 1).min(rejected.len() - 1);
            let chosen_answer = chosen.split_off(cut);
            let rejected_answer = rejected.split_off(cut);
            if chosen.is_empty() {
                return Err(NO_PROMPT.to_owned());
            }
            Ok((
                Text::from(chosen),
                Text::from(chosen_answer),
                Text::from(rejected_answer),
            ))
        }
        _ => Err(
            "field \"chosen\" and field \"rejected\" must both be strings or both be lists of messages (or give the prompt in field \"prompt\")"
                .to_owned(),
        ),
    }
}

/// The byte where the answers begin.
fn shared_prompt(chosen: &str, rejected: &str) -> usize {
    let shared: usize = chosen
        .chars()
        .zip(rejected.chars())
        .take_while(|(a, b)| a == b)
        .map(|(a, _)| a.len_utf8())
        .sum();
    let beginning = &chosen[..shared];
    match beginning.rfind(ASSISTANT) {
        Some(at) => at + ASSISTANT.len(),
        None => beginning.rfind(char::is_whitespace).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rlhf_base::Message;

    fn plain(chosen: &str, rejected: &str) -> (String, String, String) {
        match split(chosen.into(), rejected.into()).unwrap() {
            (Text::Plain(p), Text::Plain(c), Text::Plain(r)) => (p, c, r),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn transcripts_are_cut_after_the_last_shared_assistant() {
        let start = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: why?\n\nAssistant:";
        let (p, c, r) = plain(
            &format!("{start} because\n\nHuman: ok\n\nAssistant: yes"),
            &format!("{start} beats me"),
        );
        assert_eq!(p, start);
        assert_eq!(c, " because\n\nHuman: ok\n\nAssistant: yes");
        assert_eq!(r, " beats me");
    }

    #[test]
    fn no_word_and_no_character_is_split() {
        assert_eq!(
            plain("say it: cannot", "say it: can"),
            ("say it:".into(), " cannot".into(), " can".into())
        );
        assert_eq!(plain("a é", "a è"), ("a".into(), " é".into(), " è".into()));
        for (chosen, rejected) in [("é", "è"), ("", ""), ("yes", "no")] {
            let error = split(chosen.into(), rejected.into()).unwrap_err();
            assert!(error.contains("no prompt"), "{error}");
        }
    }

    #[test]
    fn conversations_share_whole_messages_and_each_keeps_an_answer() {
        let turn = |role: &str, content: &str| Message::new(role, content);
        let (question, a, b) = (
            turn("user", "q"),
            turn("assistant", "a"),
            turn("assistant", "b"),
        );
        let chat =
            |turns: &[&Message]| Text::from(turns.iter().map(|&m| m.clone()).collect::<Vec<_>>());
        for (chosen, rejected) in [(&a, &b), (&a, &a)] {
            assert_eq!(
                split(chat(&[&question, chosen]), chat(&[&question, rejected])).unwrap(),
                (chat(&[&question]), chat(&[chosen]), chat(&[rejected]))
            );
        }
        assert!(split(chat(&[&a]), "b".into()).is_err());
    }
}
