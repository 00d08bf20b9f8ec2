//! What the server needs to be told, all of it settled before it starts. Nothing here is optional in the sense of "unknown".

use std::time::Duration;

use subtle::ConstantTimeEq;

use super::reply_store::Limits;

#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Empty: nobody needs a key.
    pub api_keys: ApiKeys,
    /// Names other than loopback's and addresses under which clients reach this server (`Host`); `*`: any.
    pub allowed_hosts: Vec<String>,
    /// Web origins whose pages may use this server (`https://chat.example`); `*`: any. Empty: none, and no CORS headers.
    pub cors_origins: Vec<String>,
    /// Longest request body. 8 MiB hold about 2 million tokens of text, more than any context.
    pub body_bytes_max: usize,
    /// Bodies held at once, from their first byte until they are token ids; beyond it a request is answered 503.
    pub bodies_bytes_max: usize,
    /// Answer 404 to any model name but the loaded one's.
    pub strict_model: bool,
    /// How long running requests may go on after a signal to stop.
    pub drain_limit: Duration,
    /// How long a client may take to send the head of a request, and how long an idle connection is kept. Proxies keep theirs for 60 s;
    /// who closes first must be the proxy, or it sends a request into a connection that has just been closed.
    pub header_read_limit: Duration,
    /// How long a client may pause within a body, and take for the whole of it.
    pub body_pause_limit: Duration,
    pub body_read_limit: Duration,
    /// How long a client may leave what is written to it unread, once the system's buffers are full. A page or a program that is
    /// merely busy comes back sooner; one that is stopped holds a slot of the engine for no longer than this.
    pub write_pause_limit: Duration,
    /// A stream that has nothing to say for this long says so. People are warned of a silent model after 20 s (Claude Code), proxies cut
    /// after 60, some of them after far less.
    pub keep_alive_interval: Duration,
    /// How much of the replies that clients ask to be kept is kept, in memory.
    pub replies_kept: Limits,
    /// Connections held at once; more wait in the system's backlog.
    pub connections_max: usize,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            api_keys: ApiKeys::default(),
            allowed_hosts: Vec::new(),
            cors_origins: Vec::new(),
            body_bytes_max: 8 << 20,
            bodies_bytes_max: 64 << 20,
            strict_model: false,
            drain_limit: Duration::from_secs(60),
            header_read_limit: Duration::from_secs(90),
            body_pause_limit: Duration::from_secs(30),
            body_read_limit: Duration::from_secs(300),
            write_pause_limit: Duration::from_secs(60),
            keep_alive_interval: Duration::from_secs(5),
            replies_kept: Limits { replies: 1_024, bytes: 32 << 20 },
            connections_max: 4_096,
        }
    }
}

/// Keys that open the API. They are never printed.
#[derive(Clone, Default)]
pub struct ApiKeys(Vec<String>);

impl ApiKeys {
    /// Empty keys are left out: they would let everybody in.
    pub fn new(keys: impl IntoIterator<Item = String>) -> Self {
        Self(keys.into_iter().filter(|key| !key.is_empty()).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `presented` is one of the keys. All are compared, each in constant time, so that the time taken tells at most the
    /// lengths of the keys.
    pub fn accept(&self, presented: &str) -> bool {
        let mut found = subtle::Choice::from(0);
        for key in &self.0 {
            found |= key.as_bytes().ct_eq(presented.as_bytes());
        }
        found.into()
    }
}

impl std::fmt::Debug for ApiKeys {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "ApiKeys({} hidden)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_compared_whole_and_never_printed() {
        let keys = ApiKeys::new(["secret-one".to_owned(), String::new(), "secret-two".to_owned()]);
        assert!(keys.accept("secret-one") && keys.accept("secret-two"));
        for wrong in ["", "secret", "secret-one ", "secret-onE", "secret-three"] {
            assert!(!keys.accept(wrong), "{wrong:?}");
        }
        assert_eq!(format!("{keys:?}"), "ApiKeys(2 hidden)");
    }
}
