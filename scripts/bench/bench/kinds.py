"""What is known of each kind of machine: the figures of the last run of every work, kept in docs/bench/machines/ with the repository.

A kind is the widest instructions that were used. With RLHF_SIMD in the environment both sides do without what is wider, so that a machine can
stand for an older one; the page says so.
"""

import json
import os
import statistics

from bench.home import REPO
from bench.machine import of_cpu
from bench.works import WORKS, agreement

FOLDER = REPO / "docs/bench/machines"
LABELS = {"avx2": "AVX2", "avx512": "AVX-512", "avx512_bf16": "AVX-512 with bf16", "amx": "AMX"}


def of_this_machine():
    flags = of_cpu("flags").split()
    has = [kind for kind, flag in zip(LABELS, ["avx2", "avx512f", "avx512_bf16", "amx_bf16"]) if flag in flags]
    asked = os.environ.get("RLHF_SIMD")
    if not has or (asked and asked not in has):
        raise SystemExit(f"this machine has {', '.join(has) or 'no AVX2'}; RLHF_SIMD={asked} is not among that")
    return asked or has[-1]


def all_known():
    """{kind: what is known of it}, the narrowest first."""
    files = {kind: FOLDER / f"{kind}.json" for kind in LABELS}
    return {kind: json.loads(path.read_text()) for kind, path in files.items() if path.exists()}


def keep(results):
    """Puts what was measured in place of what was known of this kind of machine."""
    kind = of_this_machine()
    known = all_known().get(kind, {"works": {}, "machine": {}, "curves": {}})
    origin = {key: results["environment"][key] for key in ("date", "cpu", "commit", "memory")}
    versions = results["environment"]["rivals"]
    origin |= {"rivals_versions": f"{versions['current']}; for PPO {versions['ppo']}", "narrowed": "RLHF_SIMD" in os.environ}
    for work in WORKS:
        if rounds := results["works"].get(work.name, {}).get("rounds"):
            known["works"][work.name] = summary(work, rounds) | origin
    machine = {key: results[key] for key in ("matmul_flops", "help_seconds") if key in results}
    if machine:
        known["machine"] |= machine | origin
    for name, curve in results["curves"].items():
        known["curves"][name] = curve | origin
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / f"{kind}.json").write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n")


def keep_products(products):
    """Puts a table of matrix products in place of what was known of this kind of machine."""
    kind = of_this_machine()
    known = all_known().get(kind, {"works": {}, "machine": {}, "curves": {}}) | {"products": products}
    (FOLDER / f"{kind}.json").write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n")


def all_products():
    """(what the machine is called, its table) of every kind that has one."""
    return [(LABELS[kind], of["products"]) for kind, of in all_known().items() if "products" in of]


def summary(work, rounds):
    """Medians of all rounds, and the ratios of each."""
    median = lambda side, key: statistics.median(r[side][key] for r in rounds)
    first = rounds[0]
    mine = {"rate": median("ours", "rate"), "peak": median("ours", "peak"), "command": first["ours"]["command"]}
    if parts := first["ours"].get("parts"):
        mine["parts"] = {part.removeprefix("time/"): seconds[-1] for part, seconds in parts.items()}
    if first["ours"].get("startup"):
        mine["startup"] = [statistics.median(r["ours"]["startup"][i] for r in rounds) for i in range(2)]
    rivals = {}
    for name, rival in work.rivals.items():
        ratios = [r["ours"]["rate"] / r[name]["rate"] for r in rounds]
        problems = [p for r in rounds if (p := work.disagreement(name, r["ours"], r[name]))]
        rivals[name] = {
            "rate": median(name, "rate"), "peak": median(name, "peak"), "command": first[name]["command"],
            "ratio": statistics.median(ratios), "least": min(ratios), "most": max(ratios),
            "problem": problems[0] if problems else None,
            "agreement": None if problems else agreement(rival, first["ours"], first[name]),
        }
    others = max(side["others"] for r in rounds for side in r.values())
    return {"rounds": len(rounds), "others": others, "ours": mine, "rivals": rivals}
