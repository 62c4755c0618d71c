//! Properties of conversations over tokenizers and chat templates of every kind: the ids before an answer in training are those that
//! the model is asked with, an answer is given back with its ids, and no text opens or closes a turn.

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use rlhf_base::{Chat, Message, Text};
use rlhf_lm::{Segment, Tokenizer};
use serde_json::{Map, Value, json};

use crate::text::trained;

/// Special tokens of all templates below; `<think>` is a token, but not a special one.
const SPECIAL: [&str; 11] = [
    "<s>",
    "</s>",
    "<|im_start|>",
    "<|im_end|>",
    "<|head|>",
    "<|/head|>",
    "<|eot|>",
    "[ASK]",
    "[/ASK]",
    "<|user|>",
    "<|assistant|>",
];

/// Name, template, what ends a turn, and whether one row can hold a conversation.
const TEMPLATES: [(&str, &str, &str, bool); 8] = [
    (
        "ChatML",
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}\
         {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        "<|im_end|>",
        true,
    ),
    (
        "Llama 3, which trims",
        "{{ bos_token }}{% for m in messages %}{{ '<|head|>' + m['role'] + '<|/head|>\n\n' + m['content'] | trim + '<|eot|>' }}{% endfor %}\
         {% if add_generation_prompt %}{{ '<|head|>assistant<|/head|>\n\n' }}{% endif %}",
        "<|eot|>",
        true,
    ),
    (
        "Mistral, whose answers follow a token with a blank",
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}{{ ' ' + m.content + eos_token }}\
         {% else %}{{ '[ASK] ' + m.content + ' [/ASK]' }}{% endif %}{% endfor %}",
        "</s>",
        true,
    ),
    (
        "answers right behind a token",
        "{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|assistant|>' + m.content + '</s>' }}\
         {% else %}{{ '<|user|>' + m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}",
        "</s>",
        true,
    ),
    (
        "Zephyr",
        "{% for m in messages %}{{ '<|' ~ m.role ~ '|>\n' ~ m.content ~ eos_token ~ '\n' }}{% endfor %}\
         {% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}",
        "</s>",
        true,
    ),
    (
        "Qwen 3, which forgets earlier thoughts and writes empty ones last",
        "{% for m in messages %}{% set text = m.content.split('</think>')[-1].lstrip('\n') if '</think>' in m.content else m.content %}\
         {{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}\
         {{ text + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        "<|im_end|>",
        false,
    ),
    (
        "R1, which opens a thought and leaves every one out",
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|assistant|>' + m.content.split('</think>')[-1] + '</s>' }}\
         {% else %}{{ '<|user|>' + m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|><think>\n' }}{% endif %}",
        "</s>",
        false,
    ),
    (
        "no end of turn",
        "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}",
        "</s>",
        false,
    ),
];

fn config(template: &str) -> Map<String, Value> {
    let named = [
        ("bos_token", "<s>"),
        ("eos_token", "</s>"),
        ("chat_template", template),
    ];
    named
        .map(|(name, text)| (name.into(), json!(text)))
        .into_iter()
        .collect()
}

/// How a SentencePiece tokenizer comes by the space before a text.
#[derive(Clone, Copy, Debug)]
enum Space {
    /// A normaliser puts it before a text and after every special token (Llama 2's).
    Normaliser,
    /// A pre-tokenizer puts it before the text alone.
    First,
    /// A pre-tokenizer puts it before a text and after every special token.
    Always,
    /// None is put anywhere.
    Never,
}

/// `tokenizer.json` of a SentencePiece BPE over bytes and the words of a short text.
fn sentence_piece(space: Space) -> Value {
    let mut tokens: Vec<String> = ["<unk>"]
        .iter()
        .chain(&SPECIAL)
        .map(|t| (*t).to_owned())
        .collect();
    tokens.extend((0..256).map(|byte| format!("<0x{byte:02X}>")));
    tokens.push("▁".to_owned());
    tokens.extend((' '..='~').skip(1).map(String::from));
    let mut merges = Vec::new();
    for word in ["▁the", "▁fox", "▁is", "▁red", "▁▁", "the", "is", "s>"] {
        let chars: Vec<char> = word.chars().collect();
        for n in 1..chars.len() {
            let left: String = chars[..n].iter().collect();
            merges.push(json!([left, chars[n].to_string()]));
            let token = left + &chars[n].to_string();
            if !tokens.contains(&token) {
                tokens.push(token);
            }
        }
    }
    let vocab: Map<String, Value> = tokens
        .iter()
        .enumerate()
        .map(|(i, t)| (t.clone(), json!(i)))
        .collect();
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let metaspace = |scheme: &str| json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false});
    let (normalizer, pre_tokenizer) = match space {
        Space::Normaliser => {
            let prepend = json!({"type": "Prepend", "prepend": "▁"});
            (
                json!({"type": "Sequence", "normalizers": [prepend, replace]}),
                Value::Null,
            )
        }
        Space::First => (Value::Null, metaspace("first")),
        Space::Always => (Value::Null, metaspace("always")),
        Space::Never => (Value::Null, metaspace("never")),
    };
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if !matches!(space, Space::Never) {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added(|token| vocab[token].clone()),
        "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": vocab, "merges": merges,
        },
    })
}

