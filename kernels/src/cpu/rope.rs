//! Per-head norm and rotary embedding on the CPU, in place over rows of heads.

use super::f32x8::{Kernel, Lanes, run};
use super::isa::Isa;
use super::norm::{inverse_rms, scale_row};
use super::pool::pool;
use super::shared_slice::SharedSlice;
use crate::ops::rope::RopeStyle;

/// Below so many values a second thread costs more than it brings.
const SERIAL_VALUES_MAX: usize = 16 * 1024;
/// Rows a task takes at a time.
const TASK_ROWS: usize = 16;

/// Sines and cosines of the rows, `[T, half]` each.
#[derive(Debug, Clone, Copy)]
pub struct Angles<'a> {
    pub style: RopeStyle,
    pub cos: &'a [f32],
    pub sin: &'a [f32],
    /// Half the rotary width; 0 leaves heads as they are.
    pub half: usize,
}

/// The norm of each head before its rotation: weights `[head_dim]` and epsilon.
#[derive(Debug, Clone, Copy)]
pub struct HeadNorm<'a> {
    pub w: &'a [f32],
    pub eps: f32,
}

/// Norms (where given) and rotates each head of `x [T, width]`, `width` a multiple of `head_dim`.
pub fn norm_rope_(isa: Isa, x: &mut [f32], width: usize, head_dim: usize, angles: Angles<'_>, norm: Option<HeadNorm<'_>>) {
    if x.is_empty() {
        return;
    }
    let rows = x.len() / width;
    assert!(rows * width == x.len() && width.is_multiple_of(head_dim), "whole rows of whole heads");
    assert!(2 * angles.half <= head_dim, "the rotary width fits the head");
    assert!(angles.cos.len() == rows * angles.half && angles.sin.len() == angles.cos.len(), "angles for every row");
    let task_rows = if x.len() <= SERIAL_VALUES_MAX { rows } else { TASK_ROWS };
    let x = SharedSlice::new(x);
    pool().run(rows.div_ceil(task_rows), |task| {
        let first_row = task * task_rows;
        let count = task_rows.min(rows - first_row);
        // SAFETY: tasks take different rows.
        let x = unsafe { x.run(first_row * width, count * width) };
        run(isa, NormRope { x, first_row, width, head_dim, angles, norm });
    });
}

struct NormRope<'a> {
    x: &'a mut [f32],
    first_row: usize,
    width: usize,
    head_dim: usize,
    angles: Angles<'a>,
    norm: Option<HeadNorm<'a>>,
}

impl Kernel for NormRope<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let half = self.angles.half;
        let mut normed = vec![0.0f32; if self.norm.is_some() { self.head_dim } else { 0 }];
        for (row, x) in self.x.chunks_exact_mut(self.width).enumerate() {
            let at = (self.first_row + row) * half;
            let (cos, sin) = (&self.angles.cos[at..at + half], &self.angles.sin[at..at + half]);
            for head in x.chunks_exact_mut(self.head_dim) {
                if let Some(norm) = self.norm {
                    scale_row::<L>(head, inverse_rms::<L>(head, norm.eps), norm.w, &mut normed);
                    head.copy_from_slice(&normed);
                }
                match self.angles.style {
                    RopeStyle::Neox => rotate_halves::<L>(head, cos, sin),
                    RopeStyle::Interleaved => rotate_pairs(head, cos, sin),
                }
            }
        }
    }
}

/// Elements `i` and `i + half`.
#[inline(always)]
fn rotate_halves<L: Lanes>(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let half = cos.len();
    let (first, rest) = head.split_at_mut(half);
    let second = &mut rest[..half];
    let whole = half - half % 8;
    for i in (0..whole).step_by(8) {
        // SAFETY: `i + 8 <= half`, the length of all four.
        unsafe {
            let (a, b) = (L::load(first.as_ptr().add(i)), L::load(second.as_ptr().add(i)));
            let (c, s) = (L::load(cos.as_ptr().add(i)), L::load(sin.as_ptr().add(i)));
            let minus_b_s = L::sub(L::splat(0.0), L::mul(b, s));
            L::store(first.as_mut_ptr().add(i), L::fma(a, c, minus_b_s));
            L::store(second.as_mut_ptr().add(i), L::fma(b, c, L::mul(a, s)));
        }
    }
    let angles = cos[whole..].iter().zip(&sin[whole..]);
    for ((a, b), (&c, &s)) in first[whole..].iter_mut().zip(&mut second[whole..]).zip(angles) {
        (*a, *b) = rotate(*a, *b, c, s);
    }
}

/// Elements `2i` and `2i + 1`.
#[inline(always)]
fn rotate_pairs(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    for (pair, (&c, &s)) in head.chunks_exact_mut(2).zip(cos.iter().zip(sin)) {
        (pair[0], pair[1]) = rotate(pair[0], pair[1], c, s);
    }
}

/// The same roundings as the lanes above.
#[inline(always)]
fn rotate(a: f32, b: f32, c: f32, s: f32) -> (f32, f32) {
    (a.mul_add(c, 0.0 - b * s), b.mul_add(c, a * s))
}
