//! A strict reader of streams of `POST /v1/completions`: what the grammar forbids is a failed test. What it reads it folds, so that a
//! stream can be compared with a whole reply.

use serde_json::{Value, json};

use super::http_client::Reply;
use super::openai_stream::{Entries, keys, read_entries};

/// What a stream added up to.
#[derive(Debug, Clone, PartialEq)]
pub struct Folded {
    /// As in a whole reply: `{"text": ..., "index": ..., "logprobs": ..., "finish_reason": ...}`.
    pub choices: Vec<Value>,
    pub usage: Option<Value>,
    /// Chunks that say nothing, sent so that the stream is not taken for dead.
    pub keep_alives: usize,
    /// The stream ended with this, and not as it should.
    pub error: Option<Value>,
}

const LISTS: [&str; 4] = ["tokens", "token_logprobs", "top_logprobs", "text_offset"];

#[derive(Default)]
struct Choice {
    text: String,
    /// `None`: nothing was said of log-probabilities.
    logprobs: Option<[Vec<Value>; 4]>,
    finish: Option<String>,
}

/// Reads a finished stream. `choices`: how many there must be.
#[track_caller]
pub fn read_completion_stream(reply: &Reply, choices: usize) -> Folded {
    let folded = fold(reply);
    assert_eq!((folded.choices.len(), &folded.error), (choices, &None));
    folded
}

/// Reads a finished stream, which may have failed.
#[track_caller]
pub fn fold(reply: &Reply) -> Folded {
    let Entries { entries, usage, error } = read_entries(reply, "text_completion", "cmpl-");
    let mut choices: Vec<Choice> = Vec::new();
    let mut keep_alives = 0;
    for entry in entries {
        assert_eq!(keys(&entry), ["text", "index", "logprobs", "finish_reason"]);
        let index = entry["index"].as_u64().expect("a choice has an index") as usize;
        if choices.len() <= index {
            choices.resize_with(index + 1, Choice::default);
        }
        let text = entry["text"].as_str().expect("text is text");
        if text.is_empty() && entry["logprobs"].is_null() && entry["finish_reason"].is_null() {
            keep_alives += 1;
            continue;
        }
        choices[index].read(text, &entry["logprobs"], &entry["finish_reason"]);
    }
    let unfinished = choices.iter().position(|choice| choice.finish.is_none());
    assert!(unfinished.is_none() || error.is_some(), "choice {unfinished:?} never finishes");
    assert!(!choices.is_empty() || error.is_some(), "a reply has a choice");
    Folded { choices: choices.into_iter().enumerate().map(whole).collect(), usage, keep_alives, error }
}

impl Choice {
    fn read(&mut self, text: &str, logprobs: &Value, finish: &Value) {
        assert_eq!(self.finish, None, "nothing comes after the finish");
        if let Some(reason) = finish.as_str() {
            assert!(["stop", "length", "content_filter"].contains(&reason), "{reason} ends no completion");
            assert!(text.is_empty() && logprobs.is_null(), "the chunk that finishes says nothing else");
            self.finish = Some(reason.to_owned());
            return;
        }
        assert!(finish.is_null(), "{finish}");
        self.text.push_str(text);
        if !logprobs.is_null() {
            self.read_logprobs(logprobs);
        }
    }

    fn read_logprobs(&mut self, logprobs: &Value) {
        assert_eq!(keys(logprobs), LISTS);
        let is_first = self.logprobs.is_none();
        let lists = self.logprobs.get_or_insert_default();
        let added = logprobs["tokens"].as_array().expect("tokens are a list").len();
        assert!(added > 0, "log-probabilities of no token");
        for (list, name) in lists.iter_mut().zip(LISTS) {
            let values = logprobs[name].as_array();
            assert!(values.is_some() || name == "top_logprobs", "{name} is a list");
            let values = values.cloned().unwrap_or_default();
            assert!(values.len() == added || (name == "top_logprobs" && values.is_empty()), "{name} is as long as the tokens");
            list.extend(values);
        }
        let [tokens, values, rivals, offsets] = &*lists;
        assert!(rivals.is_empty() || rivals.len() == tokens.len(), "rivals are told of all tokens or of none");
        for at in tokens.len() - added..tokens.len() {
            // The first token of a prompt follows nothing, so nobody can say how likely it was.
            let of_nothing = is_first && at == 0 && values[at].is_null();
            assert!(of_nothing || values[at].as_f64().is_some_and(|value| value <= 0.0), "{} is no log-probability", values[at]);
            if let Some(rivals) = rivals.get(at) {
                let itself = tokens[at].as_str().expect("a token is text");
                assert!(if of_nothing { rivals.is_null() } else { rivals.get(itself) == Some(&values[at]) }, "{itself:?} in {rivals}");
            }
            let offset = offsets[at].as_u64().expect("an offset is a number");
            assert!(at == 0 || offsets[at - 1].as_u64() <= Some(offset), "offsets go forwards");
        }
    }
}

/// A token stands where its offset says, as far as the text was shown.
fn check_offsets(text: &str, [tokens, _, _, offsets]: &[Vec<Value>; 4]) {
    let text: Vec<char> = text.chars().collect();
    // Where the next token must begin.
    let mut end = None;
    for (token, offset) in tokens.iter().zip(offsets) {
        let (token, offset) = (token.as_str().expect("text"), offset.as_u64().expect("a number") as usize);
        // Pieces of a character are named by their bytes; control tokens of the model's own are silent.
        if token.starts_with("bytes:") || (token.starts_with('<') && token.ends_with('>')) {
            end = None;
            continue;
        }
        assert!(end.is_none_or(|end| end == offset), "{token:?} begins at {offset}, the one before it ends at {end:?}");
        end = Some(offset + token.chars().count());
        let shown = &text[offset.min(text.len())..];
        assert!(shown.iter().zip(token.chars()).all(|(shown, told)| *shown == told), "{token:?} does not stand at {offset}");
    }
}

fn whole((index, choice): (usize, Choice)) -> Value {
    if let Some(logprobs) = &choice.logprobs {
        check_offsets(&choice.text, logprobs);
    }
    let logprobs = choice.logprobs.map(|[tokens, values, rivals, offsets]| {
        let rivals = if rivals.is_empty() { Value::Null } else { rivals.into() };
        json!({"tokens": tokens, "token_logprobs": values, "top_logprobs": rivals, "text_offset": offsets})
    });
    json!({"text": choice.text, "index": index, "logprobs": logprobs, "finish_reason": choice.finish})
}
