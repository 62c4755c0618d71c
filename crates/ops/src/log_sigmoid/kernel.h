// y = log σ(x) = min(x, 0) − log(1 + e^(−|x|)), and its gradient dx = g·σ(−x). Each thread has some elements.

KERNEL(log_sigmoid, GLOBAL const REAL* x, GLOBAL REAL* y, INT n) {
    for (i64 at = BLOCK_X * THREADS + THREAD; at < n; at += BLOCKS_X * THREADS) {
        const float xi = wide(x[at]);
        narrow(y[at], min_(xi, 0) - log1p_(exp_(xi < 0 ? xi : -xi)));
    }
}

KERNEL(log_sigmoid_backward, GLOBAL const REAL* x, GLOBAL const REAL* g, GLOBAL REAL* dx, INT n) {
    for (i64 at = BLOCK_X * THREADS + THREAD; at < n; at += BLOCKS_X * THREADS) {
        const float xi = wide(x[at]), small = exp_(xi < 0 ? xi : -xi);
        narrow(dx[at], wide(g[at]) * (xi > 0 ? small : 1) / (1 + small));
    }
}
