// y_i = Σ_r parts[r, first + i], in the order of r; rows of `parts` are `stride` elements apart. A column for each thread.

KERNEL(column_sums, GLOBAL const float* parts, INT rows, INT stride, INT first, INT d, GLOBAL REAL* y) {
    const i64 i = BLOCK_X * THREADS + THREAD;
    if (i >= d) return;
    float sum = 0;
    UNROLL_4 for (i64 r = 0; r < rows; r++) sum += parts[r * stride + first + i];
    narrow(y[i], sum);
}
