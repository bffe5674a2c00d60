// Causal attention and its backward inside documents: token i of n sees keys start(i) … i, where its document begins. Starts never
// fall, so a batch of sequences is one row of tokens. Tensors are (tokens, heads · dim); several query heads share one
// key-value head.
//
// FlashAttention-2's tiling (Dao 2023): scores exist tile by tile, forward leaves the log-sum-exp, backward recomputes the
// probabilities from it. Keys' gradients are gathered by the block that owns the keys, so nothing is added atomically.

#pragma once

#include "train.cuh"

// Where documents begin: `segments` says it within each sequence of `length` tokens.
struct Seen {
    const uint32_t* segments;
    int length;
    DEV_IN int start(int i) const { return i / length * length + (int)segments[i]; }
};

// ---- Any dim up to 256, a warp for each (token, head): exact in f32, and the reference of the tensor-core kernels. ----

#define WARP_ITEM(items)                                                               \
    int item = (blockIdx.x * blockDim.x + threadIdx.x) / 32, lane = threadIdx.x % 32;  \
    if (item >= items) return

template <class T>
DEV void head8(const T* p, int dim, int lane, float (&v)[8]) {
#pragma unroll
    for (int j = 0; j < 8; j++) v[j] = lane + 32 * j < dim ? get(p[lane + 32 * j]) : 0.0f;
}
template <class T>
DEV void write8(T* p, int dim, int lane, const float (&v)[8]) {
#pragma unroll
    for (int j = 0; j < 8; j++)
        if (lane + 32 * j < dim) put(p + lane + 32 * j, v[j]);
}
DEV float dot8(const float (&a)[8], const float (&b)[8]) {
    float sum = 0;
#pragma unroll
    for (int j = 0; j < 8; j++) sum += a[j] * b[j];
    return warp_sum(sum);
}

template <class T>
DEV void attend_plain(const T* q, const T* k, const T* v, T* out, float* log_sum_exp, Seen seen, int n, int heads,
                      int kv_heads, int dim, float scale) {
    WARP_ITEM(n * heads);
    int row = item / heads, kv = item % heads / (heads / kv_heads);
    float query[8], x[8], acc[8] = {}, most = -INFINITY, total = 0;
    head8(q + (size_t)item * dim, dim, lane, query);
    for (int j = seen.start(row); j <= row; j++) {
        size_t at = ((size_t)j * kv_heads + kv) * dim;
        head8(k + at, dim, lane, x);
        float s = dot8(query, x) * scale, high = fmaxf(most, s), shrink = expf(most - high), p = expf(s - high);
        most = high;
        total = total * shrink + p;
        head8(v + at, dim, lane, x);
#pragma unroll
        for (int i = 0; i < 8; i++) acc[i] = acc[i] * shrink + p * x[i];
    }
#pragma unroll
    for (int i = 0; i < 8; i++) acc[i] /= total;
    write8(out + (size_t)item * dim, dim, lane, acc);
    if (lane == 0) log_sum_exp[item] = most + logf(total);
}

// delta = ⟨out, dout⟩ of each (token, head). Grid items / 4, block 128.
template <class T>
DEV void attend_delta(const T* out, const T* dout, float* delta, int items, int dim) {
    WARP_ITEM(items);
    float a[8], b[8];
    head8(out + (size_t)item * dim, dim, lane, a);
    head8(dout + (size_t)item * dim, dim, lane, b);
    float sum = dot8(a, b);
    if (lane == 0) delta[item] = sum;
}

template <class T>
DEV void attend_plain_dq(const T* q, const T* k, const T* v, const T* dout, const float* log_sum_exp, const float* delta, T* dq,
                         Seen seen, int n, int heads, int kv_heads, int dim, float scale) {
    WARP_ITEM(n * heads);
    int row = item / heads, kv = item % heads / (heads / kv_heads);
    float query[8], grad[8], key[8], value[8], acc[8] = {};
    head8(q + (size_t)item * dim, dim, lane, query);
    head8(dout + (size_t)item * dim, dim, lane, grad);
    for (int j = seen.start(row); j <= row; j++) {
        size_t at = ((size_t)j * kv_heads + kv) * dim;
        head8(k + at, dim, lane, key);
        head8(v + at, dim, lane, value);
        float p = expf(dot8(query, key) * scale - log_sum_exp[item]);
        float ds = p * (dot8(grad, value) - delta[item]) * scale;
#pragma unroll
        for (int i = 0; i < 8; i++) acc[i] += ds * key[i];
    }
    write8(dq + (size_t)item * dim, dim, lane, acc);
}

