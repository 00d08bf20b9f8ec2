//! The engines of `cargo bench --bench bars`, each measured in a process of its own that prints JSON: what is asked of them, and where a
//! row's figure stands in what they print. Knows no bar.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

type Error = Box<dyn std::error::Error>;

/// A figure of one model file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Figure {
    /// Tokens a second of 512 tokens behind `depth` tokens.
    Prefill { depth: usize },
    /// Tokens a second of one stream behind `depth` tokens.
    Decode { depth: usize },
    /// Tokens a second of so many streams together, at depth 0.
    Streams(usize),
}

impl Figure {
    pub fn depth(self) -> usize {
        match self {
            Self::Prefill { depth } | Self::Decode { depth } => depth,
            Self::Streams(_) => 0,
        }
    }

    /// Rows of one step.
    pub fn rows(self) -> usize {
        match self {
            Self::Prefill { .. } => 512,
            Self::Decode { .. } => 1,
            Self::Streams(count) => count,
        }
    }

    /// Where it stands in what `understudy bench --json` prints, and the script for llama.cpp likewise.
    pub fn of(self, printed: &Value) -> Option<f64> {
        let at = |depth: usize| printed["depths"].as_array()?.iter().find(|figures| figures["depth"] == depth);
        let streams = |count: usize| printed["streams"].as_array()?.iter().find(|figures| figures["streams"] == count);
        match self {
            Self::Prefill { depth: 0 } => printed["prefill_tokens_per_s"].as_f64(),
            Self::Prefill { depth } => at(depth)?["prefill_tokens_per_s"].as_f64(),
            Self::Decode { depth: 0 } => streams(1)?["tokens_per_s"].as_f64(),
            Self::Decode { depth } => at(depth)?["decode_tokens_per_s"].as_f64(),
            Self::Streams(count) => streams(count)?["tokens_per_s"].as_f64(),
        }
    }
}

/// What is asked of an engine in one process: figures of one file, all flat or all at one depth, since engines divide their context
/// among the sequences.
#[derive(Debug, Clone)]
pub struct Job<'a> {
    pub model: &'a Path,
    pub threads: usize,
    pub figures: Vec<Figure>,
}

impl Job<'_> {
    /// `--only`, `--streams` and `--depth`, which `understudy bench` and the script for llama.cpp have in common.
    fn options(&self) -> Vec<String> {
        let prefill = self.figures.iter().any(|figure| matches!(figure, Figure::Prefill { .. }));
        let decode = self.figures.iter().any(|figure| !matches!(figure, Figure::Prefill { .. }));
        let parts: Vec<&str> = [("prefill", prefill), ("decode", decode)].into_iter().filter(|part| part.1).map(|part| part.0).collect();
        let streams = self.figures.iter().filter(|figure| figure.depth() == 0 && !matches!(figure, Figure::Prefill { .. }));
        let streams: Vec<String> = streams.map(|figure| figure.rows().to_string()).collect();
        let streams = if streams.is_empty() { "1".to_owned() } else { streams.join(",") };
        let depth = self.figures.iter().map(|figure| figure.depth()).max().unwrap_or(0);
        ["--only", &parts.join(","), "--streams", &streams, "--depth", &depth.to_string()].map(str::to_owned).to_vec()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    Understudy,
    /// As `llama-cpp-python` loads a model by default.
    LlamaCpp,
    /// The same with a setting changed; the better of all is its best one.
    LlamaCppWith(&'static [&'static str]),
    /// `llama-bench` of ik_llama.cpp, in UNDERSTUDY_BENCH_IK.
    IkLlamaCpp,
}

impl Engine {
    pub const ALL: [Self; 5] = [
        Self::Understudy,
        Self::LlamaCpp,
        Self::LlamaCppWith(&["--no-repack", "--flash-attention", "on"]),
        Self::LlamaCppWith(&["--no-repack", "--flash-attention", "off"]),
        Self::IkLlamaCpp,
    ];

    /// In the shape that [`Figure::of`] reads.
    pub fn measure(self, job: &Job<'_>) -> Result<Value, Error> {
        match self {
            Self::Understudy => understudy(job),
            Self::LlamaCpp => llama_cpp(job, &[]),
            Self::LlamaCppWith(settings) => llama_cpp(job, settings),
            Self::IkLlamaCpp => ik_llama_cpp(job),
        }
    }
}

fn understudy(job: &Job<'_>) -> Result<Value, Error> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_understudy"));
    command.arg("bench").arg(job.model).args(job.options());
    command.args(["--json", "--runs", "1", "--device", "cpu", "--log-level", "error", "--threads", &job.threads.to_string()]);
    printed_by(&mut command)
}

