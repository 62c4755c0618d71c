//! Tokenizers from training to files and back, and the ids of prompts, answers and conversations.

use std::path::Path;

use rlhf_base::{Message, Text};
use rlhf_lm::{Encoded, Segment, TextStream, Tokenizer, train_bpe};
use serde_json::{Value, json};

const END: &str = "<|endoftext|>";
const CORPUS: [&str; 4] = [
    "The fox is red. The fox lives in the forest.\nThe owl lives in the forest too.",
    "What colour is the fox? The fox is red. What colour is the owl? The owl is brown.",
    "A hammer is a tool, a hammer is heavy; it's used to drive nails.",
    "Füchse sind rot 🦊🦊, Eulen sind braun 🦉.",
];
/// ChatML without a system turn.
const TEMPLATE: &str = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}\
                        {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

pub(crate) fn trained(size: usize, special: &[&str]) -> Tokenizer {
    train_bpe(CORPUS.iter().cycle().take(40), size, special).unwrap()
}

/// A tokenizer whose files in `dir` were changed by hand.
fn changed(dir: &Path, file: &str, change: impl FnOnce(&mut Value)) -> rlhf_lm::Result<Tokenizer> {
    let path = dir.join(file);
    let mut json: Value = match fs_err::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).unwrap(),
        Err(_) => json!({}),
    };
    change(&mut json);
    fs_err::write(&path, json.to_string()).unwrap();
    Tokenizer::from_dir(dir)
}

fn chat_tokenizer(template: &str) -> Tokenizer {
    let dir = tempfile::tempdir().unwrap();
    let special = [END, "<|im_start|>", "<|im_end|>"];
    trained(320, &special).save(dir.path()).unwrap();
    fs_err::write(dir.path().join("chat_template.jinja"), template).unwrap();
    changed(dir.path(), "tokenizer_config.json", |config| {
        config["eos_token"] = json!("<|im_end|>")
    })
    .unwrap()
}

fn chat(turns: &[(&str, &str)]) -> Vec<Message> {
    turns
        .iter()
        .map(|(role, content)| Message::new(*role, *content))
        .collect()
}

#[test]
fn any_text_of_unicode_round_trips_seen_or_not() {
    let tokenizer = trained(300, &[END]);
    for text in [
        "The fox is red.",
        "",
        " leading, trailing \n\n\t",
        "naïve café Ελλάδα 日本語 👩‍👩‍👧‍👦🏳️‍🌈 \u{0} \u{FFFD} \u{10FFFF}",
        "it's 12345 ---- ~~~\r\n",
    ] {
        let ids = tokenizer.encode(text).unwrap();
        assert_eq!(tokenizer.decode(&ids).unwrap(), text);
        let mut stream = TextStream::new(&tokenizer, &[]);
        let mut streamed: String = ids.iter().map(|id| stream.push(*id).unwrap()).collect();
        streamed += &stream.waiting().unwrap();
        assert_eq!(streamed, text);
    }
}

proptest::proptest! {
    #[test]
    fn random_strings_round_trip(text in "\\PC{0,40}") {
        let tokenizer = trained(280, &[END]);
        let ids = tokenizer.encode(&text).unwrap();
        proptest::prop_assert_eq!(tokenizer.decode(&ids).unwrap(), text);
    }
}

#[test]
fn a_stream_gives_out_whole_characters_only() {
    let tokenizer = trained(257, &[END]); // bytes alone: the fox is four tokens
    let ids = tokenizer.encode("a🦊b").unwrap();
    let mut stream = TextStream::new(&tokenizer, &[]);
    let pieces: Vec<String> = ids.iter().map(|id| stream.push(*id).unwrap()).collect();
    assert_eq!(pieces, ["a", "", "", "", "🦊", "b"]);
}

#[test]
fn the_same_corpus_gives_the_same_bytes() {
    let bytes = || {
        let dir = tempfile::tempdir().unwrap();
        trained(320, &[END, "<|pad|>"]).save(dir.path()).unwrap();
        let names = [
            "tokenizer.json",
            "tokenizer_config.json",
            "special_tokens_map.json",
            "generation_config.json",
        ];
        names.map(|name| fs_err::read_to_string(dir.path().join(name)).unwrap())
    };
    assert_eq!(bytes(), bytes());
}

