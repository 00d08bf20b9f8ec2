//! What a value's text means: ports, sizes, counts, devices. Each reader returns the value or says what was expected.

use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use kernels::KvDtype;
use kernels::device::DeviceChoice;

use super::{ApiKey, DRAFTS_MAX, DiskCache, LogFormat, PARALLEL_MAX, QUEUE_MAX, Role, THREADS_MAX, Weights};

pub fn text(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("is empty".to_owned()) } else { Ok(text.to_owned()) }
}

/// An address, or `localhost`.
pub fn host(text: &str) -> Result<IpAddr, String> {
    if text.eq_ignore_ascii_case("localhost") {
        return Ok(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    bare.parse().map_err(|_| format!("{text:?} is not an address to listen on (like 127.0.0.1, ::1 or 0.0.0.0)"))
}

pub fn port(text: &str) -> Result<u16, String> {
    text.parse().map_err(|_| {
        // Kubernetes puts `<SERVICE>_PORT=tcp://...` into every container of a namespace that has a Service of our name.
        let hint = if text.starts_with("tcp://") {
            "; Kubernetes sets this for a Service named understudy: put enableServiceLinks: false in the pod"
        } else {
            ""
        };
        format!("{text:?} is not a port (0 to 65535){hint}")
    })
}

pub fn threads(text: &str) -> Result<NonZeroUsize, String> {
    count(text, THREADS_MAX)
}

pub fn parallel(text: &str) -> Result<NonZeroUsize, String> {
    count(text, PARALLEL_MAX)
}

fn count(text: &str, most: usize) -> Result<NonZeroUsize, String> {
    let number = text.parse::<NonZeroUsize>().ok().filter(|number| number.get() <= most);
    number.ok_or_else(|| format!("{text:?} is not a number from 1 to {most}"))
}

pub fn queue(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| *number <= QUEUE_MAX);
    number.ok_or_else(|| format!("{text:?} is not a number from 0 to {QUEUE_MAX}"))
}

/// Rows of drafts in a step; 0: none.
pub fn drafts(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| *number <= DRAFTS_MAX);
    number.ok_or_else(|| format!("{text:?} is not a number from 0 to {DRAFTS_MAX}"))
}

pub fn seconds(text: &str) -> Result<u64, String> {
    let bare = text.strip_suffix('s').unwrap_or(text);
    bare.parse().map_err(|_| format!("{text:?} is not a number of seconds"))
}

/// How long somebody may wait; `None`: as long as it takes.
pub fn wait(text: &str) -> Result<Option<Duration>, String> {
    if text == "off" {
        return Ok(None);
    }
    let seconds = text.strip_suffix('s').unwrap_or(text).parse().ok().filter(|seconds| *seconds > 0);
    seconds
        .map(|seconds| Some(Duration::from_secs(seconds)))
        .ok_or_else(|| format!("{text:?} is not a number of seconds from 1 on, or off"))
}

/// Tokens; `k` is 1,024: `32768` or `32k`.
pub fn tokens(text: &str) -> Result<usize, String> {
    let (digits, factor) = match text.strip_suffix(['k', 'K']) {
        Some(digits) => (digits, 1024),
        None => (text, 1),
    };
    let tokens = digits.parse::<usize>().ok().and_then(|n| n.checked_mul(factor)).filter(|n| *n > 0);
    tokens.ok_or_else(|| format!("{text:?} is not a number of tokens (like 8192 or 32k)"))
}

/// Bytes; K, M, G, T are powers of 1,024, with or without `B` or `iB` behind them.
pub fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is not a size (like 512M, 8G, 1.5G or a number of bytes)");
    let upper = text.trim().to_ascii_uppercase();
    let digits = upper.find(|c: char| c != '.' && !c.is_ascii_digit()).unwrap_or(upper.len());
    let (number, unit) = upper.split_at(digits);
    let power = match unit.trim() {
        "" | "B" => 0,
        "K" | "KB" | "KIB" => 10,
        "M" | "MB" | "MIB" => 20,
        "G" | "GB" | "GIB" => 30,
        "T" | "TB" | "TIB" => 40,
        _ => return Err(wrong()),
    };
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let bytes = number * (1u64 << power) as f64;
    // Up to 2^53 a float holds every byte; beyond lies no machine's memory.
    if (1.0..9e15).contains(&bytes) { Ok(bytes as u64) } else { Err(wrong()) }
}

pub fn boolean(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Ok(true),
        "0" | "false" | "no" | "off" => Ok(false),
        _ => Err(format!("{text:?} is neither true nor false")),
    }
}

pub fn device(text: &str) -> Result<DeviceChoice, String> {
    text.parse().map_err(|e: kernels::device::DeviceError| e.to_string())
}

pub fn role(text: &str) -> Result<Role, String> {
    match text {
        "pool-member" => Ok(Role::PoolMember),
        "last-resort" => Ok(Role::LastResort),
        _ => Err(format!("{text:?} is no role behind a proxy (pool-member, last-resort)")),
    }
}

