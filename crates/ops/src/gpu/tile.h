// Tiles of rows in shared memory, and products of them by the warps of a block, each of which has 16 rows of the result.
//
// A warp's 16x8 piece of a result is c[4] in each lane: rows lane / 4 and lane / 4 + 8, columns 2·(lane mod 4) and the next. With REAL of two bytes
// products run on the tensor cores; in float, and on Metal, as written here, as many terms at a time as leaves all in registers.

#define PAD (16 / REAL_BYTES) // between rows in shared memory: 16 bytes, so that rows start on different banks
#if defined(TENSOR_CORES) && REAL_BYTES == 2
#define TENSOR_PRODUCTS
#endif

// The row and the column within a piece that element i of c lies at.
DEVICE int row_of(HERE int i) { return THREAD % 32 / 4 + i / 2 * 8; }
DEVICE int column_of(HERE int i) { return THREAD % 4 * 2 + i % 2; }

// ROWS x COLUMNS from global to shared memory, zeros beyond `rows` and `d`: row i is `near` + i where i < split, else `far` + i. There after copy_wait.
template <int ROWS, int COLUMNS>
DEVICE void load_rows(HERE LOCAL REAL* to, GLOBAL const REAL* from, i64 stride, i64 d, i64 near_, i64 split, i64 far_, i64 rows) {
#if !defined(__METAL_VERSION__)
    if (d % PAD == 0 && stride % PAD == 0 && (unsigned long long)from % 16 == 0) {
        for (int i = THREAD; i < ROWS * (COLUMNS / PAD); i += THREADS) {
            const int row = i / (COLUMNS / PAD), column = i % (COLUMNS / PAD) * PAD;
            const bool valid = row < rows && column < d;
            copy16(to + row * (COLUMNS + PAD) + column, valid ? from + ((row < split ? near_ : far_) + row) * stride + column : from, valid);
        }
        return;
    }
#endif
    for (int i = THREAD; i < ROWS * COLUMNS; i += THREADS) {
        const int row = i / COLUMNS, column = i % COLUMNS;
        const bool valid = row < rows && column < d;
        narrow(to[row * (COLUMNS + PAD) + column], valid ? wide(from[((row < split ? near_ : far_) + row) * stride + column]) : 0);
    }
}

// Consecutive rows from `first` on.
template <int ROWS, int COLUMNS>
DEVICE void load_rows(HERE LOCAL REAL* to, GLOBAL const REAL* from, i64 stride, i64 d, i64 first, i64 rows) {
    load_rows<ROWS, COLUMNS>(AT to, from, stride, d, first, ROWS, first, rows);
}

// c += a·bᵀ with a [16, K] and b [8·N, K] in shared memory.
template <int N, int K>
DEVICE void product_nt(HERE PRIVATE float (&c)[N][4], LOCAL const REAL* a, LOCAL const REAL* b) {
    const int ld = K + PAD;
#if defined(TENSOR_PRODUCTS)
    const int lane = THREAD % 32;
    UNROLL for (int k = 0; k < K; k += 16) {
        u32 x[4], y[4];
        load_matrices(x, a + lane % 16 * ld + k + lane / 16 * 8);
        UNROLL for (int n = 0; n < N; n += 2) {
            load_matrices(y, b + (n * 8 + lane % 8 + lane / 16 * 8) * ld + k + lane / 8 % 2 * 8); // (n, k), (n, k+8), (n+8, k), (n+8, k+8)
            multiply_add(c[n], x, y[0], y[1], REAL());
            multiply_add(c[n + 1], x, y[2], y[3], REAL());
        }
    }
#else
    UNROLL_BY(K > 64 ? 2 : 4) for (int k = 0; k < K; k++) {
        const float a0 = wide(a[row_of(AT 0) * ld + k]), a1 = wide(a[row_of(AT 2) * ld + k]);
        UNROLL for (int n = 0; n < N; n++) {
            const float b0 = wide(b[(n * 8 + column_of(AT 0)) * ld + k]), b1 = wide(b[(n * 8 + column_of(AT 1)) * ld + k]);
            c[n][0] += a0 * b0;
            c[n][1] += a0 * b1;
            c[n][2] += a1 * b0;
            c[n][3] += a1 * b1;
        }
    }
#endif
}

// c += p·b with p [16, 8·M], a product of this warp in its registers, and b [8·M, 8·N] in shared memory. `scratch` is room for a 16 x (8·M + PAD) of
// this warp's own where there are no tensor cores: on these the lanes hold p as a product needs it.
template <int N, int M>
DEVICE void product_pn(HERE PRIVATE float (&c)[N][4], PRIVATE const float (&p)[M][4], LOCAL REAL* scratch, LOCAL const REAL* b) {
    const int ld = 8 * N + PAD;
#if defined(TENSOR_PRODUCTS)
    const int lane = THREAD % 32;
    UNROLL for (int m = 0; m < M; m += 2) {
        u32 x[4], y[4];
        UNROLL for (int i = 0; i < 4; i++) {
            REAL low, high;
            narrow(low, p[m + i / 2][i % 2 * 2]);
            narrow(high, p[m + i / 2][i % 2 * 2 + 1]);
            x[i] = low.bits | (u32)high.bits << 16;
        }
        UNROLL for (int n = 0; n < N; n += 2) {
            load_matrices_transposed(y, b + (m * 8 + lane % 16) * ld + n * 8 + lane / 16 * 8); // (k, n), (k+8, n), (k, n+8), (k+8, n+8)
            multiply_add(c[n], x, y[0], y[1], REAL());
            multiply_add(c[n + 1], x, y[2], y[3], REAL());
        }
    }
#else
    UNROLL for (int m = 0; m < M; m++)
        UNROLL for (int i = 0; i < 4; i++) narrow(scratch[row_of(AT i) * (8 * M + PAD) + m * 8 + column_of(AT i)], p[m][i]);
    warp_sync();
    UNROLL_BY(N > 8 ? 2 : 4) for (int k = 0; k < 8 * M; k++) {
        const float a0 = wide(scratch[row_of(AT 0) * (8 * M + PAD) + k]), a1 = wide(scratch[row_of(AT 2) * (8 * M + PAD) + k]);
        UNROLL for (int n = 0; n < N; n++) {
            const float b0 = wide(b[k * ld + n * 8 + column_of(AT 0)]), b1 = wide(b[k * ld + n * 8 + column_of(AT 1)]);
            c[n][0] += a0 * b0;
            c[n][1] += a0 * b1;
            c[n][2] += a1 * b0;
            c[n][3] += a1 * b1;
        }
    }
    warp_sync();
#endif
}
