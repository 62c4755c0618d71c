// What kernels are written in: restricted C++14 that CUDA, Metal and the emulated grid of the tests all compile.
//
// A grid has BLOCK_X by BLOCK_Y blocks of THREADS threads each; 32 consecutive threads are a warp. The emulated grid defines the same names in
// crates/grid/src/host.h. On Metal only a kernel knows its BLOCK and THREAD: a function that asks for them begins its parameters with HERE, and its
// calls their arguments with AT. Computation is in float; REAL is the type that tensors are stored in: float, bf16 or f16.

#if defined(__CUDACC__) || defined(__CUDACC_RTC__) // ------------------------------------------------------------- CUDA

typedef unsigned int u32;
typedef unsigned short u16;
typedef long long i64;

#define DEVICE static __device__ __forceinline__
#define KERNEL(name, ...) extern "C" __global__ void __launch_bounds__(THREADS) name(__VA_ARGS__)
#define GLOBAL
#define LOCAL
#define PRIVATE
#define ALONE __restrict__ // of a pointer: what it reaches is written through no other, so that what is read ahead stays right
#define INT const i64
#define FLOAT const float
#define NUMBERS const Numbers
#define BLOCK_X ((i64)blockIdx.x)
#define BLOCK_Y ((i64)blockIdx.y)
#define BLOCKS_X ((i64)gridDim.x)
#define THREAD ((int)threadIdx.x)
#define HERE
#define AT
// `S& m`: the block's shared memory, laid out as an S.
#define SHARED(S, m) extern __shared__ __align__(16) unsigned char shared_memory_[]; S& m = *(S*)shared_memory_
// UNROLL: as often as the loop runs; UNROLL_BY: n turns at a time; ROLLED: not at all, where the compiler would until registers run out.
#define PRAGMA(text) _Pragma(#text)
#define UNROLL _Pragma("unroll")
#define UNROLL_BY(n) PRAGMA(unroll (n))
#define ROLLED _Pragma("unroll 1")
#define INFINITE __int_as_float(0x7f800000)

struct bf16 { u16 bits; };
struct f16 { u16 bits; };
DEVICE float wide(float x) { return x; }
DEVICE float wide(bf16 x) { return __uint_as_float((u32)x.bits << 16); }
DEVICE float wide(f16 x) { float y; asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits)); return y; }
DEVICE void narrow(float& y, float x) { y = x; }
DEVICE void narrow(bf16& y, float x) { asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x)); }
DEVICE void narrow(f16& y, float x) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x)); }

DEVICE u32 bits_of(float x) { return __float_as_uint(x); }
DEVICE float float_of(u32 bits) { return __uint_as_float(bits); }
DEVICE float exp_(float x) { return expf(x); }
// Within a few units in the last place, and 0 where e^x has no normal number: one instruction and a product, where __expf takes care of small results.
DEVICE float quick_exp(float x) { float y; asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x * 1.44269504f)); return y; }
DEVICE float log_(float x) { return logf(x); }
DEVICE float log1p_(float x) { return log1pf(x); }
DEVICE float tanh_(float x) { return tanhf(x); }
DEVICE float erf_(float x) { return erff(x); }
DEVICE float sqrt_(float x) { return sqrtf(x); }
DEVICE float max_(float a, float b) { return fmaxf(a, b); }
DEVICE float min_(float a, float b) { return fminf(a, b); }

DEVICE void block_sync() { __syncthreads(); }
DEVICE void warp_sync() { __syncwarp(); }
DEVICE float shuffle_xor(float v, int mask) { return __shfl_xor_sync(0xffffffffu, v, mask); }

DEVICE u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }
// 16 bytes from global to shared memory, or 16 zero bytes; both addresses are multiples of 16. The bytes are there after copy_wait.
DEVICE void copy16(void* to, const void* from, bool valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(valid ? 16 : 0) : "memory");
}
DEVICE void copy_wait() { asm volatile("cp.async.wait_all;" ::: "memory"); }
// Four 8x8 matrices of 16-bit numbers: lane 8i + r names row r of matrix i.
DEVICE void load_matrices(u32 (&m)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
        : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3]) : "r"(shared_address(row)) : "memory");
}
DEVICE void load_matrices_transposed(u32 (&m)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
        : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3]) : "r"(shared_address(row)) : "memory");
}
// c += a·b on the tensor cores: a is 16x16, b is 16x8, c is 16x8, spread over the lanes of a warp as PTX describes mma.m16n8k16.
DEVICE void multiply_add(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1, bf16) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
DEVICE void multiply_add(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1, f16) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
#define TENSOR_CORES

#elif defined(__METAL_VERSION__) // ---------------------------------------------------------------------------- Metal