template <class T>
DEV void attend_plain_dkv(const T* q, const T* k, const T* v, const T* dout, const float* log_sum_exp, const float* delta, T* dk,
                          T* dv, Seen seen, int n, int heads, int kv_heads, int dim, float scale) {
    WARP_ITEM(n * kv_heads);
    int j = item / kv_heads, kv = item % kv_heads, group = heads / kv_heads;
    float key[8], value[8], query[8], grad[8], acck[8] = {}, accv[8] = {};
    head8(k + (size_t)item * dim, dim, lane, key);
    head8(v + (size_t)item * dim, dim, lane, value);
    for (int h = kv * group; h < (kv + 1) * group; h++) {
        for (int row = j; row < n && seen.start(row) <= j; row++) {
            size_t at = (size_t)row * heads + h;
            head8(q + at * dim, dim, lane, query);
            head8(dout + at * dim, dim, lane, grad);
            float p = expf(dot8(query, key) * scale - log_sum_exp[at]);
            float ds = p * (dot8(grad, value) - delta[at]) * scale;
#pragma unroll
            for (int i = 0; i < 8; i++) accv[i] += p * grad[i], acck[i] += ds * query[i];
        }
    }
    write8(dk + (size_t)item * dim, dim, lane, acck);
    write8(dv + (size_t)item * dim, dim, lane, accv);
}

// ---- bf16 on tensor cores: mma.m16n8k16, f32 sums. Blocks of 128 threads, a warp for each 16 rows of the block's 64. ----

// c (16, 8) += a (16, 16) · b (16, 8).
DEV void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
DEV void load4(uint32_t (&r)[4], const bf16* p) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(p)));
}
DEV void load4t(uint32_t (&r)[4], const bf16* p) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(p)));
}
DEV uint32_t pack(float a, float b) {
    __nv_bfloat162 v = __floats2bfloat162_rn(a, b);
    return *(uint32_t*)&v;
}

// A tile of ROWS rows of D elements in shared memory, rows 8 elements apart from a multiple of 64 so that eight rows' 16-byte
// pieces lie in different banks.
template <int D, int ROWS>
struct Tile {
    static constexpr int LD = D + 8, SIZE = ROWS * LD;
    // Rows first … of one head of x, whose rows are ld apart; zeros from row n on.
    DEV void fill(bf16* tile, const bf16* x, int ld, int first, int n) {
        for (int i = threadIdx.x; i < ROWS * D / 8; i += 128) {
            int r = i / (D / 8), c = i % (D / 8) * 8;
            uint4 v = make_uint4(0, 0, 0, 0);
            if (first + r < n) v = *(const uint4*)(x + (size_t)(first + r) * ld + c);
            *(uint4*)(tile + r * LD + c) = v;
        }
    }
    // Rows 16 · i … and columns 16 · c … as the left operand.
    DEV void left(uint32_t (&a)[4], const bf16* tile, int i, int c) {
        int lane = threadIdx.x % 32;
        load4(a, tile + (16 * i + lane % 16) * LD + 16 * c + lane / 16 * 8);
    }
    // The transpose of rows 16 · j …, columns 16 · c … as two right operands: (b[0], b[1]) of rows 0 … 7, (b[2], b[3]) of the rest.
    DEV void right_t(uint32_t (&b)[4], const bf16* tile, int j, int c) {
        int lane = threadIdx.x % 32;
        load4(b, tile + (16 * j + lane / 16 * 8 + lane % 8) * LD + 16 * c + lane / 8 % 2 * 8);
    }
    // Rows 16 · k …, columns 16 · j … as two right operands, of columns 0 … 7 and of the rest.
    DEV void right(uint32_t (&b)[4], const bf16* tile, int k, int j) {
        int lane = threadIdx.x % 32;
        load4t(b, tile + (16 * k + lane % 16) * LD + 16 * j + lane / 16 * 8);
    }
};

