//! What this machine can do at most, measured on the spot: the other side of every share of a peak that is printed.
//!
//! Loops over registers for arithmetic, sums over a large buffer for reading, on all threads of the pool, each the best of several
//! runs: a limit is what was reached once.

use std::hint::black_box;
use std::time::Instant;

use super::isa::Isa;
use super::pool::{Pool, pool};
use crate::huge::{PageBuffer, PageSize};
use crate::profile::Limits;

/// Additions and multiplications of 8-bit products, in 1e9 a second: with VNNI `vpdpbusd`, with AVX2 `vpmaddubsw` and the 16-bit
/// addition that each needs at least, on ARM `smmla` or `sdot`, otherwise what the compiler makes of plain code.
pub fn int8_gops(isa: Isa) -> f64 {
    best_of(ARITHMETIC_RUNS, |pool| per_thread(pool, |rounds| int8_rounds(isa, rounds)))
}

/// Additions and multiplications of f32 in fused pairs, in 1e9 a second.
pub fn f32_gops(isa: Isa) -> f64 {
    best_of(ARITHMETIC_RUNS, |pool| per_thread(pool, |rounds| f32_rounds(isa, rounds)))
}

/// All three limits, the bandwidth as [`read_gb_per_second`] measures it.
pub fn limits(isa: Isa, pages: PageSize, bytes: usize) -> std::io::Result<Limits> {
    let read_gb = read_gb_per_second_of(pages, bytes)?;
    Ok(Limits { read_gb, int8_gops: int8_gops(isa), float_gops: f32_gops(isa) })
}

/// [`read_gb_per_second_of`] ordinary pages, as a mapped file has them.
pub fn read_gb_per_second(bytes: usize) -> f64 {
    // Where so much memory is not to be had, nothing is read.
    read_gb_per_second_of(PageSize::Ordinary, bytes).unwrap_or(0.0)
}

/// Bytes read from memory, in 1e9 a second, on the kind of pages wanted: a sum over `bytes` of anonymous memory, each thread its share,
/// in one, two or four streams a thread, with prefetches and without; the best of all. Choose many times the cache. Errors: no memory.
pub fn read_gb_per_second_of(pages: PageSize, bytes: usize) -> std::io::Result<f64> {
    let mut buffer = PageBuffer::new(bytes, pages)?;
    // Another value in every page: no system can make one page of equal ones.
    buffer.as_mut_slice().chunks_mut(4096).enumerate().for_each(|(page, bytes)| bytes.fill((page % 251) as u8 + 1));
    Ok(reading(buffer.as_ref()))
}

/// Bytes of `memory` read, in 1e9 a second, as in [`read_gb_per_second_of`].
pub fn reading(memory: &[u8]) -> f64 {
    let ways = [read_streams::<1, 0>, read_streams::<1, 8>, read_streams::<2, 0>, read_streams::<2, 8>, read_streams::<4, 0>];
    let more = [read_streams::<4, 8>, read_streams::<1, 32>, read_streams::<2, 32>, read_streams::<4, 32>];
    let speed = |pool: &Pool, read: fn(&[u8]) -> u64| {
        let start = Instant::now();
        pool.run(memory.len().div_ceil(READ_TASK_BYTES), |task| {
            let run = &memory[task * READ_TASK_BYTES..memory.len().min((task + 1) * READ_TASK_BYTES)];
            black_box(read(run));
        });
        memory.len() as f64 / start.elapsed().as_secs_f64() / 1e9
    };
    ways.into_iter().chain(more).map(|read| best_of(READ_RUNS, |pool| speed(pool, read))).fold(0.0, f64::max)
}

/// One task of a thread: long for a prefetcher, short beside the whole.
const READ_TASK_BYTES: usize = 4 << 20;
/// Of a cache line.
const LINE_BYTES: usize = 64;

/// The sum of `run` as words, read in `STREAMS` parts side by side, a line of each in turn, each `AHEAD` lines ahead of need; the
/// bytes beyond whole lines of all parts are left out.
fn read_streams<const STREAMS: usize, const AHEAD: usize>(run: &[u8]) -> u64 {
    let part = run.len() / STREAMS / LINE_BYTES * LINE_BYTES;
    let parts: [&[u8]; STREAMS] = std::array::from_fn(|stream| &run[stream * part..(stream + 1) * part]);
    let mut sums = [0u64; LINE_BYTES / 8];
    for at in (0..part).step_by(LINE_BYTES) {
        for stream in parts {
            if AHEAD > 0 {
                prefetch(stream, at + AHEAD * LINE_BYTES);
            }
            for (sum, word) in sums.iter_mut().zip(stream[at..at + LINE_BYTES].as_chunks::<8>().0) {
                *sum = sum.wrapping_add(u64::from_ne_bytes(*word));
            }
        }
    }
    sums.into_iter().fold(0, u64::wrapping_add)
}

#[inline(always)]
fn prefetch(bytes: &[u8], at: usize) {
    if let Some(byte) = bytes.get(at) {
        super::tile::prefetch(byte, 1);
    }
}

