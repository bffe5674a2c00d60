// Kernels of fine-tuning: each op's forward and its vector-Jacobian product, the loss, and the updates. Arithmetic is f32
// whatever the elements are; every sum has one order, so a step gives the same bits each time. Rows of norms and tables are
// multiples of 8 elements and start at 16 bytes; elementwise kernels take any length.

#include "train.cuh"
#include "train_attention.cuh"

// y = x · ρ · w, ρ = 1 / sqrt(mean(x²) + eps). Grid rows, block 128.
template <class T, class W>
DEV void norm(const T* x, const W* w, T* y, int cols, float eps) {
    const T* row = x + (size_t)blockIdx.x * cols;
    float sum = 0, v[8], u[8];
    for (int i = 8 * threadIdx.x; i < cols; i += 8 * blockDim.x) {
        get8(row + i, v);
#pragma unroll
        for (int j = 0; j < 8; j++) sum += v[j] * v[j];
    }
    float scale = 1.0f / sqrtf(block_sum(sum) / cols + eps);
    for (int i = 8 * threadIdx.x; i < cols; i += 8 * blockDim.x) {
        get8(row + i, v);
        get8(w + i, u);
#pragma unroll
        for (int j = 0; j < 8; j++) v[j] *= scale * u[j];
        put8(y + (size_t)blockIdx.x * cols + i, v);
    }
}

// dx += ρ (dy w) − x ρ³ / cols ⟨dy w, x⟩; ρ is left in rstd where given. Grid rows, block 128.
template <class T, class W>
DEV void norm_back(const T* x, const W* w, const T* dy, T* dx, float* rstd, int cols, float eps) {
    size_t at = (size_t)blockIdx.x * cols;
    float dot = 0, square = 0, a[8], b[8], c[8];
    for (int i = 8 * threadIdx.x; i < cols; i += 8 * blockDim.x) {
        get8(x + at + i, a);
        get8(w + i, b);
        get8(dy + at + i, c);
#pragma unroll
        for (int j = 0; j < 8; j++) dot += a[j] * b[j] * c[j], square += a[j] * a[j];
    }
    float r = 1.0f / sqrtf(block_sum(square) / cols + eps), k = block_sum(dot) * r * r * r / cols;
    if (rstd && threadIdx.x == 0) rstd[blockIdx.x] = r;
    for (int i = 8 * threadIdx.x; i < cols; i += 8 * blockDim.x) {
        get8(x + at + i, a);
        get8(w + i, b);
        get8(dy + at + i, c);
#pragma unroll
        for (int j = 0; j < 8; j++) c[j] = r * b[j] * c[j] - k * a[j];
        get8(dx + at + i, b);
#pragma unroll
        for (int j = 0; j < 8; j++) c[j] += b[j];
        put8(dx + at + i, c);
    }
}

// partial (parts, cols): sums over a share of rows of dy · x · rstd, or of dy where x is null. Grid (cols / 256, parts), block 256.
template <class T>
DEV void columns(const T* x, const float* rstd, const T* dy, float* partial, int rows, int cols) {
    int i = blockIdx.x * blockDim.x + threadIdx.x, share = (rows + gridDim.y - 1) / gridDim.y;
    if (i >= cols) return;
    float sum = 0;
    for (int r = blockIdx.y * share; r < min(rows, (int)(blockIdx.y + 1) * share); r++) {
        float v = get(dy[(size_t)r * cols + i]);
        sum += x ? v * get(x[(size_t)r * cols + i]) * rstd[r] : v;
    }
    partial[(size_t)blockIdx.y * cols + i] = sum;
}

// to (+)= the sum of partial's rows, in order. Grid cols / 256, block 256.
template <class G>
DEV void fold(const float* partial, G* to, int parts, int cols, int more) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= cols) return;
    float sum = more ? get(to[i]) : 0;
    for (int p = 0; p < parts; p++) sum += partial[(size_t)p * cols + i];
    put(to + i, sum);
}

// x (rows, cols) += bias (cols). Grid (cols / 256, rows), block 256.
template <class T, class W>
DEV void bias(T* x, const W* b, int cols) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= cols) return;
    T* at = x + (size_t)blockIdx.y * cols + i;
    put(at, get(*at) + get(b[i]));
}