// acc (16, D) += p (16, ROWS) · tile, p in accumulator layout.
template <int D, int ROWS>
DEV void add_product(float (&acc)[D / 8][4], const float (&p)[ROWS / 8][4], const bf16* tile) {
#pragma unroll
    for (int k = 0; k < ROWS / 16; k++) {
        uint32_t a[4] = {pack(p[2 * k][0], p[2 * k][1]), pack(p[2 * k][2], p[2 * k][3]),
                         pack(p[2 * k + 1][0], p[2 * k + 1][1]), pack(p[2 * k + 1][2], p[2 * k + 1][3])};
#pragma unroll
        for (int j = 0; j < D / 16; j++) {
            uint32_t b[4];
            Tile<D, ROWS>::right(b, tile, k, j);
            mma(acc[2 * j], a, b[0], b[1]);
            mma(acc[2 * j + 1], a, b[2], b[3]);
        }
    }
}

// Writes rows first … of a warp's accumulators (16, D).
template <int D>
DEV void write(bf16* x, int ld, int first, int n, const float (&acc)[D / 8][4], float low, float high) {
    int lane = threadIdx.x % 32, r = first + lane / 4;
#pragma unroll
    for (int j = 0; j < D / 8; j++) {
        int c = 8 * j + 2 * (lane % 4);
        if (r < n) *(uint32_t*)(x + (size_t)r * ld + c) = pack(acc[j][0] * low, acc[j][1] * low);
        if (r + 8 < n) *(uint32_t*)(x + (size_t)(r + 8) * ld + c) = pack(acc[j][2] * high, acc[j][3] * high);
    }
}

#define LOG2E 1.4426950408889634f

// Grid (tokens / 64, heads), block 128.
template <int D>
DEV void attend(const bf16* q, const bf16* k, const bf16* v, bf16* out, float* log_sum_exp, Seen seen, int n,
                int heads, int kv_heads, float scale) {
    typedef Tile<D, 64> Rows;
    extern __shared__ __align__(16) bf16 shared[];
    bf16 *keys = shared, *values = shared + Rows::SIZE;
    int first = (gridDim.x - 1 - blockIdx.x) * 64, head = blockIdx.y, kv = head / (heads / kv_heads);
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, ldq = heads * D, ldk = kv_heads * D;
    Rows::fill(keys, q + head * D, ldq, first, n);
    __syncthreads();
    uint32_t query[D / 16][4];
#pragma unroll
    for (int c = 0; c < D / 16; c++) Rows::left(query[c], keys, warp, c);
    __syncthreads();
    int row = first + 16 * warp + lane / 4;
    int from[2] = {row < n ? seen.start(row) : n, row + 8 < n ? seen.start(row + 8) : n};
    int last = min(first + 64, n), all_from = seen.start(last - 1);
    float acc[D / 8][4] = {}, most[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0};
    scale *= LOG2E;
    for (int at = seen.start(first) / 64 * 64; at < last; at += 64) {
        Rows::fill(keys, k + kv * D, ldk, at, n);
        Rows::fill(values, v + kv * D, ldk, at, n);
        __syncthreads();
        float s[8][4] = {};
#pragma unroll
        for (int c = 0; c < D / 16; c++) {
#pragma unroll
            for (int j = 0; j < 4; j++) {
                uint32_t b[4];
                Rows::right_t(b, keys, j, c);
                mma(s[2 * j], query[c], b[0], b[1]);
                mma(s[2 * j + 1], query[c], b[2], b[3]);
            }
        }
        bool edge = at + 64 > first || at < all_from || last < first + 64;
#pragma unroll
        for (int j = 0; j < 8; j++) {
#pragma unroll
            for (int e = 0; e < 4; e++) {
                int key = at + 8 * j + 2 * (lane % 4) + e % 2;
                bool open = !edge || (key <= row + e / 2 * 8 && key >= from[e / 2]);
                s[j][e] = open ? s[j][e] * scale : -INFINITY;
            }
        }
#pragma unroll
        for (int e = 0; e < 2; e++) {
            float high = most[e];
#pragma unroll
            for (int j = 0; j < 8; j++) high = fmaxf(high, fmaxf(s[j][2 * e], s[j][2 * e + 1]));
            high = fmaxf(high, __shfl_xor_sync(~0u, high, 1));
            high = fmaxf(high, __shfl_xor_sync(~0u, high, 2));
            float zero = high == -INFINITY ? 0.0f : high, shrink = exp2f(most[e] - zero), sum = 0;
            most[e] = high;
#pragma unroll
            for (int j = 0; j < 8; j++) {
                s[j][2 * e] = exp2f(s[j][2 * e] - zero);
                s[j][2 * e + 1] = exp2f(s[j][2 * e + 1] - zero);
                sum += s[j][2 * e] + s[j][2 * e + 1];
            }
            total[e] = total[e] * shrink + sum;
#pragma unroll
            for (int j = 0; j < D / 8; j++) acc[j][2 * e] *= shrink, acc[j][2 * e + 1] *= shrink;
        }
        add_product<D, 64>(acc, s, values);
        __syncthreads();
    }
#pragma unroll
    for (int e = 0; e < 2; e++) {
        total[e] += __shfl_xor_sync(~0u, total[e], 1);
        total[e] += __shfl_xor_sync(~0u, total[e], 2);
        int r = row + 8 * e;
        if (r < n && lane % 4 == 0) log_sum_exp[(size_t)r * heads + head] = most[e] / LOG2E + logf(total[e]);
    }
    write<D>(out + head * D, ldq, first + 16 * warp, n, acc, 1.0f / total[0], 1.0f / total[1]);
}

