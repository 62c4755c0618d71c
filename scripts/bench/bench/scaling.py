"""How cost grows, ours and PyTorch eager's: each curve is a list of points, each point one run of a few steps, the first of them warm-up."""

import json

from bench import ours, rival
from bench.home import MODELS, ROWS
from bench.process import CORES

STEPS = 3
SIZES = {"llama-10m": 10.2, "llama-30m": 29.0, "llama-85m": 85.7, "llama-180m": 178.1, "llama-350m": 358.2, "llama-1b": 1013.0}
OURS, THEIRS, ROOF = "rlhf", "PyTorch eager", "the matrix product's peak"


def rows(length):
    return ROWS / ("corpus-2048.jsonl" if length <= 2048 else "corpus-8192.jsonl")


def dense(label, model, length, batch, cores=CORES, steps=STEPS):
    return ours.sft(label, MODELS / model, rows(length), batch, steps, length, dense=True, cores=cores)


def dense_theirs(label, model, length, batch, cores=CORES, steps=STEPS):
    ids = rows(length).with_suffix(".ids.jsonl")
    arguments = ["--model", MODELS / model, "--rows", ids, "--steps", steps, "--batch", batch, "--length", length]
    return rival.run("step.py", f"{label}-pytorch", arguments, cores=cores)


def flops_per_token(model, length):
    """6 N and causal attention, 6 · S · H a block: forward and twice that backward, of half a square."""
    config = json.loads((MODELS / model / "config.json").read_text())
    hidden, inner, blocks = (config[key] for key in ("hidden_size", "intermediate_size", "num_hidden_layers"))
    weights = blocks * (4 * hidden**2 + 3 * hidden * inner) + config["vocab_size"] * hidden
    return 6 * weights + blocks * 6 * length * hidden


def continuations(kind, k, prompts=6):
    """Six prompts with K answers each: prompts shared, or every answer a row of its own."""
    batch = prompts if kind == "shared" else prompts * k
    return ours.reward(
        f"{kind}-{k}", MODELS / "llama-30m", ROWS / f"{kind}-{k}.jsonl", ROWS / "separate-1.jsonl", batch, STEPS, 2048
    )


def both(points):
    """Series of both sides, and the roof above them, of `{x: what dense() takes}`."""
    roof = lambda label, model, length, batch, cores=CORES, steps=STEPS: (len(cores), flops_per_token(model, length))
    series = {OURS: dense, THEIRS: dense_theirs, ROOF: roof}
    return {label: [(x, lambda f=f, of=of: f(**of), None) for x, of in points.items()] for label, f in series.items()}


# name: (title, x axis, y axis, {series: [(x, run, work of a step or None for its tokens)]})
def curves(quick):
    few = slice(0, 2) if quick else slice(None)
    base = "llama-10m" if quick else "llama-30m"
    middle = base if quick else "llama-85m"
    lengths, batches, models = [128, 512, 2048, 8192][few], [1, 2, 4, 8, 16][few], list(SIZES)[few]
    tokens = 256 if quick else 2048
    # A billion parameters take 40 s a step: one after the warm-up.
    steps = lambda model: 2 if SIZES[model] > 300 else STEPS
    return {
        "length": (
            f"Sequence length ({tokens} tokens a step or one sequence, {base[6:].upper()} parameters)", "tokens a sequence", "tokens/s",
            both({n: dict(label=f"length-{n}", model=base, length=n, batch=max(1, tokens // n)) for n in lengths}),
        ),
        "batch": (
            f"Batch (256 tokens a row, {base[6:].upper()} parameters)", "rows a step", "tokens/s",
            both({n: dict(label=f"batch-{n}", model=base, length=256, batch=n) for n in batches}),
        ),
        "size": (
            "Model size (2 rows of 256 tokens a step)", "million parameters", "tokens/s",
            both({SIZES[m]: dict(label=f"size-{m}", model=m, length=256, batch=2, steps=steps(m)) for m in models}),
        ),
        "threads": (
            f"Threads (4 rows of 256 tokens a step, {middle[6:].upper()} parameters)", "threads", "tokens/s",
            both({n: dict(label=f"threads-{n}", model=middle, length=256, batch=4, cores=CORES[:n]) for n in range(1, len(CORES) + 1)}),
        ),
        "continuations": (
            "K answers to a prompt (150 words, 40 an answer, 30M parameters)", "answers a prompt", "answers/s",
            {
                title: [(k, lambda k=k, kind=kind: continuations(kind, k), 6 * k) for k in [1, 2, 4, 8][few]]
                for kind, title in [("shared", "prompt shared"), ("separate", "a row for every answer")]
            },
        ),
    }


def rate(measured, per_step):
    steps = list(zip(measured["tokens"], measured["seconds"]))[1:]
    done = sum(per_step or tokens for tokens, _ in steps)
    return done / sum(seconds for _, seconds in steps)
