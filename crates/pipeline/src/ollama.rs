//! The Modelfile that tells Ollama how to run an exported model.
//!
//! Ollama does not run the Jinja template in a GGUF file: it has templates of its own, in Go's language. Ours is translated by what it
//! writes: conversations of marked texts are rendered, what stands between the texts is taken for what is written around a turn, and
//! other conversations are rendered to see that it is.

use rlhf_base::{Chat, Message};
use rlhf_lm::Tokenizer;

/// What Ollama takes for `num_ctx` by itself.
const USUAL_CONTEXT: usize = 4096;

/// What is written around the turns of a conversation.
#[derive(Debug, PartialEq, Eq)]
struct Turns {
    /// Before the first turn, unless that is the system's.
    opening: String,
    /// Around the system's turn, which is the first.
    system: Option<(String, String)>,
    user: (String, String),
    assistant: (String, String),
    /// Before the answer that is asked for.
    answer: String,
}

/// The Modelfile for the GGUF file `file`, of a model with this tokenizer that takes `context` tokens; and whether the chat template is
/// missing from it because Go's language could not say it.
pub(crate) fn modelfile(file: &str, tokenizer: &Tokenizer, context: usize) -> (String, bool) {
    let mut text = format!("FROM ./{file}\n");
    let turns = match tokenizer.converses() {
        true => Turns::of(tokenizer).map(|turns| turns.without_bos(tokenizer)),
        false => None,
    };
    let template = match &turns {
        Some(turns) => turns.template(),
        // What is typed goes to the model as it is.
        None if !tokenizer.converses() => Some("{{ .Prompt }}".to_owned()),
        None => None,
    };
    if let Some(template) = &template {
        text += &format!("TEMPLATE \"\"\"{template}\"\"\"\n");
    }
    for end in tokenizer.end_ids() {
        let token = tokenizer.token(*end).unwrap_or_default();
        text += &format!("PARAMETER stop {token:?}\n");
    }
    if context < USUAL_CONTEXT {
        text += &format!("PARAMETER num_ctx {context}\n");
    }
    (text, template.is_none())
}

/// A conversation of `texts`, which begins with the system's turn if `system`, then user and assistant by turns.
fn conversation(system: bool, texts: &[&str]) -> Chat {
    let mut roles = ["user", "assistant"].into_iter().cycle();
    let message = |(i, text): (usize, &&str)| match (system, i) {
        (true, 0) => Message::new("system", *text),
        _ => Message::new(roles.next().unwrap_or_default(), *text),
    };
    Chat::from(texts.iter().enumerate().map(message).collect::<Vec<_>>())
}

/// What stands before, between and after `texts` in `rendered`, in which they follow each other.
fn between(rendered: &str, texts: &[&str]) -> Option<Vec<String>> {
    let (mut rest, mut pieces) = (rendered, Vec::new());
    for text in texts {
        let (before, after) = rest.split_once(text)?;
        pieces.push(before.to_owned());
        rest = after;
    }
    pieces.push(rest.to_owned());
    Some(pieces)
}

