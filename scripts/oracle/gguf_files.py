"""Writes tests/fixtures/gguf/: tiny models as llama.cpp stores them, and what other programs compute from them.

    pip install -r scripts/oracle/requirements.txt
    python scripts/oracle/gguf_files.py

    CASE.gguf                a random model with its tokenizer, laid out as llama.cpp's convert_hf_to_gguf.py does
    CASE.safetensors         ids u32 [T], logits f32 [T, V]: from `transformers`, which loads the weights from that very file
    quantised.gguf           one tensor of every type we read, named after it, of random bits
    quantised.safetensors    the same tensors as the package `gguf` dequantises them
    tokens.json              per case: texts and their ids, and a conversation as the chat template renders it

The ids are those of the tokenizers that published models of the kind use: SentencePiece itself for `llama`, `transformers`' own classes for
GPT-2 and Qwen2, the steps of SmolLM2's tokenizer.json (single digits, then GPT-2's pattern), and for Llama 3 what `transformers` reads from the
file, with `ignore_merges` as in Llama 3's tokenizer.json. crates/lm/tests/it/gguf.rs compares.
"""

import io
import json
import pathlib
import zlib

import gguf
import numpy as np
import sentencepiece
import torch
from gguf import GGMLQuantizationType as Q
from gguf import TokenType
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GPT2Tokenizer, Qwen2Tokenizer
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX as QWEN2_PATTERN

OUT = pathlib.Path("tests/fixtures/gguf")
END, START, STOP = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MESSAGES = [{"role": "user", "content": "What colour is the fox?"}]
CORPUS = [
    "The fox is red. The fox lives in the forest, and it's 12 years old.\nThe owl lives in the forest too.",
    "What colour is the fox? The fox is red. What colour is the owl? The owl is brown.\n\n  Indented   text,   with   gaps.",
    "A hammer is a tool, a hammer is heavy; we'll use it to drive 100 nails, 250 or 1000 of them.",
    "Füchse sind rot, Eulen sind braun: naïve café.",
]
TEXTS = [
    "",
    "The fox is red.",
    " leading, trailing \n\n\t",
    "it's 12345  67 and 8   9 ---- ~~~\r\n",
    "It'S WE'LL; the end'll be\n\n\n   fine   ",
    "naïve café Ελλάδα 日本語 👩‍👩‍👧‍👦 \ufffd",
    "e\u0301 is é; ½ ٣ Ⅷ 2²",
    "What colour is the owl?forest",
]
SPECIAL_TEXTS = [f"{START}user\nthe fox{STOP}\n", f"x{STOP}  y{END}"]

LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def split(pattern):
    return pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), behavior="isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )


PRE = {
    "gpt-2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "smollm": pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    ),
    "llama-bpe": split(LLAMA3_PATTERN),
    "qwen2": split(QWEN2_PATTERN),
}


def byte_level(pre, specials, size):
    """(tokenizer, tokens in order of id, merges) of a byte-level BPE trained with the splitting of `pre`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = PRE[pre]
    tokenizer.decoder = decoders.ByteLevel()
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    special_tokens = [AddedToken(token, normalized=False, special=True) for token in specials]
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=special_tokens,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS * 5, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    return tokenizer, tokens, [tuple(merge) for merge in model["merges"]]


def sentence_piece(size):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 5),
        model_writer=model,
        vocab_size=size,
        model_type="bpe",
        byte_fallback=True,
        character_coverage=0.98,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def permute(weights, heads):
    """llama.cpp's order of the rows of queries and keys: neighbours (i, i + 1) are rotated together, not halves."""
    return weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:]).swapaxes(1, 2).reshape(weights.shape)


def llama3_divisors(rope, head_dim):
    """What llama.cpp's converter writes as rope_freqs.weight."""
    divisors = []
    for i in range(0, head_dim, 2):
        wavelength = 2 * np.pi * rope["rope_theta"] ** (i / head_dim)
        low, high, original = rope["low_freq_factor"], rope["high_freq_factor"], rope["original_max_position_embeddings"]
        if wavelength < original / high:
            divisors.append(1)
        elif wavelength > original / low:
            divisors.append(rope["factor"])
        else:
            smooth = (original / wavelength - low) / (high - low)
            divisors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(divisors, np.float32)


