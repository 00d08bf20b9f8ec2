//! How much context and cache a budget buys. Pure: sizes in, a plan or a refusal with numbers out.
//!
//! Weights count in full although they are mapped: an understudy whose weights are paged out is not ready. Copied to huge pages they
//! count the same, since the system takes the file's pages back before it refuses memory to anybody; but then they must fit in what
//! is available, whatever the budget says.

use std::fmt;

use kernels::BLOCK_TOKENS;

use crate::config::settings::Source;
use crate::config::{Context, Memory};

/// Cache beyond one full conversation is taken up to this, unless `--memory` says how much there is.
const CACHE_BYTES_BY_DEFAULT: u64 = 2 << 30;

/// What a model needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    pub weight_bytes: u64,
    /// One block of [`BLOCK_TOKENS`] tokens in all layers.
    pub block_bytes: u64,
    /// Windows and recurrent state of one running sequence; 0: the model has none.
    pub state_bytes_per_sequence: u64,
    /// Activations and logits of a step.
    pub scratch_bytes: u64,
    /// The context the model declares, in tokens.
    pub context_max: usize,
    /// `None`: there is no draft model.
    pub draft: Option<DraftNeeds>,
}

/// What a draft model needs beside the model, counted as there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DraftNeeds {
    pub weight_bytes: u64,
    pub block_bytes: u64,
    pub scratch_bytes: u64,
    pub context_max: usize,
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub context: Context,
    pub context_origin: Source,
    pub parallel: usize,
    pub budget: Budget,
    /// Who asked for a draft model.
    pub draft_origin: Source,
}

/// How much memory there is, and who said so. Reads as `8.0 GiB (--memory)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget {
    pub memory: Memory,
    pub origin: Source,
}

/// What will be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Tokens of one conversation.
    pub context: usize,
    /// Blocks of the cache, shared by all conversations.
    pub blocks: usize,
    /// The cache when every block has been used; pages are touched only then.
    pub cache_bytes: u64,
    /// Sequences for whose windows and recurrent state there is room, and what that takes; those that do not run are cache.
    pub state_sequences: usize,
    pub state_bytes: u64,
    pub weight_bytes: u64,
    pub scratch_bytes: u64,
    pub budget_bytes: u64,
    pub draft: Option<DraftPlan>,
}

/// What a draft model will take, beside what is counted in [`Plan`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DraftPlan {
    /// Blocks of its own cache.
    pub blocks: usize,
    pub cache_bytes: u64,
    pub weight_bytes: u64,
    pub scratch_bytes: u64,
}

impl DraftPlan {
    pub fn bytes(&self) -> u64 {
        self.cache_bytes + self.weight_bytes + self.scratch_bytes
    }
}

/// Numbers for the user, and the way out. What is advised are flags: they beat whatever else told a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DoesNotFit {
    #[error(
        "the model needs {} (weights {}, scratch {}, cache of the shortest useful context of {least} tokens {}) and the budget is {budget}; \
         take a smaller model or quantisation, free memory, or raise --memory",
        Size((weight_bytes + scratch_bytes).saturating_add(*cache_bytes)), Size(*weight_bytes), Size(*scratch_bytes), Size(*cache_bytes)
    )]
    Model { weight_bytes: u64, scratch_bytes: u64, cache_bytes: u64, least: usize, budget: String },
    #[error(
        "{origin}: a context of {context} tokens needs {} of cache beside {} of weights and scratch, and the budget is {budget}; \
         at most --context {possible} fits, or raise --memory",
        Size(*cache_bytes), Size(*other_bytes)
    )]
    Context { origin: Source, context: usize, cache_bytes: u64, other_bytes: u64, possible: usize, budget: String },
    #[error("{origin}: {context} is more than the {context_max} tokens this model was made for")]
    BeyondModel { origin: Source, context: usize, context_max: usize },
    #[error(
        "{origin}: the draft model needs {} (weights {}, scratch {}, cache of {tokens} tokens {}) and the model with its cache leaves {} of the \
         budget of {budget}; take a smaller one, leave it out, shorten --context, or raise --memory",
        Size(weight_bytes + scratch_bytes + cache_bytes), Size(*weight_bytes), Size(*scratch_bytes), Size(*cache_bytes), Size(*left_bytes)
    )]
    Draft { origin: Source, weight_bytes: u64, scratch_bytes: u64, cache_bytes: u64, tokens: usize, left_bytes: u64, budget: String },
    #[error(
        "{origin}: a copy of the weights takes {} and {} are available; free memory, or leave the weights mapped (--weights map)",
        Size(*weight_bytes), Size(*available_bytes)
    )]
    Copy { origin: Source, weight_bytes: u64, available_bytes: u64 },
}

