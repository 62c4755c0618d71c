// z = x + y, of `n` elements. Each thread has some.

KERNEL(add, GLOBAL const REAL* x, GLOBAL const REAL* y, GLOBAL REAL* z, INT n) {
    for (i64 at = BLOCK_X * THREADS + THREAD; at < n; at += BLOCKS_X * THREADS) {
        narrow(z[at], wide(x[at]) + wide(y[at]));
    }
}

// x <- x + y

KERNEL(add_to, GLOBAL REAL* x, GLOBAL const REAL* y, INT n) {
    for (i64 at = BLOCK_X * THREADS + THREAD; at < n; at += BLOCKS_X * THREADS) {
        narrow(x[at], wide(x[at]) + wide(y[at]));
    }
}
