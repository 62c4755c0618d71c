"""From results to BENCHMARKS.md and its plots."""

import re
import statistics

from bench import plot
from bench.home import REPO
from bench.works import WORKS, agreement

# GPT-2 124M's weights that take part in a matrix product, the vocabulary included; blocks and hidden size.
GPT2_WEIGHTS, GPT2_BLOCKS, GPT2_HIDDEN = 12 * 12 * 768**2 + 50257 * 768, 12, 768


def gpt2_flops_per_token(length):
    """6 N and causal attention, 6 · S · H a block: forward and twice that backward, of half a square."""
    return 6 * GPT2_WEIGHTS + GPT2_BLOCKS * 6 * length * GPT2_HIDDEN


def write(results, to):
    merged = {"works": {}, "curves": {}}
    for one in results:
        works, curves = merged["works"] | one["works"], merged["curves"] | one["curves"]
        merged = merged | one | {"works": works, "curves": curves}
    charts = to / "docs/bench"
    charts.mkdir(parents=True, exist_ok=True)
    for name, curve in merged["curves"].items():
        series = {label: [(p["x"], p["y"]) for p in points] for label, points in curve["series"].items()}
        (charts / f"{name}.svg").write_text(plot.chart(curve["title"], curve["x"], curve["y"], series))
    path = to / "BENCHMARKS.md"
    old = path.read_text() if path.exists() else ""
    kept = [found[1] for name in OTHERS if (found := marked(name).search(old))]
    path.write_text("\n".join(page(merged, kept)))


# Sections that other scripts write, and one that tests hold (launches), in their order; a new report keeps them.
OTHERS = ["families", "products", "serving", "ranks", "launches"]


def marked(name):
    return re.compile(rf"(<!-- {name} -->.*?<!-- /{name} -->)", re.S)


def section_of_its_own(name, text):
    """Puts what another script has measured into BENCHMARKS.md, in place of what it said before."""
    path = REPO / "BENCHMARKS.md"
    page = path.read_text()
    text = f"<!-- {name} -->\n{text}\n<!-- /{name} -->"
    if marked(name).search(page):
        page = marked(name).sub(lambda _: text, page)
    else:
        following = [f"<!-- {other} -->" for other in OTHERS[OTHERS.index(name) + 1 :]] + ["## Commands"]
        before = next(heading for heading in following if heading in page)
        page = page.replace(before, f"{text}\n\n{before}", 1)
    path.write_text(page)


def page(results, kept):
    yield "# Benchmarks"
    yield ""
    yield "Written by `scripts/bench/run`; how it works and how to repeat it: [scripts/bench/README.md](scripts/bench/README.md)."
    if results["quick"]:
        yield ""
        yield "**A quick run: tiny sizes, one round. These are not results.**"
    yield ""
    yield from environment(results)
    yield from table(results)
    yield from details(results)
    yield from peak_and_startup(results)
    yield from curves(results)
    for section in kept:
        yield section
        yield ""
    yield from commands(results)


def environment(results):
    e = results["environment"]
    measured = [m for w in results["works"].values() for r in w["rounds"] for m in r.values()]
    measured += [p for c in results["curves"].values() for points in c["series"].values() for p in points]
    yield f"- {e['date']}, {e['cpu']} ({', '.join(e['simd'])}), {e['cores']} of {e['cores_of_machine']} cores, {gib(e['memory'])}, {e['system']}"
    yield f"- {e['rlhf']} (commit {e['commit']}, {e['rustc']})"
    yield f"- {e['rivals']['current']}; for PPO {e['rivals']['ppo']}"
    if measured:
        yield f"- Other processes took at most {max(m['others'] for m in measured):.0%} of the two cores during a measurement"
    yield ""


def table(results):
    yield "Rates are medians over rounds in which the sides took turns on the same two cores; the ratio is the median of the rounds'"
    yield "ratios, their smallest and largest in brackets. A first step is warm-up and not counted. Peak memory is that of the"
    yield "whole process, loading included."
    yield ""
    yield "| work | rival | ours | rival's | ratio | at least | aim | peak memory: ours, rival's, ratio (at most 0.6×, aim 0.4×) |"
    yield "|---|---|---|---|---|---|---|---|"
    for work, rounds in measured_works(results):
        for name, rival in work.rivals.items():
            mine, theirs = [r["ours"] for r in rounds], [r[name] for r in rounds]
            ratios = [a["rate"] / b["rate"] for a, b in zip(mine, theirs)]
            problems = [p for a, b in zip(mine, theirs) if (p := work.disagreement(name, a, b))]
            ratio = "not comparable" if problems else f"**{statistics.median(ratios):.2f}×** ({min(ratios):.2f}–{max(ratios):.2f})"
            a, b = (statistics.median(m["peak"] for m in side) for side in (mine, theirs))
            goal = lambda x: f"{x:g}×" if x else "report"
            yield (
                f"| {work.title} | {rival.title} | {rate(work, mine)} | {rate(work, theirs)} | {ratio} | {goal(rival.at_least)} "
                f"| {goal(rival.aim)} | {gib(a)}, {gib(b)}, {a / b:.2f}× |"
            )
    yield ""


