//! One connection of the upstream that misbehaves: reads requests, carries out scripts, notes what it sees of the client.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::answer::{Answer, ErrorAnswer, ErrorKind, Misbehaviour};
use super::checks::{self, Refusal};
use super::fault_upstream::Shared;
use super::http::{BodyReader, Dialect, Framing, Head, generates};
use super::plan::{Asked, random};
use super::script::{self, Step};

/// Bytes read ahead while an answer is sent: a client that says more than this is not listened to.
const READ_AHEAD_BYTES_MAX: usize = 1 << 20;

/// Why a connection is not served on.
pub(super) enum Gone {
    ClientLeft,
    /// By plan.
    Ended,
}

pub(super) struct Connection {
    pub stream: TcpStream,
    number: u64,
    pub shared: Arc<Shared>,
    /// Read and not yet used.
    buffer: Vec<u8>,
}

impl Connection {
    pub fn new(stream: TcpStream, number: u64, shared: Arc<Shared>) -> Self {
        // Frames are to leave one by one. A socket that refuses the option is served all the same.
        let _ = stream.set_nodelay(true);
        Self { stream, number, shared, buffer: Vec::new() }
    }

    pub async fn serve(mut self) {
        while let Some(head) = self.head().await {
            let attempt = self.shared.begin(self.number, &head);
            match self.answer(&head, attempt).await {
                Ok(()) => self.finished(attempt),
                Err(Gone::Ended) => return self.finished(attempt),
                Err(Gone::ClientLeft) => return self.shared.note(attempt, |noted| noted.client_left_at = Some(self.shared.elapsed())),
            }
        }
    }

    pub fn finished(&self, attempt: u64) {
        self.shared.note(attempt, |noted| noted.finished_at = noted.finished_at.or(Some(self.shared.elapsed())));
    }

    /// `None`: the client has nothing more to say, or nothing that is HTTP.
    async fn head(&mut self) -> Option<Head> {
        loop {
            match Head::read(&self.buffer) {
                Ok(Some((head, length))) => {
                    self.buffer.drain(..length);
                    return Some(head);
                }
                Ok(None) => self.read().await.ok()?,
                Err(_) => return None,
            }
        }
    }

    pub async fn read(&mut self) -> Result<(), Gone> {
        match self.stream.read_buf(&mut self.buffer).await {
            Ok(0) | Err(_) => Err(Gone::ClientLeft),
            Ok(_) => Ok(()),
        }
    }

