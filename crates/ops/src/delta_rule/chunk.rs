//! The gated delta rule of one head over a chunk of n tokens, in matrix products.
//!
//! With c the running sum of g within the chunk, D_ij = e^{c_i − c_j} for j ≤ i, A = diag(β)(K Kᵀ ∘ D) below the diagonal, P = Q Kᵀ ∘ D up to
//! the diagonal, and S the state before the chunk:
//!
//! - U = (I + A)⁻¹ diag(β)(V − diag(e^c) K S), whose rows are the δ of the recurrence,
//! - O = diag(e^c) Q S + P U,
//! - S ← e^{c_n} S + (diag(e^{c_n − c}) K)ᵀ U.
//!
//! Yang et al. 2024, arXiv:2412.06464, section 3.3; the inverse is a forward substitution.

use std::ops::Range;

use super::DeltaHeads;
use crate::cpu::buffer::SharedMut;
use crate::cpu::gemm::{Threads, multiply_into};
use crate::cpu::matrix::{Matrix, Target};
use crate::cpu::simd::{sum2, vectorised};

/// Tokens of a chunk: more make larger products, and a longer substitution.
pub(super) const TOKENS: usize = 64;

vectorised! {
    /// `y += a·x`.
    fn add_scaled(y: &mut [f32], a: f32, x: &[f32]) {
        y.iter_mut().zip(x).for_each(|(y, x)| *y += a * x);
    }
}

vectorised! {
    /// `a·b`.
    fn dot(a: &[f32], b: &[f32]) -> f32 {
        sum2(a, b, |a, b| a * b)
    }
}

/// `target = a·b`, or `target += a·b`, by this thread: heads are worked on side by side.
fn multiply(target: &mut [f32], a: Matrix<'_>, b: Matrix<'_>, accumulate: bool) {
    let target = Target {
        buffer: SharedMut::new(target),
        at: 0,
        row_stride: b.columns(),
    };
    // SAFETY: the target is initialised, and borrowed exclusively for the whole call.
    unsafe { multiply_into(target, a, b, 1.0, accumulate, Threads::One) }
}

/// The operands of all heads, row-major.
#[derive(Clone, Copy)]
pub(super) struct Operands<'a> {
    pub(super) qk: &'a [f32],
    pub(super) v: &'a [f32],
    pub(super) gates: &'a [f32],
    pub(super) heads: DeltaHeads,
}

/// A chunk of one head, and what both passes compute of it.
pub(super) struct Chunk {
    /// n, D and Dv.
    size: (usize, usize, usize),
    /// Scaled, `[n, D]`.
    q: Vec<f32>,
    /// `[n, D]`.
    k: Vec<f32>,
    /// `[n, Dv]`.
    v: Vec<f32>,
    beta: Vec<f32>,
    /// c.
    sums: Vec<f32>,
    /// D, `[n, n]`, zero above the diagonal.
    decay: Vec<f32>,
    /// `K Kᵀ`.
    gram: Vec<f32>,
    /// A, zero from the diagonal on.
    a: Vec<f32>,
    /// P, zero above the diagonal.
    p: Vec<f32>,
    /// `K S`, `[n, Dv]`.
    known: Vec<f32>,
    /// U, `[n, Dv]`.
    u: Vec<f32>,
}

/// Gradients of a chunk's operands, each in its shape.
pub(super) struct ChunkGradients {
    pub(super) q: Vec<f32>,
    pub(super) k: Vec<f32>,
    pub(super) v: Vec<f32>,
    pub(super) g: Vec<f32>,
    pub(super) beta: Vec<f32>,
}

impl Chunk {
    /// The `tokens` of `head`, one of values, with the state `s` `[D, Dv]` before them.
    pub(super) fn new(
        operands: Operands<'_>,
        head: usize,
        tokens: Range<usize>,
        s: &[f32],
    ) -> Self {
        let heads = operands.heads;
        let (n, dim, width) = (tokens.len(), heads.key_dim, heads.value_dim);
        let key = head / heads.group();
        let (qk_row, v_row) = (2 * heads.keys * dim, heads.values * width);
        let (mut q, mut k, mut v) = (Vec::new(), Vec::new(), Vec::new());
        let (mut beta, mut sums, mut sum) = (Vec::new(), Vec::new(), 0.0);
        let scale = heads.scale() as f32;
        for token in tokens {
            let row = &operands.qk[token * qk_row..][..qk_row];
            q.extend(row[key * dim..][..dim].iter().map(|q| scale * q));
            k.extend_from_slice(&row[(heads.keys + key) * dim..][..dim]);
            v.extend_from_slice(&operands.v[token * v_row + head * width..][..width]);
            let gates = &operands.gates[token * 2 * heads.values..][..2 * heads.values];
            sum += gates[head];
            sums.push(sum);
            beta.push(gates[heads.values + head]);
        }
        let mut chunk = Self {
            size: (n, dim, width),
            q,
            k,
            v,
            beta,
            sums,
            decay: vec![0.0; n * n],
            gram: vec![0.0; n * n],
            a: vec![0.0; n * n],
            p: vec![0.0; n * n],
            known: vec![0.0; n * width],
            u: vec![0.0; n * width],
        };
        chunk.solve(s);
        chunk
    }

