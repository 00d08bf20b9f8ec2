//! The script: which reply follows which words. Read from TOML; what is wrong in it is told with its line and its key.
//!
//! Pure. Knows no tokens.

use regex_automata::meta::{BuildError, Regex};
use regex_automata::util::syntax;
use serde::Deserialize;
use serde_json::{Map, Value};
use toml::Spanned;

/// Said where no rule matches and the script has no `[default]`.
const NO_RULE: &str = "No rule of the script matches this.";

/// All that the model will ever say.
#[derive(Debug)]
pub struct Script {
    rules: Vec<Rule>,
    default: ScriptedReply,
    pub pace: Pace,
}

/// How fast the model is; what is `None` takes no time.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Pace {
    /// Of the reply, where the reply does not say it itself.
    pub tokens_per_s: Option<f64>,
    /// Of the prompt, as far as the cache does not have it.
    pub prompt_tokens_per_s: Option<f64>,
}

#[derive(Debug)]
struct Rule {
    when: When,
    reply: ScriptedReply,
    /// After the first round of tool results, after the second, ...; the last one stays.
    after_tool: Vec<ScriptedReply>,
}

#[derive(Debug)]
enum When {
    Contains(String),
    Matches(Regex),
}

/// One turn of the model.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScriptedReply {
    pub thinking: String,
    pub text: String,
    #[serde(deserialize_with = "calls")]
    pub calls: Vec<ScriptedCall>,
    pub tokens_per_s: Option<f64>,
}

/// A call of the first of these tools that is offered.
#[derive(Debug, Clone, PartialEq)]
pub struct ScriptedCall {
    pub either: Vec<Alternative>,
}

/// A tool by the pattern of its name, and what to call it with.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Alternative {
    pub tool: ToolPattern,
    #[serde(default)]
    pub arguments: Map<String, Value>,
}

/// An expression that matches a tool's whole name.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
pub struct ToolPattern {
    pattern: String,
    regex: Regex,
}

#[derive(Debug, thiserror::Error)]
#[error("{file} line {line}: {key}: {problem}")]
pub struct ScriptError {
    file: String,
    line: usize,
    /// What stands before the `=`, or the header of the table.
    key: String,
    problem: String,
}

impl Script {
    /// `file` is for errors.
    pub fn parse(file: &str, text: &str) -> Result<Self, ScriptError> {
        let error = |at: usize, problem: String| ScriptError::at(file, text, at, problem);
        let read: ScriptFile = toml::from_str(text).map_err(|e| error(e.span().map_or(0, |span| span.start), e.message().to_owned()))?;
        let mut rules = Vec::with_capacity(read.rule.len());
        for rule in read.rule {
            rules.push(rule.into_inner_rule(&error)?);
        }
        let pace = Pace { tokens_per_s: speed(read.tokens_per_s, &error)?, prompt_tokens_per_s: speed(read.prompt_tokens_per_s, &error)? };
        let default = read.default.unwrap_or_else(|| ScriptedReply { text: NO_RULE.to_owned(), ..ScriptedReply::default() });
        Ok(Self { rules, default, pace })
    }

    /// What follows the human's words `asked` after so many rounds of tool results.
    pub fn reply(&self, asked: &str, tool_rounds: usize) -> &ScriptedReply {
        let Some(rule) = self.rules.iter().find(|rule| rule.when.holds(asked)) else { return &self.default };
        match tool_rounds {
            0 => &rule.reply,
            _ => rule.after_tool.get(tool_rounds - 1).or(rule.after_tool.last()).unwrap_or(&self.default),
        }
    }

    /// A rule is written for these very words.
    pub fn knows(&self, asked: &str) -> bool {
        self.rules.iter().any(|rule| rule.when.holds(asked))
    }

    /// Every first reply, in the order of the rules, the default at the end; and whether it follows `asked`.
    pub fn first_replies(&self) -> impl Iterator<Item = (&ScriptedReply, impl Fn(&str) -> bool)> {
        let rules = self.rules.iter().map(|rule| (&rule.reply, Some(&rule.when)));
        let all = rules.chain([(&self.default, None)]);
        all.map(|(reply, when)| (reply, move |asked: &str| when.is_none_or(|when| when.holds(asked))))
    }

    /// Something in it takes time.
    pub fn is_paced(&self) -> bool {
        let of_rules = self.rules.iter().flat_map(|rule| rule.after_tool.iter().chain([&rule.reply]));
        self.pace != Pace::default() || of_rules.chain([&self.default]).any(|reply| reply.tokens_per_s.is_some())
    }
}

