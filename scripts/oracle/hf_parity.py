"""Writes tests/fixtures/hf/ and hf-reward/: tiny random models of every supported family, and what `transformers` computes with them.

    pip install -r scripts/oracle/requirements.txt
    python scripts/oracle/hf_parity.py

One folder a case:

    config.json           as transformers 5 writes it (`rope_parameters`, `dtype`)
    config.v4.json        the same model as transformers 4 wrote it (`rope_theta`, `rope_scaling`, `torch_dtype`)
    model.safetensors     the weights, f32
    expected.safetensors  ids u32 [T]        several sequences of different length, end to end
                          lengths u32 [B]    the length of each
                          logits f32 [T, V]  each sequence alone through the model: no padding, no neighbours
                          loss f32 [1]       mean of -log p(next token) over every next token of every sequence
                          grad.NAME          d loss / d NAME for every parameter, at the initial weights
                          losses f32 [10]    the loss before each of ten AdamW steps
                          balance f32 [1], balance.NAME   of a mixture of experts: the load-balancing loss over all tokens, and gradients of it
                          grad_norms f32 [10], lrs f32 [10]  before clipping; as scheduled
                          metadata.made_by   JSON: the hyper-parameters of those steps, the versions used, this script

A case of hf-reward/ is a sequence classifier with one label: config.json, model.safetensors, and in expected.safetensors `ids`, `lengths` and
`scores` f32 [B], the output for each sequence alone.

crates/train/tests/hf_parity.rs compares them with ours.
"""

import argparse
import copy
import json
import pathlib
import zlib

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM, AutoModelForSequenceClassification, Gemma2Config, Gemma3Config, Gemma3TextConfig, Gemma4Config, Gemma4TextConfig, GPT2Config,
    GPTNeoXConfig, GraniteConfig, GraniteMoeConfig, Lfm2Config, LlamaConfig, MistralConfig, Olmo2Config, Olmo3Config, OlmoeConfig, Phi3Config, Qwen2Config, Qwen3_5Config, Qwen3_5TextConfig, Qwen3Config, Qwen3MoeConfig,
    SiglipVisionConfig, SmolLM3Config
)  # fmt: skip
from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func

VOCAB = 40
LENGTHS = [9, 1, 2, 17, 5]  # a single token (no target at all), and one sequence longer than the rest together
STEPS, WARMUP = 10, 2
LR, BETAS, EPS, WEIGHT_DECAY, CLIP = 1e-2, (0.9, 0.999), 1e-8, 0.01, 1.0

# The embedding of a padding token gets no gradient in PyTorch. There is none here.
SHARED = dict(vocab_size=VOCAB, num_hidden_layers=2, bos_token_id=1, eos_token_id=2, pad_token_id=None, attn_implementation="eager")
NARROW = dict(SHARED, hidden_size=16, num_attention_heads=4, intermediate_size=24)
GPT2 = dict(vocab_size=VOCAB, n_embd=12, n_head=3, n_layer=2, n_positions=32, bos_token_id=1, eos_token_id=2, attn_implementation="eager")
# Head size 6 has three frequencies, with wavelengths 6, 135 and 2917: with these bounds (50 and 200) llama3 scaling keeps the
# first, blends the second and divides the third.
LLAMA3 = dict(
    rope_type="llama3", rope_theta=10000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=200
)
LLAMA = dict(SHARED, hidden_size=24, num_attention_heads=4, num_key_value_heads=2, intermediate_size=20, max_position_embeddings=1600)
GEMMA = dict(NARROW, num_key_value_heads=2, head_dim=6, query_pre_attn_scalar=5, sliding_window=3)
GEMMA4 = dict(
    NARROW, num_attention_heads=2, num_key_value_heads=2, head_dim=4, global_head_dim=8, vocab_size_per_layer_input=VOCAB, sliding_window=3,
    final_logit_softcapping=2.0, rope_parameters=dict(
        full_attention=dict(rope_type="proportional", rope_theta=1e4, partial_rotary_factor=0.5), sliding_attention=dict(rope_type="default", rope_theta=100.0)
    )
)
NEOX = dict(SHARED, hidden_size=16, num_attention_heads=2, intermediate_size=24, max_position_embeddings=64)


def rope(theta, **scaling):
    return dict(rope_type="default", rope_theta=theta, **scaling)


