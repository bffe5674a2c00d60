// Plain kernels of the GPU forward pass, exact in f32: for what is too small or too odd for those of decode.cu and prefill.cu.

#include "blocks.cuh"

// y (m, ldy)[:, row] = W (rows, cols) · x (m, cols): a warp for each row of W and MT rows of x. A result's order of
// additions depends on cols alone. With `add`, scale times the product is added to what y holds. Grid (rows / 8, m / MT), block (32, 8).
template <class T, int MT>
DEV void linear(const uint8_t* w, const float* x, float* y, int rows, int cols, int m, int ldy, int add, float scale) {
    int row = blockIdx.x * blockDim.y + threadIdx.y, lane = threadIdx.x, first = blockIdx.y * MT;
    if (row >= rows) return;
    const uint8_t* at = w + (size_t)row * (cols / T::N) * T::BYTES;
    float acc[MT] = {};
    for (int i = lane; i < cols; i += 32) {
        float v = element<T>(at, i);
#pragma unroll
        for (int t = 0; t < MT; t++)
            if (first + t < m) acc[t] = __fmaf_rn(v, x[(size_t)(first + t) * cols + i], acc[t]);
    }
#pragma unroll
    for (int t = 0; t < MT; t++) {
        float sum = warp_sum(acc[t]);
        if (lane == 0 && first + t < m) {
            float* to = y + (size_t)(first + t) * ldy + row;
            *to = add ? __fmaf_rn(scale, sum, *to) : sum;
        }
    }
}

#define TYPE(name, T)                                                                                                      \
    extern "C" __global__ void linear_##name(                                                                              \
        const uint8_t* w, const float* x, float* y, int rows, int cols, int m, int ldy, int add, float scale) {            \
        linear<T, 8>(w, x, y, rows, cols, m, ldy, add, scale);                                                             \
    }                                                                                                                      \
    extern "C" __global__ void linear1_##name(                                                                             \
        const uint8_t* w, const float* x, float* y, int rows, int cols, int m, int ldy, int add, float scale) {            \
        linear<T, 1>(w, x, y, rows, cols, m, ldy, add, scale);                                                             \
    }

TYPE(f32, F32)
TYPE(f16, F16)
TYPE(bf16, BF16)

// out = x / sqrt(mean(x²) + eps) · w, row by row. Grid rows, block 256.
extern "C" __global__ void rms_norm(const float* x, const float* w, float* out, int cols, float eps) {
    __shared__ float part[8];
    const float* row = x + (size_t)blockIdx.x * cols;
    float sum = 0;
    for (int i = threadIdx.x; i < cols; i += blockDim.x) sum = __fmaf_rn(row[i], row[i], sum);
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = sum;
    __syncthreads();
    float whole = 0;
    for (int i = 0; i < 8; i++) whole += part[i];
    float scale = 1.0f / sqrtf(whole / cols + eps);
    for (int i = threadIdx.x; i < cols; i += blockDim.x) out[(size_t)blockIdx.x * cols + i] = row[i] * scale * w[i];
}

// Cosines (n, half), then sines, of positions first, first + 1, …, times an amplitude; in f64, so that positions of millions keep their
// phase.
extern "C" __global__ void angles(
    const double* freqs, float* cosines, float* sines, int half, int n, int first, float amplitude) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n * half) return;
    double s, c;
    sincos((double)(first + i / half) * freqs[i % half], &s, &c);
    cosines[i] = (float)(c * amplitude);
    sines[i] = (float)(s * amplitude);
}

// Turns the pairs of every head of x (n, heads · dim) by its row's angles. Grid (n, heads), block 64.
extern "C" __global__ void rope(float* x, const float* cosines, const float* sines, int dim, int half, int interleaved) {
    float* head = x + ((size_t)blockIdx.x * gridDim.y + blockIdx.y) * dim;
    for (int i = threadIdx.x; i < half; i += blockDim.x) {
        int a = interleaved ? 2 * i : i, b = interleaved ? 2 * i + 1 : i + half;
        float c = cosines[blockIdx.x * half + i], s = sines[blockIdx.x * half + i], p = head[a], q = head[b];
        head[a] = p * c - q * s;
        head[b] = p * s + q * c;
    }
}

