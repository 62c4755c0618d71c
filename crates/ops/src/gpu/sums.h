// y_i = Σ_r parts[r, first + i], in the order of r, or added to y where `add` is not 0; rows of `parts` are `stride` elements apart. A column for each
// thread.
KERNEL(column_sums, GLOBAL const float* parts, INT rows, INT stride, INT first, INT d, GLOBAL float* y, INT add) {
    const i64 i = BLOCK_X * THREADS + THREAD;
    if (i >= d) return;
    float sum = add ? y[i] : 0;
    UNROLL_BY(16) for (i64 r = 0; r < rows; r++) sum += parts[r * stride + first + i];
    y[i] = sum;
}

// The sums of `chunk` rows of x, `stride` elements apart: row BLOCK_Y of `parts`. A column for each thread.
KERNEL(row_sums, GLOBAL const REAL* x, INT rows, INT stride, INT d, INT chunk, GLOBAL float* parts) {
    const i64 i = BLOCK_X * THREADS + THREAD, end = smaller((BLOCK_Y + 1) * chunk, rows);
    if (i >= d) return;
    float sum = 0;
    UNROLL_BY(8) for (i64 r = BLOCK_Y * chunk; r < end; r++) sum += wide(x[r * stride + i]);
    parts[BLOCK_Y * d + i] = sum;
}
