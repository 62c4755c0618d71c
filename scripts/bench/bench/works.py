"""What is measured against whom, and how it is known that both sides did the same."""

import dataclasses
import statistics
from collections.abc import Callable

from bench import ours, rival
from bench.home import MODELS, ROWS, RUNS

SMOLLM2, GPT2 = MODELS / "smollm2", MODELS / "gpt2"


@dataclasses.dataclass
class Sizes:
    """How much of each work is done."""

    dense_steps: int = 6
    sft_steps: int = 6
    reward_steps: int = 8
    new_tokens: int = 64
    episodes: int = 16
    response_length: int = 64
    ppo_steps: int = 2
    batch: int = 8


QUICK = Sizes(dense_steps=2, sft_steps=2, reward_steps=2, new_tokens=8, episodes=2, response_length=8, ppo_steps=2, batch=2)


@dataclasses.dataclass
class Rival:
    """Someone to be measured against, and what the ratio of rates should be."""

    title: str
    run: Callable
    at_least: float | None = None
    aim: float | None = None
    # Largest difference of the first loss, where both sides have one that must be the same.
    tolerance: float | None = None
    # A work and a side of it that does the same: what was measured there a moment ago is taken instead.
    same_as: tuple[str, str] | None = None


@dataclasses.dataclass
class Work:
    name: str
    title: str
    unit: str
    rounds: int
    ours: Callable
    rivals: dict[str, Rival]
    # What is done in one step, to be divided by its seconds; `None` counts tokens.
    per_step: Callable[[Sizes], float] | None = None
    # Whether all steps are alike: then the median step counts, otherwise all of them together.
    alike: bool = True
    # What else is to be known about the fairness of it.
    note: str = ""

    def rate(self, measured, sizes):
        """Work a second, without the first step if there is more than one."""
        first = min(1, len(measured["seconds"]) - 1)
        done = [self.per_step(sizes)] * len(measured["seconds"]) if self.per_step else measured["tokens"]
        steps = list(zip(done, measured["seconds"]))[first:]
        if self.alike:
            return statistics.median(amount / seconds for amount, seconds in steps)
        return sum(amount for amount, _ in steps) / sum(seconds for _, seconds in steps)

    def disagreement(self, name, mine, theirs):
        """Why the two measurements are not of the same work; `None` if they are."""
        if mine["tokens"] != theirs["tokens"]:
            return f"different tokens: {mine['tokens']} and {theirs['tokens']}"
        if (tolerance := self.rivals[name].tolerance) is not None:
            a, b = mine["losses"][0], theirs["losses"][0]
            if abs(a - b) > tolerance:
                return f"the losses of the first step differ: {a:.5f} and {b:.5f}"
        return None


def agreement(rival, mine, theirs):
    """How closely the results agree, in words."""
    if rival.tolerance is not None:
        apart = [abs(a - b) for a, b in zip(mine["losses"], theirs["losses"])]
        return f"first loss differs by {apart[0]:.1e}, the worst of {len(apart)} by {max(apart):.1e}"
    if theirs.get("texts"):
        same = sum(a == b for a, b in zip(mine["texts"], theirs["texts"]))
        return f"{same} of {len(theirs['texts'])} responses are the same text"
    return "the tokens are as many"


def pytorch(label, model, rows, bf16=0):
    """PyTorch's step on four of these dense rows."""
    return lambda s: rival.run(
        "step.py", label,
        ["--model", model, "--rows", ROWS / f"{rows}.ids.jsonl", "--steps", s.dense_steps, "--batch", 4, "--bf16", bf16],
    )


def dense(name, model_title, model, rows, rounds):
    return Work(
        name=name,
        title=f"{model_title} training step, 4×256 dense, ours in f32",
        unit="tokens/s",
        rounds=rounds,
        ours=lambda s: ours.sft(name, model, ROWS / f"{rows}.jsonl", 4, s.dense_steps, 256, dense=True),
        rivals={
            "f32": Rival("PyTorch eager, f32", pytorch(f"{name}-f32", model, rows), 1.35, 1.6, tolerance=1e-3),
        },
        note="Forward, loss, backward, clipping, AdamW. Dropout is off on both sides.",
    )