/// Runs of two milliseconds: among so many, some that nobody interrupts on a machine with other work.
const ARITHMETIC_RUNS: usize = 20;
const READ_RUNS: usize = 5;

fn best_of(runs: usize, measure: impl Fn(&Pool) -> f64) -> f64 {
    (0..runs).map(|_| measure(pool())).fold(0.0, f64::max)
}

/// Runs `rounds` on every thread at once and returns its operations, in 1e9 a second of the whole.
fn per_thread(pool: &Pool, rounds: impl Fn(u64) -> u64 + Sync) -> f64 {
    // Two milliseconds at three gigahertz and six cycles a round.
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
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::AvxVnni => unsafe { x86::dpbusd256(rounds) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above.
        Isa::Neon => unsafe { arm::sdot(rounds) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above.
        Isa::I8mm => unsafe { arm::smmla(rounds) },
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
        Isa::Avx2 | Isa::AvxVnni => unsafe { x86::fma256(rounds) },
        #[cfg(target_arch = "aarch64")]
        Isa::Neon | Isa::I8mm => arm::fma(rounds),
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

/// Sixteen chains: four instructions a cycle with a latency of four, the most that ARM's cores have had so far.
#[cfg(target_arch = "aarch64")]
mod arm {
    use std::arch::aarch64::*;
    use std::hint::black_box;

    use super::super::i8mm;
    use super::super::neon::Neon;
    use super::super::row_lanes::RowLanes as _;

    /// Chains that differ, so that none can stand for another.
    fn chains() -> [i32; 16] {
        black_box(std::array::from_fn(|chain| chain as i32))
    }

    #[target_feature(enable = "neon,dotprod")]
    pub fn sdot(rounds: u64) -> u64 {
        let (w, x) = (black_box(vdupq_n_s32(0x0101_0101)), black_box(vdupq_n_s32(0x0101_0101)));
        let mut sums = chains().map(|sum| vdupq_n_s32(sum));
        for _ in 0..rounds {
            // SAFETY: this function runs only where the CPU has the instruction.
            sums.iter_mut().for_each(|sum| *sum = unsafe { Neon::add_dot(*sum, w, x) });
        }
        black_box(sums);
        16 * 32
    }

    #[target_feature(enable = "neon,i8mm")]
    pub fn smmla(rounds: u64) -> u64 {
        let (w, x) = (black_box(vdupq_n_s8(1)), black_box(vdupq_n_s8(1)));
        let mut sums = chains().map(|sum| vdupq_n_s32(sum));
        for _ in 0..rounds {
            // SAFETY: this function runs only where the CPU has the instruction.
            sums.iter_mut().for_each(|sum| *sum = unsafe { i8mm::add_products(*sum, w, x) });
        }
        black_box(sums);
        16 * 64
    }

    pub fn fma(rounds: u64) -> u64 {
        let (a, b) = (black_box(0.5f32), black_box(0.25f32));
        // SAFETY: NEON is in every 64-bit ARM CPU.
        unsafe {
            let (a, b) = (vdupq_n_f32(a), vdupq_n_f32(b));
            let mut sums = chains().map(|sum| vdupq_n_f32(sum as f32));
            for _ in 0..rounds {
                sums.iter_mut().for_each(|sum| *sum = vfmaq_f32(*sum, a, b));
            }
            black_box(sums);
        }
        16 * 8
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    /// Twelve chains: each product takes the chain's own sum, so that none can leave the loop. Twelve products of a latency of 3 to 5
    /// and an addition each need six cycles where two products begin a cycle (Zen 3, Skylake), so no chain is waited for; 26
    /// instructions in six cycles are no limit either, and nothing spills (seen in the compiled loop).
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

    #[target_feature(enable = "avxvnni,avx2")]
    pub fn dpbusd256(rounds: u64) -> u64 {
        let (w, x) = (black_box(_mm256_set1_epi8(1)), black_box(_mm256_set1_epi8(1)));
        let mut sums = [w; 12];
        for _ in 0..rounds {
            sums.iter_mut().for_each(|sum| *sum = _mm256_dpbusd_avx_epi32(*sum, w, x));
        }
        black_box(sums);
        12 * 64
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
        for pages in [PageSize::Ordinary, PageSize::Huge] {
            let speed = read_gb_per_second_of(pages, 1 << 22).expect("4 MiB are to be had");
            assert!(speed.is_finite() && speed > 0.0);
        }
    }

    #[test]
    fn every_line_is_read_once() {
        // 1, 2, 3, ... as words: any line left out or read twice changes the sum.
        let words: Vec<u64> = (1..=4 * 64 * 8).collect();
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let sum = words.iter().sum::<u64>();
        for read in [read_streams::<1, 0>, read_streams::<2, 8>, read_streams::<4, 32>] {
            assert_eq!(read(&bytes), sum);
        }
        assert_eq!(read_streams::<4, 8>(&bytes[..63]), 0, "no whole line");
    }
}
