//! What a strict client makes of a reply, whoever wrote which part of it: an event out of place is a failed test, and what is read is
//! folded, so that texts can be compared. Our own replies are read by stricter readers; this one knows what both writers may say.

use serde_json::{Value, json};
use understudy::gateway::drill::http::Dialect;
use understudy::gateway::drill::raw_client::{Exchange, SseEvent};

/// A reply as the client has it in the end.
#[derive(Debug, Default)]
pub struct Folded {
    pub model: String,
    pub text: String,
    pub thoughts: Vec<Thought>,
    pub calls: Vec<Call>,
    pub end: Ended,
}

#[derive(Debug, Default)]
pub struct Thought {
    pub text: String,
    pub signature: String,
}

#[derive(Debug, Default, PartialEq)]
pub struct Call {
    pub name: String,
    pub arguments: String,
    /// It may be executed.
    pub is_whole: bool,
}

#[derive(Debug, Default, PartialEq)]
pub enum Ended {
    /// The last event never came.
    #[default]
    Never,
    /// Why it ended, in the dialect's word.
    Well(String),
    /// Within the stream, with these words.
    Failed(Value),
}

pub fn read(dialect: Dialect, exchange: &Exchange) -> Folded {
    let is_stream = exchange.header("content-type").is_some_and(|kind| kind.starts_with("text/event-stream"));
    match (dialect, is_stream) {
        (Dialect::AnthropicMessages, true) => messages(&exchange.events()),
        (Dialect::OpenaiChat, true) => chat(&exchange.events()),
        (Dialect::OpenaiResponses, true) => responses(&exchange.events()),
        (_, false) => whole(dialect, &exchange.json()),
    }
}

fn messages(events: &[SseEvent]) -> Folded {
    let mut folded = Folded::default();
    let (mut began, mut blocks, mut open, mut reason) = (false, 0, None::<String>, None::<String>);
    for event in events {
        let data = json_of(event);
        let kind = text(&data["type"]);
        assert_eq!(event.event.as_deref(), Some(kind.as_str()), "an event's name is its type");
        assert_eq!(folded.end, Ended::Never, "nothing comes after the end: {data}");
        assert!(began || matches!(kind.as_str(), "message_start" | "ping" | "error"), "{kind} before the start");
        assert!(reason.is_none() || matches!(kind.as_str(), "message_stop" | "ping" | "error"), "{kind} after the reason");
        match kind.as_str() {
            "ping" => assert_eq!(data, json!({"type": "ping"})),
            "message_start" => {
                assert!(!began, "two replies in one: {data}");
                began = true;
                assert_eq!(data["message"]["content"], json!([]));
                folded.model = text(&data["message"]["model"]);
            }
            "content_block_start" => {
                assert_eq!((&open, &data["index"]), (&None, &json!(blocks)), "one block after the other: {data}");
                blocks += 1;
                let block = &data["content_block"];
                match text(&block["type"]).as_str() {
                    "text" => assert_eq!(block["text"], ""),
                    "thinking" => folded.thoughts.push(Thought::default()),
                    "tool_use" => {
                        assert_eq!(block["input"], json!({}));
                        folded.calls.push(Call { name: text(&block["name"]), ..Call::default() });
                    }
                    other => panic!("a block of {other}"),
                }
                open = Some(text(&block["type"]));
            }
            "content_block_delta" => {
                assert_eq!(data["index"], json!(blocks - 1), "a delta belongs to the block that is open");
                let delta = &data["delta"];
                match (open.as_deref(), text(&delta["type"]).as_str()) {
                    (Some("text"), "text_delta") => folded.text += &text(&delta["text"]),
                    (Some("thinking"), "thinking_delta") => last(&mut folded.thoughts).text += &text(&delta["thinking"]),
                    (Some("thinking"), "signature_delta") => last(&mut folded.thoughts).signature += &text(&delta["signature"]),
                    (Some("tool_use"), "input_json_delta") => last(&mut folded.calls).arguments += &text(&delta["partial_json"]),
                    (open, other) => panic!("{other} in {open:?}"),
                }
            }
            "content_block_stop" => {
                assert_eq!(data["index"], json!(blocks - 1));
                match open.take().as_deref() {
                    Some("tool_use") => last(&mut folded.calls).is_whole = true,
                    Some("thinking") => assert_ne!(last(&mut folded.thoughts).signature, "", "thinking is signed"),
                    Some(_) => {}
                    None => panic!("the end of no block"),
                }
            }
            "message_delta" if data["delta"]["stop_reason"].is_null() => {}
            "message_delta" => {
                assert_eq!(open, None, "the reason comes after the last block");
                reason = Some(text(&data["delta"]["stop_reason"]));
                let is_call = reason.as_deref() == Some("tool_use");
                assert_eq!(is_call, !folded.calls.is_empty(), "tools are used by calls, and only by them");
                assert!(data["usage"]["output_tokens"].as_u64().is_some_and(|tokens| tokens > 0), "what was said is counted: {data}");
            }
            "message_stop" => folded.end = Ended::Well(reason.clone().expect("a reason comes before the stop")),
            "error" => folded.end = Ended::Failed(data["error"].clone()),
            other => panic!("{other} is no event of this grammar"),
        }
    }
    folded
}

