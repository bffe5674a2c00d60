// Kernels around the matrix products of many rows: norms, gates and attention on tensor cores, matrices expanded for cuBLAS, and what
// loading needs.
//
// Rows go into products as `Out` says: f32 (exact), f16, or bf16 for weights in bf16. Values that f16 cannot hold are cut to its largest.

#include "planes.cuh"

enum Out { OUT_F32, OUT_F16, OUT_BF16 };

DEV float cut(float v) { return fminf(fmaxf(v, -65504.0f), 65504.0f); }
DEV void put(void* to, size_t i, float v, int type) {
    if (type == OUT_F32) ((float*)to)[i] = v;
    else if (type == OUT_F16) ((__half*)to)[i] = __float2half_rn(cut(v));
    else ((__nv_bfloat16*)to)[i] = __float2bfloat16_rn(v);
}

// out (rows, cols) = norm(x) · w · by, or x itself without w. Grid rows, block 256.
extern "C" __global__ void norm_rows(const float* x, const float* w, void* out, int cols, float eps, float by, int type) {
    __shared__ float part[8];
    const float* row = x + (size_t)blockIdx.x * cols;
    size_t at = (size_t)blockIdx.x * cols;
    if (!w) {
        for (int i = threadIdx.x; i < cols; i += blockDim.x) put(out, at + i, row[i], type);
        return;
    }
    float sum = 0;
    for (int i = threadIdx.x; i < cols; i += blockDim.x) sum = __fmaf_rn(row[i], row[i], sum);
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = sum;
    __syncthreads();
    float whole = 0;
    for (int i = 0; i < 8; i++) whole += part[i];
    float scale = 1.0f / sqrtf(whole / cols + eps);
    for (int i = threadIdx.x; i < cols; i += blockDim.x) put(out, at + i, row[i] * scale * w[i] * by, type);
}

// out = act(gate) · up. Grid n / 256, block 256.
extern "C" __global__ void gate_rows(const float* gate, const float* up, void* out, size_t n, int act, int type) {
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float x = gate[i];
    float steep = act ? 1.5957691216f * (x + 0.044715f * x * x * x) : x;
    put(out, i, x / (1.0f + expf(-steep)) * up[i], type);
}

// Blocks as a file stores them, cut in two: bytes from … from + body of each to `bodies`, the others to `heads`. Grid bytes / 256.
extern "C" __global__ void split_blocks(
    const uint8_t* blocks, uint8_t* bodies, uint8_t* heads, size_t bytes, int each, int from, int body) {
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= bytes) return;
    size_t block = i / each;
    int at = i % each;
    if (at >= from && at < from + body) bodies[block * body + at - from] = blocks[i];
    else heads[block * (each - body) + (at < from ? at : at - body)] = blocks[i];
}

// Pieces first … first + n of a matrix to `out`, element by element in its own order. A warp takes 32 pieces, which are whole runs of
// 256 elements, and turns them in shared memory. Grid n / 256, block 256; the last may be shorter.
template <class T, int OUT>
DEV void expand(const uint8_t* body, const uint8_t* head, void* out, size_t first, size_t n) {
    constexpr int GROUPS = T::N / 4, WIDE = OUT == OUT_F32 ? 4 : 2;
    __shared__ uint4 shared[8][32 * T::N * WIDE / 16];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    size_t base = (size_t)blockIdx.x * 256 + 32 * warp;
    if (base >= n) return;
    int here = (int)min((size_t)32, n - base);
    if (lane < here) {
        float v[T::N];
        decode_piece<T>(body, head, first + base + lane, v);
#pragma unroll
        for (int j = 0; j < GROUPS; j++) {
            int g = T::Layout::group(lane, j);
            if (OUT == OUT_F32) {
                ((float4*)shared[warp])[g] = make_float4(v[4 * j], v[4 * j + 1], v[4 * j + 2], v[4 * j + 3]);
            } else {
                ushort4 four;
                unsigned short* to = (unsigned short*)&four;
#pragma unroll
                for (int e = 0; e < 4; e++) put(to, e, v[4 * j + e], OUT);
                ((ushort4*)shared[warp])[g] = four;
            }
        }
    }
    __syncwarp();
    uint4* to = (uint4*)((uint8_t*)out + base * T::N * WIDE);
    int words = here * T::N * WIDE / 16;
    for (int i = lane; i < words; i += 32) to[i] = shared[warp][i];
}

