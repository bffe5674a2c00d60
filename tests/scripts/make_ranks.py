"""Makes tests/fixtures/tokenizer/ranks.json: tokenizers by rank, with the ids that tiktoken and mistral_common give.

    python tests/scripts/make_ranks.py           (pip install tiktoken mistral_common)

The ranks are the first of the file that mistral_common brings with it, which are a vocabulary of their own: each token is joined of
two before it. How Qwen 1 and Llama 3 cut text is as their models' own code has it.
"""

import base64
import json
import unicodedata
from pathlib import Path

import mistral_common.data
import tiktoken
from mistral_common.tokens.tokenizers.tekken import Tekkenizer

HERE = Path(__file__).parent.parent / "fixtures" / "tokenizer"
RANKS, SPECIAL = 1500, 24
QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA = QWEN.replace(r"\p{N}|", r"\p{N}{1,3}|", 1)
TEXTS = [
    "Hello world",
    "  two  spaces\n\nand lines \r\n\t end ",
    "It's 12345 o'clock, they'll GO'S",
    "Où? 日本語の文章。 Ünïcödé e\u0301",
    "def f(x):\n    return x ** 2  # no\n",
    "aaaaaaaaaaaaaaaaaaaaa banananana",
    "<s>[INST] <|endoftext|> </s>",
    "camelCase HTTPServer iPhone",
    "a zqx zqxa 123 1234",
    "👍🏽 🇫🇷 \u200d",
    "http://a.b/c//d?e=f&g=1.5e-7",
    "",
]


def main():
    whole = json.loads((Path(mistral_common.data.__path__[0]) / "tekken_240911.json").read_text())
    vocab = whole["vocab"][:RANKS]
    config = whole["config"] | {"default_vocab_size": RANKS - 100 + SPECIAL, "default_num_special_tokens": SPECIAL}
    tekken = {"config": config, "vocab": vocab}
    path = HERE / "tekken.tmp.json"
    path.write_text(json.dumps(tekken))
    model = Tekkenizer.from_file(path)
    path.unlink()
    out = {"texts": TEXTS, "tekken": tekken, "tekken_ids": [model.encode(t, bos=True, eos=False) for t in TEXTS]}
    tokens = [base64.b64decode(entry["token_bytes"]) for entry in vocab]
    # Digits that stand together, and a token that nothing is joined to.
    tokens += [b"12", b"123", b"23", b"45", b"345", b" zqx"]
    out["ranks"] = "".join(f"{base64.b64encode(t).decode()} {i}\n" for i, t in enumerate(tokens))
    ranks = {t: i for i, t in enumerate(tokens)}
    for name, pattern, nfc in [("qwen", QWEN, True), ("llama", LLAMA, False)]:
        bpe = tiktoken.Encoding(name, pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
        out[f"{name}_ids"] = [bpe.encode_ordinary(unicodedata.normalize("NFC", t) if nfc else t) for t in TEXTS]
    (HERE / "ranks.json").write_text(json.dumps(out, ensure_ascii=False) + "\n")
    print((HERE / "ranks.json").stat().st_size)


if __name__ == "__main__":
    main()
