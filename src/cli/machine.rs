//! What this machine is: cores, memory that is free to use, its name; and what this process holds. Read from the system's files,
//! with a sensible guess where they are silent.

use std::num::NonZeroUsize;
use std::path::Path;
use std::process::Command;

use crate::config::Machine;

/// Where nothing tells: little enough for any machine that runs a language model.
const MEMORY_GUESS_BYTES: u64 = 4 << 30;

/// What the defaults of the configuration depend on.
pub fn machine() -> Machine {
    Machine { cores: cores(), memory_available_bytes: memory_available_bytes() }
}

/// Cores this process may use; two threads of one core share its arithmetic and count once.
fn cores() -> NonZeroUsize {
    let usable = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    NonZeroUsize::new(num_cpus::get_physical()).map_or(usable, |physical| physical.min(usable))
}

/// Memory this process may still take: what the kernel calls available, and no more than its control group leaves.
fn memory_available_bytes() -> u64 {
    if let Ok(meminfo) = std::fs::read_to_string("/proc/meminfo") {
        let available = kilobytes_of(&meminfo, "MemAvailable:").unwrap_or(MEMORY_GUESS_BYTES);
        return control_group_free_bytes().map_or(available, |free| free.min(available));
    }
    // macOS tells the installed memory and reclaims caches on demand: a half of it counts as available.
    let installed = command("sysctl", &["-n", "hw.memsize"]).and_then(|text| text.trim().parse::<u64>().ok());
    installed.map_or(MEMORY_GUESS_BYTES, |bytes| bytes / 2)
}

/// Version 2 of control groups: the tightest limit on the way up. Version 1: the one limit. `None` where there is none.
fn control_group_free_bytes() -> Option<u64> {
    let root = Path::new("/sys/fs/cgroup");
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mut free: Option<u64> = None;
    let mut consider = |limit: &Path, used: &Path, inactive: u64| {
        let number = |path: &Path| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
        // Version 1 writes a number near 2^63 for "no limit".
        if let Some(limit) = number(limit).filter(|limit| *limit < 1 << 60) {
            let used = number(used).unwrap_or(0).saturating_sub(inactive);
            let left = limit.saturating_sub(used);
            free = Some(free.map_or(left, |other| other.min(left)));
        }
    };
    for line in groups.lines() {
        if let Some(path) = line.strip_prefix("0::/") {
            let mut folder = root.join(path);
            while folder.starts_with(root) {
                let inactive = inactive_file_bytes(&folder.join("memory.stat"), "inactive_file");
                consider(&folder.join("memory.max"), &folder.join("memory.current"), inactive);
                if !folder.pop() {
                    break;
                }
            }
        }
    }
    let v1 = root.join("memory");
    let inactive = inactive_file_bytes(&v1.join("memory.stat"), "total_inactive_file");
    consider(&v1.join("memory.limit_in_bytes"), &v1.join("memory.usage_in_bytes"), inactive);
    free
}

/// Page cache that the kernel gives back before it kills anybody.
fn inactive_file_bytes(stat: &Path, name: &str) -> u64 {
    let text = std::fs::read_to_string(stat).unwrap_or_default();
    let find = |line: &str| line.strip_prefix(name)?.trim().parse().ok();
    text.lines().find_map(find).unwrap_or(0)
}

/// Resident memory of this process now, and the most it ever was, in bytes; `None` where the system does not say.
pub fn resident_bytes() -> Option<(u64, u64)> {
    if let Ok(status) = std::fs::read_to_string("/proc/self/status") {
        return Some((kilobytes_of(&status, "VmRSS:")?, kilobytes_of(&status, "VmHWM:")?));
    }
    let kilobytes: u64 = command("ps", &["-o", "rss=", "-p", &std::process::id().to_string()])?.trim().parse().ok()?;
    Some((kilobytes * 1024, kilobytes * 1024))
}

/// The processor's name, like `AMD EPYC 9354`, and the number of its cores this process may use.
pub fn processor() -> String {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let from_linux = std::fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        line.split_once(':').map(|(_, name)| name.trim().to_owned())
    });
    let name = from_linux.or_else(|| command("sysctl", &["-n", "machdep.cpu.brand_string"]).map(|name| name.trim().to_owned()));
    format!("{}, {cores} cores, {}", name.unwrap_or_else(|| "unknown processor".to_owned()), std::env::consts::ARCH)
}

/// `MemAvailable:   123 kB` -> bytes.
fn kilobytes_of(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}

fn command(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files() {
        let text = "MemTotal:       100 kB\nMemAvailable:    42 kB\n";
        assert_eq!(kilobytes_of(text, "MemAvailable:"), Some(42 * 1024));
        assert_eq!(kilobytes_of(text, "SwapFree:"), None);
    }

    #[test]
    fn this_machine_has_something() {
        assert!(machine().memory_available_bytes > 1 << 20);
        if let Some((now, most)) = resident_bytes() {
            assert!(now > 0 && most >= now);
        }
    }
}
