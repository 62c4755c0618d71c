// The gated delta rule (Yang et al. 2024, arXiv:2412.06464, equation 10) token by token, with the state of a head in registers. With q scaled by 1/√D,
// and from the state S [D, Dv] before a token:
//
//   S' = e^g S,   e = v − S'ᵀk,   u = βe,   S ← S' + k uᵀ,   o = Sᵀq.
//
// For the gradient, C is that of S from later tokens, `do` the upstream one, and w = u·do:
//
//   du = Cᵀk + (q·k) do,   dv = β du,   dβ = e·du,   C ← e^g (C + q doᵀ − k dvᵀ),
//   x = S' do,   y = S' dv,   z = C u,   dq = x + w k,   dk = z − y + w q.
//
// g acts through c, the sum of g up to a token: S e^−c changes by k e^−c uᵀ alone, and reads take e^c S e^−c. So dc = q·x − k·(y + z), and dg is the
// sum of dc over the token and all that come after it.
//
// e, o and du are sums over the rows of S and C: kernels of columns. x, y and z are sums over columns, and with e and du known no row needs another:
// kernels of rows. So each pass walks the tokens of a segment with its part of the matrix in registers, and nothing is kept between the forward and the
// backward pass. A line, a column or a row, is spread over LANES threads, of which each has LINES; BLOCK_Y is the head. KEY and VALUE are D and Dv,
// rounded up to multiples of 32.
//
// The chunks of section 3.3, which the CPU computes, take more multiplications. They pay on tensor cores, whose products would round q, k and S.

#define LANES 8
#define LINES 2
#define BLOCK_LINES (THREADS / LANES * LINES)
#define TILE 8 // tokens in shared memory

// The operands of every kernel. Rows are `stride` elements apart; `group` heads of values share one of keys.
#define OPERANDS GLOBAL const REAL* qk, INT qk_stride, GLOBAL const REAL* v, INT v_stride, GLOBAL const REAL* gates, INT gates_stride
#define SIZES INT heads, INT group, INT d, INT dv, FLOAT scale
struct Operands {
    GLOBAL const REAL* qk;
    i64 qk_stride;
    GLOBAL const REAL* v;
    i64 v_stride;
    GLOBAL const REAL* gates;
    i64 gates_stride, heads, group, d, dv;
    float scale;
};
#define ALL_OPERANDS {qk, qk_stride, v, v_stride, gates, gates_stride, heads, group, d, dv, scale}

// `count` tokens from `first` on. The matrix before them, or after them where tokens are visited from the last to the first, is the sum of the slots
// `from` to `from_end`; what it has become goes to slot `to`, or nowhere where that is negative.
struct Segment { i64 first, count, from, from_end, to; };
DEVICE Segment segment_of(GLOBAL const i64* segments, i64 row) {
    segments += 5 * row;
    const Segment t = {segments[0], segments[1], segments[2], segments[3], segments[4]};
    return t;
}

// Which lines of [D, Dv] a block has: `first` and on of `count`.
struct Lines { i64 first, count, stride, length, step; };
DEVICE Lines columns_of(i64 part, i64 d, i64 dv) {
    const Lines lines = {part * BLOCK_LINES, dv, 1, d, dv};
    return lines;
}
DEVICE Lines rows_of(i64 part, i64 d, i64 dv) {
    const Lines lines = {part * BLOCK_LINES, d, dv, dv, 1};
    return lines;
}
// Line l of a thread among those of its block; and which element of a line its element i is: lanes have 16 bytes each side by side.
DEVICE int line_of(HERE int l) { return l * (THREADS / LANES) + THREAD / LANES; }
DEVICE int place(HERE int i) { return i / 4 * (4 * LANES) + THREAD % LANES * 4 + i % 4; }
// Whether a warp has lines at all.
DEVICE bool busy(HERE Lines lines) { return lines.first + THREAD / 32 * (32 / LANES) < lines.count; }

