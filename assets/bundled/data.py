"""Grammar, tokenizer and training rows of the bundled model `recall`.

Everything is made here from a seed: no text comes from outside; the words are in words.json. A text is a list of pieces
`(text, weight)`; the weight is what the piece's tokens count in the loss. Piece borders always fall
on borders of the GPT-2 pre-tokenizer, so that encoding the pieces one by one gives the ids of the
whole text (`check` asserts it).

Kinds of row (`row`), for a row of `n` tokens; `bos` starts every document, `eos` ends it:

* haystack  facts hidden in filler, questions at the end. Facts: pass key, special numbers of places
            and names, code lines, key-value pairs in JSON form.
* codes     text MQAR: D lines `code QZTF -> 58`, then the questions in another order.
* repeat    random ids, groups of symbols, or words, given once and then again: copying.
* stories   the story grammar, several to a row, some after a sentence that is no story.
* chat      short dialogues on all of the above in the chat template.
"""

import json
import os
import random
import re
from collections import Counter
from functools import lru_cache

import numpy as np

VOCAB = 1024
SPECIALS = ["<|pad|>", "<|bos|>", "<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>"]
PAD, BOS, EOS = 0, 1, 2
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\\n' + m['content'] + '<|endoftext|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)
W_TEXT, W_KEY, W_ANSWER = 0.1, 0.02, 1.0  # plain text; symbols nobody can foresee; answers

# --- lexicon -----------------------------------------------------------------------------------

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "words.json")) as file:
    WORDS = json.load(file)
NAMES, ANIMALS, TRAITS, COLOURS, THINGS = (WORDS[k] for k in ("names", "animals", "traits", "colours", "things"))
PLACES, FOODS, WEATHER, ADJS, NOUNS = (WORDS[k] for k in ("places", "foods", "weather", "adjs", "nouns"))
VERBS, CITIES, SYLLABLES, GRASS, PREAMBLES = (WORDS[k] for k in ("verbs", "cities", "syllables", "grass", "preambles"))


def pick(r, xs):
    return xs[int(r.random() * len(xs))]


def symbols(r, n, alphabet=LETTERS):
    return "".join(pick(r, alphabet) for _ in range(n))


def number(r, lo, hi):
    """A number of lo to hi digits, no leading zero."""
    return pick(r, "123456789") + symbols(r, r.randint(lo, hi) - 1, "0123456789")


def place_name(r):
    """A city, a person, or a name nobody has heard before."""
    u = r.random()
    if u < 0.4:
        return pick(r, CITIES)
    return pick(r, NAMES) if u < 0.5 else "".join(pick(r, SYLLABLES) for _ in range(r.randint(2, 3))).capitalize()


# --- stories and filler ------------------------------------------------------------------------