fn chat(events: &[SseEvent]) -> Folded {
    let mut folded = Folded::default();
    let (mut head, mut reason, mut usage) = (None::<Value>, None::<String>, false);
    for event in events {
        assert_eq!(event.event, None, "chunks have no names");
        assert_eq!(folded.end, Ended::Never, "nothing comes after the end: {}", event.data);
        if event.data == "[DONE]" {
            folded.end = Ended::Well(reason.clone().expect("a reason comes before the end"));
            continue;
        }
        let chunk = json_of(event);
        if chunk["error"].is_object() {
            folded.end = Ended::Failed(chunk["error"].clone());
            continue;
        }
        let said = json!({"id": chunk["id"], "object": "chat.completion.chunk", "created": chunk["created"], "model": chunk["model"]});
        assert_eq!(chunk["object"], said["object"]);
        assert_eq!(*head.get_or_insert_with(|| said.clone()), said, "all chunks are of one reply");
        let choices = chunk["choices"].as_array().expect("choices are an array");
        let Some(choice) = choices.first() else {
            assert!(reason.is_some() && chunk["usage"].is_object() && !usage, "a chunk without choices counts, once, at the end: {chunk}");
            usage = true;
            continue;
        };
        assert!(choices.len() == 1 && choice["index"] == 0 && reason.is_none(), "{chunk}");
        let delta = &choice["delta"];
        folded.text += delta["content"].as_str().unwrap_or_default();
        if let Some(thought) = delta["reasoning_content"].as_str() {
            if folded.thoughts.is_empty() {
                folded.thoughts.push(Thought::default());
            }
            folded.thoughts[0].text += thought;
        }
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            let index = call["index"].as_u64().expect("a call has an index") as usize;
            if index == folded.calls.len() {
                assert!(call["id"].is_string(), "a call opens with its id: {call}");
                folded.calls.push(Call { name: text(&call["function"]["name"]), ..Call::default() });
            }
            assert_eq!(index + 1, folded.calls.len(), "pieces belong to the call begun last");
            folded.calls[index].arguments += call["function"]["arguments"].as_str().unwrap_or_default();
        }
        if let Some(told) = choice["finish_reason"].as_str() {
            assert_eq!(told == "tool_calls", !folded.calls.is_empty());
            folded.calls.iter_mut().for_each(|call| call.is_whole = true);
            reason = Some(told.to_owned());
        }
    }
    folded.model = head.map(|head| text(&head["model"])).unwrap_or_default();
    folded
}

