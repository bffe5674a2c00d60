"""DoRA by PEFT, for the tests of train.params = dora and of running and merging such adapters.

Writes ../fixtures/adapters/dora.json and the folder ../fixtures/adapters/dora, which PEFT itself saves:
- `train`: the small llama of make_train.py under PEFT's DoRA in float64: losses, gradients of the first step, and what
  five steps of AdamW make of A, B and the magnitudes. Values follow formulas that the test repeats.
- `logits`: the bundled model with the saved adapter, in float32.
Needs: pip install torch transformers peft gguf safetensors
"""

import json
import math
import os
import shutil

import gguf
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.path.join(HERE, "../fixtures/adapters")
KEEP = 4
MODULES = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
MODULES += ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
NAMES = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]
TARGETS = [m.split(".")[1] for m in MODULES]


def wave(k, shape, size, norm=False):
    values = torch.sin(0.7 * torch.arange(math.prod(shape), dtype=torch.float64) + 1.3 * k)
    values = 1 + 0.1 * values if norm else size * values
    return values.to(torch.float32).to(torch.float64).reshape(shape)


def some(t):
    flat = t.detach().double().reshape(-1)
    every = max(1, len(flat) // KEEP)
    return {"norm": flat.norm().item(), "some": [float(f"{v:.9g}") for v in flat[::every].tolist()]}


def train(use_dora):
    torch.set_default_dtype(torch.float64)
    config = LlamaConfig(
        hidden_size=64, intermediate_size=96, vocab_size=77, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
        num_hidden_layers=3, rms_norm_eps=1e-5, tie_word_embeddings=True, max_position_embeddings=128,
        attn_implementation="eager",
    )  # fmt: skip
    model = LlamaForCausalLM(config).double()
    base = dict(model.named_parameters())
    order = ["model.embed_tokens.weight"]
    for layer in range(3):
        at = f"model.layers.{layer}."
        order += [at + "input_layernorm.weight"] + [at + m + ".weight" for m in MODULES[:4]]
        order += [at + "post_attention_layernorm.weight"] + [at + m + ".weight" for m in MODULES[4:]]
    order.append("model.norm.weight")
    assert sorted(order) == sorted(base)
    with torch.no_grad():
        for k, name in enumerate(order):
            base[name].copy_(wave(k, base[name].shape, 0.12, "norm" in name))
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS, use_dora=use_dora, task_type="CAUSAL_LM")
    model = get_peft_model(model, lora)
    # By the names that the test knows: B is not zero, or A would have no gradient; magnitudes stay as PEFT begins them.
    params = {}
    for layer in range(3):
        for i, (module, name) in enumerate(zip(MODULES, NAMES)):
            linear = model.get_submodule(f"base_model.model.model.layers.{layer}.{module}")
            k = 40 + 7 * layer + i
            parts = {"lora_a": linear.lora_A["default"].weight, "lora_b": linear.lora_B["default"].weight}
            if use_dora:
                parts["lora_magnitude"] = linear.lora_magnitude_vector["default"].weight
            with torch.no_grad():
                parts["lora_a"].copy_(wave(k, parts["lora_a"].shape, 0.1))
                parts["lora_b"].copy_(wave(k + 30, parts["lora_b"].shape, 0.05))
            for part, p in parts.items():
                params[f"blk.{layer}.{name}.weight.{part}"] = p
    begin = {name: some(p) for name, p in params.items() if "magnitude" in name}
    adamw = torch.optim.AdamW(params.values(), lr=0.002, betas=(0.9, 0.99), eps=1e-3, weight_decay=0.0)
    losses, norms, gradients = [], [], None
    for step in range(1, 6):
        tokens = [(i * i * 7 + 3 * i + 11 * step) % 77 for i in range(60)]
        targets = [-100 if i % 20 == 19 or i % 7 == 3 else tokens[i + 1] for i in range(60)]
        adamw.zero_grad()
        logits = model(input_ids=torch.tensor(tokens).reshape(3, 20)).logits
        loss = torch.nn.functional.cross_entropy(logits.reshape(-1, 77), torch.tensor(targets), ignore_index=-100)
        loss.backward()
        if step == 1:
            gradients = {name: some(p.grad) for name, p in params.items()}
        losses.append(loss.item())
        norms.append(torch.nn.utils.clip_grad_norm_(params.values(), 0.5).item())
        adamw.step()
    return {
        "losses": losses, "norms": norms, "begin": begin, "gradients": gradients,
        "weights": {name: some(p) for name, p in params.items()},
    }  # fmt: skip


def bundled():
    """The bundled model as transformers has it: the rows of q and k go back to the order before conversion."""
    torch.set_default_dtype(torch.float32)
    reader = gguf.GGUFReader(os.path.join(HERE, "../../assets/bundled/recall.gguf"))
    tensors = {t.name: torch.tensor(gguf.quants.dequantize(t.data, t.tensor_type)) for t in reader.tensors}
    config = LlamaConfig(
        hidden_size=256, intermediate_size=256, vocab_size=1024, num_attention_heads=8, num_key_value_heads=4, head_dim=64,
        num_hidden_layers=8, rms_norm_eps=1e-5, tie_word_embeddings="output.weight" not in tensors,
        max_position_embeddings=4096, attn_implementation="eager",
    )  # fmt: skip
    model = LlamaForCausalLM(config).float()
    names = {"model.embed_tokens.weight": "token_embd", "model.norm.weight": "output_norm", "lm_head.weight": "output"}
    for layer in range(8):
        at = f"model.layers.{layer}."
        names |= {f"{at}{m}.weight": f"blk.{layer}.{n}" for m, n in zip(MODULES, NAMES)}
        names |= {f"{at}input_layernorm.weight": f"blk.{layer}.attn_norm"}
        names |= {f"{at}post_attention_layernorm.weight": f"blk.{layer}.ffn_norm"}
    with torch.no_grad():
        for name, p in model.named_parameters():
            value = tensors[names[name] + ".weight"]
            if "q_proj" in name or "k_proj" in name:
                value = value.reshape(-1, 32, 2, 256).transpose(1, 2).reshape(value.shape)
            p.copy_(value)
    return model.eval()


def infer():
    torch.manual_seed(3)
    tokens = [(i * i * 31 + 7 * i + 300) % 1024 for i in range(14)]
    plain = bundled()(torch.tensor([tokens])).logits[0, -1]
    lora = LoraConfig(
        r=2, lora_alpha=6, target_modules=["q_proj", "down_proj"], layers_to_transform=[5], use_dora=True,
        task_type="CAUSAL_LM", base_model_name_or_path="recall",
    )  # fmt: skip
    model = get_peft_model(bundled(), lora).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.normal_(0.0, 0.1)
            if "magnitude" in name:
                p.mul_(1 + 0.3 * torch.randn_like(p))
        logits = model(torch.tensor([tokens])).logits[0, -1]
    folder = os.path.join(OUT, "dora")
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    os.remove(os.path.join(folder, "README.md"))
    merged = model.merge_and_unload()
    merged = merged(torch.tensor([tokens])).logits[0, -1]
    assert (merged - logits).abs().max() < 1e-3
    cut = lambda t: [float(f"{v:.7g}") for v in t.detach()[::16].tolist()]
    return {"tokens": tokens, "logits": cut(logits), "plain": cut(plain)}


if __name__ == "__main__":
    os.makedirs(OUT, exist_ok=True)
    result = {"train": train(use_dora=True), "infer": infer()}
    with open(os.path.join(OUT, "dora.json"), "w") as f:
        json.dump(result, f)
        f.write("\n")
