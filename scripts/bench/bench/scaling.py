"""How our cost grows: each curve is a list of points, each point one run of three steps, the first dropped."""

from bench import ours
from bench.home import MODELS, ROWS
from bench.process import CORES

STEPS = 3
SIZES = {"llama-10m": 10.2, "llama-30m": 29.0, "llama-85m": 85.7, "llama-180m": 178.1, "llama-350m": 358.2}


def dense(label, model, length, batch, cores=CORES):
    rows = ROWS / "corpus-2048.jsonl"
    return ours.sft(label, MODELS / model, rows, batch, STEPS, length, dense=True, cores=cores)


def continuations(kind, k, prompts=6):
    """Six prompts with K answers each: prompts shared, or every answer a row of its own."""
    batch = prompts if kind == "shared" else prompts * k
    return ours.reward(
        f"{kind}-{k}", MODELS / "llama-30m", ROWS / f"{kind}-{k}.jsonl", ROWS / "separate-1.jsonl", batch, STEPS, 2048
    )


# name: (title, x axis, y axis, {series: [(x, run, work of a step or None for its tokens)]})
def curves(quick):
    few = slice(0, 2) if quick else slice(None)
    base = "llama-10m" if quick else "llama-30m"
    lengths, batches, models = [128, 256, 512, 1024, 2048][few], [1, 2, 4, 8, 16, 32][few], list(SIZES)[few]
    tokens = 256 if quick else 2048
    return {
        "length": (
            f"Sequence length ({tokens} tokens a step, {base[6:].upper()} parameters)", "tokens a sequence", "tokens/s",
            {"": [(n, lambda n=n: dense(f"length-{n}", base, n, tokens // n), None) for n in lengths]},
        ),
        "batch": (
            f"Batch (256 tokens a row, {base[6:].upper()} parameters)", "rows a step", "tokens/s",
            {"": [(n, lambda n=n: dense(f"batch-{n}", base, 256, n), None) for n in batches]},
        ),
        "size": (
            "Model size (4 rows of 256 tokens a step)", "million parameters", "tokens/s",
            {"": [(SIZES[m], lambda m=m: dense(f"size-{m}", m, 256, 4), None) for m in models]},
        ),
        "threads": (
            f"Threads (4 rows of 256 tokens a step, {'10M' if quick else '85M'} parameters)", "threads", "tokens/s",
            {"": [
                (n, lambda n=n: dense(f"threads-{n}", base if quick else "llama-85m", 256, 4, CORES[:n]), None)
                for n in range(1, len(CORES) + 1)
            ]},
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