CASES = {
    "gpt2": GPT2Config(**GPT2),
    "gpt2-bare-names": GPT2Config(**GPT2),
    "llama3-tied": LlamaConfig(**LLAMA, rope_parameters=LLAMA3, tie_word_embeddings=True),
    "llama3-untied": LlamaConfig(**LLAMA, rope_parameters=LLAMA3, tie_word_embeddings=False, rms_norm_eps=1e-5),
    "llama-linear": LlamaConfig(
        **NARROW, num_key_value_heads=4, rope_parameters=dict(rope_type="linear", rope_theta=10000.0, factor=4.0), tie_word_embeddings=False
    ),
    "mistral": MistralConfig(**NARROW, num_key_value_heads=1, rope_parameters=rope(1e6), sliding_window=None, tie_word_embeddings=False),
    "mistral-window": MistralConfig(**NARROW, num_key_value_heads=2, rope_parameters=rope(1e4), sliding_window=3, tie_word_embeddings=True),
    "qwen2": Qwen2Config(**NARROW, num_key_value_heads=2, rope_parameters=rope(1e6), tie_word_embeddings=True),
    "qwen2-window": Qwen2Config(
        **NARROW, num_key_value_heads=2, rope_parameters=rope(1e4), use_sliding_window=True, sliding_window=2, max_window_layers=1,
        tie_word_embeddings=True
    ),
    "qwen3": Qwen3Config(
        **dict(NARROW, num_attention_heads=2), num_key_value_heads=1, head_dim=12, rope_parameters=rope(1e6), tie_word_embeddings=True
    ),
    # Three layers: the second knows no positions, the third none and has a window.
    "smollm3": SmolLM3Config(
        **dict(NARROW, num_hidden_layers=3), num_key_value_heads=2, rope_parameters=rope(1e4), no_rope_layers=[1, 0, 0], use_sliding_window=True,
        sliding_window=3, layer_types=["full_attention", "full_attention", "sliding_attention"]
    ),
    "granite": GraniteConfig(
        **NARROW, num_key_value_heads=2, rope_parameters=rope(1e4), embedding_multiplier=12.0, attention_multiplier=0.3, residual_multiplier=0.22,
        logits_scaling=8.0, tie_word_embeddings=True
    ),
    # Head size 8 has four frequencies, with wavelengths 6, 63, 628 and 6283, of which YaRN keeps the first and divides the last.
    "qwen3-yarn": Qwen3Config(
        **dict(NARROW, num_attention_heads=2), num_key_value_heads=2, head_dim=8, max_position_embeddings=400,
        rope_parameters=dict(rope_type="yarn", rope_theta=1e4, factor=4.0, original_max_position_embeddings=100, beta_fast=8.0), tie_word_embeddings=True
    ),
    # Caps that scores and logits exceed; the first layer has a window.
    "gemma2": Gemma2Config(
        **GEMMA, attn_logit_softcapping=1.5, final_logit_softcapping=2.0, rope_parameters=rope(1e4)
    ),
    # The second layer has no window, and frequencies of its own.
    "gemma3": Gemma3TextConfig(
        **GEMMA, layer_types=["sliding_attention", "full_attention"],
        rope_parameters=dict(
            full_attention=dict(rope_type="linear", rope_theta=1e4, factor=8.0), sliding_attention=dict(rope_type="default", rope_theta=100.0)
        )
    ),
    # The text part of a model that also sees.
    "gemma3-nested": Gemma3Config(
        text_config=Gemma3TextConfig(**GEMMA, layer_types=["sliding_attention", "full_attention"]),
        vision_config=SiglipVisionConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=8, patch_size=4),
        mm_tokens_per_image=1, eos_token_id=[2, 5], attn_implementation="eager"
    ),
    # As E2B: inputs of every layer, whose last two attend to the keys and values of the first two and have wider MLPs.
    "gemma4": Gemma4TextConfig(
        **dict(GEMMA4, num_hidden_layers=4), hidden_size_per_layer_input=12, num_kv_shared_layers=2, use_double_wide_mlp=True,
        layer_types=["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
    ),
    # As 31B: without a window, keys are values too, and fewer. With biases, which no published one has.
    "gemma4-dense": Gemma4TextConfig(
        **GEMMA4, hidden_size_per_layer_input=0, attention_k_eq_v=True, num_global_key_value_heads=1, attention_bias=True,
        layer_types=["sliding_attention", "full_attention"]
    ),
    # As 26B-A4B: experts beside every MLP.
    "gemma4-moe": Gemma4TextConfig(
        **GEMMA4, hidden_size_per_layer_input=0, enable_moe_block=True, num_experts=4, top_k_experts=2, moe_intermediate_size=10,
        layer_types=["sliding_attention", "full_attention"]
    ),
    "gemma4-nested": Gemma4Config(
        text_config=Gemma4TextConfig(**GEMMA4, hidden_size_per_layer_input=8, layer_types=["sliding_attention", "full_attention"]),
        vision_config=dict(
            hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1, head_dim=8, patch_size=2,
            position_embedding_size=4
        ),
        eos_token_id=[2, 5], attn_implementation="eager"
    ),
    "gpt_neox": GPTNeoXConfig(**NEOX, rope_parameters=rope(1e4, partial_rotary_factor=0.5)),
    "gpt_neox-serial": GPTNeoXConfig(**NEOX, rope_parameters=rope(100.0, partial_rotary_factor=1.0), use_parallel_residual=False, hidden_act="gelu_new"),
    "olmo2": Olmo2Config(**NARROW, num_key_value_heads=2, rope_parameters=rope(5e5), tie_word_embeddings=False),
    "olmo3": Olmo3Config(
        **NARROW, num_key_value_heads=4, sliding_window=3, layer_types=["sliding_attention", "full_attention"], max_position_embeddings=400,
        rope_parameters=dict(
            full_attention=dict(rope_type="yarn", rope_theta=5e5, factor=8.0, original_max_position_embeddings=50),
            sliding_attention=dict(rope_type="default", rope_theta=5e5)
        )
    ),
    # Heads of 8, of which 4 numbers are turned; the sequences are shorter than the length up to which the short factors hold.
    "phi3": Phi3Config(
        **dict(NARROW, num_attention_heads=2), num_key_value_heads=1, max_position_embeddings=128, original_max_position_embeddings=32, sliding_window=6,
        rope_parameters=dict(
            rope_type="longrope", rope_theta=1e4, partial_rotary_factor=0.5, short_factor=[1.0, 1.5], long_factor=[2.0, 9.0]
        ), tie_word_embeddings=True
    ),
    # Four layers: the second has an MLP, the fourth too.
    "qwen3_moe": Qwen3MoeConfig(
        **dict(NARROW, num_hidden_layers=4), num_key_value_heads=2, head_dim=6, rope_parameters=rope(1e6), num_experts=5, num_experts_per_tok=2,
        moe_intermediate_size=10, norm_topk_prob=True, mlp_only_layers=[1, 3], tie_word_embeddings=True
    ),
    "olmoe": OlmoeConfig(**NARROW, num_key_value_heads=2, rope_parameters=rope(1e4), num_experts=4, num_experts_per_tok=3, tie_word_embeddings=False),
    "granitemoe": GraniteMoeConfig(
        **NARROW, num_key_value_heads=2, rope_parameters=rope(1e4), embedding_multiplier=12.0, attention_multiplier=0.3, residual_multiplier=0.5,
        logits_scaling=8.0, num_local_experts=6, num_experts_per_tok=2, output_router_logits=True, router_aux_loss_coef=0.01, tie_word_embeddings=True
    ),
    # Convolutions that reach over three tokens and over a whole short sequence, then attention.
    "lfm2": Lfm2Config(
        **dict(NARROW, num_hidden_layers=3), num_key_value_heads=2, rope_parameters=rope(1e6), conv_L_cache=3, block_multiple_of=8,
        layer_types=["conv", "full_attention", "conv"]
    ),
    # Two heads of values share one of keys; sequences are longer than the convolution reaches. Of sizes at which ten steps in PyTorch change little when
    # the first weights are changed in their sixth digit: the norm after the recurrence divides by what may be next to nothing.
    "qwen3_5": Qwen3_5TextConfig(
        **dict(NARROW, num_attention_heads=2, intermediate_size=18), num_key_value_heads=1, head_dim=8, linear_num_key_heads=1, linear_num_value_heads=2,
        linear_key_head_dim=12, linear_value_head_dim=12, layer_types=["linear_attention", "full_attention"],
        rope_parameters=rope(1e4, partial_rotary_factor=0.5)
    ),
    "llama-dynamic": LlamaConfig(
        **dict(NARROW, num_attention_heads=2), max_position_embeddings=32, rope_parameters=dict(rope_type="dynamic", rope_theta=1e4, factor=2.0)
    ),
}
REWARD_CASES = {
    "gpt2": GPT2Config(**GPT2, num_labels=1),
    "mistral": MistralConfig(**NARROW, num_key_value_heads=2, rope_parameters=rope(1e4), sliding_window=None, num_labels=1),
    "smollm3": SmolLM3Config(**NARROW, num_key_value_heads=2, rope_parameters=rope(1e4), no_rope_layers=[1, 0], num_labels=1),
    "gemma3": Gemma3TextConfig(**GEMMA, layer_types=["sliding_attention", "full_attention"], num_labels=1),
    "gemma2": Gemma2Config(**GEMMA, rope_parameters=rope(1e4), num_labels=1),
    "gpt_neox": GPTNeoXConfig(**NEOX, rope_parameters=rope(1e4, partial_rotary_factor=0.5), num_labels=1),
    "olmo2": Olmo2Config(**NARROW, num_key_value_heads=2, rope_parameters=rope(5e5), num_labels=1),
    "olmo3": Olmo3Config(**NARROW, num_key_value_heads=2, sliding_window=3, layer_types=["sliding_attention", "full_attention"], num_labels=1),
    "phi3": Phi3Config(**NARROW, num_key_value_heads=2, rope_parameters=rope(1e4, partial_rotary_factor=1.0), num_labels=1),
    "qwen3_5": Qwen3_5TextConfig(
        **dict(NARROW, num_attention_heads=2), num_key_value_heads=1, head_dim=8, linear_num_key_heads=1, linear_num_value_heads=2, linear_key_head_dim=12,
        linear_value_head_dim=12, layer_types=["linear_attention", "full_attention"], num_labels=1
    ),
    "qwen3_moe": Qwen3MoeConfig(
        **NARROW, num_key_value_heads=2, head_dim=6, rope_parameters=rope(1e6), num_experts=4, num_experts_per_tok=2, moe_intermediate_size=10, num_labels=1
    ),
}


