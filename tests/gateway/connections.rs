//! Cases 1 to 6: there is no connection, or it ends before an answer.

use std::net::{SocketAddr, TcpListener as HeldPort};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use understudy::gateway::drill::answer::{Answer, Ending, Misbehaviour, SIXTY_WORDS};
use understudy::gateway::drill::fault_upstream::FaultUpstream;
use understudy::gateway::drill::http::Dialect;
use understudy::gateway::drill::plan::Plan;
use understudy::gateway::drill::raw_client::{Exchange, RawClient};
use understudy::gateway::status::State;

use super::doors::{DIALECTS, door_to, unscaled};
use super::outcome::{ask, ask_whole, next_is_answered, settled, upstream_state};
use crate::support::front_door::{HANGS, Setup, request, text};
use crate::support::program::Program;

fn port_of_our_own() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a loopback port is free");
    let address = socket.local_addr().expect("a bound socket has an address");
    (socket, address)
}

pub fn connection_refused() {
    for dialect in DIALECTS {
        // Held, so that nobody else gets the port, and not listened on.
        let (_held, address) = port_of_our_own();
        let door = door_to(dialect, format!("http://{address}"), Setup::default());
        ask(&door, dialect).is_local("refused");
        assert_eq!(upstream_state(&door), (State::Well, None), "one refusal may be a restart");
        ask_whole(&door, dialect).is_local("refused");
        assert_eq!(upstream_state(&door), (State::Down, Some("refused".to_owned())));
        ask(&door, dialect).is_local("refused");
        next_is_answered(&door, dialect);
    }
}

/// A host whose packets are lost looks like a listener that never accepts, once its queue is full.
pub fn syn_blackhole() {
    let runtime = Runtime::new().expect("a runtime starts");
    let _runs = runtime.enter();
    let (socket, address) = port_of_our_own();
    let _listener = socket.listen(0).expect("the port is ours");
    let fill = async {
        let mut queued = Vec::new();
        while let Ok(stream) = tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
            queued.push(stream.expect("loopback accepts while there is room"));
        }
        queued
    };
    let _queued = runtime.block_on(fill);
    let limit = Duration::from_millis(1500);
    let setup = Setup { gateway: "connect_limit = 1.5", ..Setup::default() };
    let door = door_to(Dialect::AnthropicMessages, format!("http://{address}"), setup);
    let turn = ask(&door, Dialect::AnthropicMessages);
    turn.is_local("connect_timeout");
    // Nobody is there to count the attempts: their time has to do.
    assert!((limit..limit * 2).contains(&turn.exchange.ended_after), "one attempt: {:?}", turn.exchange.ended_after);
    next_is_answered(&door, Dialect::AnthropicMessages);
}

pub fn reset_before_headers() {
    ends_before_headers(Ending::Reset);
}

pub fn closed_before_headers() {
    ends_before_headers(Ending::Fin);
}

fn ends_before_headers(how: Ending) {
    for dialect in DIALECTS {
        let answer = Answer::wrong(Misbehaviour::EndBeforeHeaders { how });
        let door_of_accident = unscaled(dialect, Plan::first(1, answer.clone()));
        ask(&door_of_accident, dialect).is_cloud();
        settled(&door_of_accident, dialect, 2);
        let door_of_outage = unscaled(dialect, Plan::always(answer));
        ask(&door_of_outage, dialect).is_local("closed_early");
        settled(&door_of_outage, dialect, 2);
    }
}

/// That an address that was good is used again is tested where it is kept.
pub fn name_unknown() {
    let setup = Setup { upstream: "plain_http = true", ..Setup::default() };
    let door = door_to(Dialect::AnthropicMessages, "http://nobody.invalid".to_owned(), setup);
    ask(&door, Dialect::AnthropicMessages).is_local("name_unknown");
    next_is_answered(&door, Dialect::AnthropicMessages);
    assert_eq!(upstream_state(&door), (State::Down, Some("name_unknown".to_owned())));
}

