// y = x·½(1 + tanh u) with u = √(2/π)(x + 0.044715x³), and y = x·Φ(x). Each thread has some elements.

// ½(1 + tanh u) = σ(2u); the slope is 2√(2/π).
#define SLOPE 1.5957691216057308f
#define CUBIC 0.044715f

DEVICE float normal(float x) { return 0.5f * (1 + erf_(x * 0.7071067811865476f)); }

KERNEL(gelu_tanh, GLOBAL const REAL* ALONE x, GLOBAL REAL* ALONE y, INT n) {
    for (i64 at = BLOCK_X * THREADS + THREAD; at < n; at += BLOCKS_X * THREADS) {
        const float xi = wide(x[at]);
        narrow(y[at], xi * sigmoid(SLOPE * (xi + CUBIC * xi * xi * xi)));
    }
}

// dx = g·(σ + x·σ(1 − σ)·(2u)′).
KERNEL(gelu_tanh_backward, GLOBAL const REAL* ALONE x, GLOBAL const REAL* ALONE g, GLOBAL REAL* ALONE dx, INT n) {
    for (i64 at = BLOCK_X * THREADS + THREAD; at < n; at += BLOCKS_X * THREADS) {
        const float xi = wide(x[at]), s = sigmoid(SLOPE * (xi + CUBIC * xi * xi * xi));
        narrow(dx[at], wide(g[at]) * (s + xi * s * (1 - s) * SLOPE * (1 + 3 * CUBIC * xi * xi)));
    }
}

KERNEL(gelu_erf, GLOBAL const REAL* ALONE x, GLOBAL REAL* ALONE y, INT n) {
    for (i64 at = BLOCK_X * THREADS + THREAD; at < n; at += BLOCKS_X * THREADS) narrow(y[at], wide(x[at]) * normal(wide(x[at])));
}

// dx = g·(Φ(x) + x·φ(x)), with φ(x) = e^(−x²/2)/√(2π).
KERNEL(gelu_erf_backward, GLOBAL const REAL* ALONE x, GLOBAL const REAL* ALONE g, GLOBAL REAL* ALONE dx, INT n) {
    for (i64 at = BLOCK_X * THREADS + THREAD; at < n; at += BLOCKS_X * THREADS) {
        const float xi = wide(x[at]);
        narrow(dx[at], wide(g[at]) * (normal(xi) + xi * exp_(-0.5f * xi * xi) * 0.3989422804014327f));
    }
}
