"""Generates conversations with tools: definitions, requests, the right call, the tool's answer, the last word.
Everything is drawn from word lists and random syllables; held-out values (test=True) never occur in training."""
import json, random

CITIES = "Paris London Berlin Madrid Rome Vienna Lisbon Oslo Dublin Prague Athens Warsaw Budapest Helsinki Stockholm Copenhagen Brussels Amsterdam Zurich Geneva Milan Naples Turin Munich Hamburg Cologne Bremen Dresden Leipzig Lyon Nice Lille Nantes Porto Seville Bilbao Tokyo Osaka Kyoto Beijing Shanghai Seoul Delhi Mumbai Bangkok Hanoi Jakarta Manila Sydney Perth Auckland Cairo Lagos Nairobi Accra Tunis Boston Chicago Dallas Denver Houston Seattle Miami Austin Toronto Montreal Vancouver Lima Bogota Quito Santiago".split()
CITIES_TEST = "Krakow Valencia Marseille Stuttgart Rotterdam Gothenburg Bergen Riga Vilnius Tallinn Sofia Zagreb Tbilisi Ankara Izmir Nagoya Busan Chennai Colombo Brisbane Adelaide Rabat Dakar Portland Atlanta Phoenix Calgary Ottawa Havana Caracas".split()
NAMES = "Anna Ben Clara David Emma Felix Greta Hugo Ida Jonas Karl Laura Maria Nina Otto Paul Rosa Simon Tom Vera Alice Bob Carol Dan Eve Frank Grace Henry Ivan Judy Kate Leo Mona Nora Oscar Peter Rita Sam Tina Victor".split()
NAMES_TEST = "Miguel Sofia Lukas Priya Kenji Fatima Olga Bruno Heidi Ravi Yuki Selma".split()
WORDS = "main lib utils config server client model engine parser lexer token cache store index query table user account order invoice report image video audio data sample test bench build deploy docker script setup install update remove create delete copy move rename search find replace format check lint type value key name path file folder list map set queue stack tree graph node edge route handler service worker job task event log error debug trace metric alert backup restore sync import export load save read write open close start stop run plan note draft review budget sales market team project release version branch commit merge patch issue ticket meeting calendar mail letter contact address phone city country weather forecast price stock rate bank paper book page chapter title author music song album film game score level player river mountain garden kitchen coffee bread cheese apple orange banana lemon pepper winter summer spring autumn monday friday red green blue yellow black white silver golden small large fast slow early late".split()
SYLLABLES = [a + b for a in "b c d f g h j k l m n p r s t v w z br cr dr fl gr pl pr sh sl st tr th ch".split() for b in "a e i o u ai ea ou".split()]
ENDINGS = ["", "n", "r", "s", "t", "l", "x", "m", "k"]
EXTENSIONS = "rs py txt md toml json yaml js ts go c h html css sh csv log".split()
FOLDERS = "src tests docs lib app bin crates examples scripts models server core api web config data tools internal cmd pkg".split()
COMMANDS = ["ls", "ls -la", "pwd", "git status", "git diff", "git log", "cargo test", "cargo build", "cargo check", "cargo fmt", "pytest", "npm test", "make", "make test", "whoami", "date", "df -h", "ps aux", "uname -a", "env"]
CONDITIONS = "sunny cloudy rainy windy snowy foggy clear stormy".split()
CURRENCIES = "USD EUR GBP JPY CHF CAD AUD SEK NOK PLN".split()
LANGUAGES = "German French Spanish Italian Polish Dutch Swedish Japanese Chinese Korean Greek Turkish".split()
SYMBOLS = "AAPL MSFT GOOG AMZN NVDA TSLA META INTC IBM ORCL SAP BMW".split()


