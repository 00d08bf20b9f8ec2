//! Accepts connections, and stops: a signal to stop means no new work, an answer for everything that runs, and an end.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};

use super::write_limit::WriteLimited;
use super::{AppState, Phase, router};

/// How long replies that are made may take to be written out at the end.
const WRITE_OUT_LIMIT: Duration = Duration::from_secs(5);

/// Serves until `shutdown` completes and the rest is drained. While it drains, new connections are still answered: requests with
/// 503, `/readyz` with 503, so that balancers and clients learn it from us and not from a refused connection.
pub async fn serve(listener: TcpListener, state: AppState, shutdown: impl Future<Output = ()>) -> io::Result<()> {
    state.set_bound_to(listener.local_addr()?.ip());
    let connections = Connections::new(&state);
    let mut stopping = pin!(async {
        shutdown.await;
        drain(&state).await;
    });
    loop {
        tokio::select! {
            () = &mut stopping => break,
            (stream, permit) = connections.accept(&listener) => connections.spawn(stream, permit),
        }
    }
    drop(listener);
    connections.close().await;
    Ok(())
}

/// Refuses new work and waits for the running, at most for the drain limit.
async fn drain(state: &AppState) {
    state.start_draining();
    let served = state.served().ok();
    let running = served.map(|served| served.engine.stats()).unwrap_or_default();
    tracing::info!(relayed = state.relays().running(), running = running.running, waiting = running.waiting, "draining");
    let drained = async {
        state.relays().ended().await;
        let Some(served) = served else { return };
        served.engine.drained().await;
        if let Some(embeddings) = &served.embeddings {
            embeddings.drained().await;
        }
    };
    match timeout(state.config().drain_limit, drained).await {
        Ok(()) => state.enter(Phase::Closing),
        Err(_) => {
            tracing::warn!(limit_s = state.config().drain_limit.as_secs(), "the drain limit is over; what still runs is cut off");
            state.enter(Phase::CutOff);
        }
    }
}

/// The open connections.
struct Connections {
    state: AppState,
    http: http1::Builder,
    service: TowerToHyperService<axum::Router>,
    slots: Arc<Semaphore>,
    slots_max: usize,
}

impl Connections {
    fn new(state: &AppState) -> Self {
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(state.config().header_read_limit);
        let slots_max = state.config().connections_max;
        Self {
            state: state.clone(),
            http,
            service: TowerToHyperService::new(router(state.clone())),
            slots: Arc::new(Semaphore::new(slots_max)),
            slots_max,
        }
    }

    /// The next connection, once there is room for it.
    async fn accept(&self, listener: &TcpListener) -> (TcpStream, OwnedSemaphorePermit) {
        let Ok(permit) = self.slots.clone().acquire_owned().await else { unreachable!("the semaphore is never closed") };
        loop {
            match listener.accept().await {
                Ok((stream, _)) => return (stream, permit),
                // The client went away again, or the process has too many open files: neither is a reason to end.
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    fn spawn(&self, stream: TcpStream, permit: OwnedSemaphorePermit) {
        // Tokens are small and must not wait for each other; a socket that cannot be told so works all the same.
        let _ = stream.set_nodelay(true);
        // A client that reads no more loses its connection, with that its reply is dropped, and that cancels.
        let stream = WriteLimited::new(stream, self.state.config().write_pause_limit);
        let connection = self.http.serve_connection(TokioIo::new(stream), self.service.clone());
        let state = self.state.clone();
        tokio::spawn(async move {
            let mut connection = pin!(connection);
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                () = state.reached(Phase::Closing) => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "a connection broke");
            }
            drop(permit);
        });
    }

    /// Waits until all have written what they have to say.
    async fn close(self) {
        let all = self.slots.acquire_many(self.slots_max as u32);
        if timeout(WRITE_OUT_LIMIT, all).await.is_err() {
            tracing::warn!("some clients did not read their replies in time");
        }
    }
}