// `states` are a head's, `size` elements from slot to slot.
template <int N>
DEVICE void load_state(HERE PRIVATE float (&s)[LINES][N], GLOBAL const float* states, i64 size, Segment t, Lines lines) {
    UNROLL for (int l = 0; l < LINES; l++) UNROLL for (int i = 0; i < N; i++) s[l][i] = 0;
    for (i64 slot = t.from; slot < t.from_end; slot++)
        UNROLL for (int l = 0; l < LINES; l++) UNROLL for (int i = 0; i < N; i++) {
            const i64 line = lines.first + line_of(AT l), at = place(AT i);
            if (line < lines.count && at < lines.length) s[l][i] += states[slot * size + line * lines.stride + at * lines.step];
        }
}
template <int N>
DEVICE void store_state(HERE PRIVATE const float (&s)[LINES][N], GLOBAL float* states, i64 size, Segment t, Lines lines) {
    if (t.to < 0) return;
    UNROLL for (int l = 0; l < LINES; l++) UNROLL for (int i = 0; i < N; i++) {
        const i64 line = lines.first + line_of(AT l), at = place(AT i);
        if (line < lines.count && at < lines.length) states[t.to * size + line * lines.stride + at * lines.step] = s[l][i];
    }
}

// The first d elements of `count` rows, times a factor, as rows of N in shared memory; the rest zeros.
template <int N, class T>
DEVICE void stage(HERE LOCAL float* to, GLOBAL const T* from, i64 stride, i64 d, i64 count, float factor) {
    UNROLL_BY(4) for (int i = THREAD; i < TILE * N; i += THREADS) {
        const int row = i / N, column = i % N;
        to[i] = row < count && column < d ? factor * wide(from[row * stride + column]) : 0;
    }
}
// The other way: a number of each token for each of the block's lines, of which `width` are left.
template <class T>
DEVICE void unstage(HERE GLOBAL T* to, i64 stride, i64 width, i64 count, LOCAL const float* from) {
    for (int i = THREAD; i < TILE * BLOCK_LINES; i += THREADS) {
        const int row = i / BLOCK_LINES, line = i % BLOCK_LINES;
        if (row < count && line < width) narrow(to[row * stride + line], from[i]);
    }
}
DEVICE void stage_gates(HERE LOCAL float* decay, LOCAL float* beta, Operands in, i64 head, i64 token, i64 count) {
    if (THREAD >= count) return;
    GLOBAL const REAL* gates = in.gates + (token + THREAD) * in.gates_stride + head;
    decay[THREAD] = exp_(wide(gates[0]));
    beta[THREAD] = wide(gates[in.heads]);
}
DEVICE GLOBAL const REAL* query_of(Operands in, i64 head, i64 token) { return in.qk + token * in.qk_stride + head / in.group * in.d; }
DEVICE GLOBAL const REAL* key_of(Operands in, i64 head, i64 token) { return query_of(in, head, token) + in.heads / in.group * in.d; }

// A thread's elements of a row in shared memory.
template <int N>
DEVICE void spread(HERE PRIVATE float (&x)[N], LOCAL const float* row) {
    UNROLL for (int i = 0; i < N; i++) x[i] = row[place(AT i)];
}
// y = s·x of each line, on all of its lanes.
template <int N>
DEVICE void dots(HERE PRIVATE float (&y)[LINES], PRIVATE const float (&s)[LINES][N], PRIVATE const float (&x)[N]) {
    UNROLL for (int l = 0; l < LINES; l++) {
        float sum[4] = {};
        UNROLL for (int i = 0; i < N; i++) sum[i % 4] += s[l][i] * x[i];
        y[l] = sum[0] + sum[1] + (sum[2] + sum[3]);
    }
    UNROLL for (int mask = LANES / 2; mask > 0; mask /= 2)
        UNROLL for (int l = 0; l < LINES; l++) y[l] += shuffle_xor(y[l], mask);
}
// A number of each line, times a factor, to shared memory.
DEVICE void keep_lines(HERE LOCAL float* to, PRIVATE const float (&y)[LINES], float factor) {
    if (THREAD % LANES > 0) return;
    UNROLL for (int l = 0; l < LINES; l++) to[line_of(AT l)] = factor * y[l];
}
template <int N>
DEVICE void add(PRIVATE float (&s)[N], float a, PRIVATE const float (&x)[N]) {
    UNROLL for (int i = 0; i < N; i++) s[i] += a * x[i];
}
template <int N>
DEVICE void decay_by(PRIVATE float (&s)[LINES][N], float factor) {
    UNROLL for (int l = 0; l < LINES; l++) UNROLL for (int i = 0; i < N; i++) s[l][i] *= factor;
}

