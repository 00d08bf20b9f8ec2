//! A new connection: the name, the socket, the handshake, each within its limit, and each failure by its name.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::Origin;
use super::body::Sending;
use super::http2::Http2;
use crate::config::gateway::HttpVersion;
use crate::gateway::fault::Fault;

/// How long an address that was good serves when its name has none: the resolver may be what is down.
const ADDRESS_LIFE: Duration = Duration::from_secs(3600);
/// HTTP/2, as it is called in a TLS handshake (RFC 9113, section 3.2).
const H2: &[u8] = b"h2";
/// Of a reply's head: more is no API's.
const HEADERS_MAX: usize = 256;
pub const HEAD_BYTES_MAX: usize = 256 << 10;

/// A connection in the protocol that both ends speak.
#[derive(Debug)]
pub enum Connected {
    Http1(Connection),
    Http2(Arc<Http2>),
}

/// A connection of HTTP/1.1. Dropped, it ends at once: nothing more is sent to one whose answer is known.
#[derive(Debug)]
pub struct Connection {
    pub sender: SendRequest<Sending>,
    task: AbortHandle,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Debug)]
pub struct Connector {
    origin: Origin,
    limit: Duration,
    speaks: HttpVersion,
    /// It has said that it wants HTTP/1.1.
    only_http1: AtomicBool,
    look_up: LookUp,
    trust: Trust,
    last_good: Mutex<Option<(SocketAddr, Instant)>>,
}

/// Where a name and a port lead: the system's resolver, or one of a test.
type LookUp = fn(String, u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>>;

/// Whose certificates are believed: those that the system trusts, or a test's.
type Trust = fn() -> Arc<ClientConfig>;

/// A connection that streams is asked whether it is there after so many times what a connection may take: 10 s.
const PING_AFTER: u32 = 5;

impl Connector {
    pub fn new(origin: Origin, limit: Duration) -> Self {
        let (look_up, trust): (LookUp, Trust) = (ask_the_system, || TLS.clone());
        Self {
            origin,
            limit,
            speaks: HttpVersion::Negotiated,
            only_http1: AtomicBool::new(false),
            look_up,
            trust,
            last_good: Mutex::default(),
        }
    }

    pub fn speaking(self, speaks: HttpVersion) -> Self {
        Self { speaks, ..self }
    }

    /// From now on.
    pub fn speak_http1(&self) {
        self.only_http1.store(true, Ordering::Relaxed);
    }

    fn speaks(&self) -> HttpVersion {
        if self.only_http1.load(Ordering::Relaxed) { HttpVersion::Http1 } else { self.speaks }
    }

    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// A connection that is ready for a request.
    pub async fn connect(&self) -> Result<Connected, Fault> {
        let stream = self.socket().await?;
        // Requests are small and must not wait for each other; a socket that cannot be told so works all the same.
        let _ = stream.set_nodelay(true);
        let speaks = self.speaks();
        if !self.origin.tls {
            // Without TLS nobody can be asked.
            return self.greet(stream, speaks == HttpVersion::Http2).await;
        }
        let name = ServerName::try_from(self.origin.host.clone()).map_err(|_| Fault::Tls)?;
        let mut config = (*(self.trust)()).clone();
        config.alpn_protocols = match speaks {
            HttpVersion::Negotiated => vec![H2.to_vec(), b"http/1.1".to_vec()],
            HttpVersion::Http1 => vec![b"http/1.1".to_vec()],
            HttpVersion::Http2 => vec![H2.to_vec()],
        };
        let connector = TlsConnector::from(Arc::new(config));
        match timeout(self.limit + self.limit / 2, connector.connect(name, stream)).await {
            Ok(Ok(stream)) => {
                let is_http2 = stream.get_ref().1.alpn_protocol() == Some(H2) || speaks == HttpVersion::Http2;
                self.greet(stream, is_http2).await
            }
            Ok(Err(error)) => {
                // Said aloud: it is a broken clock, a captive portal or an attack, and never passed over.
                tracing::warn!(host = self.origin.host.as_str(), %error, "no secure connection");
                Err(Fault::Tls)
            }
            Err(_) => Err(Fault::Tls),
        }
    }

    async fn greet(&self, stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, is_http2: bool) -> Result<Connected, Fault> {
        match is_http2 {
            true => Ok(Connected::Http2(Http2::handshake(stream, self.limit * PING_AFTER).await?)),
            false => Ok(Connected::Http1(handshake(stream).await?)),
        }
    }

    async fn socket(&self) -> Result<TcpStream, Fault> {
        let mut fault = Fault::NameUnknown;
        let addresses = self.addresses().await;
        // The name had its own: a resolver that hangs leaves time for the address that was good.
        let deadline = Instant::now() + self.limit;
        let count = addresses.len();
        for (index, address) in addresses.into_iter().enumerate() {
            // Each of the remaining addresses gets its share of what is left.
            let share = deadline.saturating_duration_since(Instant::now()) / (count - index) as u32;
            match timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    *self.last_good.lock().unwrap_or_else(PoisonError::into_inner) = Some((address, Instant::now()));
                    return Ok(stream);
                }
                Ok(Err(error)) => fault = fault_of(&error),
                Err(_) => fault = Fault::ConnectTimeout,
            }
        }
        Err(fault)
    }

    /// Where the name leads. When the resolver does not answer: where it last led, if that is not long ago.
    async fn addresses(&self) -> Vec<SocketAddr> {
        if let Ok(address) = self.origin.host.parse::<IpAddr>() {
            return vec![SocketAddr::new(address, self.origin.port)];
        }
        let looked_up = timeout(self.limit, (self.look_up)(self.origin.host.clone(), self.origin.port)).await;
        let found = looked_up.ok().and_then(Result::ok).unwrap_or_default();
        if found.is_empty() { self.last_good(Instant::now()).into_iter().collect() } else { found }
    }

    fn last_good(&self, now: Instant) -> Option<SocketAddr> {
        let last = *self.last_good.lock().unwrap_or_else(PoisonError::into_inner);
        last.filter(|(_, at)| now.duration_since(*at) < ADDRESS_LIFE).map(|(address, _)| address)
    }
}