/// Windows and states that are kept beside those of sequences that run: as much as so many sequences take, which is two checkpoints each.
/// Three places of a conversation are worth one (end of instructions, last turn, end of prompt), so some five conversations are remembered.
const STATE_SEQUENCES_CACHED: usize = 8;

/// Below this a chat is over before it begins.
pub const CONTEXT_MIN: usize = 1024;

/// Decides context and blocks:
/// - the context is the model's (or the one asked for), cut down to what the budget holds only where none was asked for;
/// - the cache holds that context once, and beyond it up to `parallel` of them, as far as the budget and, where the budget is
///   a guess, [`CACHE_BYTES_BY_DEFAULT`] allow;
/// - a draft model's cache holds as many tokens as the model's, where the budget has them once one conversation of the model's fits: it
///   gives way, down to [`CONTEXT_MIN`] tokens, before the model does.
/// - windows and recurrent state are there for `parallel` sequences and [`STATE_SEQUENCES_CACHED`] more, or for as many as leave room for
///   the shortest useful context and, where the budget is a guess, fit in [`CACHE_BYTES_BY_DEFAULT`]; but for one at least.
pub fn plan(needs: Needs, wanted: Wanted) -> Result<Plan, DoesNotFit> {
    let Some(draft) = needs.draft else { return plan_within(wanted.budget.memory.bytes(), needs, wanted) };
    let (budget_bytes, one_block) = (wanted.budget.memory.bytes(), draft.block_bytes.max(1));
    let tokens = CONTEXT_MIN.min(draft.context_max);
    let fixed_bytes = draft.weight_bytes + draft.scratch_bytes;
    let least_bytes = fixed_bytes + blocks(tokens) as u64 * draft.block_bytes;
    let Ok(plan) = plan_within(budget_bytes.saturating_sub(least_bytes), needs, wanted.clone()) else {
        // Without it as without it; and what that leaves is too little.
        let alone = plan_within(budget_bytes, needs, wanted.clone())?;
        let one = alone.weight_bytes
            + alone.scratch_bytes
            + alone.state_bytes
            + blocks(alone.context.min(least_context(&needs, &wanted))) as u64 * needs.block_bytes;
        return Err(DoesNotFit::Draft {
            origin: wanted.draft_origin,
            weight_bytes: draft.weight_bytes,
            scratch_bytes: draft.scratch_bytes,
            cache_bytes: least_bytes - fixed_bytes,
            tokens,
            left_bytes: budget_bytes.saturating_sub(one),
            budget: wanted.budget.to_string(),
        });
    };
    // Both caches grow together beyond what each needs at least.
    let shared_bytes = budget_bytes.saturating_sub(plan.weight_bytes + plan.scratch_bytes + plan.state_bytes + fixed_bytes);
    let together = usize::try_from(shared_bytes / (needs.block_bytes + draft.block_bytes).max(1)).unwrap_or(usize::MAX);
    let of_model = plan.blocks.min(together.max(blocks(plan.context)));
    let cache_bytes = of_model as u64 * needs.block_bytes;
    let left = usize::try_from((shared_bytes - cache_bytes) / one_block).unwrap_or(usize::MAX);
    let of_draft = of_model.min(blocks(draft.context_max).saturating_mul(wanted.parallel)).min(left).max(blocks(tokens).min(left));
    let draft = DraftPlan {
        blocks: of_draft,
        cache_bytes: of_draft as u64 * draft.block_bytes,
        weight_bytes: draft.weight_bytes,
        scratch_bytes: draft.scratch_bytes,
    };
    Ok(Plan { blocks: of_model, cache_bytes, budget_bytes, draft: Some(draft), ..plan })
}

/// The shortest that would do.
fn least_context(needs: &Needs, wanted: &Wanted) -> usize {
    match wanted.context {
        Context::Tokens(context) => context,
        Context::OfModel => CONTEXT_MIN.min(needs.context_max),
    }
}