impl When {
    fn holds(&self, asked: &str) -> bool {
        match self {
            Self::Contains(text) => asked.contains(text.as_str()),
            Self::Matches(regex) => regex.is_match(asked),
        }
    }
}

impl ScriptedCall {
    /// The name to call and what with; `None`: nothing of it is offered.
    pub fn choose<'a>(&'a self, offered: &'a [String]) -> Option<(&'a str, &'a Map<String, Value>)> {
        self.either.iter().find_map(|alternative| {
            let name = offered.iter().find(|name| alternative.tool.regex.is_match(name.as_str()))?;
            Some((name.as_str(), &alternative.arguments))
        })
    }
}

impl TryFrom<String> for ToolPattern {
    type Error = String;

    fn try_from(pattern: String) -> Result<Self, String> {
        let regex = Regex::new(&format!("^(?:{pattern})$")).map_err(|e| problem_of(&e))?;
        Ok(Self { pattern, regex })
    }
}

impl PartialEq for ToolPattern {
    fn eq(&self, other: &Self) -> bool {
        self.pattern == other.pattern
    }
}

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ScriptFile {
    tokens_per_s: Option<Spanned<f64>>,
    prompt_tokens_per_s: Option<Spanned<f64>>,
    #[serde(default)]
    rule: Vec<Spanned<FileRule>>,
    default: Option<ScriptedReply>,
}

/// A reply's own fields stand in the rule; `flatten` would lose the places of errors.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileRule {
    contains: Option<String>,
    regex: Option<Spanned<String>>,
    #[serde(default)]
    thinking: String,
    #[serde(default)]
    text: String,
    #[serde(default, deserialize_with = "calls")]
    calls: Vec<ScriptedCall>,
    tokens_per_s: Option<Spanned<f64>>,
    #[serde(default)]
    after_tool: Vec<ScriptedReply>,
}

type ErrorAt<'a> = &'a dyn Fn(usize, String) -> ScriptError;

trait IntoInnerRule {
    fn into_inner_rule(self, error: ErrorAt<'_>) -> Result<Rule, ScriptError>;
}

impl IntoInnerRule for Spanned<FileRule> {
    fn into_inner_rule(self, error: ErrorAt<'_>) -> Result<Rule, ScriptError> {
        let start = self.span().start;
        let FileRule { contains, regex, thinking, text, calls, tokens_per_s, after_tool } = self.into_inner();
        let when = match (contains, regex) {
            (Some(text), None) => When::Contains(text),
            (None, Some(pattern)) => {
                // `^` and `$` are the ends of lines: clients put words of their own before and after those of the human.
                let config = syntax::Config::new().multi_line(true);
                let regex = Regex::builder().syntax(config).build(pattern.get_ref());
                When::Matches(regex.map_err(|e| error(pattern.span().start, problem_of(&e)))?)
            }
            _ => return Err(error(start, "a rule says when it holds, with either `contains` or `regex`".to_owned())),
        };
        let tokens_per_s = speed(tokens_per_s, error)?;
        Ok(Rule { when, reply: ScriptedReply { thinking, text, calls, tokens_per_s }, after_tool })
    }
}

fn speed(written: Option<Spanned<f64>>, error: ErrorAt<'_>) -> Result<Option<f64>, ScriptError> {
    let Some(written) = written else { return Ok(None) };
    match *written.get_ref() {
        speed if speed.is_finite() && speed > 0.0 => Ok(Some(speed)),
        speed => Err(error(written.span().start, format!("{speed} is no speed; leave it out for a model that takes no time"))),
    }
}

/// `{ tool = .., arguments = .. }`, or several of these in `{ either = [..] }`.
fn calls<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<ScriptedCall>, D::Error> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct FileCall {
        #[serde(default)]
        either: Vec<Alternative>,
        tool: Option<ToolPattern>,
        arguments: Option<Map<String, Value>>,
    }
    let written = Vec::<FileCall>::deserialize(deserializer)?;
    let calls = written.into_iter().map(|call| match call {
        FileCall { either, tool: Some(tool), arguments } if either.is_empty() => {
            Ok(ScriptedCall { either: vec![Alternative { tool, arguments: arguments.unwrap_or_default() }] })
        }
        FileCall { either, tool: None, arguments: None } if !either.is_empty() => Ok(ScriptedCall { either }),
        _ => Err(serde::de::Error::custom("a call has either `tool` and `arguments`, or `either` with a list of such")),
    });
    calls.collect()
}

impl ScriptError {
    fn at(file: &str, text: &str, at: usize, problem: String) -> Self {
        let before = &text.as_bytes()[..at.min(text.len())];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        let written = text.lines().nth(line - 1).unwrap_or_default().trim();
        let key = written.split('=').next().unwrap_or_default().trim();
        Self { file: file.to_owned(), line, key: key.to_owned(), problem }
    }
}