/// The real program: which authorities are trusted is read from its environment.
pub fn tls() {
    let runtime = Runtime::new().expect("a runtime starts");
    let upstream = runtime.block_on(FaultUpstream::start(Plan::healthy())).expect("a loopback port is free");
    let authority = fixture("authority.pem");
    // What is wrong, if anything, and what the log says of it.
    let cases = [
        ("good.pem", &*authority, None),
        ("expired.pem", &authority, Some("certificate expired")),
        ("wrong_host.pem", &authority, Some("not valid for name")),
    ];
    for (certificate, trusted, wrong) in cases.into_iter().chain([("good.pem", "", Some("UnknownIssuer"))]) {
        let served = upstream.generations().len();
        let front = runtime.block_on(TlsFront::start(certificate, upstream.address()));
        let (exchange, log) = through_the_program(&runtime, front.port, trusted);
        let told = (exchange.header("x-understudy-served-by"), exchange.header("x-understudy-reason"));
        match wrong {
            None => assert_eq!((told, text(Dialect::AnthropicMessages, &exchange).as_str()), ((Some("cloud"), None), SIXTY_WORDS)),
            Some(problem) => {
                assert_eq!(told.1, Some("tls"), "{certificate}: {log}");
                assert!(text(Dialect::AnthropicMessages, &exchange).ends_with(STANDS_IN), "{}", exchange.text());
                assert!(log.contains("no secure connection") && log.contains(problem), "{certificate} is said aloud: {log}");
            }
        }
        assert_eq!(front.connections.load(Ordering::Relaxed), 1, "{certificate}: no second try, and none without TLS");
        assert_eq!(upstream.generations().len() - served, usize::from(wrong.is_none()), "{certificate}: what went over the wire");
    }
    // Connections come about, and nobody says a word on them.
    let silent = HeldPort::bind("127.0.0.1:0").expect("a loopback port is free");
    let (exchange, _) = through_the_program(&runtime, silent.local_addr().expect("an address").port(), &authority);
    assert_eq!(exchange.header("x-understudy-reason"), Some("tls"), "a handshake that stalls");
}

const STANDS_IN: &str = "I stand in.";

/// One request to a program whose upstream is `https://localhost:PORT`, and what the program said on stderr.
fn through_the_program(runtime: &Runtime, port: u16, trusted: &str) -> (Exchange, String) {
    through_the_program_with(runtime, port, trusted, "")
}

/// With a line more for the upstream.
pub fn through_the_program_with(runtime: &Runtime, port: u16, trusted: &str, setting: &str) -> (Exchange, String) {
    let config = format!(
        "[gateway]\njournal = \"off\"\nconnect_limit = 1\n[[upstream]]\nname = \"cloud\"\nkind = \"anthropic\"\nurl = \"https://localhost:{port}\"\n{setting}"
    );
    let program = Program::new().config(&config).env("NO_COLOR", "1");
    let program = if trusted.is_empty() { program } else { program.env("SSL_CERT_FILE", trusted) };
    program.home.write("understudy-stands-in.toml", format!("[default]\ntext = \"{STANDS_IN}\"\n"));
    let running = program.serve(&["--port", "0", "scripted:understudy-stands-in.toml"]);
    let address = running.address.parse().expect("an address");
    let request = request(Dialect::AnthropicMessages, true).header("x-api-key", "the-client-s-own");
    let exchange = runtime.block_on(RawClient::exchange(address, &request, HANGS));
    assert_eq!(exchange.status(), Some(200), "{}", exchange.text());
    running.signal("TERM");
    (exchange, running.wait().1)
}

pub fn fixture(name: &str) -> String {
    format!("{}/tests/gateway/fixtures/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// TLS with a certificate of the fixtures before an upstream that knows of none.
pub struct TlsFront {
    pub port: u16,
    connections: Arc<AtomicUsize>,
}

impl TlsFront {
    async fn start(certificate: &str, behind: SocketAddr) -> Self {
        Self::offering(certificate, behind, &[]).await
    }

    /// One that agrees on a protocol of these.
    pub async fn offering(certificate: &str, behind: SocketAddr, protocols: &[&str]) -> Self {
        let chain = vec![CertificateDer::from_pem_file(fixture(certificate)).expect("a certificate")];
        let key = PrivateKeyDer::from_pem_file(fixture("server_key.pem")).expect("a key");
        let builder = ServerConfig::builder_with_provider(Arc::new(default_provider())).with_safe_default_protocol_versions();
        let mut config =
            builder.expect("ring has what TLS needs").with_no_client_auth().with_single_cert(chain, key).expect("the key fits");
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port is free");
        let port = listener.local_addr().expect("an address").port();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = connections.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    // Who does not trust us leaves during the handshake.
                    let Ok(mut inside) = acceptor.accept(stream).await else { return };
                    let mut outside = TcpStream::connect(behind).await.expect("the upstream listens");
                    let _ = tokio::io::copy_bidirectional(&mut inside, &mut outside).await;
                });
            }
        });
        Self { port, connections }
    }
}