def as_transformers_4(config):
    """The same configuration under the keys that transformers 4 wrote (compared with files written by 4.48 and 4.57)."""
    config = dict(config)
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.48.3"
    if config.get("pad_token_id") is None:
        config.pop("pad_token_id", None)
    if config["model_type"] == "gpt2":  # always tied, so the key is absent
        del config["tie_word_embeddings"], config["add_cross_attention"]
        return config
    if "text_config" in config:
        config["text_config"] = as_transformers_4(dict(config["text_config"], dtype=config["torch_dtype"]))
        del config["vision_config"]
        return config
    if config["model_type"] == "gemma4_text":  # 4 had none; 5 before 5.23 and published files say so what layers without a window have of their own
        own = config.pop("per_layer_config")
        own = next(iter(own.values()))
        config["global_head_dim"] = own["head_dim"]
        config["num_global_key_value_heads"] = own.get("num_key_value_heads")
        return config
    scaling = config.pop("rope_parameters")
    if "full_attention" in scaling:
        sliding, scaling = scaling["sliding_attention"], scaling["full_attention"]
        if config["model_type"] == "gemma3_text":
            config["rope_local_base_freq"] = sliding["rope_theta"]
    if config["model_type"] == "gpt_neox":
        config["rotary_pct"], config["rotary_emb_base"] = scaling["partial_rotary_factor"], scaling["rope_theta"]
        return config
    if config["model_type"] == "phi3":
        config["partial_rotary_factor"] = scaling.pop("partial_rotary_factor")
        config["original_max_position_embeddings"] = scaling.pop("original_max_position_embeddings")
        scaling["type"] = scaling.pop("rope_type")
        config["rope_scaling"], config["rope_theta"] = scaling, scaling.pop("rope_theta")
        return config
    if config["model_type"] == "qwen3_5_text":  # 4 had none
        config["rope_parameters"] = scaling
        return config
    if config["model_type"] == "lfm2":
        config["full_attn_idxs"] = [i for i, kind in enumerate(config.pop("layer_types")) if kind == "full_attention"]
        config["block_ff_dim"] = config.pop("intermediate_size")
    if config["model_type"] == "qwen3_moe":
        config["num_experts"] = config.pop("num_local_experts")
    config["rope_theta"] = scaling.pop("rope_theta")
    config["rope_scaling"] = None if scaling["rope_type"] == "default" else scaling
    if config["model_type"] == "llama" and scaling["rope_type"] == "linear":
        scaling["type"] = scaling.pop("rope_type")  # the older key
        del config["head_dim"]  # files older than that key leave it out
    if config["model_type"] == "mistral":
        config["head_dim"] = None  # written as null, meaning hidden / heads
    return config


