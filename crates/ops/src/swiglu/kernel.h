// y = silu(gate)·up. Rows of `width` elements; those of gate and up are `gate_stride` and `up_stride` apart. Each thread has some elements.

KERNEL(swiglu, GLOBAL const REAL* gate, INT gate_stride, GLOBAL const REAL* up, INT up_stride, GLOBAL REAL* y, INT n, INT width) {
    for (i64 at = BLOCK_X * THREADS + THREAD; at < n; at += BLOCKS_X * THREADS) {
        const i64 row = at / width, i = at % width;
        const float a = wide(gate[row * gate_stride + i]);
        narrow(y[at], a * sigmoid(a) * wide(up[row * up_stride + i]));
    }
}

// dgate = g·up·σ(1 + gate·(1 − σ)), dup = g·gate·σ, with σ = σ(gate).
KERNEL(swiglu_backward, GLOBAL const REAL* gate, INT gate_stride, GLOBAL const REAL* up, INT up_stride, GLOBAL const REAL* g, GLOBAL REAL* dgate,
       GLOBAL REAL* dup, INT n, INT width) {
    for (i64 at = BLOCK_X * THREADS + THREAD; at < n; at += BLOCKS_X * THREADS) {
        const i64 row = at / width, i = at % width;
        const float a = wide(gate[row * gate_stride + i]), s = sigmoid(a), gi = wide(g[at]);
        narrow(dgate[at], gi * wide(up[row * up_stride + i]) * s * (1 + a * (1 - s)));
        narrow(dup[at], gi * a * s);
    }
}
