//! Plays a case: tells the upstream what goes wrong, asks the front door as a client, and has the exchange judged.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;

use super::cases::Case;
use super::fault_upstream::FaultUpstream;
use super::plan::Plan;
use super::raw_client::{End, RawClient};
use super::reading::Reading;
use super::verdict::{Judged, Verdict, judge};

/// Longer than all limits of the front door together: what has not ended by then hangs.
pub const HANGS: Duration = Duration::from_secs(150);

/// Plays it through, and asks once more when all is well again: no fault may outlive its case.
pub async fn play(case: &Case, upstream: &FaultUpstream, door: SocketAddr) -> Judged {
    upstream.set_plan(case.plan.clone());
    if case.plan.refuses(upstream.elapsed()) {
        until_refused(upstream.address()).await;
    }
    let before = upstream.attempts().len();
    let mut exchange = RawClient::exchange(door, &case.request(), HANGS).await;
    if case.asks_twice && exchange.end == End::Whole {
        // The second answer is the one that counts: the fault waits for it.
        exchange = RawClient::exchange(door, &case.request(), HANGS).await;
    }
    let attempts = upstream.attempts().split_off(before);
    upstream.set_plan(Plan::healthy());
    let judged = judge(case, &exchange, &attempts);
    let afterwards = RawClient::exchange(door, &case.request(), HANGS).await;
    let reading = Reading::of(case.dialect, &afterwards);
    if judged.verdict != Verdict::Fail && !(afterwards.end == End::Whole && reading.claims_success()) {
        return Judged { verdict: Verdict::Fail, why: Some("a healthy request afterwards was not answered".to_owned()), ..judged };
    }
    judged
}

/// The port closes a moment after the plan was told.
async fn until_refused(address: SocketAddr) {
    while TcpStream::connect(address).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
