//! Frames become bytes: the event-stream format (WHATWG HTML, section 9.2).

use std::convert::Infallible;

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use futures_util::{Stream, StreamExt};

use crate::api::Frame;

/// A line that clients skip: it says that the connection lives.
pub const COMMENT: Bytes = Bytes::from_static(b": keep-alive\n\n");

/// The bytes of some frames, each closed by an empty line.
pub fn encode(frames: &[Frame]) -> Bytes {
    const AROUND: usize = "event: \ndata: \n\n".len();
    let length = frames.iter().map(|frame| AROUND + frame.event.map_or(0, str::len) + frame.data.len()).sum();
    let mut out = String::with_capacity(length);
    for frame in frames {
        if let Some(event) = frame.event {
            out.push_str("event: ");
            out.push_str(event);
            out.push('\n');
        }
        assert!(!frame.data.contains(['\n', '\r']), "JSON in one line has no line breaks");
        out.push_str("data: ");
        out.push_str(&frame.data);
        out.push_str("\n\n");
    }
    Bytes::from(out)
}

/// Headers go out at once; the bytes follow as they come.
pub fn response(bytes: impl Stream<Item = Bytes> + Send + 'static) -> Response {
    let mut response = Response::new(Body::from_stream(bytes.map(Ok::<_, Infallible>)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // nginx would collect the stream into blocks.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}
