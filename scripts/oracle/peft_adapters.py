"""Writes tests/fixtures/peft/: adapters as PEFT saves them, with what the adapted models compute; and checks an adapter that rlhf saved.

    pip install -r scripts/oracle/requirements.txt
    python scripts/oracle/peft_adapters.py

    gpt2-base/            a tiny GPT-2 with the tokenizer of tests/fixtures/score/lm, which is the base of the other two
    llama/, gpt2/         adapters of a language model: all linear layers, α/r; some layers, rank-stabilised
    reward/               an adapter with a head of one label (SEQ_CLS) on a language model
    expected.safetensors  ids u32 [T]; llama, gpt2 f32 [T, V], logits; llama.merged, the same from merge_and_unload; reward f32 [1], the score

A and B are random, so that nothing is zero. crates/lm/tests/it/lora.rs compares.

    rlhf score --model ADAPTER --data FILE --json > scores.jsonl
    python scripts/oracle/peft_adapters.py --check ADAPTER FILE scores.jsonl

loads an adapter that rlhf saved over its base with PEFT, and compares as check_saved.py does. Exit code 1 when anything differs.
"""

import argparse
import json
import pathlib
import sys

import torch
from check_saved import Comparison, Encoder, language_model, read_rows
from hf_parity import randomise
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, GPT2Config, GPT2LMHeadModel

IDS = [5, 17, 200, 33, 33, 271, 4, 90, 12]
CASES = {
    "llama": dict(r=3, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"),
    "gpt2": dict(r=4, lora_alpha=8, target_modules=["c_attn", "mlp.c_proj"], use_rslora=True, fan_in_fan_out=True, task_type="CAUSAL_LM"),
    "reward": dict(r=2, lora_alpha=6, target_modules=["q_proj", "v_proj", "down_proj"], task_type="SEQ_CLS"),
}


def adapted(base, case):
    """The model under a random adapter; the head of a reward model is random already."""
    model = get_peft_model(base, LoraConfig(**case))
    generator = torch.Generator().manual_seed(1)
    for name, parameter in sorted(model.named_parameters()):
        if "lora_" in name or "modules_to_save" in name:
            parameter.data.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


@torch.no_grad()
def write(out, score):
    base = out / "gpt2-base"
    tokenizer = AutoTokenizer.from_pretrained(score / "lm")
    ends = dict(bos_token_id=tokenizer.eos_token_id, eos_token_id=tokenizer.eos_token_id)
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=12, n_head=3, n_layer=2, n_positions=64, **ends))
    randomise(gpt2)
    gpt2.save_pretrained(base)
    tokenizer.save_pretrained(base)
    (base / "generation_config.json").unlink(missing_ok=True)

    ids = torch.tensor([IDS])
    expected = {"ids": ids[0].to(torch.uint32)}
    for name, case in CASES.items():
        from_base, written = (base, "../gpt2-base") if name == "gpt2" else (score / "lm", "../../score/lm")
        if case["task_type"] == "SEQ_CLS":
            torch.manual_seed(2)
            model = AutoModelForSequenceClassification.from_pretrained(from_base, num_labels=1)
        else:
            model = AutoModelForCausalLM.from_pretrained(from_base)
        model = adapted(model, case)
        folder = out / name
        model.save_pretrained(folder)
        (folder / "README.md").unlink(missing_ok=True)  # a model card to be filled in
        config = folder / "adapter_config.json"
        json_config = json.loads(config.read_text()) | {"base_model_name_or_path": written}
        json_config["target_modules"].sort()  # PEFT keeps a set
        config.write_text(json.dumps(json_config, indent=2, sort_keys=True) + "\n")
        logits = model(input_ids=ids).logits[0]
        # transformers takes the score of the last token for a whole sequence.
        expected[name] = logits.contiguous()
        if name == "llama":
            expected["llama.merged"] = model.merge_and_unload()(input_ids=ids).logits[0].contiguous()
    save_file(expected, out / "expected.safetensors", metadata={"made_by": "scripts/oracle/peft_adapters.py"})


@torch.no_grad()
def check(adapter, data, scores, tolerance):
    config = json.loads((adapter / "adapter_config.json").read_text())
    beside = adapter / config["base_model_name_or_path"]
    base = beside if beside.exists() else config["base_model_name_or_path"]
    scalar = config["task_type"] == "SEQ_CLS"
    if scalar:
        model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, dtype=torch.float32)
        calibration = json.loads((adapter / "reward.json").read_text())["calibration"]
    else:
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, adapter).eval()
    encoder, rows, comparison = Encoder(AutoTokenizer.from_pretrained(adapter), []), read_rows(data), Comparison(tolerance)
    for ours in read_rows(scores):
        answer = ours.get("answer")
        where = f"row {ours['index']}" + ("" if answer is None else f", answer {answer}")
        ids = encoder.row(rows[ours["index"]])[answer]
        if scalar:
            ids = ids if ids[-1] == encoder.tokenizer.eos_token_id else ids + [encoder.tokenizer.eos_token_id]
            score = model(input_ids=torch.tensor([ids])).logits.item()
            comparison.numbers(where, "score", ours["score"], (score - calibration["mean"]) / calibration["std"])
            continue
        comparison.ids(where, ours["tokens"], ids)
        logprobs, entropy, _ = language_model(model, ours["tokens"])
        comparison.numbers(where, "logprobs", ours["logprobs"], logprobs)
        comparison.numbers(where, "entropy", ours["entropy"], entropy)
    for failure in comparison.failures[:20]:
        print(failure)
    print(f"{comparison.compared} numbers compared; largest difference " + ", ".join(f"{k} {v:.1e}" for k, v in comparison.worst.items()))
    if comparison.failures or not comparison.compared:
        sys.exit("they differ" if comparison.failures else "nothing was compared")


def main():
    fixtures = pathlib.Path(__file__).resolve().parents[2] / "tests/fixtures"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=fixtures / "peft")
    parser.add_argument("--check", type=pathlib.Path, nargs=3, metavar=("ADAPTER", "FILE", "SCORES"))
    parser.add_argument("--tolerance", type=float, default=1e-4, help="largest absolute difference (default %(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.check:
        check(*arguments.check, arguments.tolerance)
    else:
        arguments.out.mkdir(parents=True, exist_ok=True)
        write(arguments.out, fixtures / "score")


if __name__ == "__main__":
    main()
