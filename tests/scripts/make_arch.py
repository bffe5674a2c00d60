"""Makes tests/fixtures/arch/: a tiny random model of each architecture, as Hugging Face's folder and as GGUF, with PyTorch's logits.

    python tests/scripts/make_arch.py            (pip install torch transformers safetensors gguf; llama-cpp-python to check)

For each of MODELS: NAME/config.json and NAME/model.safetensors as `save_pretrained` writes them (f16 numbers), NAME/model.gguf with
llama.cpp's keys and tensor names, and NAME/logits.json: the ids of one text, the logits of transformers in f64 at some positions, and
where the model is dense the gradients of the mean loss. Where llama-cpp-python is installed, the GGUF is run through llama.cpp too,
and its logits must agree but where it is known to compute something else (APART).
"""

import json
import math
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


def mistral():
    """A window in every layer; linear scaling of positions."""
    config = transformers.MistralConfig(
        num_hidden_layers=2, sliding_window=8, head_dim=8, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2,
        rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 10_000.0}, **COMMON
    )
    return transformers.MistralForCausalLM(config)


def yarn():
    """A Qwen2 whose context is stretched by YaRN, heads of a size at which some pairs are slow, some fast and one between."""
    config = transformers.Qwen2Config(
        num_hidden_layers=2, tie_word_embeddings=True, use_sliding_window=False, bos_token_id=1, eos_token_id=2,
        rope_parameters={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "beta_fast": 4.0, "rope_theta": 100.0},
        **{**COMMON, "hidden_size": 32}
    )
    return transformers.Qwen2ForCausalLM(config)


def smollm3():
    """Of four layers one does not turn."""
    config = transformers.SmolLM3Config(num_hidden_layers=4, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2, pad_token_id=0, **COMMON)
    return transformers.SmolLM3ForCausalLM(config)


def granite():
    """Four factors."""
    config = transformers.GraniteConfig(
        num_hidden_layers=2, embedding_multiplier=12.0, attention_multiplier=0.4, residual_multiplier=0.22, logits_scaling=6.0,
        tie_word_embeddings=True, bos_token_id=1, eos_token_id=2, **COMMON
    )
    return transformers.GraniteForCausalLM(config)


def olmo2():
    """Norms after each half of a layer only, and of whole rows of q and k."""
    config = transformers.Olmo2Config(num_hidden_layers=2, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2, pad_token_id=0, **COMMON)
    return transformers.Olmo2ForCausalLM(config)


def olmo3():
    """OLMo 2 with a window in three layers of four, and a stretched rotation in the fourth."""
    config = transformers.Olmo3Config(
        num_hidden_layers=4, sliding_window=8, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2, pad_token_id=0,
        rope_parameters={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "beta_fast": 4.0, "rope_theta": 100.0},
        **{**COMMON, "hidden_size": 32}
    )
    return transformers.Olmo3ForCausalLM(config)


def longrope(original, maximum, pairs):
    return {
        "rope_type": "longrope", "rope_theta": 10_000.0, "short_factor": [1.0 + 0.25 * i for i in range(pairs)],
        "long_factor": [1.5 + 1.25 * i for i in range(pairs)], "original_max_position_embeddings": original,
    }


def phi3():
    """q, k and v in one matrix, gate and up in another; longrope beyond its first context; three quarters of a head turn; a window."""
    config = transformers.Phi3Config(
        num_hidden_layers=2, sliding_window=8, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2, pad_token_id=0,
        original_max_position_embeddings=16, rope_parameters={**longrope(16, 128, 3), "partial_rotary_factor": 0.75},
        **{**COMMON, "hidden_size": 32}
    )
    return transformers.Phi3ForCausalLM(config)


def phi3_short():
    """Longrope within its first context; whole heads turn."""
    config = transformers.Phi3Config(
        num_hidden_layers=2, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2, pad_token_id=0,
        original_max_position_embeddings=16384, rope_parameters=longrope(16384, 65536, 2), **{**COMMON, "max_position_embeddings": 65536}
    )
    return transformers.Phi3ForCausalLM(config)


def gemma2():
    """Local and global layers in turn, norms around each half of a layer, caps on scores and logits."""
    config = transformers.Gemma2Config(
        num_hidden_layers=3, head_dim=8, sliding_window=8, query_pre_attn_scalar=8, hidden_activation="gelu_pytorch_tanh",
        attn_logit_softcapping=2.0, final_logit_softcapping=3.0, tie_word_embeddings=True, bos_token_id=2, eos_token_id=1, pad_token_id=0, **COMMON
    )
    return transformers.Gemma2ForCausalLM(config)


