"""LoRA by PEFT and by llama.cpp, for the tests of train.params = lora and of running such adapters.

Writes ../fixtures/adapters/lora.json, the folder ../fixtures/adapters/lora that PEFT saves, and ../fixtures/adapters/lora.gguf:
- `train`: the small llama of make_dora.py under PEFT's LoRA in float64: losses, gradients of the first step, and what five
  steps of AdamW make of A and B. Values follow formulas that the test repeats.
- `infer`: the tiny random llama of fixtures/arch with a random adapter of every linear: logits of PEFT in float64, and those of
  llama.cpp over the same weights in f32 with the same adapter as GGUF. What is written here comes from gguf-py, not from Ullage.
Needs: pip install torch transformers peft gguf safetensors numpy llama-cpp-python
"""

import ctypes
import json
import os
import shutil
import tempfile

import gguf
import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM

from make_dora import MODULES, NAMES, OUT, TARGETS, train

BASE = os.path.join(OUT, "../arch/llama")
RANK, ALPHA = 3, 12
TOKENS = [(i * i * 5 + 3 * i + 1) % 48 for i in range(20)]
POSITIONS = [0, 1, 10, 19]


def peft():
    """Logits without and with the adapter, which is saved."""
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(5)
    base = lambda: AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float64).eval()
    logits = lambda model: model(torch.tensor([TOKENS])).logits[0, POSITIONS].detach()
    plain = logits(base())
    config = LoraConfig(
        r=RANK, lora_alpha=ALPHA, target_modules=TARGETS, task_type="CAUSAL_LM", base_model_name_or_path="llama"
    )
    model = get_peft_model(base(), config).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_" in name:
                # Numbers that f32 has, so that float64 computes with what is saved.
                p.copy_((0.15 * torch.randn_like(p)).float().double())
    adapted = logits(model)
    folder = os.path.join(OUT, "lora")
    shutil.rmtree(folder, ignore_errors=True)
    model.float().save_pretrained(folder)
    os.remove(os.path.join(folder, "README.md"))
    # The base's name, and not where it lay.
    path = os.path.join(folder, "adapter_config.json")
    with open(path) as f:
        said = json.load(f) | {"base_model_name_or_path": "llama", "target_modules": sorted(TARGETS)}
    with open(path, "w") as f:
        json.dump(said, f, indent=2, sort_keys=True)
    os.chmod(os.path.join(folder, "adapter_model.safetensors"), 0o644)
    return plain, adapted


def turned(rows, heads):
    """Rows of q or k as GGUF has them: the two halves of each head interleaved."""
    return rows.reshape(heads, 2, -1, rows.shape[-1]).swapaxes(1, 2).reshape(rows.shape)


def write_gguf():
    weights = load_file(os.path.join(OUT, "lora/adapter_model.safetensors"))
    out = gguf.GGUFWriter(os.path.join(OUT, "lora.gguf"), "llama")
    out.add_type("adapter")
    out.add_string("adapter.type", "lora")
    out.add_float32("adapter.lora.alpha", float(ALPHA))
    for layer in range(2):
        for module, name in zip(MODULES, NAMES):
            at = f"base_model.model.model.layers.{layer}.{module}"
            a, b = (weights[f"{at}.lora_{side}.weight"].astype(np.float32) for side in "AB")
            b = turned(b, 4) if name == "attn_q" else turned(b, 2) if name == "attn_k" else b
            out.add_tensor(f"blk.{layer}.{name}.weight.lora_a", np.ascontiguousarray(a))
            out.add_tensor(f"blk.{layer}.{name}.weight.lora_b", np.ascontiguousarray(b))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def in_f32(path):
    """The base with every tensor in f32, so that llama.cpp rounds no activations to f16."""
    reader = gguf.GGUFReader(os.path.join(BASE, "model.gguf"))
    out = gguf.GGUFWriter(path, "llama")
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        kind = field.types[0]
        out.add_key_value(name, field.contents(), kind, field.types[1] if kind == gguf.GGUFValueType.ARRAY else None)
    for t in reader.tensors:
        out.add_tensor(t.name, gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float32))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def llama():
    import llama_cpp as C
    from llama import F32, Model

    with tempfile.TemporaryDirectory() as work:
        path = os.path.join(work, "base.gguf")
        in_f32(path)
        model = Model(path)
        adapter = C.llama_adapter_lora_init(model.handle, os.path.join(OUT, "lora.gguf").encode())
        assert adapter, "llama.cpp cannot load lora.gguf"
        context = model.context(len(TOKENS) + 8, F32)
        handles, scales = (C.llama_adapter_lora_p_ctypes * 1)(adapter), (ctypes.c_float * 1)(1.0)
        assert C.llama_set_adapters_lora(context.handle, handles, 1, scales) == 0
        logits = context.eval(TOKENS, 0, "all")[POSITIONS]
        context.close()
        model.close()
    return logits


def infer():
    plain, adapted = peft()
    write_gguf()
    theirs = llama()
    print("PEFT and llama.cpp apart:", np.abs(theirs - adapted.numpy()).max(), "of", adapted.abs().max().item())
    print("what the adapter changes:", (adapted - plain).abs().max().item())
    cut = lambda rows: [[float(f"{v:.7g}") for v in row] for row in rows.tolist()]
    return {
        "tokens": TOKENS, "positions": POSITIONS, "plain": cut(plain), "peft": cut(adapted), "llama_cpp": cut(theirs),
    }  # fmt: skip


if __name__ == "__main__":
    os.makedirs(OUT, exist_ok=True)
    result = {"train": train(use_dora=False), "infer": infer()}
    with open(os.path.join(OUT, "lora.json"), "w") as f:
        json.dump(result, f)
        f.write("\n")
