"""Texts and llama.cpp's ids of them, in the form of llama.cpp's own test vocabularies: fixtures/tokenizer/vocabs/.

texts.inp holds texts with a line `__ggml_vocab_test__` between them, NAME.out a line of ids for each, no special token added or
parsed. Vocabularies: the two small ones of fixtures/tokenizer, the bundled model's, and those of the models that CI
fetches, where they are given: python make_vocabs.py [SmolLM2.gguf] [gemma3.gguf]. Needs llama-cpp-python.
"""

import os
import random
import sys

from llama import Model

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.path.join(HERE, "../fixtures/tokenizer/vocabs")
BETWEEN = "\n__ggml_vocab_test__\n"
WORDS = "the a tank is half empty HTTP2 don't we'll I'm it's 3.14 2026-11-28 x86_64 naïve Straße ångström привет мир 你好 世界 日本語 שלום नमस्ते 🙂 👩‍👩‍👧 é".split(
    " "
)
PIECES = [" ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", " \n ", ".", ",", "!?", "...", "--", "==", "(", ")", "\"", "'", "'S", "#", "_", "/", "\\", "\u00a0", "\u200b", "\u3000"]


def texts():
    rng = random.Random(7)
    out = ["", " ", "\t", "\n", "\n\n\n", "0", "12", "123", "1234567890", "a", "ab", "Hello, world!", "  two   spaces ", "\u2581"]
    for _ in range(160):
        text = ""
        for _ in range(rng.randint(1, 14)):
            kind = rng.random()
            if kind < 0.5:
                text += rng.choice(WORDS)
            elif kind < 0.85:
                text += rng.choice(PIECES)
            elif kind < 0.95:
                text += str(rng.randint(0, 10 ** rng.randint(1, 9)))
            else:
                text += chr(rng.choice([rng.randint(0x21, 0x7E), rng.randint(0xA1, 0x2FF), rng.randint(0x3041, 0x30FE)]))
        out.append(text)
    return out


def write(name, path):
    model = Model(path, vocab_only=True)
    with open(os.path.join(OUT, f"{name}.out"), "w") as f:
        for text in texts():
            f.write("".join(f" {id}" for id in model.tokenize(text)) + "\n")
    model.close()


if __name__ == "__main__":
    os.makedirs(OUT, exist_ok=True)
    with open(os.path.join(OUT, "texts.inp"), "w", newline="") as f:
        f.write(BETWEEN.join(texts()))
    for name in ["tiny-bpe", "tiny-spm"]:
        write(name, os.path.join(OUT, f"../{name}.gguf"))
    write("recall", os.path.join(HERE, "../../assets/bundled/recall.gguf"))
    for name, path in zip(["smollm2", "gemma3"], sys.argv[1:]):
        write(name, path)