class Values:
    """Draws argument values. With test=True, from lists and shapes that training does not see."""
    def __init__(self, rng, test=False):
        self.rng, self.test = rng, test

    def word(self):
        if self.rng.random() < 0.22:
            return "".join(self.rng.choice(SYLLABLES) for _ in range(self.rng.choice([2, 2, 3]))) + self.rng.choice(ENDINGS)
        return self.rng.choice(WORDS)

    def city(self):
        if not self.test and self.rng.random() < 0.3:
            return self.made_up().capitalize()
        return self.rng.choice(CITIES_TEST if self.test else CITIES)

    def made_up(self):
        return "".join(self.rng.choice(SYLLABLES) for _ in range(self.rng.choice([2, 3]))) + self.rng.choice(ENDINGS)

    def person(self):
        if not self.test and self.rng.random() < 0.3:
            return self.made_up().capitalize()
        return self.rng.choice(NAMES_TEST if self.test else NAMES)

    def name(self):
        return self.word() if self.rng.random() < 0.6 else self.word() + self.rng.choice("_-") + self.word()

    def path(self):
        rng, draw = self.rng, self.rng.random()
        base = self.name() + "." + rng.choice(EXTENSIONS)
        if draw < 0.25:
            return base
        if draw < 0.6:
            return rng.choice(FOLDERS) + "/" + base
        if draw < 0.75:
            return rng.choice(FOLDERS) + "/" + self.word() + "/" + base
        if draw < 0.9:
            return rng.choice(["/tmp/", "/home/" + self.word() + "/", "/etc/", "/srv/", "./", "../", "~/"]) + base
        return rng.choice(["README.md", "Cargo.toml", "Makefile", "package.json", "src/main.rs", "src/lib.rs", "setup.py", "LICENSE", ".gitignore"])

    def folder(self):
        return self.rng.choice([self.rng.choice(FOLDERS), self.rng.choice(FOLDERS) + "/" + self.word(), "/tmp/" + self.word(), self.word(), "."])

    def command(self):
        return self.rng.choice(COMMANDS) if self.rng.random() < 0.5 else self.rng.choice(["cat {}", "ls {}", "rm {}", "head {}", "wc -l {}", "python {}", "mkdir {}", "cargo test {}", "touch {}", "git add {}"]).format(self.path() if self.rng.random() < 0.6 else self.word())

    def query(self):
        return " ".join(self.word() for _ in range(self.rng.choice([1, 2, 2, 3])))

    def text(self):
        return " ".join(self.word() for _ in range(self.rng.choice([2, 3, 4])))

    def url(self):
        return "https://" + self.word() + self.rng.choice([".com", ".org", ".net", ".io", ".dev"]) + self.rng.choice(["", "/" + self.word(), "/" + self.word() + "/" + self.word()])

    def email(self):
        return self.word() + "@" + self.word() + self.rng.choice([".com", ".org", ".net"])

    def integer(self):
        return self.rng.randrange(10 ** self.rng.choice([1, 1, 2, 2, 3, 4]))

    def number(self):
        return self.integer() if self.rng.random() < 0.7 else round(self.rng.random() * 100, self.rng.choice([1, 2]))

    def date(self):
        return f"20{self.rng.randrange(20, 36)}-{self.rng.randrange(1, 13):02}-{self.rng.randrange(1, 29):02}"

    def time(self):
        return f"{self.rng.randrange(24):02}:{self.rng.randrange(12) * 5:02}"

    def expression(self):
        return f"{self.integer()}{self.rng.choice([' + ', ' - ', ' * ', ' / ', '+', '*'])}{self.integer()}"

    def boolean(self):
        return self.rng.random() < 0.5

    def code(self):
        return self.rng.choice(["print({})", "fn {}() {{}}", "let {} = 1;", "import {}", "# {}", "x = {}", "def {}(): pass"]).format(self.word())

    def foreign(self):
        return self.rng.choice(FOREIGN)

    def junk(self):
        """What no question looks like: a key held down, markup, numbers, other alphabets."""
        rng, draw = self.rng, self.rng.random()
        if draw < 0.2:
            return rng.choice("abcdefghijklmnopqrstuvwxyz.!?-_#*0123456789") * rng.choice([2, 3, 5, 9, 20, 40])
        if draw < 0.45:
            return "".join(chr(rng.randrange(33, 127)) for _ in range(rng.randrange(1, 24)))
        if draw < 0.65:
            low, high = rng.choice([(0x4e00, 0x9fff), (0x430, 0x44f), (0x3b1, 0x3c9), (0x3042, 0x3093), (0xac00, 0xd7a3), (0x1f600, 0x1f64f), (0xe0, 0xff)])
            return "".join(chr(rng.randrange(low, high)) for _ in range(rng.randrange(1, 8)))
        if draw < 0.85:
            return rng.choice(["<{}>", "</{}>", "[{}]", "{{\"{}\": 1}}", "select {} from {}", "INSERT INTO {} VALUES ({})", "def {}({}):", "fn {}() {{ {}", "if ({} == {}) {{", "{} = {}", "&{};", "\\{}", "{}()", "#include <{}.h>"]).replace("{}", self.word()).replace("{{", "{").replace("}}", "}")
        return " ".join(str(self.integer()) for _ in range(rng.randrange(2, 9)))

    def currency(self): return self.rng.choice(CURRENCIES)
    def language(self): return self.rng.choice(LANGUAGES)
    def symbol(self): return self.rng.choice(SYMBOLS) if self.rng.random() < 0.6 else "".join(self.rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(self.rng.choice([3, 4])))
    def unit(self): return self.rng.choice(["celsius", "fahrenheit"])


