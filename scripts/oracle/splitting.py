"""Writes tests/fixtures/splitting.json: texts, and the words that the tokenizers of GPT-4o (o200k) and of Qwen3.5 split them into.

    pip install -r scripts/oracle/requirements.txt regex
    python scripts/oracle/splitting.py

The patterns are those of tiktoken (openai_public.py) and of `transformers`, run by the Python module `regex` and not by the engine that we run.
"""

import json
import pathlib

import regex
from transformers.models.qwen3_5.tokenization_qwen3_5 import PRETOKENIZE_REGEX as QWEN3_5

UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
ENDS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
WORDS = [
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{ENDS}", rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{ENDS}", r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
    r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"
]
TEXTS = [
    "CamelCase ALLCAPS mixedUP XMLHttpRequest", "don't DON'T we'LL it's'", "1 12 123 1234 12345678", "https://a.b/c//\n\nx", "  lead\ttab  and  trail  ",
    "Zu\u0308rich \u01c5ep naïve ÉCOLE École", "日本語とKana 12月", "a\r\n\r\n b\n", "🦊🦉 #tag @you (x)", "\u0301mark ʰmod", "हिन्दी x\u0301y!\u0301 \u0301", ""
]

PATTERNS = {"gpt-4o": regex.compile("|".join(WORDS)), "qwen35": regex.compile(QWEN3_5)}
cases = [{"text": text} | {name: pattern.findall(text) for name, pattern in PATTERNS.items()} for text in TEXTS]
assert all("".join(case[name]) == case["text"] for case in cases for name in PATTERNS)
out = pathlib.Path(__file__).resolve().parents[2] / "tests/fixtures/splitting.json"
out.write_text(json.dumps(cases, ensure_ascii=False, indent=1) + "\n")
