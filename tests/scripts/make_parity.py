"""Makes tests/fixtures/parity/: what llama.cpp computes for one text, to hold our forward pass against.

    python tests/scripts/make_parity.py SmolLM2-135M-Instruct.Q4_1.gguf

Four models: {Q4_1 as it is, its F32 expansion} x {f32, f16 cache}, flash attention off. For each, the prefill logits of every
position are kept as their log-sum-exp; of two also the top logits (256 for F32 with an f32 cache, 128 for Q4_1 with the usual
f16 cache), and of the first three positions in full. KL over the top tokens and one bucket for all others is a lower bound of the
true KL (merging outcomes cannot raise it); `smollm2.json` holds llama.cpp's own prefill-against-decode figures over the full
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
POSITIONS = 264
TOP = {"f32.f32": 256, "q4_1.f16": 128}
FULL = [0, 100, 263]


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


def main(path):
    OUT.mkdir(parents=True, exist_ok=True)
    f32_path = os.environ.get("ULLAGE_F32_GGUF") or str(Path(tempfile.gettempdir()) / "smollm2-f32.gguf")
    if not Path(f32_path).exists():
        expand(path, f32_path)
    tensors, prefills, report = {}, {}, {"text": ALICE, "model": Path(path).name, "full_positions": FULL, "self": {}, "across": {}}
    for weights, file in (("q4_1", path), ("f32", f32_path)):
        model = Model(file)
        tokens = model.tokenize(ALICE)[:POSITIONS]
        report["tokens"] = tokens
        for cache, kind in (("f32", F32), ("f16", F16)):
            name = f"{weights}.{cache}"
            once, stepped = prefill(model, tokens, kind), decode(model, tokens, kind)
            prefills[name] = once
            report["self"][name] = figures(once, stepped)
            row_max = once.max(axis=-1, keepdims=True).astype(np.float64)
            tensors[f"{name}.lse"] = row_max[:, 0] + np.log(np.exp(once.astype(np.float64) - row_max).sum(axis=-1))
            if name in TOP:
                # Largest first. f32, since f16 keeps a logit to 1e-2 only.
                ids = np.argsort(-once, axis=-1, kind="stable")[:, : TOP[name]]
                tensors[f"{name}.top_ids"] = ids.astype(np.uint16)
                tensors[f"{name}.top_logits"] = np.take_along_axis(once, ids, axis=-1)
            if name == "f32.f32":
                tensors[f"{name}.full"] = once[FULL]
            print(name, json.dumps(report["self"][name]), flush=True)
        model.close()
    for a, b in (("q4_1.f32", "q4_1.f16"), ("f32.f32", "f32.f16"), ("f32.f32", "q4_1.f32"), ("f32.f32", "q4_1.f16")):
        report["across"][f"{a} | {b}"] = figures(prefills[a], prefills[b])
        print(a, b, json.dumps(report["across"][f"{a} | {b}"]), flush=True)
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, OUT / "smollm2.safetensors")
    (OUT / "smollm2.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
