//! Grid worlds of the textbooks.

use crate::environments::Environment;
use crate::error::{Error, Result};
use crate::mdp::{Mdp, Outcome};

/// The four moves, in the order of the actions, as arrows.
pub const MOVES: [char; 4] = ['↑', '→', '↓', '←'];

/// The change of (row, column) by each of [`MOVES`].
const STEPS: [(isize, isize); 4] = [(-1, 0), (0, 1), (1, 0), (0, -1)];

/// A cell of the grid.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Cell {
    /// A state with four actions.
    Free,
    /// Not a state: a move into it, or off the grid, stays in place.
    Wall,
    /// The episode ends on entering, with this reward.
    End(f64),
}

/// A rectangle of cells; every cell but walls is a state, numbered row by row.
///
/// A move has reward `step_reward`, plus that of the end it enters, if any. With probability `slip` it goes at a right angle
/// instead, to either side with equal probability. Episodes begin in a uniformly random free cell.
#[derive(Debug, Clone)]
pub struct GridWorld {
    cells: Vec<Vec<Cell>>,
    positions: Vec<(usize, usize)>,
    mdp: Mdp,
    start: Vec<f64>,
}

impl GridWorld {
    /// A world from its rows of cells, all of one length and with at least one free cell.
    pub fn new(cells: Vec<Vec<Cell>>, step_reward: f64, slip: f64, discount: f64) -> Result<Self> {
        if !(0.0..=1.0).contains(&slip) {
            return Err(Error::OutOfRange {
                name: "slip",
                range: "between 0 and 1",
                found: slip,
            });
        }
        let width = cells.first().map_or(0, Vec::len);
        for (row, line) in cells.iter().enumerate() {
            if line.len() != width {
                let problem = format!("{} cells, the first line has {width}", line.len());
                return Err(Error::BadMap {
                    line: row + 1,
                    problem,
                });
            }
        }
        let mut positions = Vec::new();
        for (row, line) in cells.iter().enumerate() {
            positions.extend(
                (0..width)
                    .filter(|&column| line[column] != Cell::Wall)
                    .map(|column| (row, column)),
            );
        }
        let free: Vec<bool> = positions
            .iter()
            .map(|&(row, column)| cells[row][column] == Cell::Free)
            .collect();
        let count = free.iter().filter(|&&f| f).count();
        if count == 0 {
            return Err(Error::BadMap {
                line: 1,
                problem: "no free cell anywhere".into(),
            });
        }
        let start = free
            .iter()
            .map(|&f| if f { 1.0 / count as f64 } else { 0.0 })
            .collect();
        let outcomes = (0..positions.len())
            .map(|s| {
                if free[s] {
                    (0..4)
                        .map(|a| ways(&cells, &positions, s, a, step_reward, slip))
                        .collect()
                } else {
                    vec![]
                }
            })
            .collect();
        Ok(Self {
            mdp: Mdp::new(outcomes, discount)?,
            cells,
            positions,
            start,
        })
    }

    /// A world from a drawing: `.` free, `#` wall, `+` end with +1, `-` end with −1, `0` end with 0.
    pub fn from_map(map: &str, step_reward: f64, slip: f64, discount: f64) -> Result<Self> {
        let mut cells = Vec::new();
        for (i, line) in map.lines().enumerate() {
            let row = line.chars().map(|c| match c {
                '.' => Ok(Cell::Free),
                '#' => Ok(Cell::Wall),
                '+' => Ok(Cell::End(1.0)),
                '-' => Ok(Cell::End(-1.0)),
                '0' => Ok(Cell::End(0.0)),
                c => Err(Error::BadMap {
                    line: i + 1,
                    problem: format!("{c:?} is no kind of cell"),
                }),
            });
            cells.push(row.collect::<Result<Vec<_>>>()?);
        }
        Self::new(cells, step_reward, slip, discount)
    }

    /// The 4×3 world of Russell & Norvig (*AIMA*, §17.1) without slipping: a wall, an end with +1 and one with −1.
    pub fn classic(discount: f64) -> Result<Self> {
        Self::from_map("...+\n.#.-\n....", 0.0, 0.0, discount)
    }

    /// Sutton & Barto's 4×4 grid (Example 4.1): ends in two corners, −1 per step.
    pub fn small(discount: f64) -> Result<Self> {
        Self::from_map("0...\n....\n....\n...0", -1.0, 0.0, discount)
    }

    /// A walk along a cliff, after Sutton & Barto's Example 6.6: −1 per step, and the cliff ends the episode with −100.
    ///
    /// Episodes begin in the lower left corner; the goal is the lower right one.
    pub fn cliff(discount: f64) -> Result<Self> {
        let mut cells = vec![vec![Cell::Free; 8]; 4];
        cells[3][1..7].fill(Cell::End(-100.0));
        cells[3][7] = Cell::End(0.0);
        Self::new(cells, -1.0, 0.0, discount)?.starting_at(3, 0)
    }

    /// The same world with every episode beginning at (row, column), which must be free.
    pub fn starting_at(mut self, row: usize, column: usize) -> Result<Self> {
        let state = self
            .state(row, column)
            .filter(|&s| !self.mdp.is_terminal(s))
            .ok_or_else(|| Error::BadMap {
                line: row + 1,
                problem: format!(
                    "episodes cannot begin in column {}, it is not free",
                    column + 1
                ),
            })?;
        self.start.fill(0.0);
        self.start[state] = 1.0;
        Ok(self)
    }

    /// The cells, row by row.
    pub fn cells(&self) -> &[Vec<Cell>] {
        &self.cells
    }

