//! The house rules as a test: the arrows of docs/architecture.md, where `unsafe` may stand, what every file opens with.
//!
//! Each rule is a function from a path and a text to complaints; each has a sample that it must catch.

use std::path::{Path, PathBuf};

/// Longer files are two ideas, or are listed here with the reason.
const LINES_MAX: usize = 600;
const LONG_FILES: &[(&str, &str)] = &[];

/// A part of the product, and the parts of `src/` it may name. Calls go down: nothing below names what is above.
const ARROWS: &[(&str, &[&str])] = &[
    ("src/engine", &["engine"]),
    ("src/embedding", &["embedding"]),
    ("src/chat", &["chat", "engine"]),
    ("src/api", &["api", "chat", "engine"]),
    ("src/gateway", &["gateway", "chat", "config"]),
    ("src/server", &["server", "gateway", "api", "chat", "engine", "embedding", "config"]),
    ("src/scripted", &["scripted", "chat", "engine"]),
    ("src/hub", &["hub"]),
    ("src/config", &["config"]),
    ("src/cli", &["cli", "server", "gateway", "api", "chat", "engine", "embedding", "scripted", "hub", "config"]),
];

/// A library, and the only folders that may know it.
const OWNERS: &[(&str, &[&str])] = &[
    ("axum", &["src/server"]),
    ("hyper", &["src/server", "src/gateway/upstream"]),
    ("tokio_rustls", &["src/gateway/upstream"]),
    ("tower", &["src/server"]),
    ("clap", &["src/cli"]),
    ("rustyline", &["src/cli"]),
    ("hf_hub", &["src/hub"]),
    ("ureq", &["src/hub", "src/cli/gateway.rs"]),
    ("minijinja", &["src/chat"]),
    ("prometheus", &["src/engine/meters.rs", "src/server/metrics.rs"]),
    ("tokenizers", &["models"]),
    ("memmap2", &["models/src/gguf", "kernels/src/huge.rs"]),
    ("candle_core", &["kernels", "models", "src/engine/model_runner.rs", "src/cli"]),
    ("candle_nn", &["kernels", "models"]),
    ("candle_transformers", &["models", "benches"]),
];

/// Parts that decide without doing: what they need of the world is an argument.
const PURE: &[&str] = &[
    "src/api",
    "src/chat",
    "src/config",
    "src/gateway/fault.rs",
    "src/gateway/circuit_breaker",
    "src/gateway/classify.rs",
    "src/gateway/auth_outage.rs",
    "src/gateway/headers.rs",
    "src/gateway/lru.rs",
    "src/gateway/protocol.rs",
    "src/gateway/retry.rs",
    "src/gateway/limits.rs",
    "src/gateway/latency.rs",
    "src/gateway/sessions.rs",
    "src/gateway/sse_splitter.rs",
    "src/gateway/tap",
    "src/gateway/hold.rs",
    "src/gateway/takeover",
    "src/gateway/history",
    "src/gateway/journal/line.rs",
    "src/gateway/report.rs",
    "src/gateway/drill/answer.rs",
    "src/gateway/drill/plan.rs",
    "src/gateway/drill/script.rs",
    "src/gateway/drill/frames.rs",
    "src/gateway/drill/wire.rs",
    "src/gateway/drill/http.rs",
    "src/gateway/drill/checks.rs",
    "src/gateway/drill/anthropic.rs",
    "src/gateway/drill/openai_chat.rs",
    "src/gateway/drill/openai_responses.rs",
    "src/gateway/drill/reading.rs",
    "src/gateway/drill/verdict.rs",
    "src/gateway/drill/cases.rs",
    "src/scripted/script.rs",
    "src/scripted/closing.rs",
    "src/scripted/history.rs",
    "src/scripted/json_cursor.rs",
    "src/scripted/reply.rs",
    "src/cli/memory_plan.rs",
    "src/hub/choose.rs",
    "src/engine/plan.rs",
    "src/engine/scheduler.rs",
    "src/engine/block_manager.rs",
    "src/engine/layer_groups.rs",
    "src/engine/state_pool.rs",
    "src/engine/disk_prefix.rs",
    "src/engine/kv_store/chain.rs",
    "src/engine/kv_store/block_file.rs",
    "src/engine/kv_store/index.rs",
    "src/engine/prefix_cache.rs",
    "src/engine/sequence.rs",
    "src/engine/sampler",
    "src/engine/token_mask.rs",
    "src/engine/batch.rs",
];
const IMPURE: &[&str] =
    &["tokio", "axum", "std::net::Tcp", "std::fs", "std::process", "std::thread", "Instant", "SystemTime", "std::env::var"];

