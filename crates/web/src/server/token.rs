//! The word that opens a server which others can reach.

use std::fmt;
use std::io;
use std::str::FromStr;

use rand::TryRngCore as _;
use rand::rngs::OsRng;

/// What a client must show: letters, digits and `-_.~`, which stand in a URL as they are, at least 16 of them.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// A token of 128 bits from the operating system, which nobody can guess. (Named streams repeat; a secret must not.)
    ///
    /// # Errors
    /// Where the operating system gives no random numbers.
    pub fn fresh() -> io::Result<Self> {
        let mut bytes = [0u8; 16];
        OsRng.try_fill_bytes(&mut bytes).map_err(io::Error::other)?;
        Ok(Self(
            bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
        ))
    }

    /// The token itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `shown` is the token. Takes as long for every text of its length, so that time says nothing about it.
    pub(super) fn is(&self, shown: &str) -> bool {
        let (a, b) = (self.0.as_bytes(), shown.as_bytes());
        a.len() == b.len() && a.iter().zip(b).fold(0, |all, (x, y)| all | (x ^ y)) == 0
    }
}

/// Shows that there is a token, and not which: logs are read by many.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl FromStr for Token {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.~".contains(c);
        if text.len() < 16 || !text.chars().all(plain) {
            return Err("expected at least 16 letters, digits or -_.~".to_owned());
        }
        Ok(Self(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_could_be_guessed_or_does_not_fit_into_a_url_is_refused() {
        for bad in [
            "",
            "short",
            "exactly15chars_",
            "with a blank in it",
            "with&ampersand=1",
            "größer-als-sechzehn",
        ] {
            assert!(bad.parse::<Token>().is_err(), "{bad}");
        }
        let token: Token = "exactly-16chars_".parse().unwrap();
        assert!(token.is("exactly-16chars_"));
        for other in [
            "",
            "exactly-16chars",
            "exactly-16chars-",
            "exactly-16chars_1",
        ] {
            assert!(!token.is(other), "{other}");
        }
        assert_eq!(format!("{token:?}"), "Token(…)");
    }

    #[test]
    fn a_fresh_token_is_one_of_its_own() {
        let (a, b) = (Token::fresh().unwrap(), Token::fresh().unwrap());
        assert_ne!(a, b);
        assert_eq!(a.as_str().parse::<Token>(), Ok(a));
    }
}
