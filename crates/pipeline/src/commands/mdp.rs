//! `rlhf mdp`.

use rlhf_mdp::{Settings, solve};

use crate::flags::MdpArgs;
use crate::output::{print, print_json};

pub(crate) fn run(args: &MdpArgs) -> anyhow::Result<()> {
    let settings = Settings {
        discount: args.discount,
        episodes: args.episodes,
        lambda: args.lambda,
        beta: args.beta,
        seed: args.seed,
        ..Settings::default()
    };
    let solution = solve(&args.environment, args.method, &settings)?;
    if args.json {
        return print_json(&solution);
    }
    print(solution.render());
    if let Some(error) = solution.error {
        print(&format!(
            "largest distance from the exact values: {error:.4}\n"
        ));
    }
    Ok(())
}
