"""Makes tests/fixtures/parquet: small tables as data sets are published, and the same rows as JSON lines.

    python tests/scripts/make_parquet.py           (pip install pyarrow)

The lines are what pyarrow reads from the tables it wrote, so that they are an answer of its own. What is null within a row is left
out of them: a table cannot tell it from what is not there.
"""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

HERE = Path(__file__).parent.parent / "fixtures" / "parquet"

CALL = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
TOOL = {"type": "function", "function": {"name": "add", "description": "Adds."}}


def turn(role, content, **more):
    return {"role": role, "content": content, "name": None, "tool_calls": None, **more}


CHATS = [
    {
        "messages": [turn("user", f"Où? {i} 日本"), turn("assistant", f"Là {i}." * (1 + i % 3))],
        "id": i,
        "image": b"\xff\xd8\x00",
        "scores": [0.5, None],
        "tools": None,
    }
    for i in range(40)
] + [
    {
        "messages": [
            turn("user", "Add.", name="Bo"),
            turn("assistant", None, tool_calls=[CALL]),
            turn("tool", "2"),
            turn("assistant", "It is 2."),
        ],
        "id": None,
        "image": None,
        "scores": None,
        "tools": json.dumps([TOOL]),
    }
]
PAIRS = [{"prompt": f"What is {i}?", "completion": f"A number {i}.", "system": "Be brief." if i % 2 else None} for i in range(30)]
TEXTS = [{"text": f"Line {i} of a text. " * 5} for i in range(200)]
TALKS = [
    {"conversations": [{"from": "human", "value": f"Hi {i}"}, {"from": "gpt", "value": "Yes"}], "system": "s"}
    for i in range(20)
]
PARTS = [{"messages": json.dumps([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}])}] * 3
MAPS = [{"instruction": "a", "input": "b", "output": "c", "history": [["d", "e"], ["f", "g"]]}] * 2


def bare(value):
    """A value without what is null within it, but for what is said."""
    if isinstance(value, dict):
        return {k: bare(v) for k, v in value.items() if v is not None or k in ("content", "value")}
    return [bare(v) for v in value] if isinstance(value, list) else value


def write(name, rows, **how):
    path = HERE / f"{name}.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path, **how)
    with open(HERE / f"{name}.jsonl", "w") as out:
        for row in pq.read_table(path).to_pylist():
            row = {k: bare(v) for k, v in row.items()}
            if isinstance(row.get("image"), bytes):
                row["image"] = "bytes"
            if name == "texts-as-json":
                row["messages"] = json.loads(row["messages"])
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
    print(path.name, path.stat().st_size)


def main():
    HERE.mkdir(exist_ok=True)
    write("chats-snappy", CHATS, row_group_size=16)
    write("chats-zstd", CHATS, compression="zstd", data_page_version="2.0")
    write("pairs-gzip", PAIRS, compression="gzip")
    write("texts-lz4", TEXTS, compression="lz4", use_dictionary=False, data_page_size=512, row_group_size=64)
    write("talks-none", TALKS, compression="none", column_encoding=None)
    write("texts-as-json", PARTS)
    write("history", MAPS, store_schema=False)


if __name__ == "__main__":
    main()
