//! Text up to a stop string, which is not part of it, given out as early as possible.

/// Holds back what could be the beginning of a stop string.
pub(super) struct StopFilter {
    stop: Vec<String>,
    held: String,
    /// Bytes given out.
    given: usize,
}

impl StopFilter {
    pub(super) fn new(stop: &[String]) -> Self {
        Self {
            stop: stop.to_vec(),
            held: String::new(),
            given: 0,
        }
    }

    /// Adds `text`. What can be given out now, and whether a stop string ended it.
    pub(super) fn push(&mut self, text: &str) -> (String, bool) {
        self.held.push_str(text);
        let found = self
            .stop
            .iter()
            .filter_map(|stop| self.held.find(stop.as_str()))
            .min();
        let sure = found.unwrap_or_else(|| self.held.len() - self.could_begin());
        let rest = self.held.split_off(sure);
        let out = std::mem::replace(&mut self.held, rest);
        if found.is_some() {
            self.held.clear();
        }
        self.given += out.len();
        (out, found.is_some())
    }

    /// What was held back, at the end.
    pub(super) fn rest(&mut self) -> String {
        let rest = std::mem::take(&mut self.held);
        self.given += rest.len();
        rest
    }

    /// Bytes that were given out.
    pub(super) fn given(&self) -> usize {
        self.given
    }

    /// Bytes that were added, up to a stop string.
    pub(super) fn length(&self) -> usize {
        self.given + self.held.len()
    }

    /// The length of the longest end of what is held that a stop string begins with.
    fn could_begin(&self) -> usize {
        let longest = |stop: &String| {
            let ends = stop.char_indices().map(|(i, _)| i).rev();
            let mut ends = ends.filter(|&end| self.held.ends_with(&stop[..end]));
            ends.next().unwrap_or(0)
        };
        self.stop.iter().map(longest).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By definition: the text before the first place where a stop string is complete.
    fn cut(stop: &[String], text: &str) -> String {
        let ends = text.char_indices().map(|(i, c)| i + c.len_utf8());
        for end in ends {
            let starts = stop
                .iter()
                .filter_map(|stop| text[..end].find(stop.as_str()));
            if let Some(start) = starts.min() {
                return text[..start].to_owned();
            }
        }
        text.to_owned()
    }

    #[test]
    fn whatever_the_pieces_the_text_ends_before_the_first_stop_string() {
        let stops = [
            vec![],
            vec!["\n\n"],
            vec!["END"],
            vec!["aab", "bb"],
            vec!["猫さん", "。"],
            vec!["abcd", "bc"],
        ];
        let texts = [
            "",
            "aaab",
            "one\n\ntwo",
            "an EN END",
            "猫が猫さんに。",
            "xabcd",
            "E",
            "ENEND",
            "bab",
        ];
        for stop in stops {
            let stop: Vec<String> = stop.into_iter().map(str::to_owned).collect();
            for text in texts {
                let mut filter = StopFilter::new(&stop);
                let mut out = String::new();
                let mut hit = false;
                for c in text.chars() {
                    let (more, stopped) = filter.push(c.encode_utf8(&mut [0; 4]));
                    assert!(!hit, "nothing follows a stop string here");
                    out.push_str(&more);
                    hit = stopped;
                    if hit {
                        break;
                    }
                }
                out.push_str(&filter.rest());
                assert_eq!(out, cut(&stop, text), "{stop:?} {text:?}");
                assert_eq!(hit, out != text);
                assert_eq!(filter.given(), out.len());
            }
        }
    }

    #[test]
    fn only_what_could_become_a_stop_string_is_held_back() {
        let mut filter = StopFilter::new(&["\nUser:".to_owned()]);
        assert_eq!(filter.push("hello\nU"), ("hello".to_owned(), false));
        assert_eq!(filter.length(), 7);
        assert_eq!(filter.push("nder"), ("\nUnder".to_owned(), false));
        assert_eq!(filter.push(" it\nUser: me"), (" it".to_owned(), true));
        assert_eq!(filter.rest(), "");
    }
}
