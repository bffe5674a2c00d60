// What the training kernels share: element types, eight elements at a time, sums over a block.

#pragma once

#include <cuda_bf16.h>

#include "blocks.cuh"

typedef __nv_bfloat16 bf16;

DEV float get(float v) { return v; }
DEV float get(bf16 v) { return __bfloat162float(v); }
DEV void put(float* to, float v) { *to = v; }
DEV void put(bf16* to, float v) { *to = __float2bfloat16_rn(v); }

DEV void get8(const float* p, float (&v)[8]) {
    float4 a = ((const float4*)p)[0], b = ((const float4*)p)[1];
    v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w, v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
}
DEV void get8(const bf16* p, float (&v)[8]) {
    uint4 raw = *(const uint4*)p;
    const __nv_bfloat162* pairs = (const __nv_bfloat162*)&raw;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float2 f = __bfloat1622float2(pairs[i]);
        v[2 * i] = f.x, v[2 * i + 1] = f.y;
    }
}
DEV void put8(float* p, const float (&v)[8]) {
    ((float4*)p)[0] = make_float4(v[0], v[1], v[2], v[3]);
    ((float4*)p)[1] = make_float4(v[4], v[5], v[6], v[7]);
}
DEV void put8(bf16* p, const float (&v)[8]) {
    uint4 raw;
    __nv_bfloat162* pairs = (__nv_bfloat162*)&raw;
#pragma unroll
    for (int i = 0; i < 4; i++) pairs[i] = __floats2bfloat162_rn(v[2 * i], v[2 * i + 1]);
    *(uint4*)p = raw;
}

// The sum over a block of at most 1024 threads, to every thread, in one order; a second call may follow at once.
DEV float block_sum(float v) {
    __shared__ float part[32];
    v = warp_sum(v);
    __syncthreads();
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;
    __syncthreads();
    float whole = 0;
    for (int i = 0; i < blockDim.x / 32; i++) whole += part[i];
    return whole;
}
DEV double block_sum64(double v) {
    __shared__ double part[32];
    for (int step = 16; step > 0; step /= 2) v += __shfl_xor_sync(~0u, v, step);
    __syncthreads();
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;
    __syncthreads();
    double whole = 0;
    for (int i = 0; i < blockDim.x / 32; i++) whole += part[i];
    return whole;
}
DEV float block_max(float v) {
    __shared__ float part[32];
    for (int step = 16; step > 0; step /= 2) v = fmaxf(v, __shfl_xor_sync(~0u, v, step));
    __syncthreads();
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;
    __syncthreads();
    float whole = part[0];
    for (int i = 1; i < blockDim.x / 32; i++) whole = fmaxf(whole, part[i]);
    return whole;
}
