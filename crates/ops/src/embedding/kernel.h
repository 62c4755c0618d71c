// y_t = table[ids_t], rows of d elements; a row for each warp. An id beyond the table gives NaN, which stops a run.

KERNEL(embedding, GLOBAL const u32* ids, GLOBAL const REAL* table, GLOBAL REAL* y, INT n, INT rows, INT d) {
    const i64 t = BLOCK_X * (THREADS / 32) + THREAD / 32;
    if (t >= n) return;
    const i64 id = ids[t];
    for (i64 i = THREAD % 32; i < d; i += 32) {
        if (id < rows) y[t * d + i] = table[id * d + i];
        else narrow(y[t * d + i], INFINITE - INFINITE);
    }
}

// links[t] is the next token of t's id, or n; links[n + t] is 1 where t is the first of its id. A token for each thread.
KERNEL(embedding_links, GLOBAL const u32* ids, GLOBAL u32* links, INT n) {
    const i64 t = BLOCK_X * THREADS + THREAD;
    if (t >= n) return;
    const u32 id = ids[t];
    i64 next = t + 1, before = 0;
    while (next < n && ids[next] != id) next++;
    while (before < t && ids[before] != id) before++;
    links[t] = (u32)next;
    links[n + t] = before == t;
}

// dtable_v += Σ g_t over the tokens t of id v, in their order; `dtable` holds zeros or an earlier sum. A warp for each token; the first of its id works.
KERNEL(embedding_backward, GLOBAL const u32* ids, GLOBAL const u32* links, GLOBAL const REAL* g, GLOBAL float* dtable, INT n, INT rows, INT d) {
    const i64 t = BLOCK_X * (THREADS / 32) + THREAD / 32;
    if (t >= n || !links[n + t] || ids[t] >= rows) return;
    const i64 row = (i64)ids[t] * d;
    for (i64 i = THREAD % 32; i < d; i += 32) {
        float sum = dtable[row + i];
        for (i64 at = t; at < n; at = links[at]) sum += wide(g[at * d + i]);
        dtable[row + i] = sum;
    }
}
