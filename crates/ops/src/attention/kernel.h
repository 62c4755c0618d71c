// FlashAttention-2 (Dao 2023) over a packed stream with shared prefixes: algorithms 1 and 2 with their symbols, S = scale·Q·Kᵀ, P = softmax(S),
// O = P·V, L = log Σ e^S, and for the gradient D = Σ dO∘O, dS = P∘(dO·Vᵀ − D).
//
// Compiled for each size of heads, rounded up to a multiple of 16 (HEAD), with tiles of BR queries and BC keys; a warp has 16 rows of a tile, so BR
// is THREADS / 2. Which tokens a tile has, and which tiles it meets, stands in tables that the host builds once a batch. `sight`, and
// `window` in 32 bits, is the number of keys that a query sees, `cap` the bound c of scores c·tanh(S/c) where they are CAPPED. BLOCK_Y is the head.
// No sum is atomic.

#define BR (THREADS / 2)
#define LD (HEAD + PAD)

// Room for a product of each warp that goes into another product: on tensor cores it stays in registers.
#if defined(TENSOR_PRODUCTS)
#define SCRATCH 8
#define SCRATCH_OF_WARP m.scratch
#else
#define SCRATCH (BR * (BC + PAD))
#define SCRATCH_OF_WARP (m.scratch + THREAD / 32 * 16 * (BC + PAD))
#endif

// A score from a product, and the factor of its gradient.
DEVICE float score(float product, float scale, float cap) { return CAPPED ? cap * tanh_(product * scale / cap) : product * scale; }
DEVICE float slope(float score, float scale, float cap) { return CAPPED ? scale * (1 - score / cap * (score / cap)) : scale; }

// Of a query at place `own` among its keys, whether it sees key `key`. Places within tiles, which fit 32 bits.
DEVICE bool sees(int own, int key, int window) { return key <= own && own - key < window; }
// Whether 16 queries from place `own` on see all of the BC keys from place 0 on. Most tiles are such, and need no look at each score.
DEVICE bool see_all(int own, int window) { return BC - 1 <= own && own + 15 < window; }

// `count` queries from token `first` on, of a segment that starts at `own` and continues the `prefix_len` tokens from `prefix` on. The keys of the
// segment are counted from the start of its prefix.
struct QueryTile { i64 first; int count; i64 own, prefix, prefix_len; };
DEVICE QueryTile query_tile(HERE GLOBAL const i64* tiles) {
    tiles += 5 * BLOCK_X;
    QueryTile t = {tiles[0], (int)tiles[1], tiles[2], tiles[3], tiles[4]};
    return t;
}
// Keys that come before the tile's first query, and the first that any of its queries sees, in whole tiles of keys.
DEVICE i64 keys_before(QueryTile t) { return t.prefix_len + t.first - t.own; }
DEVICE i64 first_key(QueryTile t, int window) { return larger(0, keys_before(t) - window + 1) / BC * BC; }
// BC keys, or values, of a tile's segment.
DEVICE void load_keys(HERE LOCAL REAL* to, GLOBAL const REAL* from, i64 stride, i64 d, QueryTile t, i64 start) {
    load_rows<BC, HEAD>(AT to, from, stride, d, t.prefix + start, t.prefix_len - start, t.own - t.prefix_len + start, keys_before(t) + t.count - start);
}

// What passes has BUFFERS places, so that the next tile is copied while one is computed with. A loop over tiles waits, has the next one copied,
// computes; with a single place the copy comes after what is computed.
struct Passing { REAL a[BC * LD], b[BC * LD]; };
struct Forward { REAL q[BR * LD]; Passing kv[BUFFERS]; REAL scratch[SCRATCH]; };
DEVICE void load_keys_and_values(HERE LOCAL Passing& to, GLOBAL const REAL* k, i64 k_stride, GLOBAL const REAL* v, i64 v_stride, i64 d, QueryTile t, i64 start) {
    load_keys(AT to.a, k, k_stride, d, t, start);
    load_keys(AT to.b, v, v_stride, d, t, start);
}

