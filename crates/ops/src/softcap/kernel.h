// y = c·tanh(x/c), and its gradient dx = g·(1 − tanh²(x/c)). Each thread has some elements.

KERNEL(softcap, GLOBAL const REAL* x, GLOBAL REAL* y, INT n, FLOAT cap) {
    for (i64 at = BLOCK_X * THREADS + THREAD; at < n; at += BLOCKS_X * THREADS) narrow(y[at], cap * tanh_(wide(x[at]) / cap));
}

KERNEL(softcap_backward, GLOBAL const REAL* x, GLOBAL const REAL* g, GLOBAL REAL* dx, INT n, FLOAT cap) {
    for (i64 at = BLOCK_X * THREADS + THREAD; at < n; at += BLOCKS_X * THREADS) {
        const float t = tanh_(wide(x[at]) / cap); // from x: y was rounded
        narrow(dx[at], wide(g[at]) * (1 - t * t));
    }
}
