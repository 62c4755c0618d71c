//! The flags of a stage, made from its settings: a setting's name is the flag, its doc comment the help.

use clap::{Arg, ArgAction, ArgMatches};
use rlhf_train::Setting;
use toml::{Table, Value};

/// One flag a setting. `short` are those that `-h` shows; `--help` shows all.
pub(crate) fn args(settings: &[Setting], short: &[&str]) -> Vec<Arg> {
    let place = |name: &str| short.iter().position(|wanted| *wanted == name);
    let arg = |(i, setting): (usize, &Setting)| {
        let help = match &setting.default {
            Some(Value::Boolean(true)) => format!("Turns this off: {}", setting.doc),
            _ => setting.doc.clone(),
        };
        let default = readable_default(setting);
        let notes: Vec<String> = default
            .iter()
            .map(|default| format!("default: {default}"))
            .chain(allowed(setting, default.as_deref()))
            .collect();
        let help = match notes.as_slice() {
            [] => help,
            notes => format!("{help} [{}]", notes.join("; ")),
        };
        let arg = Arg::new(setting.name)
            .long(long(setting))
            .help(help)
            .help_heading("Settings")
            .hide_short_help(place(setting.name).is_none())
            .display_order(place(setting.name).unwrap_or(short.len() + i));
        match &setting.default {
            Some(Value::Boolean(_)) => arg.action(ArgAction::SetTrue),
            Some(Value::Array(_)) => {
                let files = setting.type_name.contains("PathBuf");
                arg.num_args(1..)
                    .action(ArgAction::Append)
                    .value_name(if files { "FILE" } else { "TEXT" })
            }
            Some(Value::Integer(_)) => arg.value_name("N").allow_hyphen_values(true),
            Some(Value::Float(_)) => arg.value_name("X").allow_hyphen_values(true),
            Some(Value::String(_)) => arg.value_name("NAME"),
            _ => arg.value_name("VALUE").allow_hyphen_values(true),
        }
    };
    settings.iter().enumerate().map(arg).collect()
}

/// What was typed, as a layer of settings: what was not given is not in it.
pub(crate) fn given(settings: &[Setting], matches: &ArgMatches) -> Table {
    let mut table = Table::new();
    for setting in settings {
        let value = match &setting.default {
            Some(Value::Boolean(usual)) => {
                let flag = matches.get_flag(setting.name);
                flag.then(|| Value::Boolean(!usual))
            }
            Some(Value::Array(_)) => {
                let texts = matches.get_many::<String>(setting.name);
                texts.map(|texts| {
                    Value::Array(texts.map(|text| Value::String(text.clone())).collect())
                })
            }
            usual => {
                let text = matches.get_one::<String>(setting.name);
                text.map(|text| match usual {
                    Some(Value::String(_)) => Value::String(text.clone()),
                    _ => toml_or_text(text),
                })
            }
        };
        if let Some(value) = value {
            table.insert(setting.name.to_owned(), value);
        }
    }
    table
}

/// A typed value as TOML; what is no TOML is taken as text.
pub(crate) fn toml_or_text(text: &str) -> Value {
    format!("v = {text}")
        .parse::<Table>()
        .ok()
        .and_then(|mut table| table.remove("v"))
        .unwrap_or_else(|| Value::String(text.to_owned()))
}

/// The values a setting may have, as they go on after its default in help; none that its description or the default has told.
pub(crate) fn allowed(setting: &Setting, default: Option<&str>) -> Option<String> {
    let told = |value: &String| setting.doc.contains(&format!("`{value}`"));
    if setting.range.is_some() || setting.values.is_empty() {
        return setting.allowed();
    }
    if setting.values.iter().all(told) {
        return None;
    }
    let others = (setting.values.iter()).filter(|value| Some(value.as_str()) != default);
    let others: Vec<&str> = others.map(String::as_str).collect();
    Some(match default {
        Some(_) => format!("or {}", others.join(", ")),
        None => others.join(", "),
    })
}

/// A default for the help text; none for switches and empty lists.
pub(crate) fn readable_default(setting: &Setting) -> Option<String> {
    match setting.default.as_ref()? {
        Value::Boolean(_) => None,
        Value::String(text) if text.is_empty() => None,
        Value::String(text) => Some(text.clone()),
        Value::Array(list) if list.is_empty() => None,
        other => Some(readable(other)),
    }
}

/// As TOML; a small or large number as one would write it, 1e-3 rather than 0.001.
pub(crate) fn readable(value: &Value) -> String {
    match value.as_float() {
        Some(x) if x != 0.0 && !(1e-2..1e6).contains(&x.abs()) => format!("{x:e}"),
        _ => value.to_string(),
    }
}

/// `--lr`; a switch that is on by default is turned off by `--no-shuffle`.
fn long(setting: &Setting) -> String {
    let name = setting.name.replace('_', "-");
    match setting.default {
        Some(Value::Boolean(true)) => format!("no-{name}"),
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Command;
    use rlhf_train::Range;

    fn settings() -> Vec<Setting> {
        let setting = |name, default: Option<Value>| Setting {
            name,
            type_name: "",
            doc: format!("What {name} means."),
            default,
            range: (name == "lr").then(|| Range::above(0.0, 1.0)),
            values: Vec::new(),
        };
        vec![
            setting("model", Some(Value::String("runs/sft".into()))),
            setting("data", Some(Value::Array(Vec::new()))),
            setting("lr", Some(Value::Float(1e-5))),
            setting("max_kl", None),
            setting("shuffle", Some(Value::Boolean(true))),
            setting("uncalibrated", Some(Value::Boolean(false))),
        ]
    }

    #[test]
    fn a_list_says_whether_it_takes_files_or_texts() {
        for (type_name, shown) in [("Vec<PathBuf>", "FILE"), ("Vec<String>", "TEXT")] {
            let list = Setting {
                name: "list",
                doc: "What it means.".into(),
                type_name,
                default: Some(Value::Array(Vec::new())),
                range: None,
                values: Vec::new(),
            };
            let args = args(&[list], &[]);
            assert_eq!(args[0].get_value_names().unwrap(), [shown]);
        }
    }

    fn typed(line: &str) -> Table {
        let command = Command::new("x").args(args(&settings(), &["lr"]));
        let words = ["x"].into_iter().chain(line.split_whitespace());
        given(&settings(), &command.try_get_matches_from(words).unwrap())
    }

    #[test]
    fn what_is_typed_has_the_type_of_its_setting_and_the_rest_is_absent() {
        let want: Table =
            "model = '3'\ndata = ['1', 'b', 'c']\nlr = -1e-3\nmax_kl = 2\nshuffle = false"
                .parse()
                .unwrap();
        assert_eq!(
            typed("--model 3 --data 1 b --lr -1e-3 --max-kl 2 --no-shuffle --data c"),
            want
        );
        assert_eq!(typed(""), Table::new());
        assert_eq!(
            typed("--uncalibrated"),
            "uncalibrated = true".parse().unwrap()
        );
        assert_eq!(typed("--lr fast"), "lr = 'fast'".parse().unwrap());
    }

    #[test]
    fn short_help_shows_what_is_asked_for_and_long_help_everything() {
        let mut command = Command::new("x").args(args(&settings(), &["lr"]));
        let short = command.render_help().to_string();
        assert!(
            short.contains("--lr <X>") && short.contains("[default: 1e-5; above 0 and at most 1]"),
            "{short}"
        );
        assert!(!short.contains("--model"), "{short}");
        assert!(
            command
                .render_long_help()
                .to_string()
                .contains("--no-shuffle")
        );
    }
}
