//! Tokenizers and chat templates made to do harm, or damaged.

use rlhf_base::{Chat, Message, Text};
use rlhf_lm::Tokenizer;
use serde_json::{Map, json};

use crate::text::trained;

fn with_template(template: &str) -> Tokenizer {
    try_template(template).unwrap()
}

fn try_template(template: &str) -> rlhf_lm::Result<Tokenizer> {
    let dir = tempfile::tempdir().unwrap();
    trained(300, &["<|end|>"]).save(dir.path()).unwrap();
    let json = fs_err::read(dir.path().join("tokenizer.json")).unwrap();
    let config = [
        ("eos_token", json!("<|end|>")),
        ("chat_template", json!(template)),
    ];
    let config: Map<_, _> = config.map(|(k, v)| (k.to_owned(), v)).into_iter().collect();
    Tokenizer::from_bytes(&json, config)
}

/// Each would make at least 2^40 bytes or steps; that the test ends is what it shows.
#[test]
fn a_template_that_grows_without_bound_is_stopped_and_says_so() {
    let sixty = |body: &str| {
        let set = "{% set n = namespace(x='aaaaaaaaaaaaaaaa', l=['a']) %}";
        format!("{set}{{% for i in range(60) %}}{body}{{% endfor %}}{{{{ n.x | length }}}}")
    };
    for template in [
        sixty("{% set n.x = n.x ~ n.x %}"),
        sixty("{% set n.x = n.x + n.x %}"),
        sixty("{% set n.x = n.x * 16 %}"),
        sixty("{% set n.x = n.x.replace('a', n.x) %}"),
        sixty("{% set n.x = n.x.replace('', n.x) %}"),
        sixty("{% set n.x = n.x | replace('a', n.x) %}"),
        sixty("{% set n.x = n.x.join([n.x, n.x, n.x]) %}"),
        sixty("{% set n.x = [n.x, n.x] | join(n.x) %}"),
        sixty("{% set n.x = n.x | tojson | tojson %}"),
        sixty("{% set n.x %}{{ n.x }}{{ n.x }}{% endset %}"),
        sixty("{% set n.l = [n.l, n.l] %}") + "{{ n.l | tojson }}",
        sixty("{% set n.l = [n.l, n.l] %}") + "{{ ''.join(n.l) }}",
        "{{ '{:>999999999999}'.format('a') }}".to_owned(),
        "{{ '{:>{}}'.format('a', 999999999999) }}".to_owned(),
        "{{ '%999999999999s' | format('a') }}".to_owned(),
        "{{ [[['a']]] | tojson(indent=99999999999) }}".to_owned(),
        "{% macro m(n) %}{{ m(n + 1) }}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}".to_owned(),
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}"
            .to_owned(),
    ] {
        let error = with_template(&template)
            .encode_prompt(&chat())
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("chat template"), "{template}: {error}");
    }
}

/// Lists within lists cost minijinja nothing to make and more than any fuel to write, so the first rendering has a time limit.
#[test]
fn a_template_that_does_not_come_to_an_end_is_refused_with_its_model() {
    let nested = "{% set n = namespace(l=['a']) %}{% for i in range(60) %}{% set n.l = [n.l, n.l] %}{% endfor %}{{ n.l | string }}";
    let error = try_template(nested).unwrap_err().to_string();
    assert!(
        error.contains("chat template") && error.contains("seconds"),
        "{error}"
    );
}

/// What a real conversation needs is not bounded: a megabyte, a thousand turns.
#[test]
fn a_long_conversation_is_written() {
    let tokenizer = with_template(
        "{% for m in messages %}{% set text = m.content.replace('b', 'cc') | trim %}{{ '<' ~ m.role ~ '>' ~ text }}{% endfor %}",
    );
    let turns = |n: usize, text: &str| Chat::from(vec![Message::new("user", text); n]);
    let long = tokenizer
        .apply_chat_template(&turns(1, &"ab".repeat(500_000)), true)
        .unwrap();
    assert_eq!(long.len(), "<user>".len() + 1_500_000);
    let many = tokenizer
        .apply_chat_template(&turns(1000, "ab"), true)
        .unwrap();
    assert_eq!(many.len(), 1000 * "<user>acc".len());
}

