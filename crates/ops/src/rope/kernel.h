// Rotates the first 2·pairs elements of every head: y₁ = x₁·cos − x₂·sin, y₂ = x₂·cos + x₁·sin; the others pass. `direction` is 1, or −1 for the
// inverse rotation, which is the gradient. Rows of x are `stride` elements apart, of cos and sin `pairs`. A block has a row.

// Element i of a head, which lies at x; cos and sin are those of its token.
DEVICE float rotated(GLOBAL const REAL* x, i64 i, GLOBAL const float* cos, GLOBAL const float* sin, i64 pairs, float direction) {
    if (i < pairs) return wide(x[0]) * cos[i] - wide(x[pairs]) * (direction * sin[i]);
    if (i < 2 * pairs) return wide(x[0]) * cos[i - pairs] + wide(x[-pairs]) * (direction * sin[i - pairs]);
    return wide(x[0]);
}

DEVICE i64 place_in_head(i64 column, i64 head_dim) { return column - small_quotient(column, head_dim) * head_dim; }

// Of queries and keys, or of queries alone where `k_width` is 0.
KERNEL(rope, GLOBAL const REAL* ALONE q, INT q_stride, GLOBAL const REAL* ALONE k, INT k_stride, GLOBAL const float* ALONE cos,
       GLOBAL const float* ALONE sin, GLOBAL REAL* ALONE queries, GLOBAL REAL* ALONE keys, INT q_width, INT k_width, INT head_dim, INT pairs,
       FLOAT direction) {
    const i64 row = BLOCK_X;
    GLOBAL const float* c = cos + row * pairs;
    GLOBAL const float* s = sin + row * pairs;
    UNROLL_BY(4) for (i64 i = THREAD; i < q_width; i += THREADS)
        narrow(queries[row * q_width + i], rotated(q + row * q_stride + i, place_in_head(i, head_dim), c, s, pairs, direction));
    UNROLL_BY(4) for (i64 i = THREAD; i < k_width; i += THREADS)
        narrow(keys[row * k_width + i], rotated(k + row * k_stride + i, place_in_head(i, head_dim), c, s, pairs, direction));
}

// New tokens of a cache: their queries rotated, [rows, q_width]; their keys rotated and their values as they are, to the rows of two pools from
// `first` on, [.., width].
KERNEL(rope_append, GLOBAL const REAL* ALONE q, INT q_stride, GLOBAL const REAL* ALONE k, INT k_stride, GLOBAL const REAL* ALONE v, INT v_stride,
       GLOBAL const float* ALONE cos, GLOBAL const float* ALONE sin, GLOBAL REAL* ALONE queries, GLOBAL REAL* ALONE keys, GLOBAL REAL* ALONE values,
       INT q_width, INT width, INT head_dim, INT pairs, INT first) {
    const i64 row = BLOCK_X;
    GLOBAL const float* c = cos + row * pairs;
    GLOBAL const float* s = sin + row * pairs;
    UNROLL_BY(4) for (i64 i = THREAD; i < q_width; i += THREADS)
        narrow(queries[row * q_width + i], rotated(q + row * q_stride + i, place_in_head(i, head_dim), c, s, pairs, 1));
    UNROLL_BY(4) for (i64 i = THREAD; i < width; i += THREADS) {
        narrow(keys[(first + row) * width + i], rotated(k + row * k_stride + i, place_in_head(i, head_dim), c, s, pairs, 1));
        values[(first + row) * width + i] = v[row * v_stride + i];
    }
}
