//! Ctrl-C and SIGTERM: the first asks the server to finish, the second to be gone.

/// Completes at the first signal. From then on a second one ends the process at once, with the exit code shells expect; `before` is
/// what the program has left to do then.
pub async fn shutdown_requested(before: impl FnOnce() + Send + 'static) {
    next_signal().await;
    tracing::info!("finishing what runs; once more to stop at once");
    tokio::spawn(async move {
        next_signal().await;
        before();
        // 128 + SIGINT
        std::process::exit(130);
    });
}

#[cfg(unix)]
async fn next_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
        }
        // Without a handler for it SIGTERM ends the process as the system does; Ctrl-C is still ours.
        Err(_) => wait_for_ctrl_c().await,
    }
}

#[cfg(not(unix))]
async fn next_signal() {
    wait_for_ctrl_c().await;
}

/// A system that cannot tell us of Ctrl-C ends the process by itself.
async fn wait_for_ctrl_c() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}
