"""From what is known of every kind of machine to BENCHMARKS.md and its plots."""

import re

from bench import kinds, plot
from bench.home import REPO
from bench.works import WORKS

# GPT-2 124M's weights that take part in a matrix product, the vocabulary included; blocks and hidden size.
GPT2_WEIGHTS, GPT2_BLOCKS, GPT2_HIDDEN = 12 * 12 * 768**2 + 50257 * 768, 12, 768


def gpt2_flops_per_token(length):
    """6 N and causal attention, 6 · S · H a block: forward and twice that backward, of half a square."""
    return 6 * GPT2_WEIGHTS + GPT2_BLOCKS * 6 * length * GPT2_HIDDEN


def write():
    known = kinds.all_known()
    charts = REPO / "docs/bench"
    for name, (_, curve) in newest_curves(known).items():
        series = {label: [(p["x"], p["y"]) for p in points] for label, points in curve["series"].items() if points}
        (charts / f"{name}.svg").write_text(plot.chart(curve["title"], curve["x"], curve["y"], series))
    path = REPO / "BENCHMARKS.md"
    old = path.read_text() if path.exists() else ""
    kept = [found[1] for name in OTHERS if (found := marked(name).search(old))]
    path.write_text("\n".join(page(known, kept)))


def newest_curves(known):
    """{name: (kind, curve)}: of each curve the one that was measured last."""
    newest = {}
    for kind, of in known.items():
        for name, curve in of["curves"].items():
            if name not in newest or curve["date"] >= newest[name][1]["date"]:
                newest[name] = (kind, curve)
    return newest


# Sections that other scripts write, one that tests hold (launches) and one of a machine that was lent (gpu), in their order; a new report keeps them.
OTHERS = ["families", "products", "serving", "ranks", "launches", "gpu"]


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


def page(known, kept):
    yield "# Benchmarks"
    yield ""
    yield "Written by `scripts/bench/run`; how it works and how to repeat it: [scripts/bench/README.md](scripts/bench/README.md)."
    yield ""
    yield from table(known)
    yield from origins(known)
    yield from details(known)
    yield from peak_and_startup(known)
    yield from curves(known)
    for section in kept:
        yield section
        yield ""
    yield from commands(known)


def table(known):
    yield "Ours and the rival's rate, and how many times the rival's ours is, by the widest instructions that were used. Rates are medians over"
    yield "rounds in which the sides took turns on the same two cores; the ratio is the median of the rounds' ratios, with their smallest and largest in"
    yield "brackets where there were several rounds. A first step is warm-up and not counted. Peak memory is that of the whole process, loading included."
    yield ""
    yield "| work | rival | at least, aim | " + " | ".join(kinds.LABELS[kind] for kind in known) + " | peak memory: ours, rival's, ratio |"
    yield "|---" * (4 + len(known)) + "|"
    for work in WORKS:
        for name, rival in work.rivals.items():
            measured = {kind: of["works"].get(work.name) for kind, of in known.items()}
            latest = max(filter(None, measured.values()), key=lambda m: m["date"], default=None)
            if latest is None:
                continue
            goals = ", ".join(f"{x:g}×" for x in (rival.at_least, rival.aim) if x) or "report"
            mine, theirs = latest["ours"]["peak"], latest["rivals"][name]["peak"]
            cells = " | ".join(cell(work, name, m) for m in measured.values())
            yield f"| {work.title} | {rival.title} | {goals} | {cells} | {gib(mine)}, {gib(theirs)}, {mine / theirs:.2f}× |"
    yield ""


def cell(work, name, measured):
    if measured is None:
        return "—"
    theirs = measured["rivals"][name]
    rates = f"{rate(work, measured['ours']['rate'])}, {rate(work, theirs['rate'])}"
    if theirs["problem"]:
        return f"{rates}: not comparable"
    spread = f" ({theirs['least']:.2f}–{theirs['most']:.2f})" if measured["rounds"] > 1 else ""
    return f"**{theirs['ratio']:.2f}×**{spread} {rates}"


def origins(known):
    """When, where and with what the figures were measured: a line for each run of a kind of machine."""
    yield "Where the columns come from; `docs/bench/machines/` has the figures."
    yield ""
    for kind, of in known.items():
        runs = {}
        for name, measured in of["works"].items():
            run = (measured["date"], measured["commit"], measured["cpu"], measured["narrowed"])
            runs.setdefault(run, []).append((name, measured))
        for (date, commit, cpu, narrowed), works in sorted(runs.items(), reverse=True):
            others = max(measured["others"] for _, measured in works)
            wider = f", told to do without wider instructions (`RLHF_SIMD={kind}`)" if narrowed else ""
            yield (
                f"- {kinds.LABELS[kind]}: {date}, commit {commit}, {cpu}, two cores{wider}; {', '.join(name for name, _ in works)}. "
                f"Other processes took at most {others:.0%} of the cores."
            )
    versions = {measured["rivals_versions"] for of in known.values() for measured in of["works"].values()}
    yield from (f"- {line}" for line in sorted(versions))
    yield ""