fn responses(events: &[SseEvent]) -> Folded {
    let mut folded = Folded::default();
    let (mut id, mut done, mut open) = (Value::Null, Vec::<Value>::new(), None::<Value>);
    // Of the item that is open: what its deltas came to.
    let mut said = String::new();
    for (number, event) in events.iter().enumerate() {
        let data = json_of(event);
        let kind = text(&data["type"]);
        assert_eq!(event.event.as_deref(), Some(kind.as_str()), "an event's name is its type");
        assert_eq!(folded.end, Ended::Never, "nothing comes after the end: {data}");
        assert_eq!(data["sequence_number"], json!(number), "numbers have no gaps: {data}");
        assert!((number == 0) == (kind == "response.created") || kind == "error", "event {number} is {kind}");
        if let Some(index) = data.get("output_index") {
            assert_eq!(*index, json!(done.len()), "one item after the other: {data}");
        }
        match kind.as_str() {
            "response.created" | "response.in_progress" | "response.completed" | "response.incomplete" | "response.failed" => {
                let response = &data["response"];
                assert_eq!(*id.as_null().map_or(&id, |()| &response["id"]), response["id"], "all events are of one response");
                (id, folded.model) = (response["id"].clone(), text(&response["model"]));
                match kind.as_str() {
                    "response.completed" | "response.incomplete" => {
                        assert_eq!(open, None, "an item is still open");
                        assert_eq!(response["output"], Value::from(done.clone()), "the output is the items that were done");
                        assert!(response["usage"].is_object(), "what was said is counted");
                        folded.end = Ended::Well(text(&response["status"]));
                    }
                    "response.failed" => folded.end = Ended::Failed(response["error"].clone()),
                    _ => {}
                }
            }
            "error" => folded.end = Ended::Failed(data.clone()),
            "response.output_item.added" => {
                assert_eq!(open, None, "an item begins in another");
                open = Some(data["item"].clone());
                said.clear();
                match text(&data["item"]["type"]).as_str() {
                    "reasoning" => folded.thoughts.push(Thought::default()),
                    "function_call" => folded.calls.push(Call { name: text(&data["item"]["name"]), ..Call::default() }),
                    _ => {}
                }
            }
            "response.output_item.done" => {
                let opened = open.take().expect("the item is open");
                let item = &data["item"];
                assert_eq!((&item["id"], &item["type"]), (&opened["id"], &opened["type"]));
                let whole = match text(&item["type"]).as_str() {
                    "message" => texts(&item["content"]),
                    "reasoning" => texts(&item["summary"]),
                    _ => text(&item["arguments"]),
                };
                assert_eq!(whole, said, "an item is what its deltas said");
                if let Some(call) = folded.calls.last_mut().filter(|_| item["type"] == "function_call") {
                    call.is_whole = item["status"] == "completed";
                }
                done.push(item.clone());
            }
            _ => {
                let opened = open.as_ref().unwrap_or_else(|| panic!("{kind} outside of an item"));
                assert_eq!(data["item_id"], opened["id"]);
                let piece = data["delta"].as_str().unwrap_or_default();
                said += piece;
                match kind.as_str() {
                    "response.output_text.delta" => folded.text += piece,
                    "response.reasoning_summary_text.delta" => last(&mut folded.thoughts).text += piece,
                    "response.function_call_arguments.delta" => last(&mut folded.calls).arguments += piece,
                    "response.output_text.done" | "response.reasoning_summary_text.done" => assert_eq!(data["text"], said.as_str()),
                    "response.function_call_arguments.done" => assert_eq!(data["arguments"], said.as_str()),
                    "response.content_part.added" | "response.content_part.done" => {}
                    "response.reasoning_summary_part.added" | "response.reasoning_summary_part.done" => {}
                    other => panic!("{other} is no event of this grammar"),
                }
            }
        }
    }
    folded
}

fn whole(dialect: Dialect, reply: &Value) -> Folded {
    let mut folded = Folded { model: text(&reply["model"]), ..Folded::default() };
    let mut call = |name: &Value, arguments: String| folded.calls.push(Call { name: text(name), arguments, is_whole: true });
    let reason = match dialect {
        Dialect::AnthropicMessages => {
            let blocks = reply["content"].as_array().unwrap_or_else(|| panic!("{reply} has no content"));
            blocks.iter().filter(|block| block["type"] == "tool_use").for_each(|block| call(&block["name"], block["input"].to_string()));
            folded.text = texts(&reply["content"]);
            &reply["stop_reason"]
        }
        Dialect::OpenaiChat => {
            let choice = &reply["choices"][0];
            for told in choice["message"]["tool_calls"].as_array().into_iter().flatten() {
                call(&told["function"]["name"], text(&told["function"]["arguments"]));
            }
            folded.text = choice["message"]["content"].as_str().unwrap_or_default().to_owned();
            &choice["finish_reason"]
        }
        Dialect::OpenaiResponses => {
            let items = reply["output"].as_array().unwrap_or_else(|| panic!("{reply} has no output"));
            items.iter().filter(|item| item["type"] == "function_call").for_each(|item| call(&item["name"], text(&item["arguments"])));
            folded.text = items.iter().filter(|item| item["type"] == "message").map(|item| texts(&item["content"])).collect();
            &reply["status"]
        }
    };
    folded.end = Ended::Well(text(reason));
    folded
}

/// The texts of an array of parts.
fn texts(parts: &Value) -> String {
    parts.as_array().into_iter().flatten().filter_map(|part| part["text"].as_str()).collect()
}

fn json_of(event: &SseEvent) -> Value {
    serde_json::from_str(&event.data).unwrap_or_else(|_| panic!("clients stop at what is no JSON: {:?}", event.data))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}

fn last<T>(pieces: &mut [T]) -> &mut T {
    pieces.last_mut().expect("a delta belongs to a piece")
}