fn added(id: impl Fn(&str) -> Value) -> Vec<Value> {
    let added = SPECIAL.iter().map(|token| {
        json!({"id": id(token), "content": token, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    });
    added.collect()
}

/// One tokenizer of every kind for `template`.
fn tokenizers(template: &str) -> Vec<(String, Tokenizer)> {
    let mut all = Vec::new();
    for space in [Space::Normaliser, Space::First, Space::Always, Space::Never] {
        let json = sentence_piece(space).to_string();
        let tokenizer = Tokenizer::from_bytes(json.as_bytes(), config(template)).unwrap();
        all.push((format!("{space:?}"), tokenizer));
    }
    let dir = tempfile::tempdir().unwrap();
    trained(360, &SPECIAL).save(dir.path()).unwrap();
    let json = fs_err::read(dir.path().join("tokenizer.json")).unwrap();
    all.push((
        "bytes".to_owned(),
        Tokenizer::from_bytes(&json, config(template)).unwrap(),
    ));
    all
}

/// Contents: words, blanks, thoughts, and special tokens as a user spells them.
fn content() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "the fox",
        " is",
        " red",
        "?",
        ".",
        " ",
        "\n",
        "\n\n",
        "é",
        "🦊",
        "<think>\n",
        "\n</think>\n\n",
        "12",
        "a",
        "<|im_end|>",
        "</s>",
        "<s>",
        "<|im_start|>assistant\n",
        "[/ASK]",
        "<|eot|>",
    ]);
    prop::collection::vec(piece, 0..7).prop_map(|pieces| pieces.concat())
}

fn conversation() -> impl Strategy<Value = Vec<Message>> {
    let exchange = (content(), content(), prop::bool::weighted(0.8));
    prop::collection::vec(exchange, 1..4).prop_map(|exchanges| {
        let turns = exchanges.into_iter().flat_map(|(asked, said, train)| {
            let mut answer = Message::new("assistant", said);
            answer.train = train;
            [Message::new("user", asked), answer]
        });
        turns.collect()
    })
}

/// The ids before each answer of a row, and the answer.
fn answers(row: &[Segment]) -> Vec<(Vec<u32>, &Segment)> {
    let mut before = Vec::new();
    let mut answers = Vec::new();
    for segment in row {
        if segment.target {
            answers.push((before.clone(), segment));
        }
        before.extend(&segment.ids);
    }
    answers
}

proptest! {
    // The same cases in every run: what fails once fails always.
    #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(7), ..ProptestConfig::with_cases(40) })]

    #[test]
    fn the_ids_before_an_answer_in_training_are_those_the_model_is_asked_with(turns in conversation()) {
        for (name, template, end, one_row) in TEMPLATES {
            for (kind, tokenizer) in tokenizers(template) {
                let chat = Chat::from(turns.clone());
                let rows = tokenizer.encode_chat(&chat).unwrap();
                let mut learnt = Vec::new();
                for (before, answer) in rows.iter().flat_map(|row| answers(row)) {
                    let turn = answer.turn.unwrap();
                    let asked = Text::from(turns[..turn].to_vec());
                    prop_assert_eq!(&before, &tokenizer.encode_prompt(&asked).unwrap(), "{} {} {}", name, kind, turn);
                    let (last, said) = answer.ids.split_last().unwrap();
                    prop_assert_eq!(tokenizer.token(*last), Some(end.to_owned()), "{} {}", name, kind);
                    let inside = said.iter().any(|id| tokenizer.is_special(*id));
                    prop_assert!(!inside, "{} {} {:?}", name, kind, answer);
                    learnt.push(turn);
                }
                let wanted: Vec<usize> = (0..turns.len()).filter(|i| i % 2 == 1 && turns[*i].train).collect();
                prop_assert_eq!(learnt, wanted, "{} {}", name, kind);
                if one_row {
                    prop_assert_eq!(rows.len(), 1, "{} {}", name, kind);
                }
            }
        }
    }

    /// The oracle is the same conversation without what looks like a special token.
    #[test]
    fn no_text_opens_or_closes_a_turn(turns in conversation()) {
        let mut harmless = turns.clone();
        for turn in &mut harmless {
            turn.content = turn.content.as_ref().map(|text| text.replace(['<', '['], "("));
        }
        for (name, template, _, _) in TEMPLATES {
            for (kind, tokenizer) in tokenizers(template) {
                let special = |turns: &[Message]| {
                    let mut ids = tokenizer.encode_prompt(&Text::from(turns.to_vec())).unwrap();
                    ids.retain(|id| tokenizer.is_special(*id));
                    ids
                };
                prop_assert_eq!(special(&turns), special(&harmless), "{} {}", name, kind);
            }
        }
    }

    /// What the model says, given back as the answer, is what it said: for the ids that the tokenizer makes of a text.
    #[test]
    fn a_response_given_back_as_a_completion_has_the_same_ids(asked in content(), said in content()) {
        for (name, template, _, _) in TEMPLATES {
            // This template takes line breaks off an answer that begins with thoughts: two answers with one text.
            if name.starts_with("Qwen") && said.starts_with('\n') {
                continue;
            }
            // Thoughts are these templates' own markup: one that an answer leaves open has no place of its own in them.
            if (name.starts_with("Qwen") || name.starts_with("R1")) && said.contains("<think>") {
                continue;
            }
            for (kind, tokenizer) in tokenizers(template) {
                for tokenizer in [tokenizer.clone(), tokenizer.take_raw(true)] {
                    let prompt = Text::from(asked.as_str());
                    let first = tokenizer.encode_demonstration(&prompt, &said.as_str().into()).unwrap();
                    let text = tokenizer.decode_response(&first.prompt, &first.completion).unwrap();
                    let again = tokenizer.encode_completion(&prompt, &text.as_str().into()).unwrap();
                    prop_assert_eq!(&again, &first.completion, "{} {} {:?}", name, kind, text);
                    let ids = tokenizer.without_end(&first.completion);
                    let mut stream = rlhf_lm::TextStream::new(&tokenizer, &first.prompt);
                    let mut streamed: String = ids.iter().map(|id| stream.push(*id).unwrap()).collect();
                    streamed += &stream.waiting().unwrap();
                    prop_assert_eq!(&streamed, &text, "{} {}", name, kind);
                    // At the beginning of a text some tokenizers read "a" and " a" alike.
                    if !tokenizer.converses() && !asked.is_empty() {
                        prop_assert_eq!(text, &*said, "{} {}", name, kind);
                    }
                }
            }
        }
    }
}

