#!/usr/bin/env python3
"""Makes the fixtures of oracle 1: tiny random models, run by `transformers`, written as GGUF by our own conversion.

    pip install torch transformers gguf        (CPU wheels are enough)
    python tests/oracles/make_fixtures.py      (rewrites tests/oracles/fixtures)

Each fixture is three files: `NAME.gguf` (f32 weights), `NAME.json` (prompts, the positions whose logits are kept, the greedy
continuation), `NAME.logits.bin` (f32, little-endian, `[kept positions of all prompts, vocab]`, prompt after prompt).
`rope.json` holds inverse frequencies of scaled rotary embeddings as `transformers` computes them.

The conversion is written here, from the tensor names of both sides, so that it checks the reading side of `models` and not
somebody's converter. The weights come from numpy's seeded generator: the same files come out of any version of torch, up to
the last bits of the logits.
"""

import json
import sys
from pathlib import Path

import gguf
import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

FIXTURES = Path(__file__).parent / "fixtures"
GREEDY_TOKENS = 64
# The reader of the fixtures allows 2e-3 on a logit, so no greedy choice may hang on less than twice that.
GREEDY_MARGIN_MIN = 6e-3

COMMON = dict(hidden_size=64, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512, attention_dropout=0.0)

MODELS = {
    # Interleaved rotation (rows permuted by the conversion), output layer of its own.
    "llama": (
        LlamaForCausalLM,
        LlamaConfig(vocab_size=288, intermediate_size=96, num_hidden_layers=2, rms_norm_eps=1e-5, tie_word_embeddings=False,
                    rope_parameters={"rope_type": "default", "rope_theta": 10000.0}, **COMMON),
    ),
    # Llama 3's frequency factors (original context so short that all three of its cases occur), tied output, three query heads a key head.
    "llama3": (
        LlamaForCausalLM,
        LlamaConfig(vocab_size=301, intermediate_size=112, num_hidden_layers=2, rms_norm_eps=1e-5, tie_word_embeddings=True,
                    rope_parameters={"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
                                     "high_freq_factor": 4.0, "original_max_position_embeddings": 64},
                    **{**COMMON, "hidden_size": 48, "num_attention_heads": 6, "head_dim": 16}),
    ),
    # Biases on query, key and value.
    "qwen2": (
        Qwen2ForCausalLM,
        Qwen2Config(vocab_size=320, intermediate_size=96, num_hidden_layers=2, rms_norm_eps=1e-6, tie_word_embeddings=True,
                    use_sliding_window=False, rope_parameters={"rope_type": "default", "rope_theta": 1000000.0}, **COMMON),
    ),
    # Norm of each head, heads wider than hidden / heads, three layers.
    "qwen3": (
        Qwen3ForCausalLM,
        Qwen3Config(vocab_size=311, intermediate_size=64, num_hidden_layers=3, rms_norm_eps=1e-6, tie_word_embeddings=True,
                    head_dim=24, use_sliding_window=False,
                    rope_parameters={"rope_type": "default", "rope_theta": 1000000.0}, **{**COMMON, "hidden_size": 48}),
    ),
    # Three of ten experts a token, whose weights are renormalised; experts whose width fills no tile.
    "qwen3moe": (
        Qwen3MoeForCausalLM,
        Qwen3MoeConfig(vocab_size=305, intermediate_size=96, num_hidden_layers=2, rms_norm_eps=1e-6, tie_word_embeddings=False,
                       head_dim=24, use_sliding_window=False, num_experts=10, num_experts_per_tok=3, moe_intermediate_size=20,
                       norm_topk_prob=True, rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
                       **{**COMMON, "hidden_size": 48}),
    ),
}

# Prompt lengths: one token, inside one block of 32, across two blocks, across four.
PROMPT_LENGTHS = [1, 9, 45, 100]

ROPE_CASES = {
    "llama3": {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 8192},
    "linear": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
    "yarn": {"rope_type": "yarn", "rope_theta": 1000000.0, "factor": 4.0, "original_max_position_embeddings": 32768},
    "yarn_betas": {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 16.0, "original_max_position_embeddings": 4096,
                   "beta_fast": 24.0, "beta_slow": 2.0},
}


