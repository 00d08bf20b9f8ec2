//! Names to the files of an embedding model: a folder, a file, or a repository of the Hub, which holds such a folder or GGUF files.

use std::path::{Path, PathBuf};

use hf_hub::api::RepoInfo;

use super::cache::HubCache;
use super::download::HubClient;
use super::progress::Report;
use super::{HubError, HubOptions, ModelFile, ModelSource};

/// What a folder must have, and what it may.
const REQUIRED: [&str; 3] = ["config.json", "tokenizer.json", "model.safetensors"];
const OPTIONAL: [&str; 2] = ["1_Pooling/config.json", "sentence_bert_config.json"];

/// What the user called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EncoderSource {
    /// A folder or a file.
    Path(PathBuf),
    Repo {
        repo: String,
        /// A quantisation or a file: then it is a GGUF.
        quant: Option<String>,
    },
}

impl EncoderSource {
    /// As [`ModelSource::parse`], but that nothing is built in.
    pub fn parse(name: &str) -> Result<Self, HubError> {
        match ModelSource::parse(name)? {
            ModelSource::BuiltIn | ModelSource::Script(_) => Err(HubError::NoSuchModel(name.to_owned())),
            ModelSource::Path(path) => Ok(Self::Path(path)),
            ModelSource::Repo { repo, quant } => Ok(Self::Repo { repo, quant }),
        }
    }

    /// The folder, or the file. What the cache has whole is used without asking the network.
    pub fn locate(&self, options: &HubOptions, report: &mut dyn Report) -> Result<PathBuf, HubError> {
        match self {
            Self::Path(path) => match std::fs::metadata(path) {
                Ok(_) => Ok(path.clone()),
                Err(problem) => Err(HubError::File { path: path.clone(), problem }),
            },
            Self::Repo { repo, quant: None } => match HubCache::new(&options.cache).folder_with(repo, &REQUIRED) {
                Some(folder) => Ok(folder),
                None if options.offline => gguf(repo, None, options, report),
                None => fetch(repo, options, report),
            },
            Self::Repo { repo, quant } => gguf(repo, quant.as_deref(), options, report),
        }
    }
}

fn gguf(repo: &str, quant: Option<&str>, options: &HubOptions, report: &mut dyn Report) -> Result<PathBuf, HubError> {
    let source = ModelSource::Repo { repo: repo.to_owned(), quant: quant.map(str::to_owned) };
    match source.locate(options, report)? {
        ModelFile::Path(path) => Ok(path),
        ModelFile::BuiltIn | ModelFile::Script(_) => unreachable!("a repository is neither built in nor a script"),
    }
}

/// The folder, file by file, the weights last: a folder that has them is whole. A repository without them has GGUF files, or nothing for us.
fn fetch(repo: &str, options: &HubOptions, report: &mut dyn Report) -> Result<PathBuf, HubError> {
    let transfer = |problem| HubError::Transfer { repo: repo.to_owned(), problem };
    let client = HubClient::new(options);
    let RepoInfo { siblings, sha: commit } = client.info(repo).map_err(transfer)?;
    let has = |name: &str| siblings.iter().any(|sibling| sibling.rfilename == name);
    if !REQUIRED.iter().all(|name| has(name)) {
        return gguf(repo, None, options, report);
    }
    let mut last: Option<PathBuf> = None;
    for name in OPTIONAL.iter().filter(|name| has(name)).chain(&REQUIRED) {
        last = Some(client.file(repo, &commit, name, report).map_err(transfer)?);
    }
    client.set_ref(repo, &commit).map_err(transfer)?;
    let weights = last.expect("some files are required");
    Ok(weights.parent().map(Path::to_owned).expect("a file in the cache lies in a folder"))
}
