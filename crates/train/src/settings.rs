//! The settings of a section of a configuration file, each written once: doc comment, name, type and default stand
//! together, and the manual, the flags and the checks of a file are read off them.

use std::collections::BTreeMap;

use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::Value;

use crate::Range;
use crate::range::short;
use crate::variants::variants;

#[doc(hidden)]
pub use toml::Table;

/// One setting, for manuals and flags.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// The key in a configuration file.
    pub name: &'static str,
    /// What it means: the doc comment of its field, on one line.
    pub doc: String,
    /// Its type as written in the declaration, such as `Vec<PathBuf>`.
    pub type_name: &'static str,
    /// Its default; an optional setting has none.
    pub default: Option<Value>,
    /// The numbers it may have; every setting with a number has a range.
    pub range: Option<Range>,
    /// The values it may have, where they are a list.
    pub values: Vec<String>,
}

impl Setting {
    /// What the setting may be, in words; none where its type says all.
    pub fn allowed(&self) -> Option<String> {
        match (self.range, self.values.as_slice()) {
            (range, []) => range.map(|range| range.to_string()),
            (None, values) => Some(values.join(", ")),
            (Some(range), values) => Some(format!("{}; X {range}", values.join(", "))),
        }
    }

    /// Errors on a value that the setting cannot have.
    fn check(&self, value: &Value) -> Result<(), BadSetting> {
        let found = self.range.and_then(|range| range.refuses(value)).map(short);
        let number = matches!(value, Value::Integer(_) | Value::Float(_));
        let whole = ["usize", "u64", "u16"]
            .iter()
            .any(|t| self.type_name.contains(t));
        let (found, expected) = match (&self.range, self.values.as_slice()) {
            (Some(range), _) if found.is_some() => (found, range.to_string()),
            (Some(range), []) if !number || whole && value.is_float() => {
                let kind = if whole { "whole number" } else { "number" };
                (Some(value.to_string()), format!("a {kind} {range}"))
            }
            (_, values @ [_, ..]) => {
                let unknown = value
                    .as_str()
                    .filter(|v| values.iter().all(|known| known != v));
                let listed = format!("one of {}", values.join(", "));
                (unknown.map(|v| format!("\"{v}\"")), listed)
            }
            _ => (None, String::new()),
        };
        found.map_or(Ok(()), |found| {
            Err(BadSetting {
                name: self.name.to_owned(),
                reason: format!(" is {found}: it must be {expected}"),
            })
        })
    }
}

/// A value that a setting cannot take: which setting, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}{reason}")]
pub struct BadSetting {
    /// The key.
    pub name: String,
    /// What was found and expected, as the sentence goes on after the key.
    pub reason: String,
}

/// The settings of a section, or a part of them that several sections share. Written with [`settings!`](crate::settings!).
pub trait Settings: Clone + Default {
    /// Every setting, those of the parts included, in the order they are written down; defaults are the values of `self`.
    fn settings(&self) -> Vec<Setting>;

    /// Takes over the values that `table` has. Keys that are no settings are left for the caller to refuse.
    fn take(&mut self, table: &Table) -> Result<(), BadSetting>;

    /// Every value by name; an optional setting that is not set is left out.
    fn to_table(&self) -> Table;

    /// The defaults, with the values of `table` over them.
    fn from_table(table: &Table) -> Result<Self, BadSetting> {
        let mut settings = Self::default();
        settings.take(table)?;
        Ok(settings)
    }
}

/// One field as a setting. For [`settings!`](crate::settings!).
#[doc(hidden)]
pub fn setting<T: Serialize + DeserializeOwned>(
    name: &'static str,
    doc: &[&str],
    type_name: &'static str,
    default: &T,
    range: Option<Range>,
) -> Setting {
    Setting {
        name,
        doc: doc.concat().trim().to_owned(),
        type_name,
        default: one_entry(name, default).remove(name),
        range,
        values: variants::<T>(),
    }
}

/// Takes one value over from `table`, if it has it and the setting may have it. For [`settings!`](crate::settings!).
#[doc(hidden)]
pub fn take_one<T: DeserializeOwned>(
    field: &mut T,
    setting: &Setting,
    table: &Table,
) -> Result<(), BadSetting> {
    if let Some(value) = table.get(setting.name) {
        setting.check(value)?;
        *field = value.clone().try_into().map_err(|error| BadSetting {
            name: setting.name.to_owned(),
            reason: format!(": {}", error.to_string().trim().replace('\n', " ")),
        })?;
    }
    Ok(())
}

