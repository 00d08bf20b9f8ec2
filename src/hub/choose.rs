//! Which files of a repository make the model: by quantisation, all shards of it. Pure: a list of names in, names out.

/// Tried in this order where no quantisation is asked for: the best quality for the memory first, then what still computes here.
const PREFERENCE: &[&str] = &["Q4_K_M", "Q4_K_S", "Q5_K_M", "Q8_0", "Q6_K", "Q5_K_S", "Q4_0", "F16", "BF16", "F32"];

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChoiceError {
    #[error("no .gguf file in this repository; look for one whose name ends in -GGUF")]
    NoGguf,
    #[error("no file for {wanted:?}; there are: {}", choices.join(", "))]
    NoSuchQuant { wanted: String, choices: Vec<String> },
    #[error("{wanted:?} fits several files, name one of them after the colon: {}", choices.join(", "))]
    Ambiguous { wanted: String, choices: Vec<String> },
    #[error("which one? Add it after a colon: {}", choices.join(", "))]
    NoPreference { choices: Vec<String> },
    #[error("{name} is in {total} parts and part {missing} is not there")]
    MissingShard { name: String, total: usize, missing: usize },
}

/// One model of the repository: a file, or all its shards in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The file's name; of shards, without the part numbers.
    pub name: String,
    /// `Q4_K_M` and the like, upper case, as the name says.
    pub quant: Option<String>,
    pub files: Vec<String>,
    shards: Option<usize>,
}

/// The models among the files of a repository; projectors and importance matrices are none.
pub fn candidates(files: &[String]) -> Vec<Candidate> {
    let mut found: Vec<Candidate> = Vec::new();
    let mut names: Vec<&String> = files.iter().filter(|name| is_model(name)).collect();
    names.sort();
    for file in names {
        let (name, shards) = match split_shard(file) {
            Some((stem, _, total)) => (format!("{stem}.gguf"), Some(total)),
            None => (file.clone(), None),
        };
        match found.iter_mut().find(|candidate| candidate.name == name && candidate.shards == shards) {
            Some(candidate) => candidate.files.push(file.clone()),
            None => found.push(Candidate { quant: quant_of(&name), name, files: vec![file.clone()], shards }),
        }
    }
    found
}

/// The files of the one model that `wanted` means: a quantisation (any case), a file's name, or `None` for the preferred one.
pub fn choose(files: &[String], wanted: Option<&str>) -> Result<Vec<String>, ChoiceError> {
    let candidates = candidates(files);
    if candidates.is_empty() {
        return Err(ChoiceError::NoGguf);
    }
    let chosen = match wanted {
        Some(wanted) => named(&candidates, wanted)?,
        None => preferred(&candidates)?,
    };
    complete(chosen)
}

/// The files of those models of which every part is there: half a model hides no whole one.
pub fn whole(files: &[String]) -> Vec<String> {
    let candidates = candidates(files);
    candidates.iter().filter_map(|candidate| complete(candidate).ok()).flatten().collect()
}

fn named<'a>(candidates: &'a [Candidate], wanted: &str) -> Result<&'a Candidate, ChoiceError> {
    let has_file = |candidate: &&Candidate| candidate.files.iter().any(|file| file == wanted);
    let is_named = |candidate: &&Candidate| candidate.name == wanted;
    if let Some(candidate) = candidates.iter().find(has_file).or_else(|| candidates.iter().find(is_named)) {
        return Ok(candidate);
    }
    let has_quant = |candidate: &&Candidate| candidate.quant.as_deref().is_some_and(|quant| quant.eq_ignore_ascii_case(wanted));
    let fitting: Vec<&Candidate> = candidates.iter().filter(has_quant).collect();
    match fitting.as_slice() {
        [one] => Ok(one),
        [] => Err(ChoiceError::NoSuchQuant { wanted: wanted.to_owned(), choices: labels(candidates) }),
        several => Err(ChoiceError::Ambiguous {
            wanted: wanted.to_owned(),
            choices: several.iter().map(|candidate| candidate.name.clone()).collect(),
        }),
    }
}

