//! The local model reads along: while a cloud takes its time, and after its turns, so that it can go on at once when the cloud cannot.
//! Nobody waits for this: it runs at the lowest priority, within limits, and what it computes stays in the prefix cache.

use std::time::Instant;

use bytes::Bytes;
use tokio::task::AbortHandle;

use super::AppState;
use super::generate::read_prompts;
use crate::api::Dialect;
use crate::chat::begun::{BegunContent, BegunReply};
use crate::chat::{self, Message, Part, Prompt, Role, ToolCall};
use crate::engine::Priority;
use crate::gateway::door::Gateway;

/// Reads a prompt while it is held.
#[derive(Debug)]
pub struct Prefill(AbortHandle);

impl Drop for Prefill {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Reads the prompt of a request that a cloud is still to answer.
pub fn prefill<D: Dialect>(state: &AppState, body: Bytes) -> Prefill {
    let state = state.clone();
    Prefill(tokio::spawn(async move { read::<D>(&state, body, None).await }).abort_handle())
}

/// The same of a request that has been read.
pub fn prefill_request<D: Dialect>(state: &AppState, request: chat::Request) -> Prefill {
    let state = state.clone();
    Prefill(tokio::spawn(async move { submit::<D>(&state, move |_| Some(request)).await }).abort_handle())
}

/// After a turn of a cloud: reads the conversation with its reply, if the configuration, the battery and the balance allow.
pub fn follow<D: Dialect>(state: &AppState, gateway: &Gateway, body: &Bytes, reply: Option<&BegunReply>) {
    let Some(reply) = reply else { return };
    if state.served().is_err() || !gateway.may_shadow() {
        return;
    }
    let (state, body, reply, of_task) = (state.clone(), body.clone(), reply.clone(), gateway.clone());
    let task = tokio::spawn(async move {
        let began = Instant::now();
        read::<D>(&state, body, Some(reply)).await;
        of_task.shadowed(began.elapsed());
    });
    gateway.shadows(task.abort_handle());
}

async fn read<D: Dialect>(state: &AppState, body: Bytes, reply: Option<BegunReply>) {
    submit::<D>(state, move |state| {
        let mut call = D::parse_with(&body, state.replies()).ok()?;
        if let (Some(reply), [Prompt::Conversation(conversation)]) = (reply, &mut call.request.prompts[..]) {
            conversation.messages.push(spoken(reply));
        }
        Some(call.request)
    })
    .await;
}

async fn submit<D: Dialect>(state: &AppState, request: impl FnOnce(&AppState) -> Option<chat::Request> + Send + 'static) {
    let turn = state.turn_to_prepare().await;
    let of_task = state.clone();
    // Large prompts are tokenized away from the threads that serve sockets.
    let submitted = tokio::task::spawn_blocking(move || {
        let request = request(&of_task)?;
        let request = chat::Request { priority: Priority::Shadow, tokens_max: Some(0), choices_per_prompt: 1, ..request };
        let choices = read_prompts::<D>(&of_task, &request);
        drop(turn);
        choices
    });
    // A request that cannot be read here is the cloud's affair; one that the engine refuses now is not worth a second try.
    let Ok(Some(mut choices)) = submitted.await else { return };
    while choices.next().await.is_some() {}
}

/// A reply as the conversation will have it. Thoughts are left out: templates leave them out of turns that are over.
fn spoken(reply: BegunReply) -> Message {
    let mut message = Message { content: Vec::new(), ..Message::text(Role::Assistant, "") };
    for piece in reply.pieces {
        match piece.content {
            BegunContent::Text(text) => message.content.push(Part::Text(text)),
            BegunContent::ToolCall { call_id, name, arguments } => message.tool_calls.push(ToolCall { id: call_id, name, arguments }),
            BegunContent::Thinking(_) | BegunContent::Other => {}
        }
    }
    message
}
