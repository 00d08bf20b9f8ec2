//! `understudy pull`: a repository's model into the cache; prints its path.

use super::failure::Failure;
use super::load::model_source;
use super::print;
use crate::config::Config;
use crate::hub::{HubOptions, ModelFile, progress};

pub fn run(config: &Config) -> Result<(), Failure> {
    let source = model_source(config)?;
    let options = HubOptions::from_env(&|name| std::env::var(name).ok(), config.models.offline);
    match source.pull(&options, progress::for_stderr().as_mut())? {
        ModelFile::Path(path) | ModelFile::Script(path) => print::line(path.display()),
        ModelFile::BuiltIn => {
            print::remark("the built-in model is part of this program; nothing to fetch");
            Ok(())
        }
    }
}
