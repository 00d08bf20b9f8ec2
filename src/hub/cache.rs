//! What is already on the disk: the cache folder that all Hugging Face tools share (`models--org--repo/{blobs,refs,snapshots}`).

use std::path::{Path, PathBuf};

use hf_hub::{Cache, Repo};

use super::choose;

/// The cache folder.
#[derive(Debug, Clone)]
pub struct HubCache {
    cache: Cache,
}

/// The files of one repository that are complete in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedFiles {
    folder: PathBuf,
    names: Vec<String>,
}

/// One model that can be served without the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedModel {
    /// What to type: `org/repo:quant`.
    pub name: String,
    pub path: PathBuf,
    pub bytes: u64,
}

impl HubCache {
    pub fn new(folder: &Path) -> Self {
        Self { cache: Cache::new(folder.to_owned()) }
    }

    /// Files of the newest snapshot of `org/repo` that this cache knows.
    pub fn files(&self, repo: &str) -> CachedFiles {
        let folder = self.snapshot(repo).unwrap_or_default();
        let mut names = Vec::new();
        if !folder.as_os_str().is_empty() {
            list(&folder, "", &mut names);
        }
        names.sort();
        CachedFiles { folder, names }
    }

    /// Every model in the cache, by name.
    pub fn models(&self) -> Vec<CachedModel> {
        let mut models = Vec::new();
        for entry in std::fs::read_dir(self.cache.path()).into_iter().flatten().flatten() {
            let file_name = entry.file_name();
            let Some(repo) = file_name.to_str().and_then(|name| name.strip_prefix("models--")) else { continue };
            let repo = repo.replacen("--", "/", 1);
            let files = self.files(&repo);
            for candidate in choose::candidates(&files.names) {
                let label = candidate.quant.as_deref().unwrap_or(&candidate.name);
                let name = format!("{repo}:{label}");
                let Ok(parts) = choose::choose(&candidate.files, None) else { continue };
                let paths: Vec<PathBuf> = parts.iter().map(|part| files.folder.join(part)).collect();
                let bytes = paths.iter().filter_map(|path| std::fs::metadata(path).ok()).map(|file| file.len()).sum();
                models.extend(paths.into_iter().next().map(|path| CachedModel { name, path, bytes }));
            }
        }
        models.sort_by(|a, b| a.name.cmp(&b.name));
        models
    }

    fn snapshot(&self, repo: &str) -> Option<PathBuf> {
        let repo = Repo::model(repo.to_owned());
        let reference = self.cache.path().join(repo.folder_name()).join("refs").join(repo.revision());
        let commit = std::fs::read_to_string(reference).ok()?;
        Some(self.cache.repo(repo).pointer_path(commit.trim()))
    }
}

impl CachedFiles {
    /// The file (or first shard) that `quant` means among those in the cache, where all of it is there.
    pub fn first_of(&self, quant: Option<&str>) -> Option<PathBuf> {
        let files = choose::choose(&self.names, quant).ok()?;
        files.first().map(|name| self.folder.join(name))
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
