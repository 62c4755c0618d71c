"""Loads a model folder that rlhf saved with `transformers`, and compares its numbers with what `rlhf score` printed.

    rlhf score --model DIR --data FILE --json > scores.jsonl
    python scripts/oracle/check_saved.py DIR FILE scores.jsonl

A language model's rows are compared token by token (ids, log-probabilities, entropies) and by perplexity, a reward model's by score. FILE holds
texts, demonstrations, pairs (with a field "prompt"), rankings, ratings or thumbs as JSON Lines, also .gz. Exit code 1 when anything differs by
more than the tolerance.
"""

import argparse
import gzip
import json
import math
import pathlib
import sys

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer


def read_rows(file):
    opener = gzip.open if file.suffix == ".gz" else open
    with opener(file, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]


class Encoder:
    """Rows as token ids by the rules of rlhf, written with nothing but the tokenizer's public functions.

    Prompt and answer are tokenised apart, as they are when a model generates. A prompt that is a string gets the BOS token if the
    tokenizer adds one; an answer ends with an EOS token.
    """

    def __init__(self, tokenizer, more_ends):
        self.tokenizer = tokenizer
        self.ends = {tokenizer.eos_token_id, *more_ends}
        first = tokenizer("")["input_ids"][:1]
        self.beginning = first if first and first[0] == tokenizer.bos_token_id else []
        first = tokenizer.convert_ids_to_tokens(self.encode("a")[0])
        self.adds_space = first.startswith(("▁", "Ġ"))  # before the first word of anything, as SentencePiece does

    def encode(self, text):
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def text(self, text):
        ids = self.encode(text)
        return ids if ids[:1] == self.beginning else self.beginning + ids

    def answer(self, text):
        before = self.encode("\n") if self.adds_space else []
        ids = self.encode("\n" + text)[len(before) :] if before else self.encode(text)
        return ids if ids and ids[-1] in self.ends else ids + [self.tokenizer.eos_token_id]

    def prompt_and_answer(self, prompt, answer):
        if isinstance(prompt, str):
            given = self.text(prompt) or [self.tokenizer.eos_token_id if self.tokenizer.bos_token_id is None else self.tokenizer.bos_token_id]
            return given + self.answer(answer)
        turns = [{"role": "assistant", "content": answer}] if isinstance(answer, str) else answer
        before = self.tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
        said = self.tokenizer.apply_chat_template(prompt + turns, tokenize=False).removeprefix(before)
        ends = [said.rfind(end) + len(end) for end in self.tokenizer.convert_ids_to_tokens(list(self.ends)) if end in said]
        return self.encode(before) + self.answer(said[: max(ends)] if ends else said)

    def row(self, row):
        """{answer: ids}, the answers named as `rlhf score` names them: chosen, rejected, 0, 1, …, or None where there is only one."""
        if "chosen" in row:
            return {side: self.prompt_and_answer(row["prompt"], row[side]) for side in ("chosen", "rejected")}
        if "responses" in row:
            return {i: self.prompt_and_answer(row["prompt"], response) for i, response in enumerate(row["responses"])}
        for answer in ("completion", "response"):
            if answer in row:
                return {None: self.prompt_and_answer(row.get("prompt", ""), row[answer])}
        return {None: self.text(row["text"])}


class Comparison:
    def __init__(self, tolerance):
        self.tolerance, self.worst, self.compared, self.failures = tolerance, {}, 0, []

    def numbers(self, where, what, ours, theirs):
        ours, theirs = ([x] if isinstance(x, float | int) else list(x) for x in (ours, theirs))
        if len(ours) != len(theirs):
            self.failures.append(f"{where}: {len(ours)} {what}, transformers has {len(theirs)}")
            return
        self.compared += len(ours)
        error = max((abs(a - b) if math.isfinite(a) else math.inf for a, b in zip(ours, theirs)), default=0.0)
        self.worst[what] = max(self.worst.get(what, 0.0), error)
        if not error <= self.tolerance:
            self.failures.append(f"{where}: {what} differs by {error:.2e}")

    def ids(self, where, ours, theirs):
        if list(ours) != list(theirs):
            at = next((i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b), min(len(ours), len(theirs)))
            self.failures.append(f"{where}: token ids part at {at}: ours {ours[at : at + 5]}, transformers {theirs[at : at + 5]}")


def language_model(model, ids):
    """Log-probability and entropy of every token after the first, and the perplexity."""
    logprobs = torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0, :-1].double(), -1)
    taken = logprobs.gather(1, torch.tensor(ids[1:], dtype=torch.long)[:, None])[:, 0]
    entropy = -(logprobs.exp() * logprobs).sum(-1)
    return taken.tolist(), entropy.tolist(), math.exp(-taken.mean()) if len(ids) > 1 else math.nan


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path, metavar="DIR", help="the saved model")
    parser.add_argument("data", type=pathlib.Path, metavar="FILE", help="the rows that were scored")
    parser.add_argument("scores", type=pathlib.Path, metavar="SCORES", help="what rlhf score --json printed")
    parser.add_argument("--raw", action="store_true", help="the scores were printed with --raw, before calibration")
    parser.add_argument("--tolerance", type=float, default=1e-4, help="largest absolute difference (default %(default)s)")
    arguments = parser.parse_args()

    generation = arguments.model / "generation_config.json"
    ends = json.loads(generation.read_text()).get("eos_token_id") if generation.exists() else None
    encoder = Encoder(AutoTokenizer.from_pretrained(arguments.model), ends if isinstance(ends, list) else [ends] if ends is not None else [])
    architecture = AutoConfig.from_pretrained(arguments.model).architectures[0]
    is_reward = architecture.endswith("ForSequenceClassification")
    load = AutoModelForSequenceClassification if is_reward else AutoModelForCausalLM
    model = load.from_pretrained(arguments.model, dtype=torch.float32).eval()
    mean, std = 0.0, 1.0
    if is_reward and not arguments.raw:
        calibration = json.loads((arguments.model / "reward.json").read_text())["calibration"]
        mean, std = calibration["mean"], calibration["std"]

    rows = read_rows(arguments.data)
    comparison = Comparison(arguments.tolerance)
    for ours in read_rows(arguments.scores):
        answer = ours.get("answer")
        where = f"row {ours['index']}" + ("" if answer is None else f", answer {answer}")
        ids = encoder.row(rows[ours["index"]])[answer]
        with torch.no_grad():
            if is_reward:
                # A score is read at the EOS token.
                ids = ids if ids[-1] == encoder.tokenizer.eos_token_id else ids + [encoder.tokenizer.eos_token_id]
                score = model(input_ids=torch.tensor([ids])).logits.item()
                comparison.numbers(where, "score", ours["score"], (score - mean) / std)
                continue
            comparison.ids(where, ours["tokens"], ids)
            logprobs, entropy, perplexity = language_model(model, ours["tokens"])
            comparison.numbers(where, "logprobs", ours["logprobs"], logprobs)
            comparison.numbers(where, "entropy", ours["entropy"], entropy)
            if logprobs:  # relative: a perplexity has no bound
                comparison.numbers(where, "perplexity", ours["perplexity"] / perplexity, 1.0)

    for failure in comparison.failures[:20]:
        print(failure)
    print(f"{architecture}: {comparison.compared} numbers compared; largest difference " + ", ".join(f"{k} {v:.1e}" for k, v in comparison.worst.items()))
    if comparison.failures or not comparison.compared:
        sys.exit(f"{len(comparison.failures)} of the comparisons failed" if comparison.failures else "nothing was compared")


if __name__ == "__main__":
    main()