// O and L. Where REAL has two bytes, `low` gets what rounding O took away, if `keep`: D is computed from their sum, since dO·Vᵀ − D cancels.
KERNEL(attention_forward, GLOBAL const REAL* ALONE q, INT q_stride, GLOBAL const REAL* ALONE k, INT k_stride, GLOBAL const REAL* ALONE v, INT v_stride,
       GLOBAL const i64* ALONE tiles, GLOBAL REAL* ALONE o, GLOBAL REAL* ALONE low, INT keep, GLOBAL float* ALONE l, INT heads, INT kv_heads, INT d, FLOAT scale, INT sight, FLOAT cap) {
    SHARED(Forward, m);
    const QueryTile t = query_tile(AT tiles);
    const i64 head = BLOCK_Y, kv_head = small_quotient(head, small_quotient(heads, kv_heads)), before = keys_before(t);
    const int warp = THREAD / 32, window = (int)smaller(sight, 1 << 30);
    const i64 end = before + t.count;
    i64 start = first_key(t, window);
    load_rows<BR, HEAD>(AT m.q, q + head * d, q_stride, d, t.first, t.count);
    load_keys_and_values(AT m.kv[0], k + kv_head * d, k_stride, v + kv_head * d, v_stride, d, t, start);
    float acc[HEAD / 8][4] = {}, top[2] = {-INFINITE, -INFINITE}, total[2] = {0, 0};
    for (int place = 0; start < end; start += BC, place = (place + 1) % BUFFERS) {
        copy_wait();
        block_sync();
        if (BUFFERS > 1 && start + BC < end)
            load_keys_and_values(AT m.kv[(place + 1) % BUFFERS], k + kv_head * d, k_stride, v + kv_head * d, v_stride, d, t, start + BC);
        const int own = (int)(before + warp * 16 - start); // the key at the place of the warp's first query
        const bool simple = !CAPPED && see_all(own, window);
        float s[BC / 8][4] = {};
        product_nt<BC / 8, HEAD>(AT s, m.q + warp * 16 * LD, m.kv[place].a);
        UNROLL for (int h = 0; h < 2; h++) {
            const int last = own + row_of(AT 2 * h);
            float best = top[h];
            if (simple) UNROLL for (int n = 0; n < BC / 8; n++) UNROLL for (int i = 2 * h; i < 2 * h + 2; i++) s[n][i] *= scale;
            else UNROLL for (int n = 0; n < BC / 8; n++) UNROLL for (int i = 2 * h; i < 2 * h + 2; i++)
                s[n][i] = sees(last, n * 8 + column_of(AT i), window) ? score(s[n][i], scale, cap) : -INFINITE;
            UNROLL for (int n = 0; n < BC / 8; n++) UNROLL for (int i = 2 * h; i < 2 * h + 2; i++) best = max_(best, s[n][i]);
            best = max_(best, shuffle_xor(best, 1));
            best = max_(best, shuffle_xor(best, 2));
            const float base = best == -INFINITE ? 0 : best; // a window may hide a whole tile
            const float shrink = quick_exp(top[h] - base);
            top[h] = best;
            total[h] *= shrink;
            UNROLL for (int n = 0; n < HEAD / 8; n++) UNROLL for (int i = 2 * h; i < 2 * h + 2; i++) acc[n][i] *= shrink;
            UNROLL for (int n = 0; n < BC / 8; n++) UNROLL for (int i = 2 * h; i < 2 * h + 2; i++) {
                s[n][i] = quick_exp(s[n][i] - base);
                total[h] += s[n][i];
            }
        }
        product_pn<HEAD / 8, BC / 8>(AT acc, s, SCRATCH_OF_WARP, m.kv[place].b);
        if (BUFFERS == 1) {
            block_sync();
            if (start + BC < end) load_keys_and_values(AT m.kv[0], k + kv_head * d, k_stride, v + kv_head * d, v_stride, d, t, start + BC);
        }
    }
    UNROLL for (int h = 0; h < 2; h++) {
        total[h] += shuffle_xor(total[h], 1);
        total[h] += shuffle_xor(total[h], 2);
        const int row = warp * 16 + row_of(AT 2 * h);
        if (row >= t.count) continue;
        const i64 at = (t.first + row) * heads + head;
        if (THREAD % 4 == 0) l[at] = top[h] + log_(total[h]);
        UNROLL for (int n = 0; n < HEAD / 8; n++) UNROLL for (int i = 2 * h; i < 2 * h + 2; i++) {
            const i64 column = n * 8 + column_of(AT i);
            if (column >= d) continue;
            const float exact = acc[n][i] / total[h];
            narrow(o[at * d + column], exact);
            if (keep) narrow(low[at * d + column], exact - wide(o[at * d + column]));
        }
    }
}