// Keys taken at a time by attend_dq, and queries by attend_dkv: fewer where heads are wide, for registers' sake.
template <int D>
constexpr int STRIDE = D > 64 ? 32 : 64;

// Grid (tokens / 64, heads), block 128.
template <int D>
DEV void attend_dq(const bf16* q, const bf16* k, const bf16* v, const bf16* dout, const float* log_sum_exp, const float* delta,
                   bf16* dq, Seen seen, int n, int heads, int kv_heads, float scale) {
    constexpr int S = STRIDE<D>;
    typedef Tile<D, 64> Rows;
    typedef Tile<D, S> Keys;
    extern __shared__ __align__(16) bf16 shared[];
    bf16 *keys = shared, *values = shared + Keys::SIZE;
    int first = (gridDim.x - 1 - blockIdx.x) * 64, head = blockIdx.y, kv = head / (heads / kv_heads);
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, ldq = heads * D, ldk = kv_heads * D;
    uint32_t query[D / 16][4], grad[D / 16][4];
    Rows::fill(shared, q + head * D, ldq, first, n);
    __syncthreads();
#pragma unroll
    for (int c = 0; c < D / 16; c++) Rows::left(query[c], shared, warp, c);
    __syncthreads();
    Rows::fill(shared, dout + head * D, ldq, first, n);
    __syncthreads();
#pragma unroll
    for (int c = 0; c < D / 16; c++) Rows::left(grad[c], shared, warp, c);
    __syncthreads();
    int row = first + 16 * warp + lane / 4;
    int from[2];
    float whole[2], less[2];
#pragma unroll
    for (int e = 0; e < 2; e++) {
        int r = row + 8 * e;
        from[e] = r < n ? seen.start(r) : n;
        whole[e] = r < n ? log_sum_exp[(size_t)r * heads + head] * LOG2E : 0;
        less[e] = r < n ? delta[(size_t)r * heads + head] : 0;
    }
    float acc[D / 8][4] = {};
    int last = min(first + 64, n);
    for (int at = seen.start(first) / S * S; at < last; at += S) {
        Keys::fill(keys, k + kv * D, ldk, at, n);
        Keys::fill(values, v + kv * D, ldk, at, n);
        __syncthreads();
        float s[S / 8][4] = {}, dp[S / 8][4] = {};
#pragma unroll
        for (int c = 0; c < D / 16; c++) {
#pragma unroll
            for (int j = 0; j < S / 16; j++) {
                uint32_t b[4];
                Keys::right_t(b, keys, j, c);
                mma(s[2 * j], query[c], b[0], b[1]);
                mma(s[2 * j + 1], query[c], b[2], b[3]);
                Keys::right_t(b, values, j, c);
                mma(dp[2 * j], grad[c], b[0], b[1]);
                mma(dp[2 * j + 1], grad[c], b[2], b[3]);
            }
        }
#pragma unroll
        for (int j = 0; j < S / 8; j++) {
#pragma unroll
            for (int e = 0; e < 4; e++) {
                int key = at + 8 * j + 2 * (lane % 4) + e % 2;
                bool open = key <= row + e / 2 * 8 && key >= from[e / 2];
                float p = open ? exp2f(s[j][e] * (scale * LOG2E) - whole[e / 2]) : 0.0f;
                s[j][e] = p * (dp[j][e] - less[e / 2]) * scale;
            }
        }
        add_product<D, S>(acc, s, keys);
        __syncthreads();
    }
    write<D>(dq + head * D, ldq, first + 16 * warp, n, acc, 1.0f, 1.0f);
}