/// Where memory is handled by hand: the kernels, and the file that maps a model.
const UNSAFE_ALLOWED: &[&str] = &["kernels/", "models/src/gguf/map.rs"];

#[test]
fn the_house_is_tidy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut complaints = Vec::new();
    let files = files(root);
    assert!(files.iter().any(|file| file.ends_with("src/engine/mod.rs")), "the walk finds the sources");
    for file in files {
        let path = file.strip_prefix(root).expect("a file under the root").to_string_lossy().replace('\\', "/");
        // What is not text (models, fixtures) has no rules.
        if let Ok(text) = std::fs::read_to_string(&file) {
            complaints.extend(complaints_about(&path, &text));
        }
    }
    for (path, _) in LONG_FILES {
        let text = std::fs::read_to_string(root.join(path)).unwrap_or_default();
        if text.lines().count() <= LINES_MAX {
            complaints.push(format!("{path}: listed as long and is not"));
        }
    }
    assert!(complaints.is_empty(), "{} complaints:\n{}", complaints.len(), complaints.join("\n"));
}

fn complaints_about(path: &str, text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    if path.ends_with(".rs") {
        let code = without_comments_and_texts(text);
        let product = &code[..code.find("#[cfg(test)]\nmod ").unwrap_or(code.len())];
        complaints.extend(arrows(path, product));
        complaints.extend(owners(path, product));
        complaints.extend(purity(path, product));
        complaints.extend(opening(path, text));
        complaints.extend(unsafe_code(path, &code));
        complaints.extend(features(path, text));
        complaints.extend(leftovers(path, &code));
        complaints.extend(length(path, text));
    }
    if path.ends_with("Cargo.toml") {
        complaints.extend(manifest(path, text));
    }
    complaints.extend(machine_paths(path, text));
    complaints
}

/// The parts named must be below the part that names them.
fn arrows(path: &str, code: &str) -> Vec<String> {
    let Some((_, allowed)) = ARROWS.iter().find(|(part, _)| is_in(path, part)) else { return Vec::new() };
    let parts: Vec<&str> = ARROWS.iter().map(|(part, _)| part.trim_start_matches("src/")).collect();
    let named = crate_paths(path, code);
    let up = named.into_iter().filter(|name| parts.contains(&name.as_str()) && !allowed.contains(&name.as_str()));
    up.map(|name| format!("{path}: names crate::{name}, which is no part below it")).collect()
}

fn owners(path: &str, code: &str) -> Vec<String> {
    if !path.contains("src/") {
        return Vec::new();
    }
    let foreign =
        OWNERS.iter().filter(|(library, folders)| names_library(code, library) && !folders.iter().any(|folder| is_in(path, folder)));
    foreign.map(|(library, folders)| format!("{path}: names {library}, which belongs to {}", folders.join(", "))).collect()
}

fn purity(path: &str, code: &str) -> Vec<String> {
    if !PURE.iter().any(|part| is_in(path, part)) {
        return Vec::new();
    }
    let impure = IMPURE.iter().filter(|word| has_word(code, word));
    impure.map(|word| format!("{path}: is pure and names {word}")).collect()
}

fn opening(path: &str, text: &str) -> Vec<String> {
    let opens = text.starts_with("//! ") && text.lines().next().is_some_and(|line| line.len() > 12);
    if opens { Vec::new() } else { vec![format!("{path}: does not open with `//!` saying what it decides")] }
}

fn unsafe_code(path: &str, code: &str) -> Vec<String> {
    let allowed = UNSAFE_ALLOWED.iter().any(|part| path.starts_with(part));
    if has_word(code, "unsafe") && !allowed {
        vec![format!("{path}: `unsafe` outside of {}", UNSAFE_ALLOWED.join(", "))]
    } else {
        Vec::new()
    }
}

/// A backend is chosen in kernels; `testing` only adds tools.
fn features(path: &str, text: &str) -> Vec<String> {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    let choosing = lines.filter(|line| line.contains("cfg") && line.contains("feature = ") && !line.contains("\"testing\""));
    let allowed = path.starts_with("kernels/") || path == "tests/tidy.rs";
    if choosing.count() > 0 && !allowed { vec![format!("{path}: `cfg(feature)` outside of kernels")] } else { Vec::new() }
}

fn leftovers(path: &str, code: &str) -> Vec<String> {
    let words = ["todo!", "unimplemented!", "dbg!", "#[ignore"];
    words.iter().filter(|word| code.contains(**word)).map(|word| format!("{path}: holds {word}")).collect()
}

fn length(path: &str, text: &str) -> Vec<String> {
    let lines = text.lines().count();
    let listed = LONG_FILES.iter().any(|(long, _)| *long == path);
    if lines > LINES_MAX && !listed {
        vec![format!("{path}: {lines} lines; more than {LINES_MAX} need a reason in LONG_FILES")]
    } else {
        Vec::new()
    }
}