    async fn answer(&mut self, head: &Head, attempt: u64) -> Result<(), Gone> {
        let (method, path) = head.request().unwrap_or_default();
        let asked = Asked { path, model: "", number: attempt };
        let early = self.shared.decider().peek(&asked, self.shared.elapsed()).and_then(|answer| answer.misbehaviour.clone());
        if let Some(Misbehaviour::EarlyError(error)) = &early {
            let dialect = Dialect::of_path(path).unwrap_or(Dialect::OpenaiChat);
            let (rule, _) = self.shared.decider().decide(&asked, self.shared.elapsed());
            self.shared.note(attempt, |noted| noted.rule = rule);
            self.carry_out(script::error_response(dialect, error, None), attempt).await?;
            self.finished(attempt);
            return self.note_upload(attempt).await;
        }
        if head.header("expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue"))
            && early != Some(Misbehaviour::NeverContinue)
        {
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n", attempt).await?;
        }
        let body = self.body(head, attempt).await?;
        let json: Value = serde_json::from_slice(&body).unwrap_or_default();
        let model = json["model"].as_str().unwrap_or_default().to_owned();
        let refusal = checks::refusal(&self.shared.decider().plan().expect, head, &json);
        let asked = Asked { model: &model, ..asked };
        let (rule, answer) = self.shared.decider().decide(&asked, self.shared.elapsed());
        self.shared.note(attempt, |noted| {
            (noted.model, noted.rule) = (model.clone(), rule);
            noted.refused = refusal.as_ref().map(|refusal| refusal.message.clone());
        });
        if let Some(behind) = self.shared.behind.filter(|_| !script::replaces_reply(&answer)) {
            return self.relay(behind, head, &body, &answer, attempt).await;
        }
        let steps = self.steps(method, path, &json, &answer, refusal, attempt);
        self.carry_out(steps, attempt).await
    }

    fn steps(&self, method: &str, path: &str, json: &Value, answer: &Answer, refusal: Option<Refusal>, attempt: u64) -> Vec<Step> {
        let dialect = Dialect::of_path(path).unwrap_or_else(|| dialect_of_other(path));
        if let Some(Refusal { status, message }) = refusal.filter(|_| answer.misbehaviour.is_none()) {
            let error = if status == 401 { ErrorKind::Authentication } else { ErrorKind::InvalidRequest };
            return script::error_response(dialect, &ErrorAnswer { error, status: Some(status), retry_after: None }, Some(&message));
        }
        let input_tokens = json.to_string().len() / 4;
        let request = script::Request {
            dialect,
            stream: json["stream"] == true,
            model: json["model"].as_str().unwrap_or_default(),
            id: random(self.shared.decider().plan().seed, 0, attempt),
            input_tokens,
            include_usage: json["stream_options"]["include_usage"] == true,
        };
        if generates(path) || answer.misbehaviour.is_some() {
            let script = script::script(answer, &request, self.shared.elapsed());
            self.shared.note(attempt, |noted| noted.fault_missed = script.fault_missed);
            return script.steps;
        }
        other_path(method, path, input_tokens)
    }

    async fn body(&mut self, head: &Head, attempt: u64) -> Result<Vec<u8>, Gone> {
        let framing = match head.framing() {
            Framing::UntilClosed => Framing::Length(0),
            framing => framing,
        };
        let (mut reader, mut body) = (BodyReader::new(framing), Vec::new());
        loop {
            let before = body.len();
            let read = reader.advance(&mut self.buffer, &mut body);
            self.shared.note(attempt, |noted| noted.body.extend_from_slice(&body[before..]));
            match read {
                Err(_) => return Err(Gone::Ended),
                Ok(()) if reader.done() => return Ok(body),
                Ok(()) => self.read().await?,
            }
        }
    }

    /// Behind an answer that came before the body: how much the client uploads all the same.
    async fn note_upload(&mut self, attempt: u64) -> Result<(), Gone> {
        loop {
            let uploaded = std::mem::take(&mut self.buffer);
            self.shared.note(attempt, |noted| noted.body.extend_from_slice(&uploaded));
            self.read().await?;
        }
    }

    pub async fn carry_out(&mut self, steps: Vec<Step>, attempt: u64) -> Result<(), Gone> {
        for step in steps {
            match step {
                Step::Send(bytes) => self.send(&bytes, attempt).await?,
                Step::Wait(duration) => self.wait(duration).await?,
                Step::Repeat { bytes, every } => loop {
                    self.wait(every).await?;
                    self.send(&bytes, attempt).await?;
                },
                Step::Silence => loop {
                    self.wait(Duration::from_secs(3600)).await?;
                },
                Step::Reset => {
                    // Zero linger: the kernel answers with RST when the socket is dropped.
                    let _ = self.stream.set_zero_linger();
                    return Err(Gone::Ended);
                }
                Step::Close => {
                    let _ = self.stream.shutdown().await;
                    self.finished(attempt);
                    self.drain().await;
                    return Err(Gone::Ended);
                }
                Step::Done => return Ok(()),
                Step::CloseOnReuse => {
                    self.finished(attempt);
                    if self.buffer.is_empty() {
                        self.read().await?;
                    }
                    return Err(Gone::Ended);
                }
            }
        }
        Ok(())
    }

    /// Sends all of it, and meanwhile sees the client leave.
    pub async fn send(&mut self, bytes: &[u8], attempt: u64) -> Result<(), Gone> {
        let mut sent = 0;
        while sent < bytes.len() {
            let written = {
                let (mut reader, mut writer) = self.stream.split();
                let listens = self.buffer.len() < READ_AHEAD_BYTES_MAX;
                tokio::select! {
                    biased;
                    read = reader.read_buf(&mut self.buffer), if listens => match read {
                        Ok(0) | Err(_) => return Err(Gone::ClientLeft),
                        Ok(_) => 0,
                    },
                    written = writer.write(&bytes[sent..]) => written.map_err(|_| Gone::ClientLeft)?,
                }
            };
            sent += written;
            self.shared.note(attempt, |noted| noted.bytes_sent += written as u64);
        }
        Ok(())
    }

    /// Waits, unless the client leaves.
    pub async fn wait(&mut self, duration: Duration) -> Result<(), Gone> {
        let end = tokio::time::Instant::now() + duration;
        loop {
            let listens = self.buffer.len() < READ_AHEAD_BYTES_MAX;
            tokio::select! {
                () = tokio::time::sleep_until(end) => return Ok(()),
                read = self.stream.read_buf(&mut self.buffer), if listens => match read {
                    Ok(0) | Err(_) => return Err(Gone::ClientLeft),
                    Ok(_) => {}
                },
            }
        }
    }

    /// After a FIN: what still comes is read, for bytes unread at a close make the kernel send RST.
    async fn drain(&mut self) {
        let reading = async {
            while self.read().await.is_ok() {
                self.buffer.clear();
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(5), reading).await;
    }
}

/// Paths that generate nothing speak Anthropic's form where it is Anthropic's path.
fn dialect_of_other(path: &str) -> Dialect {
    if path.starts_with("/v1/messages") { Dialect::AnthropicMessages } else { Dialect::OpenaiChat }
}

fn other_path(method: &str, path: &str, input_tokens: usize) -> Vec<Step> {
    match (method, path.split('?').next().unwrap_or_default()) {
        ("GET", "/v1/models") => {
            let model =
                |id: &str| json!({"type": "model", "object": "model", "id": id, "display_name": id, "created_at": "2026-01-01T00:00:00Z"});
            let data = [model("claude-drill"), model("gpt-drill")];
            script::json_response(200, &[], &json!({"object": "list", "data": data, "has_more": false}))
        }
        ("POST", "/v1/messages/count_tokens") => script::json_response(200, &[], &json!({"input_tokens": input_tokens})),
        ("HEAD", _) => vec![Step::Send(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_vec()), Step::Done],
        _ => script::json_response(404, &[], &json!({"type": "error", "error": {"type": "not_found_error", "message": "Not found"}})),
    }
}