@torch.no_grad()
def randomise(model):
    """Weights large enough that attention is far from uniform, and no norm or bias at its neutral value."""
    kind = model.config.model_type
    around_one = kind.startswith(("gemma2", "gemma3", "qwen3_5"))  # they add the weights of their norms to 1
    for name, buffer in model.named_buffers():
        if name.endswith("layer_scalar"):
            buffer.uniform_(0.5, 1.5)
    for name, parameter in model.named_parameters():
        if name.endswith("per_layer_input_gate.weight"):
            parameter.normal_(0, 0.1)  # what is left of large negative numbers by a GELU has few digits, and a norm follows
        elif parameter.dim() >= 2:
            parameter.normal_(0, 0.3)
        elif name.endswith("bias"):
            parameter.normal_(0, 0.1)
        else:
            parameter.normal_(0 if around_one and not name.endswith("linear_attn.norm.weight") else 1, 0.1)


def forward(model, sequences):
    """(logits [T, V], loss): each sequence alone, so that packing and padding cannot matter."""
    logits = [model(input_ids=ids[None], use_cache=False).logits[0] for ids in sequences]
    predictions = torch.cat([rows[:-1] for rows in logits])
    targets = torch.cat([ids[1:] for ids in sequences])
    return torch.cat(logits), torch.nn.functional.cross_entropy(predictions, targets)


