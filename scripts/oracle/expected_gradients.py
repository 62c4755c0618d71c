"""Prints the table of crates/ppo/README.md that says by what angle the expected gradients of the estimators without a critic are turned.

    pip install -r scripts/oracle/requirements.txt
    python scripts/oracle/expected_gradients.py

The ground is a tree of responses over the tokens a, b and end, of at most three tokens, with a table of logits as policy. Every group of
n responses is enumerated and weighted by its probability. The exact gradient is that of E[S - beta log pi/pi_ref] summed over all
responses, differentiated in closed form; crates/ppo/src/advantage/expected_gradient.rs has it from finite differences of another program.
"""

import itertools

import numpy as np

END, HORIZON, BETA = 2, 3, 0.3


def finished(y):
    return len(y) == HORIZON or (len(y) > 0 and y[-1] == END)


def score(y):
    """+1 for ending, +1/2 for each a, -1 for "bb"."""
    return (y[-1] == END) + 0.5 * y.count(0) - any(y[i : i + 2] == (1, 1) for i in range(len(y)))


def tree():
    """Prefixes breadth first, children in the order of the tokens."""
    states = [()]
    for y in states:
        if not finished(y):
            states += [(*y, a) for a in range(3)]
    return states


STATES = tree()
INDEX = {y: i for i, y in enumerate(STATES)}
RESPONSES = [y for y in STATES if finished(y)]


def table(a, b):
    """Rows of log-probabilities; a state that is no response any more is never asked."""
    logits = np.array([[0.3 * ((a * s + b * x) % 5) for x in range(3)] for s in range(len(STATES))])
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


POLICY, REFERENCE = table(3, 2), table(7, 3)


def steps(y):
    return [(INDEX[y[:t]], y[t]) for t in range(len(y))]


def slope(s, a):
    """d log pi(a|s) / dz."""
    out = np.zeros_like(POLICY)
    out[s] -= np.exp(POLICY[s])
    out[s, a] += 1
    return out


SLOPES = {y: [slope(s, a) for s, a in steps(y)] for y in RESPONSES}
PROBABILITY = {y: np.exp(sum(POLICY[s, a] for s, a in steps(y))) for y in RESPONSES}
REWARDS = {}
for y in RESPONSES:
    REWARDS[y] = np.array([-BETA * (POLICY[s, a] - REFERENCE[s, a]) for s, a in steps(y)])
    REWARDS[y][-1] += score(y)


def exact():
    """d/dz sum_y pi(y) R(y) = sum_y pi(y) R(y) d log pi(y)/dz; that R moves with pi adds nothing on average."""
    return sum(PROBABILITY[y] * REWARDS[y].sum() * sum(SLOPES[y]) for y in RESPONSES)


def spread(group, values):
    return [np.full(len(y), value) for y, value in zip(group, values)]


def rloo(group):
    totals = [REWARDS[y].sum() for y in group]
    return spread(group, [r - np.mean(totals[:i] + totals[i + 1 :]) for i, r in enumerate(totals)])


def dr_grpo(group):
    totals = np.array([REWARDS[y].sum() for y in group])
    return spread(group, totals - totals.mean())


def grpo(group):
    totals = np.array([REWARDS[y].sum() for y in group])
    return spread(group, (totals - totals.mean()) / (totals.std(ddof=1) + 1e-4))


def returns(group):
    return [np.array([REWARDS[y][t:].sum() for t in range(len(y))]) for y in group]


def whitened_returns(group):
    flat = np.concatenate(returns(group))
    return [(g - flat.mean()) / np.sqrt(flat.var() + 1e-8) for g in returns(group)]


WEIGHTS = [
    lambda group, y: 1 / len(group),
    lambda group, y: 1 / sum(map(len, group)),
    lambda group, y: 1 / (len(group) * len(y)),
]


def turned(estimator, n):
    """For each way to weigh tokens the sine of the angle between the expected gradient and the exact one."""
    gradients = [np.zeros_like(POLICY) for _ in WEIGHTS]
    for group in itertools.product(RESPONSES, repeat=n):
        probability = np.prod([PROBABILITY[y] for y in group])
        for y, advantages in zip(group, estimator(group)):
            ascent = sum(a * g for a, g in zip(advantages, SLOPES[y]))
            for gradient, weight in zip(gradients, WEIGHTS):
                gradient += probability * weight(group, y) * ascent
    g = exact()
    sines = []
    for found in gradients:
        rest = found - g * (found * g).sum() / (g * g).sum()
        sines.append(np.linalg.norm(rest) / np.linalg.norm(found))
    return sines


if __name__ == "__main__":
    for name, estimator in [
        ("`rloo`", rloo),
        ("`dr-grpo`", dr_grpo),
        ("`grpo`", grpo),
        ("`reinforce++`, not whitened", returns),
        ("`reinforce++`", whitened_returns),
    ]:
        cells = [f"{two:.3f}, {three:.3f}" for two, three in zip(turned(estimator, 2), turned(estimator, 3))]
        print(f"| {name} | {' | '.join(cells)} |")
