"""Makes tests/fixtures/arch/: a tiny random model of each architecture, as Hugging Face's folder and as GGUF, with PyTorch's logits.

    python tests/scripts/make_arch.py            (pip install torch transformers safetensors gguf; llama-cpp-python to check)

For each of llama, qwen2, qwen3, gemma3 and mixtral: NAME/config.json and NAME/model.safetensors as `save_pretrained` writes them (f16 numbers),
NAME/model.gguf with llama.cpp's keys and tensor names, and NAME/logits.json: the ids of one text and the logits of transformers
in f64 at some positions. Where llama-cpp-python is installed, the GGUF is run through llama.cpp too, and its logits must agree.
"""

import json
import sys
import tempfile
from pathlib import Path

import gguf
import numpy as np
import torch
import transformers
from safetensors.numpy import load_file, save_file

OUT = Path(__file__).parent.parent / "fixtures" / "arch"
TOKENS = 40
POSITIONS = [0, 7, 8, 9, 20, 39]
COMMON = dict(
    vocab_size=48, hidden_size=16, intermediate_size=24, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128,
    rms_norm_eps=1e-6, torch_dtype="float32", attn_implementation="eager", experts_implementation="eager",
)


def llama():
    """Rows of q and k that GGUF has in another order; a head of its own."""
    config = transformers.LlamaConfig(num_hidden_layers=2, tie_word_embeddings=False, rope_theta=10_000.0, bos_token_id=1, eos_token_id=2, **COMMON)
    return transformers.LlamaForCausalLM(config)


def qwen2():
    """Bias on q, k and v; a tied head."""
    config = transformers.Qwen2Config(
        num_hidden_layers=2, tie_word_embeddings=True, use_sliding_window=False, rope_theta=1_000_000.0, bos_token_id=1, eos_token_id=2, **COMMON
    )
    return transformers.Qwen2ForCausalLM(config)


def qwen3():
    """q and k norms; heads of a size of their own."""
    config = transformers.Qwen3Config(
        num_hidden_layers=2, head_dim=8, tie_word_embeddings=True, use_sliding_window=False, rope_theta=1_000_000.0, bos_token_id=1,
        eos_token_id=2, **COMMON
    )
    return transformers.Qwen3ForCausalLM(config)


def gemma3():
    """Local layers with a window of 8 and one global, q and k norms, norms around each half of a layer, gelu, scaled embeddings."""
    config = transformers.Gemma3TextConfig(
        num_hidden_layers=3, head_dim=8, sliding_window=8, query_pre_attn_scalar=8,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        hidden_activation="gelu_pytorch_tanh", tie_word_embeddings=True, bos_token_id=2, eos_token_id=1, pad_token_id=0, **COMMON
    )
    return transformers.Gemma3ForCausalLM(config)


def mixtral():
    """Four experts a layer, two of them for a token; a head of its own."""
    config = transformers.MixtralConfig(
        num_hidden_layers=2, num_local_experts=4, num_experts_per_tok=2, sliding_window=None, tie_word_embeddings=False,
        rope_theta=1_000_000.0, bos_token_id=1, eos_token_id=2, **COMMON
    )
    return transformers.MixtralForCausalLM(config)


def randomize(model, seed):
    """Numbers that f16 holds exactly, norms and biases included."""
    g = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=g)
        if name.endswith("norm.weight"):
            base = 0.0 if "gemma" in type(model).__name__.lower() else 1.0
            value = base + 0.2 * noise
        elif name.endswith(".bias"):
            value = 0.5 * noise
        else:
            value = noise / p.shape[-1] ** 0.5
        p.data.copy_(value.half().float())


