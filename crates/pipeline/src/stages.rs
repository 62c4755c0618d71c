//! The list of stages. Command line, sections of a configuration file, pipelines, `doctor`, the report and the README follow
//! from it.

use std::marker::PhantomData;

use rlhf_base::caption::Caption;
use rlhf_train::{
    BadSetting, Makes, MayChange, Prepared, Session, Setting, Settings as _, Source, Stage,
};
use serde_json::{Map, Value};
use toml::Table;

/// Every stage, in the order of a pipeline.
pub(crate) static STAGES: &[&dyn AnyStage] = &[
    &Of::<rlhf_sft::Pretrain>::STAGE,
    &Of::<rlhf_sft::Sft>::STAGE,
    &Of::<rlhf_reward::Reward>::STAGE,
    &Of::<rlhf_dpo::Dpo>::STAGE,
    &Of::<rlhf_ppo::Ppo>::STAGE,
];

/// The stage of this name.
pub(crate) fn stage(name: &str) -> Option<&'static dyn AnyStage> {
    STAGES.iter().copied().find(|stage| stage.name() == name)
}

/// A [`Stage`] behind an object-safe trait, so that one list holds all of them.
pub(crate) trait AnyStage: Sync {
    fn name(&self) -> &'static str;
    fn title(&self) -> &'static str;
    fn about(&self) -> &'static str;
    fn manual(&self) -> &'static str;
    fn example(&self) -> &'static str;
    fn short_help(&self) -> &'static [&'static str];
    fn makes(&self) -> Makes;
    fn captions(&self) -> &'static [Caption];
    fn next(&self) -> (&'static str, &'static str);
    /// As [`Stage::findings`].
    fn findings(&self) -> fn(&[Map<String, Value>]) -> Vec<String>;
    fn may_change(&self) -> MayChange;
    /// Its settings with their defaults.
    fn settings(&self) -> Vec<Setting>;
    /// The stage with the settings of `table`.
    fn configure(&self, table: &Table) -> Result<Box<dyn Configured>, BadSetting>;
}

/// A stage with its settings.
pub(crate) trait Configured {
    /// As [`Stage::validate`].
    fn validate(&self) -> anyhow::Result<()>;
    /// As [`Stage::sources`].
    fn sources(&mut self) -> anyhow::Result<Vec<Source<'_>>>;
    /// As [`Stage::prepare`].
    fn prepare(&self, session: &Session) -> anyhow::Result<Box<dyn Prepared>>;
    /// Every setting that is set.
    fn to_table(&self) -> Table;
}

struct Of<S>(PhantomData<fn() -> S>);

impl<S> Of<S> {
    const STAGE: Self = Self(PhantomData);
}

impl<S: Stage + 'static> AnyStage for Of<S> {
    fn name(&self) -> &'static str {
        S::NAME
    }

    fn title(&self) -> &'static str {
        S::TITLE
    }

    fn about(&self) -> &'static str {
        S::ABOUT
    }

    fn manual(&self) -> &'static str {
        S::MANUAL
    }

    fn example(&self) -> &'static str {
        S::EXAMPLE
    }

    fn short_help(&self) -> &'static [&'static str] {
        S::SHORT_HELP
    }

    fn makes(&self) -> Makes {
        S::MAKES
    }

    fn captions(&self) -> &'static [Caption] {
        S::CAPTIONS
    }

    fn next(&self) -> (&'static str, &'static str) {
        S::NEXT
    }

    fn findings(&self) -> fn(&[Map<String, Value>]) -> Vec<String> {
        S::findings
    }

    fn may_change(&self) -> MayChange {
        S::MAY_CHANGE
    }

    fn settings(&self) -> Vec<Setting> {
        S::Config::default().settings()
    }

    fn configure(&self, table: &Table) -> Result<Box<dyn Configured>, BadSetting> {
        Ok(Box::new(With::<S>(S::Config::from_table(table)?)))
    }
}

struct With<S: Stage>(S::Config);

impl<S: Stage> Configured for With<S> {
    fn validate(&self) -> anyhow::Result<()> {
        S::validate(&self.0)
    }

    fn sources(&mut self) -> anyhow::Result<Vec<Source<'_>>> {
        S::sources(&mut self.0)
    }

    fn prepare(&self, session: &Session) -> anyhow::Result<Box<dyn Prepared>> {
        S::prepare(&self.0, session)
    }

    fn to_table(&self) -> Table {
        self.0.to_table()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_is_documented_once_and_lists_of_settings_name_settings() {
        for stage in STAGES {
            let settings = stage.settings();
            for (i, setting) in settings.iter().enumerate() {
                let (stage, name) = (stage.name(), setting.name);
                assert!(!setting.doc.is_empty(), "{stage}.{name} has no doc comment");
                assert!(
                    settings[..i].iter().all(|other| other.name != name),
                    "{stage}.{name} stands twice"
                );
            }
            let may = stage.may_change();
            for name in [stage.short_help(), may.unseen, may.seen].concat() {
                assert!(
                    settings.iter().any(|setting| setting.name == name),
                    "{}: no setting {name}",
                    stage.name()
                );
            }
        }
    }

    /// A command that is proposed can be typed.
    #[test]
    fn what_comes_next_is_a_command_with_its_flags() {
        for stage in STAGES {
            let (command, data) = stage.next();
            for line in [command.to_owned(), format!("{command}{data}")] {
                let line = line.replace("{out}", "o").replace("{model}", "m");
                let typed = crate::cli::command().try_get_matches_from(line.split_whitespace());
                assert!(typed.is_ok(), "{line}: {}", typed.unwrap_err());
            }
        }
    }

    #[test]
    fn what_a_stage_starts_from_is_made_by_an_earlier_one() {
        for (i, stage) in STAGES.iter().enumerate() {
            let mut configured = stage.configure(&Table::new()).unwrap();
            for source in configured.sources().unwrap() {
                if let Source::Model {
                    made_by, setting, ..
                } = source
                {
                    let earlier = STAGES[..i].iter().any(|stage| stage.name() == made_by);
                    assert!(earlier, "{}.{setting}: {made_by}", stage.name());
                }
            }
        }
    }
}
