"""Writes random models of about 30 million parameters, one of every family, and prints their names."""

import argparse
import pathlib
import shutil

import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

# A vocabulary of 1024 keeps the size in the blocks.
SHARED = dict(hidden_size=512, num_hidden_layers=9, num_attention_heads=8, num_key_value_heads=4, intermediate_size=1376, max_position_embeddings=4096)
EXPERTS = dict(num_hidden_layers=8, num_experts=8, num_experts_per_tok=2)
FAMILIES = {
    "gpt2": dict(n_embd=512, n_layer=9, n_head=8, n_positions=4096, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0),
    "llama": SHARED,
    "mistral": dict(SHARED, sliding_window=None),
    "qwen2": SHARED,
    "qwen3": dict(SHARED, head_dim=64),
    "qwen3_moe": dict(SHARED, **EXPERTS, head_dim=64, moe_intermediate_size=208, norm_topk_prob=True),
    "qwen3_5_text": dict(
        SHARED, num_hidden_layers=8, num_attention_heads=4, num_key_value_heads=2, head_dim=128, linear_num_key_heads=4, linear_num_value_heads=4,
        linear_key_head_dim=128, linear_value_head_dim=128
    ),
    "smollm3": SHARED,
    "granite": dict(SHARED, attention_multiplier=0.125),
    "granitemoe": dict(SHARED, num_hidden_layers=8, num_local_experts=8, num_experts_per_tok=2, intermediate_size=208, attention_multiplier=0.125),
    "gemma2": dict(SHARED, head_dim=64, query_pre_attn_scalar=64, sliding_window=128),
    "gemma3_text": dict(SHARED, head_dim=64, query_pre_attn_scalar=64, sliding_window=128),
    "gemma4_text": dict(
        SHARED, num_hidden_layers=8, head_dim=64, global_head_dim=128, sliding_window=128, hidden_size_per_layer_input=64, vocab_size_per_layer_input=1024,
        num_kv_shared_layers=2, use_double_wide_mlp=True
    ),
    "gpt_neox": dict(SHARED, intermediate_size=2048),
    "olmo2": SHARED,
    "olmo3": dict(SHARED, sliding_window=128),
    "olmoe": dict(SHARED, **EXPERTS, intermediate_size=208),
    "phi3": dict(SHARED, sliding_window=None),
    "lfm2": dict(SHARED, block_auto_adjust_ff_dim=False, full_attn_idxs=[2, 5, 8]),
}


def make(to, tokenizer, wanted):
    """Prints the names of the models, and makes those that are not there."""
    fast = PreTrainedTokenizerFast.from_pretrained(tokenizer)
    for name in wanted or FAMILIES:
        print(name)
        if (to / name / "config.json").exists():
            continue
        sizes = FAMILIES[name]
        torch.manual_seed(0)
        config = transformers.AutoConfig.for_model(
            name, **sizes, vocab_size=len(fast), bos_token_id=fast.bos_token_id, eos_token_id=fast.eos_token_id, pad_token_id=None
        )
        model = AutoModelForCausalLM.from_config(config)
        model.save_pretrained(to / name)
        for file in ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"]:
            if (tokenizer / file).exists():
                shutil.copyfile(tokenizer / file, to / name / file)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=pathlib.Path, metavar="FOLDER", required=True)
    parser.add_argument("--tokenizer", type=pathlib.Path, required=True)
    parser.add_argument("--only", nargs="*")
    a = parser.parse_args()
    make(a.to, a.tokenizer, a.only)


main()
