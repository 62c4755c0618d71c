//! What a caller can ask for, and which shapes give it.

use super::{Read, SHAPES, Shape, judgeable, prompt, several, unknown};
use crate::containers::PlainText;
use crate::fields::Fields;
use crate::reader::{Reader, Seen};
use crate::reading::Reading;
use crate::records::{Answers, Demonstration, Feedback, Kind, Prompt, Row, TextRow};

/// The records of one row, and how it was understood.
pub struct Recognised<T> {
    pub(crate) records: Vec<T>,
    pub(crate) shape: &'static str,
    pub(crate) seen: Seen,
}

/// A type of records that a caller can ask for.
pub trait Record: Sized {
    /// What such records are called in messages.
    const WHAT: &'static str;
    /// What of a plain .txt file is such a record, if anything.
    #[doc(hidden)]
    const PLAIN_TEXT: Option<PlainText> = None;

    /// Its kind.
    fn kind(&self) -> Kind;

    /// Reads the records of a row by the first shape that fits and gives some, or says which field is wrong, what was expected and what was
    /// found.
    #[doc(hidden)]
    fn recognise(fields: &Fields, reading: &Reading) -> Result<Recognised<Self>, String>;
}

/// Reads a row by `read`, one function of `shape`.
fn by<T>(
    shape: &Shape,
    fields: &Fields,
    reading: &Reading,
    read: impl Fn(&Reader<'_>) -> Result<Vec<T>, String>,
) -> Result<Recognised<T>, String> {
    let reader = Reader::new(fields, reading, shape.kind);
    let records = read(&reader)?;
    let seen = reader.finish()?;
    Ok(Recognised {
        records,
        shape: seen.known_as.unwrap_or(shape.name),
        seen,
    })
}

/// The first shape that fits and gives records of one type, with its function.
macro_rules! first {
    ($fields:expr, $Variant:ident) => {
        SHAPES.iter().find_map(|shape| match shape.read {
            Read::$Variant(read) if (shape.fits)($fields) => Some((shape, read)),
            _ => None,
        })
    };
}

impl Record for TextRow {
    const WHAT: &'static str = "text";
    const PLAIN_TEXT: Option<PlainText> = Some(PlainText::Paragraphs);

    fn kind(&self) -> Kind {
        Kind::Text
    }

    fn recognise(fields: &Fields, reading: &Reading) -> Result<Recognised<Self>, String> {
        match first!(fields, Texts) {
            Some((shape, read)) => by(shape, fields, reading, read),
            None => Err(unknown::explain(fields, Self::WHAT, |kind| {
                kind == Kind::Text
            })),
        }
    }
}

impl Record for Demonstration {
    const WHAT: &'static str = "demonstrations";

    fn kind(&self) -> Kind {
        Kind::Demonstration
    }

    fn recognise(fields: &Fields, reading: &Reading) -> Result<Recognised<Self>, String> {
        if let Some((shape, read)) = first!(fields, Demonstrations) {
            return by(shape, fields, reading, read);
        }
        let mut message = unknown::explain(fields, Self::WHAT, |kind| kind == Kind::Demonstration);
        if fields.has_all(&["chosen", "rejected"]) {
            message = "this is feedback (for `rlhf reward`), not a demonstration; --map completion=chosen imitates the preferred answer"
                .to_owned();
        }
        Err(message)
    }
}

impl Record for Prompt {
    const WHAT: &'static str = "prompts";
    const PLAIN_TEXT: Option<PlainText> = Some(PlainText::Lines);

    fn kind(&self) -> Kind {
        Kind::Prompt
    }

    fn recognise(fields: &Fields, reading: &Reading) -> Result<Recognised<Self>, String> {
        // Feedback and demonstrations hold their prompt in their own ways; whether their answers are in order is no concern of a
        // prompt, so a row that they cannot read may still have one in a field of its own.
        let inside = SHAPES.iter().filter(|shape| (shape.fits)(fields));
        for shape in inside {
            let prompts = |reader: &Reader<'_>| -> Result<Vec<Prompt>, String> {
                let texts: Vec<_> = match shape.read {
                    Read::Feedback(read) => {
                        read(reader)?.iter().map(|it| it.prompt().clone()).collect()
                    }
                    Read::Demonstrations(read) => {
                        read(reader)?.into_iter().map(|it| it.prompt).collect()
                    }
                    Read::Prompts(read) => return read(reader),
                    Read::Texts(_) => return Err(Kind::Prompt.needs().to_owned()),
                };
                let mut prompts = texts.into_iter().map(|text| prompt::with(reader, text));
                // The answers to one prompt are one prompt.
                let mut distinct: Vec<Prompt> = Vec::new();
                prompts.by_ref().for_each(|prompt| {
                    if !distinct.iter().any(|known| known.prompt == prompt.prompt) {
                        distinct.push(prompt);
                    }
                });
                Ok(distinct)
            };
            let own = matches!(shape.read, Read::Prompts(_));
            match by(shape, fields, reading, prompts) {
                Err(_) if !own && prompt::stated(fields) => {}
                result => return result,
            }
        }
        Err(unknown::explain(fields, Self::WHAT, |kind| {
            kind == Kind::Prompt
        }))
    }
}

