//! What goes up with a request: held, so that it can go up again; or as it comes from the client, which it does once.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};

/// A request's body.
pub enum Sending {
    Held(Full<Bytes>),
    Coming(Coming),
}

/// A body that is not there yet.
pub struct Coming {
    pub bytes: BoxStream<'static, io::Result<Bytes>>,
    /// As the client announced it; `None`: it goes up in chunks.
    pub length: Option<u64>,
}

impl Body for Sending {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.get_mut() {
            Self::Held(body) => Pin::new(body).poll_frame(context).map_err(|never| match never {}),
            Self::Coming(coming) => coming.bytes.as_mut().poll_next(context).map_ok(Frame::data),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Held(body) => body.is_end_stream(),
            Self::Coming(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Held(body) => body.size_hint(),
            Self::Coming(coming) => coming.length.map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}