def permute(w, heads):
    """The rows of q and k as GGUF's llama has them: pairs that turn side by side."""
    d = w.shape[0] // heads
    return w.reshape(heads, 2, d // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def write_gguf(path, name, config, tensors):
    arch = "llama" if name == "mixtral" else name
    names = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, arch.upper()), config.num_hidden_layers)
    writer = gguf.GGUFWriter(path, arch)
    writer.add_name(f"tiny {name}")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    rope = config.rope_parameters
    theta = rope["full_attention"]["rope_theta"] if name == "gemma3" else rope["rope_theta"]
    writer.add_rope_freq_base(theta)
    if name in ("gemma3", "qwen3"):
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    if name == "gemma3":
        writer.add_sliding_window(config.sliding_window)
        # llama.cpp reads this one as a period: every n-th layer, counted from one, is global.
        writer.add_uint32("gemma3.attention.sliding_window_pattern", 2)
    if arch == "llama":
        writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    if name == "mixtral":
        writer.add_expert_count(config.num_local_experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
    words = ["<unk>", "<s>", "</s>"] + [chr(ord("0") + i) for i in range(config.vocab_size - 3)]
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(words)
    writer.add_token_scores([-float(i) for i in range(len(words))])
    writer.add_token_types([2, 3, 3] + [1] * (len(words) - 3))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    out, experts = {}, {}
    for key, w in tensors.items():
        if arch == "llama" and key.endswith(("q_proj.weight", "k_proj.weight")):
            w = permute(w, config.num_attention_heads if "q_proj" in key else config.num_key_value_heads)
        if name == "gemma3" and key.endswith("norm.weight"):
            w = w + 1
        if ".experts." in key:
            layer, _, rest = key.removeprefix("model.layers.").partition(".")
            expert, part = rest.split(".experts.")[1].split(".")[:2]
            part = {"w1": "gate", "w2": "down", "w3": "up"}[part]
            experts.setdefault(f"blk.{layer}.ffn_{part}_exps.weight", {})[int(expert)] = w
            continue
        target = names.get_name(key, try_suffixes=(".weight", ".bias"))
        if target is None:
            raise SystemExit(f"{key} has no name in GGUF")
        out[target] = w
    for target, parts in experts.items():
        out[target] = np.stack([parts[e] for e in sorted(parts)])
    for target, w in out.items():
        vector = w.ndim == 1 or "ffn_gate_inp" in target
        writer.add_tensor(target, w.astype(np.float32 if vector else np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gradients(model, name, ids):
    """The mean loss of the next tokens, and of each tensor's gradient the norm and every so manieth element."""
    config = model.config
    arch = "llama" if name == "mixtral" else name
    names = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, arch.upper()), config.num_hidden_layers)
    logits = model(torch.tensor([ids])).logits[0]
    loss = torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(ids[1:]))
    loss.backward()
    out = {}
    for key, p in model.named_parameters():
        g = p.grad.numpy()
        if arch == "llama" and key.endswith(("q_proj.weight", "k_proj.weight")):
            g = permute(g, config.num_attention_heads if "q_proj" in key else config.num_key_value_heads)
        g = g.reshape(-1)
        every = max(len(g) // 8, 1)
        target = names.get_name(key, try_suffixes=(".weight", ".bias"))
        out[target] = {"norm": float(f"{np.linalg.norm(g):.8g}"), "some": [float(f"{v:.6g}") for v in g[::every]]}
    return float(loss), out


def main(only):
    for seed, (name, build) in enumerate({"qwen2": qwen2, "gemma3": gemma3, "mixtral": mixtral, "llama": llama, "qwen3": qwen3}.items()):
        if only and name not in only:
            continue
        model = build().eval()
        randomize(model, 7 + seed)
        folder = OUT / name
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as made:
            model.save_pretrained(made)
            config = json.loads((Path(made) / "config.json").read_text())
            tensors = load_file(Path(made) / "model.safetensors")
        config["torch_dtype"] = "float16"
        config.pop("dtype", None)
        (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
        save_file({k: v.astype(np.float16) for k, v in tensors.items()}, folder / "model.safetensors", metadata={"format": "pt"})
        write_gguf(folder / "model.gguf", name, model.config, tensors)
        ids = [(i * 29 + i * i * 7 + 5) % (model.config.vocab_size - 3) + 3 for i in range(TOKENS)]
        with torch.no_grad():
            logits = model.double()(torch.tensor([ids])).logits[0].numpy()
        rows = ",\n".join(json.dumps([round(float(v), 6) for v in row]) for row in logits[POSITIONS])
        more = ""
        if name != "mixtral":
            loss, grads = gradients(model, name, ids)
            more = f', "loss": {loss:.10g}, "gradients": {json.dumps(grads)}'
        (folder / "logits.json").write_text(f'{{"ids": {json.dumps(ids)}, "positions": {json.dumps(POSITIONS)}, "logits": [\n{rows}\n]{more}}}\n')
        print(name, sorted(tensors)[:4], len(tensors), logits.shape, "std", logits.std())
        try:
            from llama import F32, Model, prefill
        except ImportError:
            continue
        other = Model(str(folder / "model.gguf"))
        theirs = prefill(other, ids, F32)
        other.close()
        far = np.abs(theirs - logits).max()
        print("  llama.cpp differs by at most", far)
        # It multiplies f16 weights by f16 activations.
        if far > 0.02:
            raise SystemExit(f"{name}: llama.cpp reads the GGUF as another model")


if __name__ == "__main__":
    main(sys.argv[1:])
