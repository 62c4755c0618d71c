//! `rlhf label` on a page.

use rlhf_label::Session;
use rlhf_web::label::LabelPage;
use rlhf_web::server::Server;

use crate::flags::LabelArgs;
use crate::labelling::{Opinion, judge_on_page};
use crate::machine::Machine;
use crate::page::{announce, listen};

/// What a page needs besides a session: it is there before anything is written.
pub(super) struct Page {
    page: LabelPage,
    opinion: Option<Opinion>,
    server: Server,
}

impl Page {
    pub(super) fn open(
        args: &LabelArgs,
        annotator: Option<String>,
        guidelines: Option<String>,
        machine: &Machine,
    ) -> anyhow::Result<Self> {
        let opinion = Opinion::open(args.reward.as_deref(), machine)?;
        Ok(Self {
            page: LabelPage {
                kind: args.kind.name(),
                file: args.save.display().to_string(),
                annotator,
                guidelines,
                opinions: opinion.is_some(),
                again: "rlhf label runs again with --port",
                round: None,
            },
            opinion,
            server: listen(&args.listening)?,
        })
    }

    /// Lets people judge until the session is ended on the page, or by Ctrl-C.
    pub(super) fn judge(
        self,
        args: &LabelArgs,
        session: Session,
        machine: &Machine,
    ) -> anyhow::Result<Session> {
        // Everything is on the disk at any time, so Ctrl-C is a good end.
        machine.catch_interrupts_quietly()?;
        announce(&self.server, &args.listening, "label");
        let opinion = self.opinion.as_ref();
        judge_on_page(session, self.server, &self.page, opinion, machine)
    }
}
