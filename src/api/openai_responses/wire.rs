//! The JSON of a reply's items and of the events that tell of them, written without a map of the fields between.

use serde::Serialize;
use serde_json::Value;

/// An item of a reply's output: first its id, then its kind, as OpenAI has them.
#[derive(Debug, Serialize)]
pub struct Item<'a> {
    pub id: &'a str,
    #[serde(flatten)]
    pub kind: ItemKind<'a>,
}

#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ItemKind<'a> {
    Reasoning {
        status: &'a str,
        summary: Vec<Part<'a>>,
    },
    Message {
        status: &'a str,
        role: &'static str,
        content: Vec<Part<'a>>,
    },
    FunctionCall {
        status: &'a str,
        arguments: &'a str,
        call_id: &'a str,
        #[serde(flatten)]
        tool: ToolName<'a>,
    },
    CustomToolCall {
        status: &'a str,
        input: &'a str,
        call_id: &'a str,
        #[serde(flatten)]
        tool: ToolName<'a>,
    },
}

/// What the client calls a tool.
#[derive(Debug, Serialize)]
pub struct ToolName<'a> {
    pub name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<&'a str>,
}

#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Part<'a> {
    OutputText { text: &'a str, annotations: [(); 0], logprobs: &'a [Value] },
    SummaryText { text: &'a str },
}

impl<'a> Part<'a> {
    pub fn output_text(text: &'a str, logprobs: &'a [Value]) -> Self {
        Self::OutputText { text, annotations: [], logprobs }
    }
}

/// An event about one item.
#[derive(Debug, Serialize)]
pub struct ItemEvent<'a> {
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub sequence_number: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub item_id: Option<&'a str>,
    pub output_index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_index: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub summary_index: Option<u32>,
    #[serde(flatten)]
    pub told: Told<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<&'a [Value]>,
}

/// What the event says, under the name of its field.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Told<'a> {
    Item(Item<'a>),
    Part(Part<'a>),
    Delta(&'a str),
    Text(&'a str),
    Arguments(&'a str),
    Input(&'a str),
}

impl<'a> Told<'a> {
    /// Of an item as a whole, or of what is in it.
    pub fn event(self, kind: &'static str, item_id: Option<&'a str>) -> ItemEvent<'a> {
        ItemEvent {
            kind,
            sequence_number: 0,
            item_id,
            output_index: 0,
            content_index: None,
            summary_index: None,
            told: self,
            logprobs: None,
        }
    }
}

impl<'a> ItemEvent<'a> {
    /// In the one part that a message has here.
    pub fn in_content(self) -> Self {
        Self { content_index: Some(0), ..self }
    }

    /// In the one part that a summary has here.
    pub fn in_summary(self) -> Self {
        Self { summary_index: Some(0), ..self }
    }

    pub fn with_logprobs(self, logprobs: &'a [Value]) -> Self {
        Self { logprobs: Some(logprobs), ..self }
    }
}