    /// The state at (row, column); none in a wall or off the grid.
    pub fn state(&self, row: usize, column: usize) -> Option<usize> {
        self.positions.iter().position(|&p| p == (row, column))
    }

    /// (row, column) of a state.
    pub fn position(&self, state: usize) -> (usize, usize) {
        self.positions[state]
    }
}

/// The outcomes of `action` in state `s`.
fn ways(
    cells: &[Vec<Cell>],
    positions: &[(usize, usize)],
    s: usize,
    action: usize,
    step_reward: f64,
    slip: f64,
) -> Vec<Outcome> {
    let turns = [
        (action, 1.0 - slip),
        ((action + 1) % 4, slip / 2.0),
        ((action + 3) % 4, slip / 2.0),
    ];
    turns
        .into_iter()
        .filter(|&(_, probability)| probability > 0.0)
        .map(|(direction, probability)| {
            let (row, column) = positions[s];
            let (down, right) = STEPS[direction];
            let next = row
                .checked_add_signed(down)
                .zip(column.checked_add_signed(right))
                .and_then(|target| positions.iter().position(|&p| p == target))
                .unwrap_or(s);
            let (row, column) = positions[next];
            let bonus = if let Cell::End(reward) = cells[row][column] {
                reward
            } else {
                0.0
            };
            Outcome {
                probability,
                next,
                reward: step_reward + bonus,
            }
        })
        .collect()
}

impl Environment for GridWorld {
    fn mdp(&self) -> &Mdp {
        &self.mdp
    }
    fn start(&self) -> &[f64] {
        &self.start
    }
    fn state_name(&self, state: usize) -> String {
        let (row, column) = self.positions[state];
        format!("({row},{column})")
    }
    fn action_name(&self, action: usize) -> String {
        ["up", "right", "down", "left"][action].into()
    }
    fn grid(&self) -> Option<&GridWorld> {
        Some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Policy, evaluate, evaluate_iteratively, policy_iteration, value_iteration};

    #[test]
    fn the_random_policy_on_the_small_grid_has_sutton_and_bartos_values() {
        // Source: Sutton & Barto, 2nd ed., Figure 4.1 (k = ∞), exact integers.
        let expected = [
            0., -14., -20., -22., -14., -18., -20., -20., -20., -20., -18., -14., -22., -20., -14.,
            0.,
        ];
        let world = GridWorld::small(1.0).unwrap();
        let uniform = Policy::uniform(world.mdp());
        let solved = evaluate(world.mdp(), &uniform).unwrap().values;
        let swept = evaluate_iteratively(world.mdp(), &uniform, 1e-12)
            .unwrap()
            .values;
        for s in 0..16 {
            assert!((solved[s] - expected[s]).abs() < 1e-12, "{solved:?}");
            // A sweep shrinks the error by about .95 here, so a change of 1e-12 leaves an error near 2e-11.
            assert!((swept[s] - expected[s]).abs() < 1e-10, "{swept:?}");
        }
    }

    #[test]
    fn the_shortest_way_out_of_the_small_grid_is_its_optimum() {
        // Closed form: minus the number of moves to the nearer corner.
        let world = GridWorld::small(1.0).unwrap();
        let plan = value_iteration(world.mdp(), 1e-12).unwrap();
        for s in 0..16 {
            let (row, column) = world.position(s);
            let moves = (row + column).min(6 - row - column);
            assert_eq!(plan.values[s], -(moves as f64));
        }
    }

    #[test]
    fn with_slipping_the_values_are_those_printed_by_russell_and_norvig() {
        // Source: AIMA, 3rd ed., Figure 17.3 (step reward −.04, slip .2, γ 1), printed to three decimals.
        let expected = [
            0.812, 0.868, 0.918, 0.0, 0.762, 0.660, 0.0, 0.705, 0.655, 0.611, 0.388,
        ];
        let world = GridWorld::from_map("...+\n.#.-\n....", -0.04, 0.2, 1.0).unwrap();
        let plan = value_iteration(world.mdp(), 1e-12).unwrap();
        for (v, e) in plan.values.iter().zip(expected) {
            assert!((v - e).abs() <= 0.0005, "{:?}", plan.values);
        }
        // The policy printed there (Figure 17.2a): round by the left, and away from −1.
        let arrows: String = (0..world.mdp().states())
            .map(|s| {
                plan.policy
                    .row(s)
                    .iter()
                    .position(|&p| p == 1.0)
                    .map_or('o', |a| MOVES[a])
            })
            .collect();
        assert_eq!(arrows, "→→→o↑↑o↑←←←");
    }

    #[test]
    fn without_slipping_the_classic_optimum_is_gamma_to_the_distance() {
        // Closed form: γ^(moves − 1), moves counted on the drawing around the wall.
        let moves = [3, 2, 1, 0, 4, 2, 0, 5, 4, 3, 4];
        let plan = policy_iteration(GridWorld::classic(0.9).unwrap().mdp()).unwrap();
        for (v, d) in plan.values.iter().zip(moves) {
            let expected = if d == 0 { 0.0 } else { 0.9f64.powi(d - 1) };
            assert!((v - expected).abs() < 1e-12, "{:?}", plan.values);
        }
    }

    #[test]
    fn maps_that_cannot_be_read_are_refused_by_line() {
        let problem = |map| {
            GridWorld::from_map(map, 0.0, 0.0, 0.9)
                .unwrap_err()
                .to_string()
        };
        assert!(problem("...\n.x.").contains("line 2: 'x'"));
        assert!(problem("...\n..").contains("line 2: 2 cells"));
        assert!(problem("+#").contains("no free cell"));
        assert!(GridWorld::classic(0.9).unwrap().starting_at(1, 1).is_err());
    }
}
