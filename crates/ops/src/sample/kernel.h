// One token from each row of logits z, `[rows, v]`: repetition penalty, forbidden tokens, temperature, top-k, top-p, then the cumulative distribution
// inverted at u. A block for each row. `weights` is room for as many floats as z has.
//
// HEADER words of `table` for a row: c = 1/temperature, penalty and top-p as the bits of floats; where in `table` its u begin, the bits of one float for
// each step; whether the likeliest token is taken; top-k, or 0; where in `table` its penalised tokens begin, where its forbidden ones do, and where
// these end; the step from which these are allowed. `ids` and `drawn` have an entry for each step and row: the token; and again, with its
// log-probability under softmax(c·z), before penalty and filters. Without a finite largest logit the token in `drawn` is −1, with NaN or +∞ among the
// logits −2, and 0 in `ids`. What was drawn in earlier steps is penalised too.

#define HEADER 10
#define DIGITS 16
struct Room { float of_warp[WARPS], of_digit[DIGITS], of_thread[DIGITS][THREADS]; };

DEVICE float weight_of(float x, float top, float c) { return x == -INFINITE ? 0 : exp_((x - top) * c); }

// Weights are not negative, so that their bits, as whole numbers, have their order.
struct Found { u32 key; float above, size; };

// With weights from the largest to the smallest, those whose bits are `low` or more: the weight at which their sum (or, to COUNT, their number) first
// exceeds `target`; the sum of larger ones; the sum of those that are equal to it. Where rounding leaves no such weight, the smallest. Digit by digit.
template <bool COUNT>
DEVICE Found descend(HERE GLOBAL const float* w, i64 v, u32 low, float target, LOCAL Room& m) {
    Found found = {0, 0, 0};
    ROLLED for (int shift = 28; shift >= 0; shift -= 4) {
        float sums[DIGITS];
        UNROLL for (int d = 0; d < DIGITS; d++) sums[d] = 0;
        ROLLED for (i64 i = THREAD; i < v; i += THREADS) {
            const u32 key = bits_of(w[i]), digit = key >> shift & (DIGITS - 1);
            const bool counts = key >= low && (shift == 28 || key >> (shift + 4) == found.key);
            const float more = !counts ? 0 : COUNT ? 1 : w[i];
            UNROLL for (int d = 0; d < DIGITS; d++) sums[d] += digit == (u32)d ? more : 0;
        }
        block_sync(); // earlier digits have been read
        UNROLL for (int d = 0; d < DIGITS; d++) m.of_thread[d][THREAD] = sums[d];
        block_sync();
        for (int d = THREAD / 32; d < DIGITS; d += WARPS) {
            float sum = 0;
            for (int t = THREAD % 32; t < THREADS; t += 32) sum += m.of_thread[d][t];
            sum = warp_sum(sum);
            if (THREAD % 32 == 0) m.of_digit[d] = sum;
        }
        block_sync();
        u32 digit = 0;
        float before = found.above;
        for (int d = DIGITS - 1; d >= 0; d--) {
            if (m.of_digit[d] == 0) continue;
            digit = (u32)d;
            found.above = before;
            found.size = m.of_digit[d];
            before += found.size;
            if (before > target) break;
        }
        found.key = found.key << 4 | digit;
    }
    return found;
}

// The first token at which the sum of the weights (or, to count, the number of tokens) whose bits are from `low` to `high`, in order of token, exceeds
// `left`, or `left` of the whole sum; where rounding leaves none, the last. Thread 0 gets it.
DEVICE i64 walk(HERE GLOBAL const float* w, i64 v, u32 low, u32 high, bool count, float left, LOCAL Room& m) {
    const i64 each = (v + THREADS - 1) / THREADS, first = smaller(THREAD * each, v), end = smaller(first + each, v);
    float sum = 0;
    for (i64 i = first; i < end; i++) sum += bits_of(w[i]) < low || bits_of(w[i]) > high ? 0 : count ? 1 : w[i];
    block_sync(); // earlier digits have been read
    m.of_thread[0][THREAD] = sum;
    block_sync();
    if (THREAD > 0) return 0;
    float all = 0;
    ROLLED for (int t = 0; t < THREADS; t++) all += m.of_thread[0][t];
    if (!count) left *= all;
    int last = 0, part = -1;
    ROLLED for (int t = 0; t < THREADS && part < 0; t++) {
        if (m.of_thread[0][t] == 0) continue;
        last = t;
        if (left < m.of_thread[0][t]) part = t;
        else left -= m.of_thread[0][t];
    }
    if (part < 0) part = last;
    i64 token = 0;
    for (i64 i = part * each; i < smaller((part + 1) * each, v); i++) {
        const float more = bits_of(w[i]) < low || bits_of(w[i]) > high ? 0 : count ? 1 : w[i];
        if (more == 0) continue;
        token = i;
        left -= more;
        if (left < 0) break;
    }
    return token;
}

