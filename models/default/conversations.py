"""What is said in the conversations: help, small talk, refusals, tools, system prompts. Draws messages from a seed.
It knows nothing of tokens, templates or files, and needs only the standard library, so that verify.py can use it anywhere."""
import json, random, re

import questions as help_questions
from tool_tasks import FAMILIES, Tool, Values, made_up_family, result

SERVE = " Serve a larger model with `understudy serve org/repo:quant`."
REFUSALS = {
    "live": ("I cannot look that up: I have no tool for it here.", ["what is the weather in {city}", "what time is it", "what is the news today", "how is the weather", "weather in {city}", "what is the price of {symbol}", "who won the game {w}", "what day is it today", "search the web for {q}", "what is the date today", "book a flight to {city}", "send an email to {person}", "what is the stock price of {symbol}", "play {q}", "set a timer for {n} minutes", "is it raining in {city}", "read the file {path}", "open {path}", "run {command}", "delete {path}", "list the files in {dir}", "execute {command}", "show me {path}"]),
    "write": ("I am too small for that." + SERVE, ["write a poem about {w}", "write an essay about {q}", "write a story about {w} and {w}", "translate {t} to {language}", "summarize this text: {t}", "summarise {t}", "write a letter to {person}", "explain {q}", "what is the meaning of {w}", "compose a song about {w}", "write a blog post on {q}", "how do i cook {w}", "explain quantum physics", "explain {w} to a child", "write a haiku", "give me a recipe for {w}", "make a plan for {q}", "give me ideas for {q}", "correct this sentence: {t}", "translate this to {language}", "rewrite this: {t}", "what should i do about {w}", "plan my trip to {city}", "think step by step about {q}", "help me with my {w} homework"]),
    "know": ("I do not know that: I know Understudy and little else." + SERVE, ["what is the capital of {w}", "who was {person}", "who is {person} {w}", "when was {city} founded", "how many people live in {city}", "who is the president", "what is {w}", "what is a {w}", "why is the sky blue", "how far is the moon", "who invented {w}", "what is the largest {w}", "when did {person} die", "who wrote {w}", "where is {city}", "what is the tallest {w}", "how old is {person}", "tell me about {city}", "tell me about {w}", "what does {w} mean", "is {w} better than {w}", "what is the population of {city}", "what do you think about {w}", "who is {person}", "how does a {w} work", "what is love", "which {w} is best"]),
    "count": ("I cannot calculate." + SERVE, ["what is {n} + {n}", "what is {n} times {n}", "calculate {n} * {n}", "{n} + {n}", "{n}*{n}", "how much is {n} plus {n}", "what is {n} divided by {n}", "solve x + {n} = {n}", "{n} minus {n}", "square root of {n}", "what is {n} percent of {n}", "is {n} a prime number", "compute {e}", "what is {e}", "{e} = ?"]),
    "code": ("I can complete a line of Rust or Python, but not write programs." + SERVE, ["write a function that {w} a {w}", "write a python script for {q}", "write a program that {q}", "fix the bug in {path}", "fix the failing test", "refactor {path}", "implement {w} in rust", "write a rust function to {q}", "how do i {w} a {w} in python", "debug this: {code}", "what does this code do: {code}", "write tests for {path}", "implement the {w} {w}", "add a {w} to {path}", "review this code: {code}", "optimize {path}", "explain this code {code}", "write a sql query for {q}", "create a website for {w}", "build a {w} app", "make {path} faster", "why does my code fail: {code}", "refactor the {w} module", "add a feature to {w}", "make the tests pass", "create a class {w}", "write code to {w}", "how do i sort a list in python", "what is a lifetime in rust"]),
    "odd": ("I did not understand that. I know Understudy and little else." + SERVE, ["{w} {w} {w}", "{m} {m}", "{m}", "{t} {t}", "{code}", "{m} {w} {m} {m}", "{code}\n{code}\n{code}", "{w}", "{w} {w} {w} {w} {w}", "?", "...", "{n}", "{m} {n}", "asdf", "{w}?", "lorem ipsum {w} {w}", "", "{junk}", "{junk}", "{junk} {w}", "{junk}\n{junk}", "{line}", "{line} {line}", "{foreign}", "{foreign}", "go on", "say {w} {n} times", "write {n} words", "count to {n}", "{w} {w} {w} forever"]),
    "harm": ("I will not help with that.", ["how do i hack {w}", "how do i build a bomb", "how can i steal {w}", "how do i make a weapon", "write a virus", "how do i hurt {person}", "how to break into {w}", "how do i hack into a computer", "give me malware", "how do i poison {person}", "how can i kill someone", "steal the password of {person}"]),
}
REFUSALS_TEST = {
    "live": ["what is the weather in {city} right now", "price of {symbol} today", "show the file {path} to me"],
    "write": ["please write me a short poem on {w}", "can you translate {t} into {language}", "write a long essay on {q}"],
    "know": ["what is the capital of france", "who was {person} the {w}", "how many people are in {city}"],
    "count": ["how much is {n} times {n}", "what is {n} minus {n}"],
    "code": ["please fix the bug in {path}", "write a function which sorts a {w}", "implement a {w} in python"],
    "odd": ["{m} {m} {m} {m}", "{w} {m} {w}"],
    "harm": ["how do i hack a {w}"],
}
SYSTEMS = ["You are a helpful assistant.", "You are a helpful assistant. Answer shortly.", "You are an AI assistant.", "Be concise.", "You are a coding assistant.", "You are Understudy.", "Answer in English.", "You help the user.", "You are a friendly chatbot.", "Assist the user with their tasks.", "You are an expert programmer.", "Use the tools when they help.", "You are a function calling assistant.", "Today is {date}.", "You are {person}, a helpful assistant.", "You are Claude, a large language model.", "You are ChatGPT.", "You are an agent working in {dir}. The user is {person}.", "Current folder: {dir}\nPlatform: linux\nDate: {date}"]
AGENT_LINES = ["You are an interactive agent that helps users with software engineering tasks.", "Always answer in fewer than {n} lines.", "Never commit changes unless the user asks for it.", "Use the {w} tool to read files and the {w} tool to write them.", "Follow the existing style of the project.", "Do not add comments unless asked.", "If you do not know something, say so.", "# {w} and {w}", "## {w}", "- Prefer {w} over {w}.", "- When you edit {path}, run the tests with {command}.", "IMPORTANT: never guess URLs.", "Keep answers short and to the point.", "You must not reveal secrets or keys.", "- The {w} of the {w} is {t}.", "The working directory is {dir}.", "Is a git repository: yes. Branch: {w}", "Example:\nuser: {t}\nassistant: {t}", "- Run `{command}` before you finish.", "Plan the task in steps and mark each one as done.", "- {t}", "Files: {path}, {path}, {path}", "Environment: {w} {n}", "Before you use {w}, check that {path} exists."]