def latest(known, work):
    """The newest measurement of a work, whatever the kind of machine."""
    measured = [of["works"][work.name] for of in known.values() if work.name in of["works"]]
    return max(measured, key=lambda m: m["date"], default=None)


def details(known):
    yield "## Is it the same work?"
    yield ""
    yield "Both sides read the same token ids in the same batches, in f32 unless said otherwise, with AdamW, two threads on two"
    yield "cores. Token counts must be equal, and the loss of the first step where it is determined, or no ratio is given."
    yield ""
    for work in WORKS:
        if (measured := latest(known, work)) is None:
            continue
        words = [work.note]
        for name, rival in work.rivals.items():
            words.append(f"{rival.title}: {measured['rivals'][name]['problem'] or measured['rivals'][name]['agreement']}.")
        if parts := measured["ours"].get("parts"):
            last = ", ".join(f"{part} {seconds:.1f} s" for part, seconds in parts.items())
            words.append(f"Our step by parts: {last}.")
        yield f"- **{work.title}.** " + " ".join(word for word in words if word)
    yield ""


def peak_and_startup(known):
    yield "## Against the machine, and start-up"
    yield ""
    for kind, of in known.items():
        machine = of["machine"]
        if peak := machine.get("matmul_flops"):
            rates = ", ".join(f"{flops / 1e9:.0f} GFLOP/s with {threads} thread{'s' * (threads != '1')}" for threads, flops in peak.items())
            yield f"- {kinds.LABELS[kind]} ({machine['cpu']}): PyTorch's f32 matrix product (4096³) reaches {rates}."
            gpt2 = of["works"].get("gpt2")
            if gpt2 and all(gpt2[key] == machine[key] for key in ("date", "commit")): # of one run, for rates differ from day to day
                flops = gpt2["ours"]["rate"] * gpt2_flops_per_token(256)
                share = flops / max(peak.values())
                yield f"  Our GPT-2 step computes {flops / 1e9:.0f} GFLOP/s (6·N a token and causal attention), {share:.2f} times that."
        if "help_seconds" in machine:
            yield f"- {kinds.LABELS[kind]}: `rlhf --help` takes {1000 * machine['help_seconds']:.1f} ms (median of 20; bar: 20 ms)."
    for work in WORKS:
        measured = latest(known, work)
        if measured and (started := measured["ours"].get("startup")):
            loading, ready = started
            yield f"- {work.name}: the model loads in {loading:.2f} s, and the first step begins {ready:.2f} s later (bar: 1 s)."
    yield ""


def curves(known):
    found = newest_curves(known)
    if not found:
        return
    yield "## How cost grows"
    yield ""
    yield "Llamas with random weights and a vocabulary of 1024, f32, whole training steps; one or two steps after one of warm-up. The roof is the rate of"
    yield "PyTorch's matrix product (4096³) over the arithmetic of a token: 6·N and causal attention."
    yield ""
    for name, (kind, curve) in found.items():
        yield f"![{curve['title']}](docs/bench/{name}.svg)"
        yield ""
        yield f"{kinds.LABELS[kind]}: {curve['date']}, {curve['cpu']}, commit {curve['commit']}."
        yield ""
        xs = sorted({p["x"] for points in curve["series"].values() for p in points})
        yield f"| {curve['x']} | " + " | ".join(f"{x:g}" for x in xs) + " |"
        yield "|---" * (len(xs) + 1) + "|"
        for label, points in curve["series"].items():
            at = {p["x"]: p for p in points}
            row = lambda value: " | ".join(value(at[x]) if x in at else "—" for x in xs)
            what = f"{label}, " if label else ""
            yield f"| {what}{curve['y']} | {row(lambda p: plot.short(p['y']))} |"
            if points and "peak" in points[0]:
                yield f"| {what}peak memory | {row(lambda p: gib(p['peak']))} |"
        yield ""


def commands(known):
    yield "## Commands"
    yield ""
    yield "As run by the script, one round each; the scripts of the rivals lie in `scripts/bench/rivals/`."
    yield ""
    yield "```console"
    for work in WORKS:
        if measured := latest(known, work):
            for side in [measured["ours"], *measured["rivals"].values()]:
                yield "$ " + side["command"]
    yield "```"
    yield ""


def rate(work, value):
    if work.unit == "steps/s":
        return f"{1 / value:.1f} s a step"
    return f"{value:.3g} {work.unit}" if value < 100 else f"{value:.0f} {work.unit}"


def gib(n):
    return f"{n / 2**30:.1f} GiB"