// Turns the pairs of every head of x (rows, heads · dim) by the angles of its row's position, backwards where sign is −1.
// Grid rows, block 256.
template <class T>
DEV void turn(T* x, const float* cosines, const float* sines, const uint32_t* positions, int heads, int dim, int half,
              int interleaved, float sign) {
    T* row = x + (size_t)blockIdx.x * heads * dim;
    size_t at = (size_t)positions[blockIdx.x] * half;
    for (int i = threadIdx.x; i < heads * half; i += blockDim.x) {
        int j = i % half;
        T* head = row + i / half * dim;
        int a = interleaved ? 2 * j : j, b = interleaved ? 2 * j + 1 : j + half;
        float c = cosines[at + j], s = sign * sines[at + j], p = get(head[a]), q = get(head[b]);
        put(head + a, p * c - q * s);
        put(head + b, p * s + q * c);
    }
}

// Rows ids[i] of x to rows i of y, or where `back` rows i to rows ids[i]. Grid n, block 128.
template <class T>
DEV void pick(const T* x, const uint32_t* ids, T* y, int cols, int back) {
    size_t there = (size_t)ids[blockIdx.x] * cols, here = (size_t)blockIdx.x * cols;
    const T* from = x + (back ? here : there);
    T* to = y + (back ? there : here);
    for (int i = threadIdx.x; i < cols; i += blockDim.x) to[i] = from[i];
}

// table[ids[i]] += dy[i], in order of i: the block of an id's first row gathers all its rows. Grid m, block 128.
template <class T, class G>
DEV void embed_back(const T* dy, const uint32_t* ids, G* table, int m, int cols) {
    __shared__ uint32_t found[4];
    int first = blockIdx.x;
    uint32_t id = ids[first];
    int before = 0;
    for (int i = threadIdx.x; i < first && !before; i += blockDim.x) before = ids[i] == id;
    if (__syncthreads_or(before)) return;
    G* row = table + (size_t)id * cols;
    // 1024 columns at a time, so that a thread's sums stay in registers.
    for (int left = 0; left < cols; left += 1024) {
        int i = left + 8 * threadIdx.x;
        float sum[8], v[8];
        if (i < cols) get8(row + i, sum);
        for (int at = first; at < m; at += 128) {
            uint32_t votes = __ballot_sync(~0u, at + (int)threadIdx.x < m && ids[min(at + (int)threadIdx.x, m - 1)] == id);
            __syncthreads();
            if (threadIdx.x % 32 == 0) found[threadIdx.x / 32] = votes;
            __syncthreads();
            for (int w = 0; w < 4; w++) {
                for (uint32_t left_votes = found[w]; left_votes; left_votes &= left_votes - 1) {
                    int r = at + 32 * w + __ffs(left_votes) - 1;
                    if (i < cols) {
                        get8(dy + (size_t)r * cols + i, v);
#pragma unroll
                        for (int j = 0; j < 8; j++) sum[j] += v[j];
                    }
                }
            }
        }
        if (i < cols) put8(row + i, sum);
    }
}

// Elementwise kernels take eight elements a thread, at once where everything starts at 16 bytes (`whole`). Grid n / 2048,
// block 256.
struct Run {
    size_t i, n;
    bool whole;
    DEV_IN Run(size_t n, int whole)
        : i(8 * ((size_t)blockIdx.x * blockDim.x + threadIdx.x)), n(n), whole(whole && i + 8 <= n) {}
    template <class T>
    DEV_IN void get(const T* p, float (&v)[8]) const {
        if (whole) return get8(p + i, v);
#pragma unroll
        for (int j = 0; j < 8; j++) v[j] = i + j < n ? ::get(p[i + j]) : 0.0f;
    }
    template <class T>
    DEV_IN void put(T* p, const float (&v)[8]) const {
        if (whole) return put8(p + i, v);
#pragma unroll
        for (int j = 0; j < 8; j++)
            if (i + j < n) ::put(p + i + j, v[j]);
    }
};

// y = a y + b x; what is multiplied by 0 is not read.
template <class T, class U>
DEV void blend(T* y, const U* x, float a, float b, size_t n, int whole) {
    Run run(n, whole);
    float v[8] = {}, u[8] = {};
    if (b != 0) run.get(x, u);
    if (a != 0) run.get(y, v);
#pragma unroll
    for (int j = 0; j < 8; j++) v[j] = (a != 0 ? a * v[j] : 0.0f) + (b != 0 ? b * u[j] : 0.0f);
    run.put(y, v);
}

template <class T>
DEV void fill(T* y, float value, size_t n, int whole) {
    Run run(n, whole);
    float v[8] = {value, value, value, value, value, value, value, value};
    run.put(y, v);
}