// ------------------------------------------------------------------------------------------------------------- columns

// Queries and keys, a number of each token for each of the block's columns and another that is computed, and the gates.
struct Columns { float q[TILE * KEY], k[TILE * KEY], x[TILE * BLOCK_LINES], y[TILE * BLOCK_LINES], decay[TILE], beta[TILE]; };

DEVICE void stage_columns(HERE LOCAL Columns& m, Operands in, i64 head, i64 token, i64 count) {
    stage<KEY>(AT m.q, query_of(in, head, token), in.qk_stride, in.d, count, in.scale);
    stage<KEY>(AT m.k, key_of(in, head, token), in.qk_stride, in.d, count, 1);
    stage_gates(AT m.decay, m.beta, in, head, token, count);
}

// o; or e instead, where `errors`.
DEVICE void forward(HERE LOCAL Columns& m, Operands in, Segment t, Lines lines, GLOBAL const float* starts, GLOBAL float* ends, GLOBAL REAL* o,
                    GLOBAL float* e, bool errors) {
    const i64 head = BLOCK_Y, size = in.heads * in.d * in.dv, own = head * in.d * in.dv;
    float s[LINES][KEY / LANES];
    load_state(AT s, starts + own, size, t, lines);
    for (i64 at = 0; at < t.count; at += TILE) {
        const i64 token = t.first + at, count = smaller(TILE, t.count - at);
        stage_columns(AT m, in, head, token, count);
        stage<BLOCK_LINES>(AT m.x, in.v + token * in.v_stride + head * in.dv + lines.first, in.v_stride, lines.count - lines.first, count, 1);
        block_sync();
        if (busy(AT lines)) ROLLED for (int i = 0; i < count; i++) {
            float q[KEY / LANES], k[KEY / LANES], y[LINES];
            spread(AT q, m.q + i * KEY);
            spread(AT k, m.k + i * KEY);
            decay_by(s, m.decay[i]);
            dots(AT y, s, k);
            UNROLL for (int l = 0; l < LINES; l++) {
                y[l] = m.x[i * BLOCK_LINES + line_of(AT l)] - y[l];
                add(s[l], m.beta[i] * y[l], k);
            }
            if (!errors) dots(AT y, s, q);
            keep_lines(AT m.y + i * BLOCK_LINES, y, 1);
        }
        block_sync();
        const i64 to = (token * in.heads + head) * in.dv + lines.first, stride = in.heads * in.dv, width = lines.count - lines.first;
        if (errors) unstage(AT e + to, stride, width, count, m.y);
        else unstage(AT o + to, stride, width, count, m.y);
    }
    store_state(AT s, ends + own, size, t, lines);
}

KERNEL(delta_forward, OPERANDS, GLOBAL const i64* segments, GLOBAL const float* starts, GLOBAL float* ends, GLOBAL REAL* o, GLOBAL float* e, INT errors,
       INT parts, SIZES) {
    SHARED(Columns, m);
    const Operands in = ALL_OPERANDS;
    forward(AT m, in, segment_of(segments, BLOCK_X / parts), columns_of(BLOCK_X % parts, d, dv), starts, ends, o, e, errors != 0);
}

