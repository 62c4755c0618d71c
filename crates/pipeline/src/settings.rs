//! Settings in layers: built-in default < `rlhf.toml` in the current folder < `--config FILE` < flags and `--set`.
//!
//! A file has one table a section (`[run]`, `[ppo]`, …). Each layer is checked as it is added, so that an error names
//! the file or flag it came from.

use std::cell::Cell;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize, forward_to_deserialize_any};
use toml::{Table, Value};

use crate::exit::usage;

/// Read from the current folder when it is there.
pub(crate) const LOCAL_FILE: &str = "rlhf.toml";

/// What one section of a configuration holds. The field's doc comment is its manual, its value in `default()` its default.
pub(crate) trait Settings: DeserializeOwned + Serialize + Default {
    /// The name of the table.
    const SECTION: &'static str;
    /// The file that defines the struct, for the manual.
    const SOURCE: &'static str;
    /// The struct's name in that file.
    const STRUCT: &'static str;
}

/// What every command that computes can be told.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RunSettings {
    /// The one seed: every random stream derives from it by name. Same settings and seed, same bytes.
    pub(crate) seed: u64,
    /// The run directory; without one, `runs/` and the name of the stage (of the configuration file for `rlhf run`).
    pub(crate) out: Option<PathBuf>,
    /// Threads on the CPU; 0 takes as many as there are cores. The result is the same for any number.
    pub(crate) threads: usize,
    /// `auto`, `cpu`, `cuda`, `cuda:N` or `metal`; auto takes the best that is compiled in and present.
    pub(crate) device: String,
    /// What the model computes in: `f32`, `bf16` or `f16`. Master weights, sums and losses stay f32.
    pub(crate) dtype: String,
    /// Keep one hidden state per block and token for the gradient and compute the rest again: about a third more work for a fraction of
    /// the memory. The gradients are the same; unless `micro_batch` is set, more tokens go into a pass.
    pub(crate) recompute: bool,
}

impl Default for RunSettings {
    fn default() -> Self {
        Self {
            seed: 0,
            out: None,
            threads: 0,
            device: "auto".to_owned(),
            dtype: "f32".to_owned(),
            recompute: false,
        }
    }
}

impl Settings for RunSettings {
    const SECTION: &'static str = "run";
    const SOURCE: &'static str = include_str!("settings.rs");
    const STRUCT: &'static str = "RunSettings";
}

macro_rules! stage_settings {
    ($($section:literal: $config:ty, $source:literal;)*) => {$(
        impl Settings for $config {
            const SECTION: &'static str = $section;
            const SOURCE: &'static str = include_str!($source);
            const STRUCT: &'static str = "Config";
        }
    )*};
}

stage_settings! {
    "pretrain": rlhf_sft::pretrain::Config, "../../sft/src/pretrain.rs";
    "sft": rlhf_sft::Config, "../../sft/src/config.rs";
    "reward": rlhf_reward::Config, "../../reward/src/config.rs";
    "ppo": rlhf_ppo::Config, "../../ppo/src/config.rs";
}

/// A section without its type: what layers and the manual need to know of it.
pub(crate) struct Section {
    pub(crate) name: &'static str,
    pub(crate) source: &'static str,
    pub(crate) item: &'static str,
    pub(crate) keys: &'static [&'static str],
    /// The keys that have a default; an optional setting has none.
    pub(crate) defaults: Table,
    check: fn(&Table) -> Result<(), toml::de::Error>,
}

fn section<T: Settings>() -> Section {
    Section {
        name: T::SECTION,
        source: T::SOURCE,
        item: T::STRUCT,
        keys: field_names::<T>(),
        defaults: Table::try_from(T::default()).unwrap_or_default(),
        check: |table| table.clone().try_into::<T>().map(drop),
    }
}

/// Every section there is, in the order of the pipeline.
pub(crate) fn sections() -> Vec<Section> {
    vec![
        section::<RunSettings>(),
        section::<rlhf_sft::pretrain::Config>(),
        section::<rlhf_sft::Config>(),
        section::<rlhf_reward::Config>(),
        section::<rlhf_ppo::Config>(),
        section::<crate::evaluation::EvalSettings>(),
    ]
}