/// On a thread of its own, so that a resolver that hangs holds up nobody.
fn ask_the_system(host: String, port: u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
    Box::pin(async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) })
}

async fn handshake(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Result<Connection, Fault> {
    let mut builder = http1::Builder::new();
    builder.max_headers(HEADERS_MAX).max_buf_size(HEAD_BYTES_MAX);
    let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(|_| Fault::ClosedEarly)?;
    let task = tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to an upstream broke");
        }
    });
    Ok(Connection { sender, task: task.abort_handle() })
}

fn fault_of(error: &io::Error) -> Fault {
    match error.kind() {
        io::ErrorKind::TimedOut => Fault::ConnectTimeout,
        // Refused, or no way there: for a laptop without a network both are the same.
        _ => Fault::Refused,
    }
}

/// The system's certificates, or Mozilla's where it has none. Versions and ciphers are rustls' own choice; nothing is ever not verified.
static TLS: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = builder.expect("ring has what TLS 1.2 and 1.3 need").with_root_certificates(roots).with_no_client_auth();
    Arc::new(config)
});

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(200);

    fn never(_: String, _: u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
        Box::pin(std::future::pending())
    }

    fn unknown(_: String, _: u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
        Box::pin(async { Err(io::ErrorKind::NotFound.into()) })
    }

    fn nowhere(_: String, _: u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    /// Whatever is wrong with the resolver, an address that was good within the hour is good enough; and without one nobody waits for long.
    #[tokio::test]
    async fn an_address_that_was_good_outlives_its_resolver() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let origin = Origin { tls: false, host: "api.example".to_owned(), port: address.port() };
        for look_up in [never, unknown, nowhere] as [LookUp; 3] {
            let connector = Connector { look_up, ..Connector::new(origin.clone(), LIMIT) };
            assert_eq!(connector.socket().await.err(), Some(Fault::NameUnknown));
            let found = Connector { look_up: |_, port| Box::pin(async move { Ok(vec![([127, 0, 0, 1], port).into()]) }), ..connector };
            found.socket().await.unwrap();
            let connector = Connector { look_up, ..found };
            assert_eq!(connector.socket().await.unwrap().peer_addr().unwrap(), address);
            let now = Instant::now();
            assert_eq!(connector.last_good(now), Some(address));
            assert_eq!(connector.last_good(now + ADDRESS_LIFE), None, "by then it may be another's");
        }
    }
}
