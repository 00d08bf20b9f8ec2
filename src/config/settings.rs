//! Where a value was told: the layers flag, environment and file, in that order of precedence, and errors that name the place.
//!
//! Knows keys and texts; must not know what a value means (`values`) or what is done with it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;

use toml::de::{DeTable, DeValue};

use super::gateway::{Gateway, Keys, TableError, Tables};

/// Every key, as written in `understudy.toml`; `--port`, `UNDERSTUDY_PORT` and `port = ` are one setting.
pub const KEYS: &[&str] = &[
    "model",
    "embedding_model",
    "draft_model",
    "host",
    "port",
    "threads",
    "pin",
    "context",
    "memory",
    "weights",
    "parallel",
    "queue",
    "drafts",
    "max_wait",
    "upstream",
    "kv_type",
    "disk_cache",
    "disk_cache_dir",
    "device",
    "api_key",
    "api_key_file",
    "unsafe_no_key",
    "allow_host",
    "cors_origin",
    "strict_model",
    "body_max",
    "drain_timeout",
    "role",
    "offline",
    "log_format",
    "log_level",
];

/// Variables that are ours and no settings: the file's own name, the instruction set the kernels are held to, the
/// benchmark's Python and its build of ik_llama.cpp.
const OTHER_VARIABLES: &[&str] = &["UNDERSTUDY_CONFIG", "UNDERSTUDY_ISA", "UNDERSTUDY_BENCH_PYTHON", "UNDERSTUDY_BENCH_IK"];
const PREFIX: &str = "UNDERSTUDY_";
/// Of a variable; the value itself may be a key and is not repeated.
pub const NOT_UTF_8: &str = "is not valid UTF-8";

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Source {
    Flag(&'static str),
    Variable(String),
    Line {
        file: String,
        line: usize,
        key: &'static str,
    },
    #[default]
    Nowhere,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag("model") => f.write_str("MODEL"),
            Self::Flag(key) => write!(f, "--{}", key.replace('_', "-")),
            Self::Variable(name) => f.write_str(name),
            Self::Line { file, line, key: "" } => write!(f, "{file} line {line}"),
            Self::Line { file, line, key } => write!(f, "{file} line {line}: {key}"),
            Self::Nowhere => f.write_str("the default"),
        }
    }
}

/// A value that cannot be used, and where it was told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{origin}: {message}")]
pub struct ConfigError {
    pub origin: Source,
    pub message: String,
}

#[derive(Debug, Clone)]
struct Told {
    source: Source,
    values: Vec<String>,
}

/// What was told, key by key, the strongest layer first.
#[derive(Debug, Clone, Default)]
pub struct Layers {
    flags: BTreeMap<&'static str, Told>,
    variables: BTreeMap<&'static str, Told>,
    lines: BTreeMap<&'static str, Told>,
    /// Name and text of the file, for what it says in tables.
    file: Option<(String, String)>,
}

impl Layers {
    /// Notes a flag; no values: not told.
    pub fn flag(&mut self, key: &'static str, values: Vec<String>) {
        debug_assert!(KEYS.contains(&key), "{key} is not in KEYS");
        if !values.is_empty() {
            self.flags.insert(key, Told { source: Source::Flag(key), values });
        }
    }

    /// Notes every `UNDERSTUDY_*` of an environment and returns a warning for each that is no setting: other programs
    /// (Kubernetes' service links) set such names too, so that is no error. Several keys or hosts are separated by commas.
    ///
    /// An empty variable counts as not told, which is how many tools unset one; but not where it was meant to hold a key: dropped in
    /// silence it would leave the door open. Errors: a setting whose value is not UTF-8.
    pub fn env(&mut self, variables: impl Iterator<Item = (OsString, OsString)>) -> Result<Vec<String>, ConfigError> {
        let mut warnings = Vec::new();
        for (name, value) in variables {
            // A name that is not UTF-8 is no setting's.
            let Ok(name) = name.into_string() else { continue };
            let Some(rest) = name.strip_prefix(PREFIX).filter(|_| !OTHER_VARIABLES.contains(&name.as_str())) else { continue };
            let Some(key) = known(&rest.to_lowercase()) else {
                let hint =
                    nearest(&rest.to_lowercase()).map_or(String::new(), |key| format!(", did you mean {PREFIX}{}?", key.to_uppercase()));
                warnings.extend((!value.is_empty()).then(|| format!("{name}: no such setting{hint}")));
                continue;
            };
            if value.is_empty() && !matches!(key, "api_key" | "api_key_file") {
                continue;
            }
            let source = Source::Variable(name);
            let Ok(value) = value.into_string() else { return Err(ConfigError { origin: source, message: NOT_UTF_8.to_owned() }) };
            let values = if is_list(key) { value.split(',').map(|part| part.trim().to_owned()).collect() } else { vec![value] };
            self.variables.insert(key, Told { source, values });
        }
        Ok(warnings)
    }