/// Of the model alone.
fn plan_within(budget_bytes: u64, needs: Needs, wanted: Wanted) -> Result<Plan, DoesNotFit> {
    let Wanted { context, context_origin: origin, parallel, budget, .. } = wanted;
    let least = CONTEXT_MIN.min(needs.context_max);
    let least_bytes = blocks(least) as u64 * needs.block_bytes;
    let left_for_state = match budget.memory {
        Memory::Told { .. } => u64::MAX,
        Memory::HalfOfAvailable { .. } => CACHE_BYTES_BY_DEFAULT,
    };
    let left_for_state = left_for_state.min(budget_bytes.saturating_sub(needs.weight_bytes + needs.scratch_bytes + least_bytes));
    let state_sequences = match left_for_state.checked_div(needs.state_bytes_per_sequence) {
        None => 0,
        Some(fit) => (parallel + STATE_SEQUENCES_CACHED).min(usize::try_from(fit).unwrap_or(usize::MAX)).max(1),
    };
    let state_bytes = (state_sequences as u64).saturating_mul(needs.state_bytes_per_sequence);
    let other_bytes = (needs.weight_bytes + needs.scratch_bytes).saturating_add(state_bytes);
    let cache_bytes_max = budget_bytes.saturating_sub(other_bytes);
    let blocks_max = usize::try_from(cache_bytes_max / needs.block_bytes.max(1)).unwrap_or(usize::MAX / BLOCK_TOKENS);
    let context = match context {
        Context::Tokens(context) if context > needs.context_max => {
            return Err(DoesNotFit::BeyondModel { origin, context, context_max: needs.context_max });
        }
        Context::Tokens(context) if blocks(context) <= blocks_max => context,
        // Not even a short one fits: a shorter --context is no way out.
        _ if blocks(least) > blocks_max => {
            let cache_bytes = least_bytes.saturating_add(state_bytes);
            let (weight_bytes, scratch_bytes) = (needs.weight_bytes, needs.scratch_bytes);
            return Err(DoesNotFit::Model { weight_bytes, scratch_bytes, cache_bytes, least, budget: budget.to_string() });
        }
        Context::Tokens(context) => {
            let cache_bytes = blocks(context) as u64 * needs.block_bytes;
            let possible = blocks_max.saturating_mul(BLOCK_TOKENS);
            let budget = budget.to_string();
            return Err(DoesNotFit::Context { origin, context, cache_bytes, other_bytes, possible, budget });
        }
        Context::OfModel => needs.context_max.min(blocks_max.saturating_mul(BLOCK_TOKENS)),
    };
    let one = blocks(context);
    let all = one.saturating_mul(parallel);
    let by_default = usize::try_from(CACHE_BYTES_BY_DEFAULT / needs.block_bytes.max(1)).unwrap_or(usize::MAX);
    let cap = match budget.memory {
        Memory::Told { .. } => blocks_max,
        Memory::HalfOfAvailable { .. } => blocks_max.min(by_default),
    };
    let blocks = all.min(cap).max(one);
    Ok(Plan {
        context,
        blocks,
        cache_bytes: blocks as u64 * needs.block_bytes,
        state_sequences,
        state_bytes,
        weight_bytes: needs.weight_bytes,
        scratch_bytes: needs.scratch_bytes,
        budget_bytes,
        draft: None,
    })
}

/// Whether a copy of the weights fits, told by `origin`: a budget may promise more than there is, and pages of a file can be given
/// back where those of a copy cannot.
pub fn copy_fits(weight_bytes: u64, available_bytes: u64, origin: &Source) -> Result<(), DoesNotFit> {
    match weight_bytes <= available_bytes {
        true => Ok(()),
        false => Err(DoesNotFit::Copy { origin: origin.clone(), weight_bytes, available_bytes }),
    }
}

/// Blocks that hold so many tokens.
fn blocks(tokens: usize) -> usize {
    tokens.div_ceil(BLOCK_TOKENS)
}

