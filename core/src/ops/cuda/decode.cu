// Kernels of decoding: a handful a layer, for up to eight rows (sequences) at once, with f32 activations and f32 sums.
//
// A product of few rows is bound by the bytes of its weights: 16 bytes a lane and load, several loads in flight, activations in shared
// memory in the order in which the codes come. What stands before and after a product (norm, bias, gate, residual, cap) is done in it.
// Positions and cache addresses lie in the device's memory, so that a captured step can be run again for every token.

#include "planes.cuh"

#define WARPS 8

// Brings bytes to the second-level cache, before it is known what they are multiplied with; one of so many threads.
DEV void fetch_ahead(const uint8_t* from, size_t bytes, int thread, int threads) {
    for (size_t i = 128 * thread; i < bytes; i += 128 * threads) asm volatile("prefetch.global.L2 [%0];" ::"l"(from + i));
}

struct Part {
    const uint8_t *body, *head;
    float* y;
    const float* bias;
    int rows, ldy;
};
struct Product {
    const float *x, *norm;
    Part parts[3];
    int cols, m, count, mode, act, chunk;
    float eps, scale, cap, pad;
};
enum Mode { STORE, ADD, GATE };

DEV float silu(float x) { return x / (1.0f + expf(-x)); }
DEV float gelu(float x) { return x / (1.0f + expf(-1.5957691216f * (x + 0.044715f * x * x * x))); }

// Lets the next kernel of the stream begin, and waits for the one before: what is done between overlaps with it.
DEV void let_next() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
#endif
}
DEV void wait_before() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

DEV float block_sum(float v, float* part) {
    v = warp_sum(v);
    __syncthreads();
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;
    __syncthreads();
    float sum = 0;
    for (int i = 0; i < blockDim.x / 32; i++) sum += part[i];
    return sum;
}

template <class T, int M>
DEV void sum_runs(const Product& p, int n, const float4* to, float* sums);

// Pieces first … first + n of M rows of x to `to` (M, N / 4, n) of four floats, scaled and weighted where there is a norm, and the sums of
// their runs to `sums` (M, RUNS, n).
template <class T, int M>
DEV void stage(const Product& p, const float (&scale)[M], int first, int n, float4* to, float* sums) {
    constexpr int GROUPS = T::N / 4;
    // Pieces of a layout stand within 256 elements, so a chunk of them is a run of groups.
    int from = first * GROUPS;
#pragma unroll
    for (int m = 0; m < M; m++) {
        if (m >= p.m) break;
        const float4* x = (const float4*)(p.x + (size_t)m * p.cols);
        for (int g = threadIdx.x; g < n * GROUPS; g += blockDim.x) {
            float4 v = x[from + g];
            if (p.norm) {
                float4 w = ((const float4*)p.norm)[from + g];
                v.x *= scale[m] * w.x; v.y *= scale[m] * w.y; v.z *= scale[m] * w.z; v.w *= scale[m] * w.w;
            }
            int piece, at;
            T::Layout::place(from + g, piece, at);
            to[(m * GROUPS + at) * n + piece - first] = v;
        }
    }
    sum_runs<T, M>(p, n, to, sums);
}

// The sums of the runs of what is staged.
template <class T, int M>
DEV void sum_runs(const Product& p, int n, const float4* to, float* sums) {
    constexpr int GROUPS = T::N / 4;
    __syncthreads();
    if constexpr (T::SCALED) {
        constexpr int EACH = GROUPS / T::RUNS;
        for (int i = threadIdx.x; i < p.m * T::RUNS * n; i += blockDim.x) {
            int piece = i % n, run = i / n % T::RUNS, m = i / n / T::RUNS;
            float sum = 0;
#pragma unroll
            for (int j = 0; j < EACH; j++) {
                float4 v = to[(m * GROUPS + run * EACH + j) * n + piece];
                sum += v.x + v.y + (v.z + v.w);
            }
            sums[i] = sum;
        }
        __syncthreads();
    }
}

