//! What the engine does when it panics: everybody hears of it, and the books are opened anew.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::super::{FinishReason, TokenEvent};
use super::{EngineLoop, Outbox, new_scheduler};

impl EngineLoop {
    /// A bug of ours: what runs and waits fails, the books are opened anew, and the cache is forgotten with them. Whatever else goes
    /// wrong here, the thread lives on.
    pub(super) fn start_over(&mut self, message: &str) {
        // A log that panics, perhaps for the second time now, must not keep anybody from an answer.
        let _ = catch_unwind(|| tracing::error!("the engine panicked and starts over: {message}"));
        if let Some(disk) = &mut self.disk {
            disk.switch_off();
        }
        // Nobody knows whether it was its fault, and nobody needs it.
        self.draft = None;
        if catch_unwind(AssertUnwindSafe(|| self.fail_all(message))).is_err() {
            // Who has heard nothing hears it from the stream that ends.
            self.clients.clear();
            self.scheduler = new_scheduler(&self.shared.config, &*self.runner);
        }
    }

    fn fail_all(&mut self, message: &str) {
        let reason = FinishReason::Failed(format!("the engine panicked: {message}"));
        let mut outbox = Outbox::new();
        for &id in self.clients.keys() {
            let sequence = self.scheduler.all_running().iter().chain(self.scheduler.all_waiting()).find(|sequence| sequence.id == id);
            let usage = sequence.map(|sequence| sequence.usage()).unwrap_or_default();
            outbox.push((id, TokenEvent::Finished { reason: reason.clone(), usage }));
        }
        self.scheduler = new_scheduler(&self.shared.config, &*self.runner);
        self.stats.failed_total += outbox.len() as u64;
        self.send(outbox);
    }
}

/// The words of a panic.
pub(in crate::engine) fn message_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| text.to_string());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into())
}
