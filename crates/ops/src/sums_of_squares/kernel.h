// Σ x² of many tensors: parts of blocks, then sums of parts, both in a fixed order. A tensor's row of `table`: the address of its first element, its
// elements, and the first block that works on it; a row more says where blocks end. A block has EACH elements for each of its threads.

#define EACH 16
#define COLUMNS 3
#define WARPS (THREADS / 32)
struct Scratch { float of_warp[WARPS]; };

KERNEL(squares, GLOBAL const i64* table, INT tensors, GLOBAL float* parts) {
    SHARED(Scratch, m);
    i64 low = 0, high = tensors; // the last tensor whose first block is not after this one
    while (high - low > 1) {
        const i64 middle = (low + high) / 2;
        if (table[middle * COLUMNS + 2] <= BLOCK_X) low = middle;
        else high = middle;
    }
    GLOBAL const i64* t = table + low * COLUMNS;
    GLOBAL const REAL* x = (GLOBAL const REAL*)t[0];
    const i64 first = (BLOCK_X - t[2]) * THREADS * EACH, end = smaller(first + THREADS * EACH, t[1]);
    float sum = 0;
    for (i64 i = first + THREAD; i < end; i += THREADS) sum += wide(x[i]) * wide(x[i]);
    sum = warp_sum(sum);
    if (THREAD % 32 == 0) m.of_warp[THREAD / 32] = sum;
    block_sync();
    if (THREAD > 0) return;
    sum = 0;
    for (int w = 0; w < WARPS; w++) sum += m.of_warp[w];
    parts[BLOCK_X] = sum;
}

// A tensor for each warp.
KERNEL(sums_of_squares, GLOBAL const i64* table, INT tensors, GLOBAL const float* parts, GLOBAL float* y) {
    const i64 tensor = BLOCK_X * WARPS + THREAD / 32;
    if (tensor >= tensors) return;
    const i64 end = table[(tensor + 1) * COLUMNS + 2];
    float sum = 0;
    for (i64 part = table[tensor * COLUMNS + 2] + THREAD % 32; part < end; part += 32) sum += parts[part];
    sum = warp_sum(sum);
    if (THREAD % 32 == 0) y[tensor] = sum;
}
