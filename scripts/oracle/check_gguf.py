"""Compares a GGUF file that `rlhf export` wrote with the Hugging Face folder it was made from, by other programs than ours.

    pip install -r scripts/oracle/requirements.txt xllamacpp
    python scripts/oracle/check_gguf.py FILE.gguf FOLDER [PROMPT]

Weights: the package `gguf` reads every tensor. F32, F16, Q8_0 and Q4_0 have to be the very bytes that it makes of the folder's weights; of other
types the error is printed. Texts: llama.cpp (in the package `xllamacpp`) has to give them the ids of the folder's tokenizer.json. Answers: greedy
decoding by llama.cpp beside that by `transformers` over the weights of the file, so that a difference is not one of rounding weights. The exit
status is 1 if ids or bytes differ, or if text differs before two tokens were nearly equally likely.
"""

import collections
import json
import sys
import urllib.request

import gguf
import numpy as np
import torch
import xllamacpp
from gguf import GGMLQuantizationType as Q
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

TEXTS = [
    "The fox is red.",
    " leading, trailing \n\n\t",
    "it's 12345  67 and 8   9 ---- ~~~\r\n",
    "It'S WE'LL; the end'll be\n\n\n   fine   ",
    "naïve café Ελλάδα 日本語 👩‍👩‍👧‍👦 \ufffd",
    "é; ½ ٣ Ⅷ 2²",
    "Question: what colour is the owl?\nAnswer:",
    "def f(x):\n    return x ** 2  # squared\n",
]
EXACT = {Q.F32, Q.F16, Q.Q8_0, Q.Q4_0}
TOKENS = 40


def hugging_face(name, architecture, config):
    """The name that Hugging Face gives to llama.cpp's tensor `name`, and whether queries or keys are to be reordered by this many heads."""
    if architecture == "gpt2":
        block = {"attn_norm": "ln_1", "ffn_norm": "ln_2", "attn_qkv": "attn.c_attn", "attn_output": "attn.c_proj", "ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj"}
        outside = {"token_embd": "transformer.wte", "position_embd": "transformer.wpe", "output_norm": "transformer.ln_f", "output": "lm_head"}
        trunk = "transformer.h"
    else:
        block = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_output": "self_attn.o_proj"}
        block |= {f"attn_{x}": f"self_attn.{x}_proj" for x in "qkv"} | {f"attn_{x}_norm": f"self_attn.{x}_norm" for x in "qk"}
        block |= {f"ffn_{x}": f"mlp.{x}_proj" for x in ("gate", "up", "down")}
        outside = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
        trunk = "model.layers"
    module, part = name.rsplit(".", 1)
    if module in outside:
        return f"{outside[module]}.{part}", None
    _, layer, module = module.split(".")
    heads = {"attn_q": config.num_attention_heads, "attn_k": getattr(config, "num_key_value_heads", 0)}.get(module)
    return f"{trunk}.{layer}.{block[module]}.{part}", heads if architecture == "llama" else None


def permuted(weights, heads):
    return weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:]).swapaxes(1, 2).reshape(weights.shape)