/// What is wrong with the expression itself, without the library's words around it.
fn problem_of(error: &BuildError) -> String {
    match error.syntax_error() {
        Some(problem) => problem.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned(),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: &str) -> String {
        Script::parse("s.toml", text).map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn the_first_rule_that_holds_answers() {
        let script = Script::parse(
            "s.toml",
            "[[rule]]\nregex = '^go'\ntext = 'one'\n[[rule]]\ncontains = 'go'\ntext = 'two'\n\
             after_tool = [{ text = 'first' }, { text = 'last' }]\n[default]\ntext = 'none'\n",
        )
        .unwrap();
        let text = |asked: &str, rounds: usize| script.reply(asked, rounds).text.as_str().to_owned();
        assert_eq!(text("go", 0), "one");
        // The ends of lines count, not those of the text.
        assert_eq!(text("a reminder\ngo", 0), "one");
        assert_eq!(text("we go", 0), "two");
        assert_eq!([text("we go", 1), text("we go", 2), text("we go", 9)], ["first", "last", "last"]);
        assert_eq!([text("go", 1), text("stay", 0)], ["none", "none"]);
        assert!(!script.is_paced() && script.knows("we go") && !script.knows("stay"));
        assert_eq!(Script::parse("s.toml", "").unwrap().reply("x", 0).text, NO_RULE);
    }

    #[test]
    fn a_call_takes_the_first_alternative_that_is_offered() {
        let script = "[default]\ncalls = [\n{ either = [\n{ tool = 'Bash|bash', arguments = { command = 'ls' } },\n\
                      { tool = 'shell', arguments = { command = ['sh', '-c', 'ls'] } },\n] },\n{ tool = 'read.*' },\n]\n";
        let script = Script::parse("s.toml", script).unwrap();
        let [shell, read] = &script.reply("", 0).calls[..] else { panic!("two calls") };
        let offered = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
        let chosen = |call: &ScriptedCall, names: &[&str]| {
            let offered = offered(names);
            call.choose(&offered).map(|(name, arguments)| (name.to_owned(), Value::Object(arguments.clone()).to_string()))
        };
        assert_eq!(chosen(shell, &["shell", "bash"]), Some(("bash".into(), r#"{"command":"ls"}"#.into())));
        assert_eq!(chosen(shell, &["shell"]), Some(("shell".into(), r#"{"command":["sh","-c","ls"]}"#.into())));
        // The whole name.
        assert_eq!(chosen(shell, &["BashOutput", "my_shell"]), None);
        assert_eq!(chosen(read, &["x", "read_file"]), Some(("read_file".into(), "{}".into())));
    }

    #[test]
    fn arguments_keep_their_order() {
        let script =
            Script::parse("s", "[default]\ncalls = [{ tool = 'f', arguments = { z = 1, a = [1.5, true], m = { y = '', b = 2 } } }]");
        let script = script.unwrap();
        let arguments = Value::Object(script.reply("", 0).calls[0].either[0].arguments.clone());
        assert_eq!(arguments.to_string(), r#"{"z":1,"a":[1.5,true],"m":{"y":"","b":2}}"#);
    }

    #[test]
    fn errors_name_line_and_key() {
        for (text, expected) in [
            ("tokens_per_s = 0", "s.toml line 1: tokens_per_s: 0 is no speed; leave it out for a model that takes no time"),
            ("\n\n[[rule]]\ncontains = 3", "s.toml line 4: contains: invalid type: integer `3`, expected a string"),
            (
                "[default]\ntxt = 'a'",
                "s.toml line 2: txt: unknown field `txt`, expected one of `thinking`, `text`, `calls`, `tokens_per_s`",
            ),
            ("[[rule]]\nregex = '(a'", "s.toml line 2: regex: unclosed group"),
            (
                "[[rule]]\ncontains = 'a'\n[[rule]]\ntext = 'a'",
                "s.toml line 3: [[rule]]: a rule says when it holds, with either `contains` or `regex`",
            ),
            (
                "[default]\ncalls = [{ arguments = {} }]",
                "s.toml line 2: calls: a call has either `tool` and `arguments`, or `either` with a list of such",
            ),
            ("[default]\ncalls = [{ tool = '*' }]", "s.toml line 2: calls: repetition operator missing expression"),
        ] {
            assert_eq!(problem(text), expected);
        }
        assert!(problem("[default\n").starts_with("s.toml line 1: [default: "), "{}", problem("[default\n"));
    }
}