DEV float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// p = silu(g) · u.
template <class T>
DEV void gate(const T* g, const T* u, T* p, size_t n, int whole) {
    Run run(n, whole);
    float a[8], b[8];
    run.get(g, a);
    run.get(u, b);
#pragma unroll
    for (int j = 0; j < 8; j++) a[j] = a[j] * sigmoid(a[j]) * b[j];
    run.put(p, a);
}

// In place: u = dp · silu(g), g = dp · u · σ(g) (1 + g (1 − σ(g))).
template <class T>
DEV void gate_back(const T* dp, T* g, T* u, size_t n, int whole) {
    Run run(n, whole);
    float a[8], b[8], c[8];
    run.get(g, a);
    run.get(u, b);
    run.get(dp, c);
#pragma unroll
    for (int j = 0; j < 8; j++) {
        float s = sigmoid(a[j]), up = c[j] * a[j] * s;
        a[j] = c[j] * b[j] * s * (1.0f + a[j] * (1.0f - s));
        b[j] = up;
    }
    run.put(g, a);
    run.put(u, b);
}

// Takes a block of logits a (rows, n), the vocabulary's entries first … first + n or those listed, into the running
// log-sum-exp, and the target's logit into `picked` where it lies in the block. Where wanted, `largest` is the largest logit of
// the row, infinity where its target is here and minus infinity where it has none. Grid rows, block 512.
template <class T>
DEV void log_sum_exp(const T* a, const uint32_t* targets, float* log_sum_exp, float* picked, int n, uint32_t first,
                     const uint32_t* listed, float* largest) {
    const T* row = a + (size_t)blockIdx.x * n;
    float most = -INFINITY, total = 0;
    // Eight at a time where rows start at 16 bytes: one correction of the sum for eight logits.
    int eights = ((size_t)row % 16 == 0) ? n / 8 * 8 : 0;
    for (int i = 8 * threadIdx.x; i < eights; i += 8 * blockDim.x) {
        float v[8], high = most;
        get8(row + i, v);
#pragma unroll
        for (int j = 0; j < 8; j++) high = fmaxf(high, v[j]);
        if (high > most) {
            total *= expf(most - high);
            most = high;
        }
#pragma unroll
        for (int j = 0; j < 8; j++) total += expf(v[j] - most);
    }
    for (int i = eights + threadIdx.x; i < n; i += blockDim.x) {
        float v = get(row[i]);
        if (v > most) {
            total = total * expf(most - v) + 1.0f;
            most = v;
        } else {
            total += expf(v - most);
        }
    }
    float here = block_max(most), before = log_sum_exp[blockIdx.x], high = fmaxf(here, before);
    total = block_sum(total == 0 ? 0.0f : total * expf(most - high));
    uint32_t wanted = targets[blockIdx.x];
    if (threadIdx.x == 0) {
        log_sum_exp[blockIdx.x] = high + logf(total + expf(before - high));
        uint32_t target = wanted - first;
        bool inside = !listed && wanted != ~0u && target < (uint32_t)n;
        if (inside) picked[blockIdx.x] = get(row[target]);
        if (largest) largest[blockIdx.x] = wanted == ~0u ? -INFINITY : inside ? INFINITY : here;
    }
    if (!listed) return;
    // An entry is listed once: one thread at most finds it, after the line above.
    __syncthreads();
    for (int i = threadIdx.x; i < n; i += blockDim.x)
        if (listed[i] == wanted) {
            picked[blockIdx.x] = get(row[i]);
            if (largest) largest[blockIdx.x] = INFINITY;
        }
}

// One pass of a bitonic network that sorts the numbers of x (n) by falling value, by the total order of floats, those of one
// value by number: element i meets element i ^ mask; a mask of 0 writes the numbers as they are. Grid n / 256, block 256.
extern "C" __global__ void sort_pass(const float* x, uint32_t* ids, int n, int mask) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    if (mask == 0) {
        ids[i] = i;
        return;
    }
    int j = i ^ mask;
    if (j <= i || j >= n) return;
    uint32_t a = ids[i], b = ids[j];
    int p = __float_as_int(x[a]), q = __float_as_int(x[b]);
    p ^= (p >> 31) & 0x7fffffff;
    q ^= (q >> 31) & 0x7fffffff;
    if (p > q || (p == q && a < b)) return;
    ids[i] = b;
    ids[j] = a;
}

