"""Makes tests/fixtures/tokenizer/: token ids of llama.cpp for strings of every kind.

    python tests/scripts/make_tokenizer.py SmolLM2-135M-Instruct.Q4_1.gguf     (also: pip install sentencepiece tokenizers)
    python tests/scripts/make_tokenizer.py gemma3-270m-Q4_K_M.gguf             (gemma3.json alone)

- smollm2.json, gemma3.json: the strings below with the ids of SmolLM2 and of Gemma 3, specials parsed and not.
- tiny-bpe.gguf, pre.json: a byte-level vocabulary whose merges cross every kind of boundary, so that ids show where a
  pre-tokenizer splits; one list of ids for each name of `tokenizer.ggml.pre`.
- tiny-spm.gguf, spm.json: a SentencePiece BPE vocabulary with scores and byte fallback.
"""

import json
import random
import sys
import tempfile
from pathlib import Path

import gguf

from llama import Model
from text import ALICE

OUT = Path(__file__).parent.parent / "fixtures" / "tokenizer"

HAND = [
    "", " ", "  ", "   ", "\n", "\n\n", "\n\n\n", "\t", "\t\t", "\r\n", "\r\n\r\n", " \n", "\n ", " \n ", "\t\n", "\n\t", "  \n\n  ",
    "\u00a0", "\u2003", "\u3000", "\u0085", "\u000b", "\u000c", "\u200b", "\u200d", "\ufeff", "\u2028", "\u202f x", "a\u00a0b", "a\u3000b",
    "Hello", " Hello", "  Hello", "   Hello", "Hello world", "Hello  world", "Hello   world", "Hello\nworld", "Hello\n\nworld",
    "Hello \n world", "Hello, world!", "HELLO WORLD", "hElLo", "Hello world ", "Hello world  ", "Hello world\n", "Hello world \n",
    "I'm you're he's they'll we'd I've don't", "I'M YOU'RE HE'S THEY'LL WE'D I'VE DON'T", "it''s", "'s", "'S", " 's", "'", "''", "l'll'l",
    "O'Neill's rock'n'roll", "’s curly ’ll", "x'tx're",
    "0", "1", "12", "123", "1234", "12345", "123456", "1234567890", "3.14159", "1,000,000", "1e-9", "0x1F", "2024-01-31", "12:34:56", "v1.2.3",
    "½ ¾ ² ³ ① Ⅳ Ⅻ", "٠١٢٣٤٥٦٧٨٩", "१२३४", "一二三123四五", "abc123def456", "a1b2c3", "1st 2nd 3rd", "$1,234.56", "100%", "€50 £20 ¥1000",
    "é", "e\u0301", "naïve café résumé", "ÀÉÎÕÜ", "ß ẞ", "ÇA VA École ÉCOLE", "ﬁ ﬂ ﬀ", "Å Å", "ǅ ǈ ǋ", "İstanbul ıI", "ſtreet",
    "Привет, мир!", "Съешь же ещё этих мягких французских булок", "ПРИВЕТ", "Ελληνικά κείμενα", "Ωmega", "Հայերեն", "ქართული",
    "你好,世界!", "今天天气很好。我们去公园吧。", "日本語のテキストです。", "カタカナ ひらがな 漢字", "ｶﾀｶﾅ ＡＢＣ １２３", "한국어 텍스트입니다.", "ㄱㄴㄷ ㄅㄆㄇ", "繁體中文測試",
    "龍𠀀𪚥", "《书名》「引用」、。！？", "مرحبا بالعالم", "السلام عليكم ورحمة الله", "שלום עולם", "שָׁלוֹם", "हिन्दी में पाठ", "नमस्ते दुनिया", "বাংলা", "தமிழ்", "తెలుగు", "ไทยแลนด์", "ລາວ", "ខ្មែរ",
    "မြန်မာ", "አማርኛ", "ᏣᎳᎩ", "Tiếng Việt có dấu", "ཨོཾ་མ་ཎི", "𐐀𐐨", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢", "ᚠᚢᚦ", "ⵜⵉⴼⵉⵏⴰⵖ", "ꙮ",
    "😀", "😀😁😂", "😀 😁 😂", "👍🏽", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🇫🇷🇯🇵", "❤️", "✅ done", "1️⃣2️⃣", "🤖beep", "a😀b", "🦙.cpp", "☃ ★ ♫ → ← ⇒", "🫠🫡🪿", "🧑🏿‍🚀 in space",
    "∀x∈ℝ: ⌈x⌉ = −⌊−x⌋", "α + β ≠ γ", "∫₀^∞ e^{-x²} dx = √π/2", "E=mc²", "H₂O", "10⁻⁹", "±≈≤≥÷×", "℃ № ™ © ®",
    "foo_bar", "fooBar", "FooBarBaz", "foo-bar", "foo.bar()", "foo::bar<T>", "a==b", "a!=b", "a&&b||!c", "x+=1;", "i++", "-->", "=>", "<-", "<<>>", "...", "....", "…",
    "--", "---", "----", "=====", "_____", "#####", "*****", "~~~", "```", "```python\n", "\\n", "\\", "\\\\", "/", "//", "/* c */", "# c", "<!-- c -->", "()", "[]", "{}", "({[", ")}]",
    '"quoted"', "“curly”", "`tick`", "@user", "#tag", "a@b.co", "https://example.com/a?b=c&d=e#f", "C:\\Users\\me", "~/path/to/file.txt", "../..", "%20", "&amp;", "<br/>", "^_^", ":-)",
    "def f(x):\n    return x + 1\n", "for (int i = 0; i < n; ++i) {\n\tsum += a[i];\n}\n", "fn main() {\n    println!(\"{}\", 1);\n}\n",
    "SELECT * FROM t WHERE a = 'b';", "{\"a\": [1, 2.5, null, true], \"b\": \"\\u00e9\"}", "<div class=\"x\">y</div>", "let x: Vec<u8> = vec![0; 10];",
    "if x:\n        pass\n    else:\n            y()\n", "a,b,c\n1,2,3\n", "\tindent\n\t\tmore\n", "import os, sys\n\n\nclass A:\n\n    x = 1", "#include <stdio.h>", "$ ls -la | grep x > y 2>&1",
    "| a | b |\n|---|---|\n| 1 | 2 |", "- item\n  - nested\n    - deeper", "## Title\n\nText **bold** _it_.\n", "a=b?c:d", "λ x → x", "x²+y²=z²",
    "\u0000", "a\u0000b", "\u0001\u0002\u0003", "\u007f", "\u0080", "\u009f", "\u00ad", "\ufffd", "\ufffe", "\uffff", "\ue000", "\U0010ffff", "\U000f0000", "\u0301", "\u0301\u0302a", "a\u0300\u0301\u0302\u0303",
    "\u202eright to left\u202c", "\u2066x\u2069", "\u0378", "\u1c89", "\ua7dc", "\U00016d40", "\U00011f5b", "\U0001fae9", "\u2427",
    "Aa" * 50, "a" * 100, "a" * 1000, " " * 17, " " * 33, " " * 64, " " * 100 + "x", "\n" * 10, "\n" * 33, "\t" * 9, "0" * 40, "ab " * 40, "!" * 50, "." * 33, "-" * 65, "=" * 130, "😀" * 20, "中" * 40, "é" * 40,
    "antidisestablishmentarianism", "Donaudampfschifffahrtsgesellschaft", "supercalifragilisticexpialidocious", "Llanfairpwllgwyngyll", "xyzzyqwrtplkjh",
    "The quick brown fox jumps over the lazy dog.", ALICE[:200], ALICE[200:520], ALICE,
]

