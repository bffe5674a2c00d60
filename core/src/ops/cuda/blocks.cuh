// Block types as the device reads them, element by element, in ggml's order of roundings: the intrinsics below keep the
// compiler from fusing them, so a decoded weight equals the CPU's bit for bit.

#pragma once

#include <cuda_fp16.h>
#include <stdint.h>

#define DEV static __device__ __forceinline__
#define DEV_IN __device__ __forceinline__

DEV float mul(float a, float b) { return __fmul_rn(a, b); }
DEV float half_at(const uint8_t* b) { return __half2float(*(const __half*)b); }
DEV int nibble(const uint8_t* qs, int j) { return j < 16 ? qs[j] & 15 : qs[j - 16] >> 4; }

__constant__ int8_t IQ4[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
__constant__ int8_t MXFP4_LEVELS[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

// A float that starts at any even address: heads of a cache of two formats do.
DEV float float_anywhere(const uint8_t* p) {
    if (((size_t)p & 3) == 0) return *(const float*)p;
    const uint16_t* h = (const uint16_t*)p;
    return __uint_as_float(h[0] | (uint32_t)h[1] << 16);
}
DEV void put_float_anywhere(uint8_t* p, float v) {
    if (((size_t)p & 3) == 0) {
        *(float*)p = v;
        return;
    }
    uint16_t* h = (uint16_t*)p;
    h[0] = (uint16_t)__float_as_uint(v);
    h[1] = (uint16_t)(__float_as_uint(v) >> 16);
}

// A block type: N elements in BYTES bytes; at() is element j of the block at b.
struct F32 {
    static constexpr int N = 1, BYTES = 4;
    DEV float at(const uint8_t* b, int) { return *(const float*)b; }
};
struct F16 {
    static constexpr int N = 1, BYTES = 2;
    DEV float at(const uint8_t* b, int) { return half_at(b); }
};
struct BF16 {
    static constexpr int N = 1, BYTES = 2;
    DEV float at(const uint8_t* b, int) { return __uint_as_float((uint32_t) * (const uint16_t*)b << 16); }
};
struct Q4_0 {
    static constexpr int N = 32, BYTES = 18;
    DEV float at(const uint8_t* b, int j) { return mul(half_at(b), (float)(nibble(b + 2, j) - 8)); }
};
struct Q4_1 {
    static constexpr int N = 32, BYTES = 20;
    DEV float at(const uint8_t* b, int j) { return __fadd_rn(mul(half_at(b), (float)nibble(b + 4, j)), half_at(b + 2)); }
};
DEV int fifth(const uint8_t* high, const uint8_t* qs, int j) { return nibble(qs, j) | (high[j / 8] >> (j % 8) & 1) << 4; }
struct Q5_0 {
    static constexpr int N = 32, BYTES = 22;
    DEV float at(const uint8_t* b, int j) { return mul(half_at(b), (float)(fifth(b + 2, b + 6, j) - 16)); }
};
struct Q5_1 {
    static constexpr int N = 32, BYTES = 24;
    DEV float at(const uint8_t* b, int j) { return __fadd_rn(mul(half_at(b), (float)fifth(b + 4, b + 8, j)), half_at(b + 2)); }
};
struct Q8_0 {
    static constexpr int N = 32, BYTES = 34;
    DEV float at(const uint8_t* b, int j) { return mul(half_at(b), (float)(int8_t)b[2 + j]); }
};
// Scale and minimum s of the eight that q4_k and q5_k pack in 6 bits each.
DEV void six_bits(const uint8_t* p, int s, int& scale, int& min) {
    int j = s & 3;
    if (s < 4) {
        scale = p[j] & 63;
        min = p[j + 4] & 63;
    } else {
        scale = (p[j + 8] & 15) | p[j] >> 6 << 4;
        min = p[j + 8] >> 4 | p[j + 4] >> 6 << 4;
    }
}
DEV float scaled(const uint8_t* b, int s, int q) {
    int scale, min;
    six_bits(b + 4, s, scale, min);
    return __fsub_rn(mul(mul(half_at(b), (float)scale), (float)q), mul(half_at(b + 2), (float)min));
}
struct Q4_K {
    static constexpr int N = 256, BYTES = 144;
    DEV float at(const uint8_t* b, int j) {
        int s = j / 32;
        return scaled(b, s, b[16 + 32 * (s / 2) + j % 32] >> (4 * (s % 2)) & 15);
    }
};
struct Q5_K {
    static constexpr int N = 256, BYTES = 176;
    DEV float at(const uint8_t* b, int j) {
        int s = j / 32, l = j % 32;
        return scaled(b, s, (b[48 + 32 * (s / 2) + l] >> (4 * (s % 2)) & 15) | (b[16 + l] >> s & 1) << 4);
    }
};
struct Q6_K {
    static constexpr int N = 256, BYTES = 210;
    DEV float at(const uint8_t* b, int j) {
        int half = j / 128, quarter = j % 128 / 32, l = j % 32;
        int low = b[64 * half + 32 * (quarter & 1) + l] >> (4 * (quarter >> 1)) & 15;
        int high = b[128 + 32 * half + l] >> (2 * quarter) & 3;
        float scale = mul(half_at(b + 208), (float)(int8_t)b[192 + 8 * half + 2 * quarter + l / 16]);
        return mul(scale, (float)((low | high << 4) - 32));
    }
};
struct Q2_K {
    static constexpr int N = 256, BYTES = 84;
    DEV float at(const uint8_t* b, int j) {
        int s = j / 16, q = b[16 + 32 * (s / 8) + 16 * (s % 2) + j % 16] >> (2 * (s / 2 % 4)) & 3;
        return __fsub_rn(mul(mul(half_at(b + 80), (float)(b[s] & 15)), (float)q), mul(half_at(b + 82), (float)(b[s] >> 4)));
    }
};
struct Q3_K {
    static constexpr int N = 256, BYTES = 110;
    DEV float at(const uint8_t* b, int j) {
        int s = j / 16, l = j % 16;
        int scale = (b[96 + s % 8] >> (4 * (s / 8)) & 15) | (b[104 + s % 4] >> (2 * (s / 4)) & 3) << 4;
        int q = (b[32 + 32 * (s / 8) + 16 * (s % 2) + l] >> (2 * (s / 2 % 4)) & 3) | (b[16 * (s % 2) + l] >> (s / 2) & 1) << 2;
        return mul(mul(half_at(b + 108), (float)(scale - 32)), (float)(q - 4));
    }
};
struct IQ4_NL {
    static constexpr int N = 32, BYTES = 18;
    DEV float at(const uint8_t* b, int j) { return mul(half_at(b), (float)IQ4[nibble(b + 2, j)]); }
};
struct IQ4_XS {
    static constexpr int N = 256, BYTES = 136;
    DEV float at(const uint8_t* b, int j) {
        int s = j / 32, high = *(const uint16_t*)(b + 2) >> (2 * s) & 3;
        int scale = (b[4 + s / 2] >> (4 * (s % 2)) & 15) | high << 4;
        return mul(mul(half_at(b), (float)(scale - 32)), (float)IQ4[nibble(b + 8 + 16 * s, j % 32)]);
    }
};
struct MXFP4 {
    static constexpr int N = 32, BYTES = 17;
    DEV float at(const uint8_t* b, int j) {
        uint32_t e = b[0], bits = e < 2 ? 0x00200000u << e : (e - 1) << 23;
        return mul(__uint_as_float(bits), (float)MXFP4_LEVELS[nibble(b + 1, j)]);
    }
};

template <class T>
DEV float element(const uint8_t* row, int i) {
    return T::at(row + (size_t)(i / T::N) * T::BYTES, i % T::N);
}

DEV float warp_sum(float v) {
    for (int step = 16; step > 0; step /= 2) v += __shfl_xor_sync(~0u, v, step);
    return v;
}