/// Candle is pinned to the digit; member crates know nothing above them.
fn manifest(path: &str, text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    for line in text.lines() {
        let from_registry = line.starts_with("candle-") && line.contains("version");
        if from_registry && !line.contains("version = \"=") {
            complaints.push(format!("{path}: Candle is not pinned exactly: {line}"));
        }
        let forbidden: &[&str] = match path {
            "kernels/Cargo.toml" => &["models", "understudy", "axum", "tokio", "tokenizers"],
            "models/Cargo.toml" => &["understudy", "axum", "tokio", "hf-hub", "minijinja"],
            _ => &[],
        };
        let name = line.split([' ', '=', '.']).next().unwrap_or_default();
        if line.contains('=') && forbidden.contains(&name) {
            complaints.push(format!("{path}: depends on {name}, which is above it"));
        }
    }
    complaints
}

/// Folders of the machine it was written on say nothing to the next reader.
fn machine_paths(path: &str, text: &str) -> Vec<String> {
    // Put together here, so that this file does not hold them.
    let folders = [["/", "work/"].concat(), ["/", "root/"].concat(), ["/tmp/", "bash"].concat()];
    let starts = |at: usize| !text[..at].ends_with(|before: char| before.is_alphanumeric() || "./_-}$*".contains(before));
    let found = folders.iter().filter(|folder| text.match_indices(folder.as_str()).any(|(at, _)| starts(at)));
    found.map(|folder| format!("{path}: holds the path {folder}")).collect()
}

/// First names behind `crate::` and behind enough `super::`, groups included.
fn crate_paths(path: &str, code: &str) -> Vec<String> {
    let depth = path.trim_start_matches("src/").trim_end_matches("/mod.rs").matches('/').count() + 1;
    let to_root = "super::".repeat(depth);
    let mut names = Vec::new();
    for prefix in ["crate::", "understudy::", to_root.as_str()] {
        for (at, _) in code.match_indices(prefix) {
            let rest = &code[at + prefix.len()..];
            match rest.strip_prefix('{') {
                Some(group) => names.extend(group_heads(group)),
                None => names.extend(first_name(rest)),
            }
        }
    }
    names
}

/// The first name of each entry of a `use` group, up to its closing brace.
fn group_heads(group: &str) -> Vec<String> {
    let (mut heads, mut depth, mut entry) = (Vec::new(), 0, String::new());
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => heads.extend(first_name(&std::mem::take(&mut entry))),
            _ => entry.push(c),
        }
    }
    heads.extend(first_name(&entry));
    heads
}

fn first_name(text: &str) -> Option<String> {
    let name: String = text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    (!name.is_empty()).then_some(name)
}

/// `axum::x`, `use axum;`: a variable may well be called `hyper`.
fn names_library(code: &str, library: &str) -> bool {
    let begins = |at: usize| !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':');
    let path = format!("{library}::");
    code.match_indices(&path).any(|(at, _)| begins(at)) || code.contains(&format!("use {library};"))
}

fn has_word(code: &str, word: &str) -> bool {
    let part_of_name = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(at, _)| {
        // `std::net::Tcp` stands for every name that begins so.
        let open_end = word.ends_with("Tcp");
        !code[..at].ends_with(part_of_name) && (open_end || !code[at + word.len()..].starts_with(part_of_name))
    })
}

fn is_in(path: &str, part: &str) -> bool {
    path.strip_prefix(part).is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || rest == ".rs")
}

/// Comments and string literals become blanks: a rule about code is not about words.
fn without_comments_and_texts(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if c == '"' {
            string_length(rest)
        } else if let Some(hashes) = raw_string_hashes(rest).filter(|_| !code.ends_with(|c: char| c.is_alphanumeric() || c == '_')) {
            let end = format!("\"{}", "#".repeat(hashes));
            let start = 2 + hashes;
            rest[start..].find(&end).map_or(rest.len(), |at| start + at + end.len())
        } else if rest.starts_with("'\"'") {
            3
        } else if rest.starts_with("'\\\"'") || rest.starts_with("'\\\\'") {
            4
        } else {
            code.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        };
        code.extend(rest[..skipped].chars().filter(|c| *c == '\n'));
        rest = &rest[skipped..];
    }
    code
}

/// `r##"` -> 2.
fn raw_string_hashes(text: &str) -> Option<usize> {
    let after = text.strip_prefix('r')?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    after[hashes..].starts_with('"').then_some(hashes)
}

