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


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Tells the weather; \"now\" or <later>.",
            "parameters": {
                "type": "object",
                "properties": {
                    "place": {"type": "string", "description": "Où"},
                    "unit": {"type": "string", "enum": ["C", "F"]},
                    "days": {"type": "integer"},
                },
                "required": ["place"],
            },
        },
    },
    {"type": "function", "function": {"name": "now", "description": "The time.", "parameters": {"type": "object", "properties": {}}}},
]
# Messages with more than a role and a text, whose keys stand in another order, and what may be called.
FULL = {
    "calls": (
        [
            {"content": "Be brief.", "role": "system"},
            {"role": "user", "content": "Rain in Łódź?", "name": "Bo"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [
                    {
                        "type": "function",
                        "id": "call00001",
                        "function": {"name": "weather", "arguments": {"place": "Łódź", "days": 2, "exact": True}},
                    }
                ],
            },
            {"role": "tool", "name": "weather", "tool_call_id": "call00001", "content": "{\"rain\": 0.5}"},
            {"role": "assistant", "reasoning_content": "It may.", "content": "Perhaps."},
            {"role": "user", "content": "Thanks"},
        ],
        TOOLS,
    ),
    "silent call": (
        [
            {"role": "user", "content": "Time?"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "call00002", "type": "function", "function": {"name": "now", "arguments": {}}}],
            },
            {"role": "tool", "tool_call_id": "call00002", "content": "noon"},
        ],
        TOOLS[1:],
    ),
    "tools alone": ([{"role": "user", "content": "Hi"}], TOOLS),
    "parts": (
        [
            {"role": "user", "content": [{"type": "text", "text": "What is "}, {"type": "text", "text": "this?"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "A text."}]},
        ],
        None,
    ),
    "older name": (
        [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4", "thinking": "add"}],
        None,
    ),
    "thought": (
        [
            {"role": "user", "content": "2+2?"},
            {"role": "assistant", "thinking": "add", "reasoning_content": "add", "content": "4"},
            {"role": "user", "content": "Sure?"},
        ],
        None,
    ),
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
        for chat, (messages, tools) in FULL.items():
            row = {"template": name, "chat": chat, "add": True}
            try:
                (row["text"],), _ = hf.render_jinja_template(
                    [messages], tools=tools, chat_template=source, add_generation_prompt=True, **about["special"]
                )
            except Exception as e:
                row["error"] = str(e)
            rows.append(row)
    chats = {k: [{"role": r, "content": c} for r, c in v] for k, v in CHATS.items()}
    chats |= {k: messages for k, (messages, _) in FULL.items()}
    tools = {k: tools for k, (_, tools) in FULL.items() if tools}
    lines = ",\n".join(json.dumps(r, ensure_ascii=False) for r in rows)
    head = json.dumps({"now": NOW.isoformat(), "chats": chats, "tools": tools}, ensure_ascii=False)[:-1]
    (HERE / "rendered.json").write_text(f'{head}, "rows": [\n{lines}\n]}}\n')
    print(len(sources), "templates,", len(rows), "rows,", sum("error" in r for r in rows), "errors")


if __name__ == "__main__":
    main()
