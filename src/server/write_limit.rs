//! A socket whose reader may pause, but not for ever: a write that waits longer than the limit fails, and with it the connection.
//! Reading has its limits where heads and bodies are read.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

#[derive(Debug)]
pub struct WriteLimited {
    stream: TcpStream,
    pause_limit: Duration,
    /// Since the system took the last bytes, if it takes no more.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl WriteLimited {
    pub fn new(stream: TcpStream, pause_limit: Duration) -> Self {
        Self { stream, pause_limit, waiting: None }
    }

    /// What a write came to. While it waits the clock runs, through however many attempts.
    fn within_limit(&mut self, context: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.waiting = None;
            return written;
        }
        let pause_limit = self.pause_limit;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(pause_limit)));
        ready!(waiting.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read what is written to it")))
    }
}

impl AsyncRead for WriteLimited {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for WriteLimited {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.within_limit(context, written)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, context: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.within_limit(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// A socket has nothing to flush: this never waits, and says nothing of the reader.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    /// Nor does this wait: what the system has taken it sends by itself.
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::net::TcpListener;

    use super::*;

    async fn limited(pause_limit: Duration) -> WriteLimited {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        WriteLimited::new(stream, pause_limit)
    }

    #[tokio::test]
    async fn the_clock_runs_while_nothing_is_taken_and_anew_after_progress() {
        let mut stream = limited(Duration::from_secs(3_600)).await;
        let deadlines = poll_fn(|context| {
            let mut deadline = |written| {
                let _ = stream.within_limit(context, written);
                stream.waiting.as_ref().map(|waiting| waiting.deadline())
            };
            Poll::Ready([Poll::Pending, Poll::Pending, Poll::Ready(Ok(1)), Poll::Pending].map(&mut deadline))
        });
        let [first, again, progress, anew] = deadlines.await;
        assert!(first.is_some() && first == again, "one wait, however often it is looked at");
        assert_eq!(progress, None);
        assert!(anew > first, "a reader that takes its time, and takes, is not cut off");
    }

    #[tokio::test]
    async fn the_end_of_the_wait_is_an_error() {
        let mut stream = limited(Duration::from_millis(1)).await;
        let written = poll_fn(|context| stream.within_limit(context, Poll::Pending)).await;
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
