// y_r = x_r for rows of `width` elements, those of x `stride` elements apart; with a stride of 0 all of them are one. What a product is added to.
KERNEL(copy_rows, GLOBAL const REAL* ALONE x, INT stride, GLOBAL REAL* ALONE y, INT rows, INT width) {
    UNROLL_BY(4) for (i64 at = BLOCK_X * THREADS + THREAD; at < rows * width; at += BLOCKS_X * THREADS) {
        const i64 row = quotient(at, width);
        y[at] = x[row * stride + at - row * width];
    }
}

// y_r = x_r + b.
KERNEL(add_to_rows, GLOBAL const REAL* ALONE x, INT stride, GLOBAL const REAL* ALONE b, GLOBAL REAL* ALONE y, INT rows, INT width) {
    UNROLL_BY(4) for (i64 at = BLOCK_X * THREADS + THREAD; at < rows * width; at += BLOCKS_X * THREADS) {
        const i64 row = quotient(at, width), i = at - row * width;
        narrow(y[at], wide(x[row * stride + i]) + wide(b[i]));
    }
}