/// Found by mutating files: the crate that reads them indexes out of range.
#[test]
fn a_damaged_tokenizer_is_an_error_that_names_the_file() {
    let dir = tempfile::tempdir().unwrap();
    trained(300, &["<|end|>"]).save(dir.path()).unwrap();
    let path = dir.path().join("tokenizer.json");
    let whole: serde_json::Value = serde_json::from_slice(&fs_err::read(&path).unwrap()).unwrap();
    let begins = json!([{"SpecialToken": {"id": "<|nowhere|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]);
    for (part, damaged) in [
        (
            "post_processor",
            json!({"type": "TemplateProcessing", "single": begins, "pair": [], "special_tokens": {}}),
        ),
        (
            "normalizer",
            json!({"type": "Precompiled", "precompiled_charsmap": "CAAAAP///38BAAAA"}),
        ),
    ] {
        let mut json = whole.clone();
        json[part] = damaged;
        fs_err::write(&path, json.to_string()).unwrap();
        let error = Tokenizer::from_dir(dir.path()).unwrap_err().to_string();
        assert!(error.contains("tokenizer.json: damaged"), "{error}");
    }
}

/// Found by fuzzing: saved and read again, such a file became another tokenizer.
#[test]
fn two_tokens_with_one_id_are_named() {
    let dir = tempfile::tempdir().unwrap();
    trained(300, &["<|end|>"]).save(dir.path()).unwrap();
    let path = dir.path().join("tokenizer.json");
    let mut json: serde_json::Value =
        serde_json::from_slice(&fs_err::read(&path).unwrap()).unwrap();
    json["model"]["vocab"]["b"] = json["model"]["vocab"]["a"].clone();
    fs_err::write(&path, json.to_string()).unwrap();
    let error = Tokenizer::from_dir(dir.path()).unwrap_err().to_string();
    assert!(
        error.contains("tokens \"a\" and \"b\" both have id"),
        "{error}"
    );
}

fn chat() -> Text {
    Text::from(vec![Message::new("user", "Hi")])
}

#[test]
fn tool_calls_and_tools_are_written_or_refused() {
    let calling: Text = serde_json::from_value(json!({
        "messages": [
            {"role": "user", "content": "Weather in Bonn?"},
            {"role": "assistant", "content": null, "tool_calls": [
                {"type": "function", "id": "c1", "function": {"name": "weather", "arguments": "{\"city\":\"Bonn\"}"}}
            ]},
            {"role": "tool", "tool_call_id": "c1", "name": "weather", "content": "rain"},
            {"role": "assistant", "content": "It rains."}
        ],
        "tools": [{"type": "function", "function": {"name": "weather"}}]
    }))
    .unwrap();
    let Text::Chat(chat) = &calling else {
        unreachable!("a conversation")
    };
    let full = with_template(
        "{% if tools %}{{ tools | tojson }}\n{% endif %}{% for m in messages %}{{ m.role }}{% if m.name %}({{ m.name }},{{ m.tool_call_id }}){% endif %}: \
         {{- m.content if m.content is not none else '' }}{% for c in m.tool_calls or [] %}CALL {{ c.function.name }} {{ c.function.arguments }}{% endfor %}<|end|>\n\
         {% endfor %}{% if add_generation_prompt %}assistant:{% endif %}",
    );
    let text = full.apply_chat_template(chat, false).unwrap();
    // The arguments as they are given, a string of JSON.
    for part in [
        "[{\"type\": \"function\"",
        "CALL weather {\"city\":\"Bonn\"}<|end|>",
        "tool(weather,c1):rain",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let rows = full.encode_chat(chat).unwrap();
    let answers: Vec<String> = rows
        .concat()
        .iter()
        .filter(|s| s.target)
        .map(|s| full.decode(&s.ids).unwrap())
        .collect();
    assert_eq!(answers, ["CALL weather {\"city\":\"Bonn\"}", "It rains."]);

    let deaf = "{% for m in messages %}{{ m.role }}: {{ m.content }}<|end|>{% endfor %}";
    let no_calls = with_template(&format!("{deaf}{{{{ tools }}}}"));
    let no_tools = with_template(&format!(
        "{deaf}{{% for m in messages %}}{{{{ m.tool_calls }}}}{{% endfor %}}"
    ));
    for (tokenizer, lost) in [
        (no_calls, "\"tool_calls\" (message 2)"),
        (no_tools, "\"tools\""),
    ] {
        for error in [
            tokenizer.encode_chat(chat).unwrap_err(),
            tokenizer.encode_prompt(&calling).unwrap_err(),
        ] {
            assert!(error.to_string().contains(lost), "{error}");
        }
    }
}
