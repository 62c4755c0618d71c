"""Writes tests/fixtures/sentence-piece/: tiny SentencePiece tokenizers of each kind that the families have, and the ids that SentencePiece itself gives to texts.

    pip install sentencepiece==0.2.3 tokenizers
    python scripts/oracle/sentence_piece.py

    KIND.json            tokenizer.json as published models have it: BPE with a space before every text (Llama 2), BPE without (Gemma), unigram; all of them
                         write what they do not know as bytes
    KIND.expected.json   [{"text", "ids"}]: blanks at both ends and in rows, line breaks, characters that are in no token, special tokens spelled in a text

Trained on the bundled demonstrations. crates/lm/tests/it/sentence_piece.rs compares.
"""

import io
import json
import pathlib

import sentencepiece
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

REPO = pathlib.Path(__file__).resolve().parents[2]
OUT = REPO / "tests/fixtures/sentence-piece"
TEXTS = [
    "The goat eats grass.",
    " leading, trailing \n\n\t",
    "two  blanks,   three,    four",
    "where is the cake?\nAnswer:",
    "naïve café Ελλάδα 日本語 👩‍👩‍👧‍👦 �",
    "ends here</s> and <s>begins, <unk> is a word",
    "<0x0A> is six characters",
    "</s>",
    "12345 it's ---- ~~~\r\n",
]
# Name, kind of model, whether a space is put before a text.
KINDS = [("bpe-prefixed", "bpe", True), ("bpe", "bpe", False), ("unigram", "unigram", True)]


def train(kind, prefix):
    rows = (REPO / "data/demonstrations.jsonl").read_text().splitlines()[:600]
    texts = [part for row in map(json.loads, rows) for part in (row["prompt"] + row["completion"]).split("\n")]
    # The characters of special tokens, which larger corpora have anyway: for one that is in no piece a unigram model of `tokenizers` would rather take the
    # special token than bytes.
    texts += ["< / > 0 x 1 2 A"] * 20
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=model, model_type=kind, vocab_size=420, byte_fallback=True, add_dummy_prefix=prefix,
        remove_extra_whitespaces=False, normalization_rule_name="identity", character_coverage=1.0, num_threads=1, minloglevel=2
    )
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def merges(vocabulary):
    """Every pair of tokens that makes a token; those of the better token first."""
    pairs = []
    for whole, rank in vocabulary.items():
        splits = [(whole[:i], whole[i:]) for i in range(1, len(whole))]
        pairs += [(rank, vocabulary[a], vocabulary[b], a, b) for a, b in splits if a in vocabulary and b in vocabulary]
    return [(a, b) for *_, a, b in sorted(pairs)]


def as_tokenizer(processor, kind, prefix):
    pieces = [(processor.id_to_piece(i), processor.get_score(i)) for i in range(processor.get_piece_size())]
    if kind == "bpe":
        vocabulary = {piece: i for i, (piece, _) in enumerate(pieces)}
        plain = {piece: i for piece, i in vocabulary.items() if not (processor.is_control(i) or processor.is_unknown(i) or processor.is_byte(i))}
        model = models.BPE(vocabulary, merges(plain), unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    else:
        model = models.Unigram(pieces, unk_id=0, byte_fallback=True)
    tokenizer = Tokenizer(model)
    spaces = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces]) if prefix else spaces
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(steps + [decoders.Strip(" ", 1, 0)] * prefix)
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in ("<unk>", "<s>", "</s>")])
    return tokenizer


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    for name, kind, prefix in KINDS:
        processor = train(kind, prefix)
        (OUT / f"{name}.json").write_text(as_tokenizer(processor, kind, prefix).to_str() + "\n")
        expected = [{"text": text, "ids": processor.encode(text)} for text in TEXTS]
        assert all(processor.decode(row["ids"]) == row["text"] for row in expected)
        lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in expected)
        (OUT / f"{name}.expected.json").write_text(f"[\n{lines}\n]\n")
        print(f"{name:14} {(OUT / f'{name}.json').stat().st_size / 1024:.1f} KiB")


main()
