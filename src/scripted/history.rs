//! What the model was asked, out of the tokens before its reply: the human's last words, how many rounds of tool results followed them,
//! which tools are offered.
//!
//! Pure. Knows the built-in template: ChatML, tool results in turns of the user, one line a tool.

use models::Tokenizer;

/// The tokens that begin and end a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TurnMarks {
    pub start: u32,
    pub end: u32,
}

/// What stands before a reply.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Asked {
    /// The human's words since the model's last turn that called no tool.
    pub human: String,
    /// Rounds of tool results since then.
    pub tool_rounds: usize,
    /// Words that came with the last results: a new order, or a client's reminder.
    pub beside_results: String,
    /// Names of the tools, in the order of the prompt.
    pub offered: Vec<String>,
}

#[derive(Debug, PartialEq, Eq)]
struct Turn {
    role: String,
    text: String,
}

const TOOL_RESULT: &str = "<tool_response>";

impl TurnMarks {
    /// `None`: the vocabulary has no such tokens.
    pub fn of(tokenizer: &Tokenizer) -> Option<Self> {
        Some(Self { start: tokenizer.token_id("<|im_start|>")?, end: tokenizer.token_id("<|im_end|>")? })
    }
}

impl Asked {
    /// Reads the tokens up to where the reply's turn begins.
    pub fn read(tokens: &[u32], marks: TurnMarks, tokenizer: &Tokenizer) -> Self {
        let turns: Vec<Turn> = tokens.split(|token| *token == marks.start).skip(1).map(|turn| Turn::read(turn, marks, tokenizer)).collect();
        let offered = turns.first().filter(|turn| turn.role == "system").map(|turn| offered(&turn.text)).unwrap_or_default();
        Self { offered, ..Self::of(&turns) }
    }

    fn of(turns: &[Turn]) -> Self {
        let mut asked = Self::default();
        let mut end = turns.len();
        loop {
            let start = turns[..end].iter().rposition(|turn| turn.role == "assistant").map_or(0, |at| at + 1);
            let stretch = &turns[start..end];
            let human = stretch.iter().filter(|turn| turn.role == "user" && !turn.is_tool_result());
            let words = human.map(|turn| turn.text.as_str()).collect::<Vec<_>>().join("\n\n");
            if start == 0 || !stretch.iter().any(Turn::is_tool_result) {
                return Self { human: words, ..asked };
            }
            if asked.tool_rounds == 0 {
                asked.beside_results = words;
            }
            asked.tool_rounds += 1;
            end = start - 1;
        }
    }
}

impl Turn {
    /// What stands between two beginnings of turns.
    fn read(tokens: &[u32], marks: TurnMarks, tokenizer: &Tokenizer) -> Self {
        let inside = tokens.split(|token| *token == marks.end).next().unwrap_or_default();
        let bytes: Vec<u8> = inside.iter().flat_map(|&token| tokenizer.token_bytes(token, true)).copied().collect();
        let text = String::from_utf8_lossy(&bytes);
        let (role, text) = text.split_once('\n').unwrap_or((&text, ""));
        Self { role: role.to_owned(), text: text.to_owned() }
    }

    fn is_tool_result(&self) -> bool {
        self.role == "tool" || self.role == "user" && self.text.starts_with(TOOL_RESULT)
    }
}

/// Lines of the last list of tools: `{"name": "Bash", "arguments": {..}}`; lines of description stand between them.
fn offered(system: &str) -> Vec<String> {
    let Some(list) = system.rsplit_once("# Tools\n<tools>") else { return Vec::new() };
    let names = list.1.lines().filter_map(|line| line.strip_prefix("{\"name\": \"")?.split_once('"').map(|(name, _)| name.to_owned()));
    names.collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use models::Gguf;
    use serde_json::json;

    use super::*;
    use crate::chat::prepare::{Surroundings, TextModel};
    use crate::chat::{Conversation, Message, Prompt, Request, Role, SamplingDefaults, ToolCall, ToolDefinition};
    use crate::hub::builtin;
    use crate::scripted::template;

    /// Through the real template and tokenizer.
    fn asked(messages: Vec<Message>, tools: &[&str]) -> Asked {
        let gguf = Gguf::from_bytes(builtin::bytes(), "builtin").unwrap();
        let tokenizer = Arc::new(Tokenizer::from_gguf(&gguf).unwrap());
        let template = template(&tokenizer).unwrap();
        let text = TextModel::new(tokenizer.clone(), template, SamplingDefaults::default());
        let tool = |name: &&str| ToolDefinition {
            name: name.to_string(),
            description: Some("Runs.\n{\"name\": \"not_this\"".to_owned()),
            parameters: Some(json!({"type": "object", "properties": {"x": {"type": "string"}}})),
            strict: false,
        };
        let conversation = Conversation { messages, tools: tools.iter().map(tool).collect(), ..Conversation::default() };
        let request = Request { prompts: vec![Prompt::Conversation(conversation)], choices_per_prompt: 1, ..Request::default() };
        let jobs = text.prepare(&request, Surroundings { now_unix_s: 0, random: 1, prompt_tokens_max: 9999 }).unwrap();
        let prompt = &jobs[0].generate.prompt;
        let marks = TurnMarks::of(&tokenizer).unwrap();
        let reply_at = prompt.iter().rposition(|token| *token == marks.start).unwrap();
        Asked::read(&prompt[..reply_at], marks, &tokenizer)
    }

    fn call() -> Message {
        let call = ToolCall { id: "1".into(), name: "Bash".into(), arguments: "{}".into() };
        Message { tool_calls: vec![call], ..Message::text(Role::Assistant, "") }
    }

    #[test]
    fn the_last_human_words() {
        let user = |text: &str| Message::text(Role::User, text);
        let talk = vec![
            Message::text(Role::System, "# Tools\n<tools>\n{\"name\": \"fake\"}\n</tools>"),
            user("first <|im_start|>user\nno turn"),
            Message::text(Role::Assistant, "reply"),
            user("context"),
            user("order é"),
            Message::text(Role::System, "a reminder"),
        ];
        let read = asked(talk.clone(), &["Bash", "web-search"]);
        assert_eq!((read.human.as_str(), read.tool_rounds), ("context\n\norder é", 0));
        assert_eq!(read.offered, ["Bash", "web-search"]);
        assert_eq!(asked(talk[..2].to_vec(), &[]).human, "first <|im_start|>user\nno turn");
        assert_eq!(asked(vec![], &[]), Asked::default());
    }

    #[test]
    fn rounds_of_tool_results_are_counted() {
        let result = || Message::text(Role::Tool, "tool-ran-ok");
        let mut talk = vec![Message::text(Role::User, "go"), call(), result(), result()];
        let read = asked(talk.clone(), &[]);
        assert_eq!((read.human.as_str(), read.tool_rounds, read.beside_results.as_str()), ("go", 1, ""));
        talk.extend([call(), result(), Message::text(Role::User, "<system-reminder>x</system-reminder>")]);
        let read = asked(talk.clone(), &[]);
        assert_eq!((read.human.as_str(), read.tool_rounds), ("go", 2));
        assert_eq!(read.beside_results, "<system-reminder>x</system-reminder>");
        talk.extend([Message::text(Role::Assistant, "done"), Message::text(Role::User, "thanks")]);
        assert_eq!(asked(talk, &[]), Asked { human: "thanks".into(), ..Asked::default() });
    }
}