def qwen3_moe():
    """Four narrow experts a layer, two for a token, weighted among themselves; q and k norms."""
    config = transformers.Qwen3MoeConfig(
        num_hidden_layers=2, head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=12, norm_topk_prob=True, tie_word_embeddings=False,
        bos_token_id=1, eos_token_id=2, **COMMON
    )
    return transformers.Qwen3MoeForCausalLM(config)


def qwen2_moe():
    """Four narrow experts a layer, two for a token, weighted among all, and one that all tokens share; biases."""
    config = transformers.Qwen2MoeConfig(
        num_hidden_layers=2, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=12, shared_expert_intermediate_size=20, norm_topk_prob=False,
        tie_word_embeddings=False, bos_token_id=1, eos_token_id=2, **COMMON
    )
    return transformers.Qwen2MoeForCausalLM(config)


def olmoe():
    """Eight experts a layer, three for a token, weighted among all; whole rows of q and k are normed."""
    config = transformers.OlmoeConfig(
        num_hidden_layers=2, num_experts=8, num_experts_per_tok=3, norm_topk_prob=False, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2,
        pad_token_id=0, **{**COMMON, "num_key_value_heads": 4}
    )
    return transformers.OlmoeForCausalLM(config)


def gpt_oss():
    """Four experts a layer, two for a token, all with biases and a clamped gate; sinks; every other layer has a window; YaRN."""
    config = transformers.GptOssConfig(
        num_hidden_layers=3, head_dim=8, num_local_experts=4, num_experts_per_tok=2, sliding_window=8, swiglu_limit=7.0, tie_word_embeddings=False,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"], bos_token_id=1, eos_token_id=2, pad_token_id=0,
        rope_parameters={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "beta_fast": 4.0, "rope_theta": 100.0, "truncate": True},
        **{**COMMON, "intermediate_size": 32, "hidden_size": 32}
    )
    return transformers.GptOssForCausalLM(config)


# By name: how it is made, and what llama.cpp calls it. The order is that of the seeds.
MODELS = {
    "qwen2": (qwen2, "qwen2"), "gemma3": (gemma3, "gemma3"), "mixtral": (mixtral, "llama"), "llama": (llama, "llama"), "qwen3": (qwen3, "qwen3"),
    "mistral": (mistral, "llama"), "yarn": (yarn, "qwen2"), "smollm3": (smollm3, "smollm3"), "granite": (granite, "granite"),
    "olmo2": (olmo2, "olmo2"), "olmo3": (olmo3, "olmo2"), "phi3": (phi3, "phi3"), "phi3_short": (phi3_short, "phi3"), "gemma2": (gemma2, "gemma2"),
    "qwen3_moe": (qwen3_moe, "qwen3moe"), "qwen2_moe": (qwen2_moe, "qwen2moe"), "olmoe": (olmoe, "olmoe"),
    "gpt_oss": (gpt_oss, "gpt-oss"),
}
# What llama.cpp computes otherwise, and why.
APART = {
    "mistral": "it reads no window of a llama",
    "phi3": "it leaves Phi's window out",
}
# Families whose rows of q and k GGUF has in another order.
PERMUTED = ("llama", "granite", "smollm3")
# Theirs to ours: what an expert's matrices are called.
EXPERTS = {"w1": "gate", "w2": "down", "w3": "up", "gate_proj": "gate", "down_proj": "down", "up_proj": "up"}


def randomize(model, seed):
    """Numbers that f16 holds exactly, norms and biases included."""
    g = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=g)
        if name.endswith("norm.weight"):
            base = 0.0 if "gemma" in type(model).__name__.lower() else 1.0
            value = base + 0.2 * noise
        elif name.endswith((".bias", "_bias")):
            value = 0.5 * noise
        elif name.endswith("sinks"):
            value = noise
        else:
            value = noise / p.shape[-1] ** 0.5
        p.data.copy_(value.half().float())


def permute(w, heads):
    """The rows of q and k as GGUF's llama has them: pairs that turn side by side."""
    d = w.shape[0] // heads
    return w.reshape(heads, 2, d // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def rotation(writer, arch, config):
    """The keys of a rotation, and the tensors of its divisors."""
    rope = config.rope_parameters
    rope = rope.get("full_attention", rope)
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_rope_freq_base(rope["rope_theta"])
    if arch in ("llama", "granite", "smollm3", "phi3"):
        writer.add_rope_dimension_count(int(head * rope.get("partial_rotary_factor", 1.0)))
    kind = rope["rope_type"]
    if kind == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    if kind == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        writer.add_rope_scaling_yarn_beta_fast(rope["beta_fast"])
    if kind == "longrope":
        original = rope["original_max_position_embeddings"]
        factor = config.max_position_embeddings / original
        writer.add_rope_scaling_orig_ctx_len(original)
        writer.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(factor) / math.log(original)))
        return {f"rope_factors_{k}.weight": np.array(rope[f"{k}_factor"], dtype=np.float32) for k in ("long", "short")}
    return {}


