//! Who may ask: the pure decisions about `Host`, `Origin` and keys. A server on loopback trusts the user's machine, not the web
//! pages open on it: a page can make the browser send requests here (Origin), or point its own name here and read the answers
//! (DNS rebinding, Host).

use std::net::IpAddr;

use super::config::ServerConfig;

/// Whether a request that names this `Host` is meant for this server. `bound_to_loopback`: only this machine can connect, so only
/// loopback's names make sense. Elsewhere an address does too, which no page can point at another machine (health checks name the
/// server so); any other name only where a key is asked for, which a page does not have, and none is configured.
pub fn host_is_ours(host: Option<&str>, bound_to_loopback: bool, config: &ServerConfig) -> bool {
    // Only HTTP/1.0 clients leave it out; no browser does.
    let Some(host) = host else { return true };
    let name = host_name(host);
    if is_loopback_name(&name) || config.allowed_hosts.iter().any(|allowed| allowed == "*" || host_name(allowed) == name) {
        return true;
    }
    let any_name_will_do = !config.api_keys.is_empty() && config.allowed_hosts.is_empty();
    !bound_to_loopback && (any_name_will_do || name.parse::<IpAddr>().is_ok())
}

/// What is done about an `Origin`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OriginVerdict {
    /// Our own page, or no page at all.
    Own,
    /// A page that was allowed in the configuration: it gets CORS headers.
    Allowed,
    Refused,
}

pub fn judge_origin(origin: Option<&str>, host: Option<&str>, config: &ServerConfig) -> OriginVerdict {
    let Some(origin) = origin else { return OriginVerdict::Own };
    let same = |allowed: &String| allowed == "*" || allowed.trim_end_matches('/').eq_ignore_ascii_case(origin);
    if config.cors_origins.iter().any(same) && origin != "null" {
        return OriginVerdict::Allowed;
    }
    let authority = origin.split_once("://").map(|(_, authority)| authority);
    match (authority, host) {
        (Some(authority), Some(host)) if authority.eq_ignore_ascii_case(host) => OriginVerdict::Own,
        _ => OriginVerdict::Refused,
    }
}

/// The key a client presents: `Authorization: Bearer ...`, or `x-api-key: ...`.
pub fn presented_key<'a>(authorization: Option<&'a str>, x_api_key: Option<&'a str>) -> Option<&'a str> {
    let bearer = authorization.and_then(|value| {
        let (scheme, key) = value.trim().split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
    });
    bearer.or(x_api_key.map(str::trim))
}

/// `localhost:7878`, `[::1]:7878`, `Example.COM.` without port, brackets, final dot and case.
fn host_name(host: &str) -> String {
    let name = match host.strip_prefix('[') {
        Some(bracketed) => bracketed.split(']').next().unwrap_or_default(),
        // More than one colon without brackets is a bare IPv6 address.
        None if host.matches(':').count() == 1 => host.split(':').next().unwrap_or_default(),
        None => host,
    };
    name.trim_end_matches('.').to_ascii_lowercase()
}

fn is_loopback_name(name: &str) -> bool {
    // 0.0.0.0 reaches this machine and is no name a page could own.
    let is_loopback = |address: IpAddr| address.is_loopback() || address.is_unspecified();
    name == "localhost" || name.ends_with(".localhost") || name.parse().is_ok_and(is_loopback)
}

#[cfg(test)]
mod tests {
    use super::super::config::ApiKeys;
    use super::*;

    #[test]
    fn hosts() {
        let config = ServerConfig { allowed_hosts: vec!["Box.example:443".into()], ..ServerConfig::default() };
        for ours in [
            "localhost",
            "localhost:7878",
            "LOCALHOST.",
            "127.0.0.1:1",
            "127.8.9.1",
            "[::1]:7878",
            "::1",
            "a.localhost",
            "box.EXAMPLE:7878",
        ] {
            assert!(host_is_ours(Some(ours), true, &config), "{ours}");
        }
        for foreign in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "192.168.0.1", "", "[::2]", "notlocalhost"] {
            assert!(!host_is_ours(Some(foreign), true, &config), "{foreign}");
        }
        assert!(host_is_ours(None, true, &config));
    }

    #[test]
    fn hosts_of_a_server_that_others_can_reach() {
        let open = ServerConfig::default();
        let named = ServerConfig { allowed_hosts: vec!["box.example".into()], ..ServerConfig::default() };
        let keyed = ServerConfig { api_keys: ApiKeys::new(["key".to_owned()]), ..ServerConfig::default() };
        let keyed_and_named = ServerConfig { api_keys: keyed.api_keys.clone(), ..named.clone() };
        for config in [&open, &named, &keyed, &keyed_and_named] {
            for ours in ["10.0.0.5:7878", "[fd00::5]:7878", "localhost:7878", "127.0.0.1"] {
                assert!(host_is_ours(Some(ours), false, config), "{ours}: {config:?}");
            }
            assert_eq!(
                host_is_ours(Some("box.example:7878"), false, config),
                !config.allowed_hosts.is_empty() || !config.api_keys.is_empty()
            );
        }
        // A page's own name, pointed at this address: it has no key, but where none is asked for it would be answered.
        for config in [&open, &named, &keyed_and_named] {
            assert!(!host_is_ours(Some("evil.example"), false, config), "{config:?}");
        }
        assert!(host_is_ours(Some("any.example"), false, &keyed));
    }

    #[test]
    fn origins() {
        let none = ServerConfig::default();
        let host = Some("127.0.0.1:7878");
        assert_eq!(judge_origin(None, host, &none), OriginVerdict::Own);
        assert_eq!(judge_origin(Some("http://127.0.0.1:7878"), host, &none), OriginVerdict::Own);
        for foreign in ["http://evil.example", "null", "http://127.0.0.1:3000", "http://localhost:7878", "", "vscode-webview://x"] {
            assert_eq!(judge_origin(Some(foreign), host, &none), OriginVerdict::Refused, "{foreign}");
        }
        let some = ServerConfig { cors_origins: vec!["https://chat.example/".into()], ..ServerConfig::default() };
        assert_eq!(judge_origin(Some("https://chat.example"), host, &some), OriginVerdict::Allowed);
        assert_eq!(judge_origin(Some("https://evil.example"), host, &some), OriginVerdict::Refused);
        let any = ServerConfig { cors_origins: vec!["*".into()], ..ServerConfig::default() };
        assert_eq!(judge_origin(Some("https://evil.example"), host, &any), OriginVerdict::Allowed);
        assert_eq!(judge_origin(Some("null"), host, &any), OriginVerdict::Refused);
    }

    #[test]
    fn keys() {
        assert_eq!(presented_key(Some("Bearer abc"), None), Some("abc"));
        assert_eq!(presented_key(Some("bearer  abc "), Some("x")), Some("abc"));
        assert_eq!(presented_key(Some("Basic abc"), Some("x")), Some("x"));
        assert_eq!(presented_key(None, None), None);
    }
}
