//! Settings with the reasons for them, as a TOML file.

use toml::Value;

/// The file's text, in the making.
#[derive(Default)]
pub(super) struct Text {
    text: String,
}

/// Longest line of a comment.
const WIDTH: usize = 100;

impl Text {
    /// Lines of comment, broken at words.
    pub(super) fn comment(&mut self, said: &str) {
        let mut line = String::from("#");
        for word in said.split_whitespace() {
            if line.chars().count() + 1 + word.chars().count() > WIDTH && line.len() > 1 {
                self.text.push_str(&line);
                self.text.push('\n');
                line = String::from("#");
            }
            line.push(' ');
            line.push_str(word);
        }
        self.text.push_str(&line);
        self.text.push('\n');
    }

    /// A section, with what it is for above it.
    pub(super) fn section(&mut self, name: &str, why: &str) {
        self.text.push('\n');
        self.comment(why);
        self.text.push_str(&format!("[{name}]\n"));
    }

    /// A setting, with the reason for its value above it.
    pub(super) fn set(&mut self, key: &str, value: impl Into<Value>, why: &str) {
        self.comment(why);
        self.text.push_str(&format!("{key} = {}\n", value.into()));
    }

    /// As it stands.
    pub(super) fn verbatim(&mut self, text: &str) {
        self.text.push_str(text);
    }

    /// The whole text.
    pub(super) fn finish(self) -> String {
        self.text
    }
}
