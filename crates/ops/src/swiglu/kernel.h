// y = silu(gate)·up. Rows of `width` elements; those of gate and up are `gate_stride` and `up_stride` apart. A block for each row.

KERNEL(swiglu, GLOBAL const REAL* ALONE gate, INT gate_stride, GLOBAL const REAL* ALONE up, INT up_stride, GLOBAL REAL* ALONE y, INT width) {
    UNROLL_BY(4) for (i64 i = THREAD; i < width; i += THREADS) {
        const float a = wide(gate[BLOCK_X * gate_stride + i]);
        narrow(y[BLOCK_X * width + i], a * sigmoid(a) * wide(up[BLOCK_X * up_stride + i]));
    }
}

// dgate = g·up·σ(1 + gate·(1 − σ)), dup = g·gate·σ, with σ = σ(gate).
KERNEL(swiglu_backward, GLOBAL const REAL* ALONE gate, INT gate_stride, GLOBAL const REAL* ALONE up, INT up_stride, GLOBAL const REAL* ALONE g,
       GLOBAL REAL* ALONE dgate, GLOBAL REAL* ALONE dup, INT width) {
    UNROLL_BY(4) for (i64 i = THREAD; i < width; i += THREADS) {
        const i64 at = BLOCK_X * width + i;
        const float a = wide(gate[BLOCK_X * gate_stride + i]), s = sigmoid(a), gi = wide(g[at]);
        narrow(dgate[at], gi * wide(up[BLOCK_X * up_stride + i]) * s * (1 + a * (1 - s)));
        narrow(dup[at], gi * a * s);
    }
}