// a = scale · (exp(a − log_sum_exp) − [target]), zeros in rows without a target (id 2^32 − 1); columns are the entries from first
// on, or those listed. Grid (n / 1024, rows), block 256.
template <class T>
DEV void cross_entropy_vjp(T* a, const uint32_t* targets, const float* log_sum_exp, int n, uint32_t first,
                           const uint32_t* listed, float scale) {
    T* row = a + (size_t)blockIdx.y * n;
    uint32_t target = targets[blockIdx.y];
    bool none = target == ~0u;
    target -= first;
    float whole = log_sum_exp[blockIdx.y];
#pragma unroll
    for (int j = 0; j < 4; j++) {
        uint32_t i = blockIdx.x * 1024 + 256 * j + threadIdx.x;
        if (i < n) {
            bool here = listed ? listed[i] == target : i == target;
            put(row + i, none ? 0.0f : scale * (expf(get(row[i]) - whole) - here));
        }
    }
}

// Which elements a launch sums the squares of: span s has the blocks first[s] .. first[s + 1].
constexpr int NORMS = 128;
struct Spans {
    uint32_t first[NORMS + 1], pad;
    uint64_t at[NORMS], len[NORMS];
};

// Sums of squares in two kernels, so that their order is one: blocks of 256 for each span, at most 1024 in all, then one a span.
template <class T>
DEV void squares(const T* x, double* partial, const Spans& spans) {
    int s = 0;
    while (s + 1 < NORMS && blockIdx.x >= spans.first[s + 1]) s++;
    size_t block = blockIdx.x - spans.first[s], blocks = spans.first[s + 1] - spans.first[s], n = spans.len[s];
    x += spans.at[s];
    double sum = 0;
    for (size_t i = 8 * (block * blockDim.x + threadIdx.x); i < n; i += 8 * blocks * blockDim.x) {
        float part = 0;
        for (int j = 0; j < 8 && i + j < n; j++) part += get(x[i + j]) * get(x[i + j]);
        sum += part;
    }
    sum = block_sum64(sum);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}
extern "C" __global__ void total(const double* partial, float* to, const __grid_constant__ Spans spans) {
    int first = spans.first[blockIdx.x], parts = spans.first[blockIdx.x + 1] - first;
    double sum = 0;
    for (int i = threadIdx.x; i < parts; i += blockDim.x) sum += partial[first + i];
    sum = block_sum64(sum);
    if (threadIdx.x == 0) to[blockIdx.x] = (float)sum;
}

// Philox-4x32-10, block `index` of a stream (Salmon et al. 2011); the words of crate::rng::Philox.
DEV uint4 philox(uint2 key, uint64_t index, uint64_t stream) {
    uint32_t c0 = index, c1 = index >> 32, c2 = stream, c3 = stream >> 32;
#pragma unroll
    for (int round = 0; round < 10; round++) {
        if (round) key.x += 0x9E3779B9u, key.y += 0xBB67AE85u;
        uint32_t ah = __umulhi(0xD2511F53u, c0), al = 0xD2511F53u * c0;
        uint32_t bh = __umulhi(0xCD9E8D57u, c2), bl = 0xCD9E8D57u * c2;
        c0 = bh ^ c1 ^ key.x, c1 = bl, c2 = ah ^ c3 ^ key.y, c3 = al;
    }
    return make_uint4(c0, c1, c2, c3);
}

struct Drop {
    uint2 key;
    uint64_t stream;
    uint32_t threshold;
    float scale;
    int add, pad;
};