/// Whatever ends an answer in training ends it for those who load the saved model, and a model trained on strings is asked so.
#[test]
fn what_ends_a_turn_and_how_strings_are_taken_is_saved() {
    let dir = tempfile::tempdir().unwrap();
    let (_, template, end, _) = TEMPLATES[0];
    for (kind, tokenizer) in tokenizers(template) {
        let ends = [tokenizer.token_id("</s>"), tokenizer.token_id(end)].map(Option::unwrap);
        assert_eq!(tokenizer.eos_id().unwrap(), ends[0], "{kind}");
        assert_eq!(
            (tokenizer.turn_end(), tokenizer.end_ids()),
            (Some(ends[1]), &ends[..]),
            "{kind}"
        );
        let (question, string) = (
            Text::from("the fox?"),
            tokenizer.encode_begun("the fox?").unwrap(),
        );
        for raw in [false, true] {
            tokenizer.clone().take_raw(raw).save(dir.path()).unwrap();
            let generation =
                fs_err::read_to_string(dir.path().join("generation_config.json")).unwrap();
            let generation: Value = serde_json::from_str(&generation).unwrap();
            assert_eq!(generation["eos_token_id"], json!(ends), "{kind}");
            let loaded = Tokenizer::from_dir(dir.path()).unwrap();
            assert_eq!(
                (loaded.converses(), loaded.end_ids()),
                (!raw, &ends[..]),
                "{kind}"
            );
            assert_eq!(
                loaded.encode_prompt(&question).unwrap() == string,
                raw,
                "{kind}"
            );
            let end = loaded.end_of_answer(&question).unwrap();
            assert_eq!(end, ends[usize::from(!raw)], "{kind}");
        }
    }
}

/// Spelled special tokens are the tokens where the user says so; what is not spelled has the same ids either way.
#[test]
fn allowed_special_tokens_are_tokens_and_nothing_else_changes() {
    for (kind, tokenizer) in tokenizers(TEMPLATES[0].1) {
        let allowed = tokenizer.clone().allow_special(true);
        let text = "the fox <s> is red</s>";
        let special = |t: &Tokenizer| {
            let ids = t.encode_text(text).unwrap();
            ids.iter().filter(|id| t.is_special(**id)).count()
        };
        assert_eq!((special(&tokenizer), special(&allowed)), (0, 2), "{kind}");
        let plain = tokenizer.encode_text(text).unwrap();
        assert_eq!(
            tokenizer.decode_response(&[], &plain).unwrap(),
            text,
            "{kind}"
        );
        let harmless = " the <fox> is [red] ";
        let ids = tokenizer.encode(harmless).unwrap();
        assert_eq!(tokenizer.encode_text(harmless).unwrap(), ids, "{kind}");
        assert_eq!(allowed.encode_text(harmless).unwrap(), ids, "{kind}");
    }
}
