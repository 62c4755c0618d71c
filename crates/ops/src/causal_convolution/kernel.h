// A convolution of each channel over a token's past: y[t, c] = Σ_j w[c, L−1−j]·x[past[t, j], c], where past[t, j] is the token j before t, or NONE. Rows of
// x are `stride` elements apart.

#define NONE 0xffffffffu

KERNEL(convolve, GLOBAL const REAL* x, INT stride, GLOBAL const REAL* w, GLOBAL const u32* past, GLOBAL REAL* y, INT tokens, INT channels, INT taps) {
    for (i64 at = BLOCK_X * THREADS + THREAD; at < tokens * channels; at += BLOCKS_X * THREADS) {
        const i64 t = quotient(at, channels), c = at - t * channels;
        float sum = 0;
        for (i64 j = 0; j < taps; j++) {
            const u32 before = past[t * taps + j];
            if (before != NONE) sum += wide(w[c * taps + taps - 1 - j]) * wide(x[before * stride + c]);
        }
        narrow(y[at], sum);
    }
}

// dx[s, c] = Σ w[c, L−1−j]·g[t, c] over the (t, j) with past[t, j] = s: pairs of `seen_by`, from starts[s] to starts[s + 1].
KERNEL(convolve_backward, GLOBAL const REAL* g, GLOBAL const REAL* w, GLOBAL const u32* starts, GLOBAL const u32* seen_by, GLOBAL REAL* dx, INT tokens,
       INT channels, INT taps) {
    for (i64 at = BLOCK_X * THREADS + THREAD; at < tokens * channels; at += BLOCKS_X * THREADS) {
        const i64 s = quotient(at, channels), c = at - s * channels;
        float sum = 0;
        for (i64 i = starts[s]; i < starts[s + 1]; i++) sum += wide(w[c * taps + taps - 1 - seen_by[2 * i + 1]]) * wide(g[seen_by[2 * i] * channels + c]);
        narrow(dx[at], sum);
    }
}

// dw[c, L−1−j] = Σ_t g[t, c]·x[past[t, j], c], of `chunk` tokens: row BLOCK_Y of `parts`. A weight for each thread.
KERNEL(convolve_weights, GLOBAL const REAL* x, INT stride, GLOBAL const REAL* g, GLOBAL const u32* past, GLOBAL float* parts, INT tokens, INT channels,
       INT taps, INT chunk) {
    const i64 i = BLOCK_X * THREADS + THREAD, c = i / taps, j = taps - 1 - i % taps, end = smaller((BLOCK_Y + 1) * chunk, tokens);
    if (i >= channels * taps) return;
    float sum = 0;
    for (i64 t = BLOCK_Y * chunk; t < end; t++) {
        const u32 before = past[t * taps + j];
        if (before != NONE) sum += wide(g[t * channels + c]) * wide(x[before * stride + c]);
    }
    parts[BLOCK_Y * channels * taps + i] = sum;
}