def train(model, sequences):
    """Ten steps of torch.optim.AdamW with clipping and linear schedule; before each, the loss, gradient norm and rate."""
    # As the Trainer of transformers groups them: biases and norms, which have one dimension, do not decay.
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LR, betas=BETAS, eps=EPS)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, WARMUP, STEPS)
    losses, norms, rates = [], [], []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = forward(model, sequences)[1]
        loss.backward()
        losses.append(loss.detach())
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP))
        rates.append(torch.tensor(schedule.get_last_lr()[0]))
        optimizer.step()
        schedule.step()
    return torch.stack(losses), torch.stack(norms), torch.stack(rates)


def rename(model_file, config):
    """Bare names are those of the first GPT-2 files on the hub, which also carried their causal masks."""
    tensors = {key.removeprefix("transformer."): value for key, value in load_file(model_file).items()}
    for layer in range(config.n_layer):
        tensors[f"h.{layer}.attn.bias"] = torch.ones(config.n_positions, config.n_positions).tril()[None, None].contiguous()
    save_file(tensors, model_file, {"format": "pt"})


def create(auto_class, config, name):
    """The random model `name`, and random sequences for it."""
    torch.manual_seed(zlib.crc32(name.encode()))
    config = copy.deepcopy(config)
    config._experts_implementation = "eager"  # one expert after the other, in the order of the formula
    model = auto_class.from_config(config).eval()  # dropout off
    if config.model_type == "gemma4":
        model.config.text_config.pad_token_id = 0  # for where pictures would be; given earlier, its embedding would not learn
    randomise(model)
    return model, list(torch.randint(0, VOCAB, (sum(LENGTHS),)).split(LENGTHS))


def in_file(key, config):
    """The name under which files hold a parameter, where `transformers` 5 has a newer one."""
    renamed = {
        "gemma3": [("model.language_model.", "model.")],
        "gemma4": [("model.language_model.", "model.")],
        "gpt_neox": [("lm_head", "embed_out")],
        "granitemoe": [
            ("router.weight", "router.layer.weight"), ("experts.gate_up_proj", "input_linear.weight"), ("experts.down_proj", "output_linear.weight")
        ],
    }
    for ours, theirs in renamed.get(config.model_type, []):
        key = key.replace(ours, theirs)
    return key


