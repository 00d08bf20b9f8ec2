//! Reads a request's body: not too much of it, and not for too long.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::config::ServerConfig;
use crate::api::errors::{ApiError, ErrorKind};

/// The memory that all bodies together may take. A request that would need more is refused, so that however many clients send
/// however much, the server lives.
#[derive(Debug, Clone)]
pub struct BodyBudget(Arc<Semaphore>);

/// Bytes of one permit: small bodies take one.
const UNIT_BYTES: usize = 4_096;

/// A body, and its share of the budget, which is given back when this is dropped.
#[derive(Debug)]
pub struct HeldBody {
    pub bytes: Bytes,
    _share: Option<OwnedSemaphorePermit>,
}

impl HeldBody {
    /// Nothing, which has no share.
    pub fn empty() -> Self {
        Self::uncounted(Bytes::new())
    }

    /// One that was counted until it was read.
    pub fn uncounted(bytes: Bytes) -> Self {
        Self { bytes, _share: None }
    }
}

impl BodyBudget {
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes.div_ceil(UNIT_BYTES).min(Semaphore::MAX_PERMITS))))
    }

    /// What is left.
    pub fn free_bytes(&self) -> usize {
        self.0.available_permits() * UNIT_BYTES
    }

    /// Raises `share` to what `bytes` need.
    fn raise(&self, share: &mut Option<OwnedSemaphorePermit>, bytes: usize) -> Result<(), ApiError> {
        let held = share.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let wanted = bytes.div_ceil(UNIT_BYTES).saturating_sub(held);
        if wanted == 0 {
            return Ok(());
        }
        let more = u32::try_from(wanted).ok().and_then(|wanted| self.0.clone().try_acquire_many_owned(wanted).ok());
        let more = more.ok_or_else(|| {
            let message = "the server is busy: it holds as many request bodies as it may; try again in 1 s";
            ApiError::new(ErrorKind::Unavailable, message).with_code("server_busy").with_retry_after_s(1)
        })?;
        match share {
            Some(share) => share.merge(more),
            None => *share = Some(more),
        }
        Ok(())
    }
}

/// The whole body. Errors: too large (413), too slow (408), cut off or compressed (400), no memory for it now (503).
pub async fn read(headers: &HeaderMap, body: Body, config: &ServerConfig, budget: &BodyBudget) -> Result<HeldBody, ApiError> {
    refuse_compressed(headers)?;
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|bytes| bytes > config.body_bytes_max as u64) {
        discard(body).await;
        return Err(too_large(config));
    }
    let slow = |_| ApiError::new(ErrorKind::Timeout, "the request's body came too slowly");
    timeout(config.body_read_limit, read_frames(body, config, budget)).await.map_err(slow)?
}

async fn read_frames(mut body: Body, config: &ServerConfig, budget: &BodyBudget) -> Result<HeldBody, ApiError> {
    let mut bytes = BytesMut::new();
    let mut share = None;
    loop {
        let slow = |_| ApiError::new(ErrorKind::Timeout, "the request's body stopped coming");
        let Some(frame) = timeout(config.body_pause_limit, body.frame()).await.map_err(slow)? else { break };
        let broken = |error| ApiError::new(ErrorKind::InvalidRequest, format!("the request's body could not be read: {error}"));
        // A frame that is not data holds trailers, which nobody needs.
        let Ok(data) = frame.map_err(broken)?.into_data() else { continue };
        if bytes.len() + data.len() > config.body_bytes_max {
            discard(body).await;
            return Err(too_large(config));
        }
        if let Err(error) = budget.raise(&mut share, bytes.len() + data.len()) {
            // What is refused holds nothing while the rest of it is read.
            drop((share.take(), std::mem::take(&mut bytes)));
            discard(body).await;
            return Err(error);
        }
        bytes.extend_from_slice(&data);
    }
    Ok(HeldBody { bytes: bytes.freeze(), _share: share })
}

/// Reads what a client is still sending, within reason: one that is answered and cut off while it writes sees a broken connection
/// instead of the answer.
pub async fn discard(mut body: Body) {
    const BYTES_MAX: usize = 64 << 20;
    const LIMIT: Duration = Duration::from_secs(2);
    let drain = async {
        let mut bytes = 0;
        while let Some(Ok(frame)) = body.frame().await {
            bytes += frame.data_ref().map_or(0, Bytes::len);
            if bytes > BYTES_MAX {
                break;
            }
        }
    };
    // When the time is up the answer goes out all the same.
    let _ = timeout(LIMIT, drain).await;
}

fn refuse_compressed(headers: &HeaderMap) -> Result<(), ApiError> {
    match headers.get(header::CONTENT_ENCODING).map(|value| value.as_bytes()) {
        None | Some(b"" | b"identity") => Ok(()),
        Some(_) => Err(ApiError::new(ErrorKind::UnsupportedEncoding, "compressed request bodies are not supported; send it as it is")),
    }
}

fn too_large(config: &ServerConfig) -> ApiError {
    let message = format!("the request's body is larger than {} bytes", config.body_bytes_max);
    ApiError::new(ErrorKind::TooLarge, message).with_code("request_too_large")
}
