//! The judgements of one round of `rlhf run`: whose answers, by whom, and whether they are there already.

use std::path::{Path, PathBuf};

use rand::RngCore as _;
use rlhf_base::rng;
use rlhf_label::{Choose, Clock, Error, Session, Settings, demonstrations_of};
use rlhf_train::{Settings as _, write_file};
use rlhf_web::label::LabelPage;

use super::super::Pipeline;
use crate::choosing::Choosing;
use crate::commands::label::terminal::{self, Asking};
use crate::data_files::found;
use crate::exit::{Stopped, usage};
use crate::fingerprint::{Content, Input, fingerprint};
use crate::labelling::{Section, Who, judge_on_page, let_judge, tell_mended};
use crate::page::announce;
use crate::settings::{LABEL, LabelSettings};
use crate::wiring::JUDGEMENTS;

/// Beside a round's judgements: the fingerprint of what they are of, from when they are begun and from when they are complete.
const BEGUN: &str = "begun";
const FINISHED: &str = "finished";

/// What is judged in a round.
pub(super) struct Answers<'a> {
    pub(super) section: &'a Section<'a>,
    /// Of the round, from 1.
    pub(super) number: usize,
    /// The run whose model answers.
    pub(super) model: PathBuf,
    /// The run of the newest reward model, on whose hidden states a strategy learns; without one, those of `model`.
    pub(super) states: Option<PathBuf>,
}

/// A round's judgements.
pub(super) struct Judged {
    pub(super) labels: usize,
    /// Whether they were made now.
    pub(super) anew: bool,
}

impl Pipeline<'_> {
    /// Has the answers of this round judged, as far as they are not yet.
    pub(super) fn judged(&self, answers: &Answers<'_>, ran: bool) -> anyhow::Result<Judged> {
        let folder = self.wiring.out.join(LABEL);
        let file = folder.join(JUDGEMENTS);
        let section = answers.section;
        let label = section.settings;
        let stream = rng::stream(self.wiring.run.seed, "label/round", answers.number as u64);
        let seed = { stream }.next_u64();
        let who = section.who(&self.machine, seed)?;
        let by_programs = matches!(who, Who::Programs(_));
        let prompts = section.prompts()?;
        let fingerprint = answers.fingerprint(&prompts, self.wiring.run.seed)?;
        let says = |name: &str| fs_err::read_to_string(folder.join(name)).ok();
        let is_of_this = |text: Option<String>| text.as_deref() == Some(fingerprint.as_str());
        let overwrite = self.args.overwrite && by_programs;
        if is_of_this(says(FINISHED)) && file.exists() && !overwrite {
            let labels = lines(&file)?;
            self.say(&format!(
                "label: skipped, {labels} judgements of these very answers in {}",
                folder.display()
            ));
            return Ok(Judged {
                labels,
                anew: false,
            });
        }
        // Programs judge again; what people have said is never thrown away.
        let other = says(BEGUN).is_some_and(|begun| begun != fingerprint);
        if by_programs && folder.exists() && (other || overwrite) {
            if self.args.resume && !ran {
                return Err(usage!(
                    "{}: the judgements there are of other answers, or by others: [label], its prompts or the model has changed; undo this to go \
                     on, or leave out --resume to have them judged anew",
                    folder.display()
                ));
            }
            self.say(&format!("label: judging anew in {}", folder.display()));
            fs_err::remove_dir_all(&folder)?;
        }
        fs_err::create_dir_all(&folder)?;
        write_file(&folder.join(BEGUN), fingerprint.as_bytes())?;
        let mut session = self.session(answers, &prompts, seed, by_programs, &file)?;
        tell_mended(&session);
        match who {
            // Somebody has judged the last item, and was interrupted behind it.
            Who::Terminal(_) | Who::Page(_) if session.complete() => {}
            Who::Terminal(person) => {
                let asking = Asking {
                    person,
                    guidelines: section.guidelines()?,
                    opinion: None,
                    json: self.args.common.json,
                    quiet: self.args.common.quiet,
                };
                terminal::judge(&mut session, asking)?;
            }
            Who::Page(person) => {
                let page = LabelPage {
                    kind: label.kind.name(),
                    file: file.display().to_string(),
                    annotator: person,
                    guidelines: section.guidelines()?,
                    opinions: false,
                    again: "rlhf run runs again with label.port =",
                    round: Some((answers.number, label.rounds)),
                };
                let first = !section.has_listened();
                let server = section.listen()?;
                // A page that is open takes the next round up by itself.
                let mut listening = section.listening();
                listening.no_open = !first;
                announce(&server, &listening, "label");
                session = judge_on_page(session, server, &page, None, &self.machine)?;
            }
            Who::Programs(programs) => let_judge(&mut session, &programs, &self.machine)?,
        }
        let labels = session.journal().past().len();
        // Programs have judged all there is; a person may end before.
        if !by_programs && !session.complete() {
            self.say(&format!(
                "label: {labels} judgements so far in {}",
                file.display()
            ));
            return Err(Stopped.into());
        }
        if labels == 0 {
            return Err(usage!(
                "label: nothing was judged: all answers to a prompt are alike; raise label.temperature or label.answers"
            ));
        }
        let rewritten = demonstrations_of(&file);
        if rewritten.exists() {
            self.say(&format!(
                "label: rewritten answers are in {}",
                rewritten.display()
            ));
        }
        self.say(&format!("label: {labels} judgements in {}", file.display()));
        write_file(&folder.join(FINISHED), fingerprint.as_bytes())?;
        Ok(Judged { labels, anew: true })
    }

    fn session(
        &self,
        answers: &Answers<'_>,
        prompts: &[PathBuf],
        seed: u64,
        by_programs: bool,
        file: &Path,
    ) -> anyhow::Result<Session> {
        let (section, label) = (answers.section, answers.section.settings);
        let asked = section.asked(answers.model.display().to_string(), prompts, seed);
        let pool = asked.pool(file, &self.machine);
        let pool = pool.map_err(|error| self.explained(error))?;
        let choosing = Choosing {
            choose: label.choose,
            by: answers.states().display().to_string(),
            random: label.random,
            waits: by_programs,
        };
        let strategy = choosing.strategy(self.wiring.judgements(), seed, &self.machine)?;
        let settings = Settings {
            kind: label.kind,
            seed,
            repeat: label.repeat,
            overlap: label.overlap,
            items: Some(label.items),
            clock: if by_programs {
                Clock::Absent
            } else {
                Clock::System
            },
        };
        Session::open(file, pool, strategy, settings).map_err(|error| self.explained(error.into()))
    }

    /// An error of a session, with what can be done about it here.
    fn explained(&self, error: anyhow::Error) -> anyhow::Error {
        let folder = self.wiring.out.join(LABEL);
        let folder = folder.display();
        match error.downcast_ref() {
            Some(Error::OtherAnswers(_)) => usage!(
                "{folder}: the judgements there are of answers that were sampled otherwise: by another model, to other prompts, or with other \
                 settings of [label]; undo the change to go on with them, or move the folder away to judge anew"
            ),
            Some(Error::Locked { holder, .. }) => usage!(
                "{folder}: {holder} asks for these judgements already: give them there, or wait until it ends"
            ),
            _ => error,
        }
    }
}