#include <metal_stdlib>
using namespace metal;

typedef uint u32;
typedef ushort u16;
typedef long i64;

#define DEVICE static inline
#define KERNEL(name, ...) \
    kernel void name(__VA_ARGS__, uint3 block_ [[threadgroup_position_in_grid]], uint3 blocks_ [[threadgroups_per_grid]], uint3 thread_ [[thread_position_in_threadgroup]])
#define GLOBAL device
#define ALONE
#define LOCAL threadgroup
#define PRIVATE thread
#define INT constant i64&
#define FLOAT constant float&
#define NUMBERS constant Numbers&
#define BLOCK_X ((i64)block_.x)
#define BLOCK_Y ((i64)block_.y)
#define BLOCKS_X ((i64)blocks_.x)
#define THREAD ((int)thread_.x)
#define HERE uint3 block_, uint3 blocks_, uint3 thread_,
#define AT block_, blocks_, thread_,
#define SHARED(S, m) threadgroup S m
#define UNROLL
#define UNROLL_BY(n)
#define ROLLED
#define INFINITE INFINITY

typedef bfloat bf16;
typedef half f16;
DEVICE float wide(float x) { return x; }
DEVICE float wide(bf16 x) { return (float)x; }
DEVICE float wide(f16 x) { return (float)x; }
DEVICE void narrow(device float& y, float x) { y = x; }
DEVICE void narrow(device bf16& y, float x) { y = (bf16)x; }
DEVICE void narrow(device f16& y, float x) { y = (f16)x; }
DEVICE void narrow(threadgroup float& y, float x) { y = x; }
DEVICE void narrow(threadgroup bf16& y, float x) { y = (bf16)x; }
DEVICE void narrow(threadgroup f16& y, float x) { y = (f16)x; }

DEVICE u32 bits_of(float x) { return as_type<u32>(x); }
DEVICE float float_of(u32 bits) { return as_type<float>(bits); }
DEVICE float exp_(float x) { return exp(x); }
DEVICE float quick_exp(float x) { return fast::exp(x); }
DEVICE float log_(float x) { return log(x); }
DEVICE float log1p_(float x) { return x < 1e-4f ? x - 0.5f * x * x : log(1 + x); }
DEVICE float tanh_(float x) { return precise::tanh(x); }
DEVICE float sqrt_(float x) { return sqrt(x); }
DEVICE float max_(float a, float b) { return fmax(a, b); }
DEVICE float min_(float a, float b) { return fmin(a, b); }
// Metal has no erf. Abramowitz, Stegun 1964, 7.1.26: |error| < 1.5e-7.
DEVICE float erf_(float x) {
    const float a = fabs(x), t = 1 / (1 + 0.3275911f * a);
    const float p = t * (0.254829592f + t * (-0.284496736f + t * (1.421413741f + t * (-1.453152027f + t * 1.061405429f))));
    return copysign(1 - p * exp(-a * a), x);
}

DEVICE void block_sync() { threadgroup_barrier(mem_flags::mem_threadgroup | mem_flags::mem_device); }
DEVICE void warp_sync() { simdgroup_barrier(mem_flags::mem_threadgroup); }
DEVICE float shuffle_xor(float v, int mask) { return simd_shuffle_xor(v, (ushort)mask); }
DEVICE void copy_wait() {}

#endif

// ------------------------------------------------------------------------------------------------------- every machine

// Whole numbers that come with the launch, so that no copy has to bring them: those of a parameter `NUMBERS n` are n.at[0] to n.at[MOST_NUMBERS - 1].
struct Numbers { i64 at[MOST_NUMBERS]; };

DEVICE i64 smaller(i64 a, i64 b) { return a < b ? a : b; }
DEVICE i64 larger(i64 a, i64 b) { return a > b ? a : b; }
// a / b of numbers from 0 on that fit 32 bits, such as rows, heads and tokens: GPUs divide 64 bits by a routine.
DEVICE i64 small_quotient(i64 a, i64 b) { return (u32)a / (u32)b; }
// a / b of numbers from 0 on.
DEVICE i64 quotient(i64 a, i64 b) { return ((a | b) >> 32) == 0 ? small_quotient(a, b) : a / b; }
DEVICE float sigmoid(float x) { return 1 / (1 + exp_(-x)); }

// Every lane gets the same bits: a sum over a tree whose shape is fixed.
DEVICE float warp_sum(float v) {
    UNROLL for (int mask = 16; mask > 0; mask /= 2) v += shuffle_xor(v, mask);
    return v;
}
DEVICE float warp_max(float v) {
    UNROLL for (int mask = 16; mask > 0; mask /= 2) v = max_(v, shuffle_xor(v, mask));
    return v;
}
