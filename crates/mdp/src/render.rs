//! Values and policies as tables for a terminal.

use crate::environments::{Cell, Environment, GridWorld, MOVES};
use crate::error::Result;
use crate::policy::Policy;

/// Smallest probability of an action that is drawn as an arrow; less is exploration.
const DRAWN: f64 = 1e-3;

/// V `[S]` as text: on the grid if there is one, else one line per state.
pub fn values(environment: &dyn Environment, values: &[f64]) -> Result<String> {
    environment.mdp().check_values(values)?;
    Ok(match environment.grid() {
        Some(world) => grid(world, |s| format!("{:.3}", unsigned_zero(values[s]))),
        None => lines(environment, |s| {
            format!("{:>9.4}", unsigned_zero(values[s]))
        }),
    })
}

/// π as text: the likeliest actions as arrows on the grid if there is one, else the probabilities, one line per state.
pub fn policy(environment: &dyn Environment, policy: &Policy) -> Result<String> {
    policy.check(environment.mdp())?;
    Ok(match environment.grid() {
        Some(world) => grid(world, |s| arrows(policy.row(s))),
        None => lines(environment, |s| {
            let choice = |(a, p): (usize, &f64)| format!("{} {p:.4}", environment.action_name(a));
            policy
                .row(s)
                .iter()
                .enumerate()
                .map(choice)
                .collect::<Vec<_>>()
                .join("   ")
        }),
    })
}

/// The arrows of the likeliest moves, ties included.
fn arrows(row: &[f64]) -> String {
    let top = row.iter().copied().fold(0.0, f64::max);
    row.iter()
        .zip(MOVES)
        .filter(|(p, _)| **p > top - DRAWN)
        .map(|(_, arrow)| arrow)
        .collect()
}

/// Turns −0.0, which would print as "-0.000", into 0.
fn unsigned_zero(x: f64) -> f64 {
    if x.abs() < 5e-5 { 0.0 } else { x }
}

/// The grid with `cell(s)` in every free cell, walls filled, terminal cells showing their reward in brackets.
fn grid(world: &GridWorld, cell: impl Fn(usize) -> String) -> String {
    let text = |row: usize, column: usize, kind: &Cell| match (kind, world.state(row, column)) {
        (Cell::End(0.0), _) => "[0]".into(),
        (Cell::End(reward), _) => format!("[{reward:+}]"),
        (Cell::Free, Some(s)) => cell(s),
        _ => String::new(),
    };
    let cells: Vec<Vec<String>> = world
        .cells()
        .iter()
        .enumerate()
        .map(|(r, row)| {
            row.iter()
                .enumerate()
                .map(|(c, kind)| text(r, c, kind))
                .collect()
        })
        .collect();
    let width = cells
        .iter()
        .flatten()
        .map(|c| c.chars().count())
        .max()
        .unwrap_or(0);
    let columns = cells.first().map_or(0, Vec::len);
    let rule = |left: &str, middle: &str, right: &str| {
        format!(
            "{left}{}{right}\n",
            vec!["─".repeat(width + 2); columns].join(middle)
        )
    };
    let mut out = rule("┌", "┬", "┐");
    for (r, row) in cells.iter().enumerate() {
        if r > 0 {
            out += &rule("├", "┼", "┤");
        }
        for (c, text) in row.iter().enumerate() {
            let wall = world.cells()[r][c] == Cell::Wall;
            out += &if wall {
                format!("│{}", "█".repeat(width + 2))
            } else {
                format!("│ {text:>width$} ")
            };
        }
        out += "│\n";
    }
    out + &rule("└", "┴", "┘")
}

/// One line for every state that is not terminal: its name, and `text(s)`.
fn lines(environment: &dyn Environment, text: impl Fn(usize) -> String) -> String {
    let open: Vec<usize> = (0..environment.mdp().states())
        .filter(|&s| !environment.mdp().is_terminal(s))
        .collect();
    let width = open
        .iter()
        .map(|&s| environment.state_name(s).chars().count())
        .max()
        .unwrap_or(0);
    open.iter()
        .map(|&s| format!("{:<width$}  {}\n", environment.state_name(s), text(s)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Chain, evaluate, value_iteration};

    #[test]
    fn a_grid_shows_values_arrows_walls_and_ends() {
        // By hand: one row, the end on the right; γ² … γ⁰ and arrows to the right.
        let world = GridWorld::from_map("..#\n..+", 0.0, 0.0, 0.5).unwrap();
        let plan = value_iteration(world.mdp(), 1e-12).unwrap();
        let drawn = values(&world, &plan.values).unwrap();
        assert_eq!(
            drawn,
            "┌───────┬───────┬───────┐\n\
             │ 0.250 │ 0.500 │███████│\n\
             ├───────┼───────┼───────┤\n\
             │ 0.500 │ 1.000 │  [+1] │\n\
             └───────┴───────┴───────┘\n"
        );
        let drawn = policy(&world, &plan.policy).unwrap();
        assert_eq!(
            drawn,
            "┌──────┬──────┬──────┐\n\
             │   →↓ │    ↓ │██████│\n\
             ├──────┼──────┼──────┤\n\
             │    → │    → │ [+1] │\n\
             └──────┴──────┴──────┘\n"
        );
    }

    #[test]
    fn other_worlds_are_listed_without_their_ends() {
        let chain = Chain::new(2, 1.0).unwrap();
        let plan = evaluate(chain.mdp(), &Policy::uniform(chain.mdp())).unwrap();
        assert_eq!(
            values(&chain, &plan.values).unwrap(),
            "1     0.3333\n2     0.6667\n"
        );
        assert_eq!(
            policy(&chain, &plan.policy).unwrap(),
            "1  left 0.5000   right 0.5000\n2  left 0.5000   right 0.5000\n"
        );
    }

    #[test]
    fn tables_of_another_world_are_refused() {
        let chain = Chain::new(2, 1.0).unwrap();
        assert!(values(&chain, &[0.0]).is_err());
    }
}
