//! Which headers go up and which come down. What is about one connection stays on it; the client's credential goes to one host.

use http::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, HeaderName, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION,
    SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderValue};

use super::headers::Headers;
use crate::config::gateway::{Credential, Kind};

impl Headers for HeaderMap {
    fn value(&self, name: &str) -> Option<&[u8]> {
        self.get(name).map(HeaderValue::as_bytes)
    }
}

/// Everything that begins so is between the client and us.
const OURS: &str = "x-understudy-";
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const HOPS: [HeaderName; 8] = [CONNECTION, KEEP_ALIVE, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE];
/// Of Anthropic's subscriptions (Pro, Max): a login, not an API key.
const SUBSCRIPTION_TOKEN: &str = "sk-ant-oat";

/// What a client's request brings that an upstream gets.
pub fn upwards(headers: &HeaderMap, kind: Kind, credential: &Credential) -> HeaderMap {
    let mut up = end_to_end(headers.clone());
    // The body is sent whole and is measured anew; the reply is to be read as it is.
    for name in [HOST, CONTENT_LENGTH, EXPECT, ACCEPT_ENCODING] {
        up.remove(name);
    }
    up.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    if let Credential::Own(key) = credential {
        for name in [AUTHORIZATION, API_KEY, COOKIE] {
            up.remove(name);
        }
        let (name, value) = match kind {
            Kind::Anthropic => (API_KEY, key.as_str().to_owned()),
            Kind::Openai => (AUTHORIZATION, format!("Bearer {}", key.as_str())),
        };
        if let Ok(mut value) = HeaderValue::from_str(&value) {
            value.set_sensitive(true);
            up.insert(name, value);
        }
    }
    up
}

/// What an upstream's reply brings that the client gets. `same_length`: its body goes on as it came.
pub fn downwards(headers: HeaderMap, same_length: bool) -> HeaderMap {
    let mut down = end_to_end(headers);
    if !same_length {
        down.remove(CONTENT_LENGTH);
    }
    // Of another host's site.
    down.remove(SET_COOKIE);
    down
}

/// RFC 9110, section 7.6.1: not what is about the connection, nor what the connection's own header names.
fn end_to_end(mut headers: HeaderMap) -> HeaderMap {
    let ours = headers.keys().filter(|name| name.as_str().starts_with(OURS)).cloned();
    let named = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    // What is no name is nobody's.
    let named = named.filter_map(|word| word.trim().parse().ok());
    let hops: Vec<HeaderName> = ours.chain(named).collect();
    for name in hops.iter().chain(&HOPS) {
        headers.remove(name);
    }
    headers
}

/// The client's credential, as one opaque number that differs from every other's.
pub fn credential_of(headers: &HeaderMap) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for name in [AUTHORIZATION, API_KEY] {
        hasher.update(headers.get(name).map_or(&[][..], HeaderValue::as_bytes));
        hasher.update(b"\n");
    }
    let bytes = hasher.finalize();
    u64::from_le_bytes(bytes.as_bytes()[..8].try_into().expect("a hash has 32 bytes"))
}

/// Whether the client shows the login of a subscription.
pub fn is_subscription_login(headers: &HeaderMap) -> bool {
    let shown = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("");
    let bearer = shown(AUTHORIZATION);
    let token = bearer.get(..7).filter(|scheme| scheme.eq_ignore_ascii_case("bearer ")).map_or("", |_| bearer[7..].trim_start());
    token.starts_with(SUBSCRIPTION_TOKEN) || shown(API_KEY).starts_with(SUBSCRIPTION_TOKEN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ApiKey;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())).collect()
    }

    #[test]
    fn what_goes_up() {
        let of_client = headers(&[
            ("host", "127.0.0.1:7878"),
            ("connection", "keep-alive, x-hop"),
            ("x-hop", "1"),
            ("x-understudy-key", "secret"),
            ("accept-encoding", "gzip, br"),
            ("content-length", "10"),
            ("authorization", "Bearer sk-ant-api"),
            ("anthropic-beta", "one,two"),
            ("anthropic-version", "2023-06-01"),
            ("x-unknown", "stays"),
        ]);
        let up = upwards(&of_client, Kind::Anthropic, &Credential::OfClient);
        let mut names: Vec<&str> = up.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["accept-encoding", "anthropic-beta", "anthropic-version", "authorization", "x-unknown"]);
        assert_eq!(
            (&up["accept-encoding"], &up["anthropic-beta"]),
            (&HeaderValue::from_static("identity"), &HeaderValue::from_static("one,two"))
        );
    }

    #[test]
    fn a_client_s_credential_never_goes_where_another_key_opens() {
        let of_client =
            headers(&[("authorization", "Bearer mine"), ("x-api-key", "mine"), ("cookie", "mine=1"), ("x-stainless-lang", "js")]);
        for kind in [Kind::Anthropic, Kind::Openai] {
            let up = upwards(&of_client, kind, &Credential::Own(ApiKey::new("theirs".to_owned())));
            assert!(!format!("{up:?}").contains("mine"), "{up:?}");
            assert!(up.contains_key("x-stainless-lang"));
            let shown = up.get("x-api-key").or(up.get("authorization")).unwrap();
            assert!(shown == "theirs" || shown == "Bearer theirs");
        }
    }

    #[test]
    fn what_comes_down() {
        let of_upstream = headers(&[
            ("content-length", "5"),
            ("transfer-encoding", "chunked"),
            ("set-cookie", "a=b"),
            ("request-id", "req_1"),
            ("retry-after", "3"),
        ]);
        let down = downwards(of_upstream.clone(), false);
        let mut names: Vec<&str> = down.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["request-id", "retry-after"]);
        assert!(downwards(of_upstream, true).contains_key("content-length"));
    }

    #[test]
    fn logins_of_subscriptions_are_known() {
        assert!(is_subscription_login(&headers(&[("authorization", "bearer sk-ant-oat01-abc")])));
        assert!(is_subscription_login(&headers(&[("x-api-key", "sk-ant-oat01-abc")])));
        for (name, value) in [("authorization", "Bearer sk-ant-api03"), ("authorization", "é"), ("x-api-key", "sk-1")] {
            assert!(!is_subscription_login(&headers(&[(name, value)])), "{value}");
        }
        assert_ne!(credential_of(&headers(&[("x-api-key", "a")])), credential_of(&headers(&[("authorization", "a")])));
    }
}
