//! The figures of docs/benchmarks.md, side by side: Understudy, Candle's stock quantized models, llama.cpp; the same file, the same threads.
//!
//!     cargo bench --bench figures -- [MODEL.gguf] [--threads N] [--rounds N] [--json]
//!
//! Every engine runs in a process of its own, in turn, round after round; medians are printed. Understudy's figures include its sampling,
//! scheduling and channels; the other two are bare forward passes. llama.cpp needs a Python that has `llama-cpp-python`
//! (UNDERSTUDY_BENCH_PYTHON, else `python3`).

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

mod stock_candle;

const STREAMS: [u64; 4] = [1, 4, 8, 16];

type Error = Box<dyn std::error::Error>;

struct Options {
    model: PathBuf,
    threads: usize,
    rounds: usize,
    json: bool,
    /// Set in the process that measures Candle.
    candle_alone: bool,
}

/// Measures one engine.
type Measure = fn(&Options) -> Result<Value, Error>;

fn main() -> Result<(), Error> {
    let options = options()?;
    if options.candle_alone {
        println!("{}", stock_candle::measure(&options.model)?);
        return Ok(());
    }
    let engines: [(&str, Measure); 3] = [("understudy", understudy), ("candle", candle), ("llama.cpp", llama_cpp)];
    let mut measured: Vec<Vec<Value>> = vec![Vec::new(); engines.len()];
    for round in 1..=options.rounds {
        for (index, (name, run)) in engines.iter().enumerate() {
            match run(&options) {
                Ok(figures) => measured[index].push(figures),
                Err(why) if round == 1 => eprintln!("{name}: not measured: {why}"),
                Err(_) => {}
            }
            eprintln!("round {round} of {}: {name} done", options.rounds);
        }
    }
    let names = engines.map(|(name, _)| name);
    if options.json {
        let all: Vec<Value> = names.iter().zip(&measured).map(|(name, rounds)| json!({"engine": name, "rounds": rounds})).collect();
        println!("{}", serde_json::to_string_pretty(&all)?);
        return Ok(());
    }
    print_table(&options, &names, &measured);
    Ok(())
}

fn options() -> Result<Options, Error> {
    let built_in = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/default/understudy-mini.gguf");
    let threads = std::thread::available_parallelism()?.get();
    let mut options = Options { model: built_in, threads, rounds: 3, json: false, candle_alone: false };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut number = || words.next().and_then(|text| text.parse().ok()).ok_or(format!("{word} wants a number"));
        match word.as_str() {
            "--threads" => options.threads = number()?,
            "--rounds" => options.rounds = number()?,
            "--json" => options.json = true,
            "--candle-alone" => options.candle_alone = true,
            // Cargo says so to every benchmark.
            "--bench" => {}
            flag if flag.starts_with("--") => return Err(format!("no option {flag}").into()),
            path => options.model = std::fs::canonicalize(path).map_err(|e| format!("{path}: {e}"))?,
        }
    }
    Ok(options)
}

fn understudy(options: &Options) -> Result<Value, Error> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_understudy"));
    command.arg("bench").arg(&options.model).args([
        "--only",
        "prefill,decode",
        "--json",
        "--runs",
        "1",
        "--device",
        "cpu",
        "--log-level",
        "error",
        "--threads",
    ]);
    figures_of(command.arg(options.threads.to_string()))
}

fn candle(options: &Options) -> Result<Value, Error> {
    let mut command = Command::new(std::env::current_exe()?);
    // Candle's two pools: its own and rayon's.
    command.env("CANDLE_NUM_THREADS", options.threads.to_string()).env("RAYON_NUM_THREADS", options.threads.to_string());
    figures_of(command.arg(&options.model).arg("--candle-alone"))
}

fn llama_cpp(options: &Options) -> Result<Value, Error> {
    let python = std::env::var("UNDERSTUDY_BENCH_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/llama_cpp_alone.py");
    figures_of(Command::new(python).arg(script).arg(&options.model).arg(options.threads.to_string()))
}

/// The JSON a process prints; the last line of its complaints where it fails.
fn figures_of(command: &mut Command) -> Result<Value, Error> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::piped()).output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().lines().last().unwrap_or("no word of why").to_owned();
        return Err(said.into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn print_table(options: &Options, names: &[&str], measured: &[Vec<Value>]) {
    println!("{}, {} threads, median of {} rounds", options.model.display(), options.threads, options.rounds);
    if let Some(ours) = measured[0].first() {
        println!("{}; {}; {}", text(ours, "machine"), text(ours, "build"), text(ours, "date"));
    }
    println!("\n{:<34}{:>14}{:>14}{:>14}", "", names[0], names[1], names[2]);
    let row = |name: &str, value: &dyn Fn(&Value) -> Option<f64>| {
        let cells: String = measured.iter().map(|rounds| format!("{:>14}", cell(rounds, value))).collect();
        println!("{name:<34}{cells}");
    };
    row("start until ready, ms", &|figures| figures["start_ms"].as_f64());
    row("prefill of 512, tokens/s", &|figures| figures["prefill_tokens_per_s"].as_f64());
    row("first token after 512, ms", &|figures| figures["first_token_ms"].as_f64());
    for count in STREAMS {
        let name = format!("decode of 128, {count} streams, tokens/s");
        row(&name, &|figures| {
            let of_count = figures["streams"].as_array()?.iter().find(|figure| figure["streams"] == count)?;
            of_count["tokens_per_s"].as_f64()
        });
    }
    row("memory at most, MiB", &|figures| figures["memory_peak_bytes"].as_f64().map(|bytes| bytes / f64::from(1 << 20)));
}

fn cell(rounds: &[Value], value: &dyn Fn(&Value) -> Option<f64>) -> String {
    let mut values: Vec<f64> = rounds.iter().filter_map(value).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).map_or("-".to_owned(), |median| format!("{median:.1}"))
}

fn text<'a>(figures: &'a Value, key: &str) -> &'a str {
    figures[key].as_str().unwrap_or("?")
}