class Case:
    """A GGUF file that is being written."""

    def __init__(self, name, architecture):
        self.path = OUT / f"{name}.gguf"
        self.name, self.architecture = name, architecture
        self.writer = gguf.GGUFWriter(self.path, architecture)
        self.random = np.random.default_rng(zlib.crc32(name.encode()))

    def tensor(self, name, shape, kind=Q.F32, scale=0.3, mean=0.0, heads=None):
        values = (mean + scale * self.random.standard_normal(shape)).astype(np.float32)
        if heads:
            values = permute(values, heads)
        self.raw(name, values, kind)

    def raw(self, name, values, kind):
        self.writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)

    def norm(self, name, width, bias=False):
        self.tensor(f"{name}.weight", (width,), scale=0.1, mean=1.0)
        if bias:
            self.tensor(f"{name}.bias", (width,), scale=0.1)

    def vocabulary(self, model, tokens, types, begin, end, **more):
        writer = self.writer
        writer.add_tokenizer_model(model)
        writer.add_token_list(tokens)
        writer.add_token_types(types)
        writer.add_bos_token_id(begin)
        writer.add_eos_token_id(end)
        for key, value in more.items():
            getattr(writer, f"add_{key}")(value)

    def byte_level(self, pre, tokens, merges, end=STOP, unused=0, **more):
        types = [TokenType.CONTROL if token in (END, START, STOP) else TokenType.NORMAL for token in tokens]
        tokens = tokens + [f"[PAD{len(tokens) + i}]" for i in range(unused)]
        types += [TokenType.UNUSED] * unused
        self.writer.add_tokenizer_pre(pre)
        self.writer.add_token_merges([" ".join(merge) for merge in merges])
        self.vocabulary("gpt2", tokens, types, tokens.index(END), tokens.index(end), **more)

    def finish(self):
        self.writer.write_header_to_file()
        self.writer.write_kv_data_to_file()
        self.writer.write_tensors_to_file()
        self.writer.close()


def llama_like(case, vocabulary, width, heads, kv_heads, head_dim, inner, layers, kinds, biases=False, head_norms=False, tied=True):
    """Hyper-parameters and tensors; `kinds` are the types of the seven matrices of a block, of the embedding and of the head."""
    writer = case.writer
    writer.add_context_length(64)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(vocabulary)
    if head_dim * heads != width:
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    case.tensor("token_embd.weight", (vocabulary, width), kinds[7])
    permuted = case.architecture == "llama"
    for i in range(layers):
        block = f"blk.{i}"
        case.norm(f"{block}.attn_norm", width)
        for kind, (name, n) in zip(kinds, [("q", heads), ("k", kv_heads), ("v", kv_heads)]):
            turned = n if permuted and name != "v" else None
            case.tensor(f"{block}.attn_{name}.weight", (n * head_dim, width), kind, heads=turned)
            if biases:
                case.tensor(f"{block}.attn_{name}.bias", (n * head_dim,), heads=turned)
            if head_norms and name != "v":
                case.norm(f"{block}.attn_{name}_norm", head_dim)
        case.tensor(f"{block}.attn_output.weight", (width, heads * head_dim), kinds[3])
        case.norm(f"{block}.ffn_norm", width)
        case.tensor(f"{block}.ffn_gate.weight", (inner, width), kinds[4])
        case.tensor(f"{block}.ffn_up.weight", (inner, width), kinds[5])
        case.tensor(f"{block}.ffn_down.weight", (width, inner), kinds[6])
    case.norm("output_norm", width)
    if not tied:
        case.tensor("output.weight", (vocabulary, width), kinds[8])


def logits(case, **config):
    """What `transformers` computes with the file; `config` is what its reader does not take from it."""
    given = AutoConfig.from_pretrained(OUT, gguf_file=case.path.name, **config)
    for key, value in config.items():
        setattr(given, key, value)
    given._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_pretrained(OUT, gguf_file=case.path.name, config=given, dtype=torch.float32).eval()
    ids = torch.randint(0, model.config.vocab_size, (5,), generator=torch.Generator().manual_seed(zlib.crc32(case.name.encode())))
    with torch.no_grad():
        rows = model(input_ids=ids[None], use_cache=False).logits[0]
    save_file({"ids": ids.to(torch.uint32), "logits": rows}, OUT / f"{case.name}.safetensors")