SPECIAL = [
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|im_start|>user\nHi<|im_end|>\n", "<|im_start|><|im_end|>", " <|im_start|> ", "a<|im_start|>b", "<|im_start|", "|im_start|>", "<|im_start|>>", "<<|im_start|>",
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n<|im_start|>user\nWhat is 2+2?<|im_end|>\n<|im_start|>assistant\n",
    "<|endoftext|><|endoftext|>", "text<|endoftext|>\n\nmore", "<repo_name>x<file_sep>y", "<jupyter_code>1+1<jupyter_output>2", "<issue_start>a<issue_comment>b<issue_closed>", "<empty_output>", "<gh_stars>", "<filename>", "<file_sep>",
    "<s>", "</s>", "<unk>", "<s>hi</s>", "<s> hi </s>", "a<s>b</s>c", "<0x0A>", "<0xFF>", "<s><s>", "x<unk>y", "[INST] hi [/INST]", "<tool>", "<tool> x</tool>", "a<tool>b", "<toolx>",
]

GEMMA = [
    "<bos>", "<eos>", "<start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n", "<end_of_turn>", " <start_of_turn> ", "<pad><mask>", "a<bos>b", "<unused0>", "<unused99>x", "[multimodal]",
    "<start_of_image>", "<table><tr><td>x</td></tr></table>", "<h1>Title</h1>", "<strong>b</strong>", "<blockquote>", "\n" * 31, " " * 31, "\t" * 16, "▁", "▁▁a", "a▁b", "<0x41>", "<unk>",
]


