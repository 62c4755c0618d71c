//! The values of a setting that is an enum, read off the type itself.

use serde::de::value::Error;
use serde::de::{DeserializeOwned, Deserializer, Error as _, Visitor};
use toml::Value;

/// How each variant of an enum `T`, or of an `Option` of one, is written; empty for every other type.
pub(crate) fn variants<T: DeserializeOwned>() -> Vec<String> {
    let mut names: &'static [&'static str] = &[];
    // It always fails, once it has seen what is asked for.
    let _ = T::deserialize(Probe(&mut names));
    let written = |name: &&str| {
        let alone = Value::String((*name).to_owned()).try_into::<T>().is_ok();
        match alone {
            true => (*name).to_owned(),
            false => format!("{{ {name} = X }}"),
        }
    };
    names.iter().map(written).collect()
}

/// Notes the names of the enum that it is asked for.
struct Probe<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for Probe<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(Error::custom("not an enum"))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Error> {
        *self.0 = variants;
        Err(Error::custom("noted"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct newtype_struct seq
        tuple tuple_struct map struct identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize)]
    #[serde(rename_all = "lowercase")]
    #[allow(dead_code)] // only its names matter
    enum Rule {
        None,
        Replace(f64),
    }

    #[test]
    fn an_enum_tells_its_values_and_other_types_have_none() {
        assert_eq!(variants::<Rule>(), ["none", "{ replace = X }"]);
        assert_eq!(variants::<Option<Rule>>(), ["none", "{ replace = X }"]);
        assert!(variants::<f64>().is_empty() && variants::<Vec<String>>().is_empty());
    }
}
