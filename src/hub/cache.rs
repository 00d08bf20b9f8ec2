//! What is already on the disk: the cache folder that all Hugging Face tools share (`models--org--repo/{blobs,refs,snapshots}`).

use std::path::{Path, PathBuf};

use hf_hub::{Cache, Repo};

use super::choose::{self, ChoiceError};

/// The cache folder.
#[derive(Debug, Clone)]
pub struct HubCache {
    cache: Cache,
}

/// What the cache has of one repository. Every commit that was fetched has a snapshot of its own, with the files fetched at it alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedRepo {
    /// The one to look in first comes first; those that hold no model are left out.
    snapshots: Vec<Snapshot>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Snapshot {
    folder: PathBuf,
    /// Files of the models that are there in whole.
    names: Vec<String>,
}

/// One model that can be served without the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedModel {
    /// What to type: `org/repo:quant`, or the file's name after the colon where several files have that quantisation.
    pub name: String,
    pub path: PathBuf,
    pub bytes: u64,
}

impl HubCache {
    pub fn new(folder: &Path) -> Self {
        Self { cache: Cache::new(folder.to_owned()) }
    }

    /// What is there of `org/repo`, the snapshot of `refs/main` first, then the one that changed last. The ref alone is not asked: a
    /// repository that moved on would hide what was fetched before, and what was fetched since by file.
    pub fn repo(&self, repo: &str) -> CachedRepo {
        let snapshots = self.snapshots(repo).into_iter().map(Snapshot::of);
        CachedRepo { snapshots: snapshots.filter(|snapshot| !snapshot.names.is_empty()).collect() }
    }

    fn snapshots(&self, repo: &str) -> Vec<PathBuf> {
        let repo = Repo::model(repo.to_owned());
        let folder = self.cache.path().join(repo.folder_name());
        let main = std::fs::read_to_string(folder.join("refs").join(repo.revision())).unwrap_or_default();
        let mut found = Vec::new();
        for entry in std::fs::read_dir(folder.join("snapshots")).into_iter().flatten().flatten() {
            let changed = entry.metadata().and_then(|metadata| metadata.modified()).ok();
            found.push((entry.file_name() == *main.trim(), changed, entry.path()));
        }
        found.sort();
        found.into_iter().rev().map(|(_, _, folder)| folder).collect()
    }

    /// A snapshot of `org/repo` in which all of `names` are there, that of `refs/main` first, then the one that changed last.
    pub fn folder_with(&self, repo: &str, names: &[&str]) -> Option<PathBuf> {
        let whole = |folder: &PathBuf| names.iter().all(|name| folder.join(name).is_file());
        self.snapshots(repo).into_iter().find(whole)
    }

    /// Every model in the cache, by name.
    pub fn models(&self) -> Vec<CachedModel> {
        let mut models = Vec::new();
        for entry in std::fs::read_dir(self.cache.path()).into_iter().flatten().flatten() {
            let file_name = entry.file_name();
            let Some(repo) = file_name.to_str().and_then(|name| name.strip_prefix("models--")) else { continue };
            let repo = repo.replacen("--", "/", 1);
            models.extend(self.repo(&repo).models(&repo));
        }
        models.sort_by(|a, b| a.name.cmp(&b.name));
        models
    }
}

impl CachedRepo {
    /// The file (or first shard) that `quant` means, from the first snapshot that has it; `None` where no model is there at all.
    ///
    /// Errors: there are models and `quant` means none of them, or several.
    pub fn first_of(&self, quant: Option<&str>) -> Result<Option<PathBuf>, ChoiceError> {
        match self.find(quant) {
            Ok(paths) => Ok(paths.into_iter().next()),
            Err(ChoiceError::NoGguf) => Ok(None),
            Err(why) => Err(why),
        }
    }

    fn find(&self, quant: Option<&str>) -> Result<Vec<PathBuf>, ChoiceError> {
        for snapshot in &self.snapshots {
            match choose::choose(&snapshot.names, quant) {
                Ok(files) => return Ok(files.iter().map(|name| snapshot.folder.join(name)).collect()),
                // Another commit may have it.
                Err(ChoiceError::NoSuchQuant { .. }) => {}
                Err(why) => return Err(why),
            }
        }
        let choices = self.labels();
        match quant {
            Some(wanted) if !choices.is_empty() => Err(ChoiceError::NoSuchQuant { wanted: wanted.to_owned(), choices }),
            _ => Err(ChoiceError::NoGguf),
        }
    }

    fn models(&self, repo: &str) -> Vec<CachedModel> {
        let mut models = Vec::new();
        for label in self.labels() {
            let Ok(paths) = self.find(Some(&label)) else { continue };
            let bytes = paths.iter().filter_map(|path| std::fs::metadata(path).ok()).map(|file| file.len()).sum();
            models.extend(paths.into_iter().next().map(|path| CachedModel { name: format!("{repo}:{label}"), path, bytes }));
        }
        models
    }

    /// What can be typed for the models of all snapshots together.
    fn labels(&self) -> Vec<String> {
        let mut names: Vec<String> = self.snapshots.iter().flat_map(|snapshot| snapshot.names.iter().cloned()).collect();
        names.sort();
        names.dedup();
        choose::labels(&choose::candidates(&names))
    }
}

impl Snapshot {
    fn of(folder: PathBuf) -> Self {
        let mut names = Vec::new();
        list(&folder, "", &mut names);
        Self { names: choose::whole(&names), folder }
    }
}

/// Names of the files under `folder`, with `/` between the parts; a link whose blob is gone is no file.
fn list(folder: &Path, prefix: &str, names: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        match std::fs::metadata(entry.path()) {
            Ok(metadata) if metadata.is_dir() => list(&entry.path(), &format!("{prefix}{name}/"), names),
            Ok(_) => names.push(format!("{prefix}{name}")),
            Err(_) => {}
        }
    }
}
