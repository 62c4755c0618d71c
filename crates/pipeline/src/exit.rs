//! Exit codes: 0 done, also where the reader of stdout went away; 1 failed, 2 usage or bad input, 130 interrupted.

use std::process::ExitCode;

use rlhf_base::tell;

use crate::output::ReaderGone;

pub(crate) const DONE: u8 = 0;
pub(crate) const FAILED: u8 = 1;
pub(crate) const USAGE: u8 = 2;
pub(crate) const INTERRUPTED: u8 = 130;

/// A usage error or bad input: a setting that does not exist, a folder without a model.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

/// Stopped by Ctrl-C where nothing had to be saved.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub(crate) struct Stopped;

/// Stopped by Ctrl-C where there is something to go on from.
#[derive(Debug, thiserror::Error)]
#[error("{error:#}. Continue with\n  {command}")]
pub(crate) struct Resumable {
    error: anyhow::Error,
    command: String,
}

/// Adds to an interruption the command that continues, whose words are `words`. Other errors stay as they are.
pub(crate) fn with_resume(error: anyhow::Error, words: &[String]) -> anyhow::Error {
    if classify(&error) != INTERRUPTED {
        return error;
    }
    let words: Vec<String> = words.iter().map(|word| quoted(word)).collect();
    let command = format!("rlhf {}", words.join(" "));
    Resumable { error, command }.into()
}

/// A word as a shell reads it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// `Err(Usage)` with a formatted message.
macro_rules! usage {
    ($($message:tt)*) => {
        anyhow::Error::new($crate::exit::Usage(format!($($message)*)))
    };
}
pub(crate) use usage;

/// Prints the error, if any, and gives the exit code it stands for.
pub(crate) fn code(result: anyhow::Result<()>) -> ExitCode {
    let Err(error) = result else {
        return ExitCode::from(DONE);
    };
    if error.chain().any(|cause| cause.is::<ReaderGone>()) {
        return ExitCode::from(DONE);
    }
    let code = classify(&error);
    if code == INTERRUPTED {
        tell(format!("{error:#}"));
    } else {
        tell(format!("error: {error:#}"));
    }
    ExitCode::from(code)
}

/// The exit code that an error stands for.
pub(crate) fn exit_code(error: &anyhow::Error) -> u8 {
    let reader_gone = error.chain().any(|cause| cause.is::<ReaderGone>());
    if reader_gone { DONE } else { classify(error) }
}

fn classify(error: &anyhow::Error) -> u8 {
    for cause in error.chain() {
        if cause.is::<rlhf_train::Interrupted>() || cause.is::<Stopped>() || cause.is::<Resumable>()
        {
            return INTERRUPTED;
        }
        let input = cause.is::<Usage>()
            || cause.is::<rlhf_dataset::Error>()
            || matches!(
                cause.downcast_ref(),
                Some(
                    rlhf_lm::Error::File { .. }
                        | rlhf_lm::Error::Invalid(_)
                        | rlhf_lm::Error::NotSampled(_)
                )
            )
            || matches!(
                cause.downcast_ref(),
                Some(rlhf_train::Error::RunExists(_) | rlhf_train::Error::NoWholeCheckpoint { .. })
            )
            || cause.is::<rlhf_mdp::Error>()
            || matches!(
                cause.downcast_ref::<rlhf_label::Error>(),
                Some(error) if !matches!(error, rlhf_label::Error::NotWritable { .. } | rlhf_label::Error::Sampling(_))
            )
            || cause.is::<rlhf_web::Error>();
        if input {
            return USAGE;
        }
    }
    FAILED
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_decides_wherever_it_stands_in_the_chain() {
        assert_eq!(
            classify(&usage!("no setting \"x\"").context("while reading")),
            USAGE
        );
        let interrupted = anyhow::Error::new(rlhf_train::Interrupted { step: 3 }).context("sft");
        assert_eq!(classify(&interrupted), INTERRUPTED);
        assert_eq!(classify(&Stopped.into()), INTERRUPTED);
        let resumable = with_resume(
            interrupted,
            &["sft".into(), "--out".into(), "my runs/it's".into()],
        );
        assert_eq!(classify(&resumable), INTERRUPTED);
        assert_eq!(
            resumable.to_string(),
            "sft: interrupted after step 3; a checkpoint is saved. Continue with\n  rlhf sft --out 'my runs/it'\\''s'"
        );
        let other = with_resume(anyhow::anyhow!("disk full"), &["sft".into()]);
        assert_eq!(other.to_string(), "disk full");
        assert_eq!(classify(&anyhow::anyhow!("disk full")), FAILED);
    }
}