// A token of each sequence, on from its own state: row r from slot r to slot r.
KERNEL(delta_step, OPERANDS, GLOBAL const float* starts, GLOBAL float* ends, GLOBAL REAL* o, GLOBAL float* e, INT parts, SIZES) {
    SHARED(Columns, m);
    const Operands in = ALL_OPERANDS;
    const i64 row = BLOCK_X / parts;
    const Segment t = {row, 1, row, row + 1, row};
    forward(AT m, in, t, columns_of(BLOCK_X % parts, d, dv), starts, ends, o, e, false);
}

// du, from the last token to the first.
KERNEL(delta_backward_columns, OPERANDS, GLOBAL const REAL* d_o, GLOBAL const i64* segments, GLOBAL const float* starts, GLOBAL float* ends,
       GLOBAL float* d_u, INT parts, SIZES) {
    SHARED(Columns, m);
    const Operands in = ALL_OPERANDS;
    const Segment t = segment_of(segments, BLOCK_X / parts);
    const Lines lines = columns_of(BLOCK_X % parts, d, dv);
    const i64 head = BLOCK_Y, size = heads * d * dv;
    float c[LINES][KEY / LANES];
    load_state(AT c, starts + head * d * dv, size, t, lines);
    for (i64 at = (t.count - 1) / TILE * TILE; at >= 0; at -= TILE) {
        const i64 token = t.first + at, count = smaller(TILE, t.count - at);
        stage_columns(AT m, in, head, token, count);
        stage<BLOCK_LINES>(AT m.x, d_o + (token * heads + head) * dv + lines.first, heads * dv, dv - lines.first, count, 1);
        block_sync();
        if (busy(AT lines)) ROLLED for (int i = (int)count - 1; i >= 0; i--) {
            float q[KEY / LANES], k[KEY / LANES], y[LINES];
            spread(AT q, m.q + i * KEY);
            spread(AT k, m.k + i * KEY);
            UNROLL for (int l = 0; l < LINES; l++) add(c[l], m.x[i * BLOCK_LINES + line_of(AT l)], q);
            dots(AT y, c, k);
            keep_lines(AT m.y + i * BLOCK_LINES, y, 1);
            UNROLL for (int l = 0; l < LINES; l++) add(c[l], -m.beta[i] * y[l], k);
            decay_by(c, m.decay[i]);
        }
        block_sync();
        unstage(AT d_u + (token * heads + head) * dv + lines.first, heads * dv, dv - lines.first, count, m.y);
    }
    store_state(AT c, ends + head * d * dv, size, t, lines);
}

// ---------------------------------------------------------------------------------------------------------------- rows

// do, du and e, the numbers of each token's query and key for the block's rows and two that are computed, and the gates.
struct Rows {
    float d_o[TILE * VALUE], d_u[TILE * VALUE], e[TILE * VALUE];
    float q[TILE * BLOCK_LINES], k[TILE * BLOCK_LINES], x[TILE * BLOCK_LINES], y[TILE * BLOCK_LINES], decay[TILE], beta[TILE];
};

DEVICE void stage_rows(HERE LOCAL Rows& m, Operands in, GLOBAL const REAL* d_o, GLOBAL const float* d_u, GLOBAL const float* e, i64 head, i64 first,
                       i64 token, i64 count) {
    const i64 from = (token * in.heads + head) * in.dv, stride = in.heads * in.dv, width = in.d - first;
    stage<VALUE>(AT m.d_o, d_o + from, stride, in.dv, count, 1);
    stage<VALUE>(AT m.d_u, d_u + from, stride, in.dv, count, 1);
    stage<VALUE>(AT m.e, e + from, stride, in.dv, count, 1);
    stage<BLOCK_LINES>(AT m.q, query_of(in, head, token) + first, in.qk_stride, width, count, in.scale);
    stage<BLOCK_LINES>(AT m.k, key_of(in, head, token) + first, in.qk_stride, width, count, 1);
    stage_gates(AT m.decay, m.beta, in, head, token, count);
}