def generation(batch, at_least, aim):
    return Work(
        name=f"generate-{batch}",
        title=f"generation, batch {batch}, 64 new tokens, GPT-2",
        unit="tokens/s",
        rounds=2,
        ours=lambda s: ours.generate(f"generate-{batch}", GPT2, ROWS / "generate.jsonl", batch, s.new_tokens),
        rivals={
            "transformers": Rival(
                "transformers generate, f32",
                lambda s: rival.run(
                    "generate.py", f"generate-{batch}-rival",
                    ["--model", GPT2, "--rows", ROWS / "generate.ids.jsonl", "--batch", batch, "--new", s.new_tokens],
                ),
                at_least, aim,
            )
        },
        note="Greedy, the EOS token forbidden, prompts of 11 to 128 tokens. The rival is warmed up with two tokens, ours is not.",
    )


def ppo_ours(s, label="ppo", model=SMOLLM2, lora=0):
    """Our PPO with a reward model over the same `model`; with `lora`, policy, critic and reward model are adapters of that rank."""
    reward = RUNS / ("reward-for-ppo" if label == "ppo" else f"reward-for-{label}")
    if not (reward / "final/reward.json").exists():
        ours.reward(reward.name, model, ROWS / "pairs.jsonl", ROWS / "pairs.eval.jsonl", 8, 1, 512, lora=lora, keep=True)
    return ours.ppo(
        label, model, reward, ROWS / "ppo.jsonl", ROWS / "ppo.eval.jsonl", s.episodes, s.response_length, 4, s.ppo_steps, lora=lora
    )


def ppo_theirs(s):
    return rival.run(
        "ppo.py", "ppo-rival",
        ["--model", SMOLLM2, "--reward", RUNS / "reward-for-ppo/final", "--rows", ROWS / "ppo.ids.jsonl", "--epochs", 4]
        + ["--episodes", s.episodes, "--response-length", s.response_length, "--steps", s.ppo_steps]
        + ["--micro-batch", min(4, s.episodes)],
        venv="ppo",
    )


def lora(title, model, name):
    """SFT of an adapter of rank 16 on all linear layers, over `model`, against PEFT's over weights in f32."""
    return Work(
        name=name,
        title=title,
        unit="real tokens/s",
        rounds=1,
        alike=False,
        ours=lambda s: ours.sft(name, model, ROWS / "sft.jsonl", s.batch, s.sft_steps, 512, lr="2e-4", lora=16),
        rivals={
            "trl": Rival(
                "TRL 1.16 SFTTrainer with PEFT, f32",
                lambda s: rival.run(
                    "sft.py", f"{name}-rival",
                    ["--model", SMOLLM2, "--rows", ROWS / "sft.ids.jsonl", "--batch", s.batch, "--steps", s.sft_steps]
                    + ["--lr", "2e-4", "--lora", 16],
                ),
                4, 5, tolerance=1e-3, same_as=("lora", "trl"),
            )
        },
        note="Rank 16, alpha 32, without dropout; both adapters start from B = 0, so that the first losses are the same, and from different A.",
    )


def ppo_lora(title, model, name):
    """The same PPO step with adapters over `model`, against our own with all weights."""
    return Work(
        name=name,
        title=title,
        unit="steps/s",
        rounds=1,
        per_step=lambda s: 1,
        ours=lambda s: ppo_ours(s, name, model, lora=16),
        rivals={"full": Rival("rlhf, all weights", ppo_ours, same_as=("ppo", "ours"))},
        note="Policy, critic and reward model are adapters over one base in memory, and the reference is that base; with all weights "
        "there are four models.",
    )