template <class T, int M>
DEV void piece_dot(const typename T::Raw& raw, const float4* x, const float* sums, int at, int n, float (&acc)[M]) {
    constexpr int GROUPS = T::N / 4;
    if constexpr (T::SCALED) {
        constexpr int EACH = GROUPS / T::RUNS;
        uint32_t w[8];
        float a[T::RUNS], off[T::RUNS], b[T::RUNS];
        T::words(raw, w);
        T::scale(raw, a, off, b);
#pragma unroll
        for (int run = 0; run < T::RUNS; run++) {
            float part[M] = {};
#pragma unroll
            for (int j = run * EACH; j < (run + 1) * EACH; j++) {
                float v0 = T::template value<0>(w[j]), v1 = T::template value<1>(w[j]);
                float v2 = T::template value<2>(w[j]), v3 = T::template value<3>(w[j]);
#pragma unroll
                for (int m = 0; m < M; m++) {
                    float4 f = x[(m * GROUPS + j) * n + at];
                    part[m] = __fmaf_rn(v0, f.x, part[m]);
                    part[m] = __fmaf_rn(v1, f.y, part[m]);
                    part[m] = __fmaf_rn(v2, f.z, part[m]);
                    part[m] = __fmaf_rn(v3, f.w, part[m]);
                }
            }
            float low = __fmaf_rn(-a[run], off[run], b[run]);
#pragma unroll
            for (int m = 0; m < M; m++) acc[m] += __fmaf_rn(a[run], part[m], low * sums[(m * T::RUNS + run) * n + at]);
        }
    } else {
        float v[T::N];
        T::values(raw, v);
#pragma unroll
        for (int j = 0; j < GROUPS; j++)
#pragma unroll
            for (int m = 0; m < M; m++) {
                float4 f = x[(m * GROUPS + j) * n + at];
                acc[m] = __fmaf_rn(v[4 * j], f.x, acc[m]);
                acc[m] = __fmaf_rn(v[4 * j + 1], f.y, acc[m]);
                acc[m] = __fmaf_rn(v[4 * j + 2], f.z, acc[m]);
                acc[m] = __fmaf_rn(v[4 * j + 3], f.w, acc[m]);
            }
    }
}

// Rows of a matrix that a warp multiplies with: R of one, or of gate and up one each.
template <int R>
struct Rows {
    const uint8_t *body[R], *head[R];
    size_t start[R];
    int part, row;
    bool mine;
};

template <int R>
DEV Rows<R> locate(const Product& p, const int (&pairs)[3], int group, int groups, int pieces) {
    Rows<R> rows = {};
    rows.mine = group < groups;
    if (!rows.mine) return rows;
    if (p.mode == GATE) {
        rows.row = group;
#pragma unroll
        for (int r = 0; r < R; r++) {
            rows.body[r] = p.parts[r].body;
            rows.head[r] = p.parts[r].head;
            rows.start[r] = (size_t)group * pieces;
        }
        return rows;
    }
    // Written out, so that nothing of the parameters is indexed.
    if (group < pairs[0]) {
        rows.part = 0;
    } else if (group < pairs[0] + pairs[1]) {
        rows.part = 1;
        group -= pairs[0];
    } else {
        rows.part = 2;
        group -= pairs[0] + pairs[1];
    }
    const Part& part = p.parts[rows.part];
    rows.row = R * group;
#pragma unroll
    for (int r = 0; r < R; r++) {
        rows.body[r] = part.body;
        rows.head[r] = part.head;
        rows.start[r] = (size_t)min(rows.row + r, part.rows - 1) * pieces;
    }
    return rows;
}

