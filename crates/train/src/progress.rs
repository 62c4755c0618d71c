//! The progress of a run on stderr.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget};
use rlhf_base::tell;

/// How progress is shown, always on stderr.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProgressStyle {
    /// A bar on a terminal, a line every few seconds elsewhere.
    #[default]
    Auto,
    /// Nothing.
    Quiet,
}

impl ProgressStyle {
    /// Prints a message on stderr, unless quiet.
    pub fn say(self, message: &str) {
        if self == Self::Auto {
            tell(message);
        }
    }
}

/// How often a line appears where there is no terminal to redraw.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// The progress of one long loop: position, time passed and left, tokens a second, and a few metrics.
pub struct Progress {
    output: Output,
    name: String,
    unit: String,
    total: u64,
    started: Instant,
    /// Position at the start: a resumed run does not begin at 0, and its earlier steps took no time here.
    first: Option<u64>,
    tokens: u64,
    latest: String,
}

enum Output {
    Bar(ProgressBar),
    Lines { last: Instant },
    Nothing,
}

impl Progress {
    /// Starts `total` steps of `unit` ("step", "row", …) under `name` ("sft", "rollout", …).
    pub fn new(style: ProgressStyle, name: &str, total: u64, unit: &str) -> Self {
        let now = Instant::now();
        let output = match style {
            ProgressStyle::Quiet => Output::Nothing,
            ProgressStyle::Auto if std::io::stderr().is_terminal() => {
                let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
                let style = indicatif::ProgressStyle::with_template("{bar:24} {wide_msg}")
                    .unwrap_or_else(|_| indicatif::ProgressStyle::default_bar());
                bar.set_style(style);
                Output::Bar(bar)
            }
            ProgressStyle::Auto => Output::Lines { last: now },
        };
        Self {
            output,
            name: name.to_owned(),
            unit: unit.to_owned(),
            total,
            started: now,
            first: None,
            tokens: 0,
            latest: String::new(),
        }
    }

    /// Reports that `step` of `total` are done, with the numbers to show and the tokens processed since the last call.
    pub fn tick(&mut self, step: u64, numbers: &[(&str, f64)], tokens: u64) {
        let first = *self.first.get_or_insert(step.saturating_sub(1));
        self.tokens += tokens;
        if matches!(self.output, Output::Nothing) {
            return;
        }
        let pace = Pace {
            done: step - first.min(step),
            seconds: self.started.elapsed().as_secs_f64(),
            tokens: self.tokens,
        };
        self.latest = line(&self.name, &self.unit, step, self.total, numbers, pace);
        match &mut self.output {
            Output::Bar(bar) => {
                bar.set_position(step);
                bar.set_message(self.latest.clone());
            }
            Output::Lines { last } if last.elapsed() >= LINE_EVERY => {
                *last = Instant::now();
                tell(&self.latest);
                self.latest.clear();
            }
            Output::Lines { .. } | Output::Nothing => {}
        }
    }

    /// Prints a line that stays, such as the result of an evaluation, above the bar where there is one.
    pub fn say(&self, text: &str) {
        let line = format!("{}: {text}", self.name);
        match &self.output {
            Output::Bar(bar) => bar.suspend(|| tell(line)),
            Output::Lines { .. } => tell(line),
            Output::Nothing => {}
        }
    }

    /// Ends the display; where there is no bar, the last line is printed if it was not yet.
    pub fn finish(self) {
        match self.output {
            Output::Bar(bar) => bar.finish(),
            Output::Lines { .. } if !self.latest.is_empty() => tell(&self.latest),
            Output::Lines { .. } | Output::Nothing => {}
        }
    }
}

/// What was done since the loop started here.
#[derive(Clone, Copy)]
struct Pace {
    done: u64,
    seconds: f64,
    tokens: u64,
}

fn line(
    name: &str,
    unit: &str,
    step: u64,
    total: u64,
    numbers: &[(&str, f64)],
    pace: Pace,
) -> String {
    let mut text = format!("{name} {unit} {step}/{total}");
    for (key, number) in numbers {
        // Writing to a string cannot fail.
        let _ = write!(text, "  {key} {}", short(*number));
    }
    if pace.seconds > 0.0 && pace.tokens > 0 {
        let _ = write!(text, "  {} tok/s", si(pace.tokens as f64 / pace.seconds));
    }
    let _ = write!(text, "  {} elapsed", duration(pace.seconds));
    if pace.done > 0 && step < total {
        let left = pace.seconds / pace.done as f64 * (total - step) as f64;
        let _ = write!(text, ", {} left", duration(left));
    }
    text
}

/// Four significant digits, in scientific form where the number is very small or large.
fn short(x: f64) -> String {
    let x = x + 0.0; // no "-0"
    let magnitude = x.abs();
    if x == 0.0 || (1e-3..1e5).contains(&magnitude) {
        let decimals = if magnitude >= 1000.0 || x == 0.0 {
            0
        } else {
            3 - magnitude.log10().floor().clamp(-3.0, 3.0) as i32
        };
        format!("{x:.*}", decimals.clamp(0, 4) as usize)
    } else {
        format!("{x:.2e}")
    }
}

/// A count with k, M, G, T behind it.
pub(crate) fn si(x: f64) -> String {
    let mut value = x;
    for suffix in ["", "k", "M", "G"] {
        if value < 999.5 {
            let decimals = if suffix.is_empty() || value >= 99.95 {
                0
            } else {
                1
            };
            return format!("{value:.decimals$}{suffix}");
        }
        value /= 1000.0;
    }
    format!("{value:.1}T")
}

fn duration(seconds: f64) -> String {
    let s = seconds.round() as u64;
    match (s / 3600, s / 60 % 60, s % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s:02}s"),
        (h, m, _) => format!("{h}h{m:02}m"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_position_numbers_speed_and_times() {
        let pace = Pace {
            done: 10,
            seconds: 20.0,
            tokens: 51_000,
        };
        assert_eq!(
            line(
                "sft",
                "step",
                110,
                200,
                &[("loss", 2.34567), ("lr", 1e-5)],
                pace
            ),
            "sft step 110/200  loss 2.346  lr 1.00e-5  2.5k tok/s  20s elapsed, 3m00s left" // 10 steps in 20 s: 90 more take 180 s
        );
        let done = Pace {
            done: 200,
            seconds: 20.0,
            tokens: 0,
        };
        assert_eq!(
            line("sft", "step", 200, 200, &[], done),
            "sft step 200/200  20s elapsed"
        );
    }

    #[test]
    fn numbers_are_short() {
        for (x, text) in [
            (0.0, "0"),
            (-0.0, "0"),
            (2.0, "2.000"),
            (-12.3456, "-12.35"),
            (1234.5678, "1235"),
            (0.01234, "0.0123"),
            (1e-5, "1.00e-5"),
            (f64::NAN, "NaN"),
        ] {
            assert_eq!(short(x), text);
        }
        for (x, text) in [
            (0.0, "0"),
            (999.0, "999"),
            (1200.0, "1.2k"),
            (124_439_808.0, "124M"),
            (99_960.0, "100k"),
        ] {
            assert_eq!(si(x), text);
        }
        for (x, text) in [(0.4, "0s"), (59.6, "1m00s"), (3725.0, "1h02m")] {
            assert_eq!(duration(x), text);
        }
    }

    #[test]
    fn quiet_progress_accepts_everything() {
        let mut progress = Progress::new(ProgressStyle::Quiet, "sft", 0, "step");
        progress.tick(5, &[("loss", f64::NAN)], 0);
        progress.tick(3, &[], 7);
        progress.finish();
    }
}
