//! The rounds of judging of a pipeline, before the first of them: what will be asked, whom, and where it will be kept.

use std::path::Path;

use rlhf_base::Text;
use rlhf_label::Choose;
use rlhf_train::{Finding, Makes};

use super::Report;
use crate::labelling::{Section, Who};
use crate::machine::Machine;
use crate::settings::{LABEL, LabelSettings};
use crate::wiring::{JUDGEMENTS, Wiring};

/// Checks `[label]`. None where a failure, which is in the report, leaves nothing more to check.
pub(super) fn check(
    wiring: &Wiring,
    label: &LabelSettings,
    machine: &Machine,
    report: &mut Report,
) -> Option<()> {
    let section = report.expect("settings", Section::of(wiring, label))?;
    report.push(Finding::of("items", items(&section)));
    let prompts = report.expect("prompts", section.read_prompts());
    if let Some(prompts) = &prompts {
        report.push(asks(&section, prompts.len()));
    }
    report.push(Finding::new("choice", choice(wiring, label), &[]));
    report.push(Finding::of(
        "annotator",
        annotator(&section, machine, prompts.as_deref()),
    ));
    if label.guidelines.is_some() {
        report.push(Finding::of("guidelines", guidelines(&section)));
    }
    for round in 1..=label.rounds {
        let folder = wiring.in_round(round).out.join(LABEL);
        // What comes after a round that has not begun has not begun either.
        let begun = folder.join(JUDGEMENTS).exists();
        report.push(Finding::of(
            "judgements",
            standing(&folder, begun, label.items),
        ));
        if !begun {
            break;
        }
    }
    Some(())
}

fn items(section: &Section<'_>) -> anyhow::Result<String> {
    let LabelSettings {
        rounds,
        items,
        kind,
        ..
    } = section.settings;
    section.asked(String::new(), &[], 0).check()?;
    let rounds = match rounds {
        1 => "one round".to_owned(),
        n => format!("{n} rounds"),
    };
    let answers = match section.answers() {
        1 => "an answer".to_owned(),
        n => format!("{n} answers"),
    };
    Ok(format!(
        "{rounds} of {items} items of kind {}, {answers} sampled to each prompt",
        kind.name()
    ))
}

fn asks(section: &Section<'_>, prompts: usize) -> Finding {
    let most = match section.settings.kind.compares() {
        true => prompts,
        false => prompts * section.answers(),
    };
    let wanted = section.settings.items;
    let few = (most < wanted)
        .then(|| format!("a round ends with them, after {most} items at most and not {wanted}"));
    let found = format!("the model is asked {prompts}");
    Finding::new("prompts", found, few.as_slice())
}

fn choice(wiring: &Wiring, label: &LabelSettings) -> String {
    if label.choose == Choose::Random {
        return "at random".to_owned();
    }
    let states = match wiring.making(Makes::RewardModel).first() {
        Some(part) => format!(
            "of the model that answers, from the second round on of [{}]",
            part.name()
        ),
        None => "of the model that answers".to_owned(),
    };
    format!(
        "by {} on the hidden states {states}; {:.0} % at random",
        label.choose,
        100.0 * label.random
    )
}

fn annotator(
    section: &Section<'_>,
    machine: &Machine,
    prompts: Option<&[Text]>,
) -> anyhow::Result<String> {
    let by_name = |name: Option<String>| name.unwrap_or_else(|| "you".to_owned());
    let who = section.who(machine, 0)?;
    section.can(&who, prompts.and_then(<[Text]>::first))?;
    Ok(match who {
        Who::Programs(programs) => {
            let names: Vec<&str> = programs.iter().map(|program| program.name()).collect();
            format!("judged by {}", names.join(" and "))
        }
        Who::Terminal(name) => format!("asks {} in the terminal", by_name(name)),
        Who::Page(name) => {
            let port = match section.settings.port {
                0 => "a free port".to_owned(),
                port => format!("port {port}"),
            };
            format!(
                "asks {} on a page, on {port} of this machine",
                by_name(name)
            )
        }
    })
}

fn guidelines(section: &Section<'_>) -> anyhow::Result<String> {
    let lines = section.guidelines()?.unwrap_or_default().lines().count();
    let file = section
        .settings
        .guidelines
        .iter()
        .map(|file| file.display());
    Ok(format!(
        "{}, {lines} lines",
        file.map(|it| it.to_string()).collect::<String>()
    ))
}

fn standing(folder: &Path, begun: bool, items: usize) -> anyhow::Result<String> {
    let file = folder.join(JUDGEMENTS);
    if !begun {
        return Ok(format!("will be kept in {}", file.display()));
    }
    let judged = fs_err::read_to_string(&file)?.lines().count();
    Ok(match folder.join("finished").exists() {
        true => format!("{} is complete, with {judged}", file.display()),
        false => format!("{} has {judged} of {items}: it goes on", file.display()),
    })
}
