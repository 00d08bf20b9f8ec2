//! Which device computes: what the user asked for, and what this build and this machine can give.

use std::str::FromStr;

use candle_core::Device;

/// `auto`, `cpu`, `cuda`, `cuda:N` or `metal`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// CUDA where built in and working, else Metal likewise, else the CPU.
    #[default]
    Auto,
    Cpu,
    /// The CUDA device of this number.
    Cuda(usize),
    Metal,
}

#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    #[error("unknown device {0:?}: expected auto, cpu, cuda, cuda:N or metal")]
    Unknown(String),
    #[error("this build has no CUDA: build with --features cuda")]
    NoCuda,
    #[error("this build has no Metal: build with --features metal (on macOS)")]
    NoMetal,
    #[error("CUDA device {ordinal} does not start: {reason}")]
    Cuda { ordinal: usize, reason: String },
    #[error("Metal does not start: {reason}")]
    Metal { reason: String },
}

/// An open device, and what `auto` passed over on the way to it.
#[derive(Debug)]
pub struct OpenDevice {
    pub device: Device,
    /// Why `auto` did not take a backend that this build has: for the log. Empty for any other choice.
    pub passed_over: Vec<DeviceError>,
}

/// Opens the device. An explicit choice that cannot be had is an error; only `auto` falls back.
pub fn open(choice: DeviceChoice) -> Result<OpenDevice, DeviceError> {
    let device = match choice {
        DeviceChoice::Auto => return Ok(open_auto()),
        DeviceChoice::Cpu => Device::Cpu,
        DeviceChoice::Cuda(ordinal) => open_cuda(ordinal)?,
        DeviceChoice::Metal => open_metal()?,
    };
    Ok(OpenDevice { device, passed_over: Vec::new() })
}

impl FromStr for DeviceChoice {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, DeviceError> {
        let unknown = || DeviceError::Unknown(text.to_owned());
        match text.to_ascii_lowercase().as_str() {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            "metal" => Ok(Self::Metal),
            lower => {
                let ordinal = lower.strip_prefix("cuda:").ok_or_else(unknown)?;
                let digits = !ordinal.is_empty() && ordinal.bytes().all(|byte| byte.is_ascii_digit());
                digits.then(|| ordinal.parse().ok()).flatten().map(Self::Cuda).ok_or_else(unknown)
            }
        }
    }
}

impl std::fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Auto => write!(f, "auto"),
            Self::Cpu => write!(f, "cpu"),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
            Self::Metal => write!(f, "metal"),
        }
    }
}

fn open_auto() -> OpenDevice {
    let mut passed_over = Vec::new();
    for open in [|| open_cuda(0), open_metal] {
        match open() {
            Ok(device) => return OpenDevice { device, passed_over },
            // A backend that was never built in is no news.
            Err(DeviceError::NoCuda | DeviceError::NoMetal) => {}
            Err(error) => passed_over.push(error),
        }
    }
    OpenDevice { device: Device::Cpu, passed_over }
}

/// Candle's own `cuda_if_available` only looks at the feature, so the driver's answer is taken here.
fn open_cuda(ordinal: usize) -> Result<Device, DeviceError> {
    if !cfg!(feature = "cuda") {
        return Err(DeviceError::NoCuda);
    }
    quietly(|| Device::new_cuda(ordinal)).map_err(|reason| DeviceError::Cuda { ordinal, reason })
}

fn open_metal() -> Result<Device, DeviceError> {
    if !cfg!(feature = "metal") {
        return Err(DeviceError::NoMetal);
    }
    quietly(|| Device::new_metal(0)).map_err(|reason| DeviceError::Metal { reason })
}

/// A driver that is missing altogether makes the binding panic rather than answer; both are "does not start".
fn quietly(open: impl FnOnce() -> candle_core::Result<Device> + std::panic::UnwindSafe) -> Result<Device, String> {
    match std::panic::catch_unwind(open) {
        Ok(Ok(device)) => Ok(device),
        Ok(Err(error)) => Err(error.to_string()),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
            Err(text.unwrap_or("the driver binding panicked").to_owned())
        }
    }
}
