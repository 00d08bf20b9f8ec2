//! Candle's own quantized_qwen2 and quantized_qwen3, measured as `understudy bench` measures itself, without sampling.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::time::Instant;

use candle_core::quantized::gguf_file;
use candle_core::{Device, Tensor};
use candle_transformers::models::{quantized_qwen2, quantized_qwen3};
use serde_json::{Value, json};

const PREFILL_TOKENS: usize = 512;
const DECODE_PROMPT_TOKENS: usize = 32;
const DECODE_TOKENS: usize = 128;

enum Stock {
    Qwen2(quantized_qwen2::ModelWeights),
    Qwen3(quantized_qwen3::ModelWeights),
}

pub fn measure(path: &Path) -> Result<Value, super::Error> {
    let start = Instant::now();
    let mut model = Stock::load(path)?;
    let start_ms = start.elapsed().as_secs_f64() * 1e3;
    let mut random = Random(1);
    // Untimed: Candle repacks weights at their first use.
    model.forward(&random.tokens(1, DECODE_PROMPT_TOKENS)?, 0)?;
    let prompt = random.tokens(1, PREFILL_TOKENS)?;
    let start = Instant::now();
    model.forward(&prompt, 0)?;
    let first_token_s = start.elapsed().as_secs_f64();
    // On the CPU both take one sequence: at two quantized_qwen3 panics, quantized_qwen2 refuses a tensor that is not contiguous.
    let streams = [json!({"streams": 1, "tokens_per_s": decode(&mut model, &mut random)?})];
    let memory = peak_bytes();
    Ok(json!({
        "start_ms": start_ms, "first_token_ms": first_token_s * 1e3, "prefill_tokens_per_s": PREFILL_TOKENS as f64 / first_token_s,
        "streams": streams, "memory_peak_bytes": memory,
    }))
}

/// Tokens a second of one sequence.
fn decode(model: &mut Stock, random: &mut Random) -> Result<f64, super::Error> {
    model.forward(&random.tokens(1, DECODE_PROMPT_TOKENS)?, 0)?;
    let start = Instant::now();
    for position in DECODE_PROMPT_TOKENS..DECODE_PROMPT_TOKENS + DECODE_TOKENS {
        model.forward(&random.tokens(1, 1)?, position)?;
    }
    Ok(DECODE_TOKENS as f64 / start.elapsed().as_secs_f64())
}

impl Stock {
    fn load(path: &Path) -> Result<Self, super::Error> {
        let mut reader = BufReader::new(File::open(path)?);
        let content = gguf_file::Content::read(&mut reader)?;
        let architecture = content.metadata.get("general.architecture").ok_or("no architecture")?.to_string()?.clone();
        match architecture.as_str() {
            "qwen2" => Ok(Self::Qwen2(quantized_qwen2::ModelWeights::from_gguf(content, &mut reader, &Device::Cpu)?)),
            "qwen3" => Ok(Self::Qwen3(quantized_qwen3::ModelWeights::from_gguf(content, &mut reader, &Device::Cpu)?)),
            other => Err(format!("no stock model for {other} here").into()),
        }
    }

    /// Position 0 begins anew.
    fn forward(&mut self, tokens: &Tensor, position: usize) -> Result<(), super::Error> {
        let logits = match self {
            Self::Qwen2(model) => model.forward(tokens, position)?,
            Self::Qwen3(model) => {
                if position == 0 {
                    model.clear_kv_cache();
                }
                model.forward(tokens, position)?
            }
        };
        std::hint::black_box(logits);
        Ok(())
    }
}

struct Random(u64);

impl Random {
    /// Small ids, which every vocabulary has.
    fn tokens(&mut self, sequences: usize, length: usize) -> Result<Tensor, super::Error> {
        let ids: Vec<u32> = (0..sequences * length)
            .map(|_| {
                self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                ((self.0 >> 33) % 200) as u32
            })
            .collect();
        Ok(Tensor::from_vec(ids, (sequences, length), &Device::Cpu)?)
    }
}

fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}
