"""Builds the training documents: tokenizer, code, fill-in-the-middle, help, small talk, refusals, tools, copying.

Reads questions.txt and the corpus folder of corpus.py; writes tokenizer.json and one .npz per stream, with the tokens
and which of them carry loss. Everything is drawn from one seed. It knows nothing of the network that is trained.

    python generate.py --corpus CORPUS --out OUT --seed 1 [--tokenizer-only]
"""
import argparse, json, pathlib, random, re

import jinja2, numpy
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from conversations import AGENT_LINES, World, help_turn, offered_tools, refusal_turn, tools_conversation

VOCABULARY = 4096
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>"]
USER_DEFINED = ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<tools>", "</tools>"]
QWEN2 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# The merges are learned on a finer split: nothing leads a word, not even a space, so that `src` is one token in ` src`, `"src`, `/src` and `(src`.
# A sentence costs about half as many tokens more, and copying a word from a request into JSON is copying a token.
FINER = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--corpus", required=True)
    arguments.add_argument("--out", required=True)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--scale", type=float, default=1.0, help="of the number of documents")
    arguments.add_argument("--only", default="", help="streams, separated by commas")
    arguments = arguments.parse_args()
    out = pathlib.Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    corpus = {name: json.loads((pathlib.Path(arguments.corpus) / f"{name}.json").read_text()) for name in ("rust", "python")}
    makers = {"help": help_document, "talk": refusal_document, "tools": tools_document, "copy": copy_document, "code": code_document, "fim": fim_document, "long": long_document}
    counts = {"help": 50_000, "talk": 12_000, "tools": 16_000, "copy": 8_000, "code": 9_000, "fim": 9_000, "long": 1_200}
    if not (out / "tokenizer.json").exists():
        train_tokenizer(corpus, out / "tokenizer.json")
    tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
    for stream in (arguments.only.split(",") if arguments.only else [*makers, "repeat"]):
        rng = random.Random(f"{arguments.seed} {stream}")
        if stream == "repeat":
            repeat_stream(out / "repeat.npz", tokenizer)
            continue
        world = Corpus(rng, corpus, tokenizer)
        texts = [makers[stream](world) for _ in range(int(counts[stream] * arguments.scale))]
        write_stream(out / f"{stream}.npz", stream, texts, tokenizer)


class Corpus(World):
    """A world that also has code, vocabulary pieces for made-up words, and the chat template."""
    def __init__(self, rng, corpus, tokenizer=None):
        super().__init__(rng)
        self.corpus, self.template = corpus, chat_template()
        self.pieces = sorted(t for t in tokenizer.get_vocab() if t.isascii() and t.isalpha()) if tokenizer else []

    def render(self, messages, tools=None, generation=False):
        return self.template.render(messages=messages, tools=tools, add_generation_prompt=generation)


def chat_template():
    """The template that the GGUF carries."""
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment.from_string(pathlib.Path(__file__).with_name("chat_template.jinja").read_text())


def help_document(world):
    messages = world.system(0.25)
    for _ in range(world.rng.choice([1, 1, 1, 2, 2, 3])):
        messages += help_turn(world) if world.rng.random() < 0.93 else refusal_turn(world)
    return world.render(messages)


def refusal_document(world):
    messages = world.system(0.3)
    for _ in range(world.rng.choice([1, 1, 2])):
        messages += refusal_turn(world) if world.rng.random() < 0.85 else help_turn(world)
    return world.render(messages)


def tools_document(world, turns=None):
    messages, tools = tools_conversation(world, turns or world.rng.choice([1, 2, 3, 4, 5]))
    return world.render(messages, tools)


def copy_document(world):
    """Copying, without and with the chat format: random words come back as text, as JSON, by key, after a marker."""
    rng = world.rng
    def word():
        made = "".join(rng.choice(world.pieces) for _ in range(rng.choice([1, 1, 2, 2, 3])))
        return made if rng.random() < 0.6 else made.capitalize() if rng.random() < 0.5 else str(rng.randrange(10 ** rng.randrange(1, 6))) if rng.random() < 0.4 else rng.choice([world.values.path, world.values.name, world.values.url])()
    messages = []
    for _ in range(rng.randrange(2, 5)):
        words = [word() for _ in range(rng.randrange(1, 7))]
        plain = " ".join(words)
        draw = rng.random()
        if draw < 0.35:
            user, answer = rng.choice(["repeat after me: {}", "repeat: {}", "copy this: {}", "say exactly: {}", "repeat \"{}\""]).format(plain), plain
        elif draw < 0.7:
            user, answer = rng.choice(["as json: {}", "write as a json list: {}"]).format(plain), json.dumps(words)
        elif draw < 0.85:
            names = rng.sample(["key", "name", "path", "value", "city", "id", "text"], min(len(words), 4))
            user, answer = "as a json object: " + ", ".join(f"{n} {w}" for n, w in zip(names, words)), json.dumps(dict(zip(names, words)))
        else:
            names = rng.sample(world.pieces, len(words))
            at = rng.randrange(len(words))
            user, answer = "; ".join(f"{n} is {w}" for n, w in zip(names, words)) + f". what is {names[at]}", words[at]
        messages += [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]
    return world.render(messages)


