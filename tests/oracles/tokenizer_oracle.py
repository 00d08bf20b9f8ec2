"""Tokenization against other people's tokenizers, token by token.

    tokenizer_oracle.py TOKENIZE --model MODEL.gguf     the model, on 10,000 strings, against llama.cpp and Hugging Face's tokenizers
    tokenizer_oracle.py TOKENIZE --pre-tokenizers       every tokenizer.ggml.pre that llama.cpp knows too, on a vocabulary whose merges cross words
    tokenizer_oracle.py TOKENIZE --sentencepiece        a SentencePiece vocabulary, trained here, against sentencepiece and llama.cpp
    tokenizer_oracle.py --write-fixture FILE            small vocabularies of both kinds and what tokenizers and sentencepiece make of 60 strings,
                                                        for models/tests/tokenizer.rs (needs those two packages)

TOKENIZE is the built example: `cargo build --release -p models --example tokenize`. Each comparison needs its Python package
(llama-cpp-python, tokenizers, sentencepiece; gguf for the last two modes); what is not installed is said and skipped, and a run that
could compare with nothing fails. Strings are the same for the same --seed and checkout.
"""

import argparse
import importlib.util
import json
import random
import subprocess
import sys
import tempfile
import unicodedata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# The expressions of the models' own tokenizer.json, with the lookaheads that ours are written without.
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
SPACES = r"|\s+(?!\S)|\s+"
HUGGING_FACE = {
    "gpt-2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+" + SPACES,
    "qwen2": CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+" + SPACES,
    "llama-bpe": CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+" + SPACES,
    "tekken": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+" + SPACES,
    "gpt-4o": rf"[^\r\n\p{{L}}\p{{N}}]?[\p{{Lu}}\p{{Lt}}\p{{Lm}}\p{{Lo}}\p{{M}}]*[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}]+{CONTRACTIONS}?|[^\r\n\p{{L}}\p{{N}}]?[\p{{Lu}}\p{{Lt}}\p{{Lm}}\p{{Lo}}\p{{M}}]+[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}]*{CONTRACTIONS}?|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+" + SPACES,
    "kimi-k2": rf"[\p{{Han}}]+|[^\r\n\p{{L}}\p{{N}}]?[\p{{Lu}}\p{{Lt}}\p{{Lm}}\p{{Lo}}\p{{M}}&&[^\p{{Han}}]]*[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}&&[^\p{{Han}}]]+{CONTRACTIONS}?|[^\r\n\p{{L}}\p{{N}}]?[\p{{Lu}}\p{{Lt}}\p{{Lm}}\p{{Lo}}\p{{M}}&&[^\p{{Han}}]]+[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}&&[^\p{{Han}}]]*{CONTRACTIONS}?|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+" + SPACES,
    "qwen35": CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+" + SPACES,
    "bailingmoe": r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]" + SPACES,
    "seed-coder": CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+" + SPACES,
}
HUGGING_FACE["starcoder"] = [r"\p{N}", HUGGING_FACE["gpt-2"]]
HUGGING_FACE["falcon"] = [r"[\p{P}\$\+<=>\^~\|`]+", HUGGING_FACE["gpt-2"], "[0-9][0-9][0-9]"]
HUGGING_FACE["deepseek-coder"] = [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-\ud7ff]+", r"\p{N}"]
HUGGING_FACE["deepseek-v3"] = [
    r"\p{N}{1,3}",
    "[一-龥\u3040-ゟ゠-ヿ]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+""" + SPACES,
]
HUGGING_FACE["superbpe"] = [r"\p{N}+", r"(?=(\d{3})+(?!\d))"]
IGNORE_MERGES = {"llama-bpe", "tekken"}

# Names llama.cpp knows too. Where its rule is exact for ASCII alone (case in tekken, gpt-4o and their likes; digits in superbpe; white
# space in the older DeepSeeks) it is compared on ASCII alone; its rule for kimi-k2 has no case at all, so that one is compared with the
# model's own expression only.
LLAMA_CPP_NAMES = """gpt-2 default llama-bpe dbrx smaug-bpe glm4 chatglm-bpe qwen2 deepseek-r1-qwen megrez stablelm2 hunyuan qwen35 starcoder refact
    command-r smollm codeshell exaone minerva-7b falcon deepseek-llm deepseek-coder deepseek-v3 hunyuan-dense poro-chat bloom gpt3-finnish viking
    bailingmoe seed-coder mpt olmo jais trillion superbpe grok-2 lfm2 falcon3 tekken gpt-4o llama4 exaone4 exaone-moe""".split()