def story(r, animal=None):
    """About 120 to 250 words: who, wish, trouble, helper, outcome, evening, moral. Returns sentences."""
    a, name = animal or pick(r, ANIMALS), pick(r, NAMES)
    helper_a = pick(r, [x for x in ANIMALS if x != a])
    helper = pick(r, [x for x in NAMES if x != name])
    home, far = r.sample(PLACES, 2)
    t1, t2 = r.sample(TRAITS, 2)
    colour, thing, food = pick(r, COLOURS), pick(r, THINGS), pick(r, FOODS)
    obj = f"{colour} {thing}"
    s = [pick(r, [
        f"Once upon a time there was a {t1} {a} named {name}.",
        f"Once upon a time, in a {home}, there lived a {t1} {a} named {name}.",
        f"Long ago a {t1} {a} named {name} lived near a {home}.",
    ])]
    s.append(pick(r, [f"{name} was very {t2} and liked to eat {food}.", f"Every morning {name} ate {food} and looked at the {home}.",
                      f"Everyone in the {home} knew {name}, because {name} was so {t2}."]))
    s.append(pick(r, [f"{name} had a {obj} and took it everywhere.", f"The thing that {name} loved most was a {obj}."]))
    s.append("One day " + pick(r, [f"{name} walked to the {far}.", f"{name} went for a walk near the {far}.", f"{name} wanted to see the {far}."]))
    s.append(pick(r, WEATHER))
    lost = r.random() < 0.6
    if lost:
        s.append(pick(r, [f"When {name} came to the {far}, the {obj} was gone.", f"But on the way the {thing} fell down and was lost."]))
        s.append(pick(r, [f'"Oh no!" said {name}. "Where is my {obj}?"', f"{name} sat down and began to cry.", f"{name} looked under every stone, but the {thing} was not there."]))
    else:
        s.append(f"There {name} saw someone who looked very sad.")
    s.append(pick(r, [f"Then a {helper_a} named {helper} came by.", f"Just then {name} met a {helper_a}. The name of the {helper_a} was {helper}."]))
    if lost:
        s.append(pick(r, [f'"Do not be sad," said {helper}. "I will help you."', f'"I can help you," said the {helper_a}.']))
        s.append(pick(r, [f"Together they looked near the {far} and behind the trees.", f"{name} and {helper} looked all day long."]))
        s.append(pick(r, [f"At last {helper} found the {obj} under a tree.", f"In the evening they saw something {colour} in the grass. It was the {thing}!"]))
        s.append(pick(r, [f'"Thank you, {helper}!" said {name}.', f"{name} was so happy and gave {helper} some {food}."]))
    else:
        s.append(pick(r, [f'"I am so hungry," said {helper}.', f'"I have no home," said the {helper_a}.', f'"I am all alone," said {helper}.']))
        s.append(pick(r, [f'"Then come with me," said {name}. "I have {food} for both of us."', f"{name} gave {helper} the {obj}, and {helper} smiled."]))
        s.append(f"They walked back to the {home} and sat down to eat {food}.")
    s.append(pick(r, [f"From that day on {name} and {helper} were friends.", f"After that, the {a} and the {helper_a} played together every day."]))
    s.append(pick(r, ["When the moon came up, they went home.", "That night they slept very well.", "And they were happy for a long time."]))
    if r.random() < 0.5:
        s.append(pick(r, ["A friend is worth more than gold.", "It is good to help others.", "Those who share are never alone."]))
    return s + ["The end."]


def fact_sentence(r):
    n, p = pick(r, NOUNS), pick(r, PLACES)
    return pick(r, [
        f"The {pick(r, ADJS)} {n} {pick(r, VERBS)} near the {p}.", f"There is a {pick(r, ADJS)} {n} by the {p}.",
        f"Every {pick(r, ['morning', 'evening', 'winter', 'summer'])} the {n} {pick(r, VERBS)} in the {p}.",
        f"{pick(r, NAMES)} walked past the {pick(r, ADJS)} {n} and saw a {pick(r, ANIMALS)}.",
        f"The {n} is {pick(r, ADJS)} and the {pick(r, NOUNS)} is {pick(r, COLOURS)}.", f"A {pick(r, COLOURS)} {n} {pick(r, VERBS)} on the {p}.",
    ])


def babble(r):
    """A sentence of words nobody knows, some numbers and names among them: the model must find facts in any text."""
    words = [pick(r, [lambda: symbols(r, r.randint(2, 8), "etaoinshrdlucmfwypvbgkqjxz"), lambda: "".join(pick(r, SYLLABLES) for _ in range(r.randint(1, 4))),
                      lambda: pick(r, [*NOUNS, *ADJS, *VERBS, "the", "of", "and", "in", "is", "to", "was"])])() for _ in range(r.randint(3, 14))]
    if r.random() < 0.2:
        words[r.randrange(len(words))] = pick(r, [number(r, 1, 4), place_name(r)])
    return words[0].capitalize() + " " + pick(r, [" ", " ", ", "]).join(words[1:]) + pick(r, "...!?")


def filler(r, kind=None):
    """Endless sentences of one kind: the grass cycle, facts, stories, babble, or a short text over and over."""
    kind = kind or pick(r, ["grass", "grass", "facts", "facts", "story", "babble", "loop"])
    loop = [fact_sentence(r) for _ in range(r.randint(3, 9))]
    while True:
        yield from {"grass": lambda: GRASS, "facts": lambda: [fact_sentence(r)], "story": lambda: story(r), "babble": lambda: [babble(r)], "loop": lambda: loop}[kind]()


# --- facts and their questions -----------------------------------------------------------------
# A fact is (is_line, pieces); a question is (pieces before the answer, answer pieces). No leading blank: `join` adds it.


def passkey(r, n=None):
    n = n or (str(r.randint(1, 50000)) if r.random() < 0.7 else number(r, 1, 7))
    said = [("The pass key is", W_TEXT), (f" {n}", W_KEY), (". Remember it.", W_TEXT)]
    if r.random() < 0.75:
        said += [(f" {n}", 0.3), (" is the pass key.", W_TEXT)]
    ask = pick(r, ["What is the pass key? The pass key is"] * 3 + ["The pass key is"])
    return (False, said), ([(ask, W_TEXT)], [(f" {n}", W_ANSWER), (".", W_TEXT)])