/// Bytes for people: `1.5 GiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = ["B", "KiB", "MiB", "GiB", "TiB"];
        let mut value = self.0 as f64;
        let mut unit = 0;
        while value >= 1024.0 && unit + 1 < units.len() {
            value /= 1024.0;
            unit += 1;
        }
        let decimals = usize::from(unit > 0 && value < 100.0);
        write!(f, "{value:.decimals$} {}", units[unit])
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = Size(self.memory.bytes());
        match self.memory {
            Memory::HalfOfAvailable { .. } => write!(f, "{size} (half of what is available)"),
            Memory::Told { .. } => write!(f, "{size} ({})", self.origin),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    /// Qwen2.5-1.5B in Q4_K_M: 28 layers x 2 x 2 heads x 128 x 32 tokens x 2 B = 896 KiB a block.
    const QWEN: Needs = Needs {
        weight_bytes: GIB,
        block_bytes: 28 * 2 * 2 * 128 * 32 * 2,
        state_bytes_per_sequence: 0,
        scratch_bytes: 64 << 20,
        context_max: 32_768,
        draft: None,
    };

    /// A quarter of its layers full attention, the others a state of 75 MiB, twice.
    const HYBRID: Needs = Needs { block_bytes: QWEN.block_bytes / 4, state_bytes_per_sequence: 150 << 20, ..QWEN };

    fn wanted(context: Context, memory: Memory) -> Wanted {
        let budget = Budget { memory, origin: Source::Flag("memory") };
        Wanted {
            context,
            context_origin: Source::Variable("UNDERSTUDY_CONTEXT".to_owned()),
            parallel: 8,
            budget,
            draft_origin: Source::Flag("draft_model"),
        }
    }

    /// A tenth of it: 24 layers of 2 heads of 64.
    const DRAFT: DraftNeeds =
        DraftNeeds { weight_bytes: GIB / 4, block_bytes: 24 * 2 * 2 * 64 * 32 * 2, scratch_bytes: 16 << 20, context_max: 8192 };

    #[test]
    fn a_draft_model_is_within_the_budget_and_gives_way_first() {
        let needs = Needs { draft: Some(DRAFT), ..QWEN };
        let (mut cut, mut whole) = (0, 0);
        for mebibytes in (1100..20_000).step_by(37) {
            for context in [Context::OfModel, Context::Tokens(5000)] {
                let memory = Memory::Told { bytes: mebibytes << 20 };
                let (with, without) = (plan(needs, wanted(context, memory)), plan(QWEN, wanted(context, memory)));
                let Ok(with) = with else {
                    let error = with.unwrap_err();
                    assert!(without.is_err() || matches!(error, DoesNotFit::Draft { .. }), "{mebibytes}: {error}");
                    continue;
                };
                let draft = with.draft.unwrap();
                let all = with.weight_bytes + with.scratch_bytes + with.cache_bytes + draft.bytes();
                assert!(all <= memory.bytes(), "{mebibytes}: {with:?}");
                assert!(with.blocks * BLOCK_TOKENS >= with.context && draft.blocks * BLOCK_TOKENS >= CONTEXT_MIN, "{mebibytes}: {with:?}");
                let wished = with.blocks.min(8 * 8192 / BLOCK_TOKENS);
                assert!(draft.blocks <= wished, "{mebibytes}: {with:?}");
                // What the draft model lacks, the model has not got beyond one conversation.
                assert!(draft.blocks == wished || with.blocks * BLOCK_TOKENS <= with.context + BLOCK_TOKENS, "{mebibytes}: {with:?}");
                cut += usize::from(draft.blocks < wished);
                whole += usize::from(draft.blocks == wished);
            }
        }
        assert!(cut > 3 && whole > 100, "{cut} {whole}");
    }

    #[test]
    fn a_draft_model_that_does_not_fit_is_refused_with_numbers() {
        let needs = Needs { draft: Some(DRAFT), ..QWEN };
        let error = plan(needs, wanted(Context::OfModel, Memory::Told { bytes: GIB + GIB / 4 })).unwrap_err().to_string();
        assert_eq!(
            error,
            "--draft-model: the draft model needs 284 MiB (weights 256 MiB, scratch 16.0 MiB, cache of 1024 tokens 12.0 MiB) and the model with \
             its cache leaves 164 MiB of the budget of 1.2 GiB (--memory); take a smaller one, leave it out, shorten --context, or raise --memory"
        );
        let error = plan(needs, wanted(Context::OfModel, Memory::Told { bytes: GIB })).unwrap_err();
        assert!(matches!(error, DoesNotFit::Model { .. }), "the model does not fit either: {error}");
    }

    #[test]
    fn a_large_machine_gets_the_whole_context_and_a_modest_cache() {
        let plan = plan(QWEN, wanted(Context::OfModel, Memory::HalfOfAvailable { bytes: 64 * GIB })).unwrap();
        assert_eq!(plan.context, 32_768);
        assert_eq!(plan.cache_bytes / QWEN.block_bytes, 2 * GIB / QWEN.block_bytes, "2 GiB in whole blocks, not 8 x 32k tokens = 7 GiB");
    }

    #[test]
    fn memory_that_was_given_is_used() {
        let plan = plan(QWEN, wanted(Context::OfModel, Memory::Told { bytes: 64 * GIB })).unwrap();
        assert_eq!(plan.blocks, 8 * 1024);
    }

    #[test]
    fn a_small_budget_cuts_the_context() {
        let memory = Memory::HalfOfAvailable { bytes: GIB + GIB / 2 };
        let plan = plan(QWEN, wanted(Context::OfModel, memory)).unwrap();
        assert!((1024..32_768).contains(&plan.context), "{plan:?}");
        assert_eq!(plan.blocks * BLOCK_TOKENS, plan.context);
        assert!(plan.weight_bytes + plan.scratch_bytes + plan.cache_bytes <= memory.bytes());
    }

    #[test]
    fn the_budget_is_never_exceeded() {
        for mebibytes in (1100..20_000).step_by(37) {
            for context in [Context::OfModel, Context::Tokens(5000)] {
                let memory = Memory::Told { bytes: mebibytes << 20 };
                if let Ok(plan) = plan(QWEN, wanted(context, memory)) {
                    assert!(plan.weight_bytes + plan.scratch_bytes + plan.cache_bytes <= memory.bytes(), "{mebibytes}: {plan:?}");
                    assert!(plan.blocks * BLOCK_TOKENS >= plan.context, "one conversation must fit: {plan:?}");
                    assert!(plan.context >= CONTEXT_MIN);
                }
            }
        }
    }

    #[test]
    fn states_are_planned_for_those_that_run_and_some_more_or_for_as_many_as_fit() {
        let plan_in = |mebibytes: u64| plan(HYBRID, wanted(Context::OfModel, Memory::Told { bytes: mebibytes << 20 }));
        let ample = plan_in(64 << 10).unwrap();
        assert_eq!((ample.state_sequences, ample.state_bytes), (16, 16 * (150 << 20)));
        let scarce = plan_in(1024 + 64 + 500).unwrap();
        // 1,024 tokens of full attention take 7 MiB: three states are left room for.
        assert_eq!(scarce.state_sequences, 3);
        for mebibytes in (1000..6000).step_by(13) {
            if let Ok(plan) = plan_in(mebibytes) {
                let all = plan.weight_bytes + plan.scratch_bytes + plan.cache_bytes + plan.state_bytes;
                assert!(all <= mebibytes << 20 && plan.state_sequences > 0 && plan.context >= CONTEXT_MIN, "{mebibytes}: {plan:?}");
            }
        }
        let error = plan_in(1024 + 64 + 100).unwrap_err().to_string();
        assert!(error.contains("cache of the shortest useful context of 1024 tokens 157 MiB"), "{error}");
        let plan = plan(QWEN, wanted(Context::OfModel, Memory::Told { bytes: GIB * 2 })).unwrap();
        assert_eq!((plan.state_sequences, plan.state_bytes), (0, 0), "layers that see everything have none");
    }

    #[test]
    fn refusals_have_numbers() {
        let told = Memory::Told { bytes: GIB };
        let error = plan(QWEN, wanted(Context::OfModel, told)).unwrap_err().to_string();
        assert!(error.contains("weights 1.0 GiB") && error.contains("the budget is 1.0 GiB (--memory)"), "{error}");
        let half = Memory::HalfOfAvailable { bytes: GIB + GIB / 2 };
        let error = plan(QWEN, wanted(Context::Tokens(32_768), half)).unwrap_err().to_string();
        assert!(error.starts_with("UNDERSTUDY_CONTEXT: a context of 32768 tokens needs 896 MiB of cache"), "{error}");
        assert!(error.contains("1.5 GiB (half of what is available)") && error.contains("--context 16384 fits"), "{error}");
        let error = plan(QWEN, wanted(Context::Tokens(32_768), told)).unwrap_err().to_string();
        assert!(error.contains("take a smaller model") && !error.contains("--context"), "nothing fits, so no context does: {error}");
        let error = plan(QWEN, wanted(Context::Tokens(40_000), told)).unwrap_err().to_string();
        assert_eq!(error, "UNDERSTUDY_CONTEXT: 40000 is more than the 32768 tokens this model was made for");
    }

    #[test]
    fn a_copy_must_fit_in_what_is_available() {
        assert_eq!(copy_fits(GIB, GIB, &Source::Flag("weights")), Ok(()));
        let error = copy_fits(GIB + GIB / 2, GIB, &Source::Flag("weights")).unwrap_err().to_string();
        assert!(error.starts_with("--weights: a copy of the weights takes 1.5 GiB and 1.0 GiB are available"), "{error}");
    }

    #[test]
    fn sizes_for_people() {
        for (bytes, text) in [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (900 << 20, "900 MiB"), (3 << 29, "1.5 GiB")] {
            assert_eq!(Size(bytes).to_string(), text);
        }
    }
}
