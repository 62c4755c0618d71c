// y_i = Σ_r parts[r, first + i], or added to y where `add` is not 0; rows of `parts` are `stride` elements apart. A block has 32 columns, of which each of
// its warps adds some rows, in their order.
struct Groups { float of[THREADS]; };
KERNEL(column_sums, GLOBAL const float* ALONE parts, INT rows, INT stride, INT first, INT d, GLOBAL float* ALONE y, INT add) {
    SHARED(Groups, m);
    const int warp = THREAD / 32, warps = THREADS / 32;
    const i64 i = BLOCK_X * 32 + THREAD % 32, each = small_quotient(rows + warps - 1, warps), end = smaller((warp + 1) * each, rows);
    float sum = 0;
    if (i < d) UNROLL_BY(16) for (i64 r = warp * each; r < end; r++) sum += parts[r * stride + first + i];
    m.of[THREAD] = sum;
    block_sync();
    if (warp > 0 || i >= d) return;
    float all = add ? y[i] : 0;
    UNROLL for (int w = 0; w < warps; w++) all += m.of[w * 32 + THREAD];
    y[i] = all;
}

// The sums of `chunk` rows of x, `stride` elements apart: row BLOCK_Y of `parts`. A column for each thread.
KERNEL(row_sums, GLOBAL const REAL* x, INT rows, INT stride, INT d, INT chunk, GLOBAL float* parts) {
    const i64 i = BLOCK_X * THREADS + THREAD, end = smaller((BLOCK_Y + 1) * chunk, rows);
    if (i >= d) return;
    float sum = 0;
    UNROLL_BY(8) for (i64 r = BLOCK_Y * chunk; r < end; r++) sum += wide(x[r * stride + i]);
    parts[BLOCK_Y * d + i] = sum;
}
