// Weights of inference as a GPU holds them: the same bytes as in the file, with each block cut in two, so that what every thread reads
// is aligned to 16 bytes: the bodies (codes) of a matrix one after the other, then the heads (scales) of its blocks (Rust: `Planes`).
//
// A lane takes a *piece*: N elements whose codes lie in one or two words of 16 bytes. They are not always neighbours: a layout says
// where element e of a row stands, as (piece, group of four), so that activations are staged in the order the codes come in.

#pragma once

#include <cuda_bf16.h>

#include "blocks.cuh"

// A number from a code in the upper bits of a byte: 128 + the byte, built by one byte permutation instead of a conversion. Codes of up
// to seven bits, shifted to the top of them, keep the cancellation of the 128 below a factor of four.
template <int K>
DEV float from_byte(uint32_t codes) { return __uint_as_float(__byte_perm(codes, 0x43000000u, 0x7044u | K << 8)); }
// The same of signed bytes.
template <int K>
DEV float from_signed(uint32_t codes) { return (float)(int8_t)(codes >> (8 * K)); }

DEV uint4 load16(const uint8_t* p) { return __ldg((const uint4*)p); }
// The same of memory that is written meanwhile, or that starts anywhere: rows of a cache of two formats do.
DEV uint4 load16_anywhere(const uint8_t* p) {
    if (((size_t)p & 15) == 0) return *(const uint4*)p;
    const uint16_t* h = (const uint16_t*)p;
    return make_uint4(h[0] | (uint32_t)h[1] << 16, h[2] | (uint32_t)h[3] << 16, h[4] | (uint32_t)h[5] << 16, h[6] | (uint32_t)h[7] << 16);
}
DEV uint2 load8(const uint8_t* p) { return __ldg((const uint2*)p); }
DEV uint32_t u16(const uint8_t* p) { return __ldg((const uint16_t*)p); }
DEV float half_of(uint32_t bits) { return __half2float(__ushort_as_half((unsigned short)bits)); }

// Where group g (elements 4g … 4g + 3) of a row stands: its piece, and which of the piece's groups it is; and back.
struct Natural32 {
    DEV void place(int g, int& piece, int& at) { piece = g / 8; at = g % 8; }
    DEV int group(int piece, int at) { return 8 * piece + at; }
};
// Nibbles of 32 bytes hold two runs of 32: a piece is 16 of each.
struct Pairs64 {
    DEV void place(int g, int& piece, int& at) {
        int r = g % 16;
        piece = g / 16 * 2 + r % 8 / 4;
        at = r / 8 * 4 + r % 4;
    }
    DEV int group(int piece, int at) { return piece / 2 * 16 + at / 4 * 8 + piece % 2 * 4 + at % 4; }
};
// q6_k: nibbles of 64 bytes hold four runs of 32, the low ones the first two.
struct Quads128 {
    DEV void place(int g, int& piece, int& at) {
        int r = g % 32, q = r / 8;
        piece = g / 32 * 4 + q % 2 * 2 + r % 8 / 4;
        at = q / 2 * 4 + r % 4;
    }
    DEV int group(int piece, int at) { return piece / 4 * 32 + (piece % 4 / 2 + at / 4 * 2) * 8 + piece % 2 * 4 + at % 4; }
};
// q2_k, q3_k: pairs of bits of 32 bytes hold four runs of 32: a piece is 8 of each.
struct Bits128 {
    DEV void place(int g, int& piece, int& at) {
        int r = g % 32;
        piece = g / 32 * 4 + r % 8 / 2;
        at = r / 8 * 2 + r % 2;
    }
    DEV int group(int piece, int at) { return piece / 4 * 32 + at / 2 * 8 + piece % 4 * 2 + at % 2; }
};
template <int GROUPS>
struct Plain {
    DEV void place(int g, int& piece, int& at) { piece = g / GROUPS; at = g % GROUPS; }
    DEV int group(int piece, int at) { return piece * GROUPS + at; }
};

// What a type gives of a piece: EIGHT, bytes of eight bodies; `words`, N / 4 of them with four codes each; `scale`, for each of RUNS runs a, off and b of
// w = a · (value − off) + b. `body` and `head` are those of the matrix, `piece` counts through it.
#define CODES(bits)                                                                                                        \
    template <int K>                                                                                                       \
    DEV float value(uint32_t w) { return from_byte<K>(w); }                                                                \
    static constexpr float STEP = 1.0f / (1 << (7 - bits));                                                                \
    static constexpr int UP = 7 - bits;

