//! Whether the machine runs on its battery: then it works for nobody who has not asked.

use std::path::Path;

/// As Linux tells it. A machine that says nothing of batteries has none.
pub fn is_on_battery() -> bool {
    discharges(Path::new("/sys/class/power_supply"))
}

fn discharges(supplies: &Path) -> bool {
    let Ok(supplies) = std::fs::read_dir(supplies) else { return false };
    supplies.flatten().any(|supply| {
        let read = |name: &str| std::fs::read_to_string(supply.path().join(name)).unwrap_or_default();
        // A mouse has a battery too; the machine's own has the scope of the system, or none.
        read("type").trim() == "Battery" && read("scope").trim() != "Device" && read("status").trim() == "Discharging"
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_s_own_battery_counts() {
        let folder = std::env::temp_dir().join(format!("understudy-power-{}", std::process::id()));
        let supply = |name: &str, files: &[(&str, &str)]| {
            let path = folder.join(name);
            std::fs::create_dir_all(&path).unwrap();
            files.iter().for_each(|(file, text)| std::fs::write(path.join(file), text).unwrap());
        };
        assert!(!discharges(&folder), "no such folder");
        supply("AC", &[("type", "Mains\n"), ("online", "0\n")]);
        supply("hid-mouse", &[("type", "Battery\n"), ("scope", "Device\n"), ("status", "Discharging\n")]);
        assert!(!discharges(&folder));
        supply("BAT0", &[("type", "Battery\n"), ("status", "Charging\n")]);
        assert!(!discharges(&folder));
        supply("BAT0", &[("status", "Discharging\n")]);
        assert!(discharges(&folder));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