// y (+)= x where the element's word is not below the threshold, times scale. Grid n / 2048, block 256.
template <class T>
DEV void dropout(const T* x, T* y, size_t n, int whole, Drop d) {
    Run run(n, whole);
    float v[8], u[8] = {};
    run.get(x, v);
    if (d.add) run.get(y, u);
    uint4 a = philox(d.key, run.i / 4, d.stream), b = philox(d.key, run.i / 4 + 1, d.stream);
    uint32_t words[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
#pragma unroll
    for (int j = 0; j < 8; j++) u[j] += words[j] < d.threshold ? 0.0f : d.scale * v[j];
    run.put(y, u);
}

// y (rows) = the sum, mean or maximum of each row of x (rows, cols). Grid rows, block 128.
template <class T>
DEV void reduce(const T* x, T* y, int cols, int how) {
    const T* row = x + (size_t)blockIdx.x * cols;
    float v = how == 2 ? -INFINITY : 0.0f;
    for (int i = threadIdx.x; i < cols; i += blockDim.x) v = how == 2 ? fmaxf(v, get(row[i])) : v + get(row[i]);
    v = how == 2 ? block_max(v) : block_sum(v);
    if (threadIdx.x == 0) put(y + blockIdx.x, how == 1 ? v / cols : v);
}

struct Window {
    int n, channels, height, width, kernel, stride, pad, high, wide;
};

// y (n high wide, channels kernel²): the window of x (n, channels, height, width) under each output. A thread an element.
template <class T>
DEV void im2col(const T* x, T* y, size_t n, const Window& w) {
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    int patch = w.channels * w.kernel * w.kernel, at = i % patch, k = w.kernel;
    size_t row = i / patch, image = row / (w.high * w.wide);
    int v = (int)(row / w.wide % w.high) * w.stride + at / k % k - w.pad, u = (int)(row % w.wide) * w.stride + at % k - w.pad;
    bool inside = v >= 0 && v < w.height && u >= 0 && u < w.width;
    size_t from = ((image * w.channels + at / (k * k)) * w.height + v) * w.width + u;
    put(y + i, inside ? get(x[from]) : 0.0f);
}

// dx (n, channels, height, width): what every window has for an element, in order of windows. A thread an element.
template <class T>
DEV void col2im(const T* dy, T* dx, size_t n, const Window& w) {
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    int u = (int)(i % w.width) + w.pad, v = (int)(i / w.width % w.height) + w.pad, k = w.kernel;
    int c = (int)(i / ((size_t)w.width * w.height) % w.channels), patch = w.channels * k * k;
    size_t image = i / ((size_t)w.width * w.height * w.channels);
    float sum = 0;
    for (int row = max(0, (v - k) / w.stride); row < w.high && row * w.stride <= v; row++) {
        for (int col = max(0, (u - k) / w.stride); col < w.wide && col * w.stride <= u; col++) {
            int a = v - row * w.stride, b = u - col * w.stride;
            if (a >= k || b >= k) continue;
            size_t at = ((image * w.high + row) * w.wide + col) * patch + (c * k + a) * k + b;
            sum += get(dy[at]);
        }
    }
    put(dx + i, sum);
}

// How a parameter that is not f32 takes its new value.
enum Mode { NEAREST, STOCHASTIC, KAHAN, MASTER };

struct Round {
    int mode;
    uint2 key;
    uint64_t stream;
    // Kahan's compensation, of the parameter's type, or the f32 master copy.
    void* extra;
};

// The value to compute with of eight parameters: what was lost so far counts.
template <class P>
DEV void value(const Run& run, const P* p, const Round& r, float (&v)[8]) {
    if (r.mode == MASTER) return run.get((const float*)r.extra, v);
    run.get(p, v);
    if (r.mode == KAHAN && sizeof(P) == 2) {
        float lost[8];
        run.get((const P*)r.extra, lost);
#pragma unroll
        for (int j = 0; j < 8; j++) v[j] += lost[j];
    }
}

// Stores new values.
template <class P>
DEV void store(const Run& run, P* p, const Round& r, float (&v)[8]) {
    if (r.mode == KAHAN && sizeof(P) == 2) {
        float lost[8];
#pragma unroll
        for (int j = 0; j < 8; j++) {
            float kept = __bfloat162float(__float2bfloat16_rn(v[j]));
            lost[j] = v[j] - kept;
            v[j] = kept;
        }
        run.put((P*)r.extra, lost);
    } else if (r.mode == STOCHASTIC && sizeof(P) == 2) {
        uint4 a = philox(r.key, run.i / 4, r.stream), b = philox(r.key, run.i / 4 + 1, r.stream);
        uint32_t words[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
#pragma unroll
        for (int j = 0; j < 8; j++) {
            uint32_t bits = __float_as_uint(v[j]);
            v[j] = __uint_as_float((bits + (words[j] & 0xffff)) & 0xffff0000u);
        }
    } else if (r.mode == MASTER) {
        run.put((float*)r.extra, v);
    }
    run.put(p, v);
}

// Two normal numbers of two words: `pair` of rng.rs, term by term.
DEV void normal_pair(uint32_t a, uint32_t b, float* z) {
    const float unit = 1.0f / (1 << 24);
    float x = ((a >> 8) + 1) * unit, u = (b >> 8) * unit;
    uint32_t bits = __float_as_uint(x);
    int e = (int)(bits >> 23) - 126;
    float m = __uint_as_float((bits & 0x007fffffu) | 0x3f000000u);
    if (m < 0.70710678f) e -= 1, m += m;
    m -= 1.0f;
    float sq = m * m, y = 7.0376836e-2f;
    const float c[8] = {-1.151461e-1f, 1.1676999e-1f,  -1.2420141e-1f, 1.4249323e-1f,
                        -1.6668058e-1f, 2.0000715e-1f, -2.4999994e-1f, 3.3333331e-1f};
#pragma unroll
    for (int i = 0; i < 8; i++) y = y * m + c[i];
    float log = m + (y * m * sq - 2.1219444e-4f * e - 0.5f * sq) + 0.6933594f * e;
    float radius = sqrtf(-2.0f * log), quarter = floorf(4.0f * u + 0.5f);
    float t = (4.0f * u - quarter) * 1.57079633f, w = t * t;
    float sine = ((-1.9515296e-4f * w + 8.332161e-3f) * w - 1.6666655e-1f) * w * t + t;
    float cosine = ((2.4433157e-5f * w - 1.3887316e-3f) * w + 4.1666646e-2f) * w * w - 0.5f * w + 1.0f;
    int q = (int)quarter & 3;
    float s = q == 0 ? sine : q == 1 ? cosine : q == 2 ? -sine : -cosine;
    float k = q == 0 ? cosine : q == 1 ? -sine : q == 2 ? -cosine : sine;
    z[0] = radius * k;
    z[1] = radius * s;
}

struct Normal {
    uint2 key;
    uint64_t stream;
};

DEV_IN float rule_fma(float a, float b, float c) { return fmaf(a, b, c); }
DEV_IN float rule_sqrt(float x) { return sqrtf(x); }
DEV_IN float rule_sign(float x) { return (float)(x > 0.0f) - (float)(x < 0.0f); }
DEV_IN float rule_abs(float x) { return fabsf(x); }
DEV_IN float rule_min(float a, float b) { return fminf(a, b); }
DEV_IN float rule_max(float a, float b) { return fmaxf(a, b); }
DEV_IN float rule_exp(float x) { return expf(x); }
DEV_IN float rule_tanh(float x) { return tanhf(x); }

// A functor for each rule, and RULES, which names them: made by build.rs.
#include "rules.cuh"

struct Scalars {
    float scale, clamp, k[12];
};

// p = rule(p, g, state) for every element, one pass; without g each element's gradient is a normal number. Grid n / 2048,
// block 256.
template <class R, class P, class G, class S>
DEV void update(P* p, const G* g, S* s0, S* s1, S* s2, size_t n, int whole, const Scalars& a, const Round& r, const Normal& z) {
    Run run(n, whole);
    float x[8], now[8], s[3][8];
    if (g) {
        run.get(g, x);
    } else {
        uint4 u = philox(z.key, run.i / 4, z.stream), v = philox(z.key, run.i / 4 + 1, z.stream);
        normal_pair(u.x, u.y, x), normal_pair(u.z, u.w, x + 2), normal_pair(v.x, v.y, x + 4), normal_pair(v.z, v.w, x + 6);
    }
    if (R::SLOTS > 0) run.get(s0, s[0]);
    if (R::SLOTS > 1) run.get(s1, s[1]);
    if (R::SLOTS > 2) run.get(s2, s[2]);
    value(run, p, r, now);
#pragma unroll
    for (int j = 0; j < 8; j++) {
        float slots[3] = {s[0][j], s[1][j], s[2][j]};
        now[j] = R::step(now[j], fminf(fmaxf(x[j] * a.scale, -a.clamp), a.clamp), slots, a.k);
        s[0][j] = slots[0], s[1][j] = slots[1], s[2][j] = slots[2];
    }
    if (R::SLOTS > 0) run.put(s0, s[0]);
    if (R::SLOTS > 1) run.put(s1, s[1]);
    if (R::SLOTS > 2) run.put(s2, s[2]);
    store(run, p, r, now);
}

// out (rows, width) = rows first … and columns left … left + width of a weight matrix (.., cols), decoded. Eight elements a
// thread; grid rows · (width / 8) / 256, block 256.
template <class Q, class T>
DEV void panel(const uint8_t* w, T* out, int cols, int first, int left, int width, int rows) {
    uint32_t pieces = (width + 7) / 8, at = blockIdx.x * blockDim.x + threadIdx.x, r = at / pieces, i = 8 * (at % pieces);
    if (r >= rows) return;
    const uint8_t* row = w + (size_t)(first + r) * (cols / Q::N) * Q::BYTES;
    out += (size_t)r * width + i;
    if (width % 8 == 0) {
        float v[8];
#pragma unroll
        for (int j = 0; j < 8; j++) v[j] = element<Q>(row, left + i + j);
        put8(out, v);
    } else {
        for (int j = 0; j < 8 && i + j < width; j++) put(out + j, element<Q>(row, left + i + j));
    }
}

// out (n, cols) = rows ids of a table, decoded. Grid (cols / 1024, n), block 128.
template <class Q, class T>
DEV void embed(const uint8_t* w, const uint32_t* ids, T* out, int cols) {
    int i = 8 * (blockIdx.x * blockDim.x + threadIdx.x);
    if (i >= cols) return;
    const uint8_t* row = w + (size_t)ids[blockIdx.y] * (cols / Q::N) * Q::BYTES;
    float v[8];
#pragma unroll
    for (int j = 0; j < 8; j++) v[j] = element<Q>(row, i + j);
    put8(out + (size_t)blockIdx.y * cols + i, v);
}

#define K extern "C" __global__ void

#define PANEL(ty, Q, t, T)                                                                                             \
    K panel_##ty##_##t(const uint8_t* w, T* out, int cols, int first, int left, int width, int rows) {                 \
        panel<Q, T>(w, out, cols, first, left, width, rows);                                                               \
    }                                                                                                                  \
    K embed_##ty##_##t(const uint8_t* w, const uint32_t* ids, T* out, int cols) { embed<Q, T>(w, ids, out, cols); }
#define TYPE(ty, Q) PANEL(ty, Q, f32, float) PANEL(ty, Q, bf16, bf16)

TYPE(f32, F32)
TYPE(f16, F16)
TYPE(bf16, BF16)
TYPE(q4_0, Q4_0)
TYPE(q4_1, Q4_1)
TYPE(q5_0, Q5_0)
TYPE(q5_1, Q5_1)
TYPE(q8_0, Q8_0)
TYPE(q2_k, Q2_K)
TYPE(q3_k, Q3_K)
TYPE(q4_k, Q4_K)
TYPE(q5_k, Q5_K)
TYPE(q6_k, Q6_K)
TYPE(iq4_nl, IQ4_NL)
TYPE(iq4_xs, IQ4_XS)
TYPE(mxfp4, MXFP4)

#define SEEN const uint32_t *segments, int length
#define HERE Seen{segments, length}

// By the type of activations.
#define ONE(t, T)                                                                                                      \
    K columns_##t(const T* x, const float* rstd, const T* dy, float* partial, int rows, int cols) {                    \
        columns(x, rstd, dy, partial, rows, cols);                                                                     \
    }                                                                                                                  \
    K fold_##t(const float* partial, T* to, int parts, int cols, int more) { fold(partial, to, parts, cols, more); }   \
    K turn_##t(T* x, const float* cosines, const float* sines, const uint32_t* positions, int heads, int dim,          \
               int half, int interleaved, float sign) {                                                                \
        turn(x, cosines, sines, positions, heads, dim, half, interleaved, sign);                                       \
    }                                                                                                                  \
    K pick_##t(const T* x, const uint32_t* ids, T* y, int cols, int back) { pick(x, ids, y, cols, back); }             \
    K fill_##t(T* y, float value, size_t n, int whole) { fill(y, value, n, whole); }                                   \
    K gate_##t(const T* g, const T* u, T* p, size_t n, int whole) { gate(g, u, p, n, whole); }                         \
    K gate_back_##t(const T* dp, T* g, T* u, size_t n, int whole) { gate_back(dp, g, u, n, whole); }                   \
    K reduce_##t(const T* x, T* y, int cols, int how) { reduce(x, y, cols, how); }                                     \
    K im2col_##t(const T* x, T* y, size_t n, Window w) { im2col(x, y, n, w); }                                         \
    K col2im_##t(const T* dy, T* dx, size_t n, Window w) { col2im(dy, dx, n, w); }                                     \
    K dropout_##t(const T* x, T* y, size_t n, int whole, Drop d) { dropout(x, y, n, whole, d); }                       \
    K log_sum_exp_##t(const T* a, const uint32_t* targets, float* sums, float* picked, int n, uint32_t first,          \
                      const uint32_t* listed, float* largest) {                                                        \
        log_sum_exp(a, targets, sums, picked, n, first, listed, largest);                                              \
    }                                                                                                                  \
    K cross_entropy_vjp_##t(T* a, const uint32_t* targets, const float* sums, int n, uint32_t first,                   \
                            const uint32_t* listed, float scale) {                                                     \
        cross_entropy_vjp(a, targets, sums, n, first, listed, scale);                                                  \
    }                                                                                                                  \
    K squares_##t(const T* x, double* partial, const __grid_constant__ Spans s) { squares(x, partial, s); }            \
    K attend_plain_##t(const T* q, const T* k, const T* v, T* out, float* sums, SEEN, int n, int heads, int kv_heads,  \
                       float scale, int dim) {                                                                         \
        attend_plain(q, k, v, out, sums, HERE, n, heads, kv_heads, dim, scale);                                        \
    }                                                                                                                  \
    K attend_delta_##t(const T* out, const T* dout, float* delta, int items, int dim) {                                \
        attend_delta(out, dout, delta, items, dim);                                                                    \
    }                                                                                                                  \
    K attend_plain_dq_##t(const T* q, const T* k, const T* v, const T* dout, const float* sums, const float* delta,    \
                          T* dq, SEEN, int n, int heads, int kv_heads, float scale, int dim) {                         \
        attend_plain_dq(q, k, v, dout, sums, delta, dq, HERE, n, heads, kv_heads, dim, scale);                         \
    }                                                                                                                  \
    K attend_plain_dkv_##t(const T* q, const T* k, const T* v, const T* dout, const float* sums, const float* delta,   \
                           T* dk, T* dv, SEEN, int n, int heads, int kv_heads, float scale, int dim) {                 \
        attend_plain_dkv(q, k, v, dout, sums, delta, dk, dv, HERE, n, heads, kv_heads, dim, scale);                    \
    }
