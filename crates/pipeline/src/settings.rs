//! Settings in layers: built-in default < `rlhf.toml` in the current folder < `--config FILE` < flags and `--set`.
//!
//! A file has one table a section (`[run]`, `[ppo]`, …). Each layer is checked as it is added, so that an error names
//! the file or flag it came from.

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::time::Duration;

use rlhf_dataset::FieldMap;
use rlhf_label::{Choose, Kind};
use rlhf_train::{BadSetting, LoraSettings, MayChange, Saving, Setting, Settings, settings};
use toml::{Table, Value};

use crate::exit::usage;
use crate::flags::derived::toml_or_text;
use crate::near::instead;
use crate::stages::{AnyStage, Configured, STAGES};
use crate::synonyms::synonym;
use crate::variants::{self, Part, VARIANTS, Variant};

/// Read from the current folder when it is there.
pub(crate) const LOCAL_FILE: &str = "rlhf.toml";

/// The section of settings of every command that computes.
pub(crate) const RUN: &str = "run";

/// The section of the adapter that training commands train.
pub(crate) const LORA: &str = "lora";

/// What a resumed run may change of [`LoraSettings`].
pub(crate) const LORA_MAY_CHANGE: MayChange = MayChange {
    unseen: &[],
    seen: &[],
};

/// The section of settings of comparisons.
pub(crate) const EVAL: &str = "eval";

settings! {
    /// Settings of every command that computes.
    pub(crate) struct RunSettings {
        /// The one seed: every random stream derives from it by name. Same settings and seed, same bytes.
        pub(crate) seed: u64 = 0 => 0..,
        /// How often `rlhf run` runs the whole pipeline, with `seed`, `seed` + 1, …, each in a folder of its own: the table is then over all.
        pub(crate) seeds: u64 = 1 => 1..=1_000,
        /// The run directory; without one, `runs/` and the name of the stage (of the configuration file for `rlhf run`).
        pub(crate) out: Option<PathBuf> = None,
        /// Threads on the CPU; 0 takes as many as there are cores, or of several processes on a host each its share. The result is the same for
        /// any number.
        pub(crate) threads: usize = 0 => 0..=4_096,
        /// `auto`, `cpu`, `cuda`, `cuda:N` or `metal`; auto takes the best that is compiled in and present. Of several processes on a host each
        /// takes a GPU of its own, unless N is given.
        pub(crate) device: String = "auto".to_owned(),
        /// What the model computes in: `f32`, `bf16` or `f16`. Master weights, sums and losses stay f32. On a CPU `bf16` rounds the operands of
        /// matrix products alone, where its instructions make that faster; else, and in `f16`, it computes in f32.
        pub(crate) dtype: String = "f32".to_owned(),
        /// Gradient checkpointing: keep one hidden state per block and token for the gradient and compute the rest again, about a third
        /// more work for a fraction of the memory. The gradients are the same; unless `micro_batch_tokens` is set, more tokens go into a
        /// pass.
        pub(crate) recompute: bool = false,
        /// Of several processes each keeps a share of the optimizer's moments instead of all, updates that share of the weights and gives it to the
        /// others (ZeRO, stage 1): less memory for as many bytes sent, of which half wait for the optimizer. The result is the same.
        pub(crate) shard_optimizer: bool = false,
        /// How several processes send each other gradients: `f32`, or `bf16` for half the bytes, rounded to 8 bits and added in f32.
        pub(crate) sum_dtype: String = "f32".to_owned(),
        /// Longest time in minutes without a checkpoint, to within a step, whatever `save_every` says; 0 leaves time out of it. The result
        /// does not depend on it.
        pub(crate) save_minutes: f64 = 10.0 => 0.0..=1e6,
        /// How many of the newest checkpoints are kept; at least 1. While one is saved there is one more.
        pub(crate) keep_checkpoints: usize = 2 => 1..=1_000_000_000_000,
    }
}

/// What a resumed run may change of [`RunSettings`].
pub(crate) const RUN_MAY_CHANGE: MayChange = MayChange {
    unseen: &[
        "out",
        "threads",
        "shard_optimizer",
        "save_minutes",
        "keep_checkpoints",
    ],
    seen: &["device", "recompute", "sum_dtype"],
};

impl RunSettings {
    /// How runs save.
    pub(crate) fn saving(&self) -> Saving {
        Saving {
            keep: self.keep_checkpoints,
            every: (self.save_minutes > 0.0)
                .then(|| Duration::from_secs_f64(60.0 * self.save_minutes)),
        }
    }
}