// out (n, cols) = rows ids[n] of a table. Grid n, block 256.
template <class T>
DEV void lookup(const uint8_t* body, const uint8_t* head, const uint32_t* ids, float* out, int cols, float by) {
    size_t first = (size_t)ids[blockIdx.x] * (cols / T::N);
    for (int p = threadIdx.x; p < cols / T::N; p += blockDim.x) {
        float v[T::N];
        decode_piece<T>(body, head, first + p, v);
#pragma unroll
        for (int j = 0; j < T::N / 4; j++) {
            int g = T::Layout::group(p, j);
            float4 four = make_float4(v[4 * j] * by, v[4 * j + 1] * by, v[4 * j + 2] * by, v[4 * j + 3] * by);
            ((float4*)(out + (size_t)blockIdx.x * cols))[g] = four;
        }
    }
}

#define TYPE(name, T)                                                                                                      \
    extern "C" __global__ void expand_f32_##name(const uint8_t* b, const uint8_t* h, void* o, size_t f, size_t n) {         \
        expand<T, OUT_F32>(b, h, o, f, n);                                                                                 \
    }                                                                                                                      \
    extern "C" __global__ void expand_f16_##name(const uint8_t* b, const uint8_t* h, void* o, size_t f, size_t n) {         \
        expand<T, OUT_F16>(b, h, o, f, n);                                                                                 \
    }                                                                                                                      \
    extern "C" __global__ void expand_bf16_##name(const uint8_t* b, const uint8_t* h, void* o, size_t f, size_t n) {        \
        expand<T, OUT_BF16>(b, h, o, f, n);                                                                                \
    }                                                                                                                      \
    extern "C" __global__ void lookup_##name(                                                                              \
        const uint8_t* b, const uint8_t* h, const uint32_t* ids, float* out, int cols, float by) {                          \
        lookup<T>(b, h, ids, out, cols, by);                                                                               \
    }
WEIGHT_TYPES(TYPE)

// Row formats of the cache, numbered as in Rust.
enum Format { KV_F32, KV_F16, KV_BF16, KV_Q8_0, KV_Q4_0 };

// Rows first … first + n of one layer's cache to another's with as many heads: row r of the one, modulo its capacity, becomes row r − first
// + to, modulo the other's. Grid (n, heads), block 64.
extern "C" __global__ void copy_rows(
    const uint8_t* from, uint8_t* into, int from_capacity, int into_capacity, int first, int to, int k_bytes, int v_bytes) {
    size_t row = (first + blockIdx.x) % from_capacity, there = (to + blockIdx.x) % into_capacity;
    size_t both = k_bytes + v_bytes;
    const uint8_t* head = from + blockIdx.y * both * from_capacity;
    uint8_t* into_head = into + blockIdx.y * both * into_capacity;
    for (int i = threadIdx.x; i < k_bytes; i += blockDim.x) into_head[there * k_bytes + i] = head[row * k_bytes + i];
    head += (size_t)k_bytes * from_capacity;
    into_head += (size_t)k_bytes * into_capacity;
    for (int i = threadIdx.x; i < v_bytes; i += blockDim.x) into_head[there * v_bytes + i] = head[row * v_bytes + i];
}

struct Flash {
    const float* q;
    const uint8_t *keys, *values;
    void* out;
    size_t head_bytes;
    int m, before, heads, group, d, window, k_format, k_bytes, v_format, v_bytes, type;
    float scale, cap, pad;
};

