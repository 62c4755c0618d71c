// One step of AdamW over all tensors: m ← β₁m + (1−β₁)g, v ← β₂v + (1−β₂)g², θ ← decay·θ − rate·m / (root·√v + ε), with g scaled first.
//
// A tensor's row of `table`: the addresses of θ, g, m and v, its elements, and the first block that works on it; then the constants of its step, two
// floats in each number. A block has EACH elements for each of its threads.

#define EACH 16
#define COLUMNS 11

KERNEL(adamw, GLOBAL const i64* table, INT tensors) {
    i64 low = 0, high = tensors; // the last tensor whose first block is not after this one
    while (high - low > 1) {
        const i64 middle = (low + high) / 2;
        if (table[middle * COLUMNS + 5] <= BLOCK_X) low = middle;
        else high = middle;
    }
    GLOBAL const i64* t = table + low * COLUMNS;
    GLOBAL const float* f = (GLOBAL const float*)(t + 6);
    GLOBAL float* param = (GLOBAL float*)t[0];
    GLOBAL const REAL* grad = (GLOBAL const REAL*)t[1];
    GLOBAL float *m = (GLOBAL float*)t[2], *v = (GLOBAL float*)t[3];
    const i64 first = (BLOCK_X - t[5]) * THREADS * EACH, end = smaller(first + THREADS * EACH, t[4]);
    const float decay = f[0], rate = f[1], root = f[2], beta1 = f[3], more1 = f[4], beta2 = f[5], more2 = f[6], eps = f[7], scale = f[8];
    for (i64 i = first + THREAD; i < end; i += THREADS) {
        const float g = wide(grad[i]) * scale;
        m[i] = beta1 * m[i] + more1 * g;
        v[i] = beta2 * v[i] + more2 * (g * g);
        param[i] = decay * param[i] - rate * m[i] / (sqrt_(v[i]) * root + eps);
    }
}
