"""Writes tests/fixtures/gguf-families/: tiny models of families that came later, as llama.cpp stores them, and their logits.

    pip install -r scripts/oracle/requirements.txt
    python scripts/oracle/gguf_families.py

    CASE.gguf          a random model of `transformers`, laid out as llama.cpp's convert_hf_to_gguf.py does; the names of its tensors are
                       those of the package `gguf`
    CASE.safetensors   ids u32 [T], logits f32 [T, V]: the model's own, before it was written
    tokens.json        texts and their ids, from `transformers`' GemmaTokenizer with the vocabulary in gemma4.gguf

Where `transformers` reads files of the family itself, its logits from the file are checked against the model's. The tokenizer is one of
single bytes but for Gemma 4's: texts are the business of gguf_files.py. As published files do, that of Qwen3.5 has a block more, which guesses
further tokens ahead, and that of Gemma 4 keys and values of layers that take those of others. crates/lm/tests/it/gguf_families.rs compares.
"""

import argparse
import json
import pathlib
import zlib

import gguf
import torch
import transformers
from gguf import GGMLQuantizationType as Q
from gguf import TokenType
from hf_parity import randomise
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import (
    Gemma2Config, Gemma3TextConfig, Gemma4TextConfig, GemmaTokenizer, GPTNeoXConfig, GraniteConfig, GraniteMoeConfig, Lfm2Config, Olmo2Config, Olmo3Config,
    OlmoeConfig, Phi3Config, Qwen3_5TextConfig, Qwen3MoeConfig, SmolLM3Config
)  # fmt: skip

OUT = pathlib.Path("tests/fixtures/gguf-families")
END = "<|endoftext|>"
TOKENS = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "Ġt", END]
SHARED = dict(vocab_size=len(TOKENS), num_hidden_layers=2, hidden_size=16, intermediate_size=24, num_attention_heads=2, bos_token_id=257, eos_token_id=257)
SHARED |= dict(attn_implementation="eager", pad_token_id=None, max_position_embeddings=64)
GROUPED = dict(SHARED, num_key_value_heads=1)


def rope(theta, **more):
    return dict(rope_type="default", rope_theta=theta, **more)


# Gemma's tokenizer: BPE over characters, spaces written as ▁, unknown characters as bytes; runs of newlines are tokens of their own.
GEMMA_SPECIALS = ["<pad>", "<eos>", "<bos>", "<unk>", "<|turn>", "<turn|>"]
GEMMA_CORPUS = [
    "The fox is red.\n\nThe fox lives in the forest, and it's 12 years old.\nThe owl lives in the forest too.\n\n\nWhat colour is the fox?",
    "A hammer is a tool, a hammer is heavy;  we'll use it   to drive 100 nails.\n\nFüchse sind rot.\n\n",
]
GEMMA_TEXTS = [
    "", "The fox is red.", " leading, trailing \n\n\t", "one\ntwo\n\nthree\n\n\n\n\nfour", "it's 12345  67 and 8   9 ---- ~~~", "naïve café Ελλάδα 日本語 👩‍👩‍👧‍👦",
    "<|turn>user\nthe fox<turn|>\n", "x<eos>  y",
]  # fmt: skip


def gemma_vocabulary():
    """(tokens in order of id, merges)"""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("[^\n]+|\n+"), "isolated")
    tokenizer.train_from_iterator(GEMMA_CORPUS * 3, trainers.BpeTrainer(vocab_size=80, show_progress=False))
    model = json.loads(tokenizer.to_str())["model"]
    tokens = GEMMA_SPECIALS + [f"<0x{byte:02X}>" for byte in range(256)] + sorted(model["vocab"], key=model["vocab"].get)
    return tokens, [tuple(merge) for merge in model["merges"]]