// x += y, and gate = silu(gate) · up. Grid n / 256, block 256.
extern "C" __global__ void add(float* x, const float* y, size_t n) {
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) x[i] += y[i];
}
extern "C" __global__ void swiglu(float* gate, const float* up, size_t n) {
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) gate[i] = gate[i] / (1.0f + expf(-gate[i])) * up[i];
}

// gate = gelu(gate) · up, by the tanh approximation: x · σ(2 √(2/π) (x + 0.044715 x³)).
extern "C" __global__ void geglu(float* gate, const float* up, size_t n) {
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float x = gate[i];
    gate[i] = x / (1.0f + expf(-1.5957691216f * (x + 0.044715f * x * x * x))) * up[i];
}

// x += by · y; x = by · x; x = cap · tanh(x / cap). Grid n / 256, block 256.
extern "C" __global__ void add_scaled(float* x, const float* y, size_t n, float by) {
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) x[i] = __fmaf_rn(by, y[i], x[i]);
}
extern "C" __global__ void scale(float* x, size_t n, float by) {
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) x[i] *= by;
}
extern "C" __global__ void soft_cap(float* x, size_t n, float cap) {
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) x[i] = cap * tanhf(x[i] / cap);
}

// Every row of x (n / cols, cols) += b. Grid n / 256, block 256.
extern "C" __global__ void bias(float* x, const float* b, size_t n, int cols) {
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) x[i] += b[i % cols];
}

// Row formats of the cache, numbered as in Rust.
enum Format { KV_F32, KV_F16, KV_BF16, KV_Q8_0, KV_Q4_0 };

DEV float kv_element(int format, const uint8_t* row, int i) {
    switch (format) {
        case KV_F32: return float_anywhere(row + 4 * i);
        case KV_F16: return element<F16>(row, i);
        case KV_BF16: return element<BF16>(row, i);
        case KV_Q8_0: return element<Q8_0>(row, i);
        default: return element<Q4_0>(row, i);
    }
}

DEV void put_half(uint8_t* to, float v) { *(__half*)to = __float2half_rn(v); }

// Encodes rows x (n, heads · d) to rows first + n of every head; head h starts at head_bytes · h. A thread for each block of
// 32 elements, or each element of a plain format. Grid (n, heads), block 64.
extern "C" __global__ void append(const float* x, uint8_t* cache, int d, int format, int row_bytes, int first, size_t head_bytes) {
    const float* row = x + ((size_t)blockIdx.x * gridDim.y + blockIdx.y) * d;
    uint8_t* to = cache + blockIdx.y * head_bytes + (size_t)(first + blockIdx.x) * row_bytes;
    if (format <= KV_BF16) {
        for (int i = threadIdx.x; i < d; i += blockDim.x) {
            if (format == KV_F32) {
                put_float_anywhere(to + 4 * i, row[i]);
            } else if (format == KV_F16) {
                put_half(to + 2 * i, row[i]);
            } else {
                uint32_t bits = __float_as_uint(row[i]);
                bool nan = (bits & 0x7fffffff) > 0x7f800000;
                ((uint16_t*)to)[i] = nan ? bits >> 16 | 64 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
            }
        }
        return;
    }
    for (int b = threadIdx.x; b < d / 32; b += blockDim.x) {
        const float* v = row + 32 * b;
        float most = 0;
        for (int j = 0; j < 32; j++)
            if (fabsf(v[j]) > fabsf(most)) most = v[j];
        if (format == KV_Q8_0) {
            uint8_t* block = to + 34 * b;
            float scale = fabsf(most) / 127.0f, inverse = scale == 0 ? 0 : 1.0f / scale;
            put_half(block, scale);
            for (int j = 0; j < 32; j++) block[2 + j] = (uint8_t)(int8_t)roundf(mul(v[j], inverse));
        } else {
            uint8_t* block = to + 18 * b;
            float scale = most / -8.0f, inverse = scale == 0 ? 0 : 1.0f / scale;
            put_half(block, scale);
            for (int j = 0; j < 16; j++) {
                int low = min(15, (int)__fadd_rn(mul(v[j], inverse), 8.5f));
                int high = min(15, (int)__fadd_rn(mul(v[j + 16], inverse), 8.5f));
                block[2 + j] = low | high << 4;
            }
        }
    }
}