// D = Σ dO∘O of each token and head, which are rows of d elements; a warp each.
KERNEL(attention_delta, GLOBAL const REAL* ALONE g, GLOBAL const REAL* ALONE o, GLOBAL const REAL* ALONE low, INT kept, GLOBAL float* ALONE delta, INT rows, INT d) {
    const i64 row = BLOCK_X * (THREADS / 32) + THREAD / 32;
    if (row >= rows) return;
    float sum = 0;
    for (i64 i = row * d + THREAD % 32; i < (row + 1) * d; i += 32) sum += wide(g[i]) * (wide(o[i]) + (kept ? wide(low[i]) : 0));
    sum = warp_sum(sum);
    if (THREAD % 32 == 0) delta[row] = sum;
}

struct BackwardQ { REAL q[BR * LD], g[BR * LD]; Passing kv[BUFFERS]; REAL scratch[SCRATCH]; };

// dQ = dS·K, with the factor of the scores in dS.
KERNEL(attention_backward_q, GLOBAL const REAL* ALONE q, INT q_stride, GLOBAL const REAL* ALONE k, INT k_stride, GLOBAL const REAL* ALONE v, INT v_stride,
       GLOBAL const REAL* ALONE g, GLOBAL const float* ALONE l, GLOBAL const float* ALONE delta, GLOBAL const i64* ALONE tiles, GLOBAL REAL* ALONE dq, INT dq_stride, INT heads,
       INT kv_heads, INT d, FLOAT scale, INT sight, FLOAT cap) {
    SHARED(BackwardQ, m);
    const QueryTile t = query_tile(AT tiles);
    const i64 head = BLOCK_Y, kv_head = small_quotient(head, small_quotient(heads, kv_heads)), before = keys_before(t);
    const int warp = THREAD / 32, window = (int)smaller(sight, 1 << 30);
    load_rows<BR, HEAD>(AT m.q, q + head * d, q_stride, d, t.first, t.count);
    load_rows<BR, HEAD>(AT m.g, g + head * d, heads * d, d, t.first, t.count);
    const i64 end = before + t.count;
    i64 start = first_key(t, window);
    load_keys_and_values(AT m.kv[0], k + kv_head * d, k_stride, v + kv_head * d, v_stride, d, t, start);
    float l_[2], delta_[2], acc[HEAD / 8][4] = {};
    UNROLL for (int h = 0; h < 2; h++) {
        const int row = warp * 16 + row_of(AT 2 * h);
        l_[h] = row < t.count ? l[(t.first + row) * heads + head] : 0;
        delta_[h] = row < t.count ? delta[(t.first + row) * heads + head] : 0;
    }
    for (int place = 0; start < end; start += BC, place = (place + 1) % BUFFERS) {
        copy_wait();
        block_sync();
        if (BUFFERS > 1 && start + BC < end)
            load_keys_and_values(AT m.kv[(place + 1) % BUFFERS], k + kv_head * d, k_stride, v + kv_head * d, v_stride, d, t, start + BC);
        float s[BC / 8][4] = {}, dp[BC / 8][4] = {};
        product_nt<BC / 8, HEAD>(AT s, m.q + warp * 16 * LD, m.kv[place].a);
        product_nt<BC / 8, HEAD>(AT dp, m.g + warp * 16 * LD, m.kv[place].b);
        const int own = (int)(before + warp * 16 - start);
        if (!CAPPED && see_all(own, window)) { // rows beyond `count` have dP = D = 0
            UNROLL for (int n = 0; n < BC / 8; n++) UNROLL for (int i = 0; i < 4; i++)
                s[n][i] = quick_exp(s[n][i] * scale - l_[i / 2]) * (dp[n][i] - delta_[i / 2]) * scale;
        } else {
            UNROLL for (int n = 0; n < BC / 8; n++) UNROLL for (int i = 0; i < 4; i++) {
                const bool seen = warp * 16 + row_of(AT i) < t.count && sees(own + row_of(AT i), n * 8 + column_of(AT i), window);
                const float x = score(s[n][i], scale, cap);
                s[n][i] = seen ? quick_exp(x - l_[i / 2]) * (dp[n][i] - delta_[i / 2]) * slope(x, scale, cap) : 0;
            }
        }
        product_pn<HEAD / 8, BC / 8>(AT acc, s, SCRATCH_OF_WARP, m.kv[place].a);
        if (BUFFERS == 1) {
            block_sync();
            if (start + BC < end) load_keys_and_values(AT m.kv[0], k + kv_head * d, k_stride, v + kv_head * d, v_stride, d, t, start + BC);
        }
    }
    UNROLL for (int n = 0; n < HEAD / 8; n++) UNROLL for (int i = 0; i < 4; i++) {
        const i64 row = warp * 16 + row_of(AT i), column = n * 8 + column_of(AT i);
        if (row < t.count && column < d) narrow(dq[(t.first + row) * dq_stride + head * d + column], acc[n][i]);
    }
}