#define PIECES(n, runs)                                                                                                    \
    static constexpr int N = n, RUNS = runs;                                                                               \
    static constexpr bool SCALED = true;

DEV void low_high(const uint4& q, uint32_t low[4], uint32_t high[4]) {
    low[0] = q.x & 0x0f0f0f0f; low[1] = q.y & 0x0f0f0f0f; low[2] = q.z & 0x0f0f0f0f; low[3] = q.w & 0x0f0f0f0f;
    high[0] = q.x >> 4 & 0x0f0f0f0f; high[1] = q.y >> 4 & 0x0f0f0f0f; high[2] = q.z >> 4 & 0x0f0f0f0f; high[3] = q.w >> 4 & 0x0f0f0f0f;
}

// The nibbles of 16 bytes as codes of four bits at the top of seven.
DEV void nibble_words(const uint4& q, uint32_t w[8]) {
    const uint32_t v[4] = {q.x, q.y, q.z, q.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        w[i] = v[i] << 3 & 0x78787878;
        w[4 + i] = v[i] >> 1 & 0x78787878;
    }
}

struct P_Q4_0 {
    static constexpr int EIGHT = 128;
    PIECES(32, 2) CODES(4)
    using Layout = Natural32;
    struct Raw { uint4 q; uint32_t d; };
    DEV Raw load(const uint8_t* body, const uint8_t* head, size_t p) { return {load16(body + 16 * p), u16(head + 2 * p)}; }
    DEV void words(const Raw& r, uint32_t w[8]) { nibble_words(r.q, w); }
    DEV void scale(const Raw& r, float a[2], float off[2], float b[2]) {
        a[0] = a[1] = half_of(r.d) * STEP;
        off[0] = off[1] = 128 + 8 / STEP;
        b[0] = b[1] = 0;
    }
};
struct P_Q4_1 {
    static constexpr int EIGHT = 128;
    PIECES(32, 2) CODES(4)
    using Layout = Natural32;
    struct Raw { uint4 q; uint32_t dm; };
    DEV Raw load(const uint8_t* body, const uint8_t* head, size_t p) {
        return {load16(body + 16 * p), __ldg((const uint32_t*)(head + 4 * p))};
    }
    DEV void words(const Raw& r, uint32_t w[8]) { nibble_words(r.q, w); }
    DEV void scale(const Raw& r, float a[2], float off[2], float b[2]) {
        a[0] = a[1] = half_of(r.dm & 0xffff) * STEP;
        off[0] = off[1] = 128;
        b[0] = b[1] = half_of(r.dm >> 16);
    }
};
// Bits 0 … 15 of `fifths` to bit 4 of sixteen codes, of which `w` has the lower bits, all at the top of seven.
DEV void with_fifths(const uint4& q, uint32_t fifths, uint32_t w[8]) {
    uint32_t low[4], high[4];
    low_high(q, low, high);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        // Four bits to bit 0 of four bytes.
        uint32_t a = (fifths >> (4 * i) & 15) * 0x00204081 & 0x01010101, b = (fifths >> (16 + 4 * i) & 15) * 0x00204081 & 0x01010101;
        w[i] = (low[i] | a << 4) << 2;
        w[4 + i] = (high[i] | b << 4) << 2;
    }
}
struct P_Q5_0 {
    static constexpr int EIGHT = 128;
    PIECES(32, 2) CODES(5)
    using Layout = Natural32;
    struct Raw { uint4 q; uint32_t d, fifths; };
    DEV Raw load(const uint8_t* body, const uint8_t* head, size_t p) {
        head += 6 * p;
        return {load16(body + 16 * p), u16(head), u16(head + 2) | u16(head + 4) << 16};
    }
    DEV void words(const Raw& r, uint32_t w[8]) { with_fifths(r.q, r.fifths, w); }
    DEV void scale(const Raw& r, float a[2], float off[2], float b[2]) {
        a[0] = a[1] = half_of(r.d) * STEP;
        off[0] = off[1] = 128 + 16 / STEP;
        b[0] = b[1] = 0;
    }
};
struct P_Q5_1 {
    static constexpr int EIGHT = 128;
    PIECES(32, 2) CODES(5)
    using Layout = Natural32;
    struct Raw { uint4 q; uint2 h; };
    DEV Raw load(const uint8_t* body, const uint8_t* head, size_t p) { return {load16(body + 16 * p), load8(head + 8 * p)}; }
    DEV void words(const Raw& r, uint32_t w[8]) { with_fifths(r.q, r.h.y, w); }
    DEV void scale(const Raw& r, float a[2], float off[2], float b[2]) {
        a[0] = a[1] = half_of(r.h.x & 0xffff) * STEP;
        off[0] = off[1] = 128;
        b[0] = b[1] = half_of(r.h.x >> 16);
    }
};
struct P_Q8_0 {
    static constexpr int EIGHT = 256;
    PIECES(32, 2)
    using Layout = Natural32;
    template <int K>
    DEV float value(uint32_t w) { return from_signed<K>(w); }
    struct Raw { uint4 q, r; uint32_t d; };
    DEV Raw load(const uint8_t* body, const uint8_t* head, size_t p) {
        return {load16(body + 32 * p), load16(body + 32 * p + 16), u16(head + 2 * p)};
    }
    DEV void words(const Raw& r, uint32_t w[8]) {
        w[0] = r.q.x; w[1] = r.q.y; w[2] = r.q.z; w[3] = r.q.w;
        w[4] = r.r.x; w[5] = r.r.y; w[6] = r.r.z; w[7] = r.r.w;
    }
    DEV void scale(const Raw& r, float a[2], float off[2], float b[2]) {
        a[0] = a[1] = half_of(r.d);
        off[0] = off[1] = b[0] = b[1] = 0;
    }
};
// Scales and minima 2c and 2c + 1 of the eight that q4_k and q5_k pack in six bits each: `s` are the 12 bytes.
DEV void six_bit_pairs(const uint32_t s[3], int c, uint32_t scale[2], uint32_t min[2]) {
    int shift = 16 * (c % 2);
    uint32_t x = s[0] >> shift, y = s[1] >> shift, z = s[2] >> shift;
    bool early = c < 2;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        scale[i] = early ? x >> (8 * i) & 63 : (z >> (8 * i) & 15) | (x >> (8 * i + 6) & 3) << 4;
        min[i] = early ? y >> (8 * i) & 63 : (z >> (8 * i + 4) & 15) | (y >> (8 * i + 6) & 3) << 4;
    }
}
DEV void k_scale(const uint4& h, int i, float step, float a[2], float off[2], float b[2]) {
    uint32_t s[2], m[2];
    const uint32_t packed[3] = {h.y, h.z, h.w};
    six_bit_pairs(packed, i / 2, s, m);
    float d = half_of(h.x & 0xffff), min = half_of(h.x >> 16);
#pragma unroll
    for (int r = 0; r < 2; r++) {
        a[r] = d * (float)s[r] * step;
        off[r] = 128;
        b[r] = -(min * (float)m[r]);
    }
}
struct P_Q4_K {
    static constexpr int EIGHT = 144;
    PIECES(32, 2) CODES(4)
    using Layout = Pairs64;
    struct Raw { uint4 q, h; int i; };
    DEV Raw load(const uint8_t* body, const uint8_t*, size_t p) {
        body += 144 * (p / 8);
        return {load16(body + 16 + 16 * (p % 8)), load16(body), (int)(p % 8)};
    }
    DEV void words(const Raw& r, uint32_t w[8]) { nibble_words(r.q, w); }
    DEV void scale(const Raw& r, float a[2], float off[2], float b[2]) { k_scale(r.h, r.i, STEP, a, off, b); }
};
struct P_Q5_K {
    static constexpr int EIGHT = 176;
    PIECES(32, 2) CODES(5)
    using Layout = Pairs64;
    struct Raw { uint4 q, h, fifths; int i; };
    DEV Raw load(const uint8_t* body, const uint8_t*, size_t p) {
        int i = p % 8;
        body += 176 * (p / 8);
        return {load16(body + 48 + 16 * i), load16(body), load16(body + 16 + 16 * (i % 2)), i};
    }
    DEV void words(const Raw& r, uint32_t w[8]) {
        uint32_t low[4], high[4];
        low_high(r.q, low, high);
        const uint32_t f[4] = {r.fifths.x, r.fifths.y, r.fifths.z, r.fifths.w};
        int s = r.i / 2 * 2;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            w[i] = (low[i] | (f[i] >> s & 0x01010101) << 4) << 2;
            w[4 + i] = (high[i] | (f[i] >> (s + 1) & 0x01010101) << 4) << 2;
        }
    }
    DEV void scale(const Raw& r, float a[2], float off[2], float b[2]) { k_scale(r.h, r.i, STEP, a, off, b); }
};
struct P_Q6_K {
    static constexpr int EIGHT = 208;
    PIECES(32, 2) CODES(6)
    using Layout = Quads128;
    struct Raw { uint4 q, pairs; uint32_t d; int8_t s[2]; int quarter; };
    DEV Raw load(const uint8_t* body, const uint8_t* head, size_t p) {
        int i = p % 8, n = i / 4, quarter = i % 4 / 2, h = i % 2;
        head += 2 * (p / 8);
        body += 208 * (p / 8);
        const int8_t* s = (const int8_t*)body + 192 + 8 * n + 2 * quarter + h;
        return {load16(body + 16 * i), load16(body + 128 + 32 * n + 16 * h), u16(head), {__ldg(s), __ldg(s + 4)}, quarter};
    }
    DEV void words(const Raw& r, uint32_t w[8]) {
        uint32_t low[4], high[4];
        low_high(r.q, low, high);
        const uint32_t f[4] = {r.pairs.x, r.pairs.y, r.pairs.z, r.pairs.w};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            w[i] = (low[i] | (f[i] >> (2 * r.quarter) & 0x03030303) << 4) << 1;
            w[4 + i] = (high[i] | (f[i] >> (2 * r.quarter + 4) & 0x03030303) << 4) << 1;
        }
    }
    DEV void scale(const Raw& r, float a[2], float off[2], float b[2]) {
        float d = half_of(r.d) * STEP;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            a[i] = d * (float)r.s[i];
            off[i] = 128 + 32 / STEP;
            b[i] = 0;
        }
    }
};
struct P_Q2_K {
    static constexpr int EIGHT = 80;
    PIECES(32, 4) CODES(2)
    using Layout = Bits128;
    struct Raw { uint2 q; uint32_t d; uint8_t s[4]; };
    DEV Raw load(const uint8_t* body, const uint8_t* head, size_t p) {
        int i = p % 8, n = i / 4, l = i % 4;
        body += 80 * (p / 8);
        const uint8_t* s = body + 8 * n + l / 2;
        return {load8(body + 16 + 32 * n + 8 * l), __ldg((const uint32_t*)(head + 4 * (p / 8))),
                {__ldg(s), __ldg(s + 2), __ldg(s + 4), __ldg(s + 6)}};
    }
    DEV void words(const Raw& r, uint32_t w[8]) {
#pragma unroll
        for (int run = 0; run < 4; run++) {
            w[2 * run] = (r.q.x >> (2 * run) & 0x03030303) << 5;
            w[2 * run + 1] = (r.q.y >> (2 * run) & 0x03030303) << 5;
        }
    }
    DEV void scale(const Raw& r, float a[4], float off[4], float b[4]) {
        float d = half_of(r.d & 0xffff), min = half_of(r.d >> 16);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            a[i] = d * (float)(r.s[i] & 15) * STEP;
            off[i] = 128;
            b[i] = -(min * (float)(r.s[i] >> 4));
        }
    }
};
struct P_Q3_K {
    static constexpr int EIGHT = 96;
    PIECES(32, 4) CODES(3)
    using Layout = Bits128;
    struct Raw { uint2 q, third; uint32_t d; int8_t s[4]; int n; };
    DEV Raw load(const uint8_t* body, const uint8_t* head, size_t p) {
        int i = p % 8, n = i / 4, l = i % 4;
        body += 96 * (p / 8);
        head += 14 * (p / 8);
        Raw raw = {load8(body + 32 + 32 * n + 8 * l), load8(body + 8 * l), u16(head + 12), {}, n};
#pragma unroll
        for (int run = 0; run < 4; run++) {
            int s = 8 * n + 2 * run + l / 2;
            int low = __ldg(head + s % 8) >> (4 * (s / 8)) & 15, high = __ldg(head + 8 + s % 4) >> (2 * (s / 4)) & 3;
            raw.s[run] = (low | high << 4) - 32;
        }
        return raw;
    }
    DEV void words(const Raw& r, uint32_t w[8]) {
#pragma unroll
        for (int run = 0; run < 4; run++) {
            int bit = 4 * r.n + run;
            w[2 * run] = ((r.q.x >> (2 * run) & 0x03030303) | (r.third.x >> bit & 0x01010101) << 2) << 4;
            w[2 * run + 1] = ((r.q.y >> (2 * run) & 0x03030303) | (r.third.y >> bit & 0x01010101) << 2) << 4;
        }
    }
    DEV void scale(const Raw& r, float a[4], float off[4], float b[4]) {
        float d = half_of(r.d) * STEP;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            a[i] = d * (float)r.s[i];
            off[i] = 128 + 4 / STEP;
            b[i] = 0;
        }
    }
};
// Four nibbles, in the low halves of four bytes, to the signed bytes of a table of sixteen.
DEV uint32_t look_up4(uint32_t nibbles, const uint32_t t[4]) {
    // A permutation picks one of eight bytes by the low three bits of a selector's nibble: both halves, then the fourth bit chooses.
    uint32_t sel = (nibbles & 7) | (nibbles >> 4 & 0x70) | (nibbles >> 8 & 0x700) | (nibbles >> 12 & 0x7000);
    uint32_t low = __byte_perm(t[0], t[1], sel), high = __byte_perm(t[2], t[3], sel);
    uint32_t upper = (nibbles >> 3 & 0x01010101) * 0xff;
    return (low & ~upper) | (high & upper);
}
DEV void table_words(const uint4& q, const uint32_t t[4], uint32_t w[8]) {
    uint32_t low[4], high[4];
    low_high(q, low, high);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        w[i] = look_up4(low[i], t);
        w[4 + i] = look_up4(high[i], t);
    }
}
#define IQ4_TABLE {0xbfad9881u, 0xf6eaddcfu, 0x26190d01u, 0x71594535u}
#define MXFP4_TABLE {0x03020100u, 0x0c080604u, 0xfdfeff00u, 0xf4f8fafcu}
struct P_IQ4_NL {
    static constexpr int EIGHT = 128;
    PIECES(32, 2)
    using Layout = Natural32;
    template <int K>
    DEV float value(uint32_t w) { return from_signed<K>(w); }
    struct Raw { uint4 q; uint32_t d; };
    DEV Raw load(const uint8_t* body, const uint8_t* head, size_t p) { return {load16(body + 16 * p), u16(head + 2 * p)}; }
    DEV void words(const Raw& r, uint32_t w[8]) {
        const uint32_t t[4] = IQ4_TABLE;
        table_words(r.q, t, w);
    }
    DEV void scale(const Raw& r, float a[2], float off[2], float b[2]) {
        a[0] = a[1] = half_of(r.d);
        off[0] = off[1] = b[0] = b[1] = 0;
    }
};
struct P_IQ4_XS {
    static constexpr int EIGHT = 128;
    PIECES(32, 2)
    using Layout = Natural32;
    template <int K>
    DEV float value(uint32_t w) { return from_signed<K>(w); }
    struct Raw { uint4 q; uint2 h; int i; };
    DEV Raw load(const uint8_t* body, const uint8_t* head, size_t p) {
        return {load16(body + 16 * p), load8(head + 8 * (p / 8)), (int)(p % 8)};
    }
    DEV void words(const Raw& r, uint32_t w[8]) {
        const uint32_t t[4] = IQ4_TABLE;
        table_words(r.q, t, w);
    }
    DEV void scale(const Raw& r, float a[2], float off[2], float b[2]) {
        int s = (int)((r.h.y >> (4 * r.i) & 15) | (r.h.x >> (16 + 2 * r.i) & 3) << 4) - 32;
        a[0] = a[1] = half_of(r.h.x & 0xffff) * (float)s;
        off[0] = off[1] = b[0] = b[1] = 0;
    }
};
struct P_MXFP4 {
    static constexpr int EIGHT = 128;
    PIECES(32, 2)
    using Layout = Natural32;
    template <int K>
    DEV float value(uint32_t w) { return from_signed<K>(w); }
    struct Raw { uint4 q; uint32_t e; };
    DEV Raw load(const uint8_t* body, const uint8_t* head, size_t p) { return {load16(body + 16 * p), __ldg(head + p)}; }
    DEV void words(const Raw& r, uint32_t w[8]) {
        const uint32_t t[4] = MXFP4_TABLE;
        table_words(r.q, t, w);
    }
    DEV void scale(const Raw& r, float a[2], float off[2], float b[2]) {
        a[0] = a[1] = __uint_as_float(r.e < 2 ? 0x00200000u << r.e : (r.e - 1) << 23);
        off[0] = off[1] = b[0] = b[1] = 0;
    }
};

