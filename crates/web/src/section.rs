//! Which stage a run belongs to.

use rlhf_base::caption::Caption;
use serde_json::{Map, Value};

/// A stage as the report shows it: a section of the page for its runs.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    /// The table of the stage in `config.toml`: a run whose configuration has it, and that of no other stage, is one of its runs.
    pub table: &'static str,
    /// The heading.
    pub title: &'static str,
    /// The captions of its metrics, in the order of the page.
    pub captions: &'static [Caption],
    /// What the lines of its `metrics.jsonl` show of a run that learns nothing.
    pub findings: fn(&[Map<String, Value>]) -> Vec<String>,
}

/// The index in `sections` of the stage that wrote a run with this configuration. The configuration of a whole pipeline has the
/// tables of several stages and belongs to none.
pub(crate) fn section_of(config: &str, sections: &[Section]) -> Option<usize> {
    let table = config.parse::<toml::Table>().ok()?;
    let mut found = (0..sections.len()).filter(|&i| table.contains_key(sections[i].table));
    match (found.next(), found.next()) {
        (Some(section), None) => Some(section),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_table_of_a_stage_tells_the_stage_and_several_tell_none() {
        let sections = ["sft", "ppo"].map(|table| Section {
            table,
            title: "",
            captions: &[],
            findings: |_| Vec::new(),
        });
        for (config, expected) in [
            ("[run]\nseed = 0\n[ppo]\nlr = 1e-3\n", Some(1)),
            ("[sft]\n", Some(0)),
            ("[sft]\n[ppo]\n", None),
            ("[run]\n", None),
            ("", None),
            ("not toml [", None),
        ] {
            assert_eq!(section_of(config, &sections), expected, "{config}");
        }
    }
}
