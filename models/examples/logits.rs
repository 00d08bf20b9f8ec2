//! Logits of every position of a token sequence, as raw f32: the hook that other programs compare themselves with.
//!
//!     cargo run --release -p models --example logits -- MODEL.gguf TOKENS OUT [--kv f32|f16|q8_0] [--chunk N] [--threads N]
//!
//! `TOKENS` holds token ids in decimal, separated by white space; a line is a sequence of its own. `OUT` gets
//! `[positions of all sequences, vocab]` little-endian f32.

use std::io::{BufWriter, Write};
use std::num::NonZeroUsize;
use std::path::PathBuf;

use candle_core::Device;
use kernels::KvDtype;
use models::Gguf;
use models::testing::batch::logits_of;

type Error = Box<dyn std::error::Error>;

struct Arguments {
    model: PathBuf,
    tokens: PathBuf,
    out: PathBuf,
    kv: KvDtype,
    chunk: NonZeroUsize,
    threads: Option<NonZeroUsize>,
}

const USAGE: &str = "usage: logits MODEL.gguf TOKENS OUT [--kv f32|f16|q8_0] [--chunk N] [--threads N]";

fn main() -> Result<(), Error> {
    let arguments = parse(std::env::args().skip(1))?;
    if let Some(threads) = arguments.threads {
        kernels::cpu::pool::set_threads(threads);
    }
    let gguf = Gguf::open(&arguments.model)?;
    let mut model = models::load(&gguf, &Device::Cpu)?;
    let text = std::fs::read_to_string(&arguments.tokens)?;
    let mut out = BufWriter::new(std::fs::File::create(&arguments.out)?);
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let ids = line.split_whitespace().map(str::parse).collect::<Result<Vec<u32>, _>>()?;
        let logits = logits_of(model.as_mut(), &ids, arguments.chunk.get(), arguments.kv)?;
        for value in &logits.values {
            out.write_all(&value.to_le_bytes())?;
        }
    }
    out.flush()?;
    Ok(())
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Arguments, Error> {
    let mut paths = Vec::new();
    let (mut kv, mut chunk, mut threads) = (KvDtype::F16, NonZeroUsize::new(512).expect("not zero"), None);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(USAGE);
        match word.as_str() {
            "--kv" => kv = value()?.parse()?,
            "--chunk" => chunk = value()?.parse()?,
            "--threads" => threads = Some(value()?.parse()?),
            other if other.starts_with("--") => return Err(format!("unknown option {other}\n{USAGE}").into()),
            path => paths.push(PathBuf::from(path)),
        }
    }
    let [model, tokens, out] = <[PathBuf; 3]>::try_from(paths).map_err(|_| USAGE)?;
    Ok(Arguments { model, tokens, out, kv, chunk, threads })
}
