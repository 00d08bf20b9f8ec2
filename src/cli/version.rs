//! `understudy version`: what this build is and can do.

use kernels::device::{self, DeviceChoice, DeviceError};

use super::failure::Failure;
use super::memory_plan::Size;
use super::print;
use crate::hub::builtin;

pub fn run() -> Result<(), Failure> {
    print::line(format!("understudy {}", env!("CARGO_PKG_VERSION")))?;
    print::line(format!("build          {}", build()))?;
    print::line(format!("devices        {}", devices()))?;
    print::line(format!("built-in model {}", Size(builtin::len())))
}

/// Version, profile and target, as the benchmark names the build.
pub fn build() -> String {
    let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
    format!("{profile}, {}-{}", std::env::consts::ARCH, std::env::consts::OS)
}

/// Devices this build knows, as `--device` takes them, and whether they answer.
fn devices() -> String {
    let known = [DeviceChoice::Cpu, DeviceChoice::Cuda(0), DeviceChoice::Metal];
    let state = |choice: DeviceChoice| match device::open(choice) {
        Ok(_) => Some(choice.to_string()),
        Err(DeviceError::NoCuda | DeviceError::NoMetal) => None,
        Err(error) => Some(format!("{choice} ({error})")),
    };
    known.into_iter().filter_map(state).collect::<Vec<_>>().join(", ")
}
