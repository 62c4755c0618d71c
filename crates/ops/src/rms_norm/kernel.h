// y = x / √(mean(x²) + ε) · (c + w) for each group of d elements, `per_row` groups to a row, rows of x `stride` elements apart.

DEVICE i64 group_at(i64 group, i64 per_row, i64 stride, i64 d) {
    const i64 row = small_quotient(group, per_row);
    return row * stride + (group - row * per_row) * d;
}

// A group for each warp.
KERNEL(rms_norm, GLOBAL const REAL* ALONE x, INT stride, GLOBAL const REAL* ALONE w, GLOBAL REAL* ALONE y, INT groups, INT per_row, INT d, FLOAT eps, FLOAT centre) {
    const i64 group = BLOCK_X * (THREADS / 32) + THREAD / 32;
    if (group >= groups) return;
    const i64 at = group_at(group, per_row, stride, d);
    float squares = 0;
    UNROLL_BY(8) for (i64 i = THREAD % 32; i < d; i += 32) squares += wide(x[at + i]) * wide(x[at + i]);
    const float s = 1 / sqrt_(warp_sum(squares) / d + eps);
    UNROLL_BY(8) for (i64 i = THREAD % 32; i < d; i += 32) narrow(y[group * d + i], wide(x[at + i]) * s * (centre + wide(w[i])));
}

// With s = 1/√(mean(x²) + ε) and f = c + w: dx = s·(g·f − x·s²·mean(g·f·x)), dw = Σ g·x·s. A block has `chunk` groups, AT_ONCE at a time, and leaves
// its part of dw in row BLOCK_X of `parts`; without parts (`sums` = 0) the weight is frozen.
#define AT_ONCE 16
struct Statistics { float s[AT_ONCE], along[AT_ONCE]; };

KERNEL(rms_norm_backward, GLOBAL const REAL* ALONE x, INT stride, GLOBAL const REAL* ALONE w, GLOBAL const REAL* ALONE g, GLOBAL REAL* ALONE dx, GLOBAL float* ALONE parts, INT sums,
       INT groups, INT per_row, INT d, INT chunk, FLOAT eps, FLOAT centre) {
    SHARED(Statistics, of);
    const i64 end = smaller((BLOCK_X + 1) * chunk, groups);
    for (i64 first = BLOCK_X * chunk; first < end; first += AT_ONCE) {
        const int count = (int)smaller(AT_ONCE, end - first);
        for (int k = THREAD / 32; k < count; k += THREADS / 32) {
            const i64 at = group_at(first + k, per_row, stride, d);
            float squares = 0, along = 0;
            UNROLL_BY(4) for (i64 i = THREAD % 32; i < d; i += 32) {
                const float xi = wide(x[at + i]);
                squares += xi * xi;
                along += wide(g[(first + k) * d + i]) * (centre + wide(w[i])) * xi;
            }
            squares = warp_sum(squares);
            along = warp_sum(along);
            if (THREAD % 32 == 0) {
                const float s = 1 / sqrt_(squares / d + eps);
                of.s[k] = s;
                of.along[k] = along / d * s * s;
            }
        }
        block_sync();
        for (i64 i = THREAD; i < d; i += THREADS) {
            const float f = centre + wide(w[i]);
            float dw = first == BLOCK_X * chunk || !sums ? 0 : parts[BLOCK_X * d + i];
            UNROLL_BY(4) for (int k = 0; k < count; k++) {
                const float xi = wide(x[group_at(first + k, per_row, stride, d) + i]), gi = wide(g[(first + k) * d + i]);
                narrow(dx[(first + k) * d + i], of.s[k] * (gi * f - xi * of.along[k]));
                dw += gi * xi * of.s[k];
            }
            if (sums) parts[BLOCK_X * d + i] = dw;
        }
        block_sync();
    }
}
