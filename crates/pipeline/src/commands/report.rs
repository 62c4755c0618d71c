//! `rlhf report`.

use crate::flags::ReportArgs;
use crate::output::print;

pub(crate) fn run(args: &ReportArgs) -> anyhow::Result<()> {
    let mut runs = Vec::new();
    for dir in &args.runs {
        runs.extend(rlhf_web::Run::read(dir)?);
    }
    fs_err::write(&args.out, rlhf_web::report(&runs))?;
    print(&format!("{}\n", args.out.display()));
    Ok(())
}
