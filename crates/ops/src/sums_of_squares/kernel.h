// Σ x² of many tensors: parts of blocks, then sums of parts, both in a fixed order. The tensors stand in a line, each from the start of a block on:
// where one ends says where the next one begins. What differs from step to step, their addresses, comes with the launch.

#define EACH 16
#define BLOCK (THREADS * EACH)
#define WARPS (THREADS / 32)
struct Scratch { float of_warp[WARPS]; };

// How many blocks of the line there are up to this end of a tensor.
DEVICE i64 blocks_to(i64 end) { return (end + BLOCK - 1) / BLOCK; }

// Of each tensor: the address of its first element, and its end in the line. The first one begins with block `first`.
KERNEL(squares, NUMBERS tensors, INT count, INT first, GLOBAL float* parts) {
    SHARED(Scratch, m);
    const i64 block = first + BLOCK_X;
    i64 low = 0, high = count - 1; // the first tensor that ends after the block begins
    while (low < high) {
        const i64 middle = (low + high) / 2;
        if (tensors.at[2 * middle + 1] > block * BLOCK) high = middle;
        else low = middle + 1;
    }
    const i64 start = (low > 0 ? blocks_to(tensors.at[2 * low - 1]) : first) * BLOCK;
    const i64 end = smaller((block + 1) * BLOCK, tensors.at[2 * low + 1]);
    GLOBAL const REAL* x = (GLOBAL const REAL*)tensors.at[2 * low];
    float sum = 0;
    for (i64 i = block * BLOCK + THREAD; i < end; i += THREADS) sum += wide(x[i - start]) * wide(x[i - start]);
    sum = warp_sum(sum);
    if (THREAD % 32 == 0) m.of_warp[THREAD / 32] = sum;
    block_sync();
    if (THREAD > 0) return;
    sum = 0;
    for (int w = 0; w < WARPS; w++) sum += m.of_warp[w];
    parts[block] = sum;
}

// A tensor for each warp. `ends` in the line; the first one begins with block `first`.
KERNEL(sums_of_squares, NUMBERS ends, INT tensors, INT first, GLOBAL const float* parts, GLOBAL float* y) {
    const i64 tensor = BLOCK_X * WARPS + THREAD / 32;
    if (tensor >= tensors) return;
    const i64 begin = tensor > 0 ? blocks_to(ends.at[tensor - 1]) : first, end = blocks_to(ends.at[tensor]);
    float sum = 0;
    for (i64 part = begin + THREAD % 32; part < end; part += 32) sum += parts[part];
    sum = warp_sum(sum);
    if (THREAD % 32 == 0) y[tensor] = sum;
}
