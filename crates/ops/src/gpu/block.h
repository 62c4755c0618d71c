// Sums and maxima over a block, through m.of_warp, WARPS floats of shared memory. Every thread gets the same bits.

#define WARPS (THREADS / 32)

template <class S>
DEVICE float block_sum(HERE float v, LOCAL S& m) {
    v = warp_sum(v);
    block_sync(); // earlier results have been read
    if (THREAD % 32 == 0) m.of_warp[THREAD / 32] = v;
    block_sync();
    float sum = 0;
    UNROLL for (int i = 0; i < WARPS; i++) sum += m.of_warp[i];
    return sum;
}
template <class S>
DEVICE float block_max(HERE float v, LOCAL S& m) {
    v = warp_max(v);
    block_sync();
    if (THREAD % 32 == 0) m.of_warp[THREAD / 32] = v;
    block_sync();
    float top = m.of_warp[0];
    UNROLL for (int i = 1; i < WARPS; i++) top = max_(top, m.of_warp[i]);
    return top;
}
