"""Makes tests/fixtures/templates/{rendered,answers}.json: chat templates rendered by transformers' own environment.

    python tests/scripts/make_templates.py           (pip install transformers jinja2)

The templates (`*.jinja`) lie beside it as their models publish them; sources.json names for each the model, the public repository
that it was taken from, and the special tokens of that model's tokenizer. The conversations are ours, and so are the templates of
expressions.json, one for each thing that Jinja2 and Python do: answers.json has what they give, in the same order. The clock stands
still.
"""

import datetime
import json
from pathlib import Path

import transformers.utils.chat_template_utils as hf

HERE = Path(__file__).parent.parent / "fixtures" / "templates"
NOW = datetime.datetime(2024, 2, 9, 8, 7, 6)

CHATS = {
    "one": [("user", "Hi")],
    "system": [("system", "Be brief."), ("user", "Où? 日本 \"q\" & <b>'s</b>")],
    "turns": [
        ("system", "Be\nbrief.\n"),
        ("user", "  2+2? \r\n Say why. "),
        ("assistant", "<think>\nadd\n</think>\n\nIt is 4.\n"),
        ("user", "Sure? 👍🏽"),
    ],
    "answered": [("user", "Hi"), ("assistant", " Hello! "), ("user", "Bye"), ("assistant", "Tschüß\n")],
    "empty": [("user", "")],
    "assistant first": [("assistant", "I go first"), ("user", "a")],
    "twice": [("user", "a"), ("user", "b")],
    "unknown role": [("user", "a"), ("narrator", "b")],
    "none": [],
}


SPOKEN = [
    ("system", "Be brief."),
    ("user", "Hi <b>café</b> & 'you'"),
    ("assistant", "<think>\nhm\n</think>\n\nHello"),
    ("user", "  Bye\n"),
]
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}


class Still(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return NOW


def expressions():
    answers = []
    messages = [{"role": r, "content": c} for r, c in SPOKEN]
    for source in json.loads((HERE / "expressions.json").read_text()):
        try:
            (text,), _ = hf.render_jinja_template(
                [messages], chat_template=source, add_generation_prompt=True, **SPECIAL
            )
            answers.append({"text": text})
        except Exception as e:
            answers.append({"error": f"{type(e).__name__}: {e}"})
    head = json.dumps({"messages": messages, "special": SPECIAL}, ensure_ascii=False)[:-1]
    lines = ",\n".join(json.dumps(a, ensure_ascii=False) for a in answers)
    (HERE / "answers.json").write_text(f'{head}, "answers": [\n{lines}\n]}}\n')
    print(len(answers), "expressions,", sum("error" in a for a in answers), "errors")


def main():
    hf.datetime = Still
    expressions()
    sources = json.loads((HERE / "sources.json").read_text())
    rows = []
    for name, about in sources.items():
        source = (HERE / f"{name}.jinja").read_bytes().decode()
        for chat, turns in CHATS.items():
            messages = [{"role": r, "content": c} for r, c in turns]
            for add in (False, True):
                row = {"template": name, "chat": chat, "add": add}
                try:
                    (row["text"],), _ = hf.render_jinja_template(
                        [messages], chat_template=source, add_generation_prompt=add, **about["special"]
                    )
                except Exception as e:
                    row["error"] = str(e)
                rows.append(row)
    chats = {k: [{"role": r, "content": c} for r, c in v] for k, v in CHATS.items()}
    lines = ",\n".join(json.dumps(r, ensure_ascii=False) for r in rows)
    head = json.dumps({"now": NOW.isoformat(), "chats": chats}, ensure_ascii=False)[:-1]
    (HERE / "rendered.json").write_text(f'{head}, "rows": [\n{lines}\n]}}\n')
    print(len(sources), "templates,", len(rows), "rows,", sum("error" in r for r in rows), "errors")


if __name__ == "__main__":
    main()
