// What follows the projection onto the vocabulary, for a chunk of rows from token `first` on. z is hidden·vocabᵀ in float, from which a logit is
// x = scale·z, or capped c·tanh(scale·z/c) where `cap` is not 0. A block for each row.

struct Scratch { float of_warp[WARPS]; };

DEVICE float logit(float z, float scale, float cap) { return cap == 0 ? scale * z : cap * tanh_(scale * z / cap); }

// log p of the target, entropy, and log Σ e^x. A target beyond the vocabulary gives NaN, which stops a run.
KERNEL(row_statistics, GLOBAL const float* ALONE z, GLOBAL const u32* ALONE targets, INT first, INT v, FLOAT scale, FLOAT cap, GLOBAL float* ALONE logprobs,
       GLOBAL float* ALONE entropies, GLOBAL float* ALONE normalisers) {
    SHARED(Scratch, m);
    const i64 row = first + BLOCK_X;
    GLOBAL const float* x = z + BLOCK_X * v;
    float top = -INFINITE, total = 0, along = 0;
    UNROLL_BY(8) for (i64 i = THREAD; i < v; i += THREADS) top = max_(top, logit(x[i], scale, cap));
    top = block_max(AT top, m);
    UNROLL_BY(8) for (i64 i = THREAD; i < v; i += THREADS) {
        const float less = logit(x[i], scale, cap) - top, weight = exp_(less);
        total += weight;
        along += weight * less;
    }
    total = block_sum(AT total, m);
    along = block_sum(AT along, m);
    if (THREAD > 0) return;
    const i64 target = targets[row];
    normalisers[row] = top + log_(total);
    entropies[row] = log_(total) - along / total;
    logprobs[row] = target < v ? logit(x[target], scale, cap) - normalisers[row] : INFINITE - INFINITE;
}

// The gradient of Σ a·log p_target + b·entropy for z: dz_j = scale·(1 − (x_j/c)²)·(a·[j = target] − p_j·(a + b·(log p_j + entropy))).
KERNEL(row_gradients, GLOBAL const float* ALONE z, GLOBAL const u32* ALONE targets, INT first, INT v, FLOAT scale, FLOAT cap, GLOBAL const float* ALONE a,
       GLOBAL const float* ALONE b, GLOBAL const float* ALONE entropies, GLOBAL const float* ALONE normalisers, GLOBAL REAL* ALONE dz) {
    const i64 row = first + BLOCK_X, target = targets[row];
    const float a_ = a[row], b_ = b[row], entropy = entropies[row], normaliser = normalisers[row];
    UNROLL_BY(8) for (i64 j = THREAD; j < v; j += THREADS) {
        const float x = logit(z[BLOCK_X * v + j], scale, cap), logp = x - normaliser;
        const float d = (j == target ? a_ : 0) - exp_(logp) * (a_ + b_ * (logp + entropy));
        narrow(dz[BLOCK_X * v + j], scale * (cap == 0 ? 1 : 1 - x / cap * (x / cap)) * d);
    }
}
