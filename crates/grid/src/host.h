// The emulated grid: what crates/ops/src/gpu/grid.h defines for CUDA and Metal, for a CPU.
//
// Blocks run one after another. The threads of a block are fibers, which take turns where they must wait for each other: at barriers, and at
// operations of a warp. So the text of a kernel runs as it is written, and what a GPU leaves undefined is an error here:
//   - a barrier, or an operation of a warp, that not all of its threads reach, or that they reach at different places of the text;
//   - shared memory of another size than the launch asked for; reading it before it was written gives NaN;
//   - asynchronous copies that are read before copy_wait (they are made there), or that nobody waits for.
// Built with -fsanitize=thread, two threads of a block, or two blocks, that touch one place without a barrier between them are found; with
// -fsanitize=address, every access outside a buffer. Threads take turns in their own order or in a shuffled one: results must not differ.
#pragma once
#include <cmath>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>
#include <sys/mman.h>

#if defined(__SANITIZE_THREAD__)
extern "C" {
void* __tsan_get_current_fiber(void);
void* __tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void* fiber);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void* address);
void __tsan_release(void* address);
}
#define SCHEDULER __attribute__((no_sanitize("thread"), noinline))
#elif defined(__SANITIZE_ADDRESS__)
extern "C" void __asan_unpoison_memory_region(void const volatile* address, size_t size);
#define SCHEDULER __attribute__((no_sanitize("address"), noinline))
#else
#define SCHEDULER
#endif

typedef uint32_t u32;
typedef uint16_t u16;
typedef long long i64;
struct bf16 { u16 bits; };
struct f16 { u16 bits; };
struct Numbers; // grid.h says of how many