impl Turns {
    /// Those of the tokenizer's chat template; `None` where it is no such template.
    fn of(tokenizer: &Tokenizer) -> Option<Self> {
        let render = |system, texts: &[&str]| {
            let chat = conversation(system, texts);
            tokenizer.apply_chat_template(&chat, true).ok()
        };
        let texts = ["FIRST-QUESTION", "FIRST-ANSWER", "SECOND-QUESTION"];
        let pieces = between(&render(false, &texts)?, &texts)?;
        let [first, to_answer, to_question, end] = <[String; 4]>::try_from(pieces).ok()?;
        let of_system = render(true, &["SYSTEM-TEXT", texts[0]])
            .and_then(|text| between(&text, &["SYSTEM-TEXT", texts[0]]))
            .map(|pieces| (pieces[0].clone(), pieces[1].clone()));
        // What a question begins with ends whatever stands before one.
        let (_, mut before) = split_where_ends_agree(&first, &to_question);
        if let Some((_, to_question)) = &of_system {
            (_, before) = split_where_ends_agree(before, to_question);
        }
        let opening = first.strip_suffix(before)?;
        let after_answer = to_question.strip_suffix(before)?;
        // Where a question ends is a matter of taste, as long as both its successors agree.
        let after = match (
            to_answer.strip_prefix(after_answer),
            end.strip_prefix(after_answer),
        ) {
            (Some(_), Some(_)) => after_answer,
            _ => "",
        };
        let answer = end.strip_prefix(after)?.to_owned();
        let system = of_system
            .and_then(|(first, rest)| Some((first, rest.strip_suffix(before)?.to_owned())));
        let found = Self {
            opening: opening.to_owned(),
            system,
            user: (before.to_owned(), after.to_owned()),
            assistant: (
                to_answer.strip_prefix(after)?.to_owned(),
                after_answer.to_owned(),
            ),
            answer,
        };
        let trials: [&[&str]; 4] = [
            &["a"],
            &["Is it\nso?", "Yes."],
            &["b", "c", "d"],
            &["1", "2", "3", "4", "5"],
        ];
        for trial in trials {
            let asks = |system: bool| (trial.len() + usize::from(system)) % 2 == 1;
            if asks(false) && render(false, trial)? != found.write(false, trial) {
                return None;
            }
            // A template may refuse a system's turn, and then has none.
            if asks(true)
                && found.system.is_some()
                && render(true, trial)? != found.write(true, trial)
            {
                return None;
            }
        }
        Some(found)
    }

    /// The conversation as the translated template writes it.
    fn write(&self, system: bool, texts: &[&str]) -> String {
        let mut text = String::new();
        for (i, message) in conversation(system, texts).messages.iter().enumerate() {
            let around = match (&*message.role, &self.system) {
                ("system", Some(system)) => system,
                ("assistant", _) => &self.assistant,
                _ => &self.user,
            };
            if i == 0 && message.role != "system" {
                text += &self.opening;
            }
            text += &format!("{}{}{}", around.0, message.content(), around.1);
        }
        text + &self.answer
    }

    /// The same without the BOS token, where whoever reads the file adds it by itself.
    fn without_bos(mut self, tokenizer: &Tokenizer) -> Self {
        let bos = tokenizer.bos_id().filter(|_| tokenizer.adds_bos());
        let Some(bos) = bos.and_then(|id| tokenizer.token(id)) else {
            return self;
        };
        let without = |text: &str| text.strip_prefix(&*bos).unwrap_or(text).to_owned();
        self.opening = without(&self.opening);
        if let Some((before, _)) = &mut self.system {
            *before = without(before);
        }
        self
    }

    /// The template in Go's language; `None` if what it writes would be read as part of it.
    fn template(&self) -> Option<String> {
        let around =
            |(before, after): &(String, String)| format!("{before}{{{{ $m.Content }}}}{after}");
        let mut branches = Vec::new();
        if let Some(system) = &self.system {
            branches.push(("system", around(system)));
        }
        let opening = match self.opening.as_str() {
            "" => String::new(),
            opening => format!("{{{{ if eq $i 0 }}}}{opening}{{{{ end }}}}"),
        };
        branches.push(("user", opening + &around(&self.user)));
        branches.push(("assistant", around(&self.assistant)));
        let mut template = "{{ range $i, $m := .Messages }}{{ ".to_owned();
        for (role, text) in branches {
            template += &format!("if eq $m.Role \"{role}\" }}}}{text}{{{{ else ");
        }
        template.truncate(template.len() - "{{ else ".len());
        template += &format!("{{{{ end }}}}{{{{ end }}}}{}", self.answer);
        let system = self
            .system
            .iter()
            .flat_map(|(before, after)| [before, after]);
        let pieces = [
            &self.opening,
            &self.user.0,
            &self.user.1,
            &self.assistant.0,
            &self.assistant.1,
            &self.answer,
        ];
        let mut pieces = pieces.into_iter().chain(system);
        let clashes = pieces
            .any(|piece| piece.contains("{{") || piece.contains("}}") || piece.contains("\"\"\""));
        (!clashes).then_some(template)
    }
}

