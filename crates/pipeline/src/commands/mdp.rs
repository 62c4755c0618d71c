//! `rlhf mdp`.

use rlhf_mdp::{Settings, solve};

use crate::flags::MdpArgs;
use crate::output::print_result;

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
    print_result(args.json, &solution, || {
        let error = solution
            .error
            .map(|error| format!("largest distance from the exact values: {error:.4}\n"));
        solution.render().to_owned() + &error.unwrap_or_default()
    })
}
