//! The keys of a judgement, the same in a terminal and on a page.
//!
//! | key | means |
//! |---|---|
//! | `f`, `j` | of a pair the left or the right answer is better; in a terminal `ff` and `fff`: clearly, by far |
//! | `t`, `b` | a tie; both are bad |
//! | `1` … `5` | the rating |
//! | `2 1=3` | the ranking from best to worst, `=` between equals |
//! | `y`, `n` | a thumb up, a thumb down |
//! | `s` | skip |
//! | `u` | undo |
//! | `e` | write a better answer: `e2` in place of the second |
//! | `g`, `?`, `q` | the guidelines, all keys, the end |

use crate::Kind;
use crate::verdict::Verdict;

/// What a key asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Key {
    /// A verdict.
    Verdict(Verdict),
    /// One step back.
    Undo,
    /// To write a better answer in place of that on this side.
    Edit(usize),
    /// The guidelines.
    Guidelines,
    /// All keys.
    Help,
    /// The end of the session.
    Quit,
}

impl Key {
    /// What `typed` means where `kind` is asked about `answers` answers; else what could be typed.
    pub fn parse(kind: Kind, answers: usize, typed: &str) -> Result<Self, String> {
        let typed = typed.trim().to_lowercase();
        let key = match typed.as_str() {
            "s" => Some(Key::Verdict(Verdict::Skip)),
            "u" => Some(Key::Undo),
            "g" => Some(Key::Guidelines),
            "?" | "h" | "help" => Some(Key::Help),
            "q" | "quit" => Some(Key::Quit),
            edit if edit.starts_with('e') => edit_of(answers, &edit[1..]).map(Key::Edit),
            verdict => verdict_of(kind, answers, verdict).map(Key::Verdict),
        };
        key.ok_or_else(|| Self::short(kind, answers))
    }

    /// One line: what can be typed.
    pub fn short(kind: Kind, answers: usize) -> String {
        let own = match kind {
            Kind::Pair => "f left, j right, t tie, b both bad".to_owned(),
            Kind::Ranking => {
                format!("the numbers 1 to {answers} from best to worst, = between equals")
            }
            Kind::Rating => format!("1 to {}", Kind::BEST_RATING),
            Kind::Thumbs => "y good, n not good".to_owned(),
        };
        format!("{own}; s skip, u undo, ? all keys")
    }

    /// All keys, a line each.
    pub fn help(kind: Kind, answers: usize) -> String {
        let own = match kind {
            Kind::Pair => "f  the left (upper) answer is better; ff: clearly; fff: by far\n\
                 j  the right (lower) answer is better; jj, jjj\n\
                 t  they are equally good\n\
                 b  both are bad\n"
                .to_owned(),
            Kind::Ranking => format!(
                "2 1=3  the answers from best to worst, = between equals, all {answers} of them\n"
            ),
            Kind::Rating => format!("1 … {}  the rating, {0} the best\n", Kind::BEST_RATING),
            Kind::Thumbs => "y  good\nn  not good\n".to_owned(),
        };
        let edit = match answers {
            1 => "e  write a better answer; \\n stands for a line break",
            _ => {
                "e1, e2, …  write a better answer in place of that one; \\n stands for a line break"
            }
        };
        format!(
            "{own}s  skip: it comes back at the end\nu  undo, one step after another\n{edit}\ng  the guidelines\nq  end (Ctrl-D); everything is saved, and \
             the same command goes on"
        )
    }
}

/// The side behind an `e`: a number from 1, or the key of the side; none is needed where there is one answer.
fn edit_of(answers: usize, side: &str) -> Option<usize> {
    let side = match side.trim() {
        "" if answers == 1 => 0,
        "f" if answers == 2 => 0,
        "j" if answers == 2 => 1,
        number => number.parse::<usize>().ok()?.checked_sub(1)?,
    };
    (side < answers).then_some(side)
}