// x and y, from the first token to the last.
KERNEL(delta_rows, OPERANDS, GLOBAL const REAL* d_o, GLOBAL const float* d_u, GLOBAL const float* e, GLOBAL const i64* segments,
       GLOBAL const float* starts, GLOBAL float* ends, GLOBAL float* x, GLOBAL float* y, INT parts, SIZES) {
    SHARED(Rows, m);
    const Operands in = ALL_OPERANDS;
    const Segment t = segment_of(segments, BLOCK_X / parts);
    const Lines lines = rows_of(BLOCK_X % parts, d, dv);
    const i64 head = BLOCK_Y, size = heads * d * dv;
    float s[LINES][VALUE / LANES];
    load_state(AT s, starts + head * d * dv, size, t, lines);
    for (i64 at = 0; at < t.count; at += TILE) {
        const i64 token = t.first + at, count = smaller(TILE, t.count - at);
        stage_rows(AT m, in, d_o, d_u, e, head, lines.first, token, count);
        block_sync();
        if (busy(AT lines)) ROLLED for (int i = 0; i < count; i++) {
            float row[VALUE / LANES], read[LINES], write[LINES];
            decay_by(s, m.decay[i]);
            spread(AT row, m.d_o + i * VALUE);
            dots(AT read, s, row);
            keep_lines(AT m.x + i * BLOCK_LINES, read, 1);
            spread(AT row, m.d_u + i * VALUE);
            dots(AT write, s, row);
            keep_lines(AT m.y + i * BLOCK_LINES, write, m.beta[i]);
            spread(AT row, m.e + i * VALUE);
            UNROLL for (int l = 0; l < LINES; l++) add(s[l], m.beta[i] * m.k[i * BLOCK_LINES + line_of(AT l)], row);
        }
        block_sync();
        const i64 to = (token * heads + head) * d + lines.first;
        unstage(AT x + to, heads * d, d - lines.first, count, m.x);
        unstage(AT y + to, heads * d, d - lines.first, count, m.y);
    }
    store_state(AT s, ends + head * d * dv, size, t, lines);
}

// z, from the last token to the first.
KERNEL(delta_backward_rows, OPERANDS, GLOBAL const REAL* d_o, GLOBAL const float* d_u, GLOBAL const float* e, GLOBAL const i64* segments,
       GLOBAL const float* starts, GLOBAL float* ends, GLOBAL float* z, INT parts, SIZES) {
    SHARED(Rows, m);
    const Operands in = ALL_OPERANDS;
    const Segment t = segment_of(segments, BLOCK_X / parts);
    const Lines lines = rows_of(BLOCK_X % parts, d, dv);
    const i64 head = BLOCK_Y, size = heads * d * dv;
    float c[LINES][VALUE / LANES];
    load_state(AT c, starts + head * d * dv, size, t, lines);
    for (i64 at = (t.count - 1) / TILE * TILE; at >= 0; at -= TILE) {
        const i64 token = t.first + at, count = smaller(TILE, t.count - at);
        stage_rows(AT m, in, d_o, d_u, e, head, lines.first, token, count);
        block_sync();
        if (busy(AT lines)) ROLLED for (int i = (int)count - 1; i >= 0; i--) {
            float row[VALUE / LANES], write[LINES];
            spread(AT row, m.e + i * VALUE);
            dots(AT write, c, row);
            keep_lines(AT m.x + i * BLOCK_LINES, write, m.beta[i]);
            spread(AT row, m.d_o + i * VALUE);
            UNROLL for (int l = 0; l < LINES; l++) add(c[l], m.q[i * BLOCK_LINES + line_of(AT l)], row);
            spread(AT row, m.d_u + i * VALUE);
            UNROLL for (int l = 0; l < LINES; l++) add(c[l], -m.beta[i] * m.k[i * BLOCK_LINES + line_of(AT l)], row);
            decay_by(c, m.decay[i]);
        }
        block_sync();
        unstage(AT z + (token * heads + head) * d + lines.first, heads * d, d - lines.first, count, m.x);
    }
    store_state(AT c, ends + head * d * dv, size, t, lines);
}