/// The section of judgements that a pipeline asks for.
pub(crate) const LABEL: &str = "label";

settings! {
    /// How a pipeline asks for judgements, `[label]` in a configuration file.
    pub(crate) struct LabelSettings {
        /// Rounds of `rlhf run`: in each the newest policy answers, its answers are judged, and all judgements so far train the stages that
        /// learn from them.
        pub(crate) rounds: usize = 1 => 1..=1_000,
        /// Items to judge in each round.
        pub(crate) items: usize = 100 => 1..=1_000_000_000,
        /// What is asked: `pair` (which of two answers is better), `ranking`, `rating` (1 to 5) or `thumbs`.
        pub(crate) kind: Kind = Kind::Pair,
        /// Who judges: programs as in `rlhf label --annotator`, such as `gold:tiny-world,noise=0.1`, or the name of a person, who is asked on
        /// a page; empty: you.
        pub(crate) annotator: Vec<String> = Vec::new(),
        /// Ask people in the terminal instead of on a page.
        pub(crate) terminal: bool = false,
        /// The port of the page; 0 takes a free one. On a port of its own a page that is open goes on by itself when the command runs again.
        pub(crate) port: u16 = 0 => 0..=65_535,
        /// Which item comes next, as in `rlhf label --choose`: `random`, or what teaches most by `infomax`, `deltaucb` or `thompson`. These
        /// learn from the judgements of all rounds, on the hidden states of the reward model of the round before; in the first round, or
        /// without a reward model, of the model that answers.
        pub(crate) choose: Choose = Choose::Random,
        /// With `choose`: share of the items that come at random all the same, as their "strategy" says, for an unbiased measurement.
        pub(crate) random: f64 = 0.2 => 0.0..=1.0,
        /// What the policy is asked: files, folders or data sets of the hub; empty means the prompts of PPO.
        pub(crate) prompts: Vec<PathBuf> = Vec::new(),
        /// Answers sampled to a prompt; absent: 2 for a pair (4 with `choose`), 4 for a ranking, 1 for ratings and
        /// thumbs.
        pub(crate) answers: Option<usize> = None => 1..=1_000,
        /// Sampling temperature; absent takes that of PPO.
        pub(crate) temperature: Option<f64> = None => 0.0..=100.0,
        /// Longest answer in tokens; absent takes that of PPO.
        pub(crate) response_length: Option<usize> = None => 1..=10_000_000,
        /// Share of the items that come back to the same annotator.
        pub(crate) repeat: f64 = 0.05 => 0.0..=1.0,
        /// Share of the items that every annotator gets.
        pub(crate) overlap: f64 = 0.0 => 0.0..=1.0,
        /// Guidelines for annotators, a text or Markdown file.
        pub(crate) guidelines: Option<PathBuf> = None,
    }
}

settings! {
    /// How models are compared, `[eval]` in a configuration file.
    pub(crate) struct EvalSettings {
        /// Prompts that every model answers; empty means those that PPO holds out.
        pub(crate) prompts: Vec<PathBuf> = Vec::new(),
        /// At most this many prompts, the first ones of the files.
        pub(crate) limit: usize = 512 => 1..=1_000_000_000,
        /// Sampling temperature; absent takes that of PPO.
        pub(crate) temperature: Option<f64> = None => 0.0..=100.0,
        /// Longest response in tokens; absent takes that of PPO.
        pub(crate) response_length: Option<usize> = None => 1..=10_000_000,
        /// The baseline beside PPO: the best of this many responses of the fine-tuned model, by the reward model.
        pub(crate) best_of: usize = 4 => 1..=100_000,
        /// A second opinion on every answer, which no training may have seen: another reward model, or a rule or a program, as `ppo.reward`
        /// takes them. Table and report have it beside the learned reward, over KL; where no program knows the truth, it decides the wins.
        pub(crate) judge: Option<String> = None,
        /// Prompts shown with every model's answer.
        pub(crate) examples: usize = 3 => 0..=1_000_000,
        /// Ask the checkpoints that policies have kept too: `rlhf run` with several seeds draws their gold score and learned reward over
        /// KL. `run.keep_checkpoints` says how many there are.
        pub(crate) checkpoints: bool = false,
    }
}

/// Errors on the first entry of a table that is no setting of a section.
type Check = dyn Fn(&Table) -> Result<(), BadSetting>;

/// A section without its type: what layers and the manual need to know of it.
pub(crate) struct Section {
    pub(crate) name: &'static str,
    pub(crate) settings: Vec<Setting>,
    check: Box<Check>,
}