def llama():
    """SentencePiece, grouped queries, an untied head, every type that blocks of 32 have."""
    case = Case("llama", "llama")
    pieces = sentence_piece(340)
    n = pieces.get_piece_size()
    types = [
        TokenType.UNKNOWN if pieces.is_unknown(i) else TokenType.CONTROL if pieces.is_control(i) else TokenType.BYTE if pieces.is_byte(i) else TokenType.NORMAL
        for i in range(n)
    ]
    case.vocabulary(
        "llama", [pieces.id_to_piece(i) for i in range(n)], types, 1, 2, token_scores=[pieces.get_score(i) for i in range(n)], unk_token_id=0, tokenizer_pre="default"
    )
    kinds = [Q.Q4_0, Q.Q5_0, Q.Q4_1, Q.Q5_1, Q.Q8_0, Q.F16, Q.BF16, Q.Q8_0, Q.Q8_0]
    llama_like(case, n, 32, 4, 2, 8, 32, 2, kinds, tied=False)
    case.writer.add_rope_dimension_count(8)
    case.finish()
    logits(case)
    special = [{"text": "<s>the fox</s>", "ids": [1] + pieces.encode("the fox") + [2]}]
    return {"adds_bos": True, "ids": [{"text": text, "ids": pieces.encode(text)} for text in TEXTS] + special}


def llama3():
    """Llama 3's splitting and stretched frequencies, biases on queries and keys (permuted too), padded with unused tokens."""
    case = Case("llama3", "llama")
    _, tokens, merges = byte_level("llama-bpe", [END, START, STOP], 290)
    merges = merges[:-1]  # so that the last token is found only by tokenizers that try whole words first
    case.byte_level("llama-bpe", tokens, merges, chat_template=TEMPLATE, eot_token_id=tokens.index(STOP), end=END, unused=6)
    rope = dict(
        rope_type="llama3", rope_theta=100.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=150
    )
    llama_like(case, 296, 32, 2, 1, 16, 32, 1, [Q.Q8_0] * 8)
    case.writer.add_rope_freq_base(100.0)
    case.raw("rope_freqs.weight", llama3_divisors(rope, 16), Q.F32)
    case.finish()
    logits(case, rope_parameters=rope)
    tokenizer = AutoTokenizer.from_pretrained(OUT, gguf_file=case.path.name)
    tokenizer.backend_tokenizer.model.ignore_merges = True
    return expectations(tokenizer, True)


def qwen2():
    """Biases on queries, keys and values; linearly stretched."""
    case = Case("qwen2", "qwen2")
    _, tokens, merges = byte_level("qwen2", [END, START, STOP], 290)
    case.byte_level("qwen2", tokens, merges, chat_template=TEMPLATE, add_bos_token=False, pad_token_id=tokens.index(END))
    llama_like(case, 290, 32, 4, 2, 8, 32, 1, [Q.F32, Q.F16, Q.BF16] + [Q.Q8_0] * 5, biases=True)
    case.writer.add_rope_freq_base(1e6)
    case.writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
    case.writer.add_rope_scaling_factor(4.0)
    case.finish()
    logits(case, rope_parameters=dict(rope_type="linear", rope_theta=1e6, factor=4.0))
    vocabulary = {token: i for i, token in enumerate(tokens)}
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=merges)
    tokenizer.add_special_tokens({"additional_special_tokens": [START, STOP]})
    return expectations(tokenizer, False)


def qwen3():
    """Normalised queries and keys, heads wider than their share; the splitting of SmolLM2."""
    case = Case("qwen3", "qwen3")
    tokenizer, tokens, merges = byte_level("smollm", [END, START, STOP], 290)
    case.byte_level("smollm", tokens, merges, add_bos_token=False)
    llama_like(case, 290, 32, 2, 1, 32, 32, 1, [Q.Q4_1] * 7 + [Q.Q5_0], head_norms=True)
    case.writer.add_rope_freq_base(1e6)
    case.finish()
    logits(case, head_dim=32)
    return {"adds_bos": False, "ids": [{"text": text, "ids": tokenizer.encode(text).ids} for text in TEXTS + SPECIAL_TEXTS]}