def special(r, who, n=None):
    n = n or number(r, *pick(r, [(7, 7), (7, 7), (2, 6), (4, 4)]))
    key = [("The special number for", W_TEXT), (f" {who}", W_KEY), (" is", W_TEXT)]
    ask = ([("What is the special number for", W_TEXT), (f" {who}", W_KEY), ("?", W_TEXT), (" ", None)] if r.random() < 0.7 else []) + key
    return (False, key + [(f" {n}", W_KEY), (".", W_TEXT)]), (ask, [(f" {n}", W_ANSWER), (".", W_TEXT)])


def code(r, key, value):
    k = [("code", W_TEXT), (f" {key}", W_KEY), (" ->", W_TEXT)]
    return (True, k + [(f" {value}", W_KEY)]), (k, [(f" {value}", W_ANSWER)])


def pair(r, key, value):
    k = [('"', W_TEXT), (key, W_KEY), ('":', W_TEXT), (' "', W_TEXT)]
    return (True, k + [(value, W_KEY), ('",', W_TEXT)]), (k, [(value, W_ANSWER), ('",', W_TEXT)])


def distinct(r, make, n):
    out = {}
    while len(out) < n:
        out[make()] = None
    return list(out)


def codes(r, d):
    """d code lines and their questions. Keys and values have one length and kind each in a document."""
    kl = pick(r, [2, 3, 4, 4, 4, 5]) if d <= 200 else 4
    vl = pick(r, [1, 2, 2, 2, 3, 4])
    value = pick(r, [lambda: number(r, vl, vl)] * 4 + [lambda: symbols(r, vl)])
    return [code(r, k, value()) for k in distinct(r, lambda: symbols(r, kl), d)]


def pairs(r, d):
    kl, vl, alphabet = r.randint(3, 8), r.randint(2, 8), LETTERS + "0123456789"
    return [pair(r, k, symbols(r, vl, alphabet)) for k in distinct(r, lambda: symbols(r, kl, alphabet), d)]


def join(items):
    """Items (is_line, pieces) into pieces: lines on their own, sentences one after the other."""
    out, before = [], None
    for line, pieces in items:
        glue = "" if before is None else ("\n" if line or before else " ")
        pieces = merge_blank(pieces)
        out.append((glue + pieces[0][0], pieces[0][1]))
        out += pieces[1:]
        before = line
    return out


def merge_blank(pieces):
    """A piece `(" ", None)` is a blank that belongs to the next piece."""
    out, blank = [], ""
    for text, w in pieces:
        if w is None:
            blank = text
        else:
            out.append((blank + text, w))
            blank = ""
    return out


def haystack(r, n, facts, questions, kind=None, depths=None, preamble=None):
    """Facts in about n tokens of filler, then the questions. `depths` (one a fact, 0..1) or at random."""
    tail = [(True, q + a) for q, a in questions]
    head = [(True, [(preamble, W_TEXT)])] if preamble else []
    room = n - sum(len(encode(t)) + 1 for x in head + tail + facts for t, _ in merge_blank(x[1])) - 4
    sentences = []
    for s in filler(r, kind):
        room -= len(encode(" " + s))
        if room < 0:
            break
        sentences.append((False, [(s, W_TEXT)]))
    at = [d * len(sentences) for d in depths] if depths else [r.random() * len(sentences) for _ in facts]
    for where, fact in sorted(zip(at, facts), key=lambda x: -x[0]):
        sentences.insert(round(where), fact)
    return join(head + sentences + tail)


# --- tokenizer: byte-level BPE -------------------------------------------------------------------


def byte_chars():
    """GPT-2's printable stand-ins for the 256 bytes."""
    keep = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in keep]
    return {b: chr(b) for b in keep} | {b: chr(256 + i) for i, b in enumerate(rest)}


BYTES = byte_chars()
# The ASCII part of GPT-2's pre-tokenizer; the grammar has no other characters.
SPLIT = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+")


def spell(word):
    return "".join(BYTES[b] for b in word.encode())


def may_merge(token):
    """Digits stay single, and so do capitals unless they begin a word: keys and numbers are then one token a symbol."""
    body = token.removeprefix(BYTES[32])
    if any(c.isdigit() for c in token) or any(c.isupper() for c in body[1:]):
        return False
    return not (len(body) == 1 and body.isupper() and token != body)


