// y = (x − mean(x)) / √(var(x) + ε) · w + b for each row of d elements; rows of x are `stride` elements apart.

// The mean of a row and 1/√(var + ε), by the lanes of a warp.
DEVICE void row_statistics(HERE GLOBAL const REAL* row, i64 d, float eps, PRIVATE float& mean, PRIVATE float& s) {
    float sum = 0, squares = 0;
    UNROLL_BY(8) for (i64 i = THREAD % 32; i < d; i += 32) sum += wide(row[i]);
    mean = warp_sum(sum) / d;
    UNROLL_BY(8) for (i64 i = THREAD % 32; i < d; i += 32) squares += (wide(row[i]) - mean) * (wide(row[i]) - mean);
    s = 1 / sqrt_(warp_sum(squares) / d + eps);
}

// A row for each warp.
KERNEL(layer_norm, GLOBAL const REAL* ALONE x, INT stride, GLOBAL const REAL* ALONE w, GLOBAL const REAL* ALONE b, GLOBAL REAL* ALONE y, INT rows, INT d, FLOAT eps) {
    const i64 row = BLOCK_X * (THREADS / 32) + THREAD / 32;
    if (row >= rows) return;
    float mean, s;
    row_statistics(AT x + row * stride, d, eps, mean, s);
    UNROLL_BY(8) for (i64 i = THREAD % 32; i < d; i += 32) narrow(y[row * d + i], (wide(x[row * stride + i]) - mean) * s * wide(w[i]) + wide(b[i]));
}

// With x̂ = (x − mean)·s: dx = s·(g·w − mean(g·w) − x̂·mean(g·w·x̂)), dw = Σ g·x̂, db = Σ g. A block has `chunk` rows, AT_ONCE at a time, and leaves its
// part of dw, then of db, in row BLOCK_X of `parts`; without parts (`sums` = 0) both are frozen.
#define AT_ONCE 16
struct Statistics { float mean[AT_ONCE], s[AT_ONCE], level[AT_ONCE], along[AT_ONCE]; };

KERNEL(layer_norm_backward, GLOBAL const REAL* ALONE x, INT stride, GLOBAL const REAL* ALONE w, GLOBAL const REAL* ALONE g, GLOBAL REAL* ALONE dx, GLOBAL float* ALONE parts, INT sums,
       INT rows, INT d, INT chunk, FLOAT eps) {
    SHARED(Statistics, of);
    const i64 end = smaller((BLOCK_X + 1) * chunk, rows);
    for (i64 first = BLOCK_X * chunk; first < end; first += AT_ONCE) {
        const int count = (int)smaller(AT_ONCE, end - first);
        for (int k = THREAD / 32; k < count; k += THREADS / 32) {
            GLOBAL const REAL* row = x + (first + k) * stride;
            float mean, s, level = 0, along = 0;
            row_statistics(AT row, d, eps, mean, s);
            UNROLL_BY(4) for (i64 i = THREAD % 32; i < d; i += 32) {
                const float gw = wide(g[(first + k) * d + i]) * wide(w[i]);
                level += gw;
                along += gw * (wide(row[i]) - mean) * s;
            }
            level = warp_sum(level) / d;
            along = warp_sum(along) / d;
            if (THREAD % 32 == 0) {
                of.mean[k] = mean;
                of.s[k] = s;
                of.level[k] = level;
                of.along[k] = along;
            }
        }
        block_sync();
        for (i64 i = THREAD; i < d; i += THREADS) {
            const bool fresh = first == BLOCK_X * chunk || !sums;
            float dw = fresh ? 0 : parts[BLOCK_X * 2 * d + i], db = fresh ? 0 : parts[(BLOCK_X * 2 + 1) * d + i];
            UNROLL_BY(4) for (int k = 0; k < count; k++) {
                const float gi = wide(g[(first + k) * d + i]), xi = (wide(x[(first + k) * stride + i]) - of.mean[k]) * of.s[k];
                narrow(dx[(first + k) * d + i], of.s[k] * (gi * wide(w[i]) - of.level[k] - xi * of.along[k]));
                dw += gi * xi;
                db += gi;
            }
            if (sums) {
                parts[BLOCK_X * 2 * d + i] = dw;
                parts[(BLOCK_X * 2 + 1) * d + i] = db;
            }
        }
        block_sync();
    }
}
