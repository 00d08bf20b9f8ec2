//! The table of bars for the CPU: each row of it measured beside the other engines on the same file, and beside what the machine could
//! do at most, in rounds that take turns.
//!
//!     cargo bench --bench bars -- [FILE.gguf ...] [--only ROW,..] [--rounds N] [--threads N] [--json]
//!
//! A file's name says which rows it is for: `moe` the mixture of experts, `q8_0` the 8-bit prefill, any other the rest; without a file
//! only the built-in model's rows are measured. `--only help` lists the rows. llama.cpp needs a Python that has `llama-cpp-python`
//! (UNDERSTUDY_BENCH_PYTHON, else `python3`), ik_llama.cpp its `llama-bench` in UNDERSTUDY_BENCH_IK. What was not measured says why.

use std::path::{Path, PathBuf};

use kernels::cpu::{isa, peak, pool};
use kernels::huge::PageSize;
use kernels::profile::{Cost, Limits};
use serde_json::{Value, json};

mod engines;

use engines::{Engine, Figure, Job};

type Error = Box<dyn std::error::Error>;

/// Which file a row is measured on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    BuiltIn,
    Dense,
    EightBit,
    Experts,
}

/// A row: what is measured, and the least ratios to the other engines and share of the limit.
struct Row {
    name: &'static str,
    role: Role,
    figure: Figure,
    default_ratio: Option<f64>,
    best_ratio: Option<f64>,
    ik_ratio: Option<f64>,
    limit_share: Option<f64>,
}

const ROWS: [Row; 12] = [
    row("prefill", Role::Dense, Figure::Prefill { depth: 0 }).default(2.5).best(1.7).ik(1.5).limit(0.55),
    row("prefill-q8", Role::EightBit, Figure::Prefill { depth: 0 }).best(3.0).ik(1.5).limit(0.55),
    row("prefill@8192", Role::Dense, Figure::Prefill { depth: 8192 }).best(2.5).ik(1.5).limit(0.55),
    row("prefill@16384", Role::Dense, Figure::Prefill { depth: 16_384 }).best(3.0).ik(1.5).limit(0.55),
    row("decode", Role::Dense, Figure::Decode { depth: 0 }).best(1.15).ik(1.1).limit(0.85),
    row("decode@8192", Role::Dense, Figure::Decode { depth: 8192 }).best(1.5).ik(1.1).limit(0.75),
    row("decode4", Role::Dense, Figure::Streams(4)).best(2.5).limit(0.45),
    row("decode8", Role::Dense, Figure::Streams(8)).best(4.0).limit(0.45),
    row("decode16", Role::Dense, Figure::Streams(16)).best(4.0).ik(2.0).limit(0.45),
    row("moe-prefill", Role::Experts, Figure::Prefill { depth: 0 }).best(2.0),
    row("moe-decode", Role::Experts, Figure::Decode { depth: 0 }).best(1.3),
    row("builtin-decode", Role::BuiltIn, Figure::Decode { depth: 0 }).best(1.5),
];
/// Rows that are no rate, of the dense file; a step's overhead is the built-in model's.
const MEMORY: &str = "memory";
const START: &str = "start";
const OVERHEAD: &str = "overhead";
const MEMORY_MB_MAX: f64 = 150.0;
const START_MS_MAX: f64 = 300.0;
const OVERHEAD_US_MAX: f64 = 30.0;
/// What bandwidth is measured on: many times any cache.
const READ_BYTES: usize = 256 << 20;

const fn row(name: &'static str, role: Role, figure: Figure) -> Row {
    Row { name, role, figure, default_ratio: None, best_ratio: None, ik_ratio: None, limit_share: None }
}

impl Row {
    const fn default(self, ratio: f64) -> Self {
        Self { default_ratio: Some(ratio), ..self }
    }
    const fn best(self, ratio: f64) -> Self {
        Self { best_ratio: Some(ratio), ..self }
    }
    const fn ik(self, ratio: f64) -> Self {
        Self { ik_ratio: Some(ratio), ..self }
    }
    const fn limit(self, share: f64) -> Self {
        Self { limit_share: Some(share), ..self }
    }
}

struct Options {
    files: Vec<(Role, PathBuf)>,
    only: Vec<String>,
    rounds: usize,
    threads: usize,
    json: bool,
}