impl Answers<'_> {
    /// The run whose hidden states a strategy learns on.
    fn states(&self) -> &Path {
        self.states.as_deref().unwrap_or(&self.model)
    }

    /// A name for what the judgements depend on.
    fn fingerprint(&self, prompts: &[PathBuf], seed: u64) -> anyhow::Result<String> {
        let label = self.section.settings;
        let of_all_rounds = LabelSettings {
            rounds: 1,
            terminal: false,
            port: 0,
            guidelines: None,
            ..label.clone()
        };
        let states = (label.choose != Choose::Random).then(|| self.states());
        let models = [Some(self.model.as_path()), states];
        let models = models.into_iter().flatten().map(|run| {
            let model = run.join("final");
            if model.exists() {
                model
            } else {
                run.to_owned()
            }
        });
        let inputs = found(prompts)?.into_iter().chain(models);
        let contents = inputs.map(|path| {
            let name = path.display().to_string();
            Content::of(&Input { name, path })
        });
        let contents: Vec<Content> = contents.collect::<Result<_, _>>()?;
        let sampling = self.section.sampling(seed);
        Ok(fingerprint(
            &format!(
                "{}{sampling:?}{}",
                of_all_rounds.to_table(),
                (self.section.kept_back()).map_or_else(String::new, |share| share.to_string())
            ),
            &contents,
        ))
    }
}

fn lines(file: &Path) -> anyhow::Result<usize> {
    let text = fs_err::read_to_string(file)?;
    Ok(text
        .lines()
        .filter(|line| !line.contains("\"rewritten\":true"))
        .count())
}