// Plain types: a piece is 16 bytes, and a word one or two of the elements.
struct P_F32 {
    static constexpr int EIGHT = 128;
    static constexpr int N = 4, RUNS = 1;
    static constexpr bool SCALED = false;
    using Layout = Plain<1>;
    struct Raw { uint4 q; };
    DEV Raw load(const uint8_t* body, const uint8_t*, size_t p) { return {load16(body + 16 * p)}; }
    DEV void values(const Raw& r, float v[4]) {
        v[0] = __uint_as_float(r.q.x); v[1] = __uint_as_float(r.q.y); v[2] = __uint_as_float(r.q.z); v[3] = __uint_as_float(r.q.w);
    }
};
struct P_F16 {
    static constexpr int EIGHT = 128;
    static constexpr int N = 8, RUNS = 1;
    static constexpr bool SCALED = false;
    using Layout = Plain<2>;
    struct Raw { uint4 q; };
    DEV Raw load(const uint8_t* body, const uint8_t*, size_t p) { return {load16(body + 16 * p)}; }
    DEV void values(const Raw& r, float v[8]) {
        const uint32_t w[4] = {r.q.x, r.q.y, r.q.z, r.q.w};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float2 f = __half22float2(*(const __half2*)&w[i]);
            v[2 * i] = f.x;
            v[2 * i + 1] = f.y;
        }
    }
};
struct P_BF16 {
    static constexpr int EIGHT = 128;
    static constexpr int N = 8, RUNS = 1;
    static constexpr bool SCALED = false;
    using Layout = Plain<2>;
    struct Raw { uint4 q; };
    DEV Raw load(const uint8_t* body, const uint8_t*, size_t p) { return {load16(body + 16 * p)}; }
    DEV void values(const Raw& r, float v[8]) {
        const uint32_t w[4] = {r.q.x, r.q.y, r.q.z, r.q.w};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            v[2 * i] = __uint_as_float(w[i] << 16);
            v[2 * i + 1] = __uint_as_float(w[i] & 0xffff0000);
        }
    }
};