impl Options {
    fn wants(&self, row: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|name| name == row)
    }

    fn file(&self, role: Role) -> Option<&Path> {
        self.files.iter().find(|(of, _)| *of == role).map(|(_, path)| path.as_path())
    }
}

/// Rows of one file at one depth: what one process of each engine measures in a round.
struct Group<'a> {
    role: Role,
    job: Job<'a>,
    /// By engine, then by round; or why there is nothing.
    printed: Vec<Result<Vec<Value>, String>>,
    /// Bytes and operations of each kind of step.
    costs: Result<Value, String>,
}

fn main() -> Result<(), Error> {
    let options = options()?;
    let mut groups = groups(&options);
    let mut limits = Vec::new();
    for round in 1..=options.rounds {
        limits.push(measured_limits()?);
        for group in &mut groups {
            for (engine, printed) in Engine::ALL.into_iter().zip(&mut group.printed) {
                let Ok(rounds) = printed else { continue };
                match engine.measure(&group.job) {
                    Ok(figures) => rounds.push(figures),
                    // What fails once fails always; what fails later leaves fewer rounds.
                    Err(why) if rounds.is_empty() => *printed = Err(why.to_string()),
                    Err(why) => eprintln!("{engine:?}, round {round}: {why}"),
                }
                eprintln!("round {round} of {}: {} {engine:?} done", options.rounds, group.job.model.display());
            }
        }
    }
    for group in &mut groups {
        group.costs = engines::step_costs(&group.job).map_err(|why| why.to_string());
    }
    let limits = Limits {
        read_gb: median(limits.iter().map(|limits| limits.read_gb).collect()).unwrap_or(f64::NAN),
        int8_gops: median(limits.iter().map(|limits| limits.int8_gops).collect()).unwrap_or(f64::NAN),
        float_gops: median(limits.iter().map(|limits| limits.float_gops).collect()).unwrap_or(f64::NAN),
    };
    if options.json {
        let all: Vec<Value> = groups.iter().map(raw).collect();
        let limits = json!({ "read_gb": limits.read_gb, "int8_gops": limits.int8_gops, "float_gops": limits.float_gops });
        println!("{}", serde_json::to_string_pretty(&json!({ "limits": limits, "groups": all }))?);
        return Ok(());
    }
    print_table(&options, &groups, &limits);
    Ok(())
}

fn options() -> Result<Options, Error> {
    let built_in = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/default/understudy-mini.gguf");
    let threads = std::thread::available_parallelism()?.get();
    let mut options = Options { files: vec![(Role::BuiltIn, built_in)], only: Vec::new(), rounds: 5, threads, json: false };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--threads" => options.threads = number(&word, words.next())?,
            "--rounds" => options.rounds = number(&word, words.next())?,
            "--only" => options.only = words.next().ok_or("--only wants rows")?.split(',').map(str::to_owned).collect(),
            "--json" => options.json = true,
            // Cargo says so to every benchmark.
            "--bench" => {}
            flag if flag.starts_with("--") => return Err(format!("no option {flag}").into()),
            path => options.files.push(with_role(path)?),
        }
    }
    let names: Vec<&str> = ROWS.iter().map(|row| row.name).chain([MEMORY, START, OVERHEAD]).collect();
    if let Some(wrong) = options.only.iter().find(|name| !names.contains(&name.as_str())) {
        return Err(format!("no row {wrong}; the rows are {}", names.join(", ")).into());
    }
    pool::set_threads(options.threads.try_into().map_err(|_| "--threads wants at least 1")?);
    Ok(options)
}

fn number(option: &str, text: Option<String>) -> Result<usize, Error> {
    let number = text.and_then(|text| text.parse().ok()).filter(|number| *number > 0);
    number.ok_or_else(|| format!("{option} wants a number").into())
}

fn with_role(path: &str) -> Result<(Role, PathBuf), Error> {
    let path = std::fs::canonicalize(path).map_err(|e| format!("{path}: {e}"))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let role = match () {
        () if name.contains("moe") => Role::Experts,
        () if name.contains("q8_0") => Role::EightBit,
        () => Role::Dense,
    };
    Ok((role, path))
}