WORKS = [
    dense("gpt2", "GPT-2 124M", GPT2, "dense-256", rounds=3),
    Work(
        name="gpt2-bf16",
        title="the same step, ours with `--dtype bf16`",
        unit="tokens/s",
        rounds=3,
        ours=lambda s: ours.sft("gpt2-bf16", GPT2, ROWS / "dense-256.jsonl", 4, s.dense_steps, 256, dense=True, dtype="bf16"),
        rivals={"bf16": Rival("PyTorch eager, bf16 autocast", pytorch("gpt2-bf16", GPT2, "dense-256", 1), None, 1.5, tolerance=2e-2)},
        note="Both round the operands of matrix products to bf16, on a CPU that has such products; weights stay f32. PyTorch's attention is in bf16 too.",
    ),
    dense("smollm2", "SmolLM2 135M", SMOLLM2, "smollm2-256", rounds=1),
    Work(
        name="sft",
        title="SFT on ragged real rows (batch 8, ≤ 512 tokens), SmolLM2",
        unit="real tokens/s",
        rounds=2,
        alike=False,
        ours=lambda s: ours.sft("sft", SMOLLM2, ROWS / "sft.jsonl", s.batch, s.sft_steps, 512),
        rivals={
            "trl": Rival(
                "TRL 1.16 SFTTrainer, f32",
                lambda s: rival.run(
                    "sft.py", "sft-rival",
                    ["--model", SMOLLM2, "--rows", ROWS / "sft.ids.jsonl", "--batch", s.batch, "--steps", s.sft_steps],
                ),
                4, 5, tolerance=1e-3,
            )
        },
        note="The rival pads a batch to its longest row, in file order, without gradient checkpointing (its default, which is "
        "slower and leaner). It also computes entropy and accuracy of every batch, as it always does.",
    ),
    lora("SFT of an adapter of rank 16, the same rows, SmolLM2", SMOLLM2, "lora"),
    lora("the same over the quantised base, which stays in its blocks", MODELS / "smollm2.gguf", "lora-gguf"),
    Work(
        name="reward",
        title="reward training on real pairs (batch 8), SmolLM2",
        unit="pairs/s",
        rounds=2,
        alike=False,
        per_step=lambda s: s.batch,
        ours=lambda s: ours.reward("reward", SMOLLM2, ROWS / "pairs.jsonl", ROWS / "pairs.eval.jsonl", s.batch, s.reward_steps, 512),
        rivals={
            "trl": Rival(
                "TRL 1.16 RewardTrainer, f32",
                lambda s: rival.run(
                    "reward.py", "reward-rival",
                    ["--model", SMOLLM2, "--rows", ROWS / "pairs.ids.jsonl", "--batch", s.batch, "--steps", s.reward_steps],
                ),
                3, 4.5,
            )
        },
        note="Ours computes a prompt once for both answers. The heads start from different random numbers, so the losses are "
        "alike only in size; that the tokens are the same is checked. The rival again without gradient checkpointing.",
    ),
    generation(8, 2.5, 4),
    generation(32, 3.5, 5),
    generation(64, 3.5, 5),
    Work(
        name="ppo",
        title="PPO step, 16 episodes × 64 tokens, 4 epochs, separate critic, SmolLM2",
        unit="steps/s",
        rounds=1,
        per_step=lambda s: 1,
        ours=ppo_ours,
        rivals={"trl": Rival("TRL 0.24 PPOTrainer, f32", ppo_theirs, 1.8, 2.5)},
        note="Same prompts, same reward model, one minibatch of all episodes, so four optimizer steps; no response ends early. "
        "The rival pads the prompts, of at most 128 tokens, to the longest; it accumulates gradients over micro-batches of four "
        "episodes, which spares it memory, and does not clip them.",
    ),
    ppo_lora("the same PPO step with adapters of rank 16", SMOLLM2, "ppo-lora"),
    ppo_lora("the same PPO step with adapters of rank 16 over the quantised base", MODELS / "smollm2.gguf", "ppo-lora-gguf"),
]
