// z = x + y, of `n` elements. Each thread has some.

KERNEL(add, GLOBAL const REAL* ALONE x, GLOBAL const REAL* ALONE y, GLOBAL REAL* ALONE z, INT n) {
    UNROLL_BY(4) for (i64 at = BLOCK_X * THREADS + THREAD; at < n; at += BLOCKS_X * THREADS) {
        narrow(z[at], wide(x[at]) + wide(y[at]));
    }
}

// x <- x + y

KERNEL(add_to, GLOBAL REAL* ALONE x, GLOBAL const REAL* ALONE y, INT n) {
    UNROLL_BY(4) for (i64 at = BLOCK_X * THREADS + THREAD; at < n; at += BLOCKS_X * THREADS) {
        narrow(x[at], wide(x[at]) + wide(y[at]));
    }
}