fn groups(options: &Options) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    let mut add = |role: Role, figure: Figure| {
        let Some(model) = options.file(role) else { return };
        let same = |group: &&mut Group<'_>| group.role == role && group.job.figures[0].depth() == figure.depth();
        match groups.iter_mut().find(same) {
            Some(group) if group.job.figures.contains(&figure) => {}
            Some(group) => group.job.figures.push(figure),
            None => {
                let job = Job { model, threads: options.threads, figures: vec![figure] };
                groups.push(Group { role, job, printed: vec![Ok(Vec::new()); Engine::ALL.len()], costs: Err("not yet".to_owned()) });
            }
        }
    };
    for row in ROWS.iter().filter(|row| options.wants(row.name)) {
        add(row.role, row.figure);
    }
    // Memory and start are seen while something is decoded.
    if options.wants(MEMORY) || options.wants(START) {
        add(Role::Dense, Figure::Decode { depth: 0 });
    }
    if options.wants(OVERHEAD) {
        add(Role::BuiltIn, Figure::Decode { depth: 0 });
    }
    groups
}

/// Reading through ordinary pages: weights are mapped.
fn measured_limits() -> Result<Limits, Error> {
    Ok(peak::limits(isa::isa()?, PageSize::Ordinary, READ_BYTES)?)
}

fn raw(group: &Group<'_>) -> Value {
    let engines = Engine::ALL.iter().zip(&group.printed).map(|(engine, printed)| match printed {
        Ok(rounds) => json!({ "engine": format!("{engine:?}"), "rounds": rounds }),
        Err(why) => json!({ "engine": format!("{engine:?}"), "not_measured": why }),
    });
    json!({ "model": group.job.model, "engines": engines.collect::<Vec<_>>(), "step_costs": group.costs.as_ref().ok() })
}