ONE(f32, float)
ONE(bf16, bf16)

// By the types of activations and of small weights or gradients, or of destination and source.
#define TWO(t, T, w, W)                                                                                                \
    K norm_##t##_##w(const T* x, const W* weight, T* y, int cols, float eps) { norm(x, weight, y, cols, eps); }        \
    K norm_back_##t##_##w(const T* x, const W* weight, const T* dy, T* dx, float* rstd, int cols, float eps) {         \
        norm_back(x, weight, dy, dx, rstd, cols, eps);                                                                 \
    }                                                                                                                  \
    K bias_##t##_##w(T* x, const W* b, int cols) { bias(x, b, cols); }                                                 \
    K embed_back_##t##_##w(const T* dy, const uint32_t* ids, W* table, int m, int cols) {                              \
        embed_back(dy, ids, table, m, cols);                                                                           \
    }                                                                                                                  \
    K blend_##t##_##w(T* y, const W* x, float a, float b, size_t n, int whole) { blend(y, x, a, b, n, whole); }
TWO(f32, float, f32, float)
TWO(f32, float, bf16, bf16)
TWO(bf16, bf16, f32, float)
TWO(bf16, bf16, bf16, bf16)

// By rule, and by the types of parameters, gradients and state.
#define RULE(name, p, P, g, G, s, S)                                                                                   \
    K update_##name##_##p##_##g##_##s(P* w, const G* grad, S* s0, S* s1, S* s2, size_t n, int whole, Scalars a,        \
                                      Round r, Normal z) {                                                             \
        update<Rule_##name>(w, grad, s0, s1, s2, n, whole, a, r, z);                                                   \
    }
