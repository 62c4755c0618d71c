//! A run goes on with any number of ranks.

use crate::folder::{Folder, assert_same_run};
use crate::mpirun::{copy, done};

const SFT: &str = "sft --model base --data demos.jsonl --schedule constant --save-every 2";
const PPO: &str = "ppo --model base --reward length:3 --prompts prompts.jsonl --eval-prompts prompts.jsonl --schedule constant --save-every 2";

/// Two ranks make two steps, then one and three go on: twice each, with the same bytes; and two end with the bytes of the run that never
/// stopped.
#[test]
fn a_run_goes_on_with_any_number_of_ranks_to_the_same_bytes_each_time() {
    let folder = Folder::pipeline();
    for (name, line) in [("sft", SFT), ("ppo", PPO)] {
        let of = |out: &str| folder.path(&format!("runs/{name}-{out}"));
        done(
            &folder,
            2,
            &format!("{line} --steps 4 --out runs/{name}-whole"),
        );
        done(
            &folder,
            2,
            &format!("{line} --steps 2 --out runs/{name}-begun"),
        );
        for (ranks, out) in [(1, "1"), (1, "1b"), (2, "2"), (3, "3"), (3, "3b")] {
            copy(&of("begun"), &of(out));
            let line = format!("{name} --resume --steps 4 --out runs/{name}-{out}");
            match ranks {
                1 => folder.done(&line),
                n => done(&folder, n, &line),
            };
        }
        assert_same_run(&of("1"), &of("1b"));
        assert_same_run(&of("3"), &of("3b"));
        assert_same_run(&of("2"), &of("whole"));
    }
}