fn verdict_of(kind: Kind, answers: usize, typed: &str) -> Option<Verdict> {
    match kind {
        Kind::Pair => {
            let better = |side, strength| Verdict::Better { side, strength };
            Some(match typed {
                "t" | "=" => Verdict::Tie,
                "b" => Verdict::BothBad,
                "1" | "<" => better(0, 1),
                "2" | ">" => better(1, 1),
                "f" | "ff" | "fff" => better(0, typed.len() as u32),
                "j" | "jj" | "jjj" => better(1, typed.len() as u32),
                _ => return None,
            })
        }
        Kind::Ranking => ranks_of(answers, typed).map(Verdict::Ranks),
        Kind::Rating => {
            let rating = typed.parse().ok()?;
            (1..=Kind::BEST_RATING)
                .contains(&rating)
                .then_some(Verdict::Rating(rating))
        }
        Kind::Thumbs => match typed {
            "y" | "+" => Some(Verdict::Thumbs(true)),
            "n" | "-" => Some(Verdict::Thumbs(false)),
            _ => None,
        },
    }
}

/// The ranks by side of `2 1=3`, `2>1=3` or, below ten answers, `21=3`.
fn ranks_of(answers: usize, typed: &str) -> Option<Vec<u32>> {
    let apart = |c: char| c.is_whitespace() || c == '>' || c == ',';
    let mut numbers: Vec<String> = Vec::new();
    let mut equal = Vec::new();
    for group in typed.split(apart).filter(|group| !group.is_empty()) {
        let mut ties = false;
        for part in group.split('=') {
            let parts: Vec<String> = match answers < 10 {
                true => part.chars().map(String::from).collect(),
                false => vec![part.to_owned()],
            };
            for (i, part) in parts.into_iter().enumerate() {
                equal.push(ties && i == 0);
                numbers.push(part);
            }
            ties = true;
        }
    }
    let mut ranks = vec![0; answers];
    let mut rank = 0;
    for (number, equal) in numbers.iter().zip(equal) {
        let side = number.parse::<usize>().ok()?.checked_sub(1)?;
        rank += u32::from(!equal);
        let place = ranks.get_mut(side)?;
        if *place != 0 {
            return None;
        }
        *place = rank;
    }
    (!ranks.contains(&0)).then_some(ranks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_understood_and_others_are_answered_with_what_there_is() {
        let verdict = |verdict| Ok(Key::Verdict(verdict));
        let better = |side, strength| verdict(Verdict::Better { side, strength });
        let pair = |typed| Key::parse(Kind::Pair, 2, typed);
        assert_eq!(pair("f"), better(0, 1));
        assert_eq!(pair(" JJJ "), better(1, 3));
        assert_eq!(pair("2"), better(1, 1));
        assert_eq!(pair("t"), verdict(Verdict::Tie));
        assert_eq!(pair("b"), verdict(Verdict::BothBad));
        assert_eq!(pair("e2"), Ok(Key::Edit(1)));
        assert_eq!(pair("ej"), Ok(Key::Edit(1)));
        assert_eq!(pair("u"), Ok(Key::Undo));
        for wrong in ["", "fj", "3", "e", "e3", "y"] {
            assert!(pair(wrong).unwrap_err().starts_with("f left"), "{wrong}");
        }
        let rating = |typed| Key::parse(Kind::Rating, 1, typed);
        assert_eq!(rating("5"), verdict(Verdict::Rating(5)));
        assert_eq!(rating("e"), Ok(Key::Edit(0)));
        assert!(rating("6").is_err() && rating("0").is_err());
        assert_eq!(
            Key::parse(Kind::Thumbs, 1, "n"),
            verdict(Verdict::Thumbs(false))
        );
    }

    /// By hand.
    #[test]
    fn a_ranking_is_typed_from_best_to_worst() {
        for typed in ["2 1=3", "2>1=3", "21=3", "2, 3=1"] {
            assert_eq!(ranks_of(3, typed), Some(vec![2, 1, 2]), "{typed}");
        }
        assert_eq!(ranks_of(3, "312"), Some(vec![2, 3, 1]));
        assert_eq!(ranks_of(3, "1=2=3"), Some(vec![1, 1, 1]));
        assert_eq!(
            ranks_of(11, "11 10 9 8 7 6 5 4 3 2 1").map(|ranks| ranks[10]),
            Some(1)
        );
        for wrong in ["1 2", "1 1 2", "0 1 2", "1 2 4", "a b c", ""] {
            assert_eq!(ranks_of(3, wrong), None, "{wrong}");
        }
    }
}
