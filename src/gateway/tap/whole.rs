//! A reply that came in one piece: that it is one, and what is to be known of it.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::seen::Seen;
use super::text::{Text, str_of};
use super::{Protocol, Told, anthropic, error_event, openai_chat, openai_responses};
use crate::chat::Usage;
use crate::gateway::fault::Fault;

/// What is to be known of a whole reply.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Whole {
    pub id: String,
    pub model: String,
    pub usage: Usage,
    pub is_refusal: bool,
    /// What proves who thought its thinking, for the ledger: as of [`Seen::signatures`].
    pub signatures: Vec<String>,
}

/// The fields of whole replies, in all protocols.
#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow, default)]
    id: Option<Text<'a>>,
    #[serde(borrow, default)]
    model: Option<Text<'a>>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
    #[serde(borrow, default)]
    usage: Option<&'a RawValue>,
    #[serde(borrow, default)]
    stop_reason: Option<Text<'a>>,
    #[serde(borrow, default)]
    status: Option<Text<'a>>,
    #[serde(borrow, default)]
    content: Option<Vec<Block<'a>>>,
    #[serde(borrow, default)]
    choices: Option<Vec<Choice<'a>>>,
    #[serde(borrow, default)]
    output: Option<Vec<Block<'a>>>,
}

/// A block of Anthropic's, an item of a response.
#[derive(Deserialize)]
struct Block<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: Text<'a>,
    #[serde(borrow, default)]
    id: Option<Text<'a>>,
    #[serde(borrow, default)]
    signature: Option<Text<'a>>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
    #[serde(borrow, default)]
    encrypted_content: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(borrow, default)]
    message: Option<Message<'a>>,
    #[serde(borrow, default)]
    text: Option<&'a RawValue>,
    #[serde(borrow, default)]
    finish_reason: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow, default)]
    reasoning_content: Option<Text<'a>>,
    #[serde(borrow, default)]
    reasoning: Option<Text<'a>>,
    #[serde(borrow, default)]
    refusal: Option<Text<'a>>,
}

/// Reads the body of a 200. What is no reply of this protocol, and no error of it either, is not the API's.
pub fn fold_whole(protocol: Protocol, body: &[u8]) -> Result<Whole, Fault> {
    let body: Body<'_> = serde_json::from_slice(body).map_err(|_| Fault::NotTheApi)?;
    if let Some(error) = body.error {
        return Err(match error_event::told(error) {
            Told::Error { fault, .. } => fault,
            _ => Fault::ErrorEvent,
        });
    }
    let mut seen = Seen::new(protocol);
    let (is_refusal, signatures) = match protocol {
        Protocol::AnthropicMessages => {
            let blocks = body.content.as_deref().ok_or(Fault::NotTheApi)?;
            anthropic::count(&mut seen, body.usage);
            (str_of(&body.stop_reason) == "refusal", blocks.iter().filter_map(Block::proof).collect())
        }
        Protocol::OpenAiChat | Protocol::OpenAiCompletions => {
            let choices = body.choices.as_deref().filter(|choices| is_whole(protocol, choices)).ok_or(Fault::NotTheApi)?;
            openai_chat::count(&mut seen, body.usage);
            (choices.iter().any(Choice::is_refusal), choices.iter().filter_map(Choice::thoughts).collect())
        }
        Protocol::OpenAiResponses => {
            let items = body.output.as_deref().ok_or(Fault::NotTheApi)?;
            if str_of(&body.status) == "failed" {
                return Err(Fault::ErrorEvent);
            }
            openai_responses::count(&mut seen, body.usage);
            (false, items.iter().filter_map(Block::proof).collect())
        }
    };
    // Some servers leave out the id of a completion, none that of a message or a response.
    let id = body.id.filter(|id| !id.as_str().is_empty());
    if id.is_none() && matches!(protocol, Protocol::AnthropicMessages | Protocol::OpenAiResponses) {
        return Err(Fault::NotTheApi);
    }
    Ok(Whole { id: str_of(&id).to_owned(), model: str_of(&body.model).to_owned(), usage: seen.reply.usage, is_refusal, signatures })
}

fn is_whole(protocol: Protocol, choices: &[Choice<'_>]) -> bool {
    let says = |choice: &Choice<'_>| if protocol == Protocol::OpenAiChat { choice.message.is_some() } else { choice.text.is_some() };
    !choices.is_empty() && choices.iter().all(says)
}

impl Block<'_> {
    fn proof(&self) -> Option<String> {
        let proof = match self.kind.as_str() {
            "thinking" => str_of(&self.signature).to_owned(),
            "redacted_thinking" => self.data.and_then(|data| serde_json::from_str(data.get()).ok())?,
            "reasoning" => self.encrypted_content.as_ref().or(self.id.as_ref())?.as_str().to_owned(),
            _ => return None,
        };
        Some(proof).filter(|proof| !proof.is_empty())
    }
}

impl Choice<'_> {
    fn is_refusal(&self) -> bool {
        let refusal = self.message.as_ref().and_then(|message| message.refusal.as_ref());
        str_of(&self.finish_reason) == "content_filter" || refusal.is_some_and(|refusal| !refusal.as_str().is_empty())
    }

    fn thoughts(&self) -> Option<String> {
        let message = self.message.as_ref()?;
        let thoughts = message.reasoning_content.as_ref().or(message.reasoning.as_ref())?.as_str();
        Some(thoughts.to_owned()).filter(|thoughts| !thoughts.is_empty())
    }
}