/// What each kind of step costs in bytes and operations, counted by Understudy while it runs them once.
pub fn step_costs(job: &Job<'_>) -> Result<Value, Error> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_understudy"));
    let options = job.options();
    command.arg("bench").arg(job.model).args(&options[2..]).args(["--only", "profile", "--json", "--runs", "1", "--device", "cpu"]);
    printed_by(command.args(["--log-level", "error", "--threads", &job.threads.to_string()]))
}

fn llama_cpp(job: &Job<'_>, settings: &[&str]) -> Result<Value, Error> {
    let python = std::env::var("UNDERSTUDY_BENCH_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/llama_cpp_alone.py");
    let mut command = Command::new(python);
    command.arg(script).arg(job.model).arg(job.threads.to_string()).args(job.options()).args(settings);
    printed_by(&mut command)
}

/// `llama-bench` knows prefill at depth 0 and decoding at any; several streams are `llama-batched-bench`'s, where it lies beside.
fn ik_llama_cpp(job: &Job<'_>) -> Result<Value, Error> {
    let program = std::env::var("UNDERSTUDY_BENCH_IK").map_err(|_| "UNDERSTUDY_BENCH_IK names no llama-bench of ik_llama.cpp")?;
    let program = PathBuf::from(program);
    let (mut streams, mut depths, mut prefill) = (Vec::new(), Vec::new(), None);
    for figure in &job.figures {
        match figure {
            Figure::Prefill { depth: 0 } => prefill = Some(ik_bench(&program, job, &["-p", "512", "-n", "0"])?),
            // It has no such test.
            Figure::Prefill { .. } => {}
            Figure::Decode { depth: 0 } => {
                let rate = ik_bench(&program, job, &["-p", "0", "-n", "128"])?;
                streams.push(json!({ "streams": 1, "tokens_per_s": rate }));
            }
            Figure::Decode { depth } => {
                let rate = ik_bench(&program, job, &["-p", "0", "-n", "0", "-gp", &format!("{depth},128")])?;
                depths.push(json!({ "depth": depth, "decode_tokens_per_s": rate }));
            }
            Figure::Streams(count) => {
                let batched = program.with_file_name("llama-batched-bench");
                if batched.exists() {
                    streams.push(json!({ "streams": count, "tokens_per_s": ik_batched(&batched, job, *count)? }));
                }
            }
        }
    }
    Ok(json!({ "prefill_tokens_per_s": prefill, "streams": streams, "depths": depths }))
}

fn ik_bench(program: &Path, job: &Job<'_>, test: &[&str]) -> Result<f64, Error> {
    let mut command = Command::new(program);
    command.arg("-m").arg(job.model).args(["-r", "1", "-o", "json", "-t", &job.threads.to_string()]).args(test);
    let printed = printed_by(&mut command)?;
    let rates = printed.as_array().ok_or("llama-bench printed no list")?;
    rates.last().and_then(|test| test["avg_ts"].as_f64()).ok_or_else(|| "llama-bench printed no rate".into())
}

/// The column `S_TG t/s` of its one line.
fn ik_batched(program: &Path, job: &Job<'_>, count: usize) -> Result<f64, Error> {
    let (context, threads, count) = ((count * 256).to_string(), job.threads.to_string(), count.to_string());
    let mut command = Command::new(std::path::absolute(program)?);
    // It leaves a log where it stands.
    command.current_dir(std::env::temp_dir());
    command
        .arg("-m")
        .arg(std::path::absolute(job.model)?)
        .args(["-c", &context, "-t", &threads, "-npp", "32", "-ntg", "128", "-npl", &count]);
    // Its table goes the way of its complaints.
    let output = command.stdin(Stdio::null()).output()?;
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    let cells: Vec<&str> = text.lines().rfind(|line| line.starts_with('|')).unwrap_or("").split('|').map(str::trim).collect();
    cells.get(8).and_then(|cell| cell.parse().ok()).ok_or_else(|| "llama-batched-bench printed no table".into())
}

fn printed_by(command: &mut Command) -> Result<Value, Error> {
    Ok(serde_json::from_slice(&output_of(command)?)?)
}

/// What a process prints; the last line of its complaints where it fails.
fn output_of(command: &mut Command) -> Result<Vec<u8>, Error> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::piped()).output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().lines().last().unwrap_or("no word of why").to_owned();
        return Err(said.into());
    }
    Ok(output.stdout)
}
