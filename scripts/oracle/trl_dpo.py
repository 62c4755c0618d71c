"""Writes tests/fixtures/trl_dpo.json: losses, metrics and gradients of TRL 1.16's DPO and KTO trainers on a fixed batch.

    pip install trl==1.16.0 torch==2.15.0 transformers==5.23.0
    python scripts/oracle/trl_dpo.py

The model is tests/fixtures/hf/llama3-tied, the reference the same model with other weights, of which the file holds the log-probabilities. What is
run is `_compute_loss` of the trainers themselves. Of every gradient the file holds the norm and its product with cos(0), cos(1), …: a number that
every element has a part in.
"""

import json
import pathlib
import tempfile
import warnings

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

warnings.filterwarnings("ignore")
ROOT = pathlib.Path(__file__).resolve().parents[2]
MODEL = ROOT / "tests/fixtures/hf/llama3-tied"
ROWS = [
    dict(prompt=[5, 9, 30], chosen=[7, 8, 2], rejected=[31, 7, 11, 4, 2]),
    dict(prompt=[11, 3], chosen=[20, 21, 22, 23, 2], rejected=[6, 2]),
    dict(prompt=[17, 17, 4, 9, 1], chosen=[12, 2], rejected=[13, 2]),
]
CASES = [
    dict(loss="sigmoid", beta=0.1),
    dict(loss="sigmoid", beta=0.5),
    dict(loss="hinge", beta=0.3),
    dict(loss="ipo", beta=0.2),  # TRL's takes means over tokens
    dict(loss="kto", beta=0.1, desirable=1.0, undesirable=1.0),
    dict(loss="kto", beta=0.4, desirable=1.3, undesirable=0.7, seed=3),  # its reference point is above zero
]


def tokenizer():
    """One that knows the ids; the rows are tokens already."""
    from tokenizers import Tokenizer, models

    vocab = {f"t{i}": i for i in range(AutoModelForCausalLM.from_pretrained(MODEL).config.vocab_size)}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(vocab, unk_token="t0")), eos_token="t2", pad_token="t0")


def model():
    return AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)


def reference(case):
    """Far enough from the policy that every loss has something to say."""
    torch.manual_seed(case.get("seed", 5))
    other = model()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3 * parameter.std())
    return other


def logprobs(net, prompt, response):
    with torch.no_grad():
        ids = torch.tensor([prompt + response])
        all_logprobs = net(ids).logits.log_softmax(-1)[0, len(prompt) - 1 : -1]
        return all_logprobs.gather(1, torch.tensor(response)[:, None]).sum().item()


def gradients(net):
    found = {}
    for name, parameter in net.named_parameters():
        flat = parameter.grad.double().flatten()
        found[name] = [flat.norm().item(), (flat * torch.cos(torch.arange(len(flat), dtype=torch.float64))).sum().item()]
    return found


def metrics(trainer):
    return {name: values[-1] for name, values in trainer._metrics["train"].items() if name.split("/")[0] in ("rewards", "logps", "kl")}


def dpo(case):
    text = Dataset.from_list([dict(prompt="t5", chosen="t6", rejected="t7")] * 3)
    args = DPOConfig(
        output_dir=tempfile.mkdtemp(), loss_type=[case["loss"]], beta=case["beta"], use_cpu=True, report_to=[], bf16=False,
        gradient_checkpointing=False, precompute_ref_log_probs=False, per_device_train_batch_size=3,
    )
    net = model()
    trainer = DPOTrainer(model=net, args=args, train_dataset=text, processing_class=tokenizer())
    trainer.precompute_ref_logps = True
    trainer.model.train()
    batch = trainer.data_collator([dict(prompt_ids=r["prompt"], chosen_ids=r["chosen"], rejected_ids=r["rejected"]) for r in ROWS])
    far = reference(case)
    batch["ref_chosen_logps"] = torch.tensor([logprobs(far, r["prompt"], r["chosen"]) for r in ROWS])
    batch["ref_rejected_logps"] = torch.tensor([logprobs(far, r["prompt"], r["rejected"]) for r in ROWS])
    loss = trainer._compute_loss(trainer.model, batch, False)
    loss.backward()
    return dict(case, value=loss.item(), metrics=metrics(trainer), gradients=gradients(trainer.model))


def kto(case):
    rows = [dict(prompt="t5", completion="t6", label=True), dict(prompt="t8", completion="t7", label=False)] * 3
    args = KTOConfig(
        output_dir=tempfile.mkdtemp(), loss_type="kto", beta=case["beta"], desirable_weight=case["desirable"],
        undesirable_weight=case["undesirable"], use_cpu=True, report_to=[], bf16=False, gradient_checkpointing=False,
        per_device_train_batch_size=6,
    )
    trainer = KTOTrainer(model=model(), ref_model=reference(case), args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer())
    trainer.model.train()
    thumbs = [(r["prompt"], r[side], side == "chosen") for r in ROWS for side in ("chosen", "rejected")]
    # Each prompt with the answers of the next: what tests/trl.rs gives to ours.
    others = [(r["prompt"], ROWS[(i + 1) % len(ROWS)][side]) for i, r in enumerate(ROWS) for side in ("chosen", "rejected")]
    examples = []
    for (prompt, answer, label), (_, other) in zip(thumbs, others):
        examples.append(dict(prompt_ids=prompt, completion_ids=answer, KL_completion_ids=other, label=label))
    batch = trainer.data_collator(examples)
    loss = trainer._compute_loss(trainer.model, batch, False)
    loss.backward()
    return dict(case, value=loss.item(), metrics=metrics(trainer), gradients=gradients(trainer.model))


def with_reference(case):
    """The case with the reference's log-probabilities of the answers, and of those to the next prompt."""
    far = reference(case)
    own = [[logprobs(far, r["prompt"], r[side]) for side in ("chosen", "rejected")] for r in ROWS]
    others = [[logprobs(far, r["prompt"], ROWS[(i + 1) % len(ROWS)][side]) for side in ("chosen", "rejected")] for i, r in enumerate(ROWS)]
    return dict(case, ref=own, ref_mismatched=others)


def main():
    cases = [with_reference(kto(case) if case["loss"] == "kto" else dpo(case)) for case in CASES]
    text = json.dumps(dict(rows=ROWS, cases=cases), indent=1)
    (ROOT / "tests/fixtures/trl_dpo.json").write_text(text + "\n")
    for case in cases:
        print(case["loss"], case["value"], case["metrics"])


main()
