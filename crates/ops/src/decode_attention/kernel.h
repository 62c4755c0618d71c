// Attention of the newest tokens over a cache: each row of the batch sees the places of the pools that its list names. A key head's queries are
// BLOCK_Y of a piece of the list, BLOCK_X; what the pieces find is joined afterwards (Dao et al. 2023, "Flash-Decoding"). A warp reads
// AT_ONCE places at a time; its lanes are the elements of a head.
//
// A piece is its row, its first entry of `places` and its number of them. Its part: for every query head the sum Σ e^(s−m)·v, then m and Σ e^(s−m).

#define WARPS (THREADS / 32)
#define EACH ((HEAD + 31) / 32) // elements of a head for each lane
#define AT_ONCE (EACH > 4 ? 2 : EACH > 2 ? 4 : 8) // places that a warp reads before it needs any, as many as registers have room for

struct Parts { float sum[WARPS][HEAD], top[WARPS], total[WARPS]; };

KERNEL(decode_pieces, GLOBAL const REAL* ALONE q, GLOBAL const REAL* ALONE k, GLOBAL const REAL* ALONE v, GLOBAL const u32* ALONE pieces, GLOBAL const u32* ALONE places,
       GLOBAL float* ALONE parts, INT heads, INT kv_heads, INT d, FLOAT scale, FLOAT cap) {
    SHARED(Parts, m);
    const i64 head = BLOCK_Y, kv_head = small_quotient(head, small_quotient(heads, kv_heads)), row = pieces[3 * BLOCK_X], first = pieces[3 * BLOCK_X + 1], count = pieces[3 * BLOCK_X + 2];
    const int warp = THREAD / 32, lane = THREAD % 32;
    float query[EACH], sum[EACH], top = -INFINITE, total = 0;
    UNROLL for (int e = 0; e < EACH; e++) {
        const int i = e * 32 + lane;
        query[e] = i < d ? wide(q[(row * heads + head) * d + i]) * scale : 0;
        sum[e] = 0;
    }
    for (i64 at = warp * AT_ONCE; at < count; at += WARPS * AT_ONCE) {
        float s[AT_ONCE], value[AT_ONCE][EACH], best = top;
        UNROLL for (int j = 0; j < AT_ONCE; j++) {
            const i64 token = ((i64)places[first + smaller(at + j, count - 1)] * kv_heads + kv_head) * d;
            s[j] = 0;
            UNROLL for (int e = 0; e < EACH; e++) {
                const int i = e * 32 + lane;
                s[j] += i < d ? query[e] * wide(k[token + i]) : 0;
                value[j][e] = i < d ? wide(v[token + i]) : 0;
            }
        }
        UNROLL for (int j = 0; j < AT_ONCE; j++) s[j] = warp_sum(s[j]);
        if (cap != 0) UNROLL for (int j = 0; j < AT_ONCE; j++) s[j] = cap * tanh_(s[j] / cap);
        UNROLL for (int j = 0; j < AT_ONCE; j++) {
            if (at + j >= count) s[j] = -INFINITE;
            best = max_(best, s[j]);
        }
        const float shrink = exp_(top - best);
        top = best;
        total *= shrink;
        UNROLL for (int e = 0; e < EACH; e++) sum[e] *= shrink;
        UNROLL for (int j = 0; j < AT_ONCE; j++) {
            const float weight = exp_(s[j] - best);
            total += weight;
            UNROLL for (int e = 0; e < EACH; e++) sum[e] += weight * value[j][e];
        }
    }
    UNROLL for (int e = 0; e < EACH; e++)
        if (e * 32 + lane < d) m.sum[warp][e * 32 + lane] = sum[e];
    if (lane == 0) {
        m.top[warp] = top;
        m.total[warp] = total;
    }
    block_sync();
    float best = -INFINITE, all = 0;
    for (int w = 0; w < WARPS; w++) best = max_(best, m.top[w]); // finite: the first warp has a place
    for (int w = 0; w < WARPS; w++) all += m.total[w] * exp_(m.top[w] - best);
    GLOBAL float* part = parts + (BLOCK_X * heads + head) * (d + 2);
    for (int i = THREAD; i < d; i += THREADS) {
        float x = 0;
        for (int w = 0; w < WARPS; w++) x += m.top[w] == -INFINITE ? 0 : m.sum[w][i] * exp_(m.top[w] - best);
        part[i] = x;
    }
    if (THREAD == 0) {
        part[d] = best;
        part[d + 1] = all;
    }
}

// o of each row and head from its row's pieces, `firsts[row]` to `firsts[row + 1]`, in their order; a warp each.
KERNEL(decode_join, GLOBAL const float* ALONE parts, GLOBAL const u32* ALONE firsts, GLOBAL REAL* ALONE o, INT rows, INT heads, INT d) {
    const i64 at = BLOCK_X * (THREADS / 32) + THREAD / 32, row = small_quotient(at, heads), head = at - row * heads;
    if (row >= rows) return;
    float best = -INFINITE, all = 0;
    for (i64 piece = firsts[row]; piece < firsts[row + 1]; piece++) best = max_(best, parts[(piece * heads + head) * (d + 2) + d]);
    for (i64 piece = firsts[row]; piece < firsts[row + 1]; piece++) {
        GLOBAL const float* part = parts + (piece * heads + head) * (d + 2);
        all += part[d + 1] * exp_(part[d] - best);
    }
    for (i64 i = THREAD % 32; i < d; i += 32) {
        float x = 0;
        for (i64 piece = firsts[row]; piece < firsts[row + 1]; piece++) {
            GLOBAL const float* part = parts + (piece * heads + head) * (d + 2);
            x += part[i] * exp_(part[d] - best);
        }
        narrow(o[at * d + i], x / all);
    }
}
