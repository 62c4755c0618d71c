"""Asks llama.cpp what the GGUF fixtures of the later families say next, and compares with the model they were written from.

    pip install xllamacpp numpy
    python scripts/oracle/check_llama_cpp.py [FILE.gguf ...]     # default: all of tests/fixtures/gguf-families/

A file has its tokens and logits beside it (gguf_families.py). Compared are the log-probabilities of llama.cpp's 50 likeliest next tokens after the longest
beginning of the tokens that it does not answer with the end of the text; its cache is in f16, so three digits agree. Phi-3's fixture differs: its sequences
are longer than the length up to which the short factors hold, since llama.cpp never makes a context of fewer than 256 tokens. A file gemma4.gguf has texts beside it
(tokens.json), of which llama.cpp's ids are compared too.
"""

import json
import pathlib
import struct
import sys
import urllib.request

import numpy as np
import xllamacpp

FIXTURES = pathlib.Path(__file__).resolve().parents[2] / "tests/fixtures/gguf-families"
TYPES = {"F32": np.float32, "U32": np.uint32}


def tensors(path):
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    body = data[8 + length :]
    take = lambda of: np.frombuffer(body[slice(*of["data_offsets"])], TYPES[of["dtype"]]).reshape(of["shape"])
    return {name: take(of) for name, of in header.items()}


def serve(path):
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(path)
    parameters.n_ctx, parameters.n_parallel, parameters.warmup = 64, 1, False
    return xllamacpp.Server(parameters)


def ask(server, path, body):
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{server.listening_address}/{path}", json.dumps(body).encode(), headers)
    return json.loads(urllib.request.urlopen(request, timeout=60).read())


def compare_texts(server, cases):
    for case in cases:
        ids = ask(server, "tokenize", {"content": case["text"], "add_special": False, "parse_special": True})["tokens"]
        print("text alike" if ids == case["ids"] else f"text DIFFERENT {case}: {ids}", flush=True)


def likeliest(server, ids):
    body = {"prompt": ids, "n_predict": 1, "n_probs": 50, "temperature": 0.0, "cache_prompt": False}
    found = ask(server, "completion", body).get("completion_probabilities")
    return {token["id"]: token["logprob"] for token in found[0]["top_logprobs"]} if found else None


def main():
    for path in map(pathlib.Path, sys.argv[1:] or sorted(FIXTURES.glob("*.gguf"))):
        known = tensors(path.with_suffix(".safetensors"))
        server = serve(path)
        for length in range(len(known["ids"]), 0, -1):
            if found := likeliest(server, known["ids"][:length].tolist()):
                break
        logits = known["logits"][length - 1].astype(np.float64)
        wanted = logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())
        apart = max(abs(wanted[token] - logprob) for token, logprob in found.items())
        if path.stem == "gemma4":
            compare_texts(server, json.loads(path.with_name("tokens.json").read_text()))
        print(f"{path.stem:14} {length} tokens: log-probabilities at most {apart:.4f} apart", flush=True)


main()
