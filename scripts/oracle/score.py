"""Writes tests/fixtures/score/: a tiny language model and a tiny reward model, rows of every kind, and what PyTorch computes from them.

    pip install -r scripts/oracle/requirements.txt
    python scripts/oracle/score.py

    lm/, reward/      as `transformers` saves them, with a tokenizer; reward/ also has a reward.json with a calibration
    rows.jsonl        a text, a prompt with completion, a pair, a ranking, a rating, thumbs
    lm.jsonl          what `rlhf score --model lm --data rows.jsonl` must print: tokens, log-probabilities, entropy and perplexity of each answer
    reward.jsonl      what it must print for reward/: the calibrated score, and as "raw" that of --raw

The ids are made by the rules that check_saved.py spells out, one sequence at a time goes through the model. tests/score.rs compares.
"""

import argparse
import json
import pathlib

import torch
from check_saved import Encoder, language_model
from hf_parity import randomise
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForSequenceClassification

TEXTS = ["the fox is red.", "the crow is black and the frog is green.", "Question: what colour is the fox? Answer: it is red."]
ROWS = [
    {"text": "the fox is red. the crow is black."},
    {"prompt": "Question: what colour is the fox? Answer:", "completion": " it is red."},
    {"prompt": "what colour is the frog?", "chosen": " green.", "rejected": " it is black, you fool."},
    {"prompt": "what is the crow?", "responses": [" black.", "", " a crow is a crow is a crow, and never red."], "ranks": [1, 2, 2]},
    {"prompt": "colour of the fox?", "response": " réd ☃", "rating": 3},
    {"prompt": "colour of the crow?", "completion": " black", "label": True},
    {"text": "t"},
]
SHARED = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256)
CALIBRATION = {"mean": 0.25, "std": 1.5, "responses": 8}


def train_tokenizer():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=280, special_tokens=["<|endoftext|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")


def save(folder, model, tokenizer):
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)  # not part of the model
    return model.eval()


def write_lines(file, rows):
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def answers(encoder):
    for index, row in enumerate(ROWS):
        for answer, ids in encoder.row(row).items():
            yield {"index": index} | ({} if answer is None else {"answer": answer}), ids


@torch.no_grad()
def main():
    root = pathlib.Path(__file__).resolve().parents[2]
    arguments = argparse.ArgumentParser(description="Writes the fixtures of rlhf score.")
    arguments.add_argument("--out", type=pathlib.Path, default=root / "tests/fixtures/score")
    out = arguments.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokenizer = train_tokenizer()
    eos, encoder = tokenizer.eos_token_id, Encoder(tokenizer, [])
    ids = dict(vocab_size=len(tokenizer), bos_token_id=None, eos_token_id=eos, pad_token_id=None)

    model = LlamaForCausalLM(LlamaConfig(**SHARED, **ids, tie_word_embeddings=True))
    randomise(model)
    model = save(out / "lm", model, tokenizer)
    expected = []
    for line, tokens in answers(encoder):
        logprobs, entropy, perplexity = language_model(model, tokens)
        perplexity = perplexity if logprobs else None
        expected.append(line | {"tokens": tokens, "logprobs": logprobs, "entropy": entropy, "perplexity": perplexity})
    write_lines(out / "lm.jsonl", expected)

    model = Qwen2ForSequenceClassification(Qwen2Config(**SHARED, **ids, num_labels=1))
    randomise(model)
    model = save(out / "reward", model, tokenizer)
    (out / "reward/reward.json").write_text(json.dumps({"calibration": CALIBRATION, "trained": None}) + "\n")
    expected = []
    for line, tokens in answers(encoder):
        tokens = tokens if tokens[-1] == eos else tokens + [eos]  # a score is read at the EOS token
        raw = model(input_ids=torch.tensor([tokens])).logits.item()
        expected.append(line | {"score": (raw - CALIBRATION["mean"]) / CALIBRATION["std"], "raw": raw})
    write_lines(out / "reward.jsonl", expected)
    write_lines(out / "rows.jsonl", ROWS)


if __name__ == "__main__":
    main()
