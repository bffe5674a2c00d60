"""Makes tests/fixtures/tokenizer/pipelines.json, vocabularies/: tokenizers of Hugging Face folders and the ids they give.

    pip install tokenizers transformers sentencepiece protobuf; python tests/scripts/make_pipelines.py

- pipelines.json: small `tokenizer.json` of every kind, put together of shared parts, with the ids of the `tokenizers` library for each
  text: with what the post-processor adds, and (`plain`) with every special token as text. `spans` are the library's byte offsets.
- vocabularies/: folders without a `tokenizer.json`: SentencePiece's models (unigram and BPE), GPT-2's and Qwen 2's vocab.json with
  merges.txt; `ids.json` has the ids of transformers' AutoTokenizer, and SentencePiece's own wherever they differ (it knows no special
  tokens in a text). tiny-ugm.gguf is the unigram model as a GGUF file, with llama.cpp's ids (`ugm`).
"""

import json
import shutil
import unicodedata
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from make_tokenizer import HAND

OUT = Path(__file__).parent.parent / "fixtures" / "tokenizer"

LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEXTS = [
    "", " ", "  ", "\n", "\n\n\n", "\t\t", " \n ", "\r\n", "Hello", " Hello", "  Hello", "Hello ", "Hello   world  ", "Hello\n world",
    "I'm HERE, don't!  two  spaces\n\n\tx = 3;\r\n", "'S 'LL 'Ve 'ſ", "1234567 12 3.14", "٣ ½ ² १२", "naïve café", "naïve cafe\u0301",
    unicodedata.normalize("NFD", "Ångström ﬁ Việt ハガ"), "Å Å", "가각", "\u1100\u1161\u11a8", "ＡＢＣ ﬁ", "Ǆ ß ẞ İ", "日本語のテキストです。", "你好,世界!",
    "한국어", "مرحبا بالعالم", "שָׁלוֹם", "हिन्दी में", "ไทยแลนด์", "Привет, МИР", "😀 👨‍👩‍👧‍👦 🏳️‍🌈", "\u00a0nbsp \u3000wide \u2003", "a\u200db \ufeffbom", "\u0000x\u0001",
    "▁a ▁▁", "<s>", "</s>", "<unk>", "<s>Hello</s>", "a <s> b", "<s> <s>", "  <s>  x  </s>  ", "[MARK]", "Hello [MARK] world", "Hello[MARK]world",
    "x [MARK]", "[MARK] y", "a[MARK][MARK]b", "xx[MARK]yy", "  [MARK]  ", "[mark] [MARK]\n", "say hello there now", "othello thereby", "[CLS] x [SEP]",
    "<|user|>\nHello there<|end|>\n<|assistant|>\n", "<|end|>  \n  a", "<0x41>é", "Zebra", "a Zebra", "a" * 700, " " * 90 + "x", "ab " * 150, "\n" * 40, "中" * 120, "é" * 60,
    HAND[-2], "def f(x):\n    return x + 1\n", "\u2028 \u0085",
]


def corpus():
    return [t for t in HAND + TEXTS if "\u0000" not in t]


