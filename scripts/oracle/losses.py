"""Prints the numbers that unit tests of losses, advantages, rewards and dynamic programming assert, computed with NumPy alone.

    pip install -r scripts/oracle/requirements.txt
    python scripts/oracle/losses.py

Everything is written from the formulas, in f64 and in the plainest form that is exact at these inputs: loops where the Rust code
has recursions or tensor operations, so that the two share no trick that could be wrong in both.
"""

import itertools

import numpy as np


def log_sigmoid(x):
    return -np.logaddexp(0.0, -x)


def show(section, what, value):
    value = np.asarray(value, dtype=np.float64)
    with np.printoptions(precision=9, suppress=False, linewidth=200, floatmode="maxprec"):
        print(f"{section:10} {what:70} {np.array2string(value, separator=', ', max_line_width=200)}")


# Reward model.


def pair(chosen_minus_rejected, margin=0.0):
    return -log_sigmoid(chosen_minus_rejected - margin)


def ranking(scores, ranks, ties):
    """Mean over pairs of the Bradley-Terry loss; a tied pair counts half each way, or is skipped."""
    terms = []
    for i, j in itertools.combinations(range(len(scores)), 2):
        d = scores[i] - scores[j]
        if ranks[i] < ranks[j]:
            terms.append(-log_sigmoid(d))
        elif ranks[i] > ranks[j]:
            terms.append(-log_sigmoid(-d))
        elif ties == "half":
            terms.append(-0.5 * (log_sigmoid(d) + log_sigmoid(-d)))
    return np.mean(terms)


def best_of(scores, best):
    return np.log(np.sum(np.exp(scores))) - scores[best]


def binary(score, label):
    return -(label * log_sigmoid(score) + (1 - label) * log_sigmoid(-score))


def reward_model():
    for difference, margin in [(0, 0), (1, 0), (1, 0.5), (-100, 0)]:
        show("pair", f"difference {difference}, margin {margin}", pair(difference, margin))
    scores = np.array([2.0, 1.0, 0.5, -1.0])
    for ties in ["skip", "half"]:
        show("ranking", f"scores 2 1 .5 -1, ranks 1 2 2 4, ties {ties}", ranking(scores, [1, 2, 2, 4], ties))
    show("best of K", "scores 2 1 .5 -1, the first is best", best_of(scores, 0))
    for score, label in [(2, 1), (2, 0), (-50, 1)]:
        show("thumbs", f"score {score}, label {label}", binary(score, label))


# PPO.


def shaped_rewards(logprobs, ref_logprobs, score, kl_coef):
    """-beta (log pi - log pi_ref) for every token; the score is added at the last."""
    rewards = -kl_coef * (np.array(logprobs) - np.array(ref_logprobs))
    rewards[-1] += score
    return rewards


def advantages(rewards, values, gamma, lam):
    """The defining sum over l of (gamma lambda)^l delta_{t+l}; no recursion."""
    n = len(rewards)
    after = np.append(values[1:], 0.0)
    delta = rewards + gamma * after - values
    return np.array([sum((gamma * lam) ** (k - t) * delta[k] for k in range(t, n)) for t in range(n)])


def rloo(rewards):
    return [r - np.mean(rewards[:i] + rewards[i + 1 :]) for i, r in enumerate(rewards)]


def grpo(rewards):
    return (np.array(rewards) - np.mean(rewards)) / (np.std(rewards, ddof=1) + 1e-4)


def returns(rewards, gamma):
    """The defining sum from each token on; no recursion."""
    n = len(rewards)
    return [sum(gamma ** (k - t) * rewards[k] for k in range(t, n)) for t in range(n)]


def whiten(x, mask, ddof=0):
    kept = x[mask]
    out = np.zeros_like(x)
    out[mask] = (kept - kept.mean()) / np.sqrt(kept.var(ddof=ddof) + 1e-8)
    return out


def policy_loss(ratio, advantage, clip=0.2):
    return max(-advantage * ratio, -advantage * np.clip(ratio, 1 - clip, 1 + clip))


def value_loss(value, old_value, target, clip=0.2):
    clipped = old_value + np.clip(value - old_value, -clip, clip)
    return 0.5 * max((value - target) ** 2, (clipped - target) ** 2)


def adaptive_kl(kl, target=6.0, episodes=512, horizon=10_000):
    return 1 + np.clip(kl / target - 1, -0.2, 0.2) * episodes / horizon