def unpermuted(weights, heads):
    return weights.reshape(heads, weights.shape[0] // heads // 2, 2, *weights.shape[1:]).swapaxes(1, 2).reshape(weights.shape)


def compare_weights(reader, model):
    """Prints how far the weights of the file are from those of `model`, and puts them into it. True if those are exact that should be."""
    architecture = reader.fields["general.architecture"].contents()
    ours = model.state_dict()
    equal, different, errors, seen = collections.Counter(), [], collections.defaultdict(list), set()
    for tensor in reader.tensors:
        if tensor.name == "rope_freqs.weight":
            continue
        name, heads = hugging_face(tensor.name, architecture, model.config)
        seen.add(name)
        turned = architecture == "gpt2" and name.startswith("transformer.h.") and ours[name].ndim == 2
        wanted = ours[name].float().numpy()
        wanted = wanted.T.copy() if turned else wanted
        wanted = permuted(wanted, heads) if heads else wanted
        kind = tensor.tensor_type
        if kind in EXACT:
            stored = gguf.quants.quantize(wanted, kind)
            same = np.array_equal(np.asarray(tensor.data).reshape(-1).view(np.uint8), stored.reshape(-1).view(np.uint8))
            equal[kind.name] += same
            if not same:
                different.append(tensor.name)
        found = gguf.quants.dequantize(tensor.data, kind).astype(np.float32).reshape(wanted.shape)
        errors[kind.name].append(np.sqrt(np.mean((found - wanted) ** 2) / np.mean(wanted**2)))
        found = unpermuted(found, heads) if heads else found
        ours[name].copy_(torch.from_numpy((found.T if turned else found).copy()))
    missing = {name for name in ours if not name.endswith(("lm_head.weight", ".attn.bias", ".attn.masked_bias"))} - seen
    for kind, found in errors.items():
        exact = f", {equal[kind]} of them the bytes of the package gguf" if Q[kind] in EXACT else ""
        print(f"weights  {kind:5} {len(found):4} tensors{exact}; relative error (rms) at most {max(found):.2e}")
    for name in [*different, *missing]:
        print(f"weights  DIFFERENT {name}")
    return not different and not missing


class LlamaCpp:
    """llama.cpp's server over the file."""

    def __init__(self, path):
        params = xllamacpp.CommonParams()
        params.model.path = path
        params.n_ctx = 512
        params.warmup = False
        params.cpuparams.n_threads = 2
        self.server = xllamacpp.Server(params)

    def ask(self, path, body):
        request = urllib.request.Request(self.server.listening_address + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        return json.load(urllib.request.urlopen(request))

    def ids(self, text, parse_special=True):
        return self.ask("/tokenize", {"content": text, "add_special": False, "parse_special": parse_special})["tokens"]

    def greedy(self, ids):
        asked = {"prompt": ids, "temperature": 0, "top_k": 1, "n_predict": TOKENS, "n_probs": 5, "cache_prompt": False, "return_tokens": True}
        return self.ask("/completion", asked)["completion_probabilities"]


def compare_texts(llama, tokenizer, texts):
    different = [text for text in texts if llama.ids(text) != tokenizer.encode(text, add_special_tokens=False)]
    print(f"texts    {len(texts) - len(different)} of {len(texts)} have the ids of tokenizer.json")
    for text in different:
        print(f"texts    DIFFERENT {text!r}: {llama.ids(text)} {tokenizer.encode(text, add_special_tokens=False)}")
    return not different


def compare_answers(llama, tokenizer, model, prompt):
    ids = tokenizer.encode(prompt, add_special_tokens=False)
    steps = llama.greedy(ids)
    largest, verdict = 0.0, True
    for i, step in enumerate(steps):
        with torch.no_grad():
            logprobs = torch.log_softmax(model(torch.tensor([ids])).logits[0, -1].float(), -1)
        theirs = {top["id"]: top["logprob"] for top in step["top_logprobs"]}
        largest = max([largest] + [abs(logprobs[id].item() - p) for id, p in theirs.items()])
        best = logprobs.argmax().item()
        if best != step["id"]:
            gap = (logprobs[best] - logprobs[step["id"]]).item()
            print(f"answers  token {i} differs, of {gap:.1e} nats less")
            verdict = gap < 0.02
            break
        ids.append(best)
    else:
        i += 1
    print(f"answers  {i} tokens alike, log-probabilities of the first five at most {largest:.1e} nats apart: {tokenizer.decode(ids)!r}")
    return verdict


def main():
    path, folder = sys.argv[1:3]
    prompt = sys.argv[3] if len(sys.argv) > 3 else "Question: what colour is the fox?\nAnswer:"
    reader = gguf.GGUFReader(path)
    for key, field in reader.fields.items():
        if field.types[0] != gguf.GGUFValueType.ARRAY:
            print(f"key      {key} = {str(field.contents())[:80]!r}")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    verdicts = [compare_weights(reader, model)]
    llama = LlamaCpp(path)
    texts = [*TEXTS]
    if tokenizer.chat_template and "tokenizer.chat_template" in reader.fields:
        chat = [{"role": "user", "content": "What colour is the fox?"}]
        texts.append(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))
        theirs = llama.ask("/apply-template", {"messages": chat})["prompt"]
        bos = tokenizer.bos_token or ""
        verdicts.append(theirs in (texts[-1], texts[-1].removeprefix(bos)))
        print(f"template {'alike' if verdicts[-1] else 'DIFFERENT'}: {theirs!r}")
    verdicts.append(compare_texts(llama, tokenizer, texts))
    verdicts.append(compare_answers(llama, tokenizer, model, prompt))
    sys.exit(0 if all(verdicts) else 1)


main()