def parts():
    """Models that pipelines share: a byte-level BPE, one with byte fallback, a unigram, a WordPiece."""
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(LLAMA3), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.train_from_iterator(corpus(), trainers.BpeTrainer(vocab_size=420, special_tokens=["<unk>", "<s>", "</s>"], initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False))
    level = json.loads(t.to_str())["model"]

    s = Tokenizer(models.BPE(unk_token="<unk>"))
    s.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="always", split=True)
    s.train_from_iterator([c.encode("ascii", "ignore").decode().replace("\n", " ") for c in corpus()], trainers.BpeTrainer(vocab_size=260, show_progress=False))
    merged = json.loads(s.to_str())["model"]
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2, **{f"<0x{i:02X}>": 3 + i for i in range(256)}}
    for text in sorted(merged["vocab"], key=merged["vocab"].get):
        vocab.setdefault(text, len(vocab))
    fallback = {**merged, "vocab": vocab, "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True}

    u = Tokenizer(models.Unigram())
    u.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="always", split=True)
    latin = [t for t in corpus() if all(ord(c) < 0x250 for c in t)]
    u.train_from_iterator(latin, trainers.UnigramTrainer(vocab_size=400, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>", show_progress=False))
    unigram = json.loads(u.to_str())["model"]
    bytes_ = [[f"<0x{i:02X}>", -20.0] for i in range(256)]
    unigram_bytes = {**unigram, "vocab": unigram["vocab"] + bytes_, "byte_fallback": True}

    w = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    w.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    w.train_from_iterator(corpus(), trainers.WordPieceTrainer(vocab_size=300, limit_alphabet=150, special_tokens=["[UNK]", "[CLS]", "[SEP]"], show_progress=False))
    return {"level": level, "fallback": fallback, "unigram": unigram, "unigram-bytes": unigram_bytes, "wordpiece": json.loads(w.to_str())["model"]}


def special(*contents, **k):
    return [AddedToken(c, special=True, normalized=False, **k) for c in contents]


def bos(text="<s>", id=1):
    return processors.TemplateProcessing(single=f"{text} $A", pair=f"{text} $A $B", special_tokens=[(text, id)])


def pipelines(model):
    """Name, model, and what is set on it."""
    llama3 = [pre_tokenizers.Split(Regex(LLAMA3), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    level = dict(pre_tokenizer=pre_tokenizers.Sequence(llama3), decoder=decoders.ByteLevel(), post_processor=bos(), added=special("<unk>", "<s>", "</s>"))
    mark = lambda **k: dict(level, added=level["added"] + [AddedToken("[MARK]", **k)])
    spaces = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    spm = dict(decoder=spaces, post_processor=bos(), added=special("<unk>", "<s>", "</s>"))
    meta = lambda scheme, split=False: dict(spm, pre_tokenizer=pre_tokenizers.Metaspace("▁", prepend_scheme=scheme, split=split))
    prepend = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    uni = dict(pre_tokenizer=pre_tokenizers.Metaspace("▁", prepend_scheme="always"), decoder=decoders.Metaspace("▁", "always"), added=special("<unk>", "<s>", "</s>"))
    extra = {k: v for k, v in model["level"]["vocab"].items()}
    unreachable = {**model["level"], "vocab": {**extra, "Zebra": len(extra), "ĠZebra": len(extra) + 1}}
    yield "llama3", "level", level
    for name in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents"):
        yield name, "level", dict(level, normalizer=getattr(normalizers, name)())
    yield "added", "level", mark(normalized=False)
    yield "added, lstrip", "level", mark(lstrip=True, normalized=False)
    yield "added, rstrip", "level", mark(rstrip=True, normalized=False)
    yield "added, single_word", "level", mark(single_word=True, normalized=False)
    yield "added, normalized", "level", mark(normalized=True)
    yield "added, normalized, lowercase", "level", dict(mark(normalized=True, special=True), normalizer=normalizers.Lowercase())
    yield "added, overlapping", "level", dict(level, added=level["added"] + [AddedToken("hello there"), AddedToken("hello")])
    yield "markers with rstrip", "level", dict(level, added=level["added"] + special("<|end|>", "<|user|>", "<|assistant|>", rstrip=True))
    yield "gpt2", "level", dict(level, pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=False), post_processor=processors.ByteLevel(trim_offsets=True))
    yield "gpt2, prefix", "level", dict(level, pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=True), post_processor=None)
    yield "digits", "level", dict(level, pre_tokenizer=pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]))
    yield "tekken", "level", dict(level, pre_tokenizer=pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(TEKKEN), "isolated"), llama3[1]]))
    yield "split, inverted", "level", dict(level, pre_tokenizer=pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(LLAMA3), "removed", invert=True), llama3[1]]))
    yield "sequence of post-processors", "level", dict(level, post_processor=processors.Sequence([processors.ByteLevel(trim_offsets=False), bos()]))
    yield "beginning and end", "level", dict(level, post_processor=processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]))
    yield "unreachable token", unreachable, level
    yield "unreachable token, whole words", {**unreachable, "ignore_merges": True}, level
    yield "llama2", "fallback", dict(spm, normalizer=prepend)
    yield "metaspace, first", "fallback", meta("first")
    yield "metaspace, always, split", "fallback", meta("always", True)
    yield "metaspace, never", "fallback", meta("never")
    yield "gemma", "fallback", dict(spm, normalizer=normalizers.Replace(" ", "▁"), pre_tokenizer=pre_tokenizers.Split(" ", "merged_with_previous"))
    yield "unigram", "unigram", uni
    yield "unigram, NFKC", "unigram-bytes", dict(uni, normalizer=normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]))
    bert = dict(pre_tokenizer=pre_tokenizers.BertPreTokenizer(), decoder=decoders.WordPiece(), normalizer=normalizers.BertNormalizer(), added=special("[UNK]", "[CLS]", "[SEP]"))
    yield "bert", "wordpiece", dict(bert, post_processor=processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1)))