impl Section {
    fn of<T: Settings>(name: &'static str) -> Self {
        Self {
            name,
            settings: T::default().settings(),
            check: Box::new(|table| T::from_table(table).map(drop)),
        }
    }

    fn of_stage(stage: &'static dyn AnyStage) -> Self {
        Self {
            name: stage.name(),
            settings: stage.settings(),
            check: Box::new(|table| stage.configure(table).map(drop)),
        }
    }

    fn has(&self, key: &str) -> bool {
        self.settings.iter().any(|setting| setting.name == key)
    }

    /// Errors on the first key of `values`, which stand under `[name]` in `origin`, that is no setting.
    fn knows(
        &self,
        origin: &str,
        name: &str,
        values: &Table,
        sections: &[Section],
    ) -> anyhow::Result<()> {
        match values.keys().find(|key| !self.has(key)) {
            Some(key) => Err(usage!(
                "{origin}: [{name}] has no setting \"{key}\"{}",
                hint(key, self, sections)
            )),
            None => Ok(()),
        }
    }
}

/// Every section there is, in the order of the pipeline.
pub(crate) fn sections() -> Vec<Section> {
    let stages = STAGES.iter().copied().map(Section::of_stage);
    let shared = [
        Section::of::<RunSettings>(RUN),
        Section::of::<LoraSettings>(LORA),
    ];
    shared
        .into_iter()
        .chain(stages)
        .chain([
            Section::of::<LabelSettings>(LABEL),
            Section::of::<EvalSettings>(EVAL),
        ])
        .collect()
}

/// The merged layers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Layers {
    merged: Table,
    /// The sections of `--config FILE`: for `rlhf run` they say which stages there are.
    named: Vec<String>,
    /// `[data.map]`.
    map: Option<FieldMap>,
    /// `[STAGE.variants.NAME]`, in the order of their names.
    variants: Vec<Variant>,
}

impl Layers {
    /// `rlhf.toml` of the current folder if it is there, then `config` if given, then the assignments of `--set`.
    pub(crate) fn read(config: Option<&Path>, set: &[String]) -> anyhow::Result<Self> {
        let mut layers = Self::default();
        let local = Path::new(LOCAL_FILE);
        if local.is_file() {
            layers.add_file(local)?;
        }
        layers.add_given(config, set)?;
        Ok(layers)
    }

    /// What is given beside a command alone: `config` if given, then the assignments of `--set`.
    pub(crate) fn given(config: Option<&Path>, set: &[String]) -> anyhow::Result<Self> {
        let mut layers = Self::default();
        layers.add_given(config, set)?;
        Ok(layers)
    }

    fn add_given(&mut self, config: Option<&Path>, set: &[String]) -> anyhow::Result<()> {
        if let Some(path) = config {
            self.named = self.add_file(path)?;
        }
        set.iter().try_for_each(|assignment| self.set(assignment))
    }

    /// Gives the names of its sections.
    fn add_file(&mut self, path: &Path) -> anyhow::Result<Vec<String>> {
        if !path.exists() {
            return Err(usage!(
                "{}: there is no such file{}{} `rlhf init` writes one for your model and rows",
                path.display(),
                instead(path),
                if instead(path).ends_with('?') {
                    ""
                } else {
                    ";"
                }
            ));
        }
        let text = fs_err::read_to_string(path).map_err(|error| usage!("{error}"))?;
        let table: Table = text
            .parse()
            .map_err(|error| usage!("{}: {error}", path.display()))?;
        let named = table.keys().cloned().collect();
        self.add(&path.display().to_string(), table)?;
        Ok(named)
    }