    fn q(&self) -> Matrix<'_> {
        Matrix::new(&self.q, self.size.0, self.size.1)
    }

    fn k(&self) -> Matrix<'_> {
        Matrix::new(&self.k, self.size.0, self.size.1)
    }

    fn state<'s>(&self, s: &'s [f32]) -> Matrix<'s> {
        Matrix::new(s, self.size.1, self.size.2)
    }

    fn solve(&mut self, s: &[f32]) {
        let (n, _, width) = self.size;
        let (mut gram, mut p, mut known) = (
            std::mem::take(&mut self.gram),
            std::mem::take(&mut self.p),
            std::mem::take(&mut self.known),
        );
        multiply(&mut gram, self.k(), self.k().t(), false);
        multiply(&mut p, self.q(), self.k().t(), false);
        multiply(&mut known, self.k(), self.state(s), false);
        for i in 0..n {
            for j in 0..n {
                let at = i * n + j;
                if j > i {
                    p[at] = 0.0;
                    continue;
                }
                let decay = (self.sums[i] - self.sums[j]).exp();
                self.decay[at] = decay;
                p[at] *= decay;
                if j < i {
                    self.a[at] = self.beta[i] * gram[at] * decay;
                }
            }
        }
        for i in 0..n {
            let (before, rest) = self.u.split_at_mut(i * width);
            let row = &mut rest[..width];
            let decay = self.sums[i].exp();
            let (v, known) = (&self.v[i * width..][..width], &known[i * width..][..width]);
            for ((u, v), known) in row.iter_mut().zip(v).zip(known) {
                *u = self.beta[i] * (v - decay * known);
            }
            for (j, earlier) in before.chunks_exact(width.max(1)).enumerate() {
                add_scaled(row, -self.a[i * n + j], earlier);
            }
        }
        (self.gram, self.p, self.known) = (gram, p, known);
    }

    /// Rows of `x` times `e^{c}`.
    fn decayed(&self, x: &[f32], width: usize) -> Vec<f32> {
        self.scaled(x, width, |i| self.sums[i].exp())
    }

    /// Rows of `x` times what `factor` gives.
    fn scaled(&self, x: &[f32], width: usize, factor: impl Fn(usize) -> f32) -> Vec<f32> {
        let mut y = Vec::with_capacity(x.len());
        for (i, row) in x.chunks_exact(width.max(1)).enumerate() {
            let factor = factor(i);
            y.extend(row.iter().map(|x| factor * x));
        }
        y
    }

    /// e^{c_n − c_i}.
    fn remaining(&self, i: usize) -> f32 {
        (self.sums[self.size.0 - 1] - self.sums[i]).exp()
    }

    /// O, `[n, Dv]`, of the state before the chunk.
    pub(super) fn output(&self, s: &[f32]) -> Vec<f32> {
        let (n, dim, width) = self.size;
        let mut o = vec![0.0; n * width];
        let q = self.decayed(&self.q, dim);
        multiply(&mut o, Matrix::new(&q, n, dim), self.state(s), false);
        let (p, u) = (Matrix::new(&self.p, n, n), Matrix::new(&self.u, n, width));
        multiply(&mut o, p, u, true);
        o
    }

    /// Turns the state before the chunk into that after it.
    pub(super) fn advance(&self, s: &mut [f32]) {
        let (n, dim, width) = self.size;
        let whole = self.sums[n - 1].exp();
        s.iter_mut().for_each(|s| *s *= whole);
        let k = self.scaled(&self.k, dim, |i| self.remaining(i));
        let u = Matrix::new(&self.u, n, width);
        multiply(s, Matrix::new(&k, n, dim).t(), u, true);
    }

    /// The gradients, of the gradient `d_o` of O and `d_s` of the state after the chunk, which becomes that of the state `s` before it.
    pub(super) fn backward(&self, s: &[f32], d_o: &[f32], d_s: &mut [f32]) -> ChunkGradients {
        let (n, dim, width) = self.size;
        let tall = |x| Matrix::new(x, n, width);
        let (q, k, state) = (self.q(), self.k(), self.state(s));
        let u = tall(&self.u);
        let (mut d_q, mut d_k) = (vec![0.0; n * dim], vec![0.0; n * dim]);
        let (mut d_c, mut d_beta) = (vec![0.0; n], vec![0.0; n]);

        // U, through O = … + P U and the state after: dU = Pᵀ dO + diag(e^{c_n − c}) K dS.
        let after = d_s.to_vec();
        let mut d_u = vec![0.0; n * width];
        multiply(&mut d_u, Matrix::new(&self.p, n, n).t(), tall(d_o), false);
        let k_after = self.scaled(&self.k, dim, |i| self.remaining(i));
        let after = self.state(&after);
        multiply(&mut d_u, Matrix::new(&k_after, n, dim), after, true);

        // The state after is e^{c_n} S + (diag(e^{c_n − c}) K)ᵀ U.
        let whole = self.sums[n - 1].exp();
        let mut d_last = whole * dot(d_s, s);
        let mut d_z = vec![0.0; n * dim];
        multiply(&mut d_z, u, after.t(), false);
        for i in 0..n {
            let (z, remaining) = (&d_z[i * dim..][..dim], self.remaining(i));
            let share = remaining * dot(&self.k[i * dim..][..dim], z);
            d_last += share;
            d_c[i] -= share;
            add_scaled(&mut d_k[i * dim..][..dim], remaining, z);
        }

        // R, the right-hand side: (I + A)ᵀ dR = dU.
        for i in (0..n).rev() {
            let (rows, later) = d_u.split_at_mut((i + 1) * width);
            let row = &mut rows[i * width..];
            for (j, later) in later.chunks_exact(width.max(1)).enumerate() {
                add_scaled(row, -self.a[(i + 1 + j) * n + i], later);
            }
        }
        let d_r = d_u;
        // dA = −dR Uᵀ, and A = diag(β)(K Kᵀ ∘ D) below the diagonal.
        let mut d_a = vec![0.0; n * n];
        multiply(&mut d_a, tall(&d_r), u.t(), false);
        let mut d_p = vec![0.0; n * n];
        multiply(&mut d_p, tall(d_o), u.t(), false);
        for i in 0..n {
            for j in 0..n {
                let at = i * n + j;
                if j >= i {
                    d_a[at] = 0.0;
                } else {
                    let of_a = -d_a[at];
                    let share = of_a * self.a[at];
                    d_c[i] += share;
                    d_c[j] -= share;
                    d_beta[i] += of_a * self.decay[at] * self.gram[at];
                    d_a[at] = of_a * self.decay[at] * self.beta[i];
                }
                if j > i {
                    d_p[at] = 0.0;
                } else {
                    let share = d_p[at] * self.p[at];
                    d_c[i] += share;
                    d_c[j] -= share;
                    d_p[at] *= self.decay[at];
                }
            }
        }
        let (d_gram, d_scores) = (Matrix::new(&d_a, n, n), Matrix::new(&d_p, n, n));
        multiply(&mut d_k, d_gram, k, true);
        multiply(&mut d_k, d_gram.t(), k, true);
        multiply(&mut d_q, d_scores, k, true);
        multiply(&mut d_k, d_scores.t(), q, true);

        // R = diag(β)(V − diag(e^c) K S).
        let mut d_known = vec![0.0; n * width];
        for i in 0..n {
            let rows = i * width..(i + 1) * width;
            let (d_r, known) = (&d_r[rows.clone()], &self.known[rows.clone()]);
            let decay = self.sums[i].exp();
            let seen = dot(d_r, known);
            d_beta[i] += dot(d_r, &self.v[rows.clone()]) - decay * seen;
            d_c[i] -= self.beta[i] * decay * seen;
            add_scaled(&mut d_known[rows], -self.beta[i] * decay, d_r);
        }
        let d_v = self.scaled(&d_r, width, |i| self.beta[i]);
        multiply(&mut d_k, tall(&d_known), state.t(), true);

        // O = diag(e^c) Q S + …
        let d_y = self.decayed(d_o, width);
        multiply(&mut d_q, tall(&d_y), state.t(), true);
        let mut read = vec![0.0; n * width];
        multiply(&mut read, q, state, false);
        for i in 0..n {
            let rows = i * width..(i + 1) * width;
            d_c[i] += dot(&d_y[rows.clone()], &read[rows]);
        }

        d_s.iter_mut().for_each(|d_s| *d_s *= whole);
        multiply(d_s, k.t(), tall(&d_known), true);
        multiply(d_s, q.t(), tall(&d_y), true);
        d_c[n - 1] += d_last;
        // c is a running sum.
        let mut g = d_c;
        for i in (0..n - 1).rev() {
            g[i] += g[i + 1];
        }
        ChunkGradients {
            q: d_q,
            k: d_k,
            v: d_v,
            g,
            beta: d_beta,
        }
    }
}
