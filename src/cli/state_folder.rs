//! Where this program keeps what it learns: the user's folder for state, as the XDG Base Directory Specification names it.

use std::path::PathBuf;

use crate::config::gateway::Journal;

/// The folder of the journal. `None`: none is kept, or nobody knows a home.
pub fn of_journal(journal: &Journal) -> Option<PathBuf> {
    match journal {
        Journal::Off => None,
        Journal::Told(folder) => Some(folder.clone()),
        Journal::OfUser => of_user(&|name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)),
    }
}

fn of_user(variable: &dyn Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    // A relative one is to be ignored, says the specification.
    let state = variable("XDG_STATE_HOME").filter(|folder| folder.is_absolute());
    let state = state.or_else(|| variable("HOME").map(|home| home.join(".local/state")));
    Some(state?.join("understudy"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_s_folder_for_state() {
        let of = |state: &str, home: &str| {
            let variable = |name: &str| match name {
                "XDG_STATE_HOME" => Some(state),
                _ => Some(home),
            };
            of_user(&|name| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from))
        };
        assert_eq!(of("/s", "/h"), Some("/s/understudy".into()));
        assert_eq!(of("relative", "/h"), Some("/h/.local/state/understudy".into()));
        assert_eq!(of("", "/h"), Some("/h/.local/state/understudy".into()));
        assert_eq!(of("", ""), None);
        assert_eq!(of_journal(&Journal::Off), None);
        assert_eq!(of_journal(&Journal::Told("/x".into())), Some("/x".into()));
    }
}