/// One value as a table of one entry, or of none for an option that is not set. For [`settings!`](crate::settings!).
#[doc(hidden)]
pub fn one_entry<T: Serialize>(name: &'static str, value: &T) -> Table {
    // Every type of a setting is a number, a text, a list or an enum of these, which TOML can hold.
    Table::try_from(BTreeMap::from([(name, value)])).unwrap_or_default()
}

/// Declares a struct of settings: each field has a doc comment, which is its manual, a default, and after `=>` the numbers it may
/// have, which [`Settings::take`] checks. Fields after `parts` are groups of settings shared with other sections; their keys are in the
/// same table.
///
/// ```
/// rlhf_train::settings! {
///     /// How to learn.
///     pub struct Learning {
///         /// Peak learning rate.
///         pub lr: f64 = 1e-5 => rlhf_train::Range::above(0.0, 1.0),
///         /// Optimizer steps; absent takes as many as there are rows.
///         pub steps: Option<u64> = None => 1..=1_000_000,
///     }
/// }
/// rlhf_train::settings! {
///     /// Settings of a stage.
///     pub struct Config {
///         /// Training files.
///         pub data: Vec<String> = Vec::new(),
///     }
///     parts {
///         /// How it learns.
///         pub learning: Learning = Learning { lr: 2e-5, ..Learning::default() },
///     }
/// }
/// use rlhf_train::Settings as _;
/// let table = "data = [\"a\"]\nsteps = 3".parse().unwrap();
/// let config = Config::from_table(&table).unwrap();
/// assert_eq!((config.learning.lr, config.learning.steps), (2e-5, Some(3)));
/// assert_eq!(config.settings()[1].doc, "Peak learning rate.");
/// let refused = |text: &str| Config::from_table(&text.parse().unwrap()).unwrap_err().to_string();
/// assert_eq!(refused("lr = -1e-3"), "lr is -0.001: it must be above 0 and at most 1");
/// assert_eq!(refused("lr = 'fast'"), "lr is \"fast\": it must be a number above 0 and at most 1");
/// assert_eq!(refused("steps = 1.5"), "steps is 1.5: it must be a whole number from 1 to 1e6");
/// assert!(refused("data = 3").starts_with("data: "));
/// ```
#[macro_export]
macro_rules! settings {
    (
        $(#[$meta:meta])*
        $vis:vis struct $Name:ident {
            $( $(#[doc = $doc:literal])+ $fvis:vis $field:ident : $type:ty = $default:expr $(=> $range:expr)?, )*
        }
        $( parts { $( $(#[doc = $part_doc:literal])+ $pvis:vis $part:ident : $part_type:ty = $part_default:expr, )+ } )?
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq)]
        $vis struct $Name {
            $( $(#[doc = $doc])+ $fvis $field: $type, )*
            $($( $(#[doc = $part_doc])+ $pvis $part: $part_type, )+)?
        }

        impl Default for $Name {
            fn default() -> Self {
                Self {
                    $( $field: $default, )*
                    $($( $part: $part_default, )+)?
                }
            }
        }

        impl $crate::Settings for $Name {
            fn settings(&self) -> Vec<$crate::Setting> {
                #[allow(unused_mut)]
                let mut all = vec![$( $crate::settings::setting(
                    stringify!($field),
                    &[$($doc),+],
                    stringify!($type),
                    &self.$field,
                    [$($crate::Range::from($range))?].first().copied(),
                ), )*];
                $($( all.extend(self.$part.settings()); )+)?
                all
            }

            fn take(&mut self, table: &$crate::settings::Table) -> Result<(), $crate::BadSetting> {
                let settings = self.settings();
                let mut own = settings.iter();
                $( if let Some(setting) = own.next() {
                    $crate::settings::take_one(&mut self.$field, setting, table)?;
                } )*
                $($( self.$part.take(table)?; )+)?
                Ok(())
            }

            fn to_table(&self) -> $crate::settings::Table {
                let mut table = $crate::settings::Table::new();
                $( table.extend($crate::settings::one_entry(stringify!($field), &self.$field)); )*
                $($( table.extend(self.$part.to_table()); )+)?
                table
            }
        }
    };
}
