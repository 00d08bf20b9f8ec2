//! What this machine can do at most, measured on the spot: the other side of every share of a peak that is printed.
//!
//! Loops over registers for arithmetic, a plain sum over a large buffer for reading, on all threads of the pool.

use std::hint::black_box;
use std::time::Instant;

use super::isa::Isa;
use super::pool::{Pool, pool};

/// Additions and multiplications of 8-bit products, in 1e9 a second: with AVX-512 `vpdpbusd`, with AVX2 `vpmaddubsw` and the 16-bit
/// addition that each needs at least, otherwise what the compiler makes of plain code.
pub fn int8_gops(isa: Isa) -> f64 {
    best_of(|pool| per_thread(pool, |rounds| int8_rounds(isa, rounds)))
}

/// Additions and multiplications of f32 in fused pairs, in 1e9 a second.
pub fn f32_gops(isa: Isa) -> f64 {
    best_of(|pool| per_thread(pool, |rounds| f32_rounds(isa, rounds)))
}

/// Bytes read from memory, in 1e9 a second: a sum over `bytes` of anonymous memory, each thread its share. Choose many times the cache.
pub fn read_gb_per_second(bytes: usize) -> f64 {
    let buffer = vec![1u64; bytes / 8];
    best_of(|pool| {
        // 1 MB a task: long for a prefetcher, short beside the whole.
        const TASK: usize = 1 << 17;
        let start = Instant::now();
        pool.run(buffer.len().div_ceil(TASK), |task| {
            let run = &buffer[task * TASK..buffer.len().min((task + 1) * TASK)];
            black_box(run.iter().fold(0u64, |sum, word| sum.wrapping_add(*word)));
        });
        (buffer.len() * 8) as f64 / start.elapsed().as_secs_f64() / 1e9
    })
}

fn best_of(measure: impl Fn(&Pool) -> f64) -> f64 {
    (0..5).map(|_| measure(pool())).fold(0.0, f64::max)
}

/// Runs `rounds` on every thread at once and returns its operations, in 1e9 a second of the whole.
fn per_thread(pool: &Pool, rounds: impl Fn(u64) -> u64 + Sync) -> f64 {
    // About 10 milliseconds on a recent core.
    const ROUNDS: u64 = 1_000_000;
    let start = Instant::now();
    pool.run(pool.threads(), |_| {
        black_box(rounds(ROUNDS));
    });
    let operations = rounds(0) * ROUNDS * pool.threads() as u64;
    operations as f64 / start.elapsed().as_secs_f64() / 1e9
}

/// Runs `rounds` rounds; returns the operations of one.
fn int8_rounds(isa: Isa, rounds: u64) -> u64 {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a set is chosen only where the CPU has it.
        Isa::Avx512 => unsafe { x86::dpbusd(rounds) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 => unsafe { x86::maddubs(rounds) },
        _ => {
            let (w, x) = (black_box([3u8; 256]), black_box([5i8; 256]));
            let mut sums = [0i32; 16];
            for _ in 0..rounds / 16 {
                for (w, x) in w.chunks_exact(16).zip(x.chunks_exact(16)) {
                    (0..16).for_each(|i| sums[i] = sums[i].wrapping_add(i32::from(w[i]) * i32::from(x[i])));
                }
                black_box(&mut sums);
            }
            2 * 256 / 16
        }
    }
}

fn f32_rounds(isa: Isa, rounds: u64) -> u64 {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a set is chosen only where the CPU has it.
        Isa::Avx512 => unsafe { x86::fma512(rounds) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 => unsafe { x86::fma256(rounds) },
        _ => {
            let (a, mut sums) = (black_box([0.5f32; 32]), [0.0f32; 32]);
            for _ in 0..rounds {
                (0..32).for_each(|i| sums[i] += a[i] * a[i]);
                black_box(&mut sums);
            }
            2 * 32
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    /// Twelve chains: each product takes the chain's own sum, so that none can leave the loop.
    #[target_feature(enable = "avx2")]
    pub fn maddubs(rounds: u64) -> u64 {
        let x = black_box(_mm256_set1_epi8(1));
        let mut sums = [x; 12];
        for _ in 0..rounds {
            sums.iter_mut().for_each(|sum| *sum = _mm256_add_epi16(*sum, _mm256_maddubs_epi16(*sum, x)));
        }
        black_box(sums);
        12 * 64
    }

    #[target_feature(enable = "avx2,fma")]
    pub fn fma256(rounds: u64) -> u64 {
        let (a, b) = (black_box(_mm256_set1_ps(0.5)), black_box(_mm256_set1_ps(0.25)));
        let mut sums = [a; 10];
        for _ in 0..rounds {
            sums.iter_mut().for_each(|sum| *sum = _mm256_fmadd_ps(*sum, a, b));
        }
        black_box(sums);
        10 * 16
    }

    #[target_feature(enable = "avx512f,avx512vnni")]
    pub fn dpbusd(rounds: u64) -> u64 {
        let (w, x) = (black_box(_mm512_set1_epi8(1)), black_box(_mm512_set1_epi8(1)));
        let mut sums = [w; 16];
        for _ in 0..rounds {
            sums.iter_mut().for_each(|sum| *sum = _mm512_dpbusd_epi32(*sum, w, x));
        }
        black_box(sums);
        16 * 128
    }

    #[target_feature(enable = "avx512f")]
    pub fn fma512(rounds: u64) -> u64 {
        let (a, b) = (black_box(_mm512_set1_ps(0.5)), black_box(_mm512_set1_ps(0.25)));
        let mut sums = [a; 16];
        for _ in 0..rounds {
            sums.iter_mut().for_each(|sum| *sum = _mm512_fmadd_ps(*sum, a, b));
        }
        black_box(sums);
        16 * 32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_peak_is_a_number() {
        for isa in Isa::available() {
            assert!(int8_rounds(isa, 32) > 0 && f32_rounds(isa, 32) > 0);
        }
        let speed = read_gb_per_second(1 << 22);
        assert!(speed.is_finite() && speed > 0.0);
    }
}