fn print_table(options: &Options, groups: &[Group<'_>], limits: &Limits) {
    println!("{} threads, medians of {} rounds in turn", options.threads, options.rounds);
    for group in groups {
        if let Ok([figures, ..]) = group.printed[0].as_deref() {
            let text = |key: &str| figures[key].as_str().unwrap_or("?").to_owned();
            println!("{}; {}; {}; {}", text("model"), text("machine"), text("build"), text("date"));
        }
    }
    let Limits { read_gb, int8_gops, float_gops } = limits;
    println!("limits: int8 {int8_gops:.0} Gop/s, f32 {float_gops:.0} Gop/s, reading {read_gb:.1} GB/s through ordinary pages\n");
    println!(
        "| row | Understudy | llama.cpp | its best setting | ik_llama.cpp | to llama.cpp | to its best | to ik_llama.cpp | of the limit |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for row in ROWS.iter().filter(|row| options.wants(row.name)) {
        println!("{}", line(row, options, groups, limits));
    }
    let dense = |name: &str, unit: &str, most: f64, value: &dyn Fn(&Value) -> Option<f64>| {
        if options.wants(name) {
            println!("{}", line_of_most(&format!("{name}, {unit}"), most, groups, Role::Dense, value));
        }
    };
    dense(MEMORY, "MB beyond the file and the cache", MEMORY_MB_MAX, &|figures| {
        let bytes = |key: &str| figures[key].as_f64();
        Some((bytes("memory_peak_bytes")? - bytes("model_bytes")? - bytes("cache_bytes")?).max(0.0) / 1e6)
    });
    dense(START, "ms until ready", START_MS_MAX, &|figures| figures["start_ms"].as_f64());
    if options.wants(OVERHEAD) {
        println!("{}", overhead_line(groups));
    }
    println!();
    for group in groups {
        for (engine, printed) in Engine::ALL.iter().zip(&group.printed) {
            if let Err(why) = printed {
                println!("{}, {engine:?}: not measured: {why}", group.job.model.display());
            }
        }
    }
}

fn line(row: &Row, options: &Options, groups: &[Group<'_>], limits: &Limits) -> String {
    let at_depth = |group: &&Group<'_>| group.role == row.role && group.job.figures.contains(&row.figure);
    let Some(group) = groups.iter().find(at_depth) else {
        assert!(options.file(row.role).is_none(), "{} was wanted and has a file", row.name);
        return format!("| {} | not measured: no file of its kind was given |||||||| ", row.name);
    };
    let measured: Vec<Option<f64>> = group.printed.iter().map(|printed| rate(printed, row.figure)).collect();
    let [ours, default, .., ik] = measured.as_slice() else { unreachable!("every engine has a place") };
    // Of the default and every other setting.
    let best = measured[1..measured.len() - 1].iter().flatten().copied().reduce(f64::max);
    let share = ours.zip(step_limit(group, row.figure, limits)).map(|(ours, limit)| ours / limit);
    let ratio = |other: Option<f64>| ours.zip(other).map(|(ours, other)| ours / other);
    let cells = [
        cell(*ours),
        cell(*default),
        cell(best),
        cell(*ik),
        held_against(ratio(*default), row.default_ratio, 1.0),
        held_against(ratio(best), row.best_ratio, 1.0),
        held_against(ratio(*ik), row.ik_ratio, 1.0),
        held_against(share, row.limit_share, 100.0),
    ];
    format!("| {} | {} |", row.name, cells.join(" | "))
}

/// A row where less is better, and nobody else is measured.
fn line_of_most(name: &str, most: f64, groups: &[Group<'_>], role: Role, value: &dyn Fn(&Value) -> Option<f64>) -> String {
    let group = groups.iter().find(|group| group.role == role && group.job.figures[0].depth() == 0);
    let rounds = group.and_then(|group| group.printed[0].as_deref().ok()).unwrap_or_default();
    match median(rounds.iter().filter_map(value).collect()) {
        Some(median) => format!("| {name} | {median:.1} (bar: at most {most}{}) |||||||| ", verdict(median <= most)),
        None => format!("| {name} | not measured: no file of its kind was given |||||||| "),
    }
}

/// What of a decoding step of the built-in model is in no op.
fn overhead_line(groups: &[Group<'_>]) -> String {
    let group = groups.iter().find(|group| group.role == Role::BuiltIn);
    let profile = group.and_then(|group| step_profile(group, Figure::Decode { depth: 0 }));
    let us = profile.and_then(|profile| Some((profile["step_ms"].as_f64()? - profile["ops_ms"].as_f64()?) * 1e3));
    match us {
        Some(us) => {
            format!("| {OVERHEAD}, us of a step | {us:.0} (bar: at most {OVERHEAD_US_MAX}{}) |||||||| ", verdict(us <= OVERHEAD_US_MAX))
        }
        None => format!("| {OVERHEAD}, us of a step | not measured: no profile |||||||| "),
    }
}

fn step_profile<'a>(group: &'a Group<'_>, figure: Figure) -> Option<&'a Value> {
    let same = |profile: &&Value| profile["rows"] == figure.rows() && profile["depth"] == figure.depth();
    group.costs.as_ref().ok()?["profile"].as_array()?.iter().find(same)
}

/// Tokens a second, did every byte and every operation of a step take no longer than the machine must have for it.
fn step_limit(group: &Group<'_>, figure: Figure, limits: &Limits) -> Option<f64> {
    let profile = step_profile(group, figure)?;
    let count = |key: &str| profile[key].as_u64();
    let cost = Cost { bytes: count("bytes")?, int8_operations: count("int8_operations")?, float_operations: count("float_operations")? };
    Some(figure.rows() as f64 / cost.seconds_at_least(limits))
}

fn rate(printed: &Result<Vec<Value>, String>, figure: Figure) -> Option<f64> {
    median(printed.as_ref().ok()?.iter().filter_map(|printed| figure.of(printed)).collect())
}

fn cell(value: Option<f64>) -> String {
    value.map_or_else(|| "not measured".to_owned(), |value| format!("{value:.1}"))
}

/// `2.61 (bar 2.5)`; with `scale` 100 in percent.
fn held_against(value: Option<f64>, bar: Option<f64>, scale: f64) -> String {
    let shown = |value: f64| if scale == 1.0 { format!("{value:.2}") } else { format!("{:.0} %", value * scale) };
    match (value, bar) {
        (None, None) => "-".to_owned(),
        (None, Some(bar)) => format!("not measured (bar {})", shown(bar)),
        (Some(value), None) => shown(value),
        (Some(value), Some(bar)) => format!("{} (bar {}{})", shown(value), shown(bar), verdict(value >= bar)),
    }
}

fn verdict(reached: bool) -> &'static str {
    if reached { "" } else { ", MISSED" }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}