// Products of up to three matrices of one type with the same M rows of x: a warp takes two rows of a matrix at a time (of gate and up one
// each), blocks take turns. Shared memory: M · chunk pieces as `stage` lays them. Grid: blocks, block up to 32 · WARPS.
template <class T, int M>
DEV void product(const Product& p) {
    extern __shared__ float4 shared[];
    __shared__ float reduce[WARPS];
    constexpr int GROUPS = T::N / 4, R = 2, U = M > 2 ? 1 : T::SCALED ? 2 : 4;
    let_next();
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32, pieces = p.cols / T::N;
    int n = min(p.chunk, pieces);
    float* sums = (float*)(shared + M * GROUPS * n);
    int pairs[3] = {}, groups = 0;
#pragma unroll
    for (int i = 0; i < 3; i++) {
        if (i >= p.count) break;
        pairs[i] = p.mode == GATE ? p.parts[0].rows : (p.parts[i].rows + R - 1) / R;
        groups = p.mode == GATE ? pairs[i] : groups + pairs[i];
    }
    // Weights do not depend on what runs before: the first of this warp's rows, and those of the norm, are on their way while it ends.
    bool whole = n == pieces;
    constexpr int HELD = 4;
    bool held = M == 1 && p.norm && p.cols / 4 <= HELD * (int)blockDim.x;
    float4 weights[HELD], rows[HELD];
    if (held) {
#pragma unroll
        for (int i = 0; i < HELD; i++) {
            int g = threadIdx.x + i * blockDim.x;
            weights[i] = g < p.cols / 4 ? __ldg((const float4*)p.norm + g) : make_float4(0, 0, 0, 0);
        }
    }
    typename T::Raw raw[U][R];
    Rows<R> at = locate<R>(p, pairs, blockIdx.x * warps + warp, groups, pieces);
    bool ready = whole && at.mine;
    if (ready) {
#pragma unroll
        for (int u = 0; u < U; u++)
            if (lane + 32 * u < pieces)
#pragma unroll
                for (int r = 0; r < R; r++) raw[u][r] = T::load(at.body[r], at.head[r], at.start[r] + lane + 32 * u);
    }
    wait_before();
    float scale[M];
#pragma unroll
    for (int m = 0; m < M; m++) scale[m] = 1;
    if (held) {
        float sum = 0;
#pragma unroll
        for (int i = 0; i < HELD; i++) {
            int g = threadIdx.x + i * blockDim.x;
            rows[i] = g < p.cols / 4 ? ((const float4*)p.x)[g] : make_float4(0, 0, 0, 0);
            sum = __fmaf_rn(rows[i].x, rows[i].x, sum);
            sum = __fmaf_rn(rows[i].y, rows[i].y, sum);
            sum = __fmaf_rn(rows[i].z, rows[i].z, sum);
            sum = __fmaf_rn(rows[i].w, rows[i].w, sum);
        }
        scale[0] = 1.0f / sqrtf(block_sum(sum, reduce) / p.cols + p.eps);
    } else if (p.norm) {
#pragma unroll
        for (int m = 0; m < M; m++) {
            if (m >= p.m) break;
            const float4* x = (const float4*)(p.x + (size_t)m * p.cols);
            float sum = 0;
            for (int g = threadIdx.x; g < p.cols / 4; g += blockDim.x) {
                float4 v = x[g];
                sum = __fmaf_rn(v.x, v.x, sum);
                sum = __fmaf_rn(v.y, v.y, sum);
                sum = __fmaf_rn(v.z, v.z, sum);
                sum = __fmaf_rn(v.w, v.w, sum);
            }
            scale[m] = 1.0f / sqrtf(block_sum(sum, reduce) / p.cols + p.eps);
        }
    }
    if (held && whole) {
#pragma unroll
        for (int i = 0; i < HELD; i++) {
            int g = threadIdx.x + i * blockDim.x;
            if (g >= p.cols / 4) break;
            float4 v = rows[i], w = weights[i];
            v.x *= scale[0] * w.x; v.y *= scale[0] * w.y; v.z *= scale[0] * w.z; v.w *= scale[0] * w.w;
            int piece, place;
            T::Layout::place(g, piece, place);
            shared[place * n + piece] = v;
        }
        sum_runs<T, M>(p, n, shared, sums);
    } else if (whole) {
        stage<T, M>(p, scale, 0, n, shared, sums);
    }
    for (int base = blockIdx.x * warps; base < groups; base += gridDim.x * warps) {
        at = locate<R>(p, pairs, base + warp, groups, pieces);
        float acc[R][M] = {};
        for (int first = 0; first < pieces; first += n) {
            int here = min(n, pieces - first);
            if (!whole) {
                __syncthreads();
                stage<T, M>(p, scale, first, here, shared, sums);
            }
            if (!at.mine) continue;
            for (int i = lane; i < here; i += 32 * U) {
                if (!ready) {
#pragma unroll
                    for (int u = 0; u < U; u++)
                        if (i + 32 * u < here)
#pragma unroll
                            for (int r = 0; r < R; r++)
                                raw[u][r] = T::load(at.body[r], at.head[r], at.start[r] + first + i + 32 * u);
                }
                ready = false;
#pragma unroll
                for (int u = 0; u < U; u++)
                    if (i + 32 * u < here)
#pragma unroll
                        for (int r = 0; r < R; r++) piece_dot<T, M>(raw[u][r], shared, sums, i + 32 * u, here, acc[r]);
            }
        }
        if (!at.mine) continue;
        int row = at.row;
#pragma unroll
        for (int m = 0; m < M; m++) {
            float v[R];
#pragma unroll
            for (int r = 0; r < R; r++) v[r] = warp_sum(acc[r][m]);
            if (lane != 0 || m >= p.m) continue;
            if (p.mode == GATE) {
                float gate = v[0] + (p.parts[0].bias ? p.parts[0].bias[row] : 0.0f), up = v[1] + (p.parts[1].bias ? p.parts[1].bias[row] : 0.0f);
                p.parts[0].y[(size_t)m * p.parts[0].ldy + row] = (p.act ? gelu(gate) : silu(gate)) * up;
                continue;
            }
            const Part& to = p.parts[at.part];
#pragma unroll
            for (int r = 0; r < R; r++) {
                if (row + r >= to.rows) continue;
                float* y = to.y + (size_t)m * to.ldy + row + r;
                float sum = v[r] + (to.bias ? to.bias[row + r] : 0.0f);
                if (p.mode == ADD) {
                    *y = __fmaf_rn(p.scale, sum, *y);
                } else {
                    sum *= p.scale;
                    *y = p.cap > 0 ? p.cap * tanhf(sum / p.cap) : sum;
                }
            }
        }
    }
}