def train_bpe(seed=7):
    """Merges from the grammar's own text. Ties go to the smaller pair, so that any run gives the same list."""
    r = random.Random(seed)
    words = Counter()
    for _ in range(1500):
        d = join([(False, [(s, 1)]) for s in story(r)]) + [(" " + fact_sentence(r), 1) for _ in range(12)]
        d += [(" " + pick(r, GRASS + PREAMBLES), 1), *special(r, place_name(r))[1][0][:3], *passkey(r)[1][0], *code(r, "K", "V")[1][0]]
        d += [(t, 1) for q in CHAT_LINES for t in q] if r.random() < 0.3 else []
        d += [(UNKNOWN, 1)] if r.random() < 0.1 else []
        for text, _ in merge_blank([p for p in d if p[1] is not None]):
            words.update(SPLIT.findall(text))
            words.update(SPLIT.findall(text.lstrip(" ")))
    words.update({f" {w}": 40 for w in CITIES + NAMES})
    split = {w: tuple(spell(w)) for w in words}
    merges = []
    while len(SPECIALS) + 256 + len(merges) < VOCAB:
        counts = Counter()
        for w, c in words.items():
            for p in zip(split[w], split[w][1:]):
                counts[p] += c
        best = min((p for p in counts if may_merge(p[0] + p[1])), key=lambda p: (-counts[p], p))
        merges.append(best)
        for w, s in split.items():
            if best[0] in s:
                split[w] = apply(s, best)
    return merges


def apply(parts, pair_):
    out, i = [], 0
    while i < len(parts):
        if tuple(parts[i:i + 2]) == pair_:
            out.append(parts[i] + parts[i + 1])
            i += 2
        else:
            out.append(parts[i])
            i += 1
    return tuple(out)


CHAT_LINES = [tuple(line) for line in WORDS["chat"]]
UNKNOWN = WORDS["unknown"]

MERGES, RANK, IDS, TOKENS = [], {}, {}, []


def load_tokenizer(path):
    """Reads merges from `path`, or trains and writes them."""
    try:
        merges = [tuple(m) for m in json.load(open(path))]
    except FileNotFoundError:
        merges = train_bpe()
        json.dump(merges, open(path, "w"))
    MERGES[:] = merges
    RANK.update({m: i for i, m in enumerate(merges)})
    TOKENS[:] = SPECIALS + [BYTES[b] for b in range(256)] + [a + b for a, b in merges]
    IDS.update({t: i for i, t in enumerate(TOKENS)})
    assert len(IDS) == len(TOKENS) == VOCAB


@lru_cache(1 << 16)
def encode_word(word):
    parts = tuple(spell(word))
    while len(parts) > 1:
        best = min(zip(parts, parts[1:]), key=lambda p: RANK.get(p, 1 << 30))
        if best not in RANK:
            break
        parts = apply(parts, best)
    return [IDS[p] for p in parts]


def encode(text):
    if text in IDS and text.startswith("<|"):
        return [IDS[text]]
    return [i for w in SPLIT.findall(text) for i in encode_word(w)]


def encode_marked(text):
    """As `encode`, for a text with special tokens written out in it."""
    return [i for part in re.split("(" + "|".join(map(re.escape, SPECIALS)) + ")", text) if part for i in encode(part)]


def decode(ids):
    back = {c: b for b, c in BYTES.items()}
    return "".join(t if t in SPECIALS else bytes(back[c] for c in t).decode("utf-8", "replace") for t in (TOKENS[i] for i in ids))


def encode_pieces(pieces):
    ids, weights = [], []
    for text, w in pieces:
        e = encode(text)
        ids += e
        weights += [w] * len(e)
    return ids, weights


# --- rows ----------------------------------------------------------------------------------------


