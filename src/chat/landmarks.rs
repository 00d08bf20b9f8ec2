//! Finds in the tokens of a conversation's prompt where other prompts are likely to part from it: where its instructions and tools end, and
//! where the last message of a person begins.
//!
//! A template may do anything to a conversation, so the places are looked for in what came of it: the texts of its messages, from the
//! last to the first, each before the one that was found. A place that is wrong costs time and never an answer.

use super::{Conversation, Message, Role};
use crate::engine::Landmarks;

/// `tokens`: the bytes of each of the prompt's tokens, control tokens included.
pub fn landmarks<'a>(conversation: &Conversation, tokens: impl Iterator<Item = &'a [u8]>) -> Landmarks {
    let (mut text, mut ends) = (Vec::new(), Vec::new());
    for token in tokens {
        text.extend_from_slice(token);
        ends.push(text.len());
    }
    let mut before = &text[..];
    let mut landmarks = Landmarks::default();
    let is_spoken = |message: &&Message| !matches!(message.role, Role::System | Role::Developer);
    for message in conversation.messages.iter().rev().filter(is_spoken) {
        let said = message.joined_text();
        let Some(start) = find_last(before, said.trim().as_bytes()) else { continue };
        before = &before[..start];
        // Whole tokens that end before it: what follows them is the message, and other messages do not share it.
        let place = Some(ends.partition_point(|end| *end <= start));
        landmarks.instructions_end = place;
        if message.role == Role::User && landmarks.last_turn.is_none() {
            landmarks.last_turn = place;
        }
    }
    landmarks
}

/// Where `part` stands last. `None` also for nothing at all.
fn find_last(text: &[u8], part: &[u8]) -> Option<usize> {
    let first = part.first()?;
    let mut end = text.len().checked_sub(part.len())? + 1;
    while let Some(at) = text[..end].iter().rposition(|byte| byte == first) {
        if text[at..].starts_with(part) {
            return Some(at);
        }
        end = at;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::{Thinking, ToolChoice};

    fn conversation(messages: Vec<Message>) -> Conversation {
        Conversation {
            messages,
            tools: Vec::new(),
            tool_choice: ToolChoice::Auto,
            parallel_tool_calls: true,
            thinking: Thinking::default(),
            continues_last: false,
            template_variables: serde_json::Map::new(),
        }
    }

    /// Of a prompt whose tokens are so many bytes long; the text before each place.
    fn places(prompt: &str, bytes: usize, messages: Vec<Message>) -> (Option<&str>, Option<&str>) {
        let found = landmarks(&conversation(messages), prompt.as_bytes().chunks(bytes));
        let before = |tokens: Option<usize>| tokens.map(|tokens| &prompt[..(tokens * bytes).min(prompt.len())]);
        (before(found.instructions_end), before(found.last_turn))
    }

    #[test]
    fn places_are_found_from_the_end() {
        let messages = || {
            vec![
                Message::text(Role::System, "say this"),
                Message::text(Role::User, " hi\n"),
                Message::text(Role::Assistant, "hi, this is it"),
                Message::text(Role::User, "hi"),
                Message::text(Role::Tool, "42"),
            ]
        };
        let prompt = "<s>this hides hi: say this<u>hi<a>hi, this is it<u>hi<t>42<a>";
        let places = |bytes| places(prompt, bytes, messages());
        let (instructions, turn) = ("<s>this hides hi: say this<u>", "<s>this hides hi: say this<u>hi<a>hi, this is it<u>");
        assert_eq!(places(1), (Some(instructions), Some(turn)));
        // Tokens that belong to both sides are on neither.
        let (before_instructions, before_turn) = places(7);
        assert_eq!((before_instructions, before_turn), (Some(&prompt[..28]), Some(&prompt[..49])));
    }

    #[test]
    fn what_is_not_found_is_passed_over() {
        let user = |text: &str| Message::text(Role::User, text);
        assert_eq!(places("<u>one<u>two", 1, vec![user("one"), user("rewritten")]), (Some("<u>"), Some("<u>")));
        assert_eq!(places("<u>one", 1, vec![user("")]), (None, None));
        assert_eq!(places("", 1, vec![user("one")]), (None, None));
        assert_eq!(places("<s>rules<a>", 1, vec![Message::text(Role::System, "rules")]), (None, None));
    }
}