// Every element of a piece, in the order of its groups: the bits that the CPU decodes.
template <class T>
DEV void decode_piece(const uint8_t* body, const uint8_t* head, size_t piece, float v[T::N]) {
    typename T::Raw raw = T::load(body, head, piece);
    if constexpr (T::SCALED) {
        uint32_t w[8];
        float a[T::RUNS], off[T::RUNS], b[T::RUNS];
        T::words(raw, w);
        T::scale(raw, a, off, b);
#pragma unroll
        for (int j = 0; j < 8; j++) {
            int run = j / (8 / T::RUNS);
            v[4 * j] = __fmaf_rn(a[run], T::template value<0>(w[j]) - off[run], b[run]);
            v[4 * j + 1] = __fmaf_rn(a[run], T::template value<1>(w[j]) - off[run], b[run]);
            v[4 * j + 2] = __fmaf_rn(a[run], T::template value<2>(w[j]) - off[run], b[run]);
            v[4 * j + 3] = __fmaf_rn(a[run], T::template value<3>(w[j]) - off[run], b[run]);
        }
    } else {
        T::values(raw, v);
    }
}

#define WEIGHT_TYPES(X)                                                                                                    \
    X(f32, P_F32) X(f16, P_F16) X(bf16, P_BF16) X(q4_0, P_Q4_0) X(q4_1, P_Q4_1) X(q5_0, P_Q5_0) X(q5_1, P_Q5_1)            \
    X(q8_0, P_Q8_0) X(q2_k, P_Q2_K) X(q3_k, P_Q3_K) X(q4_k, P_Q4_K) X(q5_k, P_Q5_K) X(q6_k, P_Q6_K)                        \
    X(iq4_nl, P_IQ4_NL) X(iq4_xs, P_IQ4_XS) X(mxfp4, P_MXFP4)
