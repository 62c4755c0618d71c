// One step of AdamW over all tensors: m ← β₁m + (1−β₁)g, v ← β₂v + (1−β₂)g², θ ← decay·θ − rate·m / (root·√v + ε), with g scaled first.
//
// A tensor's row of `table`, which stays on the device: the addresses of θ, m and v, its elements, the first block that works on it, and whether it
// decays. The addresses of gradients, which differ from step to step, come with the launch. A block has EACH elements for each of its threads.

#define EACH 16
#define COLUMNS 6

KERNEL(adamw, GLOBAL const i64* table, NUMBERS grads, INT tensors, FLOAT decay, FLOAT rate, FLOAT root, FLOAT beta1, FLOAT more1, FLOAT beta2,
       FLOAT more2, FLOAT eps, FLOAT scale) {
    i64 low = 0, high = tensors; // the last tensor whose first block is not after this one
    while (high - low > 1) {
        const i64 middle = (low + high) / 2;
        if (table[middle * COLUMNS + 4] <= BLOCK_X) low = middle;
        else high = middle;
    }
    GLOBAL const i64* t = table + low * COLUMNS;
    GLOBAL float *param = (GLOBAL float*)t[0], *m = (GLOBAL float*)t[1], *v = (GLOBAL float*)t[2];
    GLOBAL const REAL* grad = (GLOBAL const REAL*)grads.at[low];
    const i64 first = (BLOCK_X - t[4]) * THREADS * EACH, end = smaller(first + THREADS * EACH, t[3]);
    const float kept = t[5] ? decay : 1;
    for (i64 i = first + THREAD; i < end; i += THREADS) {
        const float g = wide(grad[i]) * scale;
        m[i] = beta1 * m[i] + more1 * g;
        v[i] = beta2 * v[i] + more2 * (g * g);
        param[i] = kept * param[i] - rate * m[i] / (sqrt_(v[i]) * root + eps);
    }
}
