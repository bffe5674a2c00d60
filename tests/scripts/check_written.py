"""Opens the tokenizers that we write with transformers, and makes tests/fixtures/tokenizer/written.json.

    cargo run --example tokenizer_folders -- DIR; python tests/scripts/check_written.py DIR     (pip install tokenizers transformers)

For each folder: a hash of the `tokenizer.json` that was opened, and the ids of AutoTokenizer wherever they are not those recorded of
llama.cpp for the vocabulary it was written from (pre.json, spm.json, vocabularies/ids.json, vocabs/recall.out).
"""

import json
import sys
from pathlib import Path

from transformers import AutoTokenizer

from make_tokenizer import fnv

OUT = Path(__file__).parent.parent / "fixtures" / "tokenizer"


def recorded():
    """Name, texts, and llama.cpp's ids with what is added and special tokens parsed."""
    pre = json.loads((OUT / "pre.json").read_text())
    for name, ids in pre["ids"].items():
        yield name, pre["texts"], ids
    rows = json.loads((OUT / "spm.json").read_text())["rows"]
    # Special tokens parsed and the beginning added.
    yield "tiny-spm", [r["text"] for r in rows], [[1] + r.get("parsed", r["ids"]) for r in rows]
    ugm = json.loads((OUT / "vocabularies" / "ids.json").read_text())
    yield "tiny-ugm", ugm["texts"], ugm["ugm"]
    texts = (OUT / "vocabs" / "texts.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    ids = [[int(i) for i in line.split()] for line in (OUT / "vocabs" / "recall.out").read_text().splitlines()]
    yield "recall", texts[: len(ids)], ids


out = {}
for name, texts, ids in recorded():
    here = Path(sys.argv[1]) / name
    t = AutoTokenizer.from_pretrained(here)
    # What is recorded of the bundled model is plain text.
    plain = name == "recall"
    theirs = [t.encode(x, add_special_tokens=not plain, split_special_tokens=plain) for x in texts]
    differ = {str(i): a for i, (a, b) in enumerate(zip(theirs, ids)) if a != b}
    out[name] = {"fnv": f"{fnv((here / 'tokenizer.json').read_bytes()):016x}", "differ": differ}
    print(f"{name:16} {len(texts) - len(differ):4} of {len(texts)} as llama.cpp", [texts[int(i)][:20] for i in differ][:6])
lines = ",\n".join(f"{json.dumps(k)}: {json.dumps(v, separators=(',', ':'))}" for k, v in out.items())
(OUT / "written.json").write_text(f"{{\n{lines}\n}}\n")
