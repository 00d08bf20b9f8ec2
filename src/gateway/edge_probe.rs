//! Asks upstreams that are not well whether they are there at all: without a credential, so that it costs nobody anything, and with a
//! question that every API answers. The same look at the clock notices that the machine has slept.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::Request;
use http::header::HOST;
use http_body_util::Full;
use tokio::task::AbortHandle;
use tokio::time::{Instant, interval, timeout};

use super::circuit_breaker::EdgeAnswer;
use super::door::{Gateway, Tier};
use super::wake::Wake;

/// How long the answer may take, as a share of what lies between two questions.
const LIMIT_SHARE: f64 = 0.4;

/// Begins to ask, for as long as the task lives. `every`: between two questions to one host.
pub fn begin(gateway: Gateway, every: Duration) -> AbortHandle {
    let task = tokio::spawn(async move {
        // More often than a host is asked, so that the first question comes soon after the fault.
        let mut ticks = interval(every / 5);
        let mut wake = Wake::new(gateway.now(), wall_clock());
        loop {
            ticks.tick().await;
            if wake.has_slept(gateway.now(), wall_clock()) {
                tracing::info!("this machine has slept: connections to upstreams are made anew");
                gateway.forget_connections();
            }
            for tier in gateway.edge_probes_due() {
                let gateway = gateway.clone();
                tokio::spawn(async move {
                    let asked_at = Instant::now();
                    let answer = ask(&tier, every.mul_f64(LIMIT_SHARE)).await;
                    tracing::debug!(upstream = tier.config.name.as_str(), ?answer, "asked whether it is there");
                    gateway.edge_probe_result(&tier, answer, asked_at.elapsed());
                });
            }
        }
    });
    task.abort_handle()
}

fn wall_clock() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

async fn ask(tier: &Arc<Tier>, limit: Duration) -> EdgeAnswer {
    let mut request = Request::new(Full::new(Bytes::new()));
    let path = format!("{}/v1/models", tier.config.base_path);
    let (Ok(path), Ok(host)) = (path.parse(), tier.connections.origin().authority().parse()) else { return EdgeAnswer::Unreachable };
    *request.uri_mut() = path;
    request.headers_mut().insert(HOST, host);
    match timeout(limit, tier.connections.send(request)).await {
        Ok(Ok(reply)) => EdgeAnswer::of_status(reply.status),
        Ok(Err(_)) | Err(_) => EdgeAnswer::Unreachable,
    }
}