JSON_TYPE = {"integer": "integer", "number": "number", "boolean": "boolean"}
# names | descriptions | parameters "name:kind" ("?" optional) | requests | answer kind
FAMILIES = [
    ("get_weather|weather|current_weather|get_current_weather", "Get the weather for a city|Current weather|Returns the weather at a location", "city|location|place:city", ["what is the weather in {0}", "weather in {0}", "how is the weather in {0}", "is it raining in {0}", "what is the weather like in {0} today", "tell me the weather for {0}", "do i need an umbrella in {0}", "how warm is it in {0}", "temperature in {0}"], "weather"),
    ("get_forecast|forecast|weather_forecast", "Weather forecast for some days|Get the forecast", "city|location:city days:integer", ["forecast for {0} for {1} days", "weather forecast for {0} for the next {1} days", "how will the weather be in {0} in the next {1} days", "show a {1} day forecast for {0}"], "short"),
    ("get_weather|weather_in", "Get the weather in a unit", "city|location:city unit:unit", ["weather in {0} in {1}", "what is the temperature in {0} in {1}", "how warm is it in {0}, in {1}", "tell me the weather in {0} using {1}"], "weather"),
    ("read_file|Read|read|open_file|cat_file|view_file|get_file", "Read a file|Reads a file from disk|Returns the content of a file", "path|file_path|filename|file:path", ["read {0}", "show me {0}", "open {0}", "what is in {0}", "read the file {0}", "print {0}", "show the contents of {0}", "look at {0}", "what does {0} contain", "cat {0}", "please read {0} for me"], "file"),
    ("write_file|Write|write|create_file|save_file", "Write text to a file|Writes a file|Create a file with content", "path|file_path|filename:path content|text:text", ["write {1} to {0}", "write \"{1}\" to {0}", "create {0} with the text {1}", "save {1} in {0}", "create the file {0} containing \"{1}\"", "put {1} into {0}"], "ok"),
    ("edit_file|Edit|replace_in_file|str_replace", "Replace text in a file|Edit a file", "path|file_path|file:path old_string|old|old_text:name new_string|new|new_text:name", ["replace {1} with {2} in {0}", "in {0}, replace {1} by {2}", "in {0} change {1} to {2}", "change {1} to {2} in {0}", "rename {1} to {2} in {0}", "edit {0}: {1} should be {2}"], "ok"),
    ("list_files|LS|ls|list_dir|list_directory|Glob", "List the files of a folder|Lists a directory", "path|folder|directory|dir:folder", ["list the files in {0}", "what files are in {0}", "ls {0}", "show the folder {0}", "which files are in {0}", "list {0}", "what is in the directory {0}"], "list"),
    ("run_command|Bash|bash|shell|execute|run_shell|terminal", "Run a shell command|Execute a command|Runs a command in the shell", "command|cmd:command", ["run {0}", "execute {0}", "run `{0}`", "please run {0}", "run the command {0}", "execute the command `{0}`", "in the shell, run {0}", "can you run {0}"], "output"),
    ("grep|Grep|search_files|search_code|find_in_files", "Search the files for a text|Search code", "pattern|query|text:name path|folder|directory:folder", ["search for {0} in {1}", "grep {0} in {1}", "find {0} in {1}", "where is {0} in {1}", "look for {0} in the folder {1}", "which files in {1} contain {0}"], "list"),
    ("search|web_search|WebSearch|search_web|google", "Search the web|Web search", "query|q|search_query:query", ["search for {0}", "search the web for {0}", "google {0}", "look up {0}", "find information about {0}", "find something on {0}", "web search {0}"], "short"),
    ("fetch|WebFetch|fetch_url|get_url|open_url|http_get", "Fetch a web page|Get the content of a URL", "url|link:url", ["fetch {0}", "open {0}", "get {0}", "what does {0} say", "read the page {0}", "download {0}"], "output"),
    ("calculator|calculate|calc|evaluate", "Evaluate an arithmetic expression|Calculate", "expression|expr|formula:expression", ["what is {0}", "calculate {0}", "compute {0}", "how much is {0}", "evaluate {0}"], "number"),
    ("add|add_numbers|sum", "Add two numbers|Sum of two numbers", "a|x|first:number b|y|second:number", ["add {0} and {1}", "sum of {0} and {1}", "what is {0} plus {1}", "add {0} to {1}"], "number"),
    ("multiply|multiply_numbers|times", "Multiply two numbers", "a|x|first:number b|y|second:number", ["multiply {0} by {1}", "multiply {0} and {1}", "what is {0} times {1}", "product of {0} and {1}"], "number"),
    ("get_time|current_time|time_in", "Get the current time in a city|Local time", "city|location|place:city", ["what time is it in {0}", "time in {0}", "current time in {0}", "tell me the time in {0}"], "time"),
    ("send_email|send_mail|email", "Send an e-mail", "to|recipient|address:email subject|title:text", ["send an email to {0} with subject {1}", "email {0} about {1}", "mail {0}, subject {1}", "write a mail to {0} with the subject {1}"], "ok"),
    ("send_message|message|notify", "Send a message to a person", "to|person|recipient|name:person text|message|body:text", ["tell {0} {1}", "send {0} the message {1}", "message {0}: {1}", "send \"{1}\" to {0}"], "ok"),
    ("set_timer|timer|start_timer", "Set a timer in minutes", "minutes|duration:integer", ["set a timer for {0} minutes", "timer {0} minutes", "wake me in {0} minutes", "start a {0} minute timer"], "ok"),
    ("create_event|add_event|schedule_meeting|calendar_add", "Create a calendar event", "title|name|subject:text date|day:date", ["create an event {0} on {1}", "put {0} in my calendar for {1}", "schedule {0} on {1}", "add {0} to the calendar on {1}"], "ok"),
    ("set_reminder|remind|reminder", "Set a reminder", "text|what|message:text time|at|when:time", ["remind me of {0} at {1}", "remind me at {1} of {0}", "set a reminder {0} at {1}", "reminder at {1}: {0}"], "ok"),
    ("convert_currency|currency|exchange", "Convert money between currencies", "amount|value:integer from|from_currency|source:currency to|to_currency|target:currency", ["convert {0} {1} to {2}", "how much is {0} {1} in {2}", "exchange {0} {1} to {2}", "{0} {1} in {2}"], "number"),
    ("translate|translate_text|translation", "Translate a text to a language", "text|source_text:text language|target|target_language|to:language", ["translate {0} to {1}", "translate \"{0}\" into {1}", "what is {0} in {1}", "say {0} in {1}"], "short"),
    ("get_stock|stock_price|get_stock_price|quote", "Get the price of a stock", "symbol|ticker:symbol", ["price of {0}", "stock price of {0}", "what is the stock {0} at", "how is {0} doing on the stock market", "quote for {0}"], "price"),
    ("get_user|find_user|lookup_user|user_info", "Look up a user by name|Find a user", "name|user|username:person", ["find user {0}", "look up {0}", "who is {0}", "show the account of {0}", "get the user {0}"], "short"),
    ("delete_file|remove_file|rm|delete", "Delete a file", "path|file_path|file:path", ["delete {0}", "remove {0}", "delete the file {0}", "rm {0}"], "ok"),
    ("move_file|rename_file|mv", "Move or rename a file", "source|from|old_path:path destination|to|new_path:path", ["move {0} to {1}", "rename {0} to {1}", "mv {0} {1}"], "ok"),
    ("book_table|reserve_table|reservation", "Reserve a table", "city|place:city people|guests|count:integer time|at:time", ["book a table in {0} for {1} at {2}", "reserve a table for {1} people in {0} at {2}", "table for {1} in {0} at {2}"], "ok"),
    ("find_flight|search_flights|flights|book_flight", "Find flights between two cities", "origin|from|from_city:city destination|to|to_city:city", ["flights from {0} to {1}", "find a flight from {0} to {1}", "fly from {0} to {1}", "i want to fly from {0} to {1}", "book a flight from {0} to {1}"], "short"),
    ("get_distance|distance|route", "Distance between two places", "from|origin|start:city to|destination|end:city", ["how far is it from {0} to {1}", "distance from {0} to {1}", "distance between {0} and {1}"], "number"),
    ("turn_on|switch_on|lights_on", "Turn on a device", "device|name|room:word", ["turn on {0}", "turn on the {0}", "switch on the {0}", "switch the {0} on"], "ok"),
    ("turn_off|switch_off|lights_off", "Turn off a device", "device|name|room:word", ["turn off {0}", "turn off the {0}", "switch off the {0}", "switch the {0} off"], "ok"),
    ("set_temperature|thermostat|heat", "Set the temperature of a room", "room|name:word temperature|degrees|value:integer", ["set the {0} to {1} degrees", "heat the {0} to {1}", "make the {0} {1} degrees", "set the temperature in the {0} to {1}"], "ok"),
    ("play_music|play|play_song", "Play a song", "title|song|query:query", ["play {0}", "play the song {0}", "i want to hear {0}", "put on {0}"], "ok"),
    ("get_order|order_status|track_order", "Get the state of an order", "order_id|id|number:integer", ["where is order {0}", "status of order {0}", "track order {0}", "what about my order {0}"], "short"),
    ("query_database|run_sql|count_rows", "Count the rows of a table", "table|name:name", ["how many rows are in {0}", "count the rows of {0}", "how many entries has the table {0}"], "number"),
    ("create_issue|new_ticket|open_issue", "Create an issue", "title|summary:text", ["create an issue: {0}", "open a ticket {0}", "file an issue about {0}", "new issue {0}"], "ok"),
    ("git_checkout|checkout|switch_branch", "Switch to a branch", "branch|name:name", ["check out {0}", "switch to branch {0}", "switch to {0}", "go to the branch {0}"], "ok"),
    ("get_definition|define|dictionary", "Definition of a word", "word|term:word", ["define {0}", "what does the word {0} mean", "definition of {0}", "look up the word {0}"], "short"),
    ("echo|repeat|say", "Echo a text", "text|message:text", ["echo {0}", "repeat {0}", "say {0}", "echo \"{0}\""], "output"),
    ("insert_line|append_line|add_line", "Append a line to a file", "path|file:path line|text:code", ["add the line {1} to {0}", "append `{1}` to {0}", "append {1} to {0}"], "ok"),
]
FOREIGN = "hola que tal|bonjour comment allez vous|wie geht es dir|was ist das|buenos dias amigo|ich verstehe das nicht|parlez vous francais|kannst du mir helfen|ciao come stai|donde esta la biblioteca|je ne sais pas|wo bist du|hoe gaat het|jak se mas|bom dia|qui es tu|quien eres|\u3053\u3093\u306b\u3061\u306f|\u4f60\u662f\u8c01|\u043f\u0440\u0438\u0432\u0435\u0442|\uc548\ub155".split("|")
VERBS = "get set list find make open close send read check update remove add start stop show count load save sort".split()


