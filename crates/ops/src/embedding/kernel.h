// y_t = table[ids_t], rows of d elements; a row for each warp. An id beyond the table gives NaN, which stops a run.

KERNEL(embedding, GLOBAL const u32* ALONE ids, GLOBAL const REAL* ALONE table, GLOBAL REAL* ALONE y, INT n, INT rows, INT d) {
    const i64 t = BLOCK_X * (THREADS / 32) + THREAD / 32;
    if (t >= n) return;
    const i64 id = ids[t];
    UNROLL_BY(4) for (i64 i = THREAD % 32; i < d; i += 32) {
        if (id < rows) y[t * d + i] = table[id * d + i];
        else narrow(y[t * d + i], INFINITE - INFINITE);
    }
}

DEVICE u32 warp_smallest(u32 x) {
    UNROLL for (int mask = 16; mask > 0; mask /= 2) {
        const u32 other = bits_of(shuffle_xor(float_of(x), mask));
        x = x < other ? x : other;
    }
    return x;
}

// links[t] is the next token of t's id, or n; links[n + t] is 1 where t is the first of its id. A token for each warp, whose lanes look at 32 at a time.
KERNEL(embedding_links, GLOBAL const u32* ALONE ids, GLOBAL u32* ALONE links, INT n) {
    const i64 t = BLOCK_X * (THREADS / 32) + THREAD / 32;
    if (t >= n) return;
    const u32 id = ids[t];
    i64 next = t + 1 + THREAD % 32, before = THREAD % 32;
    while (next < n && ids[next] != id) next += 32;
    while (before < t && ids[before] != id) before += 32;
    const u32 nearest = warp_smallest((u32)smaller(next, n)), earliest = warp_smallest((u32)smaller(before, t));
    if (THREAD % 32 > 0) return;
    links[t] = nearest;
    links[n + t] = earliest == t;
}

// dtable_v += Σ g_t over the tokens t of id v, in their order; `dtable` holds zeros or an earlier sum. A warp for each token and 32
// columns, BLOCK_Y; the first token of its id works.
KERNEL(embedding_backward, GLOBAL const u32* ALONE ids, GLOBAL const u32* ALONE links, GLOBAL const REAL* ALONE g, GLOBAL float* ALONE dtable, INT n, INT rows, INT d) {
    const i64 t = BLOCK_X * (THREADS / 32) + THREAD / 32;
    if (t >= n || !links[n + t] || ids[t] >= rows) return;
    const i64 row = (i64)ids[t] * d, i = BLOCK_Y * 32 + THREAD % 32;
    if (i >= d) return;
    float sum = dtable[row + i];
    for (i64 at = t; at < n; at = links[at]) sum += wide(g[at * d + i]);
    dtable[row + i] = sum;
}