/// The merged layers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Layers {
    merged: Table,
    /// The sections of `--config FILE`: for `rlhf run` they say which stages there are.
    named: Vec<String>,
}

impl Layers {
    /// `rlhf.toml` of the current folder if it is there, then `config` if given, then the assignments of `--set`.
    pub(crate) fn read(config: Option<&Path>, set: &[String]) -> anyhow::Result<Self> {
        let mut layers = Self::default();
        let local = Path::new(LOCAL_FILE);
        for path in local.is_file().then_some(local).into_iter().chain(config) {
            let text = fs_err::read_to_string(path).map_err(|error| usage!("{error}"))?;
            let table: Table = text
                .parse()
                .map_err(|error| usage!("{}: {error}", path.display()))?;
            layers.named = table.keys().cloned().collect();
            layers.add(&path.display().to_string(), table)?;
        }
        if config.is_none() {
            layers.named.clear();
        }
        for assignment in set {
            layers.set(assignment)?;
        }
        Ok(layers)
    }

    /// Lays `table` over what is there. `origin` is the file or flag that errors name.
    pub(crate) fn add(&mut self, origin: &str, table: Table) -> anyhow::Result<()> {
        let sections = sections();
        for (name, value) in table {
            let Some(section) = sections.iter().find(|s| s.name == name) else {
                let names: Vec<_> = sections.iter().map(|s| s.name).collect();
                return Err(usage!(
                    "{origin}: there is no section [{name}]{}",
                    nearest(&name, &names)
                ));
            };
            let Value::Table(values) = value else {
                return Err(usage!(
                    "{origin}: \"{name}\" must be a section: [{name}] and its settings below it"
                ));
            };
            if let Some(key) = values
                .keys()
                .find(|key| !section.keys.contains(&key.as_str()))
            {
                return Err(usage!(
                    "{origin}: [{name}] has no setting \"{key}\"{}",
                    hint(key, section, &sections)
                ));
            }
            let merged = self
                .merged
                .entry(name.clone())
                .or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(merged) = merged {
                merged.extend(values);
                (section.check)(merged).map_err(|error| {
                    usage!(
                        "{origin}: [{name}]: {}",
                        error.to_string().trim().replace('\n', " ")
                    )
                })?;
            }
        }
        Ok(())
    }

    /// `SECTION.KEY=VALUE`, the value as TOML; what is no TOML is taken as text.
    fn set(&mut self, assignment: &str) -> anyhow::Result<()> {
        let Some(((section, key), value)) = assignment
            .split_once('=')
            .and_then(|(path, value)| Some((path.split_once('.')?, value)))
        else {
            return Err(usage!(
                "--set {assignment}: expected SECTION.KEY=VALUE, such as --set ppo.kl_coef=0.1"
            ));
        };
        let value = format!("v = {value}")
            .parse::<Table>()
            .ok()
            .and_then(|mut table| table.remove("v"))
            .unwrap_or_else(|| Value::String(value.to_owned()));
        self.put(&format!("--set {assignment}"), section, key, value)
    }

    /// One setting from a flag.
    fn put(&mut self, origin: &str, section: &str, key: &str, value: Value) -> anyhow::Result<()> {
        let inner = Table::from_iter([(key.to_owned(), value)]);
        self.add(
            origin,
            Table::from_iter([(section.to_owned(), Value::Table(inner))]),
        )
    }

    /// Whether `--config FILE` has the section.
    pub(crate) fn names(&self, section: &str) -> bool {
        self.named.iter().any(|name| name == section)
    }

    /// Whether some layer has the setting.
    pub(crate) fn sets(&self, section: &str, key: &str) -> bool {
        self.merged
            .get(section)
            .and_then(|table| table.get(key))
            .is_some()
    }

    /// The section, with defaults where no layer says anything.
    pub(crate) fn get<T: Settings>(&self) -> anyhow::Result<T> {
        let table = self
            .merged
            .get(T::SECTION)
            .cloned()
            .unwrap_or_else(|| Value::Table(Table::new()));
        table
            .try_into()
            .with_context(|| format!("settings [{}]", T::SECTION))
    }
}

/// One section, every value written out, as it goes into the run directory.
pub(crate) fn resolved<T: Settings>(settings: &T) -> anyhow::Result<Table> {
    let table = Table::try_from(settings).with_context(|| format!("settings [{}]", T::SECTION))?;
    Ok(Table::from_iter([(
        T::SECTION.to_owned(),
        Value::Table(table),
    )]))
}