def random_strings(count):
    """Strings mixed at random from every kind of character; the seed is fixed."""
    rng = random.Random(20240131)
    words = ALICE.split()
    kinds = [
        lambda: rng.choice(words),
        lambda: " " * rng.randint(1, 5),
        lambda: "\n" * rng.randint(1, 3),
        lambda: rng.choice([" ", "\t", "\r\n", " \n", "\u00a0", "\u3000", "  \t"]),
        lambda: str(rng.randint(0, 10 ** rng.randint(1, 9))),
        lambda: "".join(rng.choice("!?.,;:'\"()[]{}<>+-*/=_#@$%^&|~`\\") for _ in range(rng.randint(1, 4))),
        lambda: "".join(chr(rng.randint(0x4E00, 0x9FA5)) for _ in range(rng.randint(1, 3))),
        lambda: "".join(chr(rng.randint(0x1F300, 0x1F64F)) for _ in range(rng.randint(1, 2))),
        lambda: "".join(chr(rng.randint(0x0400, 0x044F)) for _ in range(rng.randint(1, 6))),
        lambda: "".join(chr(rng.randint(0x0620, 0x064A)) for _ in range(rng.randint(1, 6))),
        lambda: "".join(chr(rng.randint(0xC0, 0x17F)) for _ in range(rng.randint(1, 4))),
        lambda: rng.choice(["'s", "'LL", "'re", "'D", "n't", "’s"]),
        lambda: chr(rng.choice([rng.randint(0, 0xD7FF), rng.randint(0xE000, 0xFFFF), rng.randint(0x10000, 0x1FFFF)])),
        lambda: rng.choice(["self.", "return ", "if (", "::", "->", "foo_bar", "x1", "</", "<|"]),
    ]
    return ["".join(rng.choice(kinds)() for _ in range(rng.randint(1, 9))) for _ in range(count)]


STRINGS = HAND + random_strings(260)


def fnv(data, state=0xCBF29CE484222325):
    """FNV-1a over bytes: one number for the text of a whole vocabulary."""
    for byte in data:
        state = (state ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return state


def record(model, texts):
    """Ids of every text, without and with specials parsed (the second only where it differs)."""
    rows = []
    for text in texts:
        row = {"text": text, "ids": model.tokenize(text)}
        parsed = model.tokenize(text, parse_special=True)
        if parsed != row["ids"]:
            row["parsed"] = parsed
        added = model.tokenize(text, add_special=True)
        if added != row["ids"]:
            row["added"] = added
        rows.append(row)
    return rows


def describe(path, texts):
    import llama_cpp as C

    model = Model(path, vocab_only=True)
    pieces = 0xCBF29CE484222325
    for token in range(model.n_vocab):
        piece = model.piece(token)
        pieces = fnv(len(piece).to_bytes(4, "little") + piece, pieces)
    out = {
        "vocab": model.n_vocab,
        "pieces_fnv": f"{pieces:016x}",
        "end_of_generation": [t for t in range(model.n_vocab) if C.llama_vocab_is_eog(model.vocab, t)],
        "control": [t for t in range(model.n_vocab) if C.llama_vocab_is_control(model.vocab, t)],
        "rows": record(model, texts),
    }
    model.close()
    return out


def dump(name, value):
    rows = value.pop("rows")
    head = json.dumps(value)[:-1]
    lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
    (OUT / name).write_text(f'{head}, "rows": [\n{lines}\n]}}\n')
    value["rows"] = rows


def header(writer, tokens):
    """The least that llama.cpp asks of a vocabulary-only file."""
    writer.add_context_length(256)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(64)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))


def write(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def train_bpe():
    """900 merges over the strings without any pre-tokenizer, so that tokens span words, digits, punctuation and newlines."""
    import tokenizers

    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=1200,
        min_frequency=2,
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        max_token_length=12,
        show_progress=False,
    )
    model.train_from_iterator([s[:300] for s in STRINGS if "\u0000" not in s], trainer)
    state = json.loads(model.to_str())["model"]
    tokens = [t for t, _ in sorted(state["vocab"].items(), key=lambda kv: kv[1])]
    merges = [m if isinstance(m, str) else " ".join(m) for m in state["merges"]]
    return tokens, merges


