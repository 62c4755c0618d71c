//! The settings of a section of a configuration file, each written once: doc comment, name, type and default stand
//! together, and the manual, the flags and the checks of a file are read off them.

use std::collections::BTreeMap;

use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::Value;

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
}

/// A value that a setting cannot take: which setting, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {reason}")]
pub struct BadSetting {
    /// The key.
    pub name: String,
    /// What was expected and found.
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

/// Takes one value over from `table`, if it has it. For [`settings!`](crate::settings!).
#[doc(hidden)]
pub fn take_one<T: DeserializeOwned>(
    field: &mut T,
    name: &'static str,
    table: &Table,
) -> Result<(), BadSetting> {
    if let Some(value) = table.get(name) {
        *field = value.clone().try_into().map_err(|error| BadSetting {
            name: name.to_owned(),
            reason: error.to_string().trim().replace('\n', " "),
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

/// Joins the lines of a doc comment. For [`settings!`](crate::settings!).
#[doc(hidden)]
pub fn one_line(lines: &[&str]) -> String {
    lines.concat().trim().to_owned()
}

/// Declares a struct of settings: each field has a doc comment, which is its manual, and a default. Fields after `parts` are groups
/// of settings shared with other sections; their keys are in the same table.
///
/// ```
/// rlhf_train::settings! {
///     /// How to learn.
///     pub struct Learning {
///         /// Peak learning rate.
///         pub lr: f64 = 1e-5,
///         /// Optimizer steps; absent takes as many as there are rows.
///         pub steps: Option<u64> = None,
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
/// assert!(Config::from_table(&"lr = \"fast\"".parse().unwrap()).unwrap_err().to_string().starts_with("lr: "));
/// ```
#[macro_export]
macro_rules! settings {
    (
        $(#[$meta:meta])*
        $vis:vis struct $Name:ident {
            $( $(#[doc = $doc:literal])+ $fvis:vis $field:ident : $type:ty = $default:expr, )*
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
                let mut all = vec![$( $crate::Setting {
                    name: stringify!($field),
                    doc: $crate::settings::one_line(&[$($doc),+]),
                    type_name: stringify!($type),
                    default: $crate::settings::one_entry(stringify!($field), &self.$field).remove(stringify!($field)),
                }, )*];
                $($( all.extend(self.$part.settings()); )+)?
                all
            }

            fn take(&mut self, table: &$crate::settings::Table) -> Result<(), $crate::BadSetting> {
                $( $crate::settings::take_one(&mut self.$field, stringify!($field), table)?; )*
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