def gpt_oss_tensors(key, w):
    """What holds all experts of a layer, as llama.cpp has it: outputs first, gate and up apart."""
    blk = f"blk.{key.removeprefix('model.layers.').partition('.')[0]}"
    if key.endswith("sinks"):
        return {f"{blk}.attn_sinks.weight": w}
    if ".experts." not in key:
        return {}
    kind, part = ("bias", key.removesuffix("_bias")) if key.endswith("_bias") else ("weight", key)
    w = w if kind == "bias" else w.swapaxes(1, 2)
    if part.endswith("gate_up_proj"):
        return {f"{blk}.ffn_gate_exps.{kind}": w[:, 0::2], f"{blk}.ffn_up_exps.{kind}": w[:, 1::2]}
    return {f"{blk}.ffn_down_exps.{kind}": w}


def write_gguf(path, name, config, tensors):
    arch = MODELS[name][1]
    names = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, arch.upper().replace("-", "_")), config.num_hidden_layers)
    writer = gguf.GGUFWriter(path, arch)
    # By the name of a Phi llama.cpp looks for its words.
    writer.add_name(f"tiny {name}".replace("phi3", "phi"))
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    divisors = rotation(writer, arch, config)
    if getattr(config, "head_dim", None):
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    if getattr(config, "sliding_window", None) and name not in ("yarn", "qwen2", "qwen3", "qwen3_moe"):
        writer.add_sliding_window(config.sliding_window)
    if name == "gemma3":
        # llama.cpp reads this one as a period: every n-th layer, counted from one, is global.
        writer.add_uint32("gemma3.attention.sliding_window_pattern", 2)
    if name == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    if name == "granite":
        writer.add_embedding_scale(config.embedding_multiplier)
        writer.add_attention_scale(config.attention_multiplier)
        writer.add_residual_scale(config.residual_multiplier)
        writer.add_logit_scale(config.logits_scaling)
    if getattr(config, "num_experts_per_tok", None):
        writer.add_expert_count(getattr(config, "num_local_experts", None) or config.num_experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
    if name == "gpt_oss":
        writer.add_expert_feed_forward_length(config.intermediate_size)
    if getattr(config, "moe_intermediate_size", None):
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)
    if getattr(config, "shared_expert_intermediate_size", None):
        writer.add_expert_shared_feed_forward_length(config.shared_expert_intermediate_size)
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
        if arch in PERMUTED and key.endswith(("q_proj.weight", "k_proj.weight")):
            w = permute(w, config.num_attention_heads if "q_proj" in key else config.num_key_value_heads)
        if name.startswith("gemma") and key.endswith("norm.weight"):
            w = w + 1
        if name == "gpt_oss":
            stacks = gpt_oss_tensors(key, w)
            out.update(stacks)
            if stacks:
                continue
        if ".experts." in key:
            layer, _, rest = key.removeprefix("model.layers.").partition(".")
            expert, part = rest.split(".experts.")[1].split(".")[:2]
            experts.setdefault(f"blk.{layer}.ffn_{EXPERTS[part]}_exps.weight", {})[int(expert)] = w
            continue
        target = names.get_name(key, try_suffixes=(".weight", ".bias"))
        if target is None:
            raise SystemExit(f"{key} has no name in GGUF")
        # One row is a vector there.
        out[target] = w.reshape(-1) if target.endswith("inp_shexp.weight") else w
    for target, parts in experts.items():
        out[target] = np.stack([parts[e] for e in sorted(parts)])
    out.update(divisors)
    for target, w in out.items():
        vector = w.ndim == 1 or "ffn_gate_inp" in target or target.endswith(".bias")
        writer.add_tensor(target, w.astype(np.float32 if vector else np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gradients(model, name, ids):
    """The mean loss of the next tokens, and of each tensor's gradient the norm and every so manieth element."""
    config = model.config
    arch = MODELS[name][1]
    names = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, arch.upper().replace("-", "_")), config.num_hidden_layers)
    logits = model(torch.tensor([ids])).logits[0]
    loss = torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(ids[1:]))
    loss.backward()
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    q, kv = config.num_attention_heads * head, config.num_key_value_heads * head
    out = {}

    def told(target, g):
        g = g.reshape(-1)
        every = max(len(g) // 8, 1)
        out[target] = {"norm": float(f"{np.linalg.norm(g):.8g}"), "some": [float(f"{v:.6g}") for v in g[::every]]}

    for key, p in model.named_parameters():
        g = p.grad.numpy()
        if arch in PERMUTED and key.endswith(("q_proj.weight", "k_proj.weight")):
            g = permute(g, config.num_attention_heads if "q_proj" in key else config.num_key_value_heads)
        target = names.get_name(key, try_suffixes=(".weight", ".bias"))
        # Several matrices in one are told apart.
        if "qkv_proj" in key:
            for part, rows in zip("qkv", np.split(g, [q, q + kv])):
                told(target.replace("qkv", part), rows)
        elif "gate_up_proj" in key:
            for part, rows in zip(("gate", "up"), np.split(g, 2)):
                told(target.replace("up", part), rows)
        else:
            told(target, g)
    return loss.item(), out


# Dense ones whose adapters' gradients are told too.
ADAPTED = ("granite", "olmo2", "gemma2")
# Of a layer, in the order of `core/src/train/weights.rs`.
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class Lora(torch.nn.Module):
    """A linear with alpha / r = 2 of B A beside it, whose numbers are waves."""

    def __init__(self, base, number, heads):
        super().__init__()
        wave = lambda rows, cols, at, size: torch.tensor([size * math.sin(0.7 * i + 1.3 * at) for i in range(rows * cols)], dtype=torch.float64).reshape(rows, cols)
        self.base, self.heads = base, heads
        self.a = torch.nn.Parameter(wave(2, base.in_features, 40 + number, 0.1))
        b = wave(base.out_features, 2, 70 + number, 0.05)
        # The numbers are those of GGUF's order of rows.
        self.b = torch.nn.Parameter(b if heads is None else b.reshape(heads, -1, 2, 2).swapaxes(1, 2).reshape(b.shape).contiguous())

    def forward(self, x):
        return self.base(x) + 2.0 * torch.nn.functional.linear(torch.nn.functional.linear(x, self.a), self.b)


def adapters(model, name, ids):
    """The loss with adapters on every linear, and their gradients, by the names that a training has for them."""
    model.zero_grad()
    config = model.config
    names = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, MODELS[name][1].upper()), config.num_hidden_layers)
    on, number = {}, 0
    for l, layer in enumerate(model.model.layers):
        for linear in LINEARS:
            of = "self_attn" if hasattr(layer.self_attn, linear) else "mlp"
            turned = MODELS[name][1] in PERMUTED and linear in ("q_proj", "k_proj")
            heads = (config.num_attention_heads if linear == "q_proj" else config.num_key_value_heads) if turned else None
            lora = Lora(getattr(getattr(layer, of), linear), number, heads)
            setattr(getattr(layer, of), linear, lora)
            on[names.get_name(f"model.layers.{l}.{of}.{linear}.weight", try_suffixes=(".weight",))] = lora
            number += 1
    logits = model(torch.tensor([ids])).logits[0]
    loss = torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(ids[1:]))
    loss.backward()
    out = {}
    for target, lora in on.items():
        for part, p in (("lora_a", lora.a), ("lora_b", lora.b)):
            g = p.grad.numpy()
            g = (permute(g, lora.heads) if part == "lora_b" and lora.heads else g).reshape(-1)
            every = max(len(g) // 4, 1)
            out[f"{target}.{part}"] = {"norm": float(f"{np.linalg.norm(g):.8g}"), "some": [float(f"{v:.6g}") for v in g[::every]]}
    return {"loss": loss.item(), "gradients": out}


def main(only):
    for seed, (name, (build, _)) in enumerate(MODELS.items()):
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
        if not getattr(model.config, "num_experts_per_tok", None):
            loss, grads = gradients(model, name, ids)
            more = f', "loss": {loss:.10g}, "gradients": {json.dumps(grads)}'
            if name in ADAPTED:
                more += f', "lora": {json.dumps(adapters(model, name, ids))}'
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
        if name in APART:
            print("  as", APART[name])
            continue
        # It multiplies f16 weights by f16 activations.
        if far > 0.02:
            raise SystemExit(f"{name}: llama.cpp reads the GGUF as another model")


if __name__ == "__main__":
    main(sys.argv[1:])