ASCII_ONLY = {"tekken", "gpt-4o", "llama4", "superbpe", "deepseek-llm", "deepseek-coder"}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("tokenize", type=Path, nargs="?")
    parser.add_argument("--write-fixture", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--pre-tokenizers", action="store_true")
    parser.add_argument("--sentencepiece", action="store_true")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=20260302)
    arguments = parser.parse_args()
    if arguments.write_fixture:
        write_fixture(arguments.write_fixture, arguments.seed)
        return
    if not arguments.tokenize:
        parser.error("the built example `tokenize` is needed")
    check = Check(arguments.tokenize)
    texts = strings(arguments.count, arguments.seed)
    if arguments.model:
        check_model(check, arguments.model, texts)
    if arguments.pre_tokenizers:
        check_pre_tokenizers(check, texts[: max(1, arguments.count // 5)])
    if arguments.sentencepiece:
        check_sentencepiece(check, texts)
    sys.exit(check.verdict())


class Check:
    """Runs ours, compares, and keeps the score."""

    def __init__(self, tokenize):
        self.tokenize, self.compared, self.failed = tokenize, 0, 0

    def ours(self, model, texts, *flags):
        lines = "".join(json.dumps(text) + "\n" for text in texts)
        run = subprocess.run([self.tokenize, model, *flags], input=lines.encode(), stdout=subprocess.PIPE, check=True)
        return [json.loads(line) for line in run.stdout.splitlines()]

    def equal(self, what, texts, ours, theirs):
        assert len(ours) == len(theirs) == len(texts), what
        wrong = [row for row in zip(texts, ours, theirs) if row[1] != row[2]]
        self.compared += 1
        self.failed += bool(wrong)
        print(f"{'FAIL' if wrong else 'ok  '} {what}: {len(texts) - len(wrong)} of {len(texts)} strings equal")
        for text, mine, other in wrong[:3]:
            print(f"     {text[:200]!r}\n       ours   {str(mine)[:300]}\n       theirs {str(other)[:300]}")

    def verdict(self):
        if not self.compared:
            print("nothing to compare with is installed", file=sys.stderr)
            return 2
        return 1 if self.failed else 0


def installed(package):
    found = importlib.util.find_spec(package) is not None
    if not found:
        print(f"skip {package} is not installed")
    return found


def check_model(check, model, texts):
    plain = check.ours(model, texts)
    check.equal(f"{model.name} reads back as written", texts, [row["text"] for row in plain], texts)
    if installed("llama_cpp"):
        for special in (False, True):
            flags = ["--parse-special"] if special else []
            ours = [row["ids"] for row in check.ours(model, texts, *flags)]
            check.equal(f"{model.name} against llama.cpp, special tokens {'parsed' if special else 'as text'}", texts, ours, llama_cpp(model, texts, special))
    if installed("tokenizers") and installed("gguf"):
        theirs = hugging_face(read_vocabulary(model), texts)
        check.equal(f"{model.name} against tokenizers", texts, [row["ids"] for row in plain], theirs)


def check_pre_tokenizers(check, texts):
    if not (installed("llama_cpp") and installed("tokenizers") and installed("gguf")):
        return
    vocabulary = train_crossing_vocabulary(texts)
    ascii_texts = [text for text in texts if text.isascii()]
    with tempfile.TemporaryDirectory() as folder:
        for name in sorted(set(LLAMA_CPP_NAMES) | set(HUGGING_FACE)):
            model = Path(folder) / "vocab.gguf"
            write_bpe(model, vocabulary | {"pre": name})
            if name in HUGGING_FACE:
                ours = [row["ids"] for row in check.ours(model, texts)]
                check.equal(f"pre {name} against tokenizers", texts, ours, hugging_face(vocabulary | {"pre": name}, texts))
            if name in LLAMA_CPP_NAMES:
                some = ascii_texts if name in ASCII_ONLY else texts
                ours = [row["ids"] for row in check.ours(model, some)]
                check.equal(f"pre {name} against llama.cpp", some, ours, llama_cpp(model, some, False))


def check_sentencepiece(check, texts):
    if not (installed("sentencepiece") and installed("gguf")):
        return
    with tempfile.TemporaryDirectory() as folder:
        for prefix in (True, False):
            processor = train_sentencepiece(folder, texts[:4000], 1500, prefix)
            model = Path(folder) / "spm.gguf"
            write_sentencepiece(model, processor, prefix)
            rows = check.ours(model, texts)
            what = f"sentencepiece {'with' if prefix else 'without'} a space before the first word"
            # A ▁ in a text reads back as the space it stands for, and a space is put after every special token.
            lossless = [i for i, text in enumerate(texts) if "▁" not in text and not (prefix and "think>" in text)]
            check.equal(f"{what} reads back as written", [texts[i] for i in lossless], [rows[i]["text"] for i in lossless], [texts[i] for i in lossless])
            # Two things differ on purpose: what sentencepiece itself refuses to keep (it ends a text at NUL), and where it puts its
            # space (before the text; llama.cpp and we: also after every special token).
            some = [i for i, text in enumerate(texts) if "\0" not in text and "think>" not in text and "▁" not in text]
            check.equal(f"{what} against sentencepiece", [texts[i] for i in some], [rows[i]["ids"] for i in some], [processor.encode(texts[i]) for i in some])
            if installed("llama_cpp"):
                for special in (False, True):
                    flags = ["--parse-special"] if special else []
                    ours = [row["ids"] for row in check.ours(model, texts, *flags)]
                    check.equal(f"{what} against llama.cpp, special {special}", texts, ours, llama_cpp(model, texts, special))


def llama_cpp(model, texts, special):
    import llama_cpp as library

    model = library.Llama(str(model), vocab_only=True, verbose=False)
    return [model.tokenize(text.encode(), add_bos=False, special=special) if text else [] for text in texts]


def hugging_face(vocabulary, texts):
    from tokenizers import Regex, Tokenizer, pre_tokenizers
    from tokenizers.models import BPE

    pre = vocabulary["pre"]
    ids = {token: index for index, token in enumerate(vocabulary["tokens"])}
    merges = [tuple(merge.split(" ")) for merge in vocabulary["merges"]]
    tokenizer = Tokenizer(BPE(vocab=ids, merges=merges, ignore_merges=pre in IGNORE_MERGES))
    tokenizer.add_tokens([token for token, kind in zip(vocabulary["tokens"], vocabulary["types"]) if kind == 4])
    steps = HUGGING_FACE[pre] if isinstance(HUGGING_FACE[pre], list) else [HUGGING_FACE[pre]]
    splits = [pre_tokenizers.Split(Regex(step), behavior="isolated") for step in steps]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    return [encoding.ids for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]


def read_vocabulary(model):
    from gguf import GGUFReader

    fields = GGUFReader(model).fields
    read = lambda key: fields[f"tokenizer.ggml.{key}"].contents()
    return {"tokens": read("tokens"), "types": read("token_type"), "merges": read("merges"), "pre": read("pre")}


def train_crossing_vocabulary(texts, vocab_size=6000):
    """Merges that cross spaces, digits, punctuation and lines: what a pre-tokenizer cuts, these would join."""
    from tokenizers import Tokenizer, pre_tokenizers, trainers
    from tokenizers.models import BPE

    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    # No merge may lead to a name like </s>: llama.cpp lets text become such a token, and we do not.
    texts = [text.replace("<", " ") for text in texts]
    pieces = [text[start : start + 12] for text in texts for start in range(0, len(text), 12)]
    tokenizer.train_from_iterator(pieces, trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False, max_token_length=24))
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    return {"tokens": tokens, "types": [1] * len(tokens), "merges": merges}


def train_sentencepiece(folder, texts, vocab_size, prefix):
    import sentencepiece

    path, corpus = Path(folder) / "spm", Path(folder) / "corpus.txt"
    corpus.write_text("\n".join(line for text in texts for line in text.split("\n") if line.strip() and "\0" not in line))
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(path), model_type="bpe", vocab_size=vocab_size, byte_fallback=True, character_coverage=0.98,
        normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=prefix, allow_whitespace_only_pieces=True,
        user_defined_symbols=["<think>", "</think>"], max_sentence_length=100_000, minloglevel=2, num_threads=1, hard_vocab_limit=False,
    )
    return sentencepiece.SentencePieceProcessor(model_file=str(path) + ".model")


def write_fixture(path, seed):
    texts = strings(2000, seed)
    shown = [text for text in texts if len(text) < 120 and "\0" not in text and "▁" not in text and "think>" not in text][:60]
    bpe = train_crossing_vocabulary(texts, 700)
    bpe["cases"] = {pre: hugging_face(bpe | {"pre": pre}, shown) for pre in sorted(HUGGING_FACE)}
    with tempfile.TemporaryDirectory() as folder:
        # Characters of few scripts, or the vocabulary would be all characters.
        processor = train_sentencepiece(folder, [text for text in texts if all(ord(c) < 0x250 for c in text)], 700, True)
        spm = describe_sentencepiece(processor)
        spm["cases"] = [processor.encode(text) for text in shown]
    path.write_text(json.dumps({"texts": shown, "bpe": bpe, "spm": spm}, ensure_ascii=False, separators=(",", ":")) + "\n")


def write_bpe(path, vocabulary):
    writer = start_gguf(path)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary["pre"])
    writer.add_token_list(vocabulary["tokens"])
    writer.add_token_types(vocabulary["types"])
    writer.add_token_merges(vocabulary["merges"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    finish_gguf(writer)


def write_sentencepiece(path, processor, prefix):
    writer = start_gguf(path)
    writer.add_tokenizer_model("llama")
    vocabulary = describe_sentencepiece(processor)
    writer.add_token_list(vocabulary["tokens"])
    writer.add_token_scores(vocabulary["scores"])
    writer.add_token_types(vocabulary["types"])
    writer.add_bos_token_id(processor.bos_id())
    writer.add_eos_token_id(processor.eos_id())
    writer.add_unk_token_id(processor.unk_id())
    writer.add_add_space_prefix(prefix)
    finish_gguf(writer)


def describe_sentencepiece(processor):
    ids = range(processor.get_piece_size())
    kinds = [2 if processor.is_unknown(i) else 3 if processor.is_control(i) else 6 if processor.is_byte(i) else 1 for i in ids]
    pieces = [processor.id_to_piece(i) for i in ids]
    kinds = [4 if piece in ("<think>", "</think>") else kind for piece, kind in zip(pieces, kinds)]
    return {"tokens": pieces, "scores": [processor.get_score(i) for i in ids], "types": kinds}


def start_gguf(path):
    from gguf import GGUFWriter

    writer = GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(32)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    return writer


def finish_gguf(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def strings(count, seed):
    """Code, prose, emoji, control characters, white space, numbers, many scripts, written-out special tokens, and mixtures."""
    rng = random.Random(seed)
    files = [path for suffix in ("rs", "py", "md", "toml") for path in sorted(ROOT.rglob(f"*.{suffix}")) if "target" not in path.parts and ".venv" not in path.parts]
    sources = [path.read_text() for path in files]
    sources = [source for source in sources if len(source) > 100]
    prose = "The understudy learns the part by watching; it stands ready. Don't we'll it's THEY'RE I'd naïve café Straße žluťoučký kůň Ελλάδα Привет мир שלום עולם مرحبا नमस्ते สวัสดี 日本語のテキスト 中文分词测试 한국어 문장 İstanbul ǅ ﬁ ① Ⅷ ½ ٣٤".split(" ")
    emoji = "🙂 👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇩🇪 ✈️ ☃ 🀄 e\u0301 a\u0308\u0323 \u200d \ufe0f \u202e \ufeff \u00a0 \u3000 \u2028 \u0085".split(" ")
    marks = "<|im_start|> <|im_end|> <think> </think> <tool_call> </tool_call> <|endoftext|> <|fim_prefix|> <s> </s> <unk> <0x0A> <| |> [INST] ▁ Ġ Ċ".split(" ")
    spaces = [" ", "  ", "    ", "\n", "\n\n", "\r\n", "\t", " \n ", "\u000b", "\u000c", "\u00a0", "\u2003"]

    def character():
        while True:
            number = rng.choice((rng.randrange(0x20), rng.randrange(0x20, 0x100), rng.randrange(0x3000), rng.randrange(0x10000), rng.randrange(0x110000)))
            # Code points that no character has (or had, in this Python's Unicode) are classed by each library's own Unicode version.
            if unicodedata.category(chr(number)) not in ("Cs", "Cn"):
                return chr(number)

    def piece():
        kind = rng.randrange(10)
        if kind < 2:
            source = rng.choice(sources)
            start = rng.randrange(len(source))
            return source[start : start + rng.choice((5, 40, 300))]
        if kind < 4:
            return rng.choice((" ", "  ", ", ", "")).join(rng.choice(prose) for _ in range(rng.randrange(1, 9)))
        if kind == 4:
            return rng.choice(emoji) * rng.randrange(1, 4)
        if kind == 5:
            return "".join(character() for _ in range(rng.randrange(1, 12)))
        if kind == 6:
            return "".join(rng.choice(spaces) for _ in range(rng.randrange(1, 8)))
        if kind == 7:
            return rng.choice((str(rng.randrange(10 ** rng.randrange(1, 14))), f"{rng.random()}", f"0x{rng.randrange(1 << 40):X}", "1,234,567.89", "2026-03-02T11:45:00Z"))
        if kind == 8:
            return rng.choice(marks)
        return "".join(rng.choice("'\"`.,;:!?-_=+*/\\|()[]{}<>@#$%^&~sStTdDlLvVrReEmM") for _ in range(rng.randrange(1, 10)))

    texts = ["", " ", "  ", "\n", "a", "\0", " a", "a ", "'s", "\u00e9", "🙂"]
    while len(texts) < count:
        texts.append("".join(piece() for _ in range(rng.choice((1, 1, 2, 3, 5, 12)))))
    return texts[:count]


if __name__ == "__main__":
    main()