// Attention over a stretch of rows of one head, by one block of 128: an online softmax over tiles of 64 rows, in row order.
// Leaves the largest score, the sum of exponentials over it, and the weighted sum of values of elements threadIdx.x and
// threadIdx.x + 128; d ≤ 256.
#define TILE 64
// Rows of a stretch; stretches begin at multiples of it, so that a query's sum is made of the same parts by either kernel.
#define PART 128
struct Heads {
    int d, group, k_format, k_bytes, v_format, v_bytes;
    size_t head_bytes, values_at;
    float scale, cap;
};

// A product of a query and a key as the softmax takes it. Whether there is a cap is known when this is compiled: a tanh that is never
// taken costs prefill and decoding of a small model 2 to 3 %.
template <bool CAPPED>
DEV float score(const Heads& h, float product) {
    float s = product * h.scale;
    return CAPPED ? h.cap * tanhf(s / h.cap) : s;
}

struct Soft {
    float most, total, acc[2];
};

template <bool CAPPED>
DEV Soft stretch(const float* query, float* scores, const uint8_t* keys, const Heads& h, int from, int to) {
    const uint8_t* values = keys + h.values_at;
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    Soft s = {-INFINITY, 0, {0, 0}};
    for (int start = from; start < to; start += TILE) {
        int n = min(TILE, to - start);
        __syncthreads();
        for (int r = warp; r < n; r += 4) {
            const uint8_t* key = keys + (size_t)(start + r) * h.k_bytes;
            float sum = 0;
            for (int i = lane; i < h.d; i += 32) sum = __fmaf_rn(query[i], kv_element(h.k_format, key, i), sum);
            sum = warp_sum(sum);
            if (lane == 0) scores[r] = score<CAPPED>(h, sum);
        }
        __syncthreads();
        float high = s.most;
        for (int r = 0; r < n; r++) high = fmaxf(high, scores[r]);
        float shrink = expf(s.most - high);
        s.most = high;
        s.total = mul(s.total, shrink);
        s.acc[0] = mul(s.acc[0], shrink);
        s.acc[1] = mul(s.acc[1], shrink);
        for (int r = 0; r < n; r++) {
            float p = expf(scores[r] - high);
            s.total = __fadd_rn(s.total, p);
            const uint8_t* value = values + (size_t)(start + r) * h.v_bytes;
            for (int j = 0, i = threadIdx.x; i < h.d; i += blockDim.x, j++)
                s.acc[j] = __fmaf_rn(p, kv_element(h.v_format, value, i), s.acc[j]);
        }
    }
    return s;
}

// The softmax over two stretches, the first of which may be empty.
DEV Soft join(const Soft& a, const Soft& b) {
    float high = fmaxf(a.most, b.most), u = expf(a.most - high), v = expf(b.most - high);
    return {high, __fmaf_rn(b.total, v, mul(a.total, u)),
            {__fmaf_rn(b.acc[0], v, mul(a.acc[0], u)), __fmaf_rn(b.acc[1], v, mul(a.acc[1], u))}};
}

