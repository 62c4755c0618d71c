"""Makes the models that both sides load: one converted from GGUF, the others with random weights."""

import argparse
import os
import pathlib
import shutil

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
from transformers import PreTrainedTokenizerFast

# Of the scaling curves: (hidden, inner, layers, heads, key-value heads). A vocabulary of 1024 keeps the size in the blocks.
LLAMAS = {
    "llama-10m": (320, 864, 8, 5, 5),
    "llama-30m": (512, 1376, 9, 8, 8),
    "llama-85m": (768, 2048, 12, 12, 12),
    "llama-180m": (1024, 2752, 14, 16, 16),
    "llama-350m": (1280, 3456, 18, 20, 20),
    "llama-1b": (2048, 5504, 20, 16, 16),
}


def convert(gguf, to):
    """A GGUF file as a Hugging Face directory in f32."""
    folder, name = os.path.split(os.path.abspath(gguf))
    read = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    # What was read calls itself quantised, and refuses to be saved, although its weights are plain by now.
    config = read.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(read.state_dict())
    model.save_pretrained(to)
    AutoTokenizer.from_pretrained(folder, gguf_file=name).save_pretrained(to)


def random_gpt2(tokenizer, to):
    """GPT-2 124M in its exact shape. Dropout is off: the other side has none."""
    fast = PreTrainedTokenizerFast.from_pretrained(tokenizer)
    torch.manual_seed(0)
    config = GPT2Config(resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, bos_token_id=fast.eos_token_id, eos_token_id=fast.eos_token_id)
    GPT2LMHeadModel(config).save_pretrained(to)
    copy_tokenizer(tokenizer, to)


def random_llama(shape, tokenizer, to):
    hidden, inner, layers, heads, kv_heads = shape
    fast = PreTrainedTokenizerFast.from_pretrained(tokenizer)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(fast), hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=kv_heads, max_position_embeddings=8192,
        tie_word_embeddings=True, bos_token_id=fast.bos_token_id, eos_token_id=fast.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(to)
    copy_tokenizer(tokenizer, to)


def copy_tokenizer(source, to):
    for name in ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"]:
        if (pathlib.Path(source) / name).exists():
            shutil.copyfile(pathlib.Path(source) / name, pathlib.Path(to) / name)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    gguf = commands.add_parser("convert")
    gguf.add_argument("--gguf", required=True)
    gguf.add_argument("--to", required=True)
    random = commands.add_parser("random")
    random.add_argument("--tokenizer", required=True, help="read for GPT-2")
    random.add_argument("--small-tokenizer", required=True, help="read for the Llamas")
    random.add_argument("--to", type=pathlib.Path, required=True)
    a = parser.parse_args()
    if a.command == "convert":
        return convert(a.gguf, a.to)
    if not (a.to / "gpt2/config.json").exists():
        random_gpt2(a.tokenizer, a.to / "gpt2")
    for name, shape in LLAMAS.items():
        if not (a.to / name / "config.json").exists():
            random_llama(shape, a.small_tokenizer, a.to / name)


main()
