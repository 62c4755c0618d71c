// y = x rounded to REAL, for many tensors. Of each: the addresses of x and y, its elements, and the first block that works on it. A block has EACH
// elements for each of its threads.

#define EACH 16

KERNEL(round_all, NUMBERS of, INT tensors) {
    i64 low = 0, high = tensors; // the last tensor whose first block is not after this one
    while (high - low > 1) {
        const i64 middle = (low + high) / 2;
        if (of.at[4 * middle + 3] <= BLOCK_X) low = middle;
        else high = middle;
    }
    GLOBAL const float* ALONE x = (GLOBAL const float*)of.at[4 * low];
    GLOBAL REAL* ALONE y = (GLOBAL REAL*)of.at[4 * low + 1];
    const i64 first = (BLOCK_X - of.at[4 * low + 3]) * THREADS * EACH, end = smaller(first + THREADS * EACH, of.at[4 * low + 2]);
    UNROLL_BY(8) for (i64 i = first + THREAD; i < end; i += THREADS) narrow(y[i], x[i]);
}
