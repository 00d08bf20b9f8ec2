//! Faults in front of a real upstream: its replies pass as bytes, and break off where the plan says.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::answer::{AfterStall, Answer, Ending, Misbehaviour, Point};
use super::connection::{Connection, Gone};
use super::http::Head;
use super::script::Step;

/// Headers that belong to one connection.
const OF_THE_CONNECTION: [&str; 5] = ["host", "connection", "content-length", "transfer-encoding", "expect"];

impl Connection {
    /// Sends the request on, and the reply back as far as it may come. The connection ends with the reply.
    pub async fn relay(&mut self, behind: SocketAddr, head: &Head, body: &[u8], answer: &Answer, attempt: u64) -> Result<(), Gone> {
        // Who cannot be reached ends the connection, as a port that closes does.
        let Ok(mut upstream) = TcpStream::connect(behind).await else { return self.carry_out(vec![Step::Reset], attempt).await };
        if upstream.write_all(&request(behind, head, body)).await.is_err() {
            return self.carry_out(vec![Step::Reset], attempt).await;
        }
        let reply_head = self.reply_head(&mut upstream).await?;
        self.wait(Duration::from_millis(answer.pace.headers_ms)).await?;
        let Some((reply_head, mut piece)) = reply_head else { return self.carry_out(vec![Step::Close], attempt).await };
        self.send(&reply_head, attempt).await?;
        let (mut left, fault) = fault(answer);
        if fault.is_none() && answer.misbehaviour.is_some() {
            self.shared.note(attempt, |noted| noted.fault_missed = true);
        }
        loop {
            let passes = left.map_or(piece.len(), |left| left.min(piece.len()));
            self.send(&piece[..passes], attempt).await?;
            left = left.map(|left| left - passes);
            if left == Some(0) {
                self.carry_out(fault.clone().unwrap_or_default(), attempt).await?;
                // A stall that is over: the rest comes.
                left = None;
                self.send(&piece[passes..], attempt).await?;
            }
            match self.reply_piece(&mut upstream).await? {
                Some(next) => piece = next,
                None => return self.carry_out(vec![Step::Close], attempt).await,
            }
        }
    }

    /// The bytes of the head, and what came behind them. `None`: the upstream ended before.
    async fn reply_head(&mut self, upstream: &mut TcpStream) -> Result<Option<(Vec<u8>, Vec<u8>)>, Gone> {
        let mut bytes = Vec::new();
        loop {
            let Some(piece) = self.reply_piece(upstream).await? else { return Ok(None) };
            bytes.extend_from_slice(&piece);
            match Head::read(&bytes) {
                Ok(Some((_, length))) => {
                    let body = bytes.split_off(length);
                    return Ok(Some((bytes, body)));
                }
                Ok(None) => {}
                // Whatever it is, it passes.
                Err(_) => return Ok(Some((bytes, Vec::new()))),
            }
        }
    }

    /// What the upstream says next, unless the client leaves.
    async fn reply_piece(&mut self, upstream: &mut TcpStream) -> Result<Option<Vec<u8>>, Gone> {
        let mut piece = Vec::with_capacity(16 * 1024);
        loop {
            tokio::select! {
                read = upstream.read_buf(&mut piece) => return Ok(matches!(read, Ok(1..)).then_some(piece)),
                read = self.read() => read?,
            }
        }
    }
}

fn request(behind: SocketAddr, head: &Head, body: &[u8]) -> Vec<u8> {
    let passing = head.headers.iter().filter(|(name, _)| !OF_THE_CONNECTION.contains(&name.as_str()));
    let fields: String = passing.map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let start = &head.start_line;
    let head = format!("{start}\r\nhost: {behind}\r\nconnection: close\r\n{fields}content-length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// After how many bytes of the body what happens. `None`: nothing that can be done to bytes.
fn fault(answer: &Answer) -> (Option<usize>, Option<Vec<Step>>) {
    let at_bytes = |at: &Point| match at {
        Point::Headers => Some(0),
        Point::Bytes(bytes) => Some(*bytes),
        _ => None,
    };
    let found = match &answer.misbehaviour {
        Some(Misbehaviour::Cut { at, how }) => {
            at_bytes(at).map(|bytes| (bytes, vec![if *how == Ending::Reset { Step::Reset } else { Step::Close }]))
        }
        Some(Misbehaviour::Stall { at, for_ms, then, .. }) => at_bytes(at).map(|bytes| {
            let steps = match (for_ms, then) {
                (None, _) => vec![Step::Silence],
                (Some(for_ms), AfterStall::Fin) => vec![Step::Wait(Duration::from_millis(*for_ms)), Step::Close],
                (Some(for_ms), AfterStall::GoOn) => vec![Step::Wait(Duration::from_millis(*for_ms))],
            };
            (bytes, steps)
        }),
        _ => None,
    };
    found.unzip()
}
