//! Names that both sides of a translation must agree on: ids of calls, names of tools. Each API takes only some spellings; what it
//! would refuse is spelled anew, always in the same way, so that a call and its result still find each other.

use std::borrow::Cow;

use crate::chat::ToolDefinition;

/// Of a tool's name, in OpenAI's API; Anthropic's takes 128. What fits both fits every server in between.
const TOOL_NAME_BYTES_MAX: usize = 64;
/// OpenAI's.
const CALL_ID_BYTES_MAX: usize = 40;
/// Hexadecimal digits: 64 bits for the few dozen names of one request, 128 for the ids of a long conversation.
const NAME_DIGITS: usize = 16;
const ID_DIGITS: usize = 32;

/// A call's id for OpenAI, which takes any characters but not many.
pub fn openai_call_id(id: &str) -> Cow<'_, str> {
    if id.len() <= CALL_ID_BYTES_MAX { Cow::Borrowed(id) } else { Cow::Owned(format!("call_{}", digest(id, ID_DIGITS))) }
}

/// A call's id for Anthropic: `toolu_` before the characters of `call_`'s, which is how its own ids were read.
pub fn anthropic_call_id(id: &str) -> Cow<'_, str> {
    let characters = id.strip_prefix("call_");
    if !is_plain(id) || characters == Some("") {
        return Cow::Owned(format!("toolu_{}", digest(id, ID_DIGITS)));
    }
    characters.map_or(Cow::Borrowed(id), |characters| Cow::Owned(format!("toolu_{characters}")))
}

/// A tool's name as both APIs take it. The beginning stays readable, for the model.
pub fn tool_name(name: &str) -> Cow<'_, str> {
    if is_plain(name) && name.len() <= TOOL_NAME_BYTES_MAX {
        return Cow::Borrowed(name);
    }
    let room = TOOL_NAME_BYTES_MAX - NAME_DIGITS - 1;
    let plain: String = name.chars().map(|c| if is_plain_char(c) { c } else { '_' }).take(room).collect();
    Cow::Owned(format!("{plain}_{}", digest(name, NAME_DIGITS)))
}

/// The client's name of the tool that was called by its name up there.
pub fn client_tool_name(called: &str, tools: &[ToolDefinition]) -> String {
    let known = tools.iter().find(|tool| tool_name(&tool.name) == called);
    known.map_or_else(|| called.to_owned(), |tool| tool.name.clone())
}

fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.chars().all(is_plain_char)
}

fn is_plain_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '-'
}

fn digest(text: &str, digits: usize) -> String {
    blake3::hash(text.as_bytes()).to_hex()[..digits].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_stays_as_it_is() {
        assert_eq!(openai_call_id("call_9"), "call_9");
        assert_eq!(anthropic_call_id("call_9"), "toolu_9");
        assert_eq!(anthropic_call_id("chatcmpl-tool-9"), "chatcmpl-tool-9");
        assert_eq!(tool_name("mcp__files__read"), "mcp__files__read");
    }

    #[test]
    fn what_does_not_fit_is_spelled_anew_and_apart() {
        let long = |last: char| format!("{}{last}", "x".repeat(80));
        assert_eq!(openai_call_id(&long('a')).len(), 37);
        assert_ne!(openai_call_id(&long('a')), openai_call_id(&long('b')));
        for (id, other) in [("functions.read:0", "functions.read:1"), ("ä", "ö"), ("call_", "call_.")] {
            assert!(is_plain(&anthropic_call_id(id)), "{id}");
            assert_ne!(anthropic_call_id(id), anthropic_call_id(other));
        }
        for (name, other) in [(long('a'), long('b')), ("read.file".into(), "read/file".into()), ("läs".into(), "lös".into())] {
            let written = tool_name(&name);
            assert!(is_plain(&written) && written.len() <= 64, "{written}");
            assert_ne!(written, tool_name(&other));
        }
    }

    #[test]
    fn a_called_tool_has_its_own_name_again() {
        let tool = |name: &str| ToolDefinition { name: name.to_owned(), description: None, parameters: None, strict: false };
        let tools = [tool("read.file"), tool("read/file")];
        assert_eq!(client_tool_name(&tool_name("read/file"), &tools), "read/file");
        assert_eq!(client_tool_name("unknown", &tools), "unknown");
    }
}
