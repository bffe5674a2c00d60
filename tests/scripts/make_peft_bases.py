"""Adapters of what is outside the layers, of linears that a model keeps as one, and in names as they are found.

    python tests/scripts/make_peft_bases.py           (pip install torch transformers peft safetensors)

Writes ../fixtures/adapters/peft_bases/: a folder each, as PEFT saves it or renamed as said below, and logits.json with the base of
fixtures/arch that it is for and PEFT's logits over it, computed in float64.
"""

import json
import os
import shutil
import tempfile

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.path.join(HERE, "../fixtures/adapters/peft_bases")
ARCH = os.path.join(HERE, "../fixtures/arch")
TOKENS = [(i * i * 5 + 3 * i + 1) % 48 for i in range(20)]
POSITIONS = [0, 1, 10, 19]

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
VARIANTS = {
    "embedding": ("llama", dict(target_modules=["embed_tokens", "q_proj"])),
    "head": ("llama", dict(target_modules=["lm_head", "v_proj"], rank_pattern={"lm_head": 5})),
    "outside": ("llama", dict(target_modules=["lm_head", "embed_tokens"], use_rslora=True)),
    "tied-embedding": ("gemma3", dict(target_modules=["embed_tokens", "down_proj"])),
    "tied-head": ("gemma3", dict(target_modules=["lm_head", "k_proj"])),
    "factors": ("granite", dict(target_modules=["lm_head", "embed_tokens", "o_proj"])),
    "fused": ("phi3", dict(target_modules=["qkv_proj", "o_proj", "gate_up_proj", "down_proj"], alpha_pattern={"gate_up_proj": 5})),
    "fused-dora": ("phi3", dict(target_modules=["qkv_proj", "gate_up_proj"], use_dora=True, layers_to_transform=[0])),
    "dora": ("llama", dict(target_modules=["q_proj", "v_proj", "down_proj"], use_dora=True)),
    "every-linear": ("qwen2", dict(target_modules=ALL)),
    "inner": ("llama", dict(target_modules=["q_proj", "up_proj"])),
    "deeper": ("llama", dict(target_modules=["q_proj", "up_proj"], alpha_pattern={"layers.1.mlp.up_proj": 3})),
    "bare": ("llama", dict(target_modules=["k_proj", "lm_head"])),
}  # fmt: skip


def magnitudes(name):
    """PEFT's own key, those of older states, and none: PEFT then has the base's own lengths."""
    if "lora_magnitude_vector" not in name or "layers.0.self_attn.q_proj" in name:
        return name
    if "layers.1" in name:
        return name + (".default.weight" if "q_proj" in name else ".weight")
    return None


RENAMED = {
    "dora": magnitudes,
    "inner": lambda name: name.replace("base_model.model.model.", "base_model.model."),
    "deeper": lambda name: name.replace("base_model.model.model.", "base_model.model.model.model."),
    "bare": lambda name: name.replace("base_model.model.", "").replace("layers.0.", "layers.0._orig_mod."),
}


def base(arch):
    return AutoModelForCausalLM.from_pretrained(os.path.join(ARCH, arch), dtype=torch.float64).eval()


def logits(model):
    with torch.no_grad():
        return model(torch.tensor([TOKENS])).logits[0, POSITIONS]


def rename(folder, to):
    path = os.path.join(folder, "adapter_model.safetensors")
    tensors = {to(name): t for name, t in load_file(path).items() if to(name)}
    save_file(tensors, path, metadata={"format": "pt"})


def one(name, arch, more):
    config = LoraConfig(**(dict(r=3, lora_alpha=8, task_type="CAUSAL_LM", base_model_name_or_path=arch) | more))
    model = get_peft_model(base(arch), config).eval()
    with torch.no_grad():
        for part, p in model.named_parameters():
            if "lora_magnitude_vector" in part:
                p.copy_(p * (1 + 0.3 * torch.rand(p.shape)).to(p.dtype))
            elif "lora_" in part:
                p.copy_((0.15 * torch.randn(p.shape)).float().to(p.dtype))
    folder = os.path.join(OUT, name)
    model.float().save_pretrained(folder)
    os.remove(os.path.join(folder, "README.md"))
    path = os.path.join(folder, "adapter_config.json")
    with open(path) as f:
        said = json.load(f) | {"base_model_name_or_path": arch}
    said["target_modules"] = sorted(said["target_modules"])
    with open(path, "w") as f:
        json.dump(said, f, indent=1)
    with tempfile.TemporaryDirectory() as whole:
        # What PEFT reads: names of magnitudes are its matter, the others are not read by it.
        shutil.copytree(folder, whole, dirs_exist_ok=True)
        if name == "dora":
            rename(whole, magnitudes)
        found = logits(PeftModel.from_pretrained(base(arch), whole).double().eval())
    if name in RENAMED:
        rename(folder, RENAMED[name])
    os.chmod(os.path.join(folder, "adapter_model.safetensors"), 0o644)
    return found


def apart(arch):
    """Factors of each linear of a model that keeps some as one, by a formula, added to the weights: the logits of what we write for it."""
    model, n = base(arch), 0
    wave = lambda size, rows, cols, at: size * torch.sin(0.7 * torch.arange(rows * cols, dtype=torch.float64) + 1.3 * at).reshape(rows, cols)
    c = model.config
    dim = c.hidden_size // c.num_attention_heads
    q, kv, ff = c.num_attention_heads * dim, c.num_key_value_heads * dim, c.intermediate_size
    with torch.no_grad():
        for layer in model.model.layers:
            qkv, gate_up = layer.self_attn.qkv_proj.weight, layer.mlp.gate_up_proj.weight
            cut = [*qkv.split([q, kv, kv]), layer.self_attn.o_proj.weight, *gate_up.split([ff, ff]), layer.mlp.down_proj.weight]
            for w in cut:
                w += 2 * wave(0.2, w.shape[0], 2, 70 + n).float().double() @ wave(0.2, 2, w.shape[1], 40 + n).float().double()
                n += 1
    return logits(model)


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    torch.manual_seed(12)
    cut = lambda rows: [[float(f"{v:.7g}") for v in row] for row in rows.tolist()]
    result = {"tokens": TOKENS, "positions": POSITIONS, "of": {}}
    for name, (arch, more) in VARIANTS.items():
        found = one(name, arch, more)
        print(f"{name:20} over {arch} changes {(found - logits(base(arch))).abs().max().item():.3f}")
        result["of"][name] = {"base": arch, "logits": cut(found)}
    result["apart"] = {"base": "phi3", "logits": cut(apart("phi3"))}
    with open(os.path.join(OUT, "logits.json"), "w") as f:
        json.dump(result, f)
        f.write("\n")


if __name__ == "__main__":
    main()
