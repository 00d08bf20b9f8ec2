//! Which files a model consists of: `NAME-00001-of-00003.gguf` and its siblings. Knows names and numbers, no contents.

use std::path::{Path, PathBuf};

/// What a part's file name says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ShardName {
    prefix: String,
    /// Counted from 1, as in the name.
    pub(super) number: u64,
    pub(super) count: u64,
}

impl ShardName {
    /// `None` where the name is not that of a part.
    pub(super) fn parse(path: &Path) -> Option<Self> {
        let stem = path.file_name()?.to_str()?.strip_suffix(".gguf")?;
        let (rest, count) = stem.rsplit_once("-of-")?;
        let (prefix, number) = rest.rsplit_once('-')?;
        let (number, count) = (five_digits(number)?, five_digits(count)?);
        (1..=count).contains(&number).then(|| Self { prefix: prefix.to_owned(), number, count })
    }

    /// Where part `number` lies: beside `path`.
    pub(super) fn sibling(&self, path: &Path, number: u64) -> PathBuf {
        path.with_file_name(format!("{}-{number:05}-of-{:05}.gguf", self.prefix, self.count))
    }
}

fn five_digits(text: &str) -> Option<u64> {
    (text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().expect("five digits"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_parts_are_told_from_other_names() {
        let path = Path::new("dir/qwen-00002-of-00003.gguf");
        let name = ShardName::parse(path).expect("a part");
        assert_eq!((name.number, name.count), (2, 3));
        assert_eq!(name.sibling(path, 1), Path::new("dir/qwen-00001-of-00003.gguf"));
        for other in [
            "qwen.gguf",
            "qwen-1-of-3.gguf",
            "qwen-00000-of-00003.gguf",
            "qwen-00004-of-00003.gguf",
            "qwen-00001-of-00003.bin",
            "x-+0001-of-00003.gguf",
        ] {
            assert_eq!(ShardName::parse(Path::new(other)), None, "{other}");
        }
    }
}
