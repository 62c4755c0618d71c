"""Writes tests/fixtures/gguf-families/: tiny models of families that came later, as llama.cpp stores them, and their logits.

    pip install -r scripts/oracle/requirements.txt
    python scripts/oracle/gguf_families.py

    CASE.gguf          a random model of `transformers`, laid out as llama.cpp's convert_hf_to_gguf.py does; the names of its tensors are
                       those of the package `gguf`
    CASE.safetensors   ids u32 [T], logits f32 [T, V]: the model's own, before it was written

Where `transformers` reads files of the family itself, its logits from the file are checked against the model's. The tokenizer is one of
single bytes: texts are the business of gguf_files.py. crates/lm/tests/it/gguf_families.rs compares.
"""

import argparse
import pathlib
import zlib

import gguf
import torch
import transformers
from gguf import GGMLQuantizationType as Q
from gguf import TokenType
from hf_parity import randomise
from safetensors.torch import save_file
from tokenizers import pre_tokenizers
from transformers import (
    Gemma2Config, Gemma3TextConfig, GPTNeoXConfig, GraniteConfig, GraniteMoeConfig, Lfm2Config, Olmo2Config, Olmo3Config, OlmoeConfig, Phi3Config, Qwen3MoeConfig,
    SmolLM3Config
)  # fmt: skip

OUT = pathlib.Path("tests/fixtures/gguf-families")
END = "<|endoftext|>"
TOKENS = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "Ġt", END]
SHARED = dict(vocab_size=len(TOKENS), num_hidden_layers=2, hidden_size=16, intermediate_size=24, num_attention_heads=2, bos_token_id=257, eos_token_id=257)
SHARED |= dict(attn_implementation="eager", pad_token_id=None, max_position_embeddings=64)
GROUPED = dict(SHARED, num_key_value_heads=1)


def rope(theta, **more):
    return dict(rope_type="default", rope_theta=theta, **more)


# How the converter names the splitting of published models; their tokens are other ones.
SPLITS = {"smollm3": "smaug-bpe", "granite": "refact", "granitemoe": "refact", "olmoe": "olmo", "qwen3_moe": "qwen2", "lfm2": "lfm2", "gpt_neox": "olmo", "olmo2": "dbrx", "olmo3": "dbrx"}
FOUR = dict(GROUPED, num_hidden_layers=4)
WINDOWS = dict(num_hidden_layers=6, sliding_window=3)
# `reads`: whether `transformers` reads such files.
CASES = {
    "smollm3": (gguf.MODEL_ARCH.SMOLLM3, False, SmolLM3Config(**FOUR, rope_parameters=rope(1e4))),
    "granite": (
        gguf.MODEL_ARCH.GRANITE, False,
        GraniteConfig(
            **GROUPED, rope_parameters=rope(1e4), embedding_multiplier=12.0, attention_multiplier=0.3, residual_multiplier=0.22, logits_scaling=8.0
        ),
    ),
    "gemma2": (
        gguf.MODEL_ARCH.GEMMA2, True,
        Gemma2Config(
            **dict(GROUPED, sliding_window=3), head_dim=8, query_pre_attn_scalar=8, attn_logit_softcapping=1.5, final_logit_softcapping=2.0,
            rope_parameters=rope(1e4),
        ),
    ),
    "gemma3": (
        gguf.MODEL_ARCH.GEMMA3, True,
        Gemma3TextConfig(**dict(GROUPED, **WINDOWS), head_dim=8, query_pre_attn_scalar=8),
    ),
    "gpt_neox": (gguf.MODEL_ARCH.GPTNEOX, False, GPTNeoXConfig(**SHARED, rope_parameters=rope(1e4, partial_rotary_factor=0.5))),
    "olmo2": (gguf.MODEL_ARCH.OLMO2, False, Olmo2Config(**GROUPED, rope_parameters=rope(5e5))),
    "olmo3": (gguf.MODEL_ARCH.OLMO2, False, Olmo3Config(**dict(FOUR, sliding_window=3, layer_types=["sliding_attention", "full_attention", "full_attention", "sliding_attention"]))),
    "lfm2": (
        gguf.MODEL_ARCH.LFM2, True,
        Lfm2Config(**dict(FOUR, num_hidden_layers=3), rope_parameters=rope(1e6), block_auto_adjust_ff_dim=False, layer_types=["conv", "full_attention", "conv"]),
    ),
    "qwen3_moe": (
        gguf.MODEL_ARCH.QWEN3MOE, True,
        Qwen3MoeConfig(**GROUPED, head_dim=8, rope_parameters=rope(1e6), num_experts=4, num_experts_per_tok=2, moe_intermediate_size=8, norm_topk_prob=True),
    ),
    "olmoe": (gguf.MODEL_ARCH.OLMOE, False, OlmoeConfig(**SHARED, num_key_value_heads=2, rope_parameters=rope(1e4), num_experts=4, num_experts_per_tok=2)),
    "granitemoe": (
        gguf.MODEL_ARCH.GRANITE_MOE, False,
        GraniteMoeConfig(
            **GROUPED, rope_parameters=rope(1e4), embedding_multiplier=12.0, attention_multiplier=0.3, residual_multiplier=0.22, logits_scaling=8.0,
            num_local_experts=4, num_experts_per_tok=2,
        ),
    ),
    "phi3": (
        gguf.MODEL_ARCH.PHI3, False,
        Phi3Config(
            **dict(GROUPED, max_position_embeddings=128), original_max_position_embeddings=64, sliding_window=6,
            rope_parameters=dict(
                rope_type="longrope", rope_theta=1e4, partial_rotary_factor=0.5, short_factor=[1.0, 1.5], long_factor=[2.0, 9.0]
            ),
        ),
    ),
}  # fmt: skip


