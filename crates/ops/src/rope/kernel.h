// Rotates the first 2·pairs elements of every head: y₁ = x₁·cos − x₂·sin, y₂ = x₂·cos + x₁·sin; the others pass. `direction` is 1, or −1 for the
// inverse rotation, which is the gradient. Rows of x are `stride` elements apart, of cos and sin `pairs`. Each thread has an element of the result.

KERNEL(rope, GLOBAL const REAL* x, INT stride, GLOBAL const float* cos, GLOBAL const float* sin, GLOBAL REAL* y, INT rows, INT width, INT head_dim,
       INT pairs, FLOAT direction) {
    for (i64 at = BLOCK_X * THREADS + THREAD; at < rows * width; at += BLOCKS_X * THREADS) {
        const i64 row = at / width, column = at % width, i = column % head_dim, angle = row * pairs + i % pairs;
        GLOBAL const REAL* from = x + row * stride + column;
        float value = wide(*from);
        if (i < pairs) value = value * cos[angle] - wide(from[pairs]) * (direction * sin[angle]);
        else if (i < 2 * pairs) value = value * cos[angle] + wide(from[-pairs]) * (direction * sin[angle]);
        narrow(y[at], value);
    }
}
