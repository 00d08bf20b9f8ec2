//! Requests that are with an upstream. The engine knows nothing of them; a server that stops waits for them as it does for its own.

use tokio::sync::watch;

/// How many there are.
#[derive(Debug, Default)]
pub struct Relays(watch::Sender<usize>);

/// One of them, for as long as this lives.
#[derive(Debug)]
pub struct Relay(watch::Sender<usize>);

impl Relays {
    pub fn begin(&self) -> Relay {
        self.0.send_modify(|running| *running += 1);
        Relay(self.0.clone())
    }

    pub fn running(&self) -> usize {
        *self.0.borrow()
    }

    /// Waits until there is none.
    pub async fn ended(&self) {
        // The sender lives in self.
        let _ = self.0.subscribe().wait_for(|running| *running == 0).await;
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.0.send_modify(|running| *running -= 1);
    }
}