// A piece of work on `count` keys from token `first` on, at place `place` of their sequence: the query ranges `ranges` to `ranges_end`. Where several
// pieces share a tile of keys, each leaves its sums in its own `slot` of the parts; else the slot is -1 and the sums are the gradient.
struct KeyTile { i64 first; int count, place, ranges, ranges_end, slot; };

struct Queries { REAL q[BC * LD], g[BC * LD]; float l[BC], delta[BC]; };
struct BackwardKV { REAL k[BR * LD], v[BR * LD]; Queries passing[BUFFERS]; REAL scratch[SCRATCH]; };

// The queries that a tile of keys meets, BC at a time: those from `first` on, of a range, of a head; then those of the next range or head.
struct Meeting { int head, range, first; };
DEVICE Meeting next(Meeting at, KeyTile t, GLOBAL const i64* ranges) {
    at.first += BC;
    if (at.first < ranges[3 * at.range + 1]) return at;
    at.range++;
    if (at.range == t.ranges_end) {
        at.range = t.ranges;
        at.head++;
    }
    at.first = (int)ranges[3 * at.range];
    return at;
}
DEVICE void load_queries(HERE LOCAL Queries& to, Meeting at, GLOBAL const i64* ranges, GLOBAL const REAL* q, i64 q_stride, GLOBAL const REAL* g,
                         GLOBAL const float* l, GLOBAL const float* delta, i64 heads, i64 d) {
    const i64 count = smaller(BC, ranges[3 * at.range + 1] - at.first);
    load_rows<BC, HEAD>(AT to.q, q + at.head * d, q_stride, d, at.first, count);
    load_rows<BC, HEAD>(AT to.g, g + at.head * d, heads * d, d, at.first, count);
    for (int i = THREAD; i < BC; i += THREADS) {
        to.l[i] = i < count ? l[(at.first + i) * heads + at.head] : 0;
        to.delta[i] = i < count ? delta[(at.first + i) * heads + at.head] : 0;
    }
}

