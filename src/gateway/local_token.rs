//! The credential of a client that has none: `understudy run` gives it to the clients it starts.

/// It opens no door anywhere, so it is no secret and has no business at an upstream: who shows it asked for the model of this machine.
pub const LOCAL_TOKEN: &str = "understudy-local";