#[test]
fn training_merges_the_most_frequent_pair_first() {
    // By hand: in "ab ab ab cd" the pairs are ab 3×, cd 1× and, with GPT-2's words, Ġa 2×, Ġc 1×:
    // so ab comes first.
    let tokenizer = train_bpe(["ab ab ab cd"].iter(), 258, &[END]).unwrap();
    assert_eq!(tokenizer.vocab_size(), 258);
    assert_eq!(tokenizer.token(257).unwrap(), "ab");
    assert_eq!(tokenizer.token(0).unwrap(), END);
}

#[test]
fn a_saved_tokenizer_is_the_same_tokenizer() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let tokenizer = chat_tokenizer(TEMPLATE);
    tokenizer.save(first.path()).unwrap();
    let loaded = Tokenizer::from_dir(first.path()).unwrap();
    assert!(loaded.encodes_like(&tokenizer));
    assert_eq!(loaded.eos_id().unwrap(), tokenizer.eos_id().unwrap());
    assert!(loaded.has_chat_template());
    loaded.save(second.path()).unwrap();
    for entry in fs_err::read_dir(first.path()).unwrap() {
        let name = entry.unwrap().file_name();
        let read = |dir: &Path| fs_err::read_to_string(dir.join(&name)).unwrap();
        assert_eq!(read(first.path()), read(second.path()), "{name:?}");
    }
}