def build(model, spec):
    empty = json.loads(Tokenizer(models.BPE()).to_str())
    t = Tokenizer.from_str(json.dumps({**empty, "model": model}))
    for name in ("normalizer", "pre_tokenizer", "decoder", "post_processor"):
        if spec.get(name) is not None:
            setattr(t, name, spec[name])
    for token in spec["added"]:
        (t.add_special_tokens if token.special else t.add_tokens)([token])
    return t


# A template, what is rendered before the answer and with it, and the turns that say so; then prompts with their responses.
LLAMA2 = "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]{% else %} {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
ZEPHYR = "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
QUESTION, ANSWER = "What is the capital of France?", "Paris is the capital"
CASES = [
    (LLAMA2, f"<s>[INST] {QUESTION} [/INST]", f" {ANSWER}</s>"),
    (ZEPHYR, f"<|user|>\n{QUESTION}</s>\n<|assistant|>\n", f"{ANSWER}</s>\n"),
    (None, f"Question: {QUESTION}\nAnswer:", " Paris"),
    (None, f"Question: {QUESTION}\nAnswer:", "Paris"),
    (None, "Say it: ", "  twice"),
    (None, "caf", "́e"),
]


def learned(t, template, head, tail):
    """The whole text's tokens, and those that end beyond the head; a pair ends with the end of text."""
    e = t.encode(head + tail, add_special_tokens=template is None)
    mask = [end > len(head) for _, end in e.offsets]
    ids = e.ids
    if template is None:
        ids, mask = ids + [2], mask + [True]
    return {"template": template, "head": head, "tail": tail, "ids": ids, "learned": [int(m) for m in mask]}


def make_pipelines():
    shared = parts()
    out = []
    for name, model, spec in pipelines(shared):
        t = build(shared[model] if isinstance(model, str) else model, spec)
        whole = json.loads(t.to_str())
        whole["model"] = model
        row = {"name": name, "json": whole, "ids": [t.encode(x).ids for x in TEXTS]}
        t.encode_special_tokens = True
        plain = [t.encode(x).ids for x in TEXTS]
        row["plain"] = {str(i): p for i, (p, ids) in enumerate(zip(plain, row["ids"])) if p != ids}
        t.encode_special_tokens = False
        if name in ("llama2", "llama3", "metaspace, first"):
            row["learned"] = [learned(t, *case) for case in CASES]
        out.append(row)
    lines = ",\n".join(json.dumps(r, ensure_ascii=False, separators=(",", ":")) for r in out)
    head = json.dumps(TEXTS, ensure_ascii=False)
    models_ = ",\n".join(f"{json.dumps(k)}: {json.dumps(v, ensure_ascii=False, separators=(',', ':'))}" for k, v in shared.items())
    (OUT / "pipelines.json").write_text(f'{{"texts": {head},\n"models": {{\n{models_}\n}},\n"pipelines": [\n{lines}\n]}}\n')
    print(len(out), "pipelines,", len(TEXTS), "texts")
    return shared


def write_unigram(path, model, own):
    """The unigram model as a GGUF file; its ids of llama.cpp for every text."""
    import gguf
    from sentencepiece import sentencepiece_model_pb2
    from llama import Model
    from make_tokenizer import header, write

    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(model.read_bytes())
    writer = gguf.GGUFWriter(path, "llama")
    tokens = [p.piece for p in proto.pieces]
    header(writer, tokens)
    writer.add_tokenizer_model("t5")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores([p.score for p in proto.pieces])
    writer.add_token_types([p.type for p in proto.pieces])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(True)
    writer.add_remove_extra_whitespaces(True)
    writer.add_precompiled_charsmap(proto.normalizer_spec.precompiled_charsmap)
    write(writer)
    theirs = Model(path, vocab_only=True)
    ids = [theirs.tokenize(x, add_special=True, parse_special=True) for x in TEXTS]
    theirs.close()
    return ids