// Scores are made transposed, keys down and queries across, so that they are left operands as they come. Grid (tokens / 64,
// kv heads), block 128.
template <int D>
DEV void attend_dkv(const bf16* q, const bf16* k, const bf16* v, const bf16* dout, const float* log_sum_exp, const float* delta,
                    bf16* dk, bf16* dv, Seen seen, int n, int heads, int kv_heads, float scale) {
    constexpr int S = STRIDE<D>;
    typedef Tile<D, 64> Rows;
    typedef Tile<D, S> Queries;
    extern __shared__ __align__(16) bf16 shared[];
    __shared__ float whole[S], less[S];
    __shared__ int from[S];
    bf16 *keys = shared, *values = keys + Rows::SIZE, *queries = values + Rows::SIZE, *grads = queries + Queries::SIZE;
    int first = blockIdx.x * 64, kv = blockIdx.y, group = heads / kv_heads;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, ldq = heads * D, ldk = kv_heads * D;
    Rows::fill(keys, k + kv * D, ldk, first, n);
    Rows::fill(values, v + kv * D, ldk, first, n);
    int row = first + 16 * warp + lane / 4;
    float acck[D / 8][4] = {}, accv[D / 8][4] = {};
    for (int head = kv * group; head < (kv + 1) * group; head++) {
        for (int at = first; at < n && seen.start(at) < first + 64; at += S) {
            __syncthreads();
            Queries::fill(queries, q + head * D, ldq, at, n);
            Queries::fill(grads, dout + head * D, ldq, at, n);
            for (int i = threadIdx.x; i < S; i += 128) {
                bool there = at + i < n;
                from[i] = there ? seen.start(at + i) : n;
                whole[i] = there ? log_sum_exp[(size_t)(at + i) * heads + head] * LOG2E : 0;
                less[i] = there ? delta[(size_t)(at + i) * heads + head] : 0;
            }
            __syncthreads();
            float p[S / 8][4] = {}, ds[S / 8][4] = {};
#pragma unroll
            for (int c = 0; c < D / 16; c++) {
                uint32_t a[4], b[4];
                Rows::left(a, keys, warp, c);
#pragma unroll
                for (int j = 0; j < S / 16; j++) {
                    Queries::right_t(b, queries, j, c);
                    mma(p[2 * j], a, b[0], b[1]);
                    mma(p[2 * j + 1], a, b[2], b[3]);
                }
                Rows::left(a, values, warp, c);
#pragma unroll
                for (int j = 0; j < S / 16; j++) {
                    Queries::right_t(b, grads, j, c);
                    mma(ds[2 * j], a, b[0], b[1]);
                    mma(ds[2 * j + 1], a, b[2], b[3]);
                }
            }
#pragma unroll
            for (int j = 0; j < S / 8; j++) {
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    int i = 8 * j + 2 * (lane % 4) + e % 2, key = row + e / 2 * 8;
                    bool open = key <= at + i && key >= from[i];
                    p[j][e] = open ? exp2f(p[j][e] * (scale * LOG2E) - whole[i]) : 0.0f;
                    ds[j][e] = p[j][e] * (ds[j][e] - less[i]) * scale;
                }
            }
            add_product<D, S>(accv, p, grads);
            add_product<D, S>(acck, ds, queries);
        }
    }
    write<D>(dk + kv * D, ldk, first + 16 * warp, n, acck, 1.0f, 1.0f);
    write<D>(dv + kv * D, ldk, first + 16 * warp, n, accv, 1.0f, 1.0f);
}
