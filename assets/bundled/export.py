"""Writes recall.safetensors as recall.gguf: q8_0 matrices, f32 norms, tokenizer and chat template inside.

    python export.py OUT/recall.safetensors recall.gguf [f16|f32|q8_0]

Needs PyPI numpy, safetensors, gguf. The rotary pairs of the weights are neighbours already, which is
what a GGUF of architecture `llama` holds: no rows are permuted.
"""

import sys

import gguf
import numpy as np
from safetensors.numpy import load_file

import data

CONFIG = {"context": 4096, "heads": 8, "kv_heads": 4, "head_dim": 64, "rope_base": 10000.0, "norm_eps": 1e-5}


def export(weights, path, kind):
    kind = {"f16": gguf.GGMLQuantizationType.F16, "f32": gguf.GGMLQuantizationType.F32, "q8_0": gguf.GGMLQuantizationType.Q8_0}[kind]
    tensors = load_file(weights)
    layers = 1 + max(int(k.split(".")[1]) for k in tensors if k.startswith("blk."))
    vocab, hidden = tensors["token_embd.weight"].shape

    w = gguf.GGUFWriter(path, "llama")
    w.add_name("recall")
    w.add_description("Small model that remembers: pass keys, key-value pairs, copies, and short stories. Trained on generated text only.")
    w.add_license("MIT OR Apache-2.0")
    w.add_context_length(CONFIG["context"])
    w.add_embedding_length(hidden)
    w.add_block_count(layers)
    w.add_feed_forward_length(tensors["blk.0.ffn_up.weight"].shape[0])
    w.add_head_count(CONFIG["heads"])
    w.add_head_count_kv(CONFIG["kv_heads"])
    w.add_key_length(CONFIG["head_dim"])  # not hidden / heads
    w.add_value_length(CONFIG["head_dim"])
    w.add_rope_dimension_count(CONFIG["head_dim"])
    w.add_rope_freq_base(CONFIG["rope_base"])
    w.add_layer_norm_rms_eps(CONFIG["norm_eps"])
    w.add_vocab_size(vocab)
    w.add_file_type({gguf.GGMLQuantizationType.Q8_0: 7, gguf.GGMLQuantizationType.F16: 1}.get(kind, 0))
    w.add_quantization_version(2)

    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("gpt-2")
    w.add_token_list(data.TOKENS)
    w.add_token_types([gguf.TokenType.CONTROL if t in data.SPECIALS else gguf.TokenType.NORMAL for t in data.TOKENS])
    w.add_token_merges([f"{a} {b}" for a, b in data.MERGES])
    w.add_bos_token_id(data.BOS)
    w.add_eos_token_id(data.EOS)
    w.add_pad_token_id(data.PAD)
    w.add_add_bos_token(True)
    w.add_add_eos_token(False)
    w.add_chat_template(data.CHAT_TEMPLATE)

    for name, x in tensors.items():
        x = x.astype(np.float32)
        matrix = x.ndim == 2
        w.add_tensor(name if name.endswith(".weight") else f"{name}.weight", gguf.quantize(x, kind) if matrix else x, raw_dtype=kind if matrix else None)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


if __name__ == "__main__":
    data.load_tokenizer(__file__.rsplit("/", 1)[0] + "/merges.json" if "/" in __file__ else "merges.json")
    export(sys.argv[1], sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else "q8_0")
