//! Writes a random-weight GGUF file of a real shape, with a working tokenizer: something to measure with where nothing can be
//! downloaded. What it says is noise.
//!
//!     cargo run --release -p models --example generate_gguf -- SHAPE MIX OUT.gguf [--seed N]
//!
//! SHAPE: qwen2.5-1.5b | qwen3-0.6b | qwen3-moe-32x8 | small-FAMILY | tiny-FAMILY; FAMILY: llama | qwen2 | qwen3 | qwen3moe
//! MIX: q4_k_m, or a computed type: q4_k | iq4_xs | mxfp4 | bf16 | ...; q4_k_as_f32 and so on: the same numbers, written as f32

use std::io::{BufWriter, Write};

use kernels::GgmlType;
use models::Family;
use models::testing::random_model::{Mix, RandomModel};

type Error = Box<dyn std::error::Error>;

const USAGE: &str = "usage: generate_gguf SHAPE MIX OUT.gguf [--seed N]
SHAPE: qwen2.5-1.5b | qwen3-0.6b | qwen3-moe-32x8 | small-FAMILY | tiny-FAMILY; FAMILY: llama | qwen2 | qwen3 | qwen3moe
MIX: q4_k_m, or a computed type: q4_k | iq4_xs | mxfp4 | bf16 | ...; q4_k_as_f32 and so on: the same numbers, written as f32";

fn main() -> Result<(), Error> {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    let seed = match words.iter().position(|word| word == "--seed") {
        None => 0,
        Some(at) => words.drain(at..).nth(1).ok_or(USAGE)?.parse()?,
    };
    let [shape, mix, path] = <[String; 3]>::try_from(words).map_err(|_| USAGE)?;
    let model = shape_of(&shape, mix_of(&mix)?, seed)?;
    let mut out = BufWriter::with_capacity(1 << 20, std::fs::File::create(&path)?);
    model.writer().write(&mut out)?;
    out.flush()?;
    println!("{path}: {}, {:.1} MiB", model.name, std::fs::metadata(&path)?.len() as f64 / f64::from(1 << 20));
    Ok(())
}

fn shape_of(shape: &str, mix: Mix, seed: u64) -> Result<RandomModel, Error> {
    if let Some((size @ ("tiny" | "small"), name)) = shape.split_once('-') {
        let family = Family::ALL.into_iter().find(|family| family.architecture() == name).ok_or(USAGE)?;
        let make = if size == "tiny" { RandomModel::tiny } else { RandomModel::small };
        return Ok(make(family, mix, seed));
    }
    match shape {
        "qwen2.5-1.5b" => Ok(RandomModel::qwen2_5_1_5b(mix, seed)),
        "qwen3-0.6b" => Ok(RandomModel::qwen3_0_6b(mix, seed)),
        "qwen3-moe-32x8" => Ok(RandomModel::qwen3_moe_32x8(mix, seed)),
        other => Err(format!("no shape {other}\n{USAGE}").into()),
    }
}

fn mix_of(mix: &str) -> Result<Mix, Error> {
    if let Some(Mix::All(ty)) = mix.strip_suffix("_as_f32").map(mix_of).transpose()? {
        return Ok(Mix::AsF32(ty));
    }
    if mix == "q4_k_m" {
        return Ok(Mix::Q4KM);
    }
    let named = GgmlType::COMPUTED.into_iter().find(|ty| ty.name().eq_ignore_ascii_case(mix));
    Ok(Mix::All(named.ok_or_else(|| format!("no mix {mix}\n{USAGE}"))?))
}