def make_vocabularies(shared):
    import sentencepiece
    from transformers import AutoTokenizer

    folder = OUT / "vocabularies"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    text = folder / "text"
    lines = [line for s in corpus() for line in s.splitlines() if line.strip() and all(ord(c) < 0x250 for c in line)]
    text.write_text("\n".join(line[:300] for line in lines), encoding="utf-8")
    rules = folder / "rules.tsv"
    rules.write_text("FB01\t66 69\nE9\t65 301\n2003\t20\n3000\t20\n")
    common = dict(input=str(text), hard_vocab_limit=False, minloglevel=2, character_coverage=0.995)
    kinds = {
        "spm-bpe": dict(model_type="bpe", vocab_size=520, byte_fallback=True, remove_extra_whitespaces=False, normalization_rule_name="identity", allow_whitespace_only_pieces=True),
        "spm-bpe-pieces": dict(model_type="bpe", vocab_size=300, byte_fallback=False, normalization_rule_name="identity", user_defined_symbols=["[MARK]", "hello there"]),
        "spm-unigram": dict(model_type="unigram", vocab_size=300, byte_fallback=False, normalization_rule_tsv=str(rules)),
        "spm-no-prefix": dict(model_type="bpe", vocab_size=520, byte_fallback=True, add_dummy_prefix=False, remove_extra_whitespaces=False, normalization_rule_name="identity"),
    }
    out = {"texts": TEXTS, "folders": []}
    for name, options in kinds.items():
        here = folder / name
        here.mkdir()
        sentencepiece.SentencePieceTrainer.train(model_prefix=str(here / "tokenizer"), **common, **options)
        (here / "tokenizer.vocab").unlink()
        own = sentencepiece.SentencePieceProcessor(model_file=str(here / "tokenizer.model"))
        (here / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": True, "tokenizer_class": "PreTrainedTokenizerFast"}))
        theirs = AutoTokenizer.from_pretrained(here)
        ids = [theirs.encode(x) for x in TEXTS]
        differ = {str(i): own.encode(x) for i, x in enumerate(TEXTS) if own.encode(x) != ids[i][1:]}
        out["folders"].append({"name": name, "ids": ids, "own": differ})
        print(name, own.get_piece_size(), "pieces; transformers is not SentencePiece in", [TEXTS[int(i)][:20] for i in differ])
        if name == "spm-unigram":
            out["ugm"] = write_unigram(OUT / "tiny-ugm.gguf", here / "tokenizer.model", own)
    for name, config in {
        "gpt2": {"tokenizer_class": "GPT2Tokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
        "qwen2": {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "</s>", "pad_token": "<unk>", "unk_token": None, "bos_token": None,
                  "added_tokens_decoder": {"1": {"content": "<s>", "special": True, "lstrip": False, "rstrip": False, "normalized": False, "single_word": False}}},
    }.items():
        here = folder / name
        here.mkdir()
        (here / "vocab.json").write_text(json.dumps(shared["level"]["vocab"], ensure_ascii=False))
        merges = [m if isinstance(m, str) else " ".join(m) for m in shared["level"]["merges"]]
        (here / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
        (here / "tokenizer_config.json").write_text(json.dumps(config))
        theirs = AutoTokenizer.from_pretrained(here)
        out["folders"].append({"name": name, "ids": [theirs.encode(x) for x in TEXTS]})
    text.unlink()
    rules.unlink()
    rows = ",\n".join(json.dumps(r, separators=(",", ":")) for r in out["folders"])
    (folder / "ids.json").write_text(f'{{"texts": {json.dumps(TEXTS, ensure_ascii=False)},\n"ugm": {json.dumps(out["ugm"], separators=(",", ":"))},\n"folders": [\n{rows}\n]}}\n')


if __name__ == "__main__":
    make_vocabularies(make_pipelines())