DEV void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
DEV uint32_t address(const void* p) { return (uint32_t)__cvta_generic_to_shared(p); }
DEV void matrices(uint32_t (&r)[4], const void* p) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address(p)));
}
DEV void matrices_turned(uint32_t (&r)[4], const void* p) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address(p)));
}
DEV uint32_t pack(float a, float b) {
    __half2 h = __floats2half2_rn(a, b);
    return *(uint32_t*)&h;
}

// Eight elements of a cached row as f16, cut to what it holds.
DEV uint4 eight(int format, const uint8_t* row, int i) {
    float v[8];
    if (format == KV_F32) {
        for (int e = 0; e < 8; e++) v[e] = cut(float_anywhere(row + 4 * (i + e)));
    } else if (format == KV_BF16) {
        for (int e = 0; e < 8; e++) v[e] = cut(__uint_as_float((uint32_t)((const uint16_t*)row)[i + e] << 16));
    } else if (format == KV_Q8_0) {
        const uint8_t* block = row + 34 * (i / 32);
        float d = half_at(block);
        for (int e = 0; e < 8; e++) v[e] = d * (float)(int8_t)block[2 + i % 32 + e];
    } else {
        const uint8_t* block = row + 18 * (i / 32);
        float d = half_at(block);
        for (int e = 0; e < 8; e++) v[e] = d * (float)((block[2 + i % 16 + e] >> (i % 32 / 16 * 4) & 15) - 8);
    }
    return make_uint4(pack(v[0], v[1]), pack(v[2], v[3]), pack(v[4], v[5]), pack(v[6], v[7]));
}

// Rows first … first + KT of keys or values to shared memory, D + 8 elements apart; rows and elements that are not there are zeros.
template <int D, int KT>
DEV void fetch(int format, const uint8_t* from, int bytes, int first, int rows, int d, __half* to) {
    bool aligned = ((size_t)from & 15) == 0;
    for (int i = threadIdx.x % 128; i < KT * (D / 8); i += 128) {
        int r = i / (D / 8), c = 8 * (i % (D / 8));
        __half* at = to + r * (D + 8) + c;
        if (first + r >= rows || c >= d) {
            *(uint4*)at = make_uint4(0, 0, 0, 0);
        } else if (format == KV_F16 && !aligned) {
            *(uint4*)at = load16_anywhere(from + (size_t)(first + r) * bytes + 2 * c);
        } else if (format == KV_F16) {
            asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address(at)), "l"(from + (size_t)(first + r) * bytes + 2 * c));
        } else {
            *(uint4*)at = eight(format, from + (size_t)(first + r) * bytes, c);
        }
    }
    asm volatile("cp.async.commit_group;");
}