fn string_length(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            '"' if !escaped => return at + 1,
            _ => escaped = c == '\\' && !escaped,
        }
    }
    text.len()
}

/// Every file that belongs to the project: not what is built, fetched or hidden.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a readable tree").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let skipped =
            matches!(name.as_str(), "target" | "node_modules" | "__pycache__" | "shared") || name.starts_with('.') && name != ".ci";
        let hidden = name.starts_with('.');
        let work = entry.path().ends_with("models/default/work");
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && !skipped && !work => found.extend(files(&entry.path())),
            Ok(kind) if kind.is_file() && !hidden && !name.ends_with(".gguf") && !name.ends_with(".bin") => found.push(entry.path()),
            _ => {}
        }
    }
    found
}

#[test]
fn every_rule_catches_its_sample() {
    let good = "//! Decides a thing and knows nothing else.\n";
    let machine = ["let a = \"/", "work/x\";"].concat();
    let long = "\n".repeat(LINES_MAX);
    let samples: &[(&str, &str, &str)] = &[
        ("src/engine/scheduler.rs", "use crate::chat::Request;", "names crate::chat"),
        ("src/engine/mod.rs", "use crate::{engine::X, server};", "names crate::server"),
        ("src/engine/scheduler.rs", "use super::super::api::X;", "names crate::api"),
        ("src/chat/output.rs", "fn f() { crate::api::x() }", "names crate::api"),
        ("src/hub/mod.rs", "use crate::cli::x;", "names crate::cli"),
        ("src/server/mod.rs", "use crate::hub::x;", "names crate::hub"),
        ("src/cli/serve.rs", "use axum::Router;", "names axum"),
        ("src/api/mod.rs", "use tokio::sync::mpsc;", "is pure and names tokio"),
        ("src/chat/mod.rs", "let now = Instant::now();", "is pure and names Instant"),
        ("src/chat/mod.rs", "std::fs::read(x);", "is pure and names std::fs"),
        ("src/chat/mod.rs", "use std::net::TcpStream;", "is pure and names std::net"),
        ("src/engine/scheduler.rs", "use tokio::sync;", "is pure and names tokio"),
        ("src/server/mod.rs", "unsafe { x() }", "`unsafe` outside"),
        ("src/server/mod.rs", "#[cfg(feature = \"cuda\")]", "`cfg(feature)` outside"),
        ("models/src/model.rs", "if cfg!(feature = \"metal\") {}", "`cfg(feature)` outside"),
        ("src/server/mod.rs", "todo!()", "holds todo!"),
        ("tests/x.rs", "#[ignore]", "holds #[ignore"),
        ("src/server/mod.rs", "dbg!(x)", "holds dbg!"),
        ("src/server/mod.rs", &machine, "holds the path"),
        ("src/server/mod.rs", &long, "lines; more than"),
    ];
    for (path, sample, expected) in samples {
        let complaints = complaints_about(path, &format!("{good}{sample}"));
        assert!(complaints.iter().any(|complaint| complaint.contains(expected)), "{path}: {sample:?} passes; {complaints:?}");
    }
    assert!(complaints_about("src/x.rs", "fn main() {}\n")[0].contains("does not open"));
    assert!(complaints_about("Cargo.toml", "candle-core = { version = \"0.11\" }")[0].contains("not pinned"));
    assert!(complaints_about("kernels/Cargo.toml", "models = { path = \"../models\" }")[0].contains("above it"));
    assert!(complaints_about("docs/a.md", &machine)[0].contains("holds the path"));
}

#[test]
fn what_is_right_passes() {
    let good = "//! Decides a thing and knows nothing else.\n";
    for (path, sample) in [
        ("src/engine/mod.rs", "use tokio::sync::mpsc; use crate::engine::scheduler::S;"),
        ("src/engine/scheduler.rs", "// crate::chat is above\nlet text = \"unsafe tokio\";"),
        ("src/chat/output.rs", "use crate::engine::TokenEvent; use super::reply::R;"),
        ("src/chat/output.rs", "fn f() {}\n#[cfg(test)]\nmod tests { use std::fs; }"),
        ("kernels/src/cpu/x.rs", "// SAFETY: checked above\nunsafe { x() }"),
        ("src/cli/serve.rs", "let c = '\"'; let instant_reply = r#\"todo!()\"#;"),
        ("src/server/mod.rs", "use std::time::Instant;"),
        ("models/src/memory.rs", "let hyper = Hyperparameters::read();"),
    ] {
        assert_eq!(complaints_about(path, &format!("{good}{sample}")), Vec::<String>::new(), "{path}: {sample}");
    }
    assert_eq!(complaints_about("Cargo.toml", "candle-core = { version = \"=0.11.1\" }"), Vec::<String>::new());
}
