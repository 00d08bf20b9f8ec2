//! Which core a thread of the pool stays on, where it is asked to stay on one.

use std::path::Path;

/// Keeps this thread on the `nth` of [`cores`], counted round; false where the system has no such thing or refuses it.
pub(crate) fn pin(nth: usize) -> bool {
    let cores = cores(Path::new("/sys/devices/system/cpu"));
    !cores.is_empty() && core_affinity::set_for_current(core_affinity::CoreId { id: cores[nth % cores.len()] })
}

/// The logical processors this process may use: first one of each core, then their siblings, which share its arithmetic.
fn cores(system: &Path) -> Vec<usize> {
    let ids = core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id);
    first_siblings_first(ids, |id| std::fs::read_to_string(system.join(format!("cpu{id}/topology/thread_siblings_list"))).ok())
}

/// Siblings are lists like `0,8` or `0-1`. Who has none, or none of the processors before it, counts as a core of its own.
fn first_siblings_first(ids: impl Iterator<Item = usize>, siblings: impl Fn(usize) -> Option<String>) -> Vec<usize> {
    let mut seen = Vec::new();
    let (mut first, mut others) = (Vec::new(), Vec::new());
    for id in ids {
        match siblings(id).map(|list| list.trim().to_owned()) {
            Some(list) if seen.contains(&list) => others.push(id),
            list => {
                seen.extend(list);
                first.push(id);
            }
        }
    }
    first.append(&mut others);
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_comes_before_the_second_thread_of_any() {
        let lists = ["0,2\n", "1,3\n", "0,2\n", "1,3\n"];
        assert_eq!(first_siblings_first(0..4, |id| Some(lists[id].to_owned())), [0, 1, 2, 3]);
        let lists = ["0-1\n", "0-1\n", "2-3\n", "2-3\n"];
        assert_eq!(first_siblings_first(0..4, |id| Some(lists[id].to_owned())), [0, 2, 1, 3]);
        assert_eq!(first_siblings_first([1, 3].into_iter(), |id| Some(lists[id].to_owned())), [1, 3]);
        assert_eq!(first_siblings_first(5..8, |_| None), [5, 6, 7]);
        assert!(cores(Path::new("/nowhere")).len() == core_affinity::get_core_ids().map_or(0, |ids| ids.len()));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_pinned_thread_may_use_one_core() {
        let pinned = std::thread::spawn(|| (pin(0), core_affinity::get_core_ids().map(|ids| ids.len()))).join().expect("no panic");
        assert_eq!(pinned, (true, Some(1)));
    }
}
