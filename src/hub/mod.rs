//! Names to files: what the user calls a model becomes bytes that can be read. Built-in, a path, or a repository of the Hub.
//!
//! Must not know what is inside a GGUF file, nor who asked. Blocking: callers on a runtime use `spawn_blocking`.

use std::path::{Path, PathBuf};

use hf_hub::api::RepoInfo;

pub mod builtin;
pub mod cache;
pub mod choose;
pub mod download;
pub mod encoder;
pub mod progress;

use cache::HubCache;
use choose::ChoiceError;
use download::{HubClient, TransferError};
use progress::Report;

/// What the user called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelSource {
    /// The model inside this binary.
    BuiltIn,
    Path(PathBuf),
    /// `scripted:FILE.toml`: no model, but what one is to say.
    Script(PathBuf),
    /// `org/repo`, with the quantisation or the file asked for.
    Repo {
        repo: String,
        quant: Option<String>,
    },
}

/// Where the bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelFile {
    BuiltIn,
    /// The file, or the first of its shards.
    Path(PathBuf),
    Script(PathBuf),
}

/// Each says all of it in its own words, what lies below included. That is therefore a `problem` and no `source`: who prints an error
/// with its sources (`{:#}`) would say it twice.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    #[error("there is no model {0:?}: neither a file nor `org/repo[:quant]` of the Hub, nor `builtin`")]
    NoSuchModel(String),
    #[error("{path}: {problem}")]
    File { path: PathBuf, problem: std::io::Error },
    #[error(
        "{repo} is not in the cache ({cache}) and --offline (or HF_HUB_OFFLINE) forbids the network; run `understudy pull {repo}` once while online"
    )]
    NotCached { repo: String, cache: PathBuf },
    #[error("the cache has models of {repo}, and --offline (or HF_HUB_OFFLINE) forbids to fetch others: {problem}")]
    CachedChoice { repo: String, problem: ChoiceError },
    #[error("{repo}: {problem}")]
    Choice { repo: String, problem: ChoiceError },
    #[error("{repo}: {problem}")]
    Transfer { repo: String, problem: TransferError },
}

/// How the Hub is reached; from the environment by [`HubOptions::from_env`].
#[derive(Debug, Clone)]
pub struct HubOptions {
    /// `HF_ENDPOINT`; no slash at its end.
    pub endpoint: String,
    /// `HF_TOKEN`, or the file that `hf auth login` writes.
    pub token: Option<HubToken>,
    /// `HF_HUB_CACHE`, else `HF_HOME/hub`, else `~/.cache/huggingface/hub`.
    pub cache: PathBuf,
    pub offline: bool,
    /// Pause before a broken transfer is taken up again; doubles each time.
    pub retry_pause: std::time::Duration,
}

/// Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct HubToken(pub String);

impl std::fmt::Debug for HubToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HubToken(..)")
    }
}

impl HubOptions {
    /// Reads the variables that Hugging Face's own tools read.
    pub fn from_env(variable: &dyn Fn(&str) -> Option<String>, offline: bool) -> Self {
        let variable = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let home = variable("HF_HOME").map(PathBuf::from).unwrap_or_else(|| {
            let cache = variable("XDG_CACHE_HOME").map(PathBuf::from);
            let user = || variable("HOME").or_else(|| variable("USERPROFILE")).map_or_else(|| PathBuf::from("."), PathBuf::from);
            cache.unwrap_or_else(|| user().join(".cache")).join("huggingface")
        });
        let token_path = variable("HF_TOKEN_PATH").map_or_else(|| home.join("token"), PathBuf::from);
        let token = variable("HF_TOKEN")
            .or_else(|| std::fs::read_to_string(token_path).ok())
            .map(|token| token.trim().to_owned())
            .filter(|token| !token.is_empty());
        let told_offline =
            variable("HF_HUB_OFFLINE").is_some_and(|word| matches!(word.to_lowercase().as_str(), "1" | "true" | "yes" | "on"));
        Self {
            endpoint: variable("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned()).trim_end_matches('/').to_owned(),
            token: token.map(HubToken),
            cache: variable("HF_HUB_CACHE").map_or_else(|| home.join("hub"), PathBuf::from),
            offline: offline || told_offline,
            retry_pause: std::time::Duration::from_millis(500),
        }
    }
}

impl ModelSource {
    /// `builtin` is the built-in model, also where a file is called so (that one is `./builtin`), and `scripted:` is a script; otherwise a file that exists is a path
    /// whatever its name looks like; otherwise a name with one slash is a repository.
    pub fn parse(name: &str) -> Result<Self, HubError> {
        if name.eq_ignore_ascii_case("builtin") || name.eq_ignore_ascii_case("built-in") {
            return Ok(Self::BuiltIn);
        }
        if let Some(script) = name.strip_prefix("scripted:") {
            return Ok(Self::Script(PathBuf::from(script)));
        }
        let path = Path::new(name);
        let looks_like_path = name.to_lowercase().ends_with(".gguf") && !name.contains(':')
            || path.is_absolute()
            || name.starts_with("./")
            || name.starts_with("../");
        if looks_like_path || path.exists() {
            return Ok(Self::Path(path.to_owned()));
        }
        let (repo, quant) = match name.split_once(':') {
            Some((repo, quant)) => (repo, Some(quant)),
            None => (name, None),
        };
        let plain = |part: &str| {
            !part.is_empty()
                && !part.starts_with(['.', '-'])
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        };
        let is_repo = repo.split('/').count() == 2 && repo.split('/').all(plain);
        if !is_repo || quant.is_some_and(str::is_empty) {
            return Err(HubError::NoSuchModel(name.to_owned()));
        }
        Ok(Self::Repo { repo: repo.to_owned(), quant: quant.map(str::to_owned) })
    }

