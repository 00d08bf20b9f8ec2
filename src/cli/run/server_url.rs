//! The address of a server as a person types it, and one question to it: is it there, is it ready?

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, TcpStream, ToSocketAddrs};
use std::str::FromStr;
use std::time::Duration;

/// A health check is answered in a millisecond; one that takes longer is of a machine that is busy, not of one that is gone.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// Status line and headers: what follows is not looked at.
const HEAD_BYTES_MAX: u64 = 16 << 10;

/// `http://HOST[:PORT]`. TLS is spoken by clients and not by this program, so an `https` server is used and not asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerUrl {
    secure: bool,
    /// Without the brackets of an IPv6 address.
    pub host: String,
    pub port: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    #[error("it must begin with http:// or https://")]
    Scheme,
    #[error("only /v1 may follow the host")]
    Path,
    #[error("it names no host")]
    Host,
    #[error("its port is not a number from 1 to 65535")]
    Port,
}

impl FromStr for ServerUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let (scheme, rest) = text.split_once("://").ok_or(UrlError::Scheme)?;
        let secure = match scheme {
            "http" => false,
            "https" => true,
            _ => return Err(UrlError::Scheme),
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if !matches!(path.trim_end_matches('/'), "" | "v1") {
            return Err(UrlError::Path);
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(bracketed) => bracketed.split_once(']').ok_or(UrlError::Host)?,
            None => authority.find(':').map_or((authority, ""), |colon| authority.split_at(colon)),
        };
        let odd = |c: char| c.is_whitespace() || c.is_control() || "@?#'\"\\".contains(c);
        if host.is_empty() || host.contains(odd) {
            return Err(UrlError::Host);
        }
        let port = match port.strip_prefix(':') {
            Some(digits) => digits.parse().ok().filter(|port| *port != 0).ok_or(UrlError::Port)?,
            None if port.is_empty() => {
                if secure {
                    443
                } else {
                    80
                }
            }
            None => return Err(UrlError::Port),
        };
        Ok(Self { secure, host: host.to_owned(), port })
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.secure { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority())
    }
}

/// What came of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Nothing listens there, or the host is unknown.
    Nobody,
    Status(u16),
    /// Something listens that does not answer as a server of HTTP.
    Unintelligible,
}

impl ServerUrl {
    pub fn of(ip: IpAddr, port: u16) -> Self {
        Self { secure: false, host: ip.to_string(), port }
    }

    /// Whether this program can ask it anything.
    pub fn can_be_asked(&self) -> bool {
        !self.secure
    }

    /// The address on this machine at which a server could be started.
    pub fn loopback(&self) -> Option<IpAddr> {
        let ip = if self.host == "localhost" { IpAddr::from([127, 0, 0, 1]) } else { self.host.parse().ok()? };
        (ip.is_loopback() && !self.secure).then_some(ip)
    }

    /// `GET` of a path, with a token as a client would show it.
    pub fn get(&self, path: &str, token: Option<&str>) -> Answer {
        let Ok(stream) = self.connect() else { return Answer::Nobody };
        self.ask(stream, path, token).ok().flatten().map_or(Answer::Unintelligible, Answer::Status)
    }

    fn connect(&self) -> io::Result<TcpStream> {
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for address in (self.host.as_str(), self.port).to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, ANSWER_LIMIT) {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn ask(&self, mut stream: TcpStream, path: &str, token: Option<&str>) -> io::Result<Option<u16>> {
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        stream.set_write_timeout(Some(ANSWER_LIMIT))?;
        let authority = self.authority();
        let credential = token.map(|token| format!("authorization: Bearer {token}\r\n")).unwrap_or_default();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: {authority}\r\n{credential}connection: close\r\n\r\n").as_bytes())?;
        let mut head = Vec::new();
        // An end in the middle is no matter once the status line is there.
        let read = stream.take(HEAD_BYTES_MAX).read_to_end(&mut head);
        let status = status_of(&head);
        if status.is_none() { read.map(|_| None) } else { Ok(status) }
    }

    fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        match (self.secure, self.port) {
            (false, 80) | (true, 443) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }
}

fn status_of(head: &[u8]) -> Option<u16> {
    let line = head.split(|byte| *byte == b'\n').next()?;
    let mut words = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
    words.next().filter(|version| version.starts_with("HTTP/1."))?;
    words.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_as_it_is_written() {
        for (typed, written) in [
            ("http://127.0.0.1:7878", "http://127.0.0.1:7878"),
            ("http://127.0.0.1:7878/v1/", "http://127.0.0.1:7878"),
            ("http://[::1]:7878/", "http://[::1]:7878"),
            ("http://box", "http://box"),
            ("https://box.example/v1", "https://box.example"),
            ("https://box:80", "https://box:80"),
        ] {
            assert_eq!(typed.parse::<ServerUrl>().map(|url| url.to_string()).as_deref(), Ok(written), "{typed}");
        }
        for (typed, error) in [
            ("127.0.0.1:7878", UrlError::Scheme),
            ("ftp://box", UrlError::Scheme),
            ("http://", UrlError::Host),
            ("http://:80", UrlError::Host),
            ("http://me@box", UrlError::Host),
            ("http://box?x", UrlError::Host),
            ("http://[::1", UrlError::Host),
            ("http://box:0", UrlError::Port),
            ("http://box:port", UrlError::Port),
            ("http://[::1]7", UrlError::Port),
            ("http://box/v2", UrlError::Path),
            ("http://box/v1/messages", UrlError::Path),
        ] {
            assert_eq!(typed.parse::<ServerUrl>(), Err(error), "{typed}");
        }
    }

    #[test]
    fn a_server_is_started_on_this_machine_only() {
        let loopback = |text: &str| text.parse::<ServerUrl>().unwrap().loopback().map(|ip| ip.to_string());
        assert_eq!(loopback("http://localhost:1").as_deref(), Some("127.0.0.1"));
        assert_eq!(loopback("http://127.0.0.2:1").as_deref(), Some("127.0.0.2"));
        assert_eq!(loopback("http://[::1]:1").as_deref(), Some("::1"));
        for elsewhere in ["http://10.0.0.1:1", "http://box:1", "https://localhost:1"] {
            assert_eq!(loopback(elsewhere), None, "{elsewhere}");
        }
    }

    #[test]
    fn a_status_is_found_and_nothing_else_is_taken_for_one() {
        for (head, status) in [
            ("HTTP/1.1 200 OK\r\n\r\n", Some(200)),
            ("HTTP/1.0 503\r\n", Some(503)),
            ("SSH-2.0-OpenSSH\r\n", None),
            ("HTTP/1.1 fine\r\n", None),
            ("", None),
        ] {
            assert_eq!(status_of(head.as_bytes()), status, "{head:?}");
        }
    }
}