#define PRODUCT(name, T, M)                                                                                                \
    extern "C" __global__ void __launch_bounds__(32 * WARPS) product##M##_##name(const __grid_constant__ Product p) { product<T, M>(p); }
#define PRODUCTS(name, T) PRODUCT(name, T, 1) PRODUCT(name, T, 2) PRODUCT(name, T, 4) PRODUCT(name, T, 8)
WEIGHT_TYPES(PRODUCTS)

// x (rows, cols) += scale · norm(y) · w, row by row: what a layer with a norm after its half adds. Grid rows, block 32 · WARPS.
extern "C" __global__ void norm_add(float* x, const float* y, const float* w, int cols, float eps, float scale) {
    __shared__ float reduce[WARPS];
    let_next();
    wait_before();
    x += (size_t)blockIdx.x * cols;
    y += (size_t)blockIdx.x * cols;
    float sum = 0;
    for (int i = threadIdx.x; i < cols; i += blockDim.x) sum = __fmaf_rn(y[i], y[i], sum);
    float by = 1.0f / sqrtf(block_sum(sum, reduce) / cols + eps);
    for (int i = threadIdx.x; i < cols; i += blockDim.x) x[i] = __fmaf_rn(scale, y[i] * by * w[i], x[i]);
}

// Cosines (m, half), and sines, of the positions of m sequences, times an amplitude. Grid m, block 64.
extern "C" __global__ void turn(
    const double* freqs, const int* positions, float* cosines, float* sines, int half, float amplitude) {
    let_next();
    wait_before();
    for (int i = threadIdx.x; i < half; i += blockDim.x) {
        double s, c;
        sincos((double)positions[blockIdx.x] * freqs[i], &s, &c);
        cosines[blockIdx.x * half + i] = (float)(c * amplitude);
        sines[blockIdx.x * half + i] = (float)(s * amplitude);
    }
}

// Row formats of the cache, numbered as in Rust.
enum Format { KV_F32, KV_F16, KV_BF16, KV_Q8_0, KV_Q4_0 };

// The cache of one layer of one sequence: heads one after the other, each `capacity` keys, then as many values.
struct Cache {
    uint8_t* at;
    int capacity, pad;
};
struct Attention {
    const float *q, *k, *v, *cosines, *sines, *q_norm, *k_norm;
    float *out, *parts;
    const Cache* caches;
    const int* positions;
    unsigned* arrived;
    int heads, kv_heads, d, half, interleaved, window, k_format, k_bytes, v_format, v_bytes, splits;
    float eps, scale, cap;
};