class Tool:
    """One tool as offered in one conversation: the names of its parameters are fixed here."""
    def __init__(self, family, rng):
        names, descriptions, parameters, self.requests, self.answer = family
        self.name = rng.choice(names.split("|"))
        self.parameters = [(rng.choice(p.rsplit(":", 1)[0].split("|")), p.rsplit(":", 1)[1]) for p in parameters.split(" ")]
        described = rng.random() < 0.15
        properties = {}
        for name, kind in self.parameters:
            properties[name] = {"type": JSON_TYPE.get(kind, "string")}
            if described:
                properties[name]["description"] = "The " + name.replace("_", " ")
            if kind == "unit":
                properties[name]["enum"] = ["celsius", "fahrenheit"]
        function = {"name": self.name}
        if rng.random() < 0.9:
            function["description"] = rng.choice(descriptions.split("|"))
        function["parameters"] = {"type": "object", "properties": properties}
        if rng.random() < 0.8:
            function["parameters"]["required"] = [name for name, _ in self.parameters]
        self.definition = {"type": "function", "function": function}

    def draw(self, values):
        """(request without dress, arguments)"""
        drawn = [getattr(values, kind)() for _, kind in self.parameters]
        request = values.rng.choice(self.requests).format(*drawn)
        return request, {name: value for (name, _), value in zip(self.parameters, drawn)}