    /// Notes the lines of a TOML file; `name` is how errors call it.
    pub fn file(&mut self, name: &str, text: &str) -> Result<(), ConfigError> {
        let line_of = |offset: usize| text[..offset.min(text.len())].matches('\n').count() + 1;
        let fail = |line: usize, key: &'static str, message: String| ConfigError {
            origin: Source::Line { file: name.to_owned(), line, key },
            message,
        };
        let table = DeTable::parse(text).map_err(|e| {
            let line = e.span().map_or(1, |span| line_of(span.start));
            fail(line, "", e.message().trim().replace('\n', "; "))
        })?;
        for (written, value) in table.get_ref() {
            let line = line_of(written.span().start);
            let normal = written.get_ref().replace('-', "_");
            if is_tables(&normal, value.get_ref()) {
                continue;
            }
            let Some(key) = known(&normal) else {
                let hint = nearest(&normal).map_or(String::new(), |key| format!(", did you mean \"{key}\"?"));
                return Err(fail(line, "", format!("unknown key \"{}\"{hint}", written.get_ref())));
            };
            let values = match value.get_ref() {
                DeValue::Array(items) => items.iter().map(|item| scalar(item.get_ref())).collect(),
                one => scalar(one).map(|text| vec![text]),
            };
            let values = values.map_err(|found| fail(line, key, format!("expected a number or a text, found {found}")))?;
            self.lines.insert(key, Told { source: Source::Line { file: name.to_owned(), line, key }, values });
        }
        self.file = Some((name.to_owned(), text.to_owned()));
        Ok(())
    }

    /// The tables `[gateway]` and `[[upstream]]`, and the addresses told by `upstream` elsewhere.
    pub fn gateway(&self, keys: &Keys<'_>) -> Result<Gateway, ConfigError> {
        let (name, text) = self.file.as_ref().map_or(("", ""), |(name, text)| (name, text));
        let fail = |error: TableError| {
            let line = error.offset.map(|offset| text[..offset.min(text.len())].matches('\n').count() + 1);
            let origin = match line {
                Some(line) if !text.is_empty() => Source::Line { file: name.to_owned(), line, key: "" },
                _ => self.told("upstream").map(|told| told.source.clone()).unwrap_or_default(),
            };
            ConfigError { origin, message: error.message }
        };
        let more = self.many("upstream", super::values::text)?;
        Tables::parse(text, self.lines.contains_key("upstream")).and_then(|tables| tables.resolve(&more, keys)).map_err(fail)
    }

    /// The value of `key` from the strongest layer that tells it, read by `parse`; `None` where nobody does.
    pub fn one<T>(&self, key: &'static str, parse: fn(&str) -> Result<T, String>) -> Result<Option<T>, ConfigError> {
        let Some(told) = self.told(key) else { return Ok(None) };
        match told.values.as_slice() {
            [value] => parse(value).map(Some).map_err(|message| self.error(key, message)),
            many => Err(self.error(key, format!("expected one value, found {}", many.len()))),
        }
    }

    /// All values of `key` from the strongest layer that tells any.
    pub fn many<T>(&self, key: &'static str, parse: fn(&str) -> Result<T, String>) -> Result<Vec<T>, ConfigError> {
        let Some(told) = self.told(key) else { return Ok(Vec::new()) };
        told.values.iter().map(|value| parse(value).map_err(|message| self.error(key, message))).collect()
    }

    /// An error about `key`, blaming the layer that told it.
    pub fn error(&self, key: &'static str, message: String) -> ConfigError {
        ConfigError { origin: self.told(key).map(|told| told.source.clone()).unwrap_or_default(), message }
    }

    /// Where each key was told, of those that were.
    pub fn sources(&self) -> BTreeMap<&'static str, Source> {
        KEYS.iter().filter_map(|&key| Some((key, self.told(key)?.source.clone()))).collect()
    }

    fn told(&self, key: &'static str) -> Option<&Told> {
        debug_assert!(KEYS.contains(&key), "{key} is not in KEYS");
        self.flags.get(key).or_else(|| self.variables.get(key)).or_else(|| self.lines.get(key))
    }
}