/// `transformers` lets a class such as Qwen2Tokenizer put its own rules over tokenizer.json;
/// PreTrainedTokenizerFast has none.
#[test]
fn a_saved_tokenizer_names_the_class_that_has_no_rules_of_its_own() {
    let (dir, saved) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    trained(300, &[END]).save(dir.path()).unwrap();
    let class_after = |config: Value| {
        fs_err::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
        Tokenizer::from_dir(dir.path())
            .unwrap()
            .save(saved.path())
            .unwrap();
        let read = fs_err::read(saved.path().join("tokenizer_config.json")).unwrap();
        let json: Value = serde_json::from_slice(&read).unwrap();
        assert_eq!(json.get("auto_map"), None);
        json["tokenizer_class"].as_str().unwrap().to_owned()
    };
    let ours = "PreTrainedTokenizerFast";
    assert_eq!(class_after(json!({})), ours);
    assert_eq!(
        class_after(json!({"tokenizer_class": "Qwen2Tokenizer"})),
        ours
    );
    assert_eq!(
        class_after(
            json!({"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["x.Own", null]}})
        ),
        ours
    );
    // Here the file does not add the BOS token; the class does.
    let by_flag =
        json!({"tokenizer_class": "LlamaTokenizer", "bos_token": END, "add_bos_token": true});
    assert_eq!(class_after(by_flag), "LlamaTokenizer");
}

#[test]
fn tokenizers_of_different_vocabularies_do_not_encode_alike() {
    let of = |size| trained(size, &[END]);
    assert!(of(300).encodes_like(&of(300)));
    assert!(!of(300).encodes_like(&of(301)));
}

#[test]
fn the_end_token_is_found_wherever_it_is_named() {
    let dir = tempfile::tempdir().unwrap();
    trained(300, &[END, "<|eot|>"]).save(dir.path()).unwrap();
    for file in [
        "tokenizer_config.json",
        "special_tokens_map.json",
        "generation_config.json",
    ] {
        fs_err::remove_file(dir.path().join(file)).unwrap();
    }
    let none = Tokenizer::from_dir(dir.path()).unwrap();
    let what = none.eos_id().unwrap_err().to_string();
    assert!(
        what.contains("no EOS token") && what.contains("eos_token"),
        "{what}"
    );
    assert!(none.end_ids().is_empty());

    let ends = |t: Tokenizer| (t.eos_id().unwrap(), t.end_ids().to_vec());
    let config = changed(dir.path(), "config.json", |c| c["eos_token_id"] = json!(0)).unwrap();
    assert_eq!(ends(config), (0, vec![0]));
    // An id of another vocabulary is ignored; a list is a list.
    let generation = changed(dir.path(), "generation_config.json", |c| {
        c["eos_token_id"] = json!([50_256, 1, 0])
    })
    .unwrap();
    assert_eq!(ends(generation), (1, vec![0, 1]));
    let special = changed(dir.path(), "special_tokens_map.json", |c| {
        c["eos_token"] = json!({"content": END})
    })
    .unwrap();
    assert_eq!(ends(special), (0, vec![0, 1]));
    let named = changed(dir.path(), "tokenizer_config.json", |c| {
        c["eos_token"] = json!("<|eot|>")
    })
    .unwrap();
    assert_eq!(ends(named), (1, vec![0, 1]));
}

#[test]
fn a_file_that_is_missing_or_broken_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let error = || Tokenizer::from_dir(dir.path()).unwrap_err().to_string();
    let what = error();
    assert!(
        what.contains("tokenizer.json") && what.contains("save_pretrained"),
        "{what}"
    );
    fs_err::write(dir.path().join("tokenizer.json"), "{\"version\": \"1.0\"").unwrap();
    assert!(
        error().contains("tokenizer.json: not a tokenizer"),
        "{}",
        error()
    );
    trained(300, &[END]).save(dir.path()).unwrap();
    fs_err::write(dir.path().join("tokenizer_config.json"), "[]").unwrap();
    assert!(
        error().contains("tokenizer_config.json: expected a JSON object"),
        "{}",
        error()
    );
    fs_err::write(
        dir.path().join("tokenizer_config.json"),
        "{\"eos_token\": \"<eos>\"}",
    )
    .unwrap();
    assert!(
        error().contains("\"<eos>\"") && error().contains("not in the vocabulary"),
        "{}",
        error()
    );
}

#[test]
fn a_vocabulary_too_small_for_all_bytes_is_refused() {
    let what = train_bpe(CORPUS.iter(), 256, &[END])
        .unwrap_err()
        .to_string();
    assert!(
        what.contains("vocab_size is 256") && what.contains("257"),
        "{what}"
    );
    assert!(train_bpe(CORPUS.iter(), 300, &[]).is_err());
}

#[test]
fn a_plain_prompt_begins_with_one_begin_token_where_the_tokenizer_adds_one() {
    let dir = tempfile::tempdir().unwrap();
    let plain = trained(300, &[END, "<|begin|>"]);
    plain.save(dir.path()).unwrap();
    let fox = plain.encode("The fox").unwrap();
    assert_eq!(plain.encode_prompt(&"The fox".into()).unwrap(), fox);
    assert_eq!(plain.encode_prompt(&"".into()).unwrap(), [0]); // a model can only continue something

    let with_begin = [vec![1], fox.clone()].concat();
    let begin = |config: &mut Value| config["bos_token"] = json!("<|begin|>");
    let silent = changed(dir.path(), "tokenizer_config.json", begin).unwrap();
    assert_eq!(silent.encode_prompt(&"The fox".into()).unwrap(), fox);
    let asked = changed(dir.path(), "tokenizer_config.json", |config| {
        config["add_bos_token"] = json!(true)
    })
    .unwrap();
    assert_eq!(asked.encode_prompt(&"The fox".into()).unwrap(), with_begin);
    let spelled = Text::from("<|begin|>The fox");
    let allowed = asked.clone().allow_special(true);
    assert_eq!(allowed.encode_prompt(&spelled).unwrap(), with_begin);
    // Plain text, after the one begin token.
    let plain = asked.encode_prompt(&spelled).unwrap();
    assert_eq!(plain.iter().filter(|id| **id == 1).count(), 1);
    assert_eq!(
        asked.decode_response(&plain[..1], &plain[1..]).unwrap(),
        "<|begin|>The fox"
    );
    assert_eq!(asked.encode_prompt(&"".into()).unwrap(), [1]);

    // As Llama 3 does it: the post-processor writes the token.
    changed(dir.path(), "tokenizer_config.json", |config| {
        config.as_object_mut().unwrap().remove("add_bos_token");
    })
    .unwrap();
    let post = json!({"type": "TemplateProcessing", "pair": [],
        "single": [{"SpecialToken": {"id": "<|begin|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "special_tokens": {"<|begin|>": {"id": "<|begin|>", "ids": [1], "tokens": ["<|begin|>"]}}});
    let processed = changed(dir.path(), "tokenizer.json", |t| t["post_processor"] = post).unwrap();
    assert_eq!(processed.encode("The fox").unwrap(), fox);
    assert_eq!(
        processed.encode_prompt(&"The fox".into()).unwrap(),
        with_begin
    );
}

#[test]
fn length_limits_and_padding_in_the_file_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let tokenizer = trained(300, &[END]);
    tokenizer.save(dir.path()).unwrap();
    let limited = changed(dir.path(), "tokenizer.json", |t| {
        t["truncation"] = json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0});
        t["padding"] = json!({"strategy": {"Fixed": 64}, "direction": "Left", "pad_to_multiple_of": null,
            "pad_id": 0, "pad_type_id": 0, "pad_token": END});
    })
    .unwrap();
    let text = CORPUS[0];
    assert_eq!(
        limited.encode(text).unwrap(),
        tokenizer.encode(text).unwrap()
    );
    assert!(limited.encodes_like(&tokenizer));
}

#[test]
fn a_plain_demonstration_ends_with_one_end_token() {
    let tokenizer = trained(300, &[END]);
    let encode = |completion: &str| {
        tokenizer
            .encode_demonstration(&"What colour is the fox?".into(), &completion.into())
            .unwrap()
    };
    let expected = Encoded {
        prompt: tokenizer.encode("What colour is the fox?").unwrap(),
        completion: [tokenizer.encode(" Red.").unwrap(), vec![0]].concat(),
    };
    assert_eq!(encode(" Red."), expected);
    // An end token that the data spells is text.
    let spelled = encode(&format!(" Red.{END}")).completion;
    assert_eq!(spelled.iter().filter(|id| **id == 0).count(), 1);
    assert_eq!(tokenizer.decode(&spelled).unwrap(), format!(" Red.{END}"));
    assert_eq!(encode("").completion, [0]); // an empty answer is data
}

#[test]
fn a_chat_demonstration_ends_with_the_token_that_ends_the_turn() {
    let tokenizer = chat_tokenizer(TEMPLATE);
    let prompt = Text::from(chat(&[("user", "What colour is the fox?")]));
    let expected = Encoded {
        prompt: tokenizer
            .encode("<|im_start|>user\nWhat colour is the fox?<|im_end|>\n<|im_start|>assistant\n")
            .unwrap(),
        completion: tokenizer.encode("Red.<|im_end|>").unwrap(),
    };
    for completion in [
        Text::from("Red."),
        Text::from(chat(&[("assistant", "Red.")])),
    ] {
        let encoded = tokenizer
            .encode_demonstration(&prompt, &completion)
            .unwrap();
        assert_eq!(encoded, expected);
        assert_eq!(encoded.prompt, tokenizer.encode_prompt(&prompt).unwrap());
    }
    let raw = tokenizer.clone().take_raw(true);
    let mixed = raw.encode_completion(&"Hi".into(), &Text::from(chat(&[("assistant", "Ho")])));
    assert!(mixed.unwrap_err().to_string().contains("make both"));
}

#[test]
fn every_assistant_turn_of_a_conversation_is_a_target_and_nothing_is_lost_between() {
    let tokenizer = chat_tokenizer(TEMPLATE);
    let turns = chat(&[
        ("user", "Hi"),
        ("assistant", "Hello"),
        ("user", "Colour?"),
        ("assistant", "Red."),
        ("user", "Thanks"),
    ]);
    let segment = |text: &str, turn: Option<usize>| Segment {
        ids: tokenizer.encode(text).unwrap(),
        target: turn.is_some(),
        turn,
    };
    let expected = [
        segment(
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
            None,
        ),
        segment("Hello<|im_end|>", Some(1)),
        segment(
            "\n<|im_start|>user\nColour?<|im_end|>\n<|im_start|>assistant\n",
            None,
        ),
        segment("Red.<|im_end|>", Some(3)),
    ];
    let mut rows = tokenizer.encode_chat(&turns.clone().into()).unwrap();
    let segments = rows.remove(0);
    assert_eq!((&segments[..], rows.len()), (&expected[..], 0));
    // The last answer sees exactly the ids it would be asked with.
    let before: Vec<u32> = segments[..3].iter().flat_map(|s| s.ids.clone()).collect();
    assert_eq!(
        before,
        tokenizer
            .encode_prompt(&Text::from(turns[..3].to_vec()))
            .unwrap()
    );
}

/// Nothing that the template writes says that an answer is over, so the EOS token does; and since no later prompt holds it, every
/// answer has a row of its own.
#[test]
fn where_a_template_writes_no_end_of_turn_every_answer_ends_with_the_eos_token() {
    let tokenizer = chat_tokenizer(
        "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}",
    );
    assert_eq!(tokenizer.turn_end(), None);
    let turns = chat(&[
        ("user", "Hi"),
        ("assistant", "Hello"),
        ("user", "Colour?"),
        ("assistant", "Write <|im_end|> or \n, not more."),
    ]);
    let end = tokenizer.eos_id().unwrap();
    let rows = tokenizer.encode_chat(&turns.clone().into()).unwrap();
    assert_eq!(rows.len(), 2);
    for (row, turn) in rows.iter().zip([1, 3]) {
        let [context, answer] = &row[..] else {
            panic!("{row:?}");
        };
        let asked = Text::from(turns[..turn].to_vec());
        assert_eq!(context.ids, tokenizer.encode_prompt(&asked).unwrap());
        let (last, said) = answer.ids.split_last().unwrap();
        assert_eq!((*last, said.contains(&end)), (end, false));
        let text = tokenizer.decode_response(&context.ids, said).unwrap();
        assert_eq!(text, turns[turn].content());
    }
}

#[test]
fn a_template_that_rewrites_the_prompt_is_refused_with_the_place() {
    let tokenizer = chat_tokenizer(
        "{{ messages | length }} turns{% for m in messages %}|{{ m.content }}{% endfor %}",
    );
    let what = tokenizer
        .encode_completion(&Text::from(chat(&[("user", "Hi")])), &"Ho".into())
        .unwrap_err()
        .to_string();
    assert!(
        what.contains("after 0 characters") && what.contains("1 turns|Hi"),
        "{what}"
    );
}

#[test]
fn messages_without_a_chat_template_are_an_error_that_says_so() {
    let what = trained(300, &[END])
        .encode_prompt(&Text::from(chat(&[("user", "Hi")])))
        .unwrap_err()
        .to_string();
    assert!(what.contains("no chat template"), "{what}");
}

/// SentencePiece puts a space before whatever it is given; where a text continues another there is
/// none.
#[test]
fn a_continuation_gets_no_space_of_its_own() {
    let vocab = [
        "<unk>", "</s>", "▁", "\n", "R", "e", "d", "▁R", "▁Re", "▁Red", "Re", "Red",
    ];
    let vocab: Value = vocab
        .iter()
        .enumerate()
        .map(|(i, t)| ((*t).to_owned(), json!(i)))
        .collect::<serde_json::Map<_, _>>()
        .into();
    let merges = ["▁ R", "▁R e", "▁Re d", "R e", "Re d"];
    let file = json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": null, "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": merges}});
    let tokenizer =
        Tokenizer::from_bytes(file.to_string().as_bytes(), serde_json::Map::new()).unwrap();
    let spelled = |ids: Vec<u32>| {
        ids.iter()
            .map(|id| tokenizer.token(*id).unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(spelled(tokenizer.encode("Red").unwrap()), ["▁Red"]);
    assert_eq!(
        spelled(tokenizer.encode_continuation("Red").unwrap()),
        ["Red"]
    );
    assert_eq!(
        spelled(tokenizer.encode_continuation(" Red").unwrap()),
        ["▁Red"]
    );
}