fn preferred(candidates: &[Candidate]) -> Result<&Candidate, ChoiceError> {
    if let [only] = candidates {
        return Ok(only);
    }
    for quant in PREFERENCE {
        let fitting: Vec<&Candidate> = candidates.iter().filter(|candidate| candidate.quant.as_deref() == Some(quant)).collect();
        match fitting.as_slice() {
            [] => {}
            [one] => return Ok(one),
            _ => break,
        }
    }
    Err(ChoiceError::NoPreference { choices: labels(candidates) })
}

fn complete(candidate: &Candidate) -> Result<Vec<String>, ChoiceError> {
    let total = candidate.shards.unwrap_or(1);
    let parts: Vec<usize> = candidate.files.iter().map(|file| split_shard(file).map_or(1, |(_, part, _)| part)).collect();
    match (1..=total).find(|part| !parts.contains(part)) {
        Some(missing) => Err(ChoiceError::MissingShard { name: candidate.name.clone(), total, missing }),
        None => Ok(candidate.files.clone()),
    }
}

/// What the user can type after the colon, one for each candidate: the quantisation where it is unique, else the file's name; of a
/// model that is there both whole and in parts, the first part's.
pub fn labels(candidates: &[Candidate]) -> Vec<String> {
    let unique = |quant: &str| candidates.iter().filter(|other| other.quant.as_deref() == Some(quant)).count() == 1;
    let clear = |name: &str| candidates.iter().filter(|other| other.name == name).count() == 1;
    let label = |candidate: &Candidate| match (candidate.quant.as_deref(), candidate.files.first()) {
        (Some(quant), _) if unique(quant) => quant.to_owned(),
        (_, Some(file)) if !clear(&candidate.name) => file.clone(),
        _ => candidate.name.clone(),
    };
    candidates.iter().map(label).collect()
}

/// A name that stays inside the cache, of a GGUF file that is a language model.
fn is_model(name: &str) -> bool {
    let lower = name.to_lowercase();
    let safe = !name.starts_with('/') && !name.contains(['\\', ':']) && name.split('/').all(|part| !matches!(part, "" | "." | ".."));
    safe && lower.ends_with(".gguf") && !lower.contains("mmproj") && !lower.contains("imatrix")
}

/// `x-00002-of-00003.gguf` -> (`x`, 2, 3).
fn split_shard(name: &str) -> Option<(&str, usize, usize)> {
    let stem = name.strip_suffix(".gguf").or_else(|| name.strip_suffix(".GGUF"))?;
    let (rest, total) = stem.rsplit_once("-of-")?;
    let (stem, part) = rest.rsplit_once('-')?;
    let number = |text: &str| (text.len() == 5).then(|| text.parse::<usize>().ok()).flatten();
    let (part, total) = (number(part)?, number(total)?);
    (1..=total).contains(&part).then_some((stem, part, total))
}

/// The quantisation in a file's name: the last part between `-`, `.` and `/` that reads like one.
pub fn quant_of(name: &str) -> Option<String> {
    let upper = name.to_uppercase();
    upper.split(['-', '.', '/']).rfind(|part| is_quant(part)).map(str::to_owned)
}

