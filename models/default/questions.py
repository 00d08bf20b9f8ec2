"""Reads questions.txt: what can be asked about Understudy, how, and what the answer is. Knows nothing of tokens."""
import pathlib, random, re

FILE = pathlib.Path(__file__).with_name("questions.txt")
WRAPPERS = ["{}", "{}", "{}", "{}", "{} please", "please, {}", "hey, {}", "hi, {}", "hello, {}", "{} thanks", "quick question: {}", "i have a question: {}",
            "tell me, {}", "i would like to know: {}", "sorry, {}", "ok, {}", "so {}", "and {}", "now {}", "{} in understudy", "{} with understudy", "{} (understudy)",
            "understudy: {}", "can you tell me {}", "do you know {}", "i wonder {}", "question: {}", "could you tell me {}", "{} i am new to this", "understudy {}"]
SYNONYMS = {"how do i": ["how can i", "how to", "how does one", "how would i", "what is the way to", "how should i", "how could i", "i want to", "i need to", "is there a way to", "can i"],
            "how can i": ["how do i", "how to", "how could i", "what must i do to"], "what is": ["what's", "whats", "explain", "define", "describe"],
            "what does": ["what will", "explain what"], "machine": ["computer", "pc", "laptop", "box"], "computer": ["machine", "pc"], "use": ["employ", "work with"],
            "set": ["configure", "specify", "give"], "change": ["alter", "modify", "adjust", "switch"], "show me": ["give me", "i want to see", "print"], "list": ["show", "name", "enumerate"],
            "start": ["launch", "run", "boot"], "stop": ["end", "halt", "kill"], "server": ["service", "program", "process"], "is there": ["do you have", "does it have", "does there exist"],
            "does it support": ["can it do", "is there support for", "does it have", "can i use", "does it handle"], "which": ["what"], "what": ["which"], "error": ["message", "failure"],
            "the server": ["understudy", "it", "this"], "understudy": ["it", "the server", "this program"], "download": ["fetch", "get"], "big": ["large", "huge"], "fast": ["quick"]}
STOP_WORDS = set("a an the is are do does did i it to of in on for with my me you your can how what which that this there be and or if when will would should please".split())


class Question:
    def __init__(self, name):
        self.name, self.patterns, self.held_out, self.independent, self.answer, self.keys = name, [], [], [], "", []

    def trained(self):
        """Every trained phrasing, patterns expanded."""
        return [text for pattern in self.patterns for text in expand(pattern)]

    def right(self, reply):
        """Exact, or every key string is there."""
        return reply.strip() == self.answer or all(key.lower() in reply.lower() for key in self.keys)


def read():
    questions = []
    for block in FILE.read_text().split("\n\n"):
        lines = [line for line in block.splitlines() if line and not line.startswith("#")]
        if not lines:
            continue
        question = Question(lines[0])
        for line in lines[1:]:
            if line.startswith("A "):
                question.answer = line[2:]
            elif line.startswith("K "):
                question.keys = line[2:].split(";")
            elif line.startswith("!! "):
                question.independent.append(line[3:])
            elif line.startswith("! "):
                question.held_out.append(line[2:])
            else:
                question.patterns.append(line)
        assert question.answer and question.keys and question.patterns and question.held_out, lines[0]
        assert question.right(question.answer) and all(k.lower() in question.answer.lower() for k in question.keys), lines[0]
        questions.append(question)
    assert len({q.name for q in questions}) == len(questions)
    trained = {plain(text): q.name for q in questions for text in q.trained()}
    for question in questions:
        for text in question.held_out + question.independent:
            assert plain(text) not in trained, f"{text!r} is held out and trained ({trained[plain(text)]})"
    return questions


def plain(text):
    return re.sub(r"[^a-z0-9 ]", "", text.lower()).strip()


def expand(pattern):
    match = re.search(r"\(([^()]*\|[^()]*)\)", pattern)
    if not match:
        return [re.sub(r"\s+", " ", pattern).replace(" ,", ",").replace(" ?", "?").strip()]
    return [text for option in match[1].split("|") for text in expand(pattern[:match.start()] + option + pattern[match.end():])]


def phrase(question, rng):
    """One trained phrasing, varied as people vary."""
    text = rng.choice(expand(rng.choice(question.patterns)))
    if rng.random() < 0.5:
        for word in rng.sample(list(SYNONYMS), len(SYNONYMS)):
            if re.search(rf"\b{word}\b", text) and rng.random() < 0.3:
                text = re.sub(rf"\b{word}\b", rng.choice(SYNONYMS[word]), text, count=1)
    if rng.random() < 0.25:
        words = text.split()
        kept = [w for w in words if w not in STOP_WORDS or rng.random() < 0.5] if rng.random() < 0.6 else [w for w in words if rng.random() > 0.12]
        text = " ".join(kept or words)
    if rng.random() < 0.5:
        text = rng.choice(WRAPPERS).format(text)
    if rng.random() < 0.12 and len(text) > 8:
        at = rng.randrange(1, len(text) - 2)
        text = rng.choice([text[:at] + text[at + 1] + text[at] + text[at + 2:], text[:at] + text[at + 1:], text[:at] + text[at] + text[at:]])
    return dress(text, rng)


def dress(text, rng):
    """Capitals and the mark at the end."""
    if rng.random() < 0.55:
        text = text[:1].upper() + text[1:]
        text = re.sub(r"\bi\b", "I", text) if rng.random() < 0.8 else text
        text = re.sub(r"\b(claude|understudy|python|rust|openai|linux)\b", lambda m: m[0].capitalize() if m[0] != "openai" else "OpenAI", text) if rng.random() < 0.7 else text
    end = rng.random()
    if end < 0.5 and not text.endswith(("?", ".", "!")):
        text += "?" if re.match(r"(?i)(how|what|which|where|why|who|is|are|can|do|does|in|on|under|may|when)\b", text) or rng.random() < 0.3 else "."
    return text