def randomise(model, seed):
    """Weights that make a lively model: attention that looks around, logits with clear winners, norms and biases that matter."""
    random = np.random.default_rng(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            shape = tuple(parameter.shape)
            if name.endswith("norm.weight"):
                values = 1.0 + 0.25 * random.standard_normal(shape)
            elif name.endswith(".bias"):
                values = 0.3 * random.standard_normal(shape)
            elif "embed_tokens" in name:
                values = 0.8 * random.standard_normal(shape)
            elif "lm_head" in name:
                values = 6.0 * random.standard_normal(shape) / np.sqrt(shape[1])
            elif "o_proj" in name or "down_proj" in name:
                # Loud enough that a tied output layer does not just say the input token again.
                values = 3.0 * random.standard_normal(shape) / np.sqrt(shape[-1])
            else:
                values = 1.3 * random.standard_normal(shape) / np.sqrt(shape[-1])
            parameter.copy_(torch.from_numpy(values.astype(np.float32)))


def interleave_rows(weight, heads):
    """Row `i` and row `i + half` of a head become rows `2i` and `2i + 1`: GGUF's llama rotates neighbours."""
    head_dim = weight.shape[0] // heads
    return weight.reshape(heads, 2, head_dim // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def llama3_factors(config):
    """`rope_freqs.weight`: what each inverse frequency is divided by."""
    dim = config.head_dim
    plain = 1.0 / (config.rope_parameters["rope_theta"] ** (np.arange(0, dim, 2, dtype=np.float64) / dim))
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    return (plain / scaled.double().numpy()).astype(np.float32)


def write_gguf(path, model, architecture):
    config = model.config
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(head_dim)
    if architecture == "qwen3moe":
        writer.add_expert_count(config.num_experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)
    if head_dim * heads != config.hidden_size:
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)

    def add(name, array):
        writer.add_tensor(name, np.ascontiguousarray(array, dtype=np.float32))

    weights = {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}
    add("token_embd.weight", weights.pop("model.embed_tokens.weight"))
    add("output_norm.weight", weights.pop("model.norm.weight"))
    if "lm_head.weight" in weights:
        add("output.weight", weights.pop("lm_head.weight"))
    if config.rope_parameters["rope_type"] == "llama3":
        add("rope_freqs.weight", llama3_factors(config))
    names = {
        "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
        "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
        "mlp.gate": "ffn_gate_inp",
    }
    for name, array in weights.items():
        _, _, layer, rest = name.split(".", 3)
        if rest == "mlp.experts.gate_up_proj":
            # [experts, gate above up, hidden]
            gate, up = np.split(array, 2, axis=1)
            add(f"blk.{layer}.ffn_gate_exps.weight", gate)
            add(f"blk.{layer}.ffn_up_exps.weight", up)
            continue
        if rest == "mlp.experts.down_proj":
            add(f"blk.{layer}.ffn_down_exps.weight", array)
            continue
        part, kind = rest.rsplit(".", 1)
        if architecture == "llama" and part.endswith(("q_proj", "k_proj")):
            array = interleave_rows(array, heads if part.endswith("q_proj") else kv_heads)
        add(f"blk.{layer}.{names[part]}.{kind}", array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def prompts_of(vocab, seed):
    random = np.random.default_rng(seed + 1000)
    return [[int(id) for id in random.integers(0, vocab, length)] for length in PROMPT_LENGTHS]


def run(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].float()


def greedy(model, prompt):
    """The continuation, and the smallest lead a chosen token had over the second. Recomputed whole: no cache of theirs to trust."""
    ids, margin = list(prompt), float("inf")
    for _ in range(GREEDY_TOKENS):
        best = run(model, ids)[-1].topk(2)
        margin = min(margin, float(best.values[0] - best.values[1]))
        if margin < GREEDY_MARGIN_MIN:
            break
        ids.append(int(best.indices[0]))
    return ids[len(prompt):], margin


def make(name, model_class, config):
    """The first seed whose greedy continuations are varied and hang on no hair."""
    for seed in range(100):
        model = model_class(config).eval().float()
        randomise(model, seed)
        prompts = prompts_of(config.vocab_size, seed)
        continuations = []
        for prompt in prompts:
            continuations.append(greedy(model, prompt))
            if continuations[-1][1] < GREEDY_MARGIN_MIN:
                break
        else:
            if sum(len(set(tokens)) >= 16 for tokens, _ in continuations) >= 2:
                break
    else:
        sys.exit(f"{name}: no seed below 100 makes a fixture")

    architecture = "llama" if name.startswith("llama") else name
    write_gguf(FIXTURES / f"{name}.gguf", model, architecture)
    cases, kept = [], []
    for prompt, (continuation, margin) in zip(prompts, continuations):
        whole = prompt + continuation
        logits = run(model, whole)
        # First, second, around block edges, last of the prompt, last of all.
        positions = sorted({p for p in (0, 1, 31, 32, 63, 64, len(prompt) - 1, len(whole) - 1) if p < len(whole)})
        kept.append(logits[positions].numpy())
        cases.append({"prompt": prompt, "greedy": continuation, "greedy_margin": margin, "logit_positions": positions})
    (FIXTURES / f"{name}.json").write_text(json.dumps({"vocab": config.vocab_size, "seed": seed, "cases": cases}) + "\n")
    np.concatenate(kept).astype("<f4").tofile(FIXTURES / f"{name}.logits.bin")
    spread = float(np.concatenate(kept).std())
    print(f"{name}: seed {seed}, logit standard deviation {spread:.2f}, "
          f"margins {[round(c['greedy_margin'], 3) for c in cases]}, distinct {[len(set(c['greedy'])) for c in cases]}")


def make_rope():
    cases = {}
    for name, parameters in ROPE_CASES.items():
        config = LlamaConfig(hidden_size=64 * 8, num_attention_heads=8, max_position_embeddings=131072, rope_parameters=dict(parameters))
        inverse_frequency, attention_factor = ROPE_INIT_FUNCTIONS[parameters["rope_type"]](config, torch.device("cpu"))
        plain = 1.0 / (parameters["rope_theta"] ** (np.arange(0, 64, 2, dtype=np.float64) / 64))
        cases[name] = {"parameters": parameters, "rotary_dim": 64, "attention_factor": float(attention_factor),
                       "inverse_frequency": [float(x) for x in inverse_frequency],
                       "plain_over_scaled": [float(x) for x in plain / inverse_frequency.double().numpy()]}
    (FIXTURES / "rope.json").write_text(json.dumps(cases) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    FIXTURES.mkdir(exist_ok=True)
    for name, (model_class, config) in MODELS.items():
        make(name, model_class, config)
    make_rope()
