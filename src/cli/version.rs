//! `understudy version`: what this build is and can do.

use super::failure::Failure;
use super::memory_plan::Size;
use super::print;
use crate::hub::builtin;

pub fn run() -> Result<(), Failure> {
    print::line(format!("understudy {}", env!("CARGO_PKG_VERSION")))?;
    print::line(format!("build          {}", build()))?;
    print::line(format!("devices        {}", devices().join(", ")))?;
    print::line(format!("built-in model {}", Size(builtin::len())))
}

/// Version, profile and target, as the benchmark names the build.
pub fn build() -> String {
    let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
    format!("{profile}, {}-{}", std::env::consts::ARCH, std::env::consts::OS)
}

/// Devices this build knows, as `--device` takes them.
pub fn devices() -> Vec<&'static str> {
    vec!["cpu"]
}