def ppo():
    for q in [1.0, 1e-4]:
        # At 1e-4 the closed form cancels nine digits in f64; its series does not. Both are right at 1.
        k3 = np.expm1(q) - q if q > 1e-2 else q**2 / 2 + q**3 / 6 + q**4 / 24
        show("kl", f"k1, k2, k3 at log pi_ref - log pi = {q:g}", [-q, q * q / 2, k3])
    logprobs = [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6], [0.6, 0.7, 0.8]]
    reference = [[0.2, 0.3, 0.4], [0.6, 0.7, 0.8], [0.9, 1.0, 1.1]]
    for row in range(3):
        show("rewards", f"row {row} of the 3x3 example, score {row + 1}, beta .5", shaped_rewards(logprobs[row], reference[row], row + 1, 0.5))
    rewards, values = np.array([0.1, -0.2, 0.05, 1.3]), np.array([0.5, 0.4, -0.1, 0.2])
    for gamma, lam in [(1, 0.95), (0.99, 0.9), (1, 1)]:
        show("GAE", f"r .1 -.2 .05 1.3, V .5 .4 -.1 .2, gamma {gamma}, lambda {lam}", advantages(rewards, values, gamma, lam))
    show("RLOO", "of rewards 1 2 4 5", rloo([1.0, 2.0, 4.0, 5.0]))
    show("GRPO", "of rewards 1 2 4 5", grpo([1.0, 2.0, 4.0, 5.0]))
    show("Dr. GRPO", "of rewards 1 2 4 5", np.array([1.0, 2.0, 4.0, 5.0]) - 3.0)
    shaped = shaped_rewards([-1.0, -1.0, -1.0], [-1.2, -0.9, -1.3], 1.0, 0.1)
    for gamma in [1.0, 0.5]:
        show("REINFORCE++", f"k1 .2 -.1 .3, beta .1, score 1, gamma {gamma:g}, before whitening", returns(shaped, gamma))
    mask = np.array([False, True, True, False])
    show("whiten", "1 2 3 4 with mask 0 1 1 0, population variance", whiten(np.arange(1.0, 5.0), mask))
    show("whiten", "the same, unbiased variance", whiten(np.arange(1.0, 5.0), mask, ddof=1))
    for advantage, ratio, name in [(1, np.e, "e"), (1, 1 / np.e, "1/e"), (1, np.exp(0.1), "e^.1"), (-1, np.e, "e"), (-1, 1 / np.e, "1/e")]:
        show("policy", f"loss at A {advantage}, ratio {name}, clip .2", policy_loss(ratio, advantage))
    show("value", "loss at V 1.5, V_old 1, R 2, clip .2", value_loss(1.5, 1.0, 2.0))
    rows = [[1.0, 2.0], [3.0, 4.0, 5.0], [7.0]]
    show("mean", "over all tokens of rows [1 2] [3 4 5] [7]", np.mean(np.concatenate(rows)))
    show("mean", "over these rows of the mean over their tokens", np.mean([np.mean(row) for row in rows]))
    for kl in [9.0, 3.0]:
        show("adaptive", f"factor on beta at KL {kl:g}, target 6, 512 episodes, horizon 10000", adaptive_kl(kl))


# Markov decision processes.


def sutton_barto_grid():
    """Value of the random policy on the 4x4 grid with two terminal corners, -1 per step, gamma 1: one linear system."""
    states = [s for s in range(16) if s not in (0, 15)]
    a, b = np.eye(16), np.zeros(16)
    for s in states:
        row, column = divmod(s, 4)
        b[s] = -1
        for dr, dc in [(-1, 0), (1, 0), (0, -1), (0, 1)]:
            r, c = row + dr, column + dc
            after = r * 4 + c if 0 <= r < 4 and 0 <= c < 4 else s
            if after not in (0, 15):
                a[s, after] -= 0.25
    return np.linalg.solve(a, b).reshape(4, 4)


def mdp():
    grid = sutton_barto_grid()
    for row in range(4):
        show("4x4 grid", f"random policy, row {row}", np.round(grid[row], 9) + 0.0)
    reference, reward, beta = np.array([0.5, 0.3, 0.2]), np.array([1.0, 0.0, 2.0]), 0.5
    weights = reference * np.exp(reward / beta)
    show("KL optimum", "pi* of the bandit pi_ref .5 .3 .2, r 1 0 2, beta .5", weights / weights.sum())
    show("KL optimum", "its value", beta * np.log(weights.sum()))


def choosing():
    """What four heads disagree about between three answers."""
    heads = np.array([[1, 0.2, 0.5], [0.8, 0.6, 0.1], [1.2, 0, 0.6], [0.9, 0.4, 0.2]])
    show("choosing", "mean of each answer", heads.mean(axis=0))
    entropy = lambda p: -p * np.log(p) - (1 - p) * np.log(1 - p)
    for i, j in itertools.combinations(range(3), 2):
        d = heads[:, i] - heads[:, j]
        wins = 1 / (1 + np.exp(-d))
        show("choosing", f"sd of d of answers {i} and {j}, over the heads", d.std())
        show("choosing", f"BALD of answers {i} and {j}", entropy(wins.mean()) - entropy(wins).mean())
        show("choosing", f"|mean d| + sd d of answers {i} and {j}", abs(d.mean()) + d.std())


if __name__ == "__main__":
    reward_model()
    choosing()
    ppo()
    mdp()
