"""Writes tests/fixtures/splitting.json: texts, and the words that GPT-4o's tokenizer (o200k) splits them into.

    python scripts/oracle/splitting.py

The pattern is that of tiktoken (openai_public.py), run by the Python module `regex` and not by the engine that we run.
"""

import json
import pathlib

import regex

UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
ENDS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
WORDS = [
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{ENDS}", rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{ENDS}", r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
    r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"
]
TEXTS = [
    "CamelCase ALLCAPS mixedUP XMLHttpRequest", "don't DON'T we'LL it's'", "1 12 123 1234 12345678", "https://a.b/c//\n\nx", "  lead\ttab  and  trail  ",
    "Zu\u0308rich \u01c5ep naïve ÉCOLE École", "日本語とKana 12月", "a\r\n\r\n b\n", "🦊🦉 #tag @you (x)", "\u0301mark ʰmod", ""
]

pattern = regex.compile("|".join(WORDS))
cases = [{"text": text, "words": pattern.findall(text)} for text in TEXTS]
assert all("".join(case["words"]) == case["text"] for case in cases)
out = pathlib.Path(__file__).resolve().parents[2] / "tests/fixtures/splitting.json"
out.write_text(json.dumps(cases, ensure_ascii=False, indent=1) + "\n")
