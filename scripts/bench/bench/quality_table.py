"""The table of both sides: what the judge says, and what the training has cost."""

import statistics

from bench import machine, process, quality

# What each of our rows is called, and the rival that stands below it.
OURS = {
    "sft": ("SFT, where all start", None),
    "best_of_4": ("best of 4 of SFT", None),
    "dpo": ("`rlhf` DPO", "dpo"),
    "ipo": ("`rlhf` IPO", None),
    "ppo": ("`rlhf` PPO", "ppo"),
    "rloo": ("`rlhf` RLOO", "rloo"),
    "grpo": ("`rlhf` GRPO", None),
}


def spread(values, mark=""):
    if any(value is None for value in values):
        return "–"
    mean = f"{mark}{statistics.mean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} [{min(values):.3f}, {max(values):.3f}]"


def row(title, of_seeds):
    """`of_seeds`: of each seed what the judge says and what it has cost, where it has."""
    all_of = lambda name: [one.get(name) for one in of_seeds]
    mark = "≤ " if any(all_of("kl_bound")) else ""
    cost = ["", ""]
    if None not in all_of("seconds"):
        cost = [f"{statistics.mean(all_of('seconds')):.0f}", f"{max(all_of('peak')) / 2**20:.0f} MiB"]
    return [title, spread(all_of("gold")), spread(all_of("reward")), spread(all_of("kl"), mark), spread(all_of("win_rate")), *cost]


def ours(name, folders):
    """Of each seed, our model of that name with its cost."""
    of_seeds = []
    for folder in folders:
        model, cost = quality.evaluation(folder)[name], folder / name / "cost.json"
        if cost.exists():
            paid = quality.read(cost)
            model |= {"seconds": paid["seconds"], "peak": paid["peak_bytes"]}
        of_seeds.append(model)
    return of_seeds


def table(folders, results):
    """`folders`: of each seed that of the run; `results`: of each seed the rivals' figures, of all that are to be shown."""
    rows = [["", "gold", "reward", "KL", "wins", "seconds", "memory"], ["---"] + ["---:"] * 6]
    for name, (title, rival) in OURS.items():
        if all(name in quality.evaluation(folder) for folder in folders.values()):
            rows.append(row(title, ours(name, folders.values())))
        if rival and all(rival in results.get(seed, {}) for seed in folders):
            rows.append(row(quality.TRAINED[rival].title, [results[seed][rival] for seed in folders]))
    return "\n".join("| " + " | ".join(cells) + " |" for cells in rows)


def page(folders, results):
    """The table, and what is to be known about it."""
    shown = [figures for of_seed in results.values() for figures in of_seed.values()]
    evaluations = [quality.evaluation(folder) for folder in folders.values()]
    (prompts,) = {quality.read(folder / "evaluation.json")["prompts"] for folder in folders.values()}
    intervals = [e[name]["gold_ci"] for e in evaluations for name, (_, rival) in OURS.items() if rival and name in e]
    known_to = max((high - low) / 2 for low, high in intervals)
    busy = max((figures["others"] for figures in shown), default=0.0)
    seeds = ", ".join(folders)
    brackets = "" if len(folders) == 1 else "; means over seeds, in brackets the lowest and the highest"
    text = f"""{table(folders, results)}

Seed {seeds}{brackets}. {prompts} held-out prompts of the Tiny World, one answer each, judged by `rlhf eval` with one seed on both sides: *gold* by the
program that knows the truth, *reward* by the reward model that PPO and RLOO learn from, *KL* to SFT in nats a response, *wins* against SFT
by gold, ties half. The gold score of one seed is known to ±{known_to:.3f} (95 %). All start from the same SFT model.

*seconds*, mean over seeds: ours from the start of the stage to its end, with loading, checkpoints and evaluations; TRL's from loaded models
to the last optimizer step, without imports, loading, saving and evaluations. *memory*: the largest resident set of the seeds; ours of the
stage, TRL's of its process. {machine.of_cpu("model name")}, {len(process.CORES)} threads on each side.
"""
    if busy > 0.05:
        text += f"\nOther processes took up to {busy:.0%} of the cores while TRL trained: its seconds are too many.\n"
    return text