// dV = Pᵀ·dO, dK = dSᵀ·Q: a tile of keys gathers over its ranges of queries, for all query heads of its key head, in one order. A range is `start`,
// `end` and the place of its first query in its sequence.
KERNEL(attention_backward_kv, GLOBAL const REAL* ALONE q, INT q_stride, GLOBAL const REAL* ALONE k, INT k_stride, GLOBAL const REAL* ALONE v, INT v_stride,
       GLOBAL const REAL* ALONE g, GLOBAL const float* ALONE l, GLOBAL const float* ALONE delta, GLOBAL const i64* ALONE tiles, GLOBAL const i64* ALONE ranges, GLOBAL REAL* ALONE dk,
       INT dk_stride, GLOBAL REAL* ALONE dv, INT dv_stride, GLOBAL float* ALONE parts, INT heads, INT kv_heads, INT d, FLOAT scale, INT sight, FLOAT cap) {
    SHARED(BackwardKV, m);
    tiles += 6 * BLOCK_X;
    const KeyTile t = {tiles[0], (int)tiles[1], (int)tiles[2], (int)tiles[3], (int)tiles[4], (int)tiles[5]};
    const i64 kv_head = BLOCK_Y, group = small_quotient(heads, kv_heads);
    const int warp = THREAD / 32, window = (int)smaller(sight, 1 << 30);
    load_rows<BR, HEAD>(AT m.k, k + kv_head * d, k_stride, d, t.first, t.count);
    load_rows<BR, HEAD>(AT m.v, v + kv_head * d, v_stride, d, t.first, t.count);
    float acc_k[HEAD / 8][4] = {}, acc_v[HEAD / 8][4] = {};
    Meeting at = {(int)(kv_head * group), t.ranges, (int)ranges[3 * t.ranges]};
    load_queries(AT m.passing[0], at, ranges, q, q_stride, g, l, delta, heads, d);
    for (int place = 0; at.head < (kv_head + 1) * group; place = (place + 1) % BUFFERS) {
        const Meeting then = next(at, t, ranges);
        const bool more = then.head < (kv_head + 1) * group;
        copy_wait();
        block_sync();
        if (BUFFERS > 1 && more) load_queries(AT m.passing[(place + 1) % BUFFERS], then, ranges, q, q_stride, g, l, delta, heads, d);
        LOCAL const Queries& with = m.passing[place];
        float s[BC / 8][4] = {}, dp[BC / 8][4] = {};
        product_nt<BC / 8, HEAD>(AT s, m.k + warp * 16 * LD, with.q);
        product_nt<BC / 8, HEAD>(AT dp, m.v + warp * 16 * LD, with.g);
        const i64 count = smaller(BC, ranges[3 * at.range + 1] - at.first);
        // Places from the key of the warp's first row to the tile's first query.
        const int ahead = (int)(at.first - ranges[3 * at.range] + ranges[3 * at.range + 2] - t.place - warp * 16);
        if (!CAPPED && count == BC && ahead >= 15 && ahead + BC <= window) { // keys beyond `count` are not written
            UNROLL for (int n = 0; n < BC / 8; n++) UNROLL for (int i = 0; i < 4; i++) {
                const int query = n * 8 + column_of(AT i);
                s[n][i] = quick_exp(s[n][i] * scale - with.l[query]);
                dp[n][i] = s[n][i] * (dp[n][i] - with.delta[query]) * scale;
            }
        } else {
            UNROLL for (int n = 0; n < BC / 8; n++) UNROLL for (int i = 0; i < 4; i++) {
                const int row = row_of(AT i), query = n * 8 + column_of(AT i);
                const bool seen = warp * 16 + row < t.count && query < count && sees(ahead + query, row, window);
                const float x = score(s[n][i], scale, cap), p = seen ? quick_exp(x - with.l[query]) : 0;
                s[n][i] = p;
                dp[n][i] = seen ? p * (dp[n][i] - with.delta[query]) * slope(x, scale, cap) : 0;
            }
        }
        product_pn<HEAD / 8, BC / 8>(AT acc_v, s, SCRATCH_OF_WARP, with.g);
        product_pn<HEAD / 8, BC / 8>(AT acc_k, dp, SCRATCH_OF_WARP, with.q);
        if (BUFFERS == 1) {
            block_sync();
            if (more) load_queries(AT m.passing[0], then, ranges, q, q_stride, g, l, delta, heads, d);
        }
        at = then;
    }
    UNROLL for (int n = 0; n < HEAD / 8; n++) UNROLL for (int i = 0; i < 4; i++) {
        const i64 row = warp * 16 + row_of(AT i), column = n * 8 + column_of(AT i);
        if (row >= t.count || column >= d) continue;
        if (t.slot >= 0) {
            GLOBAL float* part = parts + (((i64)t.slot * BR + row) * kv_heads + kv_head) * 2 * d + column;
            part[0] = acc_k[n][i];
            part[d] = acc_v[n][i];
        } else {
            narrow(dk[(t.first + row) * dk_stride + kv_head * d + column], acc_k[n][i]);
            narrow(dv[(t.first + row) * dv_stride + kv_head * d + column], acc_v[n][i]);
        }
    }
}

// The sums of the tiles that several pieces share: `count` keys from `first` on, parts `slot` to `slot_end`, in their order. A key head each.
KERNEL(attention_add_parts, GLOBAL const float* ALONE parts, GLOBAL const i64* ALONE shared, GLOBAL REAL* ALONE dk, INT dk_stride, GLOBAL REAL* ALONE dv, INT dv_stride,
       INT kv_heads, INT d) {
    shared += 4 * BLOCK_X;
    const i64 first = shared[0], count = shared[1], slot_end = shared[3], kv_head = BLOCK_Y;
    for (i64 i = THREAD; i < count * d; i += THREADS) {
        const i64 row = small_quotient(i, d), column = i - row * d;
        float k = 0, v = 0;
        for (i64 slot = shared[2]; slot < slot_end; slot++) {
            GLOBAL const float* part = parts + ((slot * BR + row) * kv_heads + kv_head) * 2 * d + column;
            k += part[0];
            v += part[d];
        }
        narrow(dk[(first + row) * dk_stride + kv_head * d + column], k);
        narrow(dv[(first + row) * dv_stride + kv_head * d + column], v);
    }
}
