//! Exit codes: 0 done, 1 failed, 2 usage or bad input, 130 interrupted.

use std::process::ExitCode;

pub(crate) const DONE: u8 = 0;
pub(crate) const FAILED: u8 = 1;
pub(crate) const USAGE: u8 = 2;
pub(crate) const INTERRUPTED: u8 = 130;

/// Prints the error, if any, and gives the exit code it stands for.
pub(crate) fn code(result: anyhow::Result<()>) -> ExitCode {
    let Err(error) = result else {
        return ExitCode::from(DONE);
    };
    let code = classify(&error);
    if code == INTERRUPTED {
        eprintln!("{error:#}");
    } else {
        eprintln!("error: {error:#}");
    }
    ExitCode::from(code)
}

fn classify(error: &anyhow::Error) -> u8 {
    for cause in error.chain() {
        if cause.is::<rlhf_train::Interrupted>() {
            return INTERRUPTED;
        }
        let input = cause.is::<rlhf_mdp::Error>() || cause.is::<rlhf_web::Error>();
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
        let unknown = rlhf_mdp::solve(
            "nowhere",
            rlhf_mdp::Method::Evaluate,
            &rlhf_mdp::Settings::default(),
        );
        assert_eq!(
            classify(&anyhow::Error::new(unknown.unwrap_err()).context("mdp")),
            USAGE
        );
        let interrupted = anyhow::Error::new(rlhf_train::Interrupted { step: 3 }).context("sft");
        assert_eq!(classify(&interrupted), INTERRUPTED);
        assert_eq!(classify(&anyhow::anyhow!("disk full")), FAILED);
    }
}