namespace grid {

// How a kernel is launched. The layout is that of `Launch` in lib.rs.
struct Launch {
    i64 blocks_x, blocks_y, threads, shared;
    u32 order; // of the threads: 0 is by number, else the seed of a shuffle
    void** arguments; // the address of each
};

enum class At { Running, Block, Warp, End };
struct Copy { void* to; const void* from; bool valid; };

struct Thread {
    void* stack_pointer = nullptr;
    At at = At::Running;
    long line = 0; // where it waits
    unsigned char offer[64]; // to the other lanes
    Copy copies[256]; // not waited for yet
    int copying = 0;
    void* tsan = nullptr;
};

// One launch. Several may run at once, each on a thread of the process.
struct Grid {
    Launch launch;
    i64 block_x = 0, block_y = 0;
    int current = 0;
    Thread* threads = nullptr;
    char* stacks = nullptr;
    void* shared = nullptr;
    void* scheduler = nullptr; // its stack pointer
    void (*body)(Grid&, void**) = nullptr;
    char failure[256] = ""; // why the launch ends
    char block_edge = 0, grid_edge = 0, warp_edges[32] = {};
    void* scheduler_tsan = nullptr;
    std::vector<void*> ended_tsan, spent; // kept until the end, so that thread sanitizer takes no new thread or buffer for an old one
};
inline thread_local Grid* now = nullptr;
constexpr size_t STACK = 64 << 10;
// Ended threads that a launch keeps at most. Thread sanitizer knows 8128 at once; two launches may run, each with up to 1024 threads more.
constexpr size_t KEPT = 2900;

extern "C" void grid_switch(void** save, void* to);
#if defined(__x86_64__)
asm(R"(
.text
.weak grid_switch
.type grid_switch,@function
grid_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size grid_switch,.-grid_switch
)");
constexpr int SAVED = 6; // registers below the return address
#elif defined(__aarch64__)
asm(R"(
.text
.weak grid_switch
.type grid_switch,%function
grid_switch:
    sub sp, sp, #160
    stp x19, x20, [sp, #0]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp d8, d9, [sp, #80]
    stp d10, d11, [sp, #96]
    stp d12, d13, [sp, #112]
    stp d14, d15, [sp, #128]
    stp x29, x30, [sp, #144]
    mov x2, sp
    str x2, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #0]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp d8, d9, [sp, #80]
    ldp d10, d11, [sp, #96]
    ldp d12, d13, [sp, #112]
    ldp d14, d15, [sp, #128]
    ldp x29, x30, [sp, #144]
    add sp, sp, #160
    ret
.size grid_switch,.-grid_switch
)");
#else
#error "the emulated grid runs on x86-64 and arm64: write grid_switch for this processor"
#endif

// Back to the scheduler. `fence`: what the threads wrote before is visible to each other afterwards; lanes that only exchange registers have none.
SCHEDULER inline void wait(At at, long line, bool fence) {
    Grid& g = *now;
    const int me = g.current;
    Thread& thread = g.threads[me];
    thread.at = at;
    thread.line = line;
#if defined(__SANITIZE_THREAD__)
    char* edge = at == At::Block ? &g.block_edge : &g.warp_edges[me / 32];
    if (fence) __tsan_release(edge);
    __tsan_switch_to_fiber(g.scheduler_tsan, 1);
#endif
    grid_switch(&thread.stack_pointer, g.scheduler);
    g.current = me;
#if defined(__SANITIZE_THREAD__)
    if (fence) __tsan_acquire(edge);
#endif
}

// Ends the launch with a message. A thread that fails never runs again.
SCHEDULER inline void fail(const char* what) {
    Grid& g = *now;
    if (!g.failure[0]) snprintf(g.failure, sizeof g.failure, "block (%lld, %lld), thread %d: %s", g.block_x, g.block_y, g.current, what);
}
SCHEDULER inline void fail_here(const char* what) {
    fail(what);
    wait(At::End, 0, false);
    abort();
}

SCHEDULER inline int thread_number() { return now->current; }
SCHEDULER inline void* shared_memory(size_t bytes) {
    if ((i64)bytes != now->launch.shared) {
        char what[96];
        snprintf(what, sizeof what, "it has %zu bytes of shared memory, and was launched with %lld", bytes, now->launch.shared);
        fail_here(what);
    }
    return now->shared;
}

SCHEDULER inline void first_call() {
    Grid& g = *now;
    g.body(g, g.launch.arguments);
    if (g.threads[g.current].copying) fail("it ends with copies that nobody waited for");
#if defined(__SANITIZE_THREAD__)
    __tsan_release(&g.grid_edge);
#endif
    wait(At::End, 0, false);
    abort();
}

SCHEDULER inline void resume(Grid& g, int i) {
    g.current = i;
    g.threads[i].at = At::Running;
#if defined(__SANITIZE_THREAD__)
    __tsan_switch_to_fiber(g.threads[i].tsan, 1);
#endif
    grid_switch(&g.scheduler, g.threads[i].stack_pointer);
}

#if defined(__SANITIZE_THREAD__)
SCHEDULER inline void forget_ended(Grid& g) {
    for (void* fiber : g.ended_tsan) __tsan_destroy_fiber(fiber);
    g.ended_tsan.clear();
}
#endif

// Whether all of `count` threads from `first` on wait at one place.
SCHEDULER inline bool together(Grid& g, int first, int count, At at, const char* some, const char* apart) {
    for (int i = first; i < first + count; i++) {
        g.current = i;
        if (g.threads[i].at != at) return fail(some), false;
        if (g.threads[i].line != g.threads[first].line) return fail(apart), false;
    }
    for (int i = first; i < first + count; i++) g.threads[i].at = At::Running;
    return true;
}

SCHEDULER inline void start_threads(Grid& g) {
    const int n = (int)g.launch.threads;
#if defined(__SANITIZE_THREAD__)
    const bool map = true; // a new mapping at the old place: thread sanitizer forgets what earlier threads wrote there
#else
    const bool map = !g.stacks;
#endif
    if (map) {
        const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | (g.stacks ? MAP_FIXED : 0);
        void* stacks = mmap(g.stacks, n * STACK, PROT_READ | PROT_WRITE, flags, -1, 0);
        if (stacks == MAP_FAILED) return fail("no memory for the stacks of its threads");
        g.stacks = (char*)stacks;
    }
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(g.stacks, n * STACK); // threads that ended never returned from their functions
#endif
    for (int i = 0; i < n; i++) {
        Thread& thread = g.threads[i];
        void** top = (void**)(g.stacks + (i + 1) * STACK - 64);
#if defined(__x86_64__)
        *--top = nullptr; // where first_call would return to
        *--top = (void*)first_call;
        for (int r = 0; r < SAVED; r++) *--top = nullptr;
#else
        top -= 20;
        memset((void*)top, 0, 160);
        top[19] = (void*)first_call; // x30
#endif
        thread.stack_pointer = top;
        thread.at = At::Running;
        thread.copying = 0;
#if defined(__SANITIZE_THREAD__)
        thread.tsan = __tsan_create_fiber(0);
#endif
    }
}

SCHEDULER inline void run_block(Grid& g, std::vector<int>& order, u32& random) {
    const int n = (int)g.launch.threads;
    if (g.launch.shared) {
#if defined(__SANITIZE_THREAD__)
        g.shared = nullptr;
#endif
        if (!g.shared && posix_memalign(&g.shared, 128, g.launch.shared)) return fail("no memory");
        for (i64 i = 0; i < g.launch.shared; i++) ((volatile unsigned char*)g.shared)[i] = 0xff; // NaN in every format
    }
    start_threads(g);
    while (!g.failure[0]) {
        if (g.launch.order)
            for (int i = n - 1; i > 0; i--) {
                random = random * 1664525u + 1013904223u; // Numerical Recipes' generator
                std::swap(order[i], order[(random >> 8) % (i + 1)]);
            }
        for (int i : order) {
            if (g.threads[i].at == At::Running) resume(g, i);
            if (g.failure[0]) return;
        }
        // Every thread waits or is at its end. Warps that are complete go on first, then the block.
        bool moved = false;
        for (int warp = 0; warp < n; warp += 32) {
            bool any = false;
            for (int i = warp; i < warp + 32; i++) any |= g.threads[i].at == At::Warp;
            if (!any) continue;
            if (!together(g, warp, 32, At::Warp, "not every lane of its warp reaches an operation of the warp",
                    "the lanes of its warp are at different operations of the warp")) return;
            moved = true;
        }
        if (moved) continue;
        bool any = false;
        for (int i = 0; i < n; i++) any |= g.threads[i].at == At::Block;
        if (!any) break;
        together(g, 0, n, At::Block, "not every thread of its block reaches a barrier", "the threads of its block are at different barriers");
    }
#if defined(__SANITIZE_THREAD__)
    for (int i = 0; i < n; i++) g.ended_tsan.push_back(g.threads[i].tsan);
    if (g.ended_tsan.size() > KEPT) forget_ended(g);
    if (g.shared) g.spent.push_back(g.shared);
#endif
}

// Runs a whole grid; an error is a text that lives until this thread's next launch.
SCHEDULER inline const char* run(const Launch& launch, void (*body)(Grid&, void**)) {
    static thread_local char failure[256];
    Grid g;
    g.launch = launch;
    g.body = body;
    if (launch.threads % 32 || launch.threads < 32 || launch.threads > 1024) return "its threads are no multiple of 32 up to 1024";
    g.threads = new Thread[launch.threads];
    Grid* outer = now;
    now = &g;
#if defined(__SANITIZE_THREAD__)
    g.scheduler_tsan = __tsan_get_current_fiber();
#endif
    std::vector<int> order(launch.threads);
    for (int i = 0; i < (int)launch.threads; i++) order[i] = i;
    u32 random = launch.order;
    for (g.block_y = 0; g.block_y < launch.blocks_y && !g.failure[0]; g.block_y++)
        for (g.block_x = 0; g.block_x < launch.blocks_x && !g.failure[0]; g.block_x++) run_block(g, order, random);
#if defined(__SANITIZE_THREAD__)
    __tsan_acquire(&g.grid_edge);
    forget_ended(g);
    for (void* p : g.spent) free(p);
#else
    free(g.shared);
#endif
    if (g.stacks) munmap(g.stacks, launch.threads * STACK);
    delete[] g.threads;
    now = outer;
    memcpy(failure, g.failure, sizeof failure);
    return failure[0] ? failure : nullptr;
}

// What a kernel takes, as the launching side spells it: * before an address, then the type.
template <class T> struct Letter;
template <> struct Letter<float> { static constexpr const char* is = "f"; };
template <> struct Letter<bf16> { static constexpr const char* is = "b"; };
template <> struct Letter<f16> { static constexpr const char* is = "h"; };
template <> struct Letter<u32> { static constexpr const char* is = "u"; };
template <> struct Letter<i64> { static constexpr const char* is = "l"; };
template <> struct Letter<Numbers> { static constexpr const char* is = "n"; };
template <class T> struct Letter<T*> { static std::string of() { return std::string("*") + Letter<typename std::remove_const<T>::type>::is; } };
template <class A> std::string letter() {
    if constexpr (std::is_pointer<A>::value) return Letter<A>::of();
    else return Letter<typename std::decay<A>::type>::is;
}
template <class... A> const char* signature(void (*)(A...)) {
    static const std::string all = (letter<A>() + ... + std::string());
    return all.c_str();
}
template <auto kernel, class... A, size_t... I> void call(void (*)(A...), void** arguments, std::index_sequence<I...>) {
    kernel(*(typename std::remove_reference<A>::type*)arguments[I]...);
}
template <auto kernel, class... A> const char* start(void (*f)(A...), const Launch& launch) {
    static_assert((sizeof(typename std::remove_reference<A>::type) + ... + 0) <= 4096, "CUDA has 4 KiB for the arguments of a kernel");
    return run(launch, [](Grid&, void** arguments) { call<kernel>((void (*)(A...))kernel, arguments, std::index_sequence_for<A...>()); });
}

// An operation of a warp: every lane gives bytes, then reads what the others gave.
template <class T> SCHEDULER inline void offer(const T& value, long line) {
    static_assert(sizeof(T) <= sizeof(Thread::offer), "");
    __builtin_memcpy(now->threads[now->current].offer, &value, sizeof(T));
    wait(At::Warp, line, false);
}
template <class T> SCHEDULER inline T offered(int lane) {
    T value;
    __builtin_memcpy(&value, now->threads[now->current / 32 * 32 + lane].offer, sizeof(T));
    return value;
}
SCHEDULER inline void taken(long line) { wait(At::Warp, -line, false); }
SCHEDULER inline void remember(const Copy& copy) {
    Thread& thread = now->threads[now->current];
    if (thread.copying == 256) return fail_here("it has more than 256 copies that it did not wait for");
    thread.copies[thread.copying++] = copy;
}
SCHEDULER inline bool next_copy(Copy& copy) {
    Thread& thread = now->threads[now->current];
    if (!thread.copying) return false;
    copy = thread.copies[--thread.copying];
    return true;
}

} // namespace grid

#define DEVICE static inline
#define KERNEL(name, ...) \
    static void name(__VA_ARGS__); \
    extern "C" const char* name##_signature() { return grid::signature(name); } \
    extern "C" const char* name##_launch(const grid::Launch* launch) { return grid::start<name>(name, *launch); } \
    static void name(__VA_ARGS__)
#define GLOBAL
#define ALONE
#define LOCAL
#define PRIVATE
#define INT const i64
#define FLOAT const float
#define NUMBERS const Numbers&
#define BLOCK_X (grid::now->block_x)
#define BLOCK_Y (grid::now->block_y)
#define BLOCKS_X (grid::now->launch.blocks_x)
#define THREAD (grid::thread_number())
#define HERE
#define AT
#define SHARED(S, m) S& m = *(S*)grid::shared_memory(sizeof(S))
#define UNROLL
#define UNROLL_BY(n)
#define ROLLED
#define INFINITE INFINITY
#define TENSOR_CORES

DEVICE float wide(float x) { return x; }
DEVICE float wide(bf16 x) { const u32 bits = (u32)x.bits << 16; float y; memcpy(&y, &bits, 4); return y; }
DEVICE float wide(f16 x) { // a compiler's own conversion takes a hundred instructions
    const u32 rest = x.bits & 0x7fff, bits = rest >= 0x7c00 ? rest << 13 | 0x7f800000 : rest << 13;
    float y;
    memcpy(&y, &bits, 4);
    if (rest < 0x7c00) y *= 5.192296858534828e33f; // 2^112, the difference of the exponents' biases
    return x.bits & 0x8000 ? -y : y;
}
DEVICE void narrow(float& y, float x) { y = x; }
DEVICE void narrow(bf16& y, float x) { // to the nearest, ties to even
    u32 bits;
    memcpy(&bits, &x, 4);
    y.bits = x != x ? 0x7fff : (u16)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
#if defined(__aarch64__)
typedef __fp16 half_float; // g++ knows _Float16 there from version 13 on
#else
typedef _Float16 half_float;
#endif
DEVICE void narrow(f16& y, float x) { const half_float half = (half_float)x; memcpy(&y.bits, &half, 2); }

DEVICE u32 bits_of(float x) { u32 bits; memcpy(&bits, &x, 4); return bits; }
DEVICE float float_of(u32 bits) { float x; memcpy(&x, &bits, 4); return x; }
DEVICE float exp_(float x) { return expf(x); }
DEVICE float quick_exp(float x) { return expf(x); }
DEVICE float log_(float x) { return logf(x); }
DEVICE float log1p_(float x) { return log1pf(x); }
DEVICE float tanh_(float x) { return tanhf(x); }
DEVICE float erf_(float x) { return erff(x); }
DEVICE float sqrt_(float x) { return sqrtf(x); }
DEVICE float max_(float a, float b) { return fmaxf(a, b); }
DEVICE float min_(float a, float b) { return fminf(a, b); }

#define block_sync() grid::wait(grid::At::Block, __LINE__, true)
#define warp_sync() grid::wait(grid::At::Warp, __LINE__, true)
DEVICE float shuffle_xor_(float v, int mask, long line) {
    grid::offer(v, line);
    const float other = grid::offered<float>((THREAD % 32) ^ mask);
    grid::taken(line);
    return other;
}
#define shuffle_xor(v, mask) shuffle_xor_(v, mask, __LINE__)

DEVICE void copy16(void* to, const void* from, bool valid) {
    if ((uintptr_t)to % 16 || (valid && (uintptr_t)from % 16)) grid::fail_here("copy16 needs addresses that are multiples of 16");
    for (int i = 0; i < 8; i++) ((u16*)to)[i] = 0xffff; // nothing to read before copy_wait
    grid::remember({to, from, valid});
}
DEVICE void copy_wait() {
    for (grid::Copy copy; grid::next_copy(copy);)
        for (int i = 0; i < 8; i++) ((u16*)copy.to)[i] = copy.valid ? ((const u16*)copy.from)[i] : 0;
}

// PTX ISA, ldmatrix: of matrix i, lane l gets elements 2·(l mod 4) and 2·(l mod 4) + 1 of row l / 4; transposed, of column l / 4. The lane that
// names a row reads it, so that thread sanitizer sees a missing warp_sync.
DEVICE void load_matrices_(u32 (&m)[4], const void* row, bool transposed) {
    if ((uintptr_t)row % 16) grid::fail_here("load_matrices needs addresses that are multiples of 16");
    struct Row { u16 at[8]; } mine;
    for (int i = 0; i < 8; i++) mine.at[i] = ((const u16*)row)[i];
    grid::offer(mine, __LINE__);
    const int lane = THREAD % 32, outer = lane / 4, inner = lane % 4 * 2;
    for (int i = 0; i < 4; i++) {
        u16 low, high;
        if (transposed) {
            low = grid::offered<Row>(8 * i + inner).at[outer];
            high = grid::offered<Row>(8 * i + inner + 1).at[outer];
        } else {
            const Row row = grid::offered<Row>(8 * i + outer);
            low = row.at[inner];
            high = row.at[inner + 1];
        }
        m[i] = low | (u32)high << 16;
    }
    grid::taken(__LINE__);
}
DEVICE void load_matrices(u32 (&m)[4], const void* row) { load_matrices_(m, row, false); }
DEVICE void load_matrices_transposed(u32 (&m)[4], const void* row) { load_matrices_(m, row, true); }

// PTX ISA, mma.m16n8k16. With g = lane / 4 and t = lane mod 4, a lane holds of a: rows g, g + 8 at columns 2t, 2t + 1 (registers 0, 1), then at
// 2t + 8, 2t + 9 (2, 3); of b: rows 2t, 2t + 1 (b0) and 2t + 8, 2t + 9 (b1) of column g; of c: rows g and g + 8 at columns 2t, 2t + 1.
template <class H> DEVICE float half_of(u32 pair, int i) {
    H x;
    x.bits = (u16)(pair >> (16 * i));
    return wide(x);
}
template <class H> DEVICE void multiply_add(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1, H) {
    struct Part { u32 a[4], b[2]; };
    grid::offer(Part{{a[0], a[1], a[2], a[3]}, {b0, b1}}, __LINE__);
    const int lane = THREAD % 32, g = lane / 4, t = lane % 4;
    for (int k = 0; k < 4; k++) { // lane 4·row + k holds columns 2k, 2k + 1, 2k + 8, 2k + 9
        const Part rows = grid::offered<Part>(4 * g + k), left = grid::offered<Part>(8 * t + k), right = grid::offered<Part>(8 * t + 4 + k);
        for (int h = 0; h < 2; h++)
            for (int e = 0; e < 2; e++) {
                const float x = half_of<H>(left.b[h], e), y = half_of<H>(right.b[h], e);
                const float upper = half_of<H>(rows.a[2 * h], e), lower = half_of<H>(rows.a[2 * h + 1], e);
                c[0] += upper * x;
                c[1] += upper * y;
                c[2] += lower * x;
                c[3] += lower * y;
            }
    }
    grid::taken(__LINE__);
}
