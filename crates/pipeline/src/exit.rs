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
#[error("interrupted; what is finished is kept, and the same command goes on from there")]
pub(crate) struct Stopped;

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

fn classify(error: &anyhow::Error) -> u8 {
    for cause in error.chain() {
        if cause.is::<rlhf_train::Interrupted>() || cause.is::<Stopped>() {
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
            || matches!(cause.downcast_ref(), Some(rlhf_train::Error::RunExists(_)))
            || cause.is::<rlhf_mdp::Error>()
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
        assert_eq!(classify(&anyhow::anyhow!("disk full")), FAILED);
    }
}