def details(results):
    yield "## Is it the same work?"
    yield ""
    yield "Both sides read the same token ids in the same batches, in f32 unless said otherwise, with AdamW, two threads on two"
    yield "cores. Token counts must be equal, and the loss of the first step where it is determined, or no ratio is given."
    yield ""
    for work, rounds in measured_works(results):
        words = [work.note]
        for name, rival in work.rivals.items():
            for r in rounds[:1]:
                problem = work.disagreement(name, r["ours"], r[name])
                words.append(f"{rival.title}: {problem or agreement(rival, r['ours'], r[name])}.")
        parts = rounds[0]["ours"].get("parts")
        if parts:
            last = ", ".join(f"{part.removeprefix('time/')} {seconds[-1]:.1f} s" for part, seconds in parts.items())
            words.append(f"Our step by parts: {last}.")
        yield f"- **{work.title}.** " + " ".join(word for word in words if word)
    yield ""


def peak_and_startup(results):
    yield "## Against the machine, and start-up"
    yield ""
    if "matmul_flops" in results:
        yield f"- PyTorch's f32 matrix product (4096³) reaches {results['matmul_flops'] / 1e9:.0f} GFLOP/s on these cores."
        for work, rounds in measured_works(results):
            if work.name == "gpt2":
                tokens = statistics.median(r["ours"]["rate"] for r in rounds)
                flops = tokens * gpt2_flops_per_token(256)
                yield (
                    f"- Our GPT-2 step computes {flops / 1e9:.0f} GFLOP/s (6·N a token and causal attention), "
                    f"{flops / results['matmul_flops']:.0%} of that."
                )
    if "help_seconds" in results:
        yield f"- `rlhf --help` takes {1000 * results['help_seconds']:.1f} ms (median of 20; bar: 20 ms)."
    for work, rounds in measured_works(results):
        if started := rounds[0]["ours"].get("startup"):
            loading, ready = (statistics.median(r["ours"]["startup"][i] for r in rounds) for i in range(2))
            yield f"- {work.name}: the model loads in {loading:.2f} s, and the first step begins {ready:.2f} s later (bar: 1 s)."
    yield ""


def curves(results):
    if not results["curves"]:
        return
    yield "## How our cost grows"
    yield ""
    yield "Llamas with random weights and a vocabulary of 1024, f32, whole training steps; two steps after one of warm-up."
    yield ""
    for name, curve in results["curves"].items():
        yield f"![{curve['title']}](docs/bench/{name}.svg)"
        yield ""
        xs = [p["x"] for p in next(iter(curve["series"].values()))]
        yield f"| {curve['x']} | " + " | ".join(f"{x:g}" for x in xs) + " |"
        yield "|---" * (len(xs) + 1) + "|"
        for label, points in curve["series"].items():
            what = f"{label}, " if label else ""
            yield f"| {what}{curve['y']} | " + " | ".join(plot.short(p["y"]) for p in points) + " |"
            yield f"| {what}peak memory | " + " | ".join(gib(p["peak"]) for p in points) + " |"
        yield ""


def commands(results):
    yield "## Commands"
    yield ""
    yield "As run by the script, one round each; the scripts of the rivals lie in `scripts/bench/rivals/`."
    yield ""
    yield "```console"
    for _, rounds in measured_works(results):
        for side in rounds[0].values():
            yield "$ " + side["command"]
    yield "```"
    yield ""


def measured_works(results):
    for work in WORKS:
        rounds = results["works"].get(work.name, {}).get("rounds")
        if rounds:
            yield work, rounds


def rate(work, measured):
    value = statistics.median(m["rate"] for m in measured)
    if work.unit == "steps/s":
        return f"{1 / value:.1f} s a step"
    return f"{value:.3g} {work.unit}" if value < 100 else f"{value:.0f} {work.unit}"


def gib(n):
    return f"{n / 2**30:.1f} GiB"
