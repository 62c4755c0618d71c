"""Makes the rows: text for our side, the token ids of the same text for the rivals.

Prompt and completion are tokenised apart and the completion ends with the EOS token, as `rlhf` does.
That both sides then see the same ids is checked by the losses of their first step.
"""

import argparse
import json
import pathlib

from transformers import PreTrainedTokenizerFast

LONGEST = 512


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


class Tokens:
    def __init__(self, folder):
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)

    def of(self, text):
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def completion(self, text):
        return self.of(text) + [self.tokenizer.eos_token_id]


def demonstrations(data):
    path = data / "self_instruct_sft.dev.jsonl"
    return read(path if path.exists() else data / "demonstrations.jsonl")


def pairs(data):
    path = data / "pandalm_pairs.dev.jsonl"
    if path.exists():
        return read(path)
    best_and_worst = []
    for row in read(data / "preferences.jsonl"):
        ranked = [response for _, response in sorted(zip(row["ranks"], row["responses"]))]
        best_and_worst.append({"prompt": row["prompt"], "chosen": ranked[0], "rejected": ranked[-1]})
    return best_and_worst


def sft(rows, tokens, to, wanted=96):
    """Ragged rows, at most LONGEST tokens, with something to learn after the cut."""
    kept, ids = [], []
    for row in rows:
        prompt, completion = tokens.of(row["prompt"]), tokens.completion(row["completion"])
        if 0 < len(prompt) < LONGEST and len(kept) < wanted:
            kept.append({"prompt": row["prompt"], "completion": row["completion"]})
            mask = [0] * len(prompt) + [1] * len(completion)
            ids.append({"input_ids": (prompt + completion)[:LONGEST], "completion_mask": mask[:LONGEST]})
    assert len(kept) == wanted, f"{wanted} demonstrations are needed, {len(kept)} are usable"
    write(to / "sft.jsonl", kept)
    write(to / "sft.ids.jsonl", ids)


def reward(rows, tokens, to, wanted=128, held_out=4):
    """Pairs that differ and fit whole; the next few, of other prompts, are held out for `rlhf reward`'s report."""
    kept, ids, rest = [], [], []
    for row in rows:
        row = {name: row[name] for name in ("prompt", "chosen", "rejected")}
        prompt, chosen, rejected = tokens.of(row["prompt"]), tokens.completion(row["chosen"]), tokens.completion(row["rejected"])
        if not prompt or chosen == rejected or len(prompt) + max(len(chosen), len(rejected)) > LONGEST:
            continue
        if len(kept) < wanted:
            kept.append(row)
            ids.append({"chosen_ids": prompt + chosen, "rejected_ids": prompt + rejected, "prompt_length": len(prompt)})
        elif row["prompt"] != kept[-1]["prompt"] and len(rest) < held_out:
            rest.append(row)
    assert len(kept) == wanted and len(rest) == held_out, f"{wanted + held_out} pairs are needed"
    write(to / "pairs.jsonl", kept)
    write(to / "pairs.ids.jsonl", ids)
    write(to / "pairs.eval.jsonl", rest)


def prompts(rows, tokens, to, name, wanted, longest=128):
    """Distinct prompts of at most `longest` tokens, and one more for `rlhf ppo`'s evaluation."""
    kept, ids = [], []
    for text in dict.fromkeys(row["prompt"] for row in rows):
        prompt = tokens.of(text)
        if 0 < len(prompt) <= longest and len(kept) <= wanted:
            kept.append({"prompt": text})
            ids.append({"input_ids": prompt})
    assert len(kept) == wanted + 1, f"{wanted + 1} prompts are needed, {len(kept)} are usable"
    write(to / f"{name}.jsonl", kept[:wanted])
    write(to / f"{name}.ids.jsonl", ids[:wanted])
    write(to / f"{name}.eval.jsonl", kept[wanted:])


def dense(text, tokens, to, name, length, wanted):
    """Rows of more than `length` tokens, to be cut there: `rlhf sft --train-on-prompt --max-length LENGTH`."""
    words = text.split(" ")
    kept, ids, at = [], [], 0
    while len(kept) < wanted:
        # Never fewer tokens than words; the text starts over when it ends.
        taken = [words[(at + i) % len(words)] for i in range(length + 8)]
        at += length + 8
        prompt, completion = " ".join(taken[:8]), " " + " ".join(taken[8:])
        row = (tokens.of(prompt) + tokens.completion(completion))[:length]
        assert len(row) == length
        kept.append({"prompt": prompt, "completion": completion})
        ids.append({"input_ids": row})
    write(to / f"{name}.jsonl", kept)
    write(to / f"{name}.ids.jsonl", ids)


def shared_prompts(text, tokens, to, continuations=(1, 2, 4, 8), wanted=6, prompt_words=150, words=40):
    """K answers to a prompt as one ranking, and as K rows of their own: the same text, with and without sharing."""
    source = text.split(" ")
    take = lambda at, n: " ".join(source[(at + i) % len(source)] for i in range(n))
    for k in continuations:
        shared, separate = [], []
        for i in range(wanted):
            prompt = take(i * 1009, prompt_words)
            responses = [" " + take(i * 1009 + prompt_words + j * words, words) for j in range(k)]
            if k > 1:
                shared.append({"prompt": prompt, "responses": responses, "ranks": list(range(1, k + 1))})
            else:
                shared.append({"prompt": prompt, "response": responses[0], "rating": i})
            separate += [{"prompt": prompt, "response": response, "rating": i + j} for j, response in enumerate(responses)]
        write(to / f"shared-{k}.jsonl", shared)
        write(to / f"separate-{k}.jsonl", separate)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--corpus", type=pathlib.Path, required=True)
    parser.add_argument("--models", type=pathlib.Path, required=True)
    parser.add_argument("--to", type=pathlib.Path, required=True)
    a = parser.parse_args()
    a.to.mkdir(parents=True, exist_ok=True)
    gpt2, smollm2, small = (Tokens(a.models / name) for name in ("gpt2", "smollm2", "llama-10m"))
    rows = demonstrations(a.data)
    text = " ".join(row["prompt"] + " " + row["completion"] for row in rows)
    corpus = a.corpus.read_text()

    sft(rows, smollm2, a.to)
    reward(pairs(a.data), smollm2, a.to)
    prompts(rows, gpt2, a.to, "generate", 64)
    prompts(rows, smollm2, a.to, "ppo", 16)
    dense(text, gpt2, a.to, "dense-256", 256, 24)
    dense(text, smollm2, a.to, "smollm2-256", 256, 24)
    dense(corpus, small, a.to, "corpus-2048", 2048, 64)
    dense(corpus, small, a.to, "corpus-8192", 8192, 4)
    shared_prompts(corpus, small, a.to)


main()