// out (n, heads · d) = softmax(score(q Kᵀ)) V with the causal bound: query i of the batch sees rows 0 … before + i. One block
// for each query and head. Grid (n, heads), block 128.
template <bool CAPPED>
DEV void attend_rows(
    const float* q, const uint8_t* cache, float* out, int d, int group, int before, float scale, int k_format, int k_bytes,
    int v_format, int v_bytes, size_t head_bytes, size_t values_at, float cap) {
    __shared__ float query[256], scores[TILE];
    Heads h = {d, group, k_format, k_bytes, v_format, v_bytes, head_bytes, values_at, scale, cap};
    size_t at = ((size_t)blockIdx.x * gridDim.y + blockIdx.y) * d;
    const uint8_t* keys = cache + (blockIdx.y / group) * head_bytes;
    int rows = before + blockIdx.x + 1;
    for (int i = threadIdx.x; i < d; i += blockDim.x) query[i] = q[at + i];
    Soft all = {-INFINITY, 0, {0, 0}};
    for (int from = 0; from < rows; from += PART) all = join(all, stretch<CAPPED>(query, scores, keys, h, from, min(rows, from + PART)));
    for (int j = 0, i = threadIdx.x; i < d; i += blockDim.x, j++) out[at + i] = all.acc[j] / all.total;
}

// The same for one query, a block for each head and stretch, so that a long cache keeps the whole GPU busy: `parts`
// (heads, stretches, d + 2) gets the weighted values, the largest score and the sum. Grid (heads, stretches), block 128.
template <bool CAPPED>
DEV void attend_stretch(
    const float* q, const uint8_t* cache, float* parts, int d, int group, int before, float scale, int k_format, int k_bytes,
    int v_format, int v_bytes, size_t head_bytes, size_t values_at, float cap) {
    __shared__ float query[256], scores[TILE];
    Heads h = {d, group, k_format, k_bytes, v_format, v_bytes, head_bytes, values_at, scale, cap};
    const uint8_t* keys = cache + (blockIdx.x / group) * head_bytes;
    int from = blockIdx.y * PART;
    for (int i = threadIdx.x; i < d; i += blockDim.x) query[i] = q[(size_t)blockIdx.x * d + i];
    Soft s = stretch<CAPPED>(query, scores, keys, h, from, min(before + 1, from + PART));
    float* to = parts + ((size_t)blockIdx.x * gridDim.y + blockIdx.y) * (d + 2);
    for (int j = 0, i = threadIdx.x; i < d; i += blockDim.x, j++) to[i] = s.acc[j];
    if (threadIdx.x == 0) {
        to[d] = s.most;
        to[d + 1] = s.total;
    }
}

#define ATTEND(name, rows, capped)                                                                                       \
    extern "C" __global__ void name(                                                                                     \
        const float* q, const uint8_t* cache, float* out, int d, int group, int before, float scale, int k_format,       \
        int k_bytes, int v_format, int v_bytes, size_t head_bytes, size_t values_at, float cap) {                        \
        rows<capped>(                                                                                                    \
            q, cache, out, d, group, before, scale, k_format, k_bytes, v_format, v_bytes, head_bytes, values_at, cap);   \
    }
ATTEND(attend, attend_rows, false)
ATTEND(attend_capped, attend_rows, true)
ATTEND(attend_parts, attend_stretch, false)
ATTEND(attend_parts_capped, attend_stretch, true)

// out (heads · d) of `parts`, in the order of the rows. Grid heads, block 128.
extern "C" __global__ void attend_join(const float* parts, float* out, int d, int stretches) {
    const float* at = parts + (size_t)blockIdx.x * stretches * (d + 2);
    Soft all = {-INFINITY, 0, {0, 0}};
    for (int p = 0; p < stretches; p++, at += d + 2) {
        Soft s = {at[d], at[d + 1], {0, 0}};
        for (int j = 0, i = threadIdx.x; i < d; i += blockDim.x, j++) s.acc[j] = at[i];
        all = join(all, s);
    }
    for (int j = 0, i = threadIdx.x; i < d; i += blockDim.x, j++) out[(size_t)blockIdx.x * d + i] = all.acc[j] / all.total;
}