impl Record for Feedback {
    const WHAT: &'static str = "feedback";

    fn kind(&self) -> Kind {
        Feedback::kind(self)
    }

    fn recognise(fields: &Fields, reading: &Reading) -> Result<Recognised<Self>, String> {
        match first!(fields, Feedback) {
            Some((shape, read)) => by(shape, fields, reading, read),
            None => Err(unknown::explain(fields, Self::WHAT, Kind::is_feedback)),
        }
    }
}

impl Record for Answers {
    const WHAT: &'static str = "answers to judge";

    fn kind(&self) -> Kind {
        match self.responses.len() {
            0 | 1 => Kind::Demonstration,
            _ => Kind::Ranking,
        }
    }

    fn recognise(fields: &Fields, reading: &Reading) -> Result<Recognised<Self>, String> {
        // Feedback that cannot be read is an error, but where it only lacks a judgement.
        if let Some((shape, read)) = first!(fields, Feedback)
            && several::bare_list(fields).is_none()
        {
            return by(shape, fields, reading, |row| {
                let records = read(row)?;
                let answers = records.iter().map(|it| judgeable::of_feedback(row, it));
                Ok(answers.collect())
            });
        }
        if judgeable::unjudged(fields) {
            let reader = Reader::new(fields, reading, Kind::Ranking);
            let records = vec![judgeable::read(&reader)?];
            return Ok(Recognised {
                records,
                shape: "answers",
                seen: reader.finish()?,
            });
        }
        match first!(fields, Demonstrations) {
            Some((shape, read)) => by(shape, fields, reading, |row| {
                let records = read(row)?.into_iter();
                Ok(records
                    .map(|it| judgeable::of_demonstration(row, it))
                    .collect())
            }),
            None => Err(unknown::explain(fields, Self::WHAT, |kind| {
                kind.is_feedback() || kind == Kind::Demonstration
            })),
        }
    }
}

impl Record for Row {
    const WHAT: &'static str = "rows";
    const PLAIN_TEXT: Option<PlainText> = Some(PlainText::Paragraphs);

    fn kind(&self) -> Kind {
        Row::kind(self)
    }

    fn recognise(fields: &Fields, reading: &Reading) -> Result<Recognised<Self>, String> {
        let Some(shape) = SHAPES.iter().find(|shape| (shape.fits)(fields)) else {
            return Err(unknown::explain(fields, Self::WHAT, |_| true));
        };
        match shape.read {
            Read::Texts(read) => by(shape, fields, reading, |row| {
                Ok(read(row)?.into_iter().map(Row::Text).collect())
            }),
            Read::Demonstrations(read) => by(shape, fields, reading, |row| {
                Ok(read(row)?.into_iter().map(Row::Demonstration).collect())
            }),
            Read::Prompts(read) => by(shape, fields, reading, |row| {
                prompt::nothing_but_a_prompt(row)?;
                Ok(read(row)?.into_iter().map(Row::Prompt).collect())
            }),
            Read::Feedback(read) => by(shape, fields, reading, |row| {
                Ok(read(row)?.into_iter().map(Row::Feedback).collect())
            }),
        }
    }
}