GEMMA_TOKENS, GEMMA_MERGES = gemma_vocabulary()
# How the converter names the splitting of published models; their tokens are other ones.
SPLITS = {"smollm3": "smaug-bpe", "granite": "refact", "granitemoe": "refact", "olmoe": "olmo", "qwen3_moe": "qwen2", "lfm2": "lfm2", "gpt_neox": "olmo", "olmo2": "dbrx", "olmo3": "dbrx", "qwen3_5_text": "qwen35"}
FOUR = dict(GROUPED, num_hidden_layers=4)
WINDOWS = dict(num_hidden_layers=6, sliding_window=3)
GEMMA4 = dict(GROUPED, head_dim=4, global_head_dim=8, num_key_value_heads=2, sliding_window=3, final_logit_softcapping=2.0, num_hidden_layers=2)
GEMMA4 |= dict(hidden_size_per_layer_input=0, vocab_size_per_layer_input=len(TOKENS), layer_types=["sliding_attention", "full_attention"])
GEMMA4 |= dict(rope_parameters=dict(full_attention=dict(rope_type="proportional", rope_theta=1e4, partial_rotary_factor=0.5), sliding_attention=rope(100.0)))
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
    # As E2B: inputs of every layer, whose last two attend to the keys and values of the first two and have wider MLPs; Gemma's tokenizer.
    "gemma4": (
        gguf.MODEL_ARCH.GEMMA4, False,
        Gemma4TextConfig(
            **dict(
                GEMMA4, num_hidden_layers=4, hidden_size_per_layer_input=4, num_kv_shared_layers=2, use_double_wide_mlp=True, bos_token_id=2, eos_token_id=1,
                vocab_size=len(GEMMA_TOKENS), vocab_size_per_layer_input=len(GEMMA_TOKENS), layer_types=["sliding_attention", "full_attention"] * 2,
            )
        ),
    ),
    # As 31B: without a window, keys are values too, and fewer.
    "gemma4-dense": (gguf.MODEL_ARCH.GEMMA4, False, Gemma4TextConfig(**GEMMA4, attention_k_eq_v=True, num_global_key_value_heads=1)),
    # As 26B-A4B: experts beside every MLP.
    "gemma4-moe": (
        gguf.MODEL_ARCH.GEMMA4, False, Gemma4TextConfig(**GEMMA4, enable_moe_block=True, num_experts=4, top_k_experts=2, moe_intermediate_size=10)
    ),
    # Three heads of values share one of keys.
    "qwen3_5": (
        gguf.MODEL_ARCH.QWEN35, False,
        Qwen3_5TextConfig(
            **dict(GROUPED, num_hidden_layers=3), head_dim=16, linear_num_key_heads=2, linear_num_value_heads=6, linear_key_head_dim=8, linear_value_head_dim=8,
            layer_types=["linear_attention", "linear_attention", "full_attention"], rope_parameters=rope(1e4, partial_rotary_factor=0.5), tie_word_embeddings=True,
        ),
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


def tiled(values, config, along, behind, dim):
    """llama.cpp's order of heads of values: the first of all heads of keys, then the second ones, … (_LinearAttentionVReorderBase)."""
    keys = config.linear_num_key_heads
    head = values.narrow(along, 0, behind)
    rest = values.narrow(along, behind, values.shape[along] - behind)
    rest = torch.stack(rest.split(dim, dim=along)).unflatten(0, (keys, -1)).transpose(0, 1).flatten(0, 1)
    return torch.cat([head, *rest], dim=along)


def stored(name, values, config):
    """A tensor as convert_hf_to_gguf.py writes it."""
    if ".linear_attn." in name:
        dim, behind = config.linear_value_head_dim, 2 * config.linear_num_key_heads * config.linear_key_head_dim
        if name.endswith("conv1d.weight"):
            return tiled(values.squeeze(1), config, 0, behind, dim)
        if ".in_proj_qkv." in name:
            return tiled(values, config, 0, behind, dim)
        if ".in_proj_z." in name:
            return tiled(values, config, 0, 0, dim)
        if ".out_proj." in name:
            return tiled(values, config, 1, 0, dim)
        if name.endswith("A_log"):
            return tiled(-torch.exp(values), config, 0, 0, 1)
        return values if name.endswith("norm.weight") else tiled(values, config, 0, 0, 1)
    if config.model_type == "qwen3_5_text" and name.endswith("norm.weight"):
        return values + 1
    if config.model_type in ("smollm3", "granite", "granitemoe") and (".q_proj." in name or ".k_proj." in name):
        return permute(values, config.num_attention_heads if ".q_proj." in name else config.num_key_value_heads)
    if ".query_key_value." in name:
        return stack(values, config.num_attention_heads)
    if name.endswith("conv.conv.weight"):
        return values.squeeze(1)
    if config.model_type in ("gemma2", "gemma3_text") and name.endswith("norm.weight"):
        return values + 1
    return values


def parts(name, values, kind):
    """The tensors that a parameter is stored in, under names that the package knows: gates and ups of experts apart, routers as files name them."""
    if kind == "gemma4_text":
        return [(name + ".weight" if name.endswith(("_proj", "layer_scalar")) else name, values)]
    if name.endswith("dt_bias"):
        return [(name.removesuffix("dt_bias") + "dt_proj.bias", values)]
    if name.endswith("experts.gate_up_proj"):
        numbered = name.replace("block_sparse_moe.", "mlp.").removesuffix("gate_up_proj")
        return list(zip([numbered + "gate_proj.weight", numbered + "up_proj.weight"], values.chunk(2, dim=1)))
    if name.endswith("experts.down_proj"):
        return [(name.replace("block_sparse_moe.", "mlp.") + ".weight", values)]
    return [(name.replace("router.weight", "router.layer.weight"), values)]


def gguf_name(names, name):
    """llama.cpp's name of a tensor."""
    if name.endswith(".router.scale"):
        return f"blk.{name.split('.')[2]}.ffn_gate_inp.scale"
    if name.endswith(".per_expert_scale"):
        return f"blk.{name.split('.')[2]}.ffn_down_exps.scale"
    return names.get_name(name, try_suffixes=(".weight", ".bias"))


def further(config):
    """Tensors that published files have and no language model reads."""
    if config.model_type == "qwen3_5_text":
        hidden, heads, keys, inner = config.hidden_size, config.num_attention_heads, config.num_key_value_heads, config.intermediate_size
        head_dim, block = config.head_dim, f"blk.{config.num_hidden_layers}."
        shapes = dict(attn_norm=[hidden], post_attention_norm=[hidden], attn_q=[2 * heads * head_dim, hidden], attn_output=[hidden, heads * head_dim])
        shapes |= dict(attn_k=[keys * head_dim, hidden], attn_v=[keys * head_dim, hidden], attn_q_norm=[head_dim], attn_k_norm=[head_dim])
        shapes |= dict(ffn_gate=[inner, hidden], ffn_up=[inner, hidden], ffn_down=[hidden, inner])
        shapes |= {"nextn.eh_proj": [hidden, 2 * hidden], "nextn.enorm": [hidden], "nextn.hnorm": [hidden]}
        return {f"{block}{name}.weight": torch.randn(shape) for name, shape in shapes.items()}
    tensors = {}
    for layer in range(config.num_hidden_layers - getattr(config, "num_kv_shared_layers", 0), config.num_hidden_layers):
        dim = config.head_dim if config.layer_types[layer] == "sliding_attention" else GEMMA4["global_head_dim"]
        for name in ("attn_k", "attn_v"):
            tensors[f"blk.{layer}.{name}.weight"] = torch.randn(config.num_key_value_heads * dim, config.hidden_size)
        tensors[f"blk.{layer}.attn_k_norm.weight"] = torch.randn(dim)
    return tensors


def recurrent_metadata(writer, config):
    writer.add_block_count(config.num_hidden_layers + 1)
    writer.add_nextn_predict_layers(1)
    writer.add_ssm_conv_kernel(config.linear_conv_kernel_dim)
    writer.add_ssm_state_size(config.linear_key_head_dim)
    writer.add_ssm_group_count(config.linear_num_key_heads)
    writer.add_ssm_time_step_rank(config.linear_num_value_heads)
    writer.add_ssm_inner_size(config.linear_value_head_dim * config.linear_num_value_heads)
    writer.add_full_attention_interval(config.num_hidden_layers)
    writer.add_rope_dimension_count(int(config.head_dim * config.rope_parameters["partial_rotary_factor"]))
    writer.add_rope_dimension_sections([2, 1, 1, 0])


def gemma4_metadata(writer, config):
    slides, shared = [layer == "sliding_attention" for layer in config.layer_types], config.num_kv_shared_layers
    wide, part = GEMMA4["global_head_dim"], config.rope_parameters["full_attention"]["partial_rotary_factor"]
    keys = 1 if config.attention_k_eq_v else config.num_key_value_heads
    writer.add_head_count_kv([config.num_key_value_heads if slid else keys for slid in slides])
    if config.use_double_wide_mlp:
        writer.add_feed_forward_length([config.intermediate_size * (1 + (i >= len(slides) - shared)) for i in range(len(slides))])
    writer.add_shared_kv_layers(shared)
    writer.add_embedding_length_per_layer_input(config.hidden_size_per_layer_input)
    writer.add_sliding_window_pattern(slides)
    writer.add_key_length(wide)
    writer.add_value_length(wide)
    writer.add_key_length_swa(config.head_dim)
    writer.add_value_length_swa(config.head_dim)
    writer.add_rope_dimension_count(wide)
    writer.add_rope_dimension_count_swa(config.head_dim)
    writer.add_rope_freq_base_swa(config.rope_parameters["sliding_attention"]["rope_theta"])
    writer.add_final_logit_softcapping(config.final_logit_softcapping)
    if config.enable_moe_block:
        writer.add_expert_count(config.num_experts)
        writer.add_expert_used_count(config.top_k_experts)
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)
    turned = int(part * wide / 2)
    writer.add_tensor("rope_freqs.weight", torch.tensor([1.0] * turned + [1e30] * (wide // 2 - turned)).numpy())


def metadata(writer, config):
    kind = config.model_type
    rotary = config.rope_parameters.get("full_attention", config.rope_parameters)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    if kind != "qwen3_5_text":
        writer.add_block_count(config.num_hidden_layers)
    if not getattr(config, "use_double_wide_mlp", False):
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
    elif kind != "gemma4_text":
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
    if kind == "qwen3_5_text":
        recurrent_metadata(writer, config)
    if kind == "gemma4_text":
        gemma4_metadata(writer, config)
    if kind in ("gemma2", "gemma3_text", "qwen3_5_text"):
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
    if config.model_type == "gemma4_text":
        config.allow_global_per_layer_attribute_access = True  # what layers with a window have
    path = OUT / f"{name}.gguf"
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[architecture])
    metadata(writer, config)
    tokens = GEMMA_TOKENS if config.vocab_size == len(GEMMA_TOKENS) else TOKENS
    if tokens is GEMMA_TOKENS:
        writer.add_tokenizer_model("gemma4")
        writer.add_token_scores([-1000.0] * len(tokens))
        kinds = {token: TokenType.CONTROL for token in GEMMA_SPECIALS} | {"<unk>": TokenType.UNKNOWN}
        kinds |= {f"<0x{byte:02X}>": TokenType.BYTE for byte in range(256)}
        writer.add_token_merges([" ".join(merge) for merge in GEMMA_MERGES])
        writer.add_add_space_prefix(False)
        writer.add_add_bos_token(True)
        writer.add_unk_token_id(tokens.index("<unk>"))
        writer.add_pad_token_id(tokens.index("<pad>"))
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(SPLITS.get(config.model_type, "gpt-2"))
        kinds = {END: TokenType.CONTROL}
        writer.add_token_merges(["Ġ t"])
    writer.add_token_list(tokens)
    writer.add_token_types([kinds.get(token, TokenType.NORMAL) for token in tokens])
    writer.add_bos_token_id(config.bos_token_id)
    writer.add_eos_token_id(config.eos_token_id)
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    constants = [(key, value) for key, value in model.named_buffers() if key.endswith("layer_scalar")]
    for key, value in [*model.named_parameters(), *constants]:
        key = key.replace("lm_head", "embed_out") if config.model_type == "gpt_neox" else key
        for key, value in parts(key, value.detach(), config.model_type):
            values = stored(key, value, config).contiguous().numpy()
            writer.add_tensor(gguf_name(names, key), values, raw_dtype=Q.F32)
    for key, value in further(config).items():
        writer.add_tensor(key, value.numpy(), raw_dtype=Q.F32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    ids = torch.randint(0, len(tokens), (9,))
    with torch.no_grad():
        logits = model(input_ids=ids[None], use_cache=False).logits[0]
        if reads:
            theirs = transformers.AutoModelForCausalLM.from_pretrained(
                OUT, gguf_file=path.name, dtype=torch.float32, config=config
            ).eval()
            torch.testing.assert_close(theirs(input_ids=ids[None], use_cache=False).logits[0], logits)
    save_file({"ids": ids.to(torch.uint32), "logits": logits}, OUT / f"{name}.safetensors")
    print(f"{name:12} {path.stat().st_size / 1024:6.1f} KiB  logits {logits.min():.2f} … {logits.max():.2f}")


def write_tokens():
    tokenizer = GemmaTokenizer(vocab={token: i for i, token in enumerate(GEMMA_TOKENS)}, merges=GEMMA_MERGES, mask_token=None)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|turn>", "<turn|>"]})
    cases = [{"text": text, "ids": tokenizer.encode(text, add_special_tokens=False)} for text in GEMMA_TEXTS]
    (OUT / "tokens.json").write_text(json.dumps(cases, ensure_ascii=False).replace('{"text"', '\n  {"text"') + "\n")


def main():
    arguments = argparse.ArgumentParser(description="Writes the GGUF fixtures of the later model families.")
    arguments.add_argument("--only", help="makes the case of this name alone", metavar="NAME")
    only = arguments.parse_args().only
    OUT.mkdir(parents=True, exist_ok=True)
    for name, (architecture, reads, config) in CASES.items():
        if only in (None, name):
            write(name, architecture, reads, config)
    write_tokens()


if __name__ == "__main__":
    main()
