//! Variants of a stage: `[ppo.variants.rloo]` is one more run of `[ppo]` in a pipeline, with its own settings over those of the section.

use toml::{Table, Value};

use crate::exit::usage;
use crate::settings::{EVAL, LABEL, RUN};
use crate::stages::{AnyStage, STAGES};

/// The entry of a stage's section that holds its variants.
pub(crate) const VARIANTS: &str = "variants";

/// One run of a pipeline: a stage, or a variant of it.
#[derive(Clone)]
pub(crate) struct Part {
    pub(crate) stage: &'static dyn AnyStage,
    variant: Option<Variant>,
}

/// A name, and settings over those of a section.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Variant {
    pub(crate) stage: String,
    pub(crate) name: String,
    pub(crate) settings: Table,
}

impl Part {
    /// A stage as its section says.
    pub(crate) fn of(stage: &'static dyn AnyStage) -> Self {
        Self {
            stage,
            variant: None,
        }
    }

    /// A variant of a stage.
    pub(crate) fn variant(stage: &'static dyn AnyStage, variant: &Variant) -> Self {
        Self {
            stage,
            variant: Some(variant.clone()),
        }
    }

    /// What it is called: the name of its folder, and its name in the table.
    pub(crate) fn name(&self) -> &str {
        match &self.variant {
            Some(variant) => &variant.name,
            None => self.stage.name(),
        }
    }

    /// Where its settings stand in a file.
    pub(crate) fn section(&self) -> String {
        match &self.variant {
            Some(variant) => format!("{}.{VARIANTS}.{}", variant.stage, variant.name),
            None => self.stage.name().to_owned(),
        }
    }

    /// Its own settings over those of the section.
    pub(crate) fn over(&self, mut section: Table) -> Table {
        if let Some(variant) = &self.variant {
            section.extend(variant.settings.clone());
        }
        section
    }

    /// Whether its own settings name `key`.
    pub(crate) fn sets(&self, key: &str) -> bool {
        let own = self.variant.as_ref();
        own.is_some_and(|variant| variant.settings.contains_key(key))
    }
}

/// The variants that `table`, the entry `variants` of a section, holds; `known` are those that there are already.
pub(crate) fn read(
    origin: &str,
    stage: &str,
    table: Value,
    known: &[Variant],
) -> anyhow::Result<Vec<Variant>> {
    let Value::Table(table) = table else {
        return Err(usage!(
            "{origin}: {stage}.{VARIANTS} must hold sections: [{stage}.{VARIANTS}.NAME] and settings below it"
        ));
    };
    let mut variants = Vec::new();
    for (name, settings) in table {
        let Value::Table(settings) = settings else {
            return Err(usage!(
                "{origin}: {stage}.{VARIANTS}.{name} must be a section: [{stage}.{VARIANTS}.{name}] and its settings below it"
            ));
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_+".contains(c);
        if name.is_empty() || !name.chars().all(plain) {
            return Err(usage!(
                "{origin}: {stage}.{VARIANTS}: {name:?} becomes the name of a folder: use letters, digits, - and _"
            ));
        }
        let of_a_section = [RUN, EVAL, LABEL, "base", "evaluation"].contains(&name.as_str())
            || name.starts_with("best_of_")
            || STAGES.iter().any(|stage| stage.name() == name);
        let of_another = known
            .iter()
            .any(|other| other.name == name && other.stage != stage);
        if of_a_section || of_another {
            return Err(usage!(
                "{origin}: {stage}.{VARIANTS}.{name}: something else in a pipeline is called {name}: give the variant another name"
            ));
        }
        variants.push(Variant {
            stage: stage.to_owned(),
            name,
            settings,
        });
    }
    Ok(variants)
}