fn hint(key: &str, section: &Section, sections: &[Section]) -> String {
    match sections.iter().find(|s| s.keys.contains(&key)) {
        Some(other) => format!("; it is one of [{}]", other.name),
        None => nearest(key, section.keys),
    }
}

/// `; did you mean "x"?` when something known is close, else the list of what is known.
fn nearest(word: &str, known: &[&str]) -> String {
    let best = known
        .iter()
        .map(|k| (strsim::damerau_levenshtein(word, k), k))
        .min()
        .filter(|(distance, k)| *distance <= k.len().max(word.len()).div_ceil(2).min(4));
    match best {
        Some((_, k)) => format!("; did you mean \"{k}\"?"),
        None => format!("; there are: {}", known.join(", ")),
    }
}

/// The names of a struct's fields, as serde asks a format for them: optional fields, which a default value does not
/// show when serialised, are among them.
fn field_names<T: DeserializeOwned>() -> &'static [&'static str] {
    struct Listener<'a>(&'a Cell<&'static [&'static str]>);
    impl<'de> serde::Deserializer<'de> for Listener<'_> {
        type Error = serde::de::value::Error;
        fn deserialize_struct<V: serde::de::Visitor<'de>>(
            self,
            _name: &'static str,
            fields: &'static [&'static str],
            visitor: V,
        ) -> Result<V::Value, Self::Error> {
            self.0.set(fields);
            self.deserialize_any(visitor)
        }
        fn deserialize_any<V: serde::de::Visitor<'de>>(
            self,
            _visitor: V,
        ) -> Result<V::Value, Self::Error> {
            Err(serde::de::Error::custom("only the names were wanted"))
        }
        forward_to_deserialize_any! {
            bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
            unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
        }
    }
    let names: Cell<&'static [&'static str]> = Cell::new(&[]);
    let _ = T::deserialize(Listener(&names));
    names.get()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(result: anyhow::Result<()>) -> String {
        format!("{:#}", result.unwrap_err())
    }

    #[test]
    fn a_later_layer_wins_and_the_rest_keeps_its_default() {
        let mut layers = Layers::default();
        layers
            .add("a.toml", "[run]\nseed = 1\nthreads = 2".parse().unwrap())
            .unwrap();
        layers.set("run.seed=7").unwrap();
        layers.set("run.device=cpu").unwrap();
        let run: RunSettings = layers.get().unwrap();
        let expected = RunSettings {
            seed: 7,
            threads: 2,
            device: "cpu".into(),
            ..RunSettings::default()
        };
        assert_eq!(run, expected);
    }

    #[test]
    fn every_error_names_the_origin_the_key_and_a_way_out() {
        let mut layers = Layers::default();
        let unknown = error(layers.add("a.toml", "[run]\nsede = 1".parse().unwrap()));
        assert_eq!(
            unknown,
            "a.toml: [run] has no setting \"sede\"; did you mean \"seed\"?"
        );
        let section = error(layers.add("a.toml", "[rum]\nseed = 1".parse().unwrap()));
        assert_eq!(
            section,
            "a.toml: there is no section [rum]; did you mean \"run\"?"
        );
        let kind = error(layers.set("run.seed=many"));
        assert!(
            kind.starts_with("--set run.seed=many: [run]: invalid type"),
            "{kind}"
        );
        assert!(error(layers.set("seed")).contains("SECTION.KEY=VALUE"));
        assert!(
            error(layers.add("a.toml", "run = 1".parse().unwrap())).contains("must be a section")
        );
    }

    #[test]
    fn every_configuration_of_the_repository_is_valid() {
        let configs = concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs");
        let mut checked = 0;
        for entry in fs_err::read_dir(configs).unwrap() {
            let path = entry.unwrap().path();
            let layers = Layers::read(Some(&path), &[]).unwrap();
            layers
                .get::<rlhf_ppo::Config>()
                .unwrap()
                .validate()
                .unwrap();
            checked += 1;
        }
        assert!(checked >= 2);
    }

    #[test]
    fn optional_settings_are_known_by_name() {
        assert!(field_names::<RunSettings>().contains(&"out"));
    }
}