def balance(model, sequences):
    """The load-balancing loss of the router's logits for all tokens, and its gradients."""
    experts = getattr(model.config, "num_experts", None) or getattr(model.config, "num_local_experts", None)
    if experts is None or model.config.model_type.startswith("gemma4"):  # for which transformers has no such loss
        return {}
    outputs = [model(input_ids=ids[None], use_cache=False, output_router_logits=True).router_logits for ids in sequences]
    logits = tuple(torch.cat(layer) for layer in zip(*outputs))
    loss = load_balancing_loss_func(logits, experts, model.config.num_experts_per_tok)
    model.zero_grad()
    loss.backward()
    ends = ("gate.weight", "router.weight", "o_proj.weight", "embed_tokens.weight")
    reached = {key: value.grad.clone() for key, value in model.named_parameters() if key.endswith(ends) and value.grad is not None}
    return {"balance": loss.detach()[None]} | {f"balance.{in_file(key, model.config)}": value for key, value in reached.items()}


def save(folder, model, sequences, expected, metadata):
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)  # not part of the model
    expected |= {"ids": torch.cat(sequences).to(torch.uint32), "lengths": torch.tensor(LENGTHS, dtype=torch.uint32)}
    made_by = dict(script="scripts/oracle/hf_parity.py", torch=torch.__version__, transformers=transformers.__version__, **metadata)
    # One key: the format writes several in no fixed order, and the same weights must give the same bytes.
    save_file(expected, folder / "expected.safetensors", {"made_by": json.dumps(made_by)})


def report(folder, summary):
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{folder.parent.name + '/' + folder.name:24} {size / 1024:6.1f} KiB  {summary}")
    return size


def write(folder, config):
    name = folder.name
    model, sequences = create(AutoModelForCausalLM, config, name)
    logits, loss = forward(model, sequences)
    loss.backward()
    learnt = [(key, value) for key, value in model.named_parameters() if value.grad is not None]  # all that texts alone reach
    expected = {f"grad.{in_file(key, config)}": value.grad.clone() for key, value in learnt}
    expected |= {"logits": logits.detach(), "loss": loss.detach()[None]}
    expected |= balance(model, sequences)
    hyper_parameters = dict(steps=STEPS, schedule="linear", warmup=WARMUP, lr=LR, beta1=BETAS[0], beta2=BETAS[1], eps=EPS)
    hyper_parameters |= dict(weight_decay=WEIGHT_DECAY, max_grad_norm=CLIP)
    trained = copy.deepcopy(model)
    expected["losses"], expected["grad_norms"], expected["lrs"] = train(trained, sequences)

    save(folder, model, sequences, expected, hyper_parameters)
    if name == "gpt2-bare-names":
        rename(folder / "model.safetensors", model.config)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.v4.json").write_text(json.dumps(as_transformers_4(config), indent=2, sort_keys=True) + "\n")
    return report(folder, f"loss {expected['losses'][0]:.4f} → {expected['losses'][-1]:.4f}")


@torch.no_grad()
def write_reward(folder, config):
    model, sequences = create(AutoModelForSequenceClassification, config, folder.name)
    scores = torch.stack([model(input_ids=ids[None]).logits[0, 0] for ids in sequences])
    save(folder, model, sequences, {"scores": scores}, {})
    return report(folder, f"scores {scores.min():.3f} … {scores.max():.3f}")


def main():
    root = pathlib.Path(__file__).resolve().parents[2]
    arguments = argparse.ArgumentParser(description="Writes the parity fixtures of every model family.")
    arguments.add_argument("--out", type=pathlib.Path, default=root / "tests/fixtures")
    arguments.add_argument("--only", help="makes the cases of this name alone", metavar="NAME")
    arguments = arguments.parse_args()
    out, wanted = arguments.out, lambda name: arguments.only in (None, name)
    torch.set_num_threads(1)  # sums in one order
    total = sum(write(out / "hf" / name, config) for name, config in CASES.items() if wanted(name))
    total += sum(write_reward(out / "hf-reward" / name, config) for name, config in REWARD_CASES.items() if wanted(name))
    print(f"{'all':24} {total / 1024:6.1f} KiB")


if __name__ == "__main__":
    main()