    /// Lays `table` over what is there. `origin` is the file or flag that errors name.
    pub(crate) fn add(&mut self, origin: &str, table: Table) -> anyhow::Result<()> {
        let sections = sections();
        for (name, value) in table {
            if name == DATA {
                self.map = Some(map_of_all(origin, value)?);
                continue;
            }
            let Some(section) = sections.iter().find(|s| s.name == name) else {
                let names: Vec<_> = sections.iter().map(|s| s.name).collect();
                return Err(usage!(
                    "{origin}: there is no section [{name}]{}",
                    nearest(&name, &names)
                ));
            };
            let Value::Table(mut values) = value else {
                return Err(usage!(
                    "{origin}: \"{name}\" must be a section: [{name}] and its settings below it"
                ));
            };
            let is_stage = STAGES.iter().any(|stage| stage.name() == name);
            if let Some(table) = is_stage.then(|| values.remove(VARIANTS)).flatten() {
                let read = variants::read(origin, &name, table, &self.variants)?;
                for variant in &read {
                    let of = format!("{name}.{VARIANTS}.{}", variant.name);
                    section.knows(origin, &of, &variant.settings, &sections)?;
                }
                self.lay_over(read);
            }
            section.knows(origin, &name, &values, &sections)?;
            let merged = self
                .merged
                .entry(name.clone())
                .or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(merged) = merged {
                merged.extend(values);
                (section.check)(merged).map_err(|error| usage!("{origin}: {name}.{error}"))?;
                for variant in self.variants.iter().filter(|it| it.stage == name) {
                    let mut whole = merged.clone();
                    whole.extend(variant.settings.clone());
                    (section.check)(&whole).map_err(|error| {
                        usage!("{origin}: {name}.{VARIANTS}.{}.{error}", variant.name)
                    })?;
                }
            }
        }
        Ok(())
    }

    /// Adds `variants`, over those of the same names.
    fn lay_over(&mut self, variants: Vec<Variant>) {
        for variant in variants {
            match self.variants.iter_mut().find(|it| it.name == variant.name) {
                Some(there) => there.settings.extend(variant.settings),
                None => self.variants.push(variant),
            }
        }
        self.variants.sort_by(|a, b| a.name.cmp(&b.name));
    }

    /// The stage itself, then its variants.
    pub(crate) fn parts(&self, stage: &'static dyn AnyStage) -> Vec<Part> {
        let own = self.variants.iter().filter(|it| it.stage == stage.name());
        let variants = own.map(|variant| Part::variant(stage, variant));
        std::iter::once(Part::of(stage)).chain(variants).collect()
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
        let value = toml_or_text(value);
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
    pub(crate) fn get<T: Settings>(&self, section: &str) -> anyhow::Result<T> {
        T::from_table(&self.table(section)).map_err(|error| usage!("{section}.{error}"))
    }

    /// The stage with the settings of its section, and of its variant where it is one.
    pub(crate) fn configure(&self, part: &Part) -> anyhow::Result<Box<dyn Configured>> {
        let settings = part.over(self.table(part.stage.name()));
        part.stage
            .configure(&settings)
            .map_err(|error| usage!("{}.{error}", part.section()))
    }

    /// What the layers say of a section; the map of all sections is that of each that has none of its own.
    pub(crate) fn table(&self, section: &str) -> Table {
        let mut table = match self.merged.get(section) {
            Some(Value::Table(table)) => table.clone(),
            _ => Table::new(),
        };
        if let Some(map) = &self.map
            && !table.contains_key(MAP)
            && sections()
                .iter()
                .any(|known| known.name == section && known.has(MAP))
        {
            table.insert(MAP.to_owned(), Value::String(map.to_string()));
        }
        table
    }
}

/// The section of what holds for the data of all stages, and its only entry.
const DATA: &str = "data";
const MAP: &str = "map";

/// `[data.map]`: which field is what, for every stage that does not say otherwise.
fn map_of_all(origin: &str, section: Value) -> anyhow::Result<FieldMap> {
    let Value::Table(mut table) = section else {
        return Err(usage!("{origin}: \"{DATA}\" must be a section"));
    };
    let map = table.remove(MAP);
    if let Some(other) = table.keys().next() {
        return Err(usage!(
            "{origin}: [{DATA}] has no setting \"{other}\"; there is: {MAP}"
        ));
    }
    let map = map.ok_or_else(|| usage!("{origin}: [{DATA}] is empty"))?;
    let map: Result<FieldMap, _> = map.try_into();
    map.map_err(|error| usage!("{origin}: {DATA}.{MAP}: {}", error.to_string().trim()))
}

fn hint(key: &str, section: &Section, sections: &[Section]) -> String {
    let known: Vec<&str> = section.settings.iter().map(|s| s.name).collect();
    if let Some(name) = synonym(key, |name| section.has(name)) {
        return format!("; did you mean \"{name}\"?");
    }
    if let Some(longer) = known.iter().find(|name| name.starts_with(key)) {
        return format!("; did you mean \"{longer}\"?");
    }
    let others = sections.iter().filter(|section| section.has(key));
    let others: Vec<_> = others.map(|other| format!("[{}]", other.name)).collect();
    match others.as_slice() {
        [] => nearest(key, &known),
        all => format!("; it is one of {}", all.join(", ")),
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
