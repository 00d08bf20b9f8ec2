"""Writes a checkpoint as GGUF: qwen3 architecture, Q8_0 matrices, F32 norms, tokenizer and chat template inside.

    python export.py --checkpoint RUN/latest.pt --tokenizer DATA/tokenizer.json --out understudy-mini.gguf [--f32]

Of several checkpoints the mean of the weights is written (Wortsman et al. 2022, "Model soups"): they must come from one run.
"""
import argparse, json, os, pathlib

import gguf, numpy, torch

from generate import CONTROL, USER_DEFINED

CONTEXT = 65_536


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--checkpoint", required=True, nargs="+")
    arguments.add_argument("--tokenizer", required=True)
    arguments.add_argument("--out", required=True)
    arguments.add_argument("--f32", action="store_true", help="keep the matrices in f32, to measure what quantising costs")
    arguments = arguments.parse_args()
    saved = [torch.load(path, weights_only=False, map_location="cpu") for path in arguments.checkpoint]
    config = saved[0]["config"]
    weights = {name: sum(one["model"][name] for one in saved) / len(saved) for name in saved[0]["model"]}
    temporary = arguments.out + ".tmp"
    writer = gguf.GGUFWriter(temporary, "qwen3")
    metadata(writer, config, sum(w.numel() for w in weights.values()))
    vocabulary(writer, json.loads(pathlib.Path(arguments.tokenizer).read_text()))
    for name, weight in weights.items():
        data = weight.float().numpy()
        if data.ndim == 2 and not arguments.f32:
            writer.add_tensor(gguf_name(name), gguf.quants.quantize(data, gguf.GGMLQuantizationType.Q8_0), raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        else:
            writer.add_tensor(gguf_name(name), numpy.ascontiguousarray(data))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.replace(temporary, arguments.out)
    print(arguments.out, os.path.getsize(arguments.out), "bytes, after", " and ".join(str(one["state"]["tokens"]) for one in saved), "tokens")


def metadata(writer, config, parameters):
    writer.add_name("Understudy Mini")
    writer.add_basename("understudy-mini")
    writer.add_author("The Understudy project")
    writer.add_license("MIT OR Apache-2.0")
    writer.add_description("The built-in model of Understudy: tiny, trained from scratch by the project. Answers questions about Understudy, calls simple tools, completes lines of Rust and Python.")
    writer.add_size_label(f"{parameters / 1e6:.1f}M")
    writer.add_languages(["en"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(config["hidden"])
    writer.add_block_count(config["layers"])
    writer.add_feed_forward_length(config["feed_forward"])
    writer.add_head_count(config["heads"])
    writer.add_head_count_kv(config["kv_heads"])
    writer.add_key_length(config["head"])
    writer.add_value_length(config["head"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["epsilon"])
    writer.add_vocab_size(config["vocabulary"])
    # The default sampling, which the card explains: greedy where a request says nothing.
    writer.add_float32("general.sampling.temp", 0.0)
    writer.add_float32("general.sampling.top_p", 1.0)
    writer.add_int32("general.sampling.top_k", 0)
    writer.add_float32("general.sampling.penalty_repeat", 1.0)


def vocabulary(writer, tokenizer):
    size = len(tokenizer["model"]["vocab"]) + len([t for t in tokenizer["added_tokens"] if t["content"] not in tokenizer["model"]["vocab"]])
    tokens = [None] * size
    for token, index in tokenizer["model"]["vocab"].items():
        tokens[index] = token
    for token in tokenizer["added_tokens"]:
        tokens[token["id"]] = token["content"]
    assert None not in tokens
    kinds = [gguf.TokenType.CONTROL if t in CONTROL else gguf.TokenType.USER_DEFINED if t in USER_DEFINED else gguf.TokenType.NORMAL for t in tokens]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in tokenizer["model"]["merges"]])
    index = {token: i for i, token in enumerate(tokens)}
    writer.add_eos_token_id(index["<|im_end|>"])
    writer.add_eot_token_id(index["<|im_end|>"])
    writer.add_pad_token_id(index["<|endoftext|>"])
    writer.add_add_bos_token(False)
    writer.add_uint32("tokenizer.ggml.fim_pre_token_id", index["<|fim_prefix|>"])
    writer.add_uint32("tokenizer.ggml.fim_suf_token_id", index["<|fim_suffix|>"])
    writer.add_uint32("tokenizer.ggml.fim_mid_token_id", index["<|fim_middle|>"])
    writer.add_uint32("tokenizer.ggml.fim_pad_token_id", index["<|fim_pad|>"])
    writer.add_chat_template(pathlib.Path(__file__).with_name("chat_template.jinja").read_text())


def gguf_name(name):
    top = {"embedding": "token_embd.weight", "norm": "output_norm.weight"}
    if name in top:
        return top[name]
    _, block, part = name.split(".")
    return f"blk.{block}." + {"attention_norm": "attn_norm", "ffn_norm": "ffn_norm", "q_norm": "attn_q_norm", "k_norm": "attn_k_norm", "q": "attn_q", "k": "attn_k", "v": "attn_v", "o": "attn_output", "gate": "ffn_gate", "up": "ffn_up", "down": "ffn_down"}[part] + ".weight"


if __name__ == "__main__":
    main()