#define STATES(p, P, g, G) RULES(RULE, p, P, g, G, f32, float) RULES(RULE, p, P, g, G, bf16, bf16)
STATES(f32, float, f32, float)
STATES(f32, float, bf16, bf16)
STATES(bf16, bf16, f32, float)
STATES(bf16, bf16, bf16, bf16)

// By the size of heads, on tensor cores.
#define HEADS(d)                                                                                                       \
    K attend_##d(const bf16* q, const bf16* k, const bf16* v, bf16* out, float* sums, SEEN, int n, int heads,          \
                 int kv_heads, float scale) {                                                                          \
        attend<d>(q, k, v, out, sums, HERE, n, heads, kv_heads, scale);                                                \
    }                                                                                                                  \
    K attend_dq_##d(const bf16* q, const bf16* k, const bf16* v, const bf16* dout, const float* sums,                  \
                    const float* delta, bf16* dq, SEEN, int n, int heads, int kv_heads, float scale) {                 \
        attend_dq<d>(q, k, v, dout, sums, delta, dq, HERE, n, heads, kv_heads, scale);                                 \
    }                                                                                                                  \
    K attend_dkv_##d(const bf16* q, const bf16* k, const bf16* v, const bf16* dout, const float* sums,                 \
                     const float* delta, bf16* dk, bf16* dv, SEEN, int n, int heads, int kv_heads, float scale) {      \
        attend_dkv<d>(q, k, v, dout, sums, delta, dk, dv, HERE, n, heads, kv_heads, scale);                            \
    }
HEADS(32)
HEADS(64)
HEADS(96)
HEADS(128)