// out (m, heads · d) = softmax(q Kᵀ) V: 64 queries of a head a block, 16 a warp; keys and values pass through shared memory, one tile
// being fetched while another is used; scores stay in registers. Query i sees rows before + i and those before it, as many as the
// window where there is one. Where there are too few blocks to keep the card busy, SHARES groups of four warps take every SHARES-th tile
// each, and are joined in the end. Grid (m / 64, heads), block 128 · SHARES.
template <int D, int KT, int SHARES>
DEV void flash(const Flash& a) {
    extern __shared__ __half shared[];
    constexpr int LD = D + 8, STEPS = D / 16, TILES = KT / 8;
    constexpr float LOG2E = 1.4426950408889634f;
    int share = threadIdx.x / 128;
    __half *tiles = shared + share * 4 * KT * LD, *keys = tiles, *values = tiles + 2 * KT * LD;
    int lane = threadIdx.x % 32, warp = threadIdx.x % 128 / 32, head = blockIdx.y, start = (gridDim.x - 1 - blockIdx.x) * 64;
    const uint8_t* k_rows = a.keys + (head / a.group) * a.head_bytes;
    const uint8_t* v_rows = a.values + (head / a.group) * a.head_bytes;
    int rows = a.before + min(a.m, start + 64);
    int from = a.window ? max(0, a.before + start - a.window + 1) / KT : 0, tiles_end = (rows + KT - 1) / KT;
    // Queries to fragments, by way of the keys' room: warp w takes rows 16w … 16w + 15.
    uint32_t q[STEPS][4];
    {
        for (int i = threadIdx.x % 128; i < 64 * (D / 2); i += 128) {
            int r = i / (D / 2), c = 2 * (i % (D / 2));
            float x = 0, y = 0;
            if (start + r < a.m && c < a.d) {
                const float* at = a.q + ((size_t)(start + r) * a.heads + head) * a.d + c;
                x = cut(at[0] * a.scale);
                y = cut(at[1] * a.scale);
            }
            *(uint32_t*)(tiles + r * LD + c) = pack(x, y);
        }
        __syncthreads();
#pragma unroll
        for (int s = 0; s < STEPS; s++) matrices(q[s], tiles + (16 * warp + lane % 16) * LD + 16 * s + lane / 16 * 8);
        __syncthreads();
    }
    float o[D / 8][4] = {}, most[2] = {-INFINITY, -INFINITY}, total[2] = {};
    fetch<D, KT>(a.k_format, k_rows, a.k_bytes, (from + share) * KT, rows, a.d, keys);
    fetch<D, KT>(a.v_format, v_rows, a.v_bytes, (from + share) * KT, rows, a.d, values);
    for (int turn = 0; from + turn * SHARES < tiles_end; turn++) {
        int t = from + turn * SHARES + share, at = turn % 2;
        __half *k = keys + at * KT * LD, *v = values + at * KT * LD;
        asm volatile("cp.async.wait_group 0;");
        __syncthreads();
        if (t + SHARES < tiles_end) {
            fetch<D, KT>(a.k_format, k_rows, a.k_bytes, (t + SHARES) * KT, rows, a.d, keys + (1 - at) * KT * LD);
            fetch<D, KT>(a.v_format, v_rows, a.v_bytes, (t + SHARES) * KT, rows, a.d, values + (1 - at) * KT * LD);
        }
        if (t >= tiles_end) continue;
        float s[TILES][4] = {};
#pragma unroll
        for (int step = 0; step < STEPS; step++) {
#pragma unroll
            for (int n = 0; n < TILES; n += 2) {
                uint32_t b[4];
                matrices(b, k + (8 * n + lane % 8 + lane / 16 * 8) * LD + 16 * step + lane / 8 % 2 * 8);
                mma(s[n], q[step], b[0], b[1]);
                mma(s[n + 1], q[step], b[2], b[3]);
            }
        }
        // Rows lane / 4 and lane / 4 + 8 of the warp's sixteen, columns 2 (lane % 4) and the next of every tile.
        int query = start + 16 * warp + lane / 4, first = t * KT;
        bool edge = first + KT > a.before + start + 1 || (a.window && first <= a.before + start + 63 - a.window);
        if (a.cap > 0) {
#pragma unroll
            for (int n = 0; n < TILES; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) s[n][i] = a.cap * tanhf(s[n][i] / a.cap);
        }
        if (edge) {
#pragma unroll
            for (int n = 0; n < TILES; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    int row = first + 8 * n + 2 * (lane % 4) + i % 2, sees = a.before + query + i / 2 * 8;
                    if (row > sees || (a.window && row <= sees - a.window)) s[n][i] = -INFINITY;
                }
        }
        uint32_t p[TILES][2];
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float high = most[half];
#pragma unroll
            for (int n = 0; n < TILES; n++) high = fmaxf(high, fmaxf(s[n][2 * half], s[n][2 * half + 1]));
            high = fmaxf(high, __shfl_xor_sync(~0u, high, 1));
            high = fmaxf(high, __shfl_xor_sync(~0u, high, 2));
            float base = high == -INFINITY ? 0 : high * LOG2E;
            float shrink = exp2f(most[half] * LOG2E - base), sum = 0;
            most[half] = high;
#pragma unroll
            for (int n = 0; n < TILES; n++) {
                float x = exp2f(__fmaf_rn(s[n][2 * half], LOG2E, -base)), y = exp2f(__fmaf_rn(s[n][2 * half + 1], LOG2E, -base));
                sum += x + y;
                p[n][half] = pack(x, y);
            }
            total[half] = total[half] * shrink + sum;
#pragma unroll
            for (int n = 0; n < D / 8; n++) {
                o[n][2 * half] *= shrink;
                o[n][2 * half + 1] *= shrink;
            }
        }
#pragma unroll
        for (int step = 0; step < KT / 16; step++) {
            const uint32_t w[4] = {p[2 * step][0], p[2 * step][1], p[2 * step + 1][0], p[2 * step + 1][1]};
#pragma unroll
            for (int n = 0; n < D / 8; n += 2) {
                uint32_t b[4];
                matrices_turned(b, v + (16 * step + lane % 16) * LD + 8 * n + lane / 16 * 8);
                mma(o[n], w, b[0], b[1]);
                mma(o[n + 1], w, b[2], b[3]);
            }
        }
    }
    if constexpr (SHARES > 1) {
        constexpr int EACH = D / 2 + 4;
        float* mine = (float*)shared + threadIdx.x % 128;
        __syncthreads();
        for (int other = 1; other < SHARES; other++) {
            if (share == other) {
#pragma unroll
                for (int n = 0; n < D / 8; n++)
#pragma unroll
                    for (int i = 0; i < 4; i++) mine[(4 * n + i) * 128] = o[n][i];
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    mine[(EACH - 4 + half) * 128] = most[half];
                    mine[(EACH - 2 + half) * 128] = total[half];
                }
            }
            __syncthreads();
            if (share == 0) {
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    float theirs = mine[(EACH - 4 + half) * 128], high = fmaxf(most[half], theirs);
                    float u = most[half] == -INFINITY ? 0 : exp2f((most[half] - high) * LOG2E);
                    float v = theirs == -INFINITY ? 0 : exp2f((theirs - high) * LOG2E);
                    most[half] = high;
                    total[half] = total[half] * u + mine[(EACH - 2 + half) * 128] * v;
#pragma unroll
                    for (int n = 0; n < D / 8; n++)
#pragma unroll
                        for (int i = 0; i < 2; i++)
                            o[n][2 * half + i] = o[n][2 * half + i] * u + mine[(4 * n + 2 * half + i) * 128] * v;
                }
            }
            __syncthreads();
        }
        if (share > 0) return;
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float sum = total[half];
        sum += __shfl_xor_sync(~0u, sum, 1);
        sum += __shfl_xor_sync(~0u, sum, 2);
        int query = start + 16 * warp + lane / 4 + 8 * half;
        if (query >= a.m) continue;
#pragma unroll
        for (int n = 0; n < D / 8; n++) {
            int c = 8 * n + 2 * (lane % 4);
            if (c >= a.d) continue;
            size_t at = ((size_t)query * a.heads + head) * a.d + c;
            put(a.out, at, o[n][2 * half] / sum, a.type);
            put(a.out, at + 1, o[n][2 * half + 1] / sum, a.type);
        }
    }
}
#define FLASH(name, d, tile, shares)                                                                                        \
    extern "C" __global__ void __launch_bounds__(128 * shares) name(const __grid_constant__ Flash a) { flash<d, tile, shares>(a); }
FLASH(flash_64, 64, 64, 1)
FLASH(flash_128, 128, 64, 1)
FLASH(flash_256, 256, 32, 1)
FLASH(flash_64_shared, 64, 64, 3)
FLASH(flash_128_shared, 128, 64, 2)
