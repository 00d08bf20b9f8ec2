//! Which instruction set the CPU bodies use: found at run time, or forced by `UNDERSTUDY_ISA`.
//!
//! Every set gives the same bits; the choice is one of speed, and of testing one against another.

use std::cell::Cell;
use std::sync::OnceLock;

/// An instruction set with bodies of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Isa {
    /// Plain code.
    Scalar,
    /// AVX2 with FMA and F16C.
    Avx2,
    /// AVX2 with VNNI on 256-bit registers, and all of [`Isa::Avx2`].
    AvxVnni,
    /// AVX-512 F, BW, DQ, VL with VNNI, and all of [`Isa::Avx2`].
    Avx512,
    /// 64-bit ARM with the dot-product instructions.
    Neon,
    /// 64-bit ARM with the 8-bit matrix instructions (Neoverse V1 and N2, Apple M2, Cortex-X2, and later): products with quantized
    /// weights; all else as [`Isa::Neon`].
    I8mm,
    /// The algorithm of [`Isa::Avx512`] over plain arrays, so that it is tested on any machine. Never chosen by itself.
    Emulated512,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IsaError {
    #[error("UNDERSTUDY_ISA={0:?} is none of scalar, avx2, avxvnni, avx512, neon, i8mm")]
    Unknown(String),
    #[error("UNDERSTUDY_ISA={wanted} asks for instructions this CPU lacks; it has {best}")]
    Absent { wanted: Isa, best: Isa },
}

impl Isa {
    /// Name as in `UNDERSTUDY_ISA`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::AvxVnni => "avxvnni",
            Self::Avx512 => "avx512",
            Self::Neon => "neon",
            Self::I8mm => "i8mm",
            Self::Emulated512 => "emulated512",
        }
    }

    /// Whether this CPU can run it.
    pub fn is_available(self) -> bool {
        match self {
            Self::Scalar | Self::Emulated512 => true,
            Self::Avx2 => has_avx2(),
            Self::AvxVnni => has_avx_vnni(),
            Self::Avx512 => has_avx512(),
            Self::Neon => has_neon_dotprod(),
            Self::I8mm => has_i8mm(),
        }
    }

    /// All sets this CPU can run, the emulation included.
    pub fn available() -> Vec<Self> {
        let mut all = vec![Self::Scalar, Self::Emulated512, Self::Avx2, Self::AvxVnni, Self::Avx512, Self::Neon, Self::I8mm];
        all.retain(|isa| isa.is_available());
        all
    }

    /// The fastest set this CPU has.
    pub fn best() -> Self {
        [Self::Avx512, Self::AvxVnni, Self::Avx2, Self::I8mm, Self::Neon].into_iter().find(|isa| isa.is_available()).unwrap_or(Self::Scalar)
    }
}

impl std::fmt::Display for Isa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

thread_local! {
    static OVERRIDE: Cell<Option<Isa>> = const { Cell::new(None) };
}

/// The set to use: [`with_isa`]'s on this thread, else `UNDERSTUDY_ISA`, else the best there is. The variable is read once.
pub fn isa() -> Result<Isa, IsaError> {
    static CHOSEN: OnceLock<Result<Isa, IsaError>> = OnceLock::new();
    if let Some(isa) = OVERRIDE.get() {
        return Ok(isa);
    }
    CHOSEN.get_or_init(|| choose(std::env::var_os("UNDERSTUDY_ISA").map(|v| v.to_string_lossy().into_owned()).as_deref())).clone()
}

/// Runs `work` with the ops called from this thread using `isa`; for tests and benchmarks. Panics where the CPU lacks it.
pub fn with_isa<R>(isa: Isa, work: impl FnOnce() -> R) -> R {
    struct Restore(Option<Isa>);
    impl Drop for Restore {
        fn drop(&mut self) {
            OVERRIDE.set(self.0);
        }
    }
    assert!(isa.is_available(), "this CPU has no {isa}");
    let _restore = Restore(OVERRIDE.replace(Some(isa)));
    work()
}

fn choose(wanted: Option<&str>) -> Result<Isa, IsaError> {
    let best = Isa::best();
    let wanted = match wanted {
        None | Some("") => return Ok(best),
        Some("scalar") => Isa::Scalar,
        Some("avx2") => Isa::Avx2,
        Some("avxvnni") => Isa::AvxVnni,
        Some("avx512") => Isa::Avx512,
        Some("neon") => Isa::Neon,
        Some("i8mm") => Isa::I8mm,
        Some(other) => return Err(IsaError::Unknown(other.to_owned())),
    };
    if wanted.is_available() { Ok(wanted) } else { Err(IsaError::Absent { wanted, best }) }
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
}

#[cfg(target_arch = "x86_64")]
fn has_avx_vnni() -> bool {
    has_avx2() && is_x86_feature_detected!("avxvnni")
}

#[cfg(target_arch = "x86_64")]
fn has_avx512() -> bool {
    has_avx2()
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vnni")
}

#[cfg(not(target_arch = "x86_64"))]
fn has_avx2() -> bool {
    false
}

#[cfg(not(target_arch = "x86_64"))]
fn has_avx_vnni() -> bool {
    false
}

#[cfg(not(target_arch = "x86_64"))]
fn has_avx512() -> bool {
    false
}

#[cfg(target_arch = "aarch64")]
fn has_neon_dotprod() -> bool {
    std::arch::is_aarch64_feature_detected!("dotprod")
}

#[cfg(target_arch = "aarch64")]
fn has_i8mm() -> bool {
    has_neon_dotprod() && std::arch::is_aarch64_feature_detected!("i8mm")
}

#[cfg(not(target_arch = "aarch64"))]
fn has_neon_dotprod() -> bool {
    false
}

#[cfg(not(target_arch = "aarch64"))]
fn has_i8mm() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_forces_a_set_or_is_an_error() {
        assert_eq!(choose(None), Ok(Isa::best()));
        assert_eq!(choose(Some("")), Ok(Isa::best()));
        assert_eq!(choose(Some("scalar")), Ok(Isa::Scalar));
        assert_eq!(choose(Some("sse9")), Err(IsaError::Unknown("sse9".into())));
        assert_eq!(choose(Some("emulated512")), Err(IsaError::Unknown("emulated512".into())));
        for isa in [Isa::Avx2, Isa::AvxVnni, Isa::Avx512, Isa::Neon, Isa::I8mm] {
            let name = isa.name();
            let chosen = choose(Some(name));
            if isa.is_available() {
                assert_eq!(chosen, Ok(isa));
            } else {
                let message = chosen.expect_err("the CPU lacks it").to_string();
                assert!(message.contains(name) && message.contains(Isa::best().name()), "{message}");
            }
        }
    }

    #[test]
    fn an_override_ends_with_its_scope_also_by_panic() {
        let before = isa();
        assert_eq!(with_isa(Isa::Emulated512, isa), Ok(Isa::Emulated512));
        let caught = std::panic::catch_unwind(|| with_isa(Isa::Scalar, || panic!("on purpose")));
        assert!(caught.is_err());
        assert_eq!(isa(), before);
    }
}
