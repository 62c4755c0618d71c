//! `rlhf report`.

use serde_json::json;

use crate::flags::ReportArgs;
use crate::output::{print, print_json};

pub(crate) fn run(args: &ReportArgs) -> anyhow::Result<()> {
    let mut runs = Vec::new();
    for dir in &args.runs {
        runs.extend(rlhf_web::Run::read(dir)?);
    }
    fs_err::write(&args.out, rlhf_web::report(&runs))?;
    if args.json {
        return print_json(&json!({"out": args.out, "runs": runs.len()}));
    }
    print(&format!("{}\n", args.out.display()));
    Ok(())
}
