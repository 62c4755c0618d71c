//! The filter `tojson` as `transformers` has it: the layout of Python's `json.dumps`.

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Error, ErrorKind, State};

use crate::template::Bounded;

/// Lists within lists that are written; each takes a frame of the stack.
const DEEPEST: usize = 200;

/// `json.dumps(value, ensure_ascii=…, indent=…, separators=…, sort_keys=…)`, which is what
/// `transformers` puts in place of Jinja's own HTML-escaping filter.
pub(crate) fn to_json(
    state: &State<'_, '_>,
    value: &Value,
    kwargs: Kwargs,
) -> Result<Value, Error> {
    let indent: Option<usize> = kwargs.get("indent")?;
    let ensure_ascii: Option<bool> = kwargs.get("ensure_ascii")?;
    let sort_keys: Option<bool> = kwargs.get("sort_keys")?;
    let separators: Option<Vec<String>> = kwargs.get("separators")?;
    kwargs.assert_all_used()?;
    let (item, key) = match separators.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        _ if indent.is_some() => (",".to_owned(), ": ".to_owned()),
        _ => (", ".to_owned(), ": ".to_owned()),
    };
    let mut json = PythonJson {
        out: Bounded::new(state),
        indent,
        item,
        key,
        ensure_ascii: ensure_ascii == Some(true),
        sort_keys: sort_keys == Some(true),
    };
    json.write(value, 0)?;
    Ok(Value::from_safe_string(json.out.text))
}

struct PythonJson {
    out: Bounded,
    indent: Option<usize>,
    item: String,
    key: String,
    ensure_ascii: bool,
    sort_keys: bool,
}

impl PythonJson {
    fn write(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > DEEPEST {
            let what = format!("tojson of lists more than {DEEPEST} deep");
            return Err(Error::new(ErrorKind::InvalidOperation, what));
        }
        match value.kind() {
            ValueKind::None | ValueKind::Undefined => self.out.push("null"),
            ValueKind::Bool => self
                .out
                .push(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.out.push(&value.to_string()),
            ValueKind::String => self.string(&value.to_string()),
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort_keys {
                    keys.sort();
                }
                self.out.push("{")?;
                for (i, key) in keys.iter().enumerate() {
                    self.separate(i == 0, depth + 1)?;
                    self.string(&key.to_string())?;
                    self.out.push(&self.key)?;
                    self.write(&value.get_item(key)?, depth + 1)?;
                }
                self.close(keys.is_empty(), depth, "}")
            }
            _ => {
                self.out.push("[")?;
                let mut empty = true;
                for element in value.try_iter()? {
                    self.separate(empty, depth + 1)?;
                    self.write(&element, depth + 1)?;
                    empty = false;
                }
                self.close(empty, depth, "]")
            }
        }
    }

    fn separate(&mut self, first: bool, depth: usize) -> Result<(), Error> {
        if !first {
            self.out.push(&self.item)?;
        }
        self.newline(depth)
    }

    fn close(&mut self, empty: bool, depth: usize, bracket: &str) -> Result<(), Error> {
        if !empty {
            self.newline(depth)?;
        }
        self.out.push(bracket)
    }

    fn newline(&mut self, depth: usize) -> Result<(), Error> {
        if let Some(indent) = self.indent {
            self.out.push("\n")?;
            for _ in 0..indent.saturating_mul(depth) {
                self.out.push(" ")?;
            }
        }
        Ok(())
    }

    fn string(&mut self, text: &str) -> Result<(), Error> {
        let quoted = serde_json::Value::from(text).to_string();
        if !self.ensure_ascii || quoted.is_ascii() {
            return self.out.push(&quoted);
        }
        let mut units = [0u16; 2];
        for c in quoted.chars() {
            if c.is_ascii() {
                self.out.push(c.encode_utf8(&mut [0; 4]))?;
            } else {
                for unit in c.encode_utf16(&mut units) {
                    self.out.push(&format!("\\u{unit:04x}"))?;
                }
            }
        }
        Ok(())
    }
}