DEV void unpack_half2(uint32_t w, float& a, float& b) {
    float2 f = __half22float2(*(const __half2*)&w);
    a = f.x;
    b = f.y;
}

// Elements i … i + 8 of U rows, `step` bytes apart; plain loads, for what this block has just written is among them.
template <int U>
DEV void rows8(int format, const uint8_t* row, size_t step, int i, int n, float (&out)[U][8]) {
#pragma unroll
    for (int u = 0; u < U; u++)
#pragma unroll
        for (int e = 0; e < 8; e++) out[u][e] = 0;
    switch (format) {
        case KV_F16: {
            uint4 w[U];
#pragma unroll
            for (int u = 0; u < U; u++) w[u] = u < n ? load16_anywhere(row + u * step + 2 * i) : make_uint4(0, 0, 0, 0);
#pragma unroll
            for (int u = 0; u < U; u++) {
                unpack_half2(w[u].x, out[u][0], out[u][1]);
                unpack_half2(w[u].y, out[u][2], out[u][3]);
                unpack_half2(w[u].z, out[u][4], out[u][5]);
                unpack_half2(w[u].w, out[u][6], out[u][7]);
            }
            break;
        }
        case KV_F32:
#pragma unroll
            for (int u = 0; u < U; u++) {
                if (u >= n) break;
                uint4 a = load16_anywhere(row + u * step + 4 * i), b = load16_anywhere(row + u * step + 4 * i + 16);
                const uint32_t w[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
#pragma unroll
                for (int e = 0; e < 8; e++) out[u][e] = __uint_as_float(w[e]);
            }
            break;
        case KV_BF16:
#pragma unroll
            for (int u = 0; u < U; u++) {
                if (u >= n) break;
                uint4 w = load16_anywhere(row + u * step + 2 * i);
                const uint32_t v[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    out[u][2 * e] = __uint_as_float(v[e] << 16);
                    out[u][2 * e + 1] = __uint_as_float(v[e] & 0xffff0000);
                }
            }
            break;
        case KV_Q8_0:
#pragma unroll
            for (int u = 0; u < U; u++) {
                if (u >= n) break;
                const uint8_t* block = row + u * step + 34 * (i / 32);
                float d = half_of(*(const uint16_t*)block);
                const uint16_t* w = (const uint16_t*)(block + 2 + i % 32);
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    uint32_t two = w[e];
                    out[u][2 * e] = d * (float)(int8_t)two;
                    out[u][2 * e + 1] = d * (float)(int8_t)(two >> 8);
                }
            }
            break;
        default:
#pragma unroll
            for (int u = 0; u < U; u++) {
                if (u >= n) break;
                const uint8_t* block = row + u * step + 18 * (i / 32);
                float d = half_of(*(const uint16_t*)block);
                const uint16_t* w = (const uint16_t*)(block + 2 + i % 16);
                int shift = i % 32 / 16 * 4;
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    uint32_t two = w[e] >> shift;
                    out[u][2 * e] = d * (float)((int)(two & 15) - 8);
                    out[u][2 * e + 1] = d * (float)((int)(two >> 8 & 15) - 8);
                }
            }
    }
}

DEV void put_half(uint8_t* to, float v) { *(__half*)to = __float2half_rn(v); }

// Encodes d elements of a row, by a warp.
DEV void encode_row(int format, const float* v, uint8_t* to, int d, int lane) {
    if (format <= KV_BF16) {
        for (int i = lane; i < d; i += 32) {
            if (format == KV_F32) {
                put_float_anywhere(to + 4 * i, v[i]);
            } else if (format == KV_F16) {
                put_half(to + 2 * i, v[i]);
            } else {
                uint32_t bits = __float_as_uint(v[i]);
                bool nan = (bits & 0x7fffffff) > 0x7f800000;
                ((uint16_t*)to)[i] = nan ? bits >> 16 | 64 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
            }
        }
        return;
    }
    for (int b = 0; b < d / 32; b++) {
        float x = v[32 * b + lane], most = x;
        // The first of the largest magnitudes, with its sign, as the CPU finds it.
        int who = lane;
        for (int step = 16; step > 0; step /= 2) {
            float other = __shfl_xor_sync(~0u, most, step);
            int their = __shfl_xor_sync(~0u, who, step);
            if (fabsf(other) > fabsf(most) || (fabsf(other) == fabsf(most) && their < who)) {
                most = other;
                who = their;
            }
        }
        if (format == KV_Q8_0) {
            float scale = fabsf(most) / 127.0f, inverse = scale == 0 ? 0 : 1.0f / scale;
            if (lane == 0) put_half(to + 34 * b, scale);
            to[34 * b + 2 + lane] = (uint8_t)(int8_t)roundf(mul(x, inverse));
        } else {
            float scale = most / -8.0f, inverse = scale == 0 ? 0 : 1.0f / scale;
            if (lane == 0) put_half(to + 18 * b, scale);
            int code = min(15, (int)__fadd_rn(mul(x, inverse), 8.5f));
            int high = __shfl_down_sync(~0u, code, 16);
            if (lane < 16) to[18 * b + 2 + lane] = code | high << 4;
        }
    }
}