def code_piece(world, length):
    rng = world.rng
    text = rng.choice(world.corpus["rust" if rng.random() < 0.65 else "python"])
    start = 0 if rng.random() < 0.1 else text.rfind("\n", 0, rng.randrange(max(1, len(text) - length // 2))) + 1
    end = text.rfind("\n", start + 1, start + length) + 1
    return text[start:end if end > start else start + length]


def code_document(world):
    return code_piece(world, world.rng.randrange(500, 1800)) + "<|im_end|>"


def fim_document(world):
    rng = world.rng
    text = code_piece(world, rng.randrange(300, 1400))
    lines = text.split("\n")
    full = [i for i, line in enumerate(lines) if line.strip()] or [0]
    line = rng.choice(full)
    start = sum(len(l) + 1 for l in lines[:line])
    cursor = start + rng.randrange(len(lines[line]) + 1)
    draw = rng.random()
    if draw < 0.55:
        end = start + len(lines[line])
    elif draw < 0.8:
        end = rng.randrange(cursor, start + len(lines[line]) + 1)
    else:
        end = sum(len(l) + 1 for l in lines[:line + rng.randrange(1, 4)]) - 1
    end = max(end, cursor)
    return f"<|fim_prefix|>{text[:cursor]}<|fim_suffix|>{text[end:]}<|fim_middle|>{text[cursor:end]}<|im_end|>"


def long_document(world, characters=None):
    """A long system prompt as agents send it, mostly foreign text, with many tools; then ordinary turns."""
    rng = world.rng
    characters = characters or rng.choice([3_000, 5_000, 8_000, 16_000])
    parts = []
    while sum(map(len, parts)) < characters:
        parts.append(code_piece(world, rng.randrange(200, 1500)) if rng.random() < 0.4 else "\n".join(world.fill(rng.choice(AGENT_LINES)) for _ in range(rng.randrange(3, 20))))
    system = [{"role": "system", "content": "\n".join(parts)}]
    if rng.random() < 0.5:
        messages, tools = tools_conversation(world, rng.choice([3, 5, 7]))
        names = {tool["function"]["name"] for tool in tools}
        tools += [tool.definition for tool in offered_tools(world, rng.randrange(2, 12)) if tool.name not in names]
        rng.shuffle(tools)
        return world.render(system + [m for m in messages if m["role"] != "system"], tools)
    messages = []
    for _ in range(rng.choice([2, 4, 6])):
        messages += help_turn(world) if rng.random() < 0.6 else refusal_turn(world)
    return world.render(system + messages)


def repeat_stream(path, tokenizer, tokens_max=1_500_000):
    """Random tokens, then the same again or parts of them: nothing but copying. Loss on what can be copied."""
    rng = numpy.random.default_rng(5)
    ordinary = VOCABULARY - len(CONTROL + USER_DEFINED)
    tokens, mask, offsets = [], [], [0]
    while offsets[-1] < tokens_max:
        length, times = int(rng.integers(4, 48)), int(rng.integers(2, 6))
        first = rng.integers(0, ordinary, length)
        parts, loss = [first], [numpy.zeros(length)]
        partly = rng.random() < 0.5
        for _ in range(times - 1):
            low = int(rng.integers(0, max(1, length - 3))) if partly else 0
            high = int(rng.integers(low + 3, length + 1)) if partly and low + 3 <= length else length
            parts.append(first[low:high])
            loss.append(numpy.ones(high - low))
            if partly or len(parts) == 2:
                loss[-1][0] = 0
        tokens += parts
        mask += loss
        offsets.append(offsets[-1] + sum(map(len, parts)))
    numpy.savez(path, tokens=numpy.concatenate(tokens).astype(numpy.uint16), mask=numpy.concatenate(mask).astype(numpy.uint8), offsets=numpy.array(offsets))


def train_tokenizer(corpus, path):
    """Byte-level BPE; code and chat in equal parts, so that the words of both are whole tokens."""
    world = Corpus(random.Random(3), corpus)
    chat = [help_document(world) for _ in range(12_000)] + [refusal_document(world) for _ in range(2_000)] + [tools_document(world) for _ in range(2_000)]
    chat = [re.sub("|".join(map(re.escape, CONTROL + USER_DEFINED)), "", text) for text in chat]
    code = random.Random(4).sample(corpus["rust"], 450) + random.Random(4).sample(corpus["python"], 120)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(FINER), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.train_from_iterator(chat + code, trainers.BpeTrainer(vocab_size=VOCABULARY - len(CONTROL + USER_DEFINED), initial_alphabet=alphabet, show_progress=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(QWEN2), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in CONTROL])
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in USER_DEFINED])
    assert tokenizer.get_vocab_size() == VOCABULARY, tokenizer.get_vocab_size()
    tokenizer.save(str(path))


def write_stream(path, stream, texts, tokenizer):
    """Tokens, loss mask (chat: the assistant's turns; fill-in-the-middle and code: everything) and document starts."""
    start, assistant, end = tokenizer.token_to_id("<|im_start|>"), tokenizer.encode("assistant\n").ids, tokenizer.token_to_id("<|im_end|>")
    tokens, mask, offsets = [], [], [0]
    for encoding in tokenizer.encode_batch(texts):
        ids = encoding.ids
        if stream in ("code", "fim"):
            loss = [1] * len(ids)
        else:
            loss, inside, i = [0] * len(ids), False, 0
            while i < len(ids):
                loss[i] = int(inside)
                if ids[i] == start and ids[i + 1:i + 1 + len(assistant)] == assistant:
                    inside, i = True, i + 1 + len(assistant)
                    continue
                if ids[i] == end:
                    inside = False
                i += 1
        tokens += ids
        mask += loss
        offsets.append(len(tokens))
    numpy.savez(path, tokens=numpy.array(tokens, dtype=numpy.uint16), mask=numpy.array(mask, dtype=numpy.uint8), offsets=numpy.array(offsets, dtype=numpy.int64))
    characters = sum(map(len, texts))
    print(f"{stream}: {len(texts)} documents, {len(tokens)} tokens, {sum(mask)} with loss, {characters / len(tokens):.2f} characters a token", flush=True)


if __name__ == "__main__":
    main()