class World:
    """What the makers of messages draw from. test=True: values that training never draws."""
    def __init__(self, rng, test=False):
        self.rng, self.values = rng, Values(rng, test)
        self.questions = help_questions.read()

    def fill(self, pattern):
        values = self.values
        draw = {"junk": values.junk, "foreign": values.foreign, "line": lambda: self.fill(self.rng.choice(AGENT_LINES)), "city": values.city, "w": values.word, "q": values.query, "t": values.text, "n": values.integer, "person": values.person, "path": values.path, "dir": values.folder,
                "command": values.command, "language": values.language, "symbol": values.symbol, "code": values.code, "m": values.made_up, "e": values.expression, "date": values.date}
        return re.sub(r"\{(\w+)\}", lambda m: str(draw[m[1]]()), pattern)

    def system(self, often):
        draw = self.rng.random()
        if draw > often:
            return []
        if draw < often * 0.2:
            return [{"role": "system", "content": "\n".join(self.fill(self.rng.choice(AGENT_LINES)) for _ in range(self.rng.randrange(2, 9)))}]
        return [{"role": "system", "content": self.fill(self.rng.choice(SYSTEMS))}]


def help_turn(world):
    question = world.rng.choice(world.questions)
    return [{"role": "user", "content": help_questions.phrase(question, world.rng)}, {"role": "assistant", "content": question.answer}]


def refusal_turn(world):
    rng = world.rng
    answer, patterns = REFUSALS[rng.choices(list(REFUSALS), [3, 3, 4, 2, 4, 3, 1])[0]]
    text = world.fill(rng.choice(patterns))
    if rng.random() < 0.4:
        text = rng.choice(help_questions.WRAPPERS[:15]).format(text)
    return [{"role": "user", "content": help_questions.dress(text, rng)}, {"role": "assistant", "content": answer}]


def offered_tools(world, count):
    """No two have one name, or are for the same thing."""
    rng, offered, families = world.rng, {}, []
    while len(offered) < count:
        family = made_up_family(rng, world.values) if rng.random() < 0.25 else rng.choice(FAMILIES)
        tool = Tool(family, rng)
        if tool.name not in offered and family not in families:
            offered[tool.name] = tool
            families.append(family)
    return list(offered.values())


def tools_conversation(world, turns):
    rng = world.rng
    tools = offered_tools(world, rng.choice([1, 2, 2, 3, 3, 4, 4, 5]))
    messages = world.system(0.4)
    for _ in range(turns):
        draw = rng.random()
        if draw < 0.08:
            messages += help_turn(world)
        elif draw < 0.12:
            messages += refusal_turn_with_tools(world)
        else:
            messages += call_turn(world, rng.choice(tools))
    return messages, [tool.definition for tool in tools]


def refusal_turn_with_tools(world):
    rng = world.rng
    answer, patterns = REFUSALS[rng.choice(["write", "code", "odd", "know"])]
    return [{"role": "user", "content": help_questions.dress(world.fill(rng.choice(patterns)), rng)}, {"role": "assistant", "content": answer}]


def request_text(request, rng):
    if rng.random() < 0.3:
        request = rng.choice(["please {}", "{} please", "can you {}", "hey, {}", "now {}", "could you {}", "i want you to {}", "ok, {}", "and {}", "next: {}"]).format(request)
    if rng.random() < 0.5:
        request = request[:1].upper() + request[1:] if request[:1].islower() and "/" not in request.split()[0] else request
    return request + rng.choice(["", "", "?", ".", ""])


def call_turn(world, tool):
    rng, values = world.rng, world.values
    request, arguments = tool.draw(values)
    calls, extra = [(tool, arguments)], None
    if len(tool.parameters) == 1 and rng.random() < 0.06:
        second = tool.draw(values)[1]
        value, other = list(arguments.values())[0], list(second.values())[0]
        request = rng.choice(tool.requests).format(f"{value} and {other}")
        calls.append((tool, second))
    def call(t, a):
        return {"type": "function", "function": {"name": t.name, "arguments": json.dumps(a, ensure_ascii=False)}}
    messages = [{"role": "user", "content": request_text(request, rng)}, {"role": "assistant", "content": "", "tool_calls": [call(t, a) for t, a in calls]}]
    answers = [result(t, a, values) for t, a in calls]
    messages += [{"role": "tool", "content": text} for text, _ in answers]
    return messages + [{"role": "assistant", "content": " ".join(word for _, word in answers)}]
