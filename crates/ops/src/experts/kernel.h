// Rows of tokens for their experts, and back: row r of T·K stands for place slots[r] = t·K + k, the k-th expert of token t, and rows[t·K + k] = r. Each
// result row has a warp. Without weights (`weighted` = 0) all are 1.

// y[r] = weights[slots[r]]·x[token of r].
KERNEL(expert_rows, GLOBAL const REAL* x, GLOBAL const u32* slots, GLOBAL const REAL* weights, INT weighted, GLOBAL REAL* y, INT rows, INT chosen, INT width) {
    const i64 r = BLOCK_X * (THREADS / 32) + THREAD / 32;
    if (r >= rows) return;
    const i64 slot = slots[r], token = slot / chosen;
    const float weight = weighted ? wide(weights[slot]) : 1;
    for (i64 i = THREAD % 32; i < width; i += 32) narrow(y[r * width + i], weight * wide(x[token * width + i]));
}

// y[t] = Σ_k weights[t·K + k]·x[rows[t·K + k]], in the order of k.
KERNEL(expert_sums, GLOBAL const REAL* x, GLOBAL const u32* rows, GLOBAL const REAL* weights, INT weighted, GLOBAL REAL* y, INT tokens, INT chosen, INT width) {
    const i64 t = BLOCK_X * (THREADS / 32) + THREAD / 32;
    if (t >= tokens) return;
    for (i64 i = THREAD % 32; i < width; i += 32) {
        float sum = 0;
        for (i64 slot = t * chosen; slot < (t + 1) * chosen; slot++) sum += (weighted ? wide(weights[slot]) : 1) * wide(x[rows[slot] * width + i]);
        narrow(y[t * width + i], sum);
    }
}

// dweights[t·K + k] = g[t]·x[rows[t·K + k]].
KERNEL(expert_dots, GLOBAL const REAL* g, GLOBAL const REAL* x, GLOBAL const u32* rows, GLOBAL REAL* dweights, INT slots, INT chosen, INT width) {
    const i64 slot = BLOCK_X * (THREADS / 32) + THREAD / 32;
    if (slot >= slots) return;
    const i64 token = slot / chosen, row = rows[slot];
    float sum = 0;
    for (i64 i = THREAD % 32; i < width; i += 32) sum += wide(g[token * width + i]) * wide(x[row * width + i]);
    sum = warp_sum(sum);
    if (THREAD % 32 == 0) narrow(dweights[slot], sum);
}
