// y = silu(gate)·up. Rows of `width` elements; those of gate and up are `gate_stride` and `up_stride` apart. Each thread has some elements.

KERNEL(swiglu, GLOBAL const REAL* ALONE gate, INT gate_stride, GLOBAL const REAL* ALONE up, INT up_stride, GLOBAL REAL* ALONE y, INT n, INT width) {
    UNROLL_BY(4) for (i64 at = BLOCK_X * THREADS + THREAD; at < n; at += BLOCKS_X * THREADS) {
        const i64 row = quotient(at, width), i = at - row * width;
        const float a = wide(gate[row * gate_stride + i]);
        narrow(y[at], a * sigmoid(a) * wide(up[row * up_stride + i]));
    }
}

// dgate = g·up·σ(1 + gate·(1 − σ)), dup = g·gate·σ, with σ = σ(gate).
KERNEL(swiglu_backward, GLOBAL const REAL* ALONE gate, INT gate_stride, GLOBAL const REAL* ALONE up, INT up_stride, GLOBAL const REAL* ALONE g, GLOBAL REAL* ALONE dgate,
       GLOBAL REAL* ALONE dup, INT n, INT width) {
    UNROLL_BY(4) for (i64 at = BLOCK_X * THREADS + THREAD; at < n; at += BLOCKS_X * THREADS) {
        const i64 row = quotient(at, width), i = at - row * width;
        const float a = wide(gate[row * gate_stride + i]), s = sigmoid(a), gi = wide(g[at]);
        narrow(dgate[at], gi * wide(up[row * up_stride + i]) * s * (1 + a * (1 - s)));
        narrow(dup[at], gi * a * s);
    }
}