def write_bpe(path, tokens, merges, pre):
    writer = gguf.GGUFWriter(path, "llama")
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool>"]
    header(writer, tokens + specials)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens + specials)
    writer.add_token_types([1] * len(tokens) + [3, 3, 3, 4])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(len(tokens) + 1)
    writer.add_eos_token_id(len(tokens) + 2)
    write(writer)


# One name of each family with its own splitting, then the names that say the same.
PRE = {
    "default": [],
    "gpt-2": ["phi-2", "exaone4", "mpt", "olmo", "jais", "trillion", "granite-docling"],
    "smollm": ["starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"],
    "llama-bpe": ["llama3", "llama-v3", "falcon3", "pixtral", "lfm2"],
    "dbrx": ["smaug-bpe", "chatglm-bpe"],
    "glm4": [],
    "qwen2": ["deepseek-r1-qwen", "megrez", "hunyuan", "stablelm2"],
    "qwen35": [],
    "tekken": [],
    "gpt-4o": ["llama4"],
    "deepseek-llm": [],
    "deepseek-coder": [],
    "deepseek-v3": ["hunyuan-dense"],
    "falcon": [],
    "bloom": ["poro-chat", "gpt3-finnish"],
    "viking": [],
    "seed-coder": [],
    "bailingmoe": [],
    "minicpm5": [],
}


def make_bpe():
    tokens, merges = train_bpe()
    write_bpe(OUT / "tiny-bpe.gguf", tokens, merges, "smollm")
    texts = [s for s in HAND if len(s) < 200] + random_strings(30) + SPECIAL[:12]
    ids = {}
    with tempfile.TemporaryDirectory() as folder:
        for pre, same in PRE.items():
            for name in [pre, *same]:
                path = Path(folder) / "v.gguf"
                write_bpe(path, tokens, merges, name)
                model = Model(path, vocab_only=True)
                # What follows the name's own defaults for `add_bos` is seen with specials added.
                rows = [model.tokenize(t, add_special=True, parse_special=True) for t in texts]
                model.close()
                if name == pre:
                    ids[pre] = rows
                elif rows != ids[pre] and [r[1:] for r in ids[pre]] != rows:
                    raise SystemExit(f"{name} is not the same as {pre}")
    lines = ",\n".join(f"{json.dumps(k)}: {json.dumps(v, separators=(',', ':'))}" for k, v in ids.items())
    (OUT / "pre.json").write_text(f'{{"same": {json.dumps(PRE)},\n"texts": {json.dumps(texts)},\n"ids": {{\n{lines}\n}}}}\n')


def make_spm():
    import sentencepiece

    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "text"
        lines = [line for s in STRINGS for line in s.splitlines() if line.strip() and "\u0000" not in line]
        text.write_text("\n".join(line[:300] for line in lines), encoding="utf-8")
        sentencepiece.SentencePieceTrainer.train(
            input=str(text), model_prefix=f"{folder}/m", vocab_size=1400, model_type="bpe", byte_fallback=True, character_coverage=0.98,
            split_digits=True, allow_whitespace_only_pieces=True, remove_extra_whitespaces=False, normalization_rule_name="identity",
            hard_vocab_limit=False, minloglevel=2,
        )
        model = sentencepiece.SentencePieceProcessor(model_file=f"{folder}/m.model")
    tokens, scores, types = [], [], []
    for i in range(model.get_piece_size()):
        tokens.append(model.id_to_piece(i))
        scores.append(model.get_score(i))
        types.append(2 if model.is_unknown(i) else 3 if model.is_control(i) else 6 if model.is_byte(i) else 1)
    tokens += ["<tool>", "<|im_start|>", "<|im_end|>"]
    scores += [-1000.0] * 3
    types += [4, 3, 3]
    writer = gguf.GGUFWriter(OUT / "tiny-spm.gguf", "llama")
    header(writer, tokens)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    write(writer)
    dump("spm.json", describe(OUT / "tiny-spm.gguf", STRINGS + SPECIAL))


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    if "gemma" in sys.argv[1]:
        dump("gemma3.json", describe(sys.argv[1], STRINGS + SPECIAL + GEMMA))
        sys.exit()
    dump("smollm2.json", describe(sys.argv[1], STRINGS + SPECIAL))
    make_bpe()
    make_spm()
    print(len(STRINGS), "strings and", len(SPECIAL), "with specials")