// -------------------------------------------------------------------------------------------------------------- tokens

// All gradients of a token but dg, and dc; a head of keys with its heads of values for each warp.
KERNEL(delta_tokens, OPERANDS, GLOBAL const REAL* d_o, GLOBAL const float* d_u, GLOBAL const float* e, GLOBAL const float* x, GLOBAL const float* y,
       GLOBAL const float* z, GLOBAL REAL* d_qk, GLOBAL REAL* d_v, GLOBAL REAL* d_gates, GLOBAL float* d_c, INT tokens, SIZES) {
    const i64 warp = BLOCK_X * (THREADS / 32) + THREAD / 32, keys = heads / group, token = warp / keys, key = warp % keys;
    const int lane = THREAD % 32;
    if (token >= tokens) return;
    GLOBAL const REAL* q = qk + token * qk_stride + key * d;
    GLOBAL const REAL* k = q + keys * d;
    float d_q[KEY / 32] = {}, d_k[KEY / 32] = {};
    for (i64 head = key * group; head < (key + 1) * group; head++) {
        const i64 at = token * heads + head;
        const float beta = wide(gates[token * gates_stride + heads + head]);
        float w = 0, d_beta = 0, sum = 0;
        for (i64 i = at * dv + lane; i < (at + 1) * dv; i += 32) {
            w += beta * e[i] * wide(d_o[i]);
            d_beta += e[i] * d_u[i];
            narrow(d_v[i], beta * d_u[i]);
        }
        w = warp_sum(w);
        d_beta = warp_sum(d_beta);
        UNROLL for (int n = 0; n < KEY / 32; n++) {
            const i64 i = 32 * n + lane, of_head = at * d + i;
            if (i >= d) continue;
            const float q_i = scale * wide(q[i]), k_i = wide(k[i]);
            d_q[n] += x[of_head] + w * k_i;
            d_k[n] += z[of_head] - y[of_head] + w * q_i;
            sum += q_i * x[of_head] - k_i * (y[of_head] + z[of_head]);
        }
        sum = warp_sum(sum);
        if (lane > 0) continue;
        d_c[at] = sum;
        narrow(d_gates[token * 2 * heads + heads + head], d_beta);
    }
    UNROLL for (int n = 0; n < KEY / 32; n++) {
        const i64 i = 32 * n + lane, to = token * 2 * keys * d + key * d + i;
        if (i >= d) continue;
        narrow(d_qk[to], scale * d_q[n]);
        narrow(d_qk[to + keys * d], d_k[n]);
    }
}

// dg of a segment, 32 tokens at a time from the last; a head for each warp. Slots have the sums of whole segments, one number a head.
KERNEL(delta_decays, GLOBAL const float* d_c, GLOBAL const i64* segments, GLOBAL const float* starts, GLOBAL float* ends, GLOBAL REAL* d_gates, INT heads) {
    const Segment t = segment_of(segments, BLOCK_X);
    const i64 head = BLOCK_Y * (THREADS / 32) + THREAD / 32;
    const int lane = THREAD % 32;
    if (head >= heads) return;
    float later = 0;
    for (i64 slot = t.from; slot < t.from_end; slot++) later += starts[slot * heads + head];
    for (i64 end = t.count; end > 0; end -= 32) {
        const i64 i = end - 32 + lane, token = t.first + i;
        float all = i >= 0 ? d_c[token * heads + head] : 0, sum = all; // of 1, 2, 4.. lanes; of those among them from this one on
        UNROLL for (int mask = 1; mask < 32; mask *= 2) {
            const float other = shuffle_xor(all, mask);
            if ((lane & mask) == 0) sum += other;
            all += other;
        }
        if (i >= 0) narrow(d_gates[token * 2 * heads + head], later + sum);
        later += all;
    }
    if (t.to >= 0 && lane == 0) ends[t.to * heads + head] = later;
}
