// y_r = x_r for rows of `width` elements, those of x `stride` elements apart; with a stride of 0 all of them are one. What a product is added to.
KERNEL(copy_rows, GLOBAL const REAL* x, INT stride, GLOBAL REAL* y, INT rows, INT width) {
    for (i64 at = BLOCK_X * THREADS + THREAD; at < rows * width; at += BLOCKS_X * THREADS) y[at] = x[at / width * stride + at % width];
}

// y_r = x_r + b.
KERNEL(add_to_rows, GLOBAL const REAL* x, INT stride, GLOBAL const REAL* b, GLOBAL REAL* y, INT rows, INT width) {
    for (i64 at = BLOCK_X * THREADS + THREAD; at < rows * width; at += BLOCKS_X * THREADS) {
        narrow(y[at], wide(x[at / width * stride + at % width]) + wide(b[at % width]));
    }
}