def made_up_family(rng, values):
    """A tool that exists nowhere: its names come from word lists, so that the model must read the definition."""
    verb, noun = rng.choice(VERBS), values.made_up() if rng.random() < 0.5 else rng.choice(WORDS)
    kinds = rng.sample(["word", "name", "integer", "path", "person", "query", "city", "date"], rng.choice([1, 1, 2, 2, 3]))
    labels = rng.sample([w for w in WORDS if w != noun], len(kinds))
    parameters = " ".join(f"{label}:{kind}" for label, kind in zip(labels, kinds))
    listed = " and ".join(f"{label} {{{i}}}" for i, label in enumerate(labels))
    plain = " ".join(f"{{{i}}}" for i in range(len(labels)))
    return (f"{verb}_{noun}", f"{verb.capitalize()} the {noun}", parameters,
            [f"{verb} the {noun} with {listed}", f"{verb} {noun} with {listed}", f"use {verb}_{noun} with {listed}", f"call {verb}_{noun} with {listed}"] + ([f"{verb} the {noun} {plain}"] if len(kinds) == 1 else []), rng.choice(["ok", "short", "number"]))


def result(tool, arguments, values):
    """(the tool's answer as text, the model's last word)"""
    rng, kind = values.rng, tool.answer
    spaced = (lambda v: json.dumps(v)) if rng.random() < 0.6 else (lambda v: json.dumps(v, separators=(",", ":")))
    if rng.random() < 0.05:
        return rng.choice(["Error: not found", "error: permission denied", "Error: no such file", "timeout", spaced({"error": "not found"})]), "The tool reported an error."
    if kind == "weather":
        degrees, sky = rng.randrange(-10, 38), rng.choice(CONDITIONS)
        shape = rng.random()
        text = spaced({"temperature": degrees, "condition": sky}) if shape < 0.5 else f"{degrees} degrees, {sky}" if shape < 0.7 else f"{sky}, {degrees} C" if shape < 0.85 else spaced({"condition": sky, "temp": degrees})
        return text, f"It is {degrees} degrees and {sky}."
    if kind in ("number", "price"):
        number = values.number()
        return (str(number) if rng.random() < 0.5 else spaced({"result": number})), f"The result is {number}."
    if kind == "time":
        time = values.time()
        return (time if rng.random() < 0.5 else spaced({"time": time})), f"It is {time}."
    if kind == "ok":
        return rng.choice(["ok", "OK", "done", "Done.", "success", "true", spaced({"status": "ok"}), spaced({"success": True}), "null", ""]), "Done."
    if kind == "short":
        text = values.text()
        return (text if rng.random() < 0.5 else spaced({rng.choice(["result", "text", "answer"]): text})), f"The result is: {text}"
    if kind == "list":
        names = [values.path() for _ in range(rng.randrange(1, 5))]
        return "\n".join(names), "The result is: " + ", ".join(names)
    if kind == "output" and rng.random() < 0.6:
        text = values.text()
        return text, f"The result is: {text}"
    lines = [values.code() if rng.random() < 0.5 else values.text() for _ in range(rng.randrange(3, 9))]
    return "\n".join(lines), "I have the result, but I am too small to work on longer texts. Serve a larger model with `understudy serve org/repo:quant`."