KERNEL(sample, GLOBAL const float* z, GLOBAL const u32* table, GLOBAL float* weights, GLOBAL u32* ids, GLOBAL float* drawn, INT v, INT step) {
    SHARED(Room, m);
    GLOBAL const float* x = z + BLOCK_X * v;
    GLOBAL float* w = weights + BLOCK_X * v;
    GLOBAL const u32* t = table + BLOCK_X * HEADER;
    const float c = float_of(t[0]), penalty = float_of(t[1]), p = float_of(t[2]), u = float_of(table[t[3] + step]);
    const i64 k = t[5], seen = t[6], forbidden = t[7], end = step < t[9] ? t[8] : forbidden, at = step * BLOCKS_X + BLOCK_X;

    float best = -INFINITE, sum = 0;
    for (i64 i = THREAD; i < v; i += THREADS) {
        best = max_(best, x[i]);
        w[i] = x[i];
    }
    const float top = block_max(AT best, m);
    for (i64 i = THREAD; i < v; i += THREADS) sum += weight_of(x[i], top, c);
    const float total = block_sum(AT sum, m);
    for (i64 i = seen + THREAD; i < forbidden; i += THREADS) w[table[i]] = x[table[i]] < 0 ? x[table[i]] * penalty : x[table[i]] / penalty;
    block_sync();
    if (THREAD == 0 && penalty != 1) // one thread, because a token may have been drawn twice; none of them is forbidden
        for (i64 i = BLOCK_X; i < at; i += BLOCKS_X) w[ids[i]] = x[ids[i]] < 0 ? x[ids[i]] * penalty : x[ids[i]] / penalty;
    for (i64 i = forbidden + THREAD; i < end; i += THREADS) w[table[i]] = -INFINITE;
    block_sync();
    best = -INFINITE;
    i64 first = v;
    for (i64 i = THREAD; i < v; i += THREADS)
        if (w[i] > best) {
            best = w[i];
            first = i;
        }
    const float peak = block_max(AT best, m);
    const float likeliest = -block_max(AT best == peak ? -(float)first : -INFINITE, m);
    if (!(peak > -INFINITE && peak < INFINITE) || !(total < INFINITE)) {
        if (THREAD > 0) return;
        ids[at] = 0;
        drawn[at * 2] = drawn[at * 2 + 1] = total < INFINITE || peak == -INFINITE ? -1 : -2;
        return;
    }
    sum = 0;
    for (i64 i = THREAD; i < v; i += THREADS) {
        w[i] = weight_of(w[i], peak, c);
        sum += w[i];
    }
    i64 token = (i64)likeliest;
    if (!t[4]) {
        block_sync(); // weights have been written
        u32 low = k > 0 ? descend<true>(AT w, v, 0, k - 1, m).key : 0;
        if (p < 1) {
            sum = 0;
            for (i64 i = THREAD; i < v; i += THREADS) sum += bits_of(w[i]) < low ? 0 : w[i];
            const float enough = p * block_sum(AT sum, m);
            const Found last = descend<false>(AT w, v, low, enough, m); // of its equals so many are kept that the sum is enough
            const float times = (enough - last.above) / float_of(last.key);
            const i64 whole = (i64)times, kept = larger(whole + ((float)whole < times), last.above == 0);
            const float target = u * (last.above + kept * float_of(last.key));
            const Found it = descend<false>(AT w, v, kept ? last.key : last.key + 1, target, m);
            const i64 rank = (i64)((target - it.above) / float_of(it.key)), equal = (i64)(it.size / float_of(it.key) + 0.5f);
            const i64 most = (it.key == last.key ? smaller(kept, equal) : equal) - 1;
            token = walk(AT w, v, it.key, it.key, true, larger(0, smaller(rank, most)) + 0.5f, m);
        } else {
            token = walk(AT w, v, low, bits_of(INFINITE), false, u, m);
        }
    }
    if (THREAD > 0) return;
    ids[at] = (u32)token;
    drawn[at * 2] = token;
    drawn[at * 2 + 1] = (x[token] - top) * c - log_(total);
}
