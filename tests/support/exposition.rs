//! A strict reader of Prometheus' text format 0.0.4: what a real one would forgive is a failed test here.

use std::collections::BTreeMap;

/// Families in their order.
#[derive(Debug)]
pub struct Exposition(pub Vec<Family>);

#[derive(Debug)]
pub struct Family {
    pub name: String,
    pub kind: String,
    pub samples: Vec<Sample>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

impl Exposition {
    /// Every family: HELP, TYPE, its samples, each once; counters and histograms as they must be.
    pub fn read(text: &str) -> Self {
        assert!(text.ends_with('\n'), "the last line ends");
        let mut families: Vec<Family> = Vec::new();
        let mut lines = text.lines().peekable();
        while let Some(line) = lines.next() {
            let help = line.strip_prefix("# HELP ").unwrap_or_else(|| panic!("a family begins with HELP, not {line:?}"));
            let (name, help) = help.split_once(' ').unwrap_or_else(|| panic!("{line:?} helps nobody"));
            assert!(!help.trim().is_empty() && is_name(name), "{line:?}");
            assert!(families.iter().all(|family| family.name != name), "{name} comes twice");
            let line = lines.next().expect("TYPE follows HELP");
            let kind = line.strip_prefix(&format!("# TYPE {name} ")).unwrap_or_else(|| panic!("{line:?} is no type of {name}"));
            let mut samples = Vec::new();
            while let Some(line) = lines.next_if(|line| !line.starts_with('#')) {
                samples.push(sample(line));
            }
            let family = Family { name: name.to_owned(), kind: kind.to_owned(), samples };
            family.check();
            families.push(family);
        }
        Self(families)
    }

    #[track_caller]
    pub fn family(&self, name: &str) -> &Family {
        self.0.iter().find(|family| family.name == name).unwrap_or_else(|| panic!("there is no {name}"))
    }

    /// The one sample of a name that has these labels among its own.
    #[track_caller]
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let has = |sample: &&Sample| {
            sample.name == name && labels.iter().all(|(label, value)| sample.labels.get(*label).is_some_and(|own| own == value))
        };
        let found: Vec<&Sample> = self.0.iter().flat_map(|family| &family.samples).filter(has).collect();
        assert_eq!(found.len(), 1, "{name}{labels:?}: {found:?}");
        found[0].value
    }
}

impl Family {
    fn check(&self) {
        let Self { name, kind, samples } = self;
        assert!(!samples.is_empty(), "{name} has no samples");
        for (index, sample) in samples.iter().enumerate() {
            let twice = samples[..index].iter().any(|other| other.name == sample.name && other.labels == sample.labels);
            assert!(!twice, "{sample:?} comes twice");
        }
        match kind.as_str() {
            "gauge" => assert!(samples.iter().all(|sample| sample.name == *name)),
            "counter" => {
                assert!(name.ends_with("_total"), "the counter {name} does not say so");
                assert!(samples.iter().all(|sample| sample.name == *name && sample.value >= 0.0 && sample.value.fract() == 0.0));
            }
            "histogram" => self.check_histogram(),
            other => panic!("{name} is of type {other:?}"),
        }
    }

    /// Buckets rise in bound and in count, the last is of all, and the count is that.
    fn check_histogram(&self) {
        let Self { name, samples, .. } = self;
        let (buckets, others): (Vec<&Sample>, Vec<&Sample>) = samples.iter().partition(|sample| sample.name == format!("{name}_bucket"));
        let names: Vec<&str> = others.iter().map(|sample| sample.name.trim_start_matches(name.as_str())).collect();
        assert_eq!(names, ["_sum", "_count"], "{name}");
        let bound = |sample: &&Sample| match sample.labels["le"].as_str() {
            "+Inf" => f64::INFINITY,
            text => text.parse().unwrap_or_else(|_| panic!("{name}: {text:?} is no bound")),
        };
        let bounds: Vec<f64> = buckets.iter().map(bound).collect();
        assert!(bounds.is_sorted_by(|a, b| a < b), "{name}: {bounds:?}");
        assert_eq!(bounds.last(), Some(&f64::INFINITY), "{name}");
        assert!(buckets.is_sorted_by(|a, b| a.value <= b.value), "{name}: {buckets:?}");
        assert_eq!(buckets.last().map(|sample| sample.value), Some(others[1].value), "{name}: the last bucket is not the count");
        let (sum, count) = (others[0].value, others[1].value);
        assert!(sum >= 0.0 && (count > 0.0 || sum == 0.0), "{name}: {count} observations sum to {sum}");
    }
}

/// `name{label="value",...} number`
fn sample(line: &str) -> Sample {
    let (head, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line:?} has no value"));
    let value = value.parse().unwrap_or_else(|_| panic!("{line:?} has no number"));
    let (name, labels) = match head.split_once('{') {
        None => (head, BTreeMap::new()),
        Some((name, rest)) => (name, labels(rest, line)),
    };
    assert!(is_name(name), "{line:?}");
    Sample { name: name.to_owned(), labels, value }
}

fn labels(text: &str, line: &str) -> BTreeMap<String, String> {
    let mut rest = text.strip_suffix('}').unwrap_or_else(|| panic!("{line:?} leaves its labels open"));
    let mut labels = BTreeMap::new();
    while !rest.is_empty() {
        let (name, quoted) = rest.split_once("=\"").unwrap_or_else(|| panic!("{line:?} has a label without a value"));
        assert!(is_name(name) && !name.contains(':'), "{line:?}");
        let (value, after) = unquote(quoted).unwrap_or_else(|| panic!("{line:?} leaves a value open"));
        assert!(labels.insert(name.to_owned(), value).is_none(), "{line:?} has {name} twice");
        rest = match after.strip_prefix(',') {
            Some(next) => next,
            None => {
                assert!(after.is_empty(), "{line:?} has {after:?} after a label");
                after
            }
        };
    }
    labels
}

/// Up to the closing quote; what stands behind it.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match characters.next()?.1 {
                'n' => value.push('\n'),
                escaped @ ('"' | '\\') => value.push(escaped),
                other => panic!("\\{other} is no escape in {text:?}"),
            },
            c => value.push(c),
        }
    }
    None
}

fn is_name(name: &str) -> bool {
    let first = name.chars().next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_' || c == ':');
    first && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':')
}