/// `one` in two, of which the second is the longest with which `other` ends too.
fn split_where_ends_agree<'a>(one: &'a str, other: &str) -> (&'a str, &'a str) {
    let starts = one.char_indices().map(|(at, _)| at).chain([one.len()]);
    let agrees = |at: &usize| other.ends_with(&one[*at..]);
    let at = starts.into_iter().find(agrees).unwrap_or(one.len());
    one.split_at(at)
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::*;

    fn tokenizer(template: Option<&str>) -> Tokenizer {
        let trained = rlhf_lm::train_bpe(["a b"].iter(), 260, &["<|end|>", "<|turn|>"]).unwrap();
        let dir = tempfile::tempdir().unwrap();
        trained.save(dir.path()).unwrap();
        let json = fs_err::read(dir.path().join("tokenizer.json")).unwrap();
        let mut config = Map::from_iter([
            ("bos_token".into(), json!("<|end|>")),
            ("eos_token".into(), json!("<|end|>")),
        ]);
        if let Some(template) = template {
            config.insert("chat_template".into(), json!(template));
        }
        Tokenizer::from_bytes(&json, config).unwrap()
    }

    const CHATML: &str = "{% for m in messages %}{{ '<|turn|>' + m['role'] + '\\n' + m['content'] + '<|end|>\\n' }}{% endfor %}\
        {% if add_generation_prompt %}{{ '<|turn|>assistant\\n' }}{% endif %}";

    #[test]
    fn a_template_of_turns_is_said_in_go() {
        let (text, missing) = modelfile("m.gguf", &tokenizer(Some(CHATML)), 64);
        assert!(!missing);
        let turn = |role: &str| format!("<|turn|>{role}\n{{{{ $m.Content }}}}<|end|>\n");
        let expected = format!(
            "FROM ./m.gguf\nTEMPLATE \"\"\"{{{{ range $i, $m := .Messages }}}}{{{{ if eq $m.Role \"system\" }}}}{}\
             {{{{ else if eq $m.Role \"user\" }}}}{}{{{{ else if eq $m.Role \"assistant\" }}}}{}{{{{ end }}}}{{{{ end }}}}<|turn|>assistant\n\"\"\"\n\
             PARAMETER stop \"<|end|>\"\nPARAMETER num_ctx 64\n",
            turn("system"),
            turn("user"),
            turn("assistant")
        );
        assert_eq!(text, expected);
    }

    /// SmolLM2's begins with words of its own where the system says nothing; Gemma's refuses the system; Mistral's has no role.
    #[test]
    fn what_is_written_around_turns_is_found() {
        let own = format!(
            "{{% if messages[0]['role'] != 'system' %}}{{{{ '<|turn|>system\\nBe kind.<|end|>\\n' }}}}{{% endif %}}{CHATML}"
        );
        let refuses = format!(
            "{{% if messages[0]['role'] == 'system' %}}{{{{ raise_exception('no') }}}}{{% endif %}}{CHATML}"
        );
        let brackets = "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %}{{ m['content'] + eos_token }}\
            {% else %}{{ '[INST] ' + m['content'] + ' [/INST]' }}{% endif %}{% endfor %}";
        for (template, system) in [(&*own, true), (&refuses, false), (brackets, true)] {
            let tokenizer = tokenizer(Some(template));
            let turns = Turns::of(&tokenizer).unwrap();
            assert_eq!(turns.system.is_some(), system);
            for texts in [&["x y"][..], &["x", "y\n", "z"]] {
                let rendered = tokenizer
                    .apply_chat_template(&conversation(false, texts), true)
                    .unwrap();
                assert_eq!(turns.write(false, texts), rendered);
            }
        }
    }

    #[test]
    fn a_template_that_is_more_than_turns_is_left_out() {
        let counts = "{% for m in messages %}{{ loop.index }}{{ m['content'] }}{% endfor %}";
        let braces = "{% for m in messages %}{{ '{{' + m['content'] + '}}' }}{% endfor %}";
        for template in [counts, braces] {
            let (text, missing) = modelfile("m.gguf", &tokenizer(Some(template)), 1 << 20);
            assert!(
                missing && !text.contains("TEMPLATE") && !text.contains("num_ctx"),
                "{text}"
            );
        }
        let (text, missing) = modelfile("m.gguf", &tokenizer(None), 1 << 20);
        assert!(
            !missing && text.contains("TEMPLATE \"\"\"{{ .Prompt }}\"\"\"\n"),
            "{text}"
        );
    }
}
