"""Thin helpers over llama-cpp-python's C interface, shared by the scripts of this folder.

    python3 -m venv venv && venv/bin/pip install llama-cpp-python==0.3.36 gguf numpy safetensors

The wheel is built from source (about four minutes on two cores).
"""

import ctypes
import sys

import llama_cpp as C
import numpy as np


@C.llama_log_callback
def _log(level, text, _):
    # Errors only: 4 is GGML_LOG_LEVEL_ERROR.
    if level == 4:
        sys.stderr.write(text.decode(errors="replace"))


C.llama_log_set(_log, ctypes.c_void_p(0))
C.llama_backend_init()

F32, F16 = 0, 1  # ggml_type


class Model:
    """A GGUF file opened by llama.cpp on the CPU."""

    def __init__(self, path, vocab_only=False):
        params = C.llama_model_default_params()
        params.vocab_only = vocab_only
        params.n_gpu_layers = 0
        self.handle = C.llama_model_load_from_file(str(path).encode(), params)
        if not self.handle:
            raise SystemExit(f"llama.cpp cannot load {path}")
        self.vocab = C.llama_model_get_vocab(self.handle)
        self.n_vocab = C.llama_vocab_n_tokens(self.vocab)

    def close(self):
        C.llama_model_free(self.handle)
        self.handle = None

    def tokenize(self, text, add_special=False, parse_special=False):
        data = text.encode("utf-8")
        room = len(data) * 2 + 16
        out = (C.llama_token * room)()
        n = C.llama_tokenize(self.vocab, data, len(data), out, room, add_special, parse_special)
        if n < 0:
            raise SystemExit(f"llama_tokenize needs {-n} slots for {text!r}")
        return list(out[:n])

    def piece(self, token):
        """The bytes of one token, special ones spelled out."""
        buf = ctypes.create_string_buffer(256)
        n = C.llama_token_to_piece(self.vocab, token, buf, 256, 0, True)
        if n < 0:
            buf = ctypes.create_string_buffer(-n)
            n = C.llama_token_to_piece(self.vocab, token, buf, -n, 0, True)
        return buf.raw[:n]

    def context(self, n_ctx, cache=F16, threads=2, n_batch=512):
        params = C.llama_context_default_params()
        params.n_ctx = n_ctx
        params.n_batch = n_batch
        params.n_ubatch = n_batch
        params.n_threads = threads
        params.n_threads_batch = threads
        params.type_k = cache
        params.type_v = cache
        params.flash_attn_type = 0  # disabled
        params.offload_kqv = False
        params.no_perf = True
        handle = C.llama_init_from_model(self.handle, params)
        if not handle:
            raise SystemExit("llama.cpp cannot make a context")
        return Context(self, handle)


class Context:
    """A KV cache and what runs on it; positions are counted by the caller."""

    def __init__(self, model, handle):
        self.model = model
        self.handle = handle

    def close(self):
        C.llama_free(self.handle)
        self.handle = None

    def clear(self):
        C.llama_memory_clear(C.llama_get_memory(self.handle), True)

    def truncate(self, length):
        C.llama_memory_seq_rm(C.llama_get_memory(self.handle), 0, length, -1)

    def eval(self, tokens, start, logits="none"):
        """Runs `tokens` at positions `start`..; logits: none, last, or all (returned as (tokens, vocab) f32)."""
        n = len(tokens)
        batch = C.llama_batch_init(n, 0, 1)
        batch.n_tokens = n
        for i, token in enumerate(tokens):
            batch.token[i] = token
            batch.pos[i] = start + i
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = 0
            batch.logits[i] = logits == "all" or (logits == "last" and i == n - 1)
        rc = C.llama_decode(self.handle, batch)
        C.llama_batch_free(batch)
        if rc != 0:
            raise SystemExit(f"llama_decode returned {rc}")
        if logits == "none":
            C.llama_synchronize(self.handle)
            return None
        rows = n if logits == "all" else 1
        pointer = C.llama_get_logits(self.handle)
        return np.ctypeslib.as_array(pointer, shape=(rows, self.model.n_vocab)).copy()


def log_softmax(logits):
    """In f64, (positions, vocab)."""
    x = logits.astype(np.float64)
    x -= x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def kl(reference, other):
    """KL(reference || other) of every position in nats, over the full distributions."""
    p, q = log_softmax(reference), log_softmax(other)
    return (np.exp(p) * (p - q)).sum(axis=-1)


def top1(reference, other):
    """Share of positions whose most likely token is the same."""
    return float((reference.argmax(axis=-1) == other.argmax(axis=-1)).mean())


def prefill(model, tokens, cache):
    """Logits of every position from one batch."""
    context = model.context(len(tokens) + 8, cache, n_batch=max(512, len(tokens)))
    out = context.eval(tokens, 0, "all")
    context.close()
    return out


def decode(model, tokens, cache):
    """Logits of every position, one token at a time."""
    context = model.context(len(tokens) + 8, cache)
    out = np.concatenate([context.eval([t], i, "last") for i, t in enumerate(tokens)])
    context.close()
    return out
