//! Every stream that a test asks the server for is read by the strict reader of its grammar, whatever the test itself looks at.

use serde_json::Value;

use super::http_client::Reply;
use super::{chat_stream, completion_stream, infill_stream, messages_stream, response_stream};

/// Reads `reply`, where it is a finished stream of a route that has a grammar. `body`: what was asked.
#[track_caller]
pub fn check_any_stream(path: &str, body: &[u8], reply: &Reply) {
    if reply.status() != 200 || !reply.header("content-type").is_some_and(|kind| kind.starts_with("text/event-stream")) {
        return;
    }
    match path.split('?').next().expect("a path") {
        "/v1/chat/completions" => drop(chat_stream::fold(reply)),
        "/v1/completions" => drop(completion_stream::fold(reply)),
        "/v1/messages" => drop(messages_stream::read_messages_stream(reply)),
        "/v1/responses" => drop(response_stream::read_response_stream(reply)),
        "/infill" => {
            let body: Value = serde_json::from_slice(body).expect("what was answered with a stream was JSON");
            match body["response_fields"].as_array() {
                Some(fields) if !fields.is_empty() => {
                    let fields: Vec<&str> = fields.iter().map(|field| field.as_str().expect("a path")).collect();
                    infill_stream::check_chosen_stream(reply, &fields);
                }
                _ => drop(infill_stream::read_infill_stream(reply)),
            }
        }
        other => panic!("{other} answers with a stream of no known grammar"),
    }
}