// A head's row of q or k (d), normed and turned, to `to`, by a warp.
DEV void turned_row(const Attention& a, const float* from, const float* norm, int row, float* to, int lane) {
    float by = 1;
    if (norm) {
        float sum = 0;
        for (int i = lane; i < a.d; i += 32) sum = __fmaf_rn(from[i], from[i], sum);
        by = 1.0f / sqrtf(warp_sum(sum) / a.d + a.eps);
    }
    for (int i = lane; i < a.d; i += 32) to[i] = norm ? from[i] * by * norm[i] : from[i];
    __syncwarp();
    if (!a.cosines) return;
    for (int i = lane; i < a.half; i += 32) {
        int x = a.interleaved ? 2 * i : i, y = a.interleaved ? 2 * i + 1 : i + a.half;
        float c = a.cosines[row * a.half + i], s = a.sines[row * a.half + i], p = to[x], q = to[y];
        to[x] = p * c - q * s;
        to[y] = p * s + q * c;
    }
    __syncwarp();
}

// At most so many stretches (Rust: `BUSY`).
#define MOST_SPLITS 264

// Attention of one row of each sequence: norms and turns its queries and key, appends key and value, and attends to a stretch of the
// cache; the last block to arrive joins the stretches. A cached row is read once for up to G query heads. Each group of L lanes (8
// elements each) goes through rows of its own with an online softmax. Grid (kv heads · groups, splits, sequences), block 32 · WARPS.
template <int L, int G>
DEV void attend(const Attention& a) {
    constexpr int STREAMS = WARPS * 32 / L, U = 4, D = 8 * L;
    extern __shared__ float memory[];
    float* queries = memory;                     // (G, D)
    float* fresh = memory + G * D;               // (2, D)
    float* partial = memory + G * D;             // (WARPS, G, D + 2), after the rows
    __shared__ bool last;
    let_next();
    int group = a.heads / a.kv_heads, chunks = (group + G - 1) / G;
    int kv = blockIdx.x / chunks, chunk = blockIdx.x % chunks, seq = blockIdx.z;
    int first_head = kv * group + chunk * G, heads = min(G, group - chunk * G);
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int position = a.positions[seq];
    Cache cache = a.caches[seq];
    int slot = a.window ? position % cache.capacity : position, rows = min(position + 1, cache.capacity);
    // Stretches of at least 64 rows, as many as the grid has.
    int splits = min(a.splits, (rows + 63) / 64), each = (rows + splits - 1) / splits;
    splits = (rows + each - 1) / each;
    int from = blockIdx.y * each, to = min(rows, from + each);
    // A block that leaves without waiting ends before the one before it, which is no harm: nothing after reads what it did not write.
    if (blockIdx.y >= splits) return;
    size_t head_bytes = (size_t)(a.k_bytes + a.v_bytes) * cache.capacity;
    uint8_t* keys = cache.at + kv * head_bytes;
    uint8_t* values = keys + (size_t)a.k_bytes * cache.capacity;
    // Where the rows lie is known before the step begins, and all but the new one are there.
    fetch_ahead(keys + (size_t)from * a.k_bytes, (size_t)(to - from) * a.k_bytes, threadIdx.x, blockDim.x);
    fetch_ahead(values + (size_t)from * a.v_bytes, (size_t)(to - from) * a.v_bytes, threadIdx.x, blockDim.x);
    for (int i = threadIdx.x; i < G * D; i += blockDim.x) queries[i] = 0;
    wait_before();
    __syncthreads();
    for (int h = warp; h < heads; h += WARPS)
        turned_row(a, a.q + ((size_t)seq * a.heads + first_head + h) * a.d, a.q_norm, seq, queries + h * D, lane);
    if (slot >= from && slot < to) {
        const size_t at = ((size_t)seq * a.kv_heads + kv) * a.d;
        if (warp == WARPS - 1) {
            turned_row(a, a.k + at, a.k_norm, seq, fresh, lane);
            encode_row(a.k_format, fresh, keys + (size_t)slot * a.k_bytes, a.d, lane);
        } else if (warp == WARPS - 2) {
            encode_row(a.v_format, a.v + at, values + (size_t)slot * a.v_bytes, a.d, lane);
        }
    }
    __syncthreads();
    int sub = lane % L, stream = warp * (32 / L) + lane / L;
    bool busy = 8 * sub < a.d;
    float most[G], total[G], acc[G][8];
#pragma unroll
    for (int g = 0; g < G; g++) {
        most[g] = -INFINITY;
        total[g] = 0;
#pragma unroll
        for (int e = 0; e < 8; e++) acc[g][e] = 0;
    }
    int stretch = to - from, turns = (stretch + STREAMS * U - 1) / (STREAMS * U);
    for (int turn = 0; turn < turns; turn++) {
        int row = from + (turn * STREAMS + stream) * U, n = min(U, to - row);
        float x[U][8], s[U][G];
        rows8<U>(a.k_format, keys + (size_t)row * a.k_bytes, a.k_bytes, 8 * sub, busy ? n : 0, x);
#pragma unroll
        for (int g = 0; g < G; g++) {
            const float4* q = (const float4*)(queries + g * D + 8 * sub);
            float4 low = q[0], high = q[1];
#pragma unroll
            for (int u = 0; u < U; u++) {
                float sum = x[u][0] * low.x;
                sum = __fmaf_rn(x[u][1], low.y, sum);
                sum = __fmaf_rn(x[u][2], low.z, sum);
                sum = __fmaf_rn(x[u][3], low.w, sum);
                sum = __fmaf_rn(x[u][4], high.x, sum);
                sum = __fmaf_rn(x[u][5], high.y, sum);
                sum = __fmaf_rn(x[u][6], high.z, sum);
                sum = __fmaf_rn(x[u][7], high.w, sum);
                s[u][g] = sum;
            }
        }
        rows8<U>(a.v_format, values + (size_t)row * a.v_bytes, a.v_bytes, 8 * sub, busy ? n : 0, x);
#pragma unroll
        for (int g = 0; g < G; g++) {
            float high = most[g];
#pragma unroll
            for (int u = 0; u < U; u++) {
#pragma unroll
                for (int step = L / 2; step > 0; step /= 2) s[u][g] += __shfl_xor_sync(~0u, s[u][g], step);
                s[u][g] *= a.scale;
                if (a.cap > 0) s[u][g] = a.cap * tanhf(s[u][g] / a.cap);
                if (u >= n) s[u][g] = -INFINITY;
                high = fmaxf(high, s[u][g]);
            }
            if (n <= 0) continue;
            float shrink = __expf(most[g] - high);
            most[g] = high;
            total[g] *= shrink;
#pragma unroll
            for (int e = 0; e < 8; e++) acc[g][e] *= shrink;
#pragma unroll
            for (int u = 0; u < U; u++) {
                float p = __expf(s[u][g] - high);
                total[g] += p;
#pragma unroll
                for (int e = 0; e < 8; e++) acc[g][e] = __fmaf_rn(p, x[u][e], acc[g][e]);
            }
        }
    }
    // Streams of a warp, then warps: the same order every time.
#pragma unroll
    for (int step = L; step < 32; step *= 2)
#pragma unroll
        for (int g = 0; g < G; g++) {
            float theirs = __shfl_xor_sync(~0u, most[g], step), high = fmaxf(most[g], theirs);
            float mine = most[g] == -INFINITY ? 0 : __expf(most[g] - high), other = theirs == -INFINITY ? 0 : __expf(theirs - high);
            most[g] = high;
            total[g] = total[g] * mine + __shfl_xor_sync(~0u, total[g], step) * other;
#pragma unroll
            for (int e = 0; e < 8; e++) acc[g][e] = acc[g][e] * mine + __shfl_xor_sync(~0u, acc[g][e], step) * other;
        }
    __syncthreads();
    if (lane < L) {
#pragma unroll
        for (int g = 0; g < G; g++) {
            float* at = partial + (warp * G + g) * (D + 2);
#pragma unroll
            for (int e = 0; e < 8; e++) at[8 * sub + e] = acc[g][e];
            if (sub == 0) {
                at[D] = most[g];
                at[D + 1] = total[g];
            }
        }
    }
    __syncthreads();
    int d2 = a.d + 2;
    for (int i = threadIdx.x; i < heads * a.d; i += blockDim.x) {
        int g = i / a.d, e = i % a.d;
        float high = -INFINITY, sum = 0, all = 0;
        for (int w = 0; w < WARPS; w++) high = fmaxf(high, partial[(w * G + g) * (D + 2) + D]);
        for (int w = 0; w < WARPS; w++) {
            const float* at = partial + (w * G + g) * (D + 2);
            float by = at[D] == -INFINITY ? 0 : __expf(at[D] - high);
            sum = __fmaf_rn(at[e], by, sum);
            all = __fmaf_rn(at[D + 1], by, all);
        }
        size_t head = (size_t)seq * a.heads + first_head + g;
        if (splits == 1) {
            a.out[head * a.d + e] = sum / all;
        } else {
            float* at = a.parts + (head * a.splits + blockIdx.y) * d2;
            at[e] = sum;
            if (e == 0) {
                at[a.d] = high;
                at[a.d + 1] = all;
            }
        }
    }
    if (splits == 1) return;
    __threadfence();
    __syncthreads();
    unsigned* arrived = a.arrived + seq * gridDim.x + blockIdx.x;
    if (threadIdx.x == 0) last = atomicAdd(arrived, 1) == splits - 1;
    __syncthreads();
    if (!last) return;
    __threadfence();
    if (threadIdx.x == 0) *arrived = 0;
    // A warp for each head: the weight of every stretch, over the sum of all; then every element by itself.
    for (int g = warp; g < heads; g += WARPS) {
        const float* at = a.parts + ((size_t)seq * a.heads + first_head + g) * a.splits * d2;
        float high = -INFINITY, all = 0;
        for (int s = lane; s < splits; s += 32) high = fmaxf(high, __ldcg(at + s * d2 + a.d));
#pragma unroll
        for (int step = 16; step > 0; step /= 2) high = fmaxf(high, __shfl_xor_sync(~0u, high, step));
        for (int s = lane; s < splits; s += 32) {
            float by = __expf(__ldcg(at + s * d2 + a.d) - high);
            memory[g * MOST_SPLITS + s] = by;
            all = __fmaf_rn(__ldcg(at + s * d2 + a.d + 1), by, all);
        }
        all = 1.0f / warp_sum(all);
        for (int s = lane; s < splits; s += 32) memory[g * MOST_SPLITS + s] *= all;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < heads * a.d; i += blockDim.x) {
        int g = i / a.d, e = i % a.d;
        size_t head = (size_t)seq * a.heads + first_head + g;
        const float* at = a.parts + head * a.splits * d2 + e;
        float sum = 0;
#pragma unroll 8
        for (int s = 0; s < splits; s++) sum = __fmaf_rn(__ldcg(at + s * d2), memory[g * MOST_SPLITS + s], sum);
        a.out[head * a.d + e] = sum;
    }
}

#define STEP_ATTEND(L, G)                                                                                                  \
    extern "C" __global__ void __launch_bounds__(32 * WARPS) step_attend_##L##_##G(const __grid_constant__ Attention a) { attend<L, G>(a); }
STEP_ATTEND(8, 1) STEP_ATTEND(8, 2) STEP_ATTEND(8, 4) STEP_ATTEND(8, 8)
STEP_ATTEND(16, 1) STEP_ATTEND(16, 2) STEP_ATTEND(16, 4) STEP_ATTEND(16, 8)
STEP_ATTEND(32, 1) STEP_ATTEND(32, 2) STEP_ATTEND(32, 4)