def gpt2():
    """Linear layers the other way round from Hugging Face's, and the embedding a second time as head."""
    case = Case("gpt2", "gpt2")
    _, tokens, merges = byte_level("gpt-2", [END], 280)
    case.byte_level("gpt-2", tokens, merges, end=END)
    writer, width, rows = case.writer, 16, len(tokens)
    writer.add_context_length(32)
    writer.add_embedding_length(width)
    writer.add_block_count(2)
    writer.add_feed_forward_length(4 * width)
    writer.add_head_count(2)
    writer.add_layer_norm_eps(1e-5)
    embedding = 0.3 * case.random.standard_normal((rows, width)).astype(np.float32)
    case.raw("token_embd.weight", embedding, Q.F16)
    case.raw("output.weight", embedding, Q.F16)
    case.tensor("position_embd.weight", (32, width), Q.F16)
    for i in range(2):
        for name, shape in [("attn_qkv", (3, 1)), ("attn_output", (1, 1)), ("ffn_up", (4, 1)), ("ffn_down", (1, 4))]:
            case.tensor(f"blk.{i}.{name}.weight", (shape[0] * width, shape[1] * width), Q.F16)
            case.tensor(f"blk.{i}.{name}.bias", (shape[0] * width,))
        case.norm(f"blk.{i}.attn_norm", width, bias=True)
        case.norm(f"blk.{i}.ffn_norm", width, bias=True)
    case.norm("output_norm", width, bias=True)
    case.finish()
    logits(case, vocab_size=rows, n_positions=32)
    tokenizer = GPT2Tokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=merges)
    return expectations(tokenizer, False)


def expectations(tokenizer, adds_bos):
    texts = TEXTS + (SPECIAL_TEXTS if START in tokenizer.get_vocab() else [f"x{END}y"])
    found = {"adds_bos": adds_bos, "ids": [{"text": text, "ids": tokenizer.encode(text, add_special_tokens=False)} for text in texts]}
    if START in tokenizer.get_vocab():
        found["chat"] = tokenizer.apply_chat_template(MESSAGES, chat_template=TEMPLATE, tokenize=False, add_generation_prompt=True)
    return found


# Where the half-precision numbers of a block stand, which random bits would make infinite.
SCALES = {
    Q.Q4_0: [0], Q.Q4_1: [0, 2], Q.Q5_0: [0], Q.Q5_1: [0, 2], Q.Q8_0: [0],
    Q.Q2_K: [80, 82], Q.Q3_K: [108], Q.Q4_K: [0, 2], Q.Q5_K: [0, 2], Q.Q6_K: [208],
}  # fmt: skip


def quantised():
    random = np.random.default_rng(0)
    writer = gguf.GGUFWriter(OUT / "quantised.gguf", "none")
    expected = {}
    for kind in [Q.F32, Q.F16, Q.BF16, *SCALES]:
        block, size = gguf.GGML_QUANT_SIZES[kind]
        if kind in SCALES:
            blocks = random.integers(0, 256, (512 // block, size), dtype=np.uint8)
            for at in SCALES[kind]:
                blocks[:, at : at + 2] = random.uniform(-2, 2, (len(blocks), 1)).astype(np.float16).view(np.uint8)
            stored = blocks.reshape(2, -1)
        else:
            stored = gguf.quants.quantize(random.standard_normal((2, 256)).astype(np.float32), kind)
        writer.add_tensor(kind.name, stored, raw_dtype=kind)
        expected[kind.name] = torch.from_numpy(gguf.quants.dequantize(stored, kind).astype(np.float32).copy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    save_file(expected, OUT / "quantised.safetensors")


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    quantised()
    tokens = {case.__name__: case() for case in (gpt2, llama, llama3, qwen2, qwen3)}
    text = json.dumps(tokens, ensure_ascii=False)
    (OUT / "tokens.json").write_text(text.replace('{"text"', '\n  {"text"') + "\n")


if __name__ == "__main__":
    main()