    /// Finds the file. What the cache has of a repository is used without asking the network, so that without a quantisation the
    /// order of preference is one among the files there; only where that gives none the Hub's list is asked for, and the file fetched.
    pub fn locate(&self, options: &HubOptions, report: &mut dyn Report) -> Result<ModelFile, HubError> {
        match self {
            Self::BuiltIn => Ok(ModelFile::BuiltIn),
            Self::Path(path) => existing_file(path, "name the .gguf file in it").map(ModelFile::Path),
            Self::Script(path) => existing_file(path, "name the script in it").map(ModelFile::Script),
            Self::Repo { repo, quant } => {
                let cached = HubCache::new(&options.cache).repo(repo);
                match cached.first_of(quant.as_deref()) {
                    Ok(Some(file)) => return Ok(ModelFile::Path(file)),
                    Err(problem) if options.offline => return Err(HubError::CachedChoice { repo: repo.clone(), problem }),
                    // The Hub may have what the cache lacks.
                    Ok(None) | Err(_) => {}
                }
                fetch(repo, quant.as_deref(), options, report)
            }
        }
    }

    /// As [`Self::locate`], but a repository is asked for its newest files first (`understudy pull`).
    pub fn pull(&self, options: &HubOptions, report: &mut dyn Report) -> Result<ModelFile, HubError> {
        match self {
            Self::Repo { repo, quant } if !options.offline => fetch(repo, quant.as_deref(), options, report),
            _ => self.locate(options, report),
        }
    }
}

fn existing_file(path: &Path, advice: &str) -> Result<PathBuf, HubError> {
    let file = |problem| HubError::File { path: path.to_owned(), problem };
    let metadata = std::fs::metadata(path).map_err(file)?;
    if metadata.is_dir() {
        return Err(file(std::io::Error::other(format!("is a folder; {advice}"))));
    }
    Ok(path.to_owned())
}

/// Asks the Hub for the list, chooses, and fetches what the cache lacks.
fn fetch(repo: &str, quant: Option<&str>, options: &HubOptions, report: &mut dyn Report) -> Result<ModelFile, HubError> {
    if options.offline {
        return Err(HubError::NotCached { repo: repo.to_owned(), cache: options.cache.clone() });
    }
    let transfer = |problem| HubError::Transfer { repo: repo.to_owned(), problem };
    let client = HubClient::new(options);
    let RepoInfo { siblings, sha: commit } = client.info(repo).map_err(transfer)?;
    let names: Vec<String> = siblings.into_iter().map(|sibling| sibling.rfilename).collect();
    let wanted = choose::choose(&names, quant).map_err(|problem| HubError::Choice { repo: repo.to_owned(), problem })?;
    let mut first = None;
    for name in &wanted {
        let path = client.file(repo, &commit, name, report).map_err(transfer)?;
        first.get_or_insert(path);
    }
    client.set_ref(repo, &commit).map_err(transfer)?;
    Ok(ModelFile::Path(first.expect("a choice is never empty")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(name: &str) -> Result<ModelSource, String> {
        ModelSource::parse(name).map_err(|e| e.to_string())
    }

    #[test]
    fn names() {
        let repo = |repo: &str, quant: Option<&str>| Ok(ModelSource::Repo { repo: repo.into(), quant: quant.map(str::to_owned) });
        assert_eq!(parse("builtin"), Ok(ModelSource::BuiltIn));
        assert_eq!(parse("Qwen/Qwen3-0.6B-GGUF"), repo("Qwen/Qwen3-0.6B-GGUF", None));
        assert_eq!(parse("Qwen/Qwen3-0.6B-GGUF:q8_0"), repo("Qwen/Qwen3-0.6B-GGUF", Some("q8_0")));
        assert_eq!(parse("org/repo:dir/file.gguf"), repo("org/repo", Some("dir/file.gguf")));
        for path in ["model.gguf", "dir/model.GGUF", "/x/y", "./model", "./builtin", "Cargo.toml"] {
            assert_eq!(parse(path), Ok(ModelSource::Path(path.into())), "{path}");
        }
        for wrong in ["sevre", "a/b/c", "a/b:", "/", "../../etc:x", "a b/c", "org/..", "org/-x", ""] {
            assert!(!matches!(parse(wrong), Ok(ModelSource::Repo { .. })), "{wrong}");
        }
        assert_eq!(parse("scripted:dir/a.toml"), Ok(ModelSource::Script("dir/a.toml".into())));
        assert!(parse("sevre").unwrap_err().contains("\"sevre\""));
    }

    #[test]
    fn the_environment_of_hugging_face() {
        let of = |pairs: &'static [(&str, &str)]| {
            let find = move |name: &str| pairs.iter().find(|(k, _)| *k == name).map(|(_, v)| (*v).to_owned());
            HubOptions::from_env(&find, false)
        };
        let plain = of(&[("HOME", "/home/u")]);
        assert_eq!(plain.endpoint, "https://huggingface.co");
        assert_eq!(plain.cache, PathBuf::from("/home/u/.cache/huggingface/hub"));
        assert!(!plain.offline && plain.token.is_none());
        let told = of(&[("HF_HOME", "/h"), ("HF_ENDPOINT", "http://mirror/"), ("HF_TOKEN", " t "), ("HF_HUB_OFFLINE", "1")]);
        assert_eq!((told.endpoint.as_str(), told.cache), ("http://mirror", PathBuf::from("/h/hub")));
        assert_eq!(told.token, Some(HubToken("t".into())));
        assert!(told.offline);
        assert_eq!(of(&[("HF_HOME", "/h"), ("HF_HUB_CACHE", "/c")]).cache, PathBuf::from("/c"));
    }
}