fn is_quant(part: &str) -> bool {
    if matches!(part, "F32" | "F16" | "BF16" | "FP16" | "MXFP4" | "NVFP4") {
        return true;
    }
    let digits = ["IQ", "TQ", "Q"].iter().find_map(|prefix| part.strip_prefix(prefix));
    let Some(rest) = digits else { return false };
    let mut bytes = rest.bytes();
    bytes.next().is_some_and(|byte| byte.is_ascii_digit())
        && bytes.next() == Some(b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pick(files: &[&str], wanted: Option<&str>) -> Result<Vec<String>, ChoiceError> {
        let files: Vec<String> = files.iter().map(|file| (*file).to_owned()).collect();
        choose(&files, wanted)
    }

    const REPO: &[&str] = &[
        "README.md",
        "config.json",
        "Model-1.5B-Instruct-Q3_K_M.gguf",
        "model-1.5b-instruct-q4_k_m.gguf",
        "Model-1.5B-Instruct-Q8_0.gguf",
        "Model-1.5B-Instruct-UD-Q4_K_XL.gguf",
        "mmproj-Model-F16.gguf",
        "BF16/Model-BF16-00001-of-00002.gguf",
        "BF16/Model-BF16-00002-of-00002.gguf",
    ];

    #[test]
    fn by_quantisation_in_any_case() {
        assert_eq!(pick(REPO, None).unwrap(), ["model-1.5b-instruct-q4_k_m.gguf"]);
        assert_eq!(pick(REPO, Some("q8_0")).unwrap(), ["Model-1.5B-Instruct-Q8_0.gguf"]);
        assert_eq!(pick(REPO, Some("Q4_K_XL")).unwrap(), ["Model-1.5B-Instruct-UD-Q4_K_XL.gguf"]);
        assert_eq!(pick(REPO, Some("bf16")).unwrap(), ["BF16/Model-BF16-00001-of-00002.gguf", "BF16/Model-BF16-00002-of-00002.gguf"]);
        assert_eq!(pick(REPO, Some("Model-1.5B-Instruct-Q3_K_M.gguf")).unwrap(), ["Model-1.5B-Instruct-Q3_K_M.gguf"]);
    }

    #[test]
    fn the_error_lists_what_there_is() {
        let error = pick(REPO, Some("Q5_K_M")).unwrap_err().to_string();
        assert_eq!(error, "no file for \"Q5_K_M\"; there are: BF16, Q3_K_M, Q8_0, Q4_K_XL, Q4_K_M");
        let two = ["a-Q8_0.gguf", "b-Q8_0.gguf"];
        assert!(pick(&two, Some("q8_0")).unwrap_err().to_string().ends_with("a-Q8_0.gguf, b-Q8_0.gguf"));
        assert!(pick(&two, None).unwrap_err().to_string().starts_with("which one?"));
        assert_eq!(pick(&["model.safetensors"], None), Err(ChoiceError::NoGguf));
        assert!(matches!(pick(&["x-IQ2_XS.gguf", "x-Q2_K.gguf"], None), Err(ChoiceError::NoPreference { .. })));
    }

    #[test]
    fn every_label_means_its_own_model() {
        let files = ["m-Q8_0.gguf", "m-Q8_0-00001-of-00002.gguf", "m-Q8_0-00002-of-00002.gguf", "n-Q8_0.gguf", "m-Q4_0.gguf", "m.gguf"];
        let candidates = candidates(&files.map(str::to_owned));
        let labels = labels(&candidates);
        assert_eq!(labels, ["Q4_0", "m-Q8_0-00001-of-00002.gguf", "m-Q8_0.gguf", "m.gguf", "n-Q8_0.gguf"]);
        for (label, candidate) in labels.iter().zip(&candidates) {
            assert_eq!(pick(&files, Some(label)).as_ref(), Ok(&candidate.files), "{label}");
        }
    }

    #[test]
    fn one_file_needs_no_name() {
        assert_eq!(pick(&["model.gguf", "README.md"], None).unwrap(), ["model.gguf"]);
    }

    #[test]
    fn all_shards_or_none() {
        let error = pick(&["m-Q8_0-00001-of-00003.gguf", "m-Q8_0-00003-of-00003.gguf"], None).unwrap_err();
        assert_eq!(error, ChoiceError::MissingShard { name: "m-Q8_0.gguf".into(), total: 3, missing: 2 });
    }

    #[test]
    fn names_that_leave_the_cache_are_no_models() {
        assert_eq!(pick(&["../../x.gguf", "/etc/x.gguf", "a//b.gguf", "a\\b.gguf"], None), Err(ChoiceError::NoGguf));
    }

    #[test]
    fn quantisations_in_names() {
        for (name, quant) in [
            ("Qwen3-0.6B-Q8_0.gguf", Some("Q8_0")),
            ("x.q4_k_m.gguf", Some("Q4_K_M")),
            ("x-IQ4_XS.gguf", Some("IQ4_XS")),
            ("gpt-oss-20b-mxfp4.gguf", Some("MXFP4")),
            ("Q4_K_M/x-BF16.gguf", Some("BF16")),
            ("Qwen-7B.gguf", None),
        ] {
            assert_eq!(quant_of(name).as_deref(), quant, "{name}");
        }
    }
}