def permute(rows, heads):
    """llama.cpp's order of the rows of queries and keys: neighbours (i, i + 1) are rotated together, not halves."""
    return rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def stack(rows, heads):
    """Queries of all heads, then keys, then values."""
    return rows.reshape(heads, 3, rows.shape[0] // heads // 3, *rows.shape[1:]).swapaxes(0, 1).reshape(rows.shape)


def stored(name, values, config):
    """A tensor as convert_hf_to_gguf.py writes it."""
    if config.model_type in ("smollm3", "granite", "granitemoe") and (".q_proj." in name or ".k_proj." in name):
        return permute(values, config.num_attention_heads if ".q_proj." in name else config.num_key_value_heads)
    if ".query_key_value." in name:
        return stack(values, config.num_attention_heads)
    if name.endswith("conv.conv.weight"):
        return values.squeeze(1)
    if config.model_type.startswith("gemma") and name.endswith("norm.weight"):
        return values + 1
    return values


def parts(name, values):
    """The tensors that a parameter is stored in, under names that the package knows: gates and ups of experts apart, routers as files name them."""
    if name.endswith("experts.gate_up_proj"):
        numbered = name.replace("block_sparse_moe.", "mlp.").removesuffix("gate_up_proj")
        return list(zip([numbered + "gate_proj.weight", numbered + "up_proj.weight"], values.chunk(2, dim=1)))
    if name.endswith("experts.down_proj"):
        return [(name.replace("block_sparse_moe.", "mlp.") + ".weight", values)]
    return [(name.replace("router.weight", "router.layer.weight"), values)]


def metadata(writer, config):
    kind = config.model_type
    rotary = config.rope_parameters.get("full_attention", config.rope_parameters)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    if kind == "gpt_neox":
        writer.add_rope_dimension_count(int(rotary["partial_rotary_factor"] * head_dim))
        writer.add_parallel_residual(config.use_parallel_residual)
        writer.add_layer_norm_eps(config.layer_norm_eps)
        return
    if kind == "lfm2":
        writer.add_head_count_kv([0 if layer == "conv" else config.num_key_value_heads for layer in config.layer_types])
        writer.add_shortconv_l_cache(config.conv_L_cache)
    else:
        writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.norm_eps if kind == "lfm2" else config.rms_norm_eps)
    writer.add_rope_freq_base(rotary["rope_theta"])
    if kind in ("smollm3", "granite", "granitemoe"):
        writer.add_vocab_size(config.vocab_size)
        writer.add_rope_dimension_count(head_dim)
    if kind in ("granite", "granitemoe"):
        writer.add_attention_scale(config.attention_multiplier)
        writer.add_embedding_scale(config.embedding_multiplier)
        writer.add_residual_scale(config.residual_multiplier)
        writer.add_logit_scale(config.logits_scaling)
    if kind.startswith("gemma"):
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    if kind in ("qwen3_moe", "olmoe", "granitemoe"):
        writer.add_expert_count(config.num_local_experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
    if kind == "qwen3_moe":
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    if kind == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    if getattr(config, "sliding_window", None) is not None:
        writer.add_sliding_window(config.sliding_window)
    if kind == "olmo3":
        writer.add_sliding_window_pattern([layer == "sliding_attention" for layer in config.layer_types])
    if kind == "phi3":
        writer.add_rope_scaling_orig_ctx_len(config.original_max_position_embeddings)
        writer.add_rope_dimension_count(int(rotary["partial_rotary_factor"] * head_dim))
        scale = config.max_position_embeddings / config.original_max_position_embeddings
        writer.add_rope_scaling_attn_factors(float((1 + torch.tensor(scale).log() / torch.tensor(config.original_max_position_embeddings).log()) ** 0.5))
        writer.add_tensor(gguf.TENSOR_NAMES[gguf.MODEL_TENSOR.ROPE_FACTORS_LONG] + ".weight", torch.tensor(rotary["long_factor"]).numpy())
        writer.add_tensor(gguf.TENSOR_NAMES[gguf.MODEL_TENSOR.ROPE_FACTORS_SHORT] + ".weight", torch.tensor(rotary["short_factor"]).numpy())


def write(name, architecture, reads, config):
    torch.manual_seed(zlib.crc32(name.encode()))
    config._experts_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    randomise(model)
    path = OUT / f"{name}.gguf"
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[architecture])
    metadata(writer, config)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(SPLITS.get(config.model_type, "gpt-2"))
    writer.add_token_list(TOKENS)
    writer.add_token_types([TokenType.CONTROL if token == END else TokenType.NORMAL for token in TOKENS])
    writer.add_token_merges(["Ġ t"])
    writer.add_bos_token_id(TOKENS.index(END))
    writer.add_eos_token_id(TOKENS.index(END))
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    for key, value in model.named_parameters():
        key = key.replace("lm_head", "embed_out") if config.model_type == "gpt_neox" else key
        for key, value in parts(key, value.detach()):
            values = stored(key, value, config).contiguous().numpy()
            writer.add_tensor(names.get_name(key, try_suffixes=(".weight", ".bias")), values, raw_dtype=Q.F32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    ids = torch.randint(0, len(TOKENS), (9,))
    with torch.no_grad():
        logits = model(input_ids=ids[None], use_cache=False).logits[0]
        if reads:
            theirs = transformers.AutoModelForCausalLM.from_pretrained(
                OUT, gguf_file=path.name, dtype=torch.float32, config=config
            ).eval()
            torch.testing.assert_close(theirs(input_ids=ids[None], use_cache=False).logits[0], logits)
    save_file({"ids": ids.to(torch.uint32), "logits": logits}, OUT / f"{name}.safetensors")
    print(f"{name:12} {path.stat().st_size / 1024:6.1f} KiB  logits {logits.min():.2f} … {logits.max():.2f}")


def main():
    arguments = argparse.ArgumentParser(description="Writes the GGUF fixtures of the later model families.")
    arguments.add_argument("--only", help="makes the case of this name alone", metavar="NAME")
    only = arguments.parse_args().only
    OUT.mkdir(parents=True, exist_ok=True)
    for name, (architecture, reads, config) in CASES.items():
        if only in (None, name):
            write(name, architecture, reads, config)


if __name__ == "__main__":
    main()