def mixed_haystack(r, n):
    facts, questions, left = [], [], int(n * r.uniform(0.05, 0.5))
    kinds = r.sample(["passkey", "special", "codes", "pairs"], pick(r, [1, 1, 1, 2, 2, 3]))
    for kind in kinds:
        share = left // len(kinds)
        if kind == "passkey":
            made = [passkey(r)]
        elif kind == "special":
            made = [special(r, w) for w in distinct(r, lambda: place_name(r), max(1, min(r.randint(1, 12), share // 40)))]
        else:
            made = (codes if kind == "codes" else pairs)(r, max(1, min(r.randint(1, 48), share // 30)))
        facts += [f for f, _ in made]
        questions += [q for _, q in made]
    r.shuffle(questions)
    return haystack(r, n, facts, questions[:max(1, left // 20)], preamble=pick(r, PREAMBLES) if r.random() < 0.4 else None)


def code_list(r, n):
    d = max(1, int(n * r.uniform(0.2, 1.0)) // 22)
    made = (codes if r.random() < 0.8 else pairs)(r, d)
    facts, questions = [f for f, _ in made], [q for _, q in made]
    r.shuffle(questions)
    return join(facts + [(True, q + a) for q, a in questions])


def told(r):
    """A story; at times after the start of some other sentence, so that any prompt ends in a story."""
    begin = []
    if r.random() < 0.35:
        words = pick(r, [babble, fact_sentence])(r)[:-1].split(" ")
        words = words[:r.randint(1, len(words))]
        begin = [(False, [(" ".join(words), W_KEY), (f" {pick(r, ADJS)}.", 0.3)])]
    return [(t, w or 0.3) for t, w in join(begin + [(False, [(x, 0)]) for x in story(r)])]


def repeat(r, n):
    """Something, and the same again. Random ids carry no text at all: attention is all that helps."""
    u, size = r.random(), r.randint(4, max(5, min(n // 2 - 8, 400)))
    if u < 0.4:
        return [r.randrange(len(SPECIALS), VOCAB) for _ in range(size)]
    if u < 0.7:
        return [(" " + symbols(r, r.randint(1, 6), LETTERS + "0123456789"), W_KEY) for _ in range(size // 5 + 1)]
    if u < 0.9:
        return [(" " + pick(r, pick(r, [NOUNS, ANIMALS, THINGS, PLACES, CITIES, NAMES, ADJS, FOODS])), W_KEY) for _ in range(size)]
    return [(" " + fact_sentence(r), W_TEXT) for _ in range(size // 12 + 1)]


def repeat_ids(r, n):
    once = repeat(r, n)
    if isinstance(once[0], int):
        ids, again, before, words = once, once, [], [0.0] * len(once)
    else:
        ids, words = encode_pieces(once)
        again, before = ids, encode("Copy:")
    out, w = list(before) + ids, [W_TEXT] * len(before) + words
    mark = encode("\nCopy:") if before else []
    for _ in range(r.randint(1, 3)):
        out += mark + again
        w += [W_TEXT] * len(mark) + [0.5] * len(again)
    return out[:n], w[:n]


def chat(r, n):
    pieces = []

    def turn(role, text):
        pieces.extend([(f"<|{role}|>", W_TEXT), ("\n", W_TEXT), *text, ("<|endoftext|>", 0.3), ("\n", W_TEXT)])

    if r.random() < 0.2:
        turn("system", [("You are a small model that remembers.", W_TEXT)])
    for _ in range(r.randint(1, 2)):
        u = r.random()
        if u < 0.35:
            a = pick(r, ANIMALS)
            ask = pick(r, [f"Tell me a story about a {a}.", f"Please tell me a story about a {a}.", f"Write a story about a {a}."])
            tale = story(r, a)
            if r.random() < 0.3:
                ask, tale = pick(r, ["Tell me a story.", "Please tell me a story.", "Write a short story."]), story(r)
            turn("user", [(ask, W_TEXT)])
            turn("assistant", [(t, 0.3) for t, _ in join([(False, [(s, 0)]) for s in tale])])
        elif u < 0.55:
            strange = [babble(r)[:-1] + "?", f"{pick(r, ['What', 'Where', 'How', 'Who', 'Why'])} {pick(r, ['is', 'are', 'was', 'do'])} {babble(r).lower()[:-1]}?"]
            q, a = pick(r, CHAT_LINES) if r.random() < 0.5 else (pick(r, strange), UNKNOWN)
            turn("user", [(q, W_TEXT)])
            turn("assistant", [(a, 0.3)])
        else:
            who = distinct(r, lambda: place_name(r), r.randint(1, 4))
            made = [passkey(r)] if r.random() < 0.5 else [special(r, w) for w in who]
            text = haystack(r, r.randint(40, max(50, min(n // 2, 900))), [f for f, _ in made], [])
            k = r.randrange(len(made))
            asked = " What is the pass key?" if made[k][1][0][0][0].endswith("pass key is") else f" What is the special number for {who[k]}?"
            said = made[k][0][1][:3] if asked.endswith("key?") else merge_blank(made[k][1][0])[-3:] + [(" " + made[k][1][1][0][0].strip(), 0), (".", 0)]
            said = [(t if i < len(said) - 1 else ".", W_ANSWER if re.search("[0-9]", t) else W_TEXT) for i, (t, _) in enumerate(said)]
            said[0] = (said[0][0].lstrip(), said[0][1])
            turn("user", text + [(asked, W_TEXT)])
            turn("assistant", said)
    return pieces[:-2]  # `row` ends the document


def row(seed, n):
    """One row of n + 1 ids and their weights. Short documents share a row, a long one has it alone."""
    r = random.Random(seed)
    ids, ws = [], []
    kind = r.choices(["haystack", "codes", "repeat", "stories", "chat"], [45, 20, 11, 14, 10])[0]
    while len(ids) < n + 1:
        room = n + 1 - len(ids)
        if room < 48:
            break
        room -= 2
        if kind in ("haystack", "codes"):
            # Mostly one document over the whole row; sometimes shorter ones.
            size = room if r.random() < 0.8 else r.randint(min(room, 64), room)
            i, w = encode_pieces(mixed_haystack(r, size) if kind == "haystack" else code_list(r, size))
        elif kind == "repeat":
            i, w = repeat_ids(r, room)
        elif kind == "stories":
            i, w = encode_pieces(told(r))
        else:
            i, w = encode_pieces(chat(r, room))
        ids += [BOS] + i + [EOS]
        ws += [0.0] + w + [W_TEXT]
    ids, ws = ids[:n + 1], ws[:n + 1]
    fill = n + 1 - len(ids)
    return ids + [PAD] * fill, ws + [0.0] * fill


def batch(seed, step, rows, n):
    """Arrays (rows, n + 1): ids in uint16, weights in float16. The same for the same arguments."""
    made = [row((seed * 1_000_003 + step) * 4096 + i, n) for i in range(rows)]
    return np.array([m[0] for m in made], np.uint16), np.array([m[1] for m in made], np.float16)


# --- test questions (seeds apart from training: strings, not integers) ---------------------------


def exam(task, n, depth, k, lines=16):
    """One test prompt of at most n tokens: (ids, positions of the answer's ids). Greedy decoding is right iff all are."""
    r = random.Random(f"exam/{task}/{n}/{depth}/{k}/{lines}")
    if task == "passkey":
        v = str(r.randint(10000, 50000))
        fact = (False, [(f"The pass key is {v}. Remember it. {v} is the pass key.", 0)])
        ask = [("What is the pass key? The pass key is", 0)], [(f" {v}", W_ANSWER)]
        pieces = haystack(r, n, [fact], [ask], "grass", [depth])
    elif task in ("needle", "babble"):
        who = distinct(r, lambda: place_name(r), 5)
        made = [special(r, w, number(r, 7, 7)) for w in who]
        q = [("What is the special number for", 0), (f" {who[0]}", 0), ("?", 0), (" The special number for", 0), (f" {who[0]}", 0), (" is", 0)]
        pieces = haystack(r, n, [f for f, _ in made], [(q, [(made[0][1][1][0][0], W_ANSWER)])], "facts" if task == "needle" else task, [depth] + [r.random() for _ in who[1:]])
    elif task == "codes":  # text MQAR: the lines, filler up to n, then every question once
        made = [code(r, key, number(r, 2, 2)) for key in distinct(r, lambda: symbols(r, 4), lines)]
        questions = [q for _, q in made]
        r.shuffle(questions)
        pieces = haystack(r, n, [f for f, _ in made], questions, "facts", [0.0] * lines)
    else:  # copy
        once = [" " + symbols(r, 4) for _ in range(max(4, (n - 8) // 10))]
        pieces = [("Copy:", 0)] + [(t, 0) for t in once] + [("\nCopy:", 0)] + [(t, W_ANSWER) for t in once]
    ids, w = encode_pieces(pieces)
    ids, w = [BOS] + ids, [0] + w
    return ids, [i for i, x in enumerate(w) if x == W_ANSWER]


def check(seeds=200):
    """Pieces encoded alone give the ids of the joined text; every row has its length."""
    for s in range(seeds):
        r = random.Random(s)
        for pieces in (mixed_haystack(r, 300), code_list(r, 300), chat(r, 300), told(r)):
            text = "".join(t for t, _ in pieces)
            assert encode_pieces(pieces)[0] == encode_marked(text), text
            assert decode(encode_pieces(pieces)[0]) == text
        assert {len(x) for x in row(s, 256)} == {257}
