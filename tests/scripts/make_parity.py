"""Makes tests/fixtures/parity/: what llama.cpp computes for one text, to hold our forward pass against.

    python tests/scripts/make_parity.py SmolLM2-135M-Instruct.Q4_1.gguf [gemma3-270m-Q4_K_M.gguf]

Four models: {the file as it is, its F32 expansion} x {f32, f16 cache}, flash attention off. For each, the prefill logits of
every position are kept as their log-sum-exp; of two also the top logits (of SmolLM2 256 for F32 with an f32 cache, 128 for the
file with the usual f16 cache), and of three positions in full. Of Gemma 3 only stretches are kept: the beginning, and one beyond
the window of its local layers; with them go llama.cpp's greedy tokens. KL over the top tokens and one bucket for all others is a lower bound of the
true KL (merging outcomes cannot raise it); `NAME.json` holds llama.cpp's own prefill-against-decode figures over the full
distributions, from this same run, and parity.py compares in full.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

import gguf
import numpy as np
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize
from safetensors.numpy import save_file

from llama import F16, F32, Model, decode, kl, prefill, top1
from text import ALICE

OUT = Path(__file__).parent.parent / "fixtures" / "parity"
PLAIN = Path(__file__).parent.parent.parent / "assets" / "text" / "plain.txt"


class Smollm2:
    name, text, positions = "smollm2", ALICE, 264
    top = {"f32.f32": 256, "file.f16": 128}
    full, kept, ids, greedy = [0, 100, 263], None, np.uint16, 0
    label = "q4_1"


class Gemma3:
    name, positions = "gemma3", 640
    text = PLAIN.read_text()
    top = {"f32.f32": 64, "file.f16": 64}
    # The window is 512 tokens: the second stretch lies wholly beyond it.
    full, kept, ids, greedy = [], [range(0, 64), range(576, 640)], np.uint32, 48
    label = "q4_k_m"


def expand(source, target):
    """Writes the same model with every tensor in f32."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, reader.get_field("general.architecture").contents())
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
            continue
        kind = field.types[0]
        sub = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), kind, sub_type=sub)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    for tensor in reader.tensors:
        data = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        data = data.reshape([int(n) for n in tensor.shape[::-1]])
        writer.add_tensor(tensor.name, data, raw_dtype=GGMLQuantizationType.F32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def figures(reference, other):
    d = kl(reference, other)
    return {
        "kl_mean": float(d.mean()),
        "kl_p99": float(np.quantile(d, 0.99)),
        "kl_max": float(d.max()),
        "top1": top1(reference, other),
        "max_abs_logit": float(np.abs(reference - other).max()),
    }


def stretches(model, tokens, kept, kind, whole):
    """Logits of the stretches `kept`, what lies before each read at once; the stretch itself at once or token by token."""
    context = model.context(len(tokens) + 8, kind)
    out, at = [], 0
    for stretch in kept:
        if stretch.start > at:
            context.eval(tokens[at : stretch.start], at)
        if whole:
            out.append(context.eval(tokens[stretch.start : stretch.stop], stretch.start, "all"))
        else:
            out += [context.eval([tokens[i]], i, "last") for i in stretch]
        at = stretch.stop
    context.close()
    return np.concatenate(out)


def greedy(model, tokens, count):
    """The most likely tokens after `tokens`, one by one."""
    context = model.context(len(tokens) + count + 8, F16)
    row, out = context.eval(tokens, 0, "last")[0], []
    for i in range(count):
        out.append(int(row.argmax()))
        row = context.eval([out[-1]], len(tokens) + i, "last")[0]
    context.close()
    return out


def main(path, of):
    OUT.mkdir(parents=True, exist_ok=True)
    f32_path = os.environ.get("ULLAGE_F32_GGUF") or str(Path(tempfile.gettempdir()) / f"{of.name}-f32.gguf")
    if not Path(f32_path).exists():
        expand(path, f32_path)
    text = of.text
    tensors, prefills, report = {}, {}, {"text": text, "model": Path(path).name, "full_positions": of.full, "self": {}, "across": {}}
    for weights, file in ((of.label, path), ("f32", f32_path)):
        model = Model(file)
        # As an evaluation reads a text: with the token that begins one, where the model has it.
        tokens = model.tokenize(text, add_special=True)[: of.positions]
        report["tokens"] = tokens
        if of.kept is not None:
            report["positions"] = [i for r in of.kept for i in r]
        for cache, kind in (("f32", F32), ("f16", F16)):
            name = f"{weights}.{cache}"
            if of.kept is None:
                once, stepped = prefill(model, tokens, kind), decode(model, tokens, kind)
            else:
                once, stepped = (stretches(model, tokens, of.kept, kind, whole) for whole in (True, False))
            prefills[name] = once
            report["self"][name] = figures(once, stepped)
            row_max = once.max(axis=-1, keepdims=True).astype(np.float64)
            tensors[f"{name}.lse"] = row_max[:, 0] + np.log(np.exp(once.astype(np.float64) - row_max).sum(axis=-1))
            if top := of.top.get(name.replace(of.label, "file")):
                # Largest first. f32, since f16 keeps a logit to 1e-2 only.
                ids = np.argsort(-once, axis=-1, kind="stable")[:, :top]
                tensors[f"{name}.top_ids"] = ids.astype(of.ids)
                tensors[f"{name}.top_logits"] = np.take_along_axis(once, ids, axis=-1)
            if name == "f32.f32" and of.full:
                tensors[f"{name}.full"] = once[of.full]
            print(name, json.dumps(report["self"][name]), flush=True)
        if of.greedy:
            report.setdefault("greedy", {})[weights] = greedy(model, tokens[:64], of.greedy)
        model.close()
    own = of.label
    for a, b in ((f"{own}.f32", f"{own}.f16"), ("f32.f32", "f32.f16"), ("f32.f32", f"{own}.f32"), ("f32.f32", f"{own}.f16")):
        report["across"][f"{a} | {b}"] = figures(prefills[a], prefills[b])
        print(a, b, json.dumps(report["across"][f"{a} | {b}"]), flush=True)
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, OUT / f"{of.name}.safetensors")
    (OUT / f"{of.name}.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    for path in sys.argv[1:]:
        main(path, Gemma3 if "gemma" in Path(path).name else Smollm2)
