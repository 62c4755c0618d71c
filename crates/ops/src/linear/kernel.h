// y_r = x_r for rows of `width` elements, those of x `stride` elements apart; with a stride of 0 all of them are one. What a product is added to. A block
// for each row.
KERNEL(copy_rows, GLOBAL const REAL* ALONE x, INT stride, GLOBAL REAL* ALONE y, INT width) {
    UNROLL_BY(4) for (i64 i = THREAD; i < width; i += THREADS) y[BLOCK_X * width + i] = x[BLOCK_X * stride + i];
}

// y_r = x_r + b.
KERNEL(add_to_rows, GLOBAL const REAL* ALONE x, INT stride, GLOBAL const REAL* ALONE b, GLOBAL REAL* ALONE y, INT width) {
    UNROLL_BY(4) for (i64 i = THREAD; i < width; i += THREADS) narrow(y[BLOCK_X * width + i], wide(x[BLOCK_X * stride + i]) + wide(b[i]));
}