fn is_list(key: &str) -> bool {
    matches!(key, "api_key" | "allow_host" | "cors_origin" | "upstream")
}

fn known(written: &str) -> Option<&'static str> {
    KEYS.iter().find(|key| **key == written).copied()
}

/// What `config::gateway` reads.
fn is_tables(key: &str, value: &DeValue<'_>) -> bool {
    match (key, value) {
        ("gateway", DeValue::Table(_)) => true,
        ("upstream", DeValue::Array(items)) => items.iter().any(|item| matches!(item.get_ref(), DeValue::Table(_))),
        _ => false,
    }
}

/// A scalar as text, or what else stands there.
fn scalar(value: &DeValue<'_>) -> Result<String, &'static str> {
    match value {
        DeValue::String(text) => Ok(text.to_string()),
        DeValue::Integer(number) => Ok(number.to_string()),
        DeValue::Float(number) => Ok(number.to_string()),
        DeValue::Boolean(word) => Ok(word.to_string()),
        DeValue::Datetime(_) => Err("a date"),
        DeValue::Array(_) => Err("a list"),
        DeValue::Table(_) => Err("a table"),
    }
}

/// The key closest to a misspelt one, where one is close.
fn nearest(written: &str) -> Option<&'static str> {
    let (distance, key) = KEYS.iter().map(|key| (edit_distance(written, key), *key)).min()?;
    (distance <= 1 + key.len() / 4).then_some(key)
}

/// Optimal string alignment distance: insertions, deletions, substitutions, and swaps of neighbours cost 1 each.
fn edit_distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<_>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let change = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = change.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_variable_is_a_warning() {
        let mut layers = Layers::default();
        let told = |name: &str| (name.into(), "1".into());
        let warnings = layers.env([told("UNDERSTUDY_PROT"), told("UNDERSTUDY_SERVICE_HOST"), told("PORT")].into_iter()).unwrap();
        assert_eq!(warnings[0], "UNDERSTUDY_PROT: no such setting, did you mean UNDERSTUDY_PORT?");
        assert_eq!(warnings[1], "UNDERSTUDY_SERVICE_HOST: no such setting");
        assert_eq!(warnings.len(), 2);
    }

    #[test]
    fn lists_in_the_environment_are_split_at_commas() {
        let mut layers = Layers::default();
        layers.env([("UNDERSTUDY_ALLOW_HOST".into(), "a, b".into())].into_iter()).unwrap();
        assert_eq!(layers.many("allow_host", |s| Ok(s.to_owned())).unwrap(), ["a", "b"]);
    }

    #[cfg(unix)]
    #[test]
    fn a_setting_that_is_no_text_is_refused_and_not_repeated() {
        use std::os::unix::ffi::OsStringExt;
        let told = |name: &str| (name.into(), OsString::from_vec(b"secret\xff".to_vec()));
        let error = Layers::default().env([told("UNDERSTUDY_API_KEY")].into_iter()).unwrap_err();
        assert_eq!(error.to_string(), "UNDERSTUDY_API_KEY: is not valid UTF-8");
        let foreign = [told("UNDERSTUDY_SERVICE_HOST"), told("UNDERSTUDY_BENCH_PYTHON"), told("PATH")];
        assert_eq!(Layers::default().env(foreign.into_iter()).unwrap(), ["UNDERSTUDY_SERVICE_HOST: no such setting"]);
    }

    #[test]
    fn neighbours_swapped_are_one_edit() {
        assert_eq!(edit_distance("prot", "port"), 1);
        assert_eq!(edit_distance("", "abc"), 3);
        assert_eq!(edit_distance("kitten", "sitting"), 3);
    }
}
