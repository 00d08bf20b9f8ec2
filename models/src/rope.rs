//! Frequencies of the rotary embedding, from metadata: plain, linear, YaRN, and the factors of Llama 3 and its kin.
//!
//! Pure numbers; the rotation itself is an op in `kernels`.

use std::f64::consts::PI;

use kernels::ops::rope::{Rope, RopeStyle};

use crate::config::ConfigError;
use crate::metadata::Metadata;

/// What the metadata says about the rotation.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeParameters {
    /// Elements of a head that rotate; even. The rest pass through.
    pub rotary_dim: usize,
    pub base: f64,
    pub scaling: RopeScaling,
    /// A further factor on the magnitudes (`rope.scaling.attn_factor`); 1 otherwise.
    pub attention_factor: f64,
}

/// How positions beyond the training context are folded into it.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    None,
    /// Every frequency divided by `factor` (Chen et al. 2023).
    Linear {
        factor: f64,
    },
    /// Low frequencies divided by `factor`, high ones kept, a ramp between (Peng et al. 2023, arXiv 2309.00071).
    Yarn(Yarn),
}

/// YaRN's parameters, named as in the paper.
#[derive(Debug, Clone, PartialEq)]
pub struct Yarn {
    pub factor: f64,
    pub original_context: usize,
    /// Rotations within the original context above which a frequency is kept.
    pub beta_fast: f64,
    /// Rotations below which it is fully interpolated.
    pub beta_slow: f64,
    /// Share of the extrapolated part; 1 in the paper.
    pub extrapolation: f64,
}

impl RopeParameters {
    /// Reads `rope.*`. `head_dim` and `context_max` are the fall-backs the format prescribes.
    pub fn read(metadata: &Metadata<'_>, head_dim: usize, context_max: usize) -> Result<Self, ConfigError> {
        let rotary_dim = match metadata.has("rope.dimension_count") {
            true => metadata.count("rope.dimension_count", 2..=head_dim)?,
            false => head_dim,
        };
        if rotary_dim % 2 != 0 {
            return Err(metadata.bad_value("rope.dimension_count", rotary_dim, "rotation works on pairs".into()));
        }
        if metadata.has("rope.dimension_sections") {
            return Err(metadata.unsupported("rope.dimension_sections", "set", "positions of several dimensions"));
        }
        let base = positive(metadata, "rope.freq_base", 10_000.0)?;
        if base <= 1.0 {
            return Err(metadata.bad_value("rope.freq_base", base, "it must be above 1".into()));
        }
        Ok(Self {
            rotary_dim,
            base,
            scaling: scaling(metadata, context_max)?,
            attention_factor: positive(metadata, "rope.scaling.attn_factor", 1.0)?,
        })
    }

    /// The frequencies for the kernel. `factors` divides each (the tensor `rope_freqs.weight`, `rotary_dim / 2` values).
    pub fn rope(&self, style: RopeStyle, factors: Option<&[f32]>) -> Rope {
        let pairs = self.rotary_dim / 2;
        let inverse_frequency = (0..pairs)
            .map(|pair| {
                let factor = factors.map_or(1.0, |factors| f64::from(factors[pair]));
                let plain = self.base.powf(-((2 * pair) as f64) / self.rotary_dim as f64) / factor;
                match &self.scaling {
                    RopeScaling::None => plain as f32,
                    RopeScaling::Linear { factor } => (plain / factor) as f32,
                    RopeScaling::Yarn(yarn) => {
                        let kept = yarn.extrapolation * yarn.kept(pair, self.rotary_dim, self.base);
                        (plain / yarn.factor * (1.0 - kept) + plain * kept) as f32
                    }
                }
            })
            .collect();
        let magnitude = match &self.scaling {
            // Section 3.4 of the paper: sqrt(1/t) = 0.1 ln(s) + 1, on queries and keys alike.
            RopeScaling::Yarn(yarn) if yarn.extrapolation != 0.0 => 1.0 + 0.1 * yarn.factor.ln(),
            _ => 1.0,
        };
        Rope { style, inverse_frequency, attention_factor: (self.attention_factor * magnitude) as f32 }
    }
}

impl Yarn {
    /// How much of pair `pair` keeps its own frequency: 1 for fast pairs, 0 for slow ones.
    fn kept(&self, pair: usize, rotary_dim: usize, base: f64) -> f64 {
        // The pair (as a real number) that turns `rotations` times within the original context.
        let pair_of = |rotations: f64| rotary_dim as f64 * (self.original_context as f64 / (rotations * 2.0 * PI)).ln() / (2.0 * base.ln());
        let low = pair_of(self.beta_fast).floor().max(0.0);
        let high = pair_of(self.beta_slow).ceil().min(rotary_dim as f64 - 1.0);
        let ramp = (pair as f64 - low) / (high - low).max(0.001);
        1.0 - ramp.clamp(0.0, 1.0)
    }
}

fn scaling(metadata: &Metadata<'_>, context_max: usize) -> Result<RopeScaling, ConfigError> {
    let kind = metadata.text("rope.scaling.type")?;
    // Old files say `rope.scale_linear` and nothing else.
    let old = positive(metadata, "rope.scale_linear", 1.0)?;
    let factor = positive(metadata, "rope.scaling.factor", old)?;
    match kind {
        Some("none") => Ok(RopeScaling::None),
        // No type means linear, and no factor means 1: nothing.
        None | Some("linear") if factor == 1.0 => Ok(RopeScaling::None),
        None | Some("linear") => Ok(RopeScaling::Linear { factor }),
        Some("yarn") => Ok(RopeScaling::Yarn(yarn(metadata, factor, context_max)?)),
        Some(other) => Err(metadata.unsupported("rope.scaling.type", other, "another way to scale positions")),
    }
}

fn yarn(metadata: &Metadata<'_>, factor: f64, context_max: usize) -> Result<Yarn, ConfigError> {
    for key in ["rope.scaling.yarn_log_multiplier", "rope.scaling.alpha"] {
        if let Some(value) = metadata.optional_number(key)?.filter(|value| *value != 0.0) {
            return Err(metadata.unsupported(key, value, "another form of YaRN"));
        }
    }
    let attention = metadata.optional_number("rope.scaling.yarn_attn_factor")?.unwrap_or(1.0);
    if attention != 1.0 {
        return Err(metadata.unsupported("rope.scaling.yarn_attn_factor", attention, "another form of YaRN"));
    }
    let original_context = match metadata.has("rope.scaling.original_context_length") {
        true => metadata.count("rope.scaling.original_context_length", 1..=1 << 31)?,
        false => context_max,
    };
    let extrapolation = metadata.optional_number("rope.scaling.yarn_ext_factor")?.unwrap_or(1.0);
    if !(0.0..=1.0).contains(&extrapolation) {
        return Err(metadata.bad_value("rope.scaling.yarn_ext_factor", extrapolation, "it must lie between 0 and 1".into()));
    }
    Ok(Yarn {
        factor,
        original_context,
        beta_fast: positive(metadata, "rope.scaling.yarn_beta_fast", 32.0)?,
        beta_slow: positive(metadata, "rope.scaling.yarn_beta_slow", 1.0)?,
        extrapolation,
    })
}

/// A positive finite number; `absent` where the key is.
fn positive(metadata: &Metadata<'_>, key: &str, absent: f64) -> Result<f64, ConfigError> {
    match metadata.optional_number(key)? {
        None => Ok(absent),
        Some(value) if value.is_finite() && value > 0.0 => Ok(value),
        Some(value) => Err(metadata.bad_value(key, value, "it must be a positive number".into())),
    }
}
