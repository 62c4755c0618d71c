//! What differs between runs of one stage, and what each was made with.

use std::collections::BTreeMap;
use toml::{Table, Value};

use crate::html::{escape, fold};
use crate::run::Run;

/// A table of the settings in which `runs` differ; words where they are the same; nothing for a single run.
pub(crate) fn differences(runs: &[(&Run, String)]) -> String {
    let configs: Vec<BTreeMap<String, String>> = (runs.iter())
        .filter(|(run, _)| !run.config.is_empty())
        .map(|(run, _)| flat(&run.config))
        .collect();
    if configs.len() < 2 {
        return String::new();
    }
    let names: Vec<&String> = (runs.iter())
        .filter(|(run, _)| !run.config.is_empty())
        .map(|(_, name)| name)
        .collect();
    let keys: std::collections::BTreeSet<&String> =
        configs.iter().flat_map(BTreeMap::keys).collect();
    let differing: Vec<&String> = (keys.into_iter())
        .filter(|key| {
            configs
                .iter()
                .any(|config| config.get(*key) != configs[0].get(*key))
        })
        .collect();
    let mut out = String::from("<h3>What differs in their settings</h3>\n");
    if differing.is_empty() {
        out.push_str("<p>Nothing: they were made with the same settings.</p>\n");
        return out;
    }
    let mut table =
        crate::table::Table::new("Setting", names.into_iter().map(|name| (name.as_str(), "")));
    for key in differing {
        let value = |config: &BTreeMap<String, String>| {
            escape(config.get(key).map_or("not set", String::as_str))
        };
        let name = format!("<code>{}</code>", escape(key));
        table.row(&name, configs.iter().map(|config| Some(value(config))));
    }
    out + &table.html()
}

/// The configuration of each run, folded.
pub(crate) fn configurations(out: &mut String, runs: &[(&Run, String)]) {
    for (run, name) in runs.iter().filter(|(run, _)| !run.config.is_empty()) {
        let inner = format!("<pre tabindex=\"0\">{}</pre>\n", escape(&run.config));
        let id = format!("config-{}", run.name);
        fold(out, &id, &format!("Settings of {name}"), &inner);
    }
}

/// Every setting as `section.key`, with its value as a configuration file has it.
fn flat(config: &str) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let table = config.parse::<Table>().unwrap_or_default();
    let mut waiting: Vec<(String, Value)> = table.into_iter().collect();
    while let Some((name, value)) = waiting.pop() {
        match value {
            Value::Table(inner) => {
                let inner = inner.into_iter();
                waiting.extend(inner.map(|(key, value)| (format!("{name}.{key}"), value)));
            }
            other => {
                all.insert(name, other.to_string());
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(config: &str) -> Run {
        Run {
            config: config.to_owned(),
            ..Run::default()
        }
    }

    #[test]
    fn only_what_differs_is_in_the_table() {
        let (a, b) = (
            run("[ppo]\nlr = 1e-3\nsteps = 4\nreward = '<r>'\n"),
            run("[ppo]\nlr = 2e-3\nsteps = 4\nmax_kl = 5.0\nreward = 'x'\n"),
        );
        let table = differences(&[(&a, "a".into()), (&b, "<b>".into())]);
        assert!(
            table.contains("ppo.lr") && !table.contains("ppo.steps") && table.contains("not set")
        );
        assert!(
            table.contains("&lt;b&gt;") && table.contains("&lt;r&gt;"),
            "{table}"
        );
        assert!(differences(&[(&a, "a".into()), (&a, "c".into())]).contains("the same settings"));
        assert_eq!(differences(&[(&a, "a".into())]), "");
        assert_eq!(
            differences(&[(&a, "a".into()), (&run(""), "old".into())]),
            ""
        );
    }

    #[test]
    fn sections_inside_sections_are_flattened() {
        let flat = flat("[a]\nx = [1, 2]\n[a.b]\ny = 'z'\n");
        assert_eq!(
            (flat["a.x"].as_str(), flat["a.b.y"].as_str()),
            ("[1, 2]", "\"z\"")
        );
    }
}