pub fn weights(text: &str) -> Result<Weights, String> {
    match text {
        "map" => Ok(Weights::Map),
        "huge" => Ok(Weights::Huge),
        _ => Err(format!("{text:?} is no way to hold weights (map, huge)")),
    }
}

pub fn kv_type(text: &str) -> Result<KvDtype, String> {
    text.parse().map_err(|e: kernels::UnknownKvDtype| e.to_string())
}

/// A size, or `off`.
pub fn disk_cache(text: &str) -> Result<DiskCache, String> {
    match text.trim().to_ascii_lowercase().as_str() {
        "off" | "0" | "no" | "false" | "none" => Ok(DiskCache::Off),
        _ => bytes(text).map(DiskCache::Bytes).map_err(|_| format!("{text:?} is neither a size (like 512M or 4G) nor off")),
    }
}

pub fn folder(text: &str) -> Result<PathBuf, String> {
    self::text(text).map(PathBuf::from)
}

pub fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(format!("{text:?} is not a log format (text, json)")),
    }
}

/// A key is sent in a header: visible ASCII. The message never repeats it.
pub fn api_key(text: &str) -> Result<ApiKey, String> {
    if text.is_empty() {
        return Err("is empty".to_owned());
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("may hold visible ASCII characters only".to_owned());
    }
    Ok(ApiKey::new(text.to_owned()))
}

/// A host name as it stands in a `Host` header, lower case.
pub fn host_name(text: &str) -> Result<String, String> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && !b"/@?#\"".contains(&byte));
    if plain { Ok(text.to_ascii_lowercase()) } else { Err(format!("{text:?} is not a host name (like box.lan or box.lan:7878)")) }
}

/// `scheme://host[:port]` as browsers send it, or `*`.
pub fn origin(text: &str) -> Result<String, String> {
    let (scheme, rest) = text.split_once("://").unwrap_or(("", ""));
    let whole = !scheme.is_empty() && !rest.is_empty() && !rest.contains(['/', '?', '#', ' ']);
    if text == "*" || whole {
        Ok(text.to_ascii_lowercase())
    } else {
        Err(format!("{text:?} is not an origin (like http://localhost:3000, without a path; or *)"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, expected) in
            [("1", 1), ("512M", 512 << 20), ("8G", 8 << 30), ("8gib", 8 << 30), ("1.5GB", 3 << 29), (" 2 T ", 2 << 40), ("0.5K", 512)]
        {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for text in ["", "0", "-1", "G", "8X", "1e9", "1..5G", "99999999T", "NaN", "inf"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_disk_cache_has_a_size_or_is_off() {
        for text in ["off", "OFF", "0", "false"] {
            assert_eq!(disk_cache(text), Ok(DiskCache::Off), "{text}");
        }
        assert_eq!(disk_cache("4G"), Ok(DiskCache::Bytes(4 << 30)));
        assert_eq!(disk_cache("on").unwrap_err(), "\"on\" is neither a size (like 512M or 4G) nor off");
        assert!(folder("").is_err());
    }

    #[test]
    fn counts_have_an_end() {
        assert_eq!((queue("0"), queue("65536")), (Ok(0), Ok(65_536)));
        assert_eq!(queue("65537").unwrap_err(), "\"65537\" is not a number from 0 to 65536");
        assert_eq!((wait("off"), wait("90s")), (Ok(None), Ok(Some(Duration::from_secs(90)))));
        assert!(["0", "-1", "1.5", "on", ""].iter().all(|text| wait(text).is_err_and(|why| why.contains("is not a number of seconds"))));
        assert_eq!((drafts("0"), drafts("64")), (Ok(0), Ok(64)));
        assert_eq!(drafts("65").unwrap_err(), "\"65\" is not a number from 0 to 64");
        assert!(queue("18446744073709551615").is_err() && queue("-1").is_err());
        assert_eq!((threads("1024").unwrap().get(), parallel("512").unwrap().get()), (1024, 512));
        assert_eq!(threads("1025").unwrap_err(), "\"1025\" is not a number from 1 to 1024");
        assert_eq!(parallel("513").unwrap_err(), "\"513\" is not a number from 1 to 512");
    }

    #[test]
    fn token_counts() {
        assert_eq!((tokens("8192"), tokens("32k"), tokens("64K")), (Ok(8192), Ok(32_768), Ok(65_536)));
        for text in ["", "0", "k", "-1", "1.5k", "99999999999999999999", "18446744073709551615k"] {
            assert!(tokens(text).is_err(), "{text}");
        }
    }

    #[test]
    fn hosts_and_origins() {
        assert_eq!(host("LOCALHOST").unwrap().to_string(), "127.0.0.1");
        assert_eq!(host("[::1]").unwrap().to_string(), "::1");
        assert!(host("example.com").is_err());
        assert_eq!(origin("http://LocalHost:3000"), Ok("http://localhost:3000".to_owned()));
        assert!(origin("http://x/").is_err() && origin("localhost").is_err() && origin("").is_err());
        assert_eq!(host_name("Box.LAN:80"), Ok("box.lan:80".to_owned()));
        assert!(host_name("http://x").is_err() && host_name("").is_err());
    }
}
