//! What is no conversation goes up and comes down as it comes, whatever its size, and what breaks off looks like it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use understudy::gateway::drill::http::Dialect;
use understudy::gateway::drill::raw_client::{Broken, End, Exchange, RawClient, RawRequest};
use understudy::gateway::status::State;

use super::doors::limited_in;
use super::outcome::{eventually, upstream_state};
use super::raw_upstream::{RawUpstream, read_head, read_request, reply};
use crate::support::front_door::{FrontDoor, HANGS, Setup};

const PATIENCE: Duration = Duration::from_secs(20);
const PATH: &str = "/v1/files";

fn before(upstream: &RawUpstream) -> FrontDoor {
    limited_in(Dialect::OpenaiChat, Setup { urls: vec![upstream.url()], ..Setup::default() }, |_, _| {})
}

/// A word from the upstream's thread to the test, and back.
struct Words<T>(Mutex<Sender<T>>, Mutex<Receiver<T>>);

impl<T> Words<T> {
    fn new() -> Self {
        let (sender, receiver) = channel();
        Self(Mutex::new(sender), Mutex::new(receiver))
    }

    fn say(&self, word: T) {
        let _ = self.0.lock().unwrap_or_else(PoisonError::into_inner).send(word);
    }

    fn hear(&self) -> T {
        self.1.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(PATIENCE).expect("a word comes")
    }
}

/// So many bytes of a body, or fewer where it ends.
fn read_bytes(stream: &mut TcpStream, bytes: usize) -> usize {
    let mut buffer = vec![0; 1 << 16];
    let mut read = 0;
    while read < bytes {
        match stream.read(&mut buffer[..(bytes - read).min(1 << 16)]) {
            Ok(0) | Err(_) => break,
            Ok(more) => read += more,
        }
    }
    read
}

const PIECE: usize = 8 << 20;
const WHOLE: usize = 2 * PIECE;

fn head(method: &str, fields: &str) -> String {
    format!("{method} {PATH}?purpose=x HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer key\r\n{fields}\r\n")
}

#[test]
fn a_file_goes_up_as_it_comes() {
    static CAME: std::sync::LazyLock<Words<usize>> = std::sync::LazyLock::new(Words::new);
    let upstream = RawUpstream::start(|stream| {
        let Some(head) = read_head(stream) else { return };
        assert!(head.starts_with("POST /v1/files?purpose=x ") && head.contains(&format!("content-length: {WHOLE}")), "{head}");
        assert!(head.contains("Bearer key") && !head.contains("understudy"), "{head}");
        CAME.say(read_bytes(stream, PIECE));
        CAME.say(read_bytes(stream, WHOLE - PIECE));
        reply(stream, "201 Created", &["content-type: application/json", "x-request-id: r1"], b"{\"id\": \"file-1\"}");
    });
    let door = before(&upstream);
    let exchange = door.app.runtime().block_on(async {
        let mut client = RawClient::connect(door.address()).await.expect("the server accepts");
        client.send_bytes(head("POST", &format!("content-length: {WHOLE}\r\n")).as_bytes()).await.expect("it reads");
        client.send_bytes(&vec![b'a'; PIECE]).await.expect("it reads");
        assert_eq!(tokio::task::block_in_place(|| CAME.hear()), PIECE, "the upstream has half of it before the client has said the rest");
        client.send_bytes(&vec![b'b'; PIECE]).await.expect("it reads");
        client.reply(HANGS).await
    });
    assert_eq!(CAME.hear(), PIECE);
    assert_eq!((exchange.status(), exchange.header("x-request-id")), (Some(201), Some("r1")));
    assert_eq!((exchange.json()["id"].as_str(), exchange.header("x-understudy-served-by")), (Some("file-1"), Some("cloud-0")));
}

/// In chunks, without a length.
#[test]
fn a_body_without_a_length_goes_up() {
    let upstream = RawUpstream::start(|stream| {
        let Some(head) = read_head(stream) else { return };
        assert!(head.contains("transfer-encoding: chunked") && !head.contains("content-length"), "{head}");
        let mut body = Vec::new();
        let mut byte = [0];
        while !body.ends_with(b"0\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read == 1) {
            body.push(byte[0]);
        }
        let said = String::from_utf8_lossy(&body).contains("hello");
        reply(stream, if said { "200 OK" } else { "400 Bad Request" }, &[], b"done");
    });
    let door = before(&upstream);
    let exchange = door.app.runtime().block_on(async {
        let mut client = RawClient::connect(door.address()).await.expect("the server accepts");
        let request = [head("POST", "transfer-encoding: chunked\r\n").as_bytes(), b"5\r\nhello\r\n0\r\n\r\n"].concat();
        client.send_bytes(&request).await.expect("it reads");
        client.reply(HANGS).await
    });
    assert_eq!((exchange.status(), exchange.text().as_str()), (Some(200), "done"));
}

fn download(door: &FrontDoor, enough: usize) -> (RawClient, Exchange) {
    door.app.runtime().block_on(async {
        let mut client = RawClient::connect(door.address()).await.expect("the server accepts");
        client.send(&RawRequest::get(&format!("{PATH}/1/content"))).await.expect("it reads");
        let exchange = client.reply_until(HANGS, |body| body.len() >= enough).await;
        (client, exchange)
    })
}

#[test]
fn a_file_comes_down_as_it_comes() {
    static GO_ON: std::sync::LazyLock<Words<()>> = std::sync::LazyLock::new(Words::new);
    let upstream = RawUpstream::start(|stream| {
        let Some(_) = read_request(stream) else { return };
        let head = format!("HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ncontent-length: {WHOLE}\r\n\r\n");
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&vec![b'a'; PIECE]));
        GO_ON.hear();
        let _ = stream.write_all(&vec![b'b'; WHOLE - PIECE]);
        // Another one on the same connection.
        let Some(_) = read_request(stream) else { return };
        reply(stream, "200 OK", &[], b"again");
    });
    let door = before(&upstream);
    let (mut client, mut exchange) = download(&door, PIECE);
    assert_eq!(exchange.body.len(), PIECE, "half of it is there before the upstream has said the rest");
    GO_ON.say(());
    door.app.runtime().block_on(client.go_on(&mut exchange, HANGS, |_| false));
    assert_eq!((exchange.body.len(), &exchange.end), (WHOLE, &End::Whole));
    assert!(exchange.body[..PIECE].iter().all(|byte| *byte == b'a') && exchange.body[PIECE..].iter().all(|byte| *byte == b'b'));
    assert_eq!(exchange.header("content-length"), Some(WHOLE.to_string().as_str()));
    assert!(door.exchange(&RawRequest::get(PATH)).body == b"again");
    assert_eq!(upstream.connections(), 1, "its connection is kept");
}

#[test]
fn what_breaks_off_on_its_way_down_looks_like_it() {
    for fields in [format!("content-length: {WHOLE}"), "transfer-encoding: chunked".to_owned()] {
        let upstream = RawUpstream::start(move |stream| {
            let Some(_) = read_request(stream) else { return };
            let _ = stream.write_all(format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n5\r\nhello\r\n").as_bytes());
        });
        let door = before(&upstream);
        let exchange = door.exchange(&RawRequest::get(PATH));
        assert_eq!((exchange.status(), &exchange.end), (Some(200), &End::Cut(Broken::Closed)), "{}", exchange.text());
    }
}

/// It is answered before it has said all: the answer is the client's at once.
#[test]
fn an_early_answer_comes_down() {
    let upstream = RawUpstream::start(|stream| {
        let Some(_) = read_head(stream) else { return };
        reply(stream, "413 Payload Too Large", &["content-type: application/json"], b"{\"error\": {}}");
        // It hears the rest, and does nothing with it.
        read_bytes(stream, usize::MAX);
    });
    let door = before(&upstream);
    let exchange = door.app.runtime().block_on(async {
        let mut client = RawClient::connect(door.address()).await.expect("the server accepts");
        client.send_bytes(head("POST", &format!("content-length: {WHOLE}\r\n")).as_bytes()).await.expect("it reads");
        client.send_bytes(b"some").await.expect("it reads");
        client.reply(HANGS).await
    });
    assert_eq!((exchange.status(), exchange.text().as_str()), (Some(413), "{\"error\": {}}"));
    assert_eq!(upstream_state(&door).0, State::Well);
}

/// Who breaks off on the way up speaks against nobody, and the upstream is told.
#[test]
fn a_client_breaks_off_on_its_way_up() {
    static LEFT: std::sync::LazyLock<Words<usize>> = std::sync::LazyLock::new(Words::new);
    let upstream = RawUpstream::start(|stream| {
        let Some(_) = read_head(stream) else { return };
        LEFT.say(read_bytes(stream, WHOLE));
    });
    let door = before(&upstream);
    for _ in 0..3 {
        door.app.runtime().block_on(async {
            let mut client = RawClient::connect(door.address()).await.expect("the server accepts");
            client.send_bytes(head("POST", &format!("content-length: {WHOLE}\r\n")).as_bytes()).await.expect("it reads");
            client.send_bytes(&vec![b'a'; 1 << 16]).await.expect("it reads");
            client.reset();
        });
        assert!(LEFT.hear() < WHOLE);
    }
    assert_eq!(upstream_state(&door).0, State::Well);
}

/// A small body is held: a kept connection that was closed meanwhile costs nobody anything.
#[test]
fn a_small_body_goes_up_once_more() {
    let upstream = RawUpstream::start(|stream| {
        let Some(_) = read_request(stream) else { return };
        reply(stream, "200 OK", &[], b"first");
        // Closed without a word when the next request comes.
        let _ = stream.read(&mut [0; 1]);
    });
    let door = before(&upstream);
    let request = || RawRequest { body: b"small".to_vec(), ..RawRequest::get(PATH) };
    for _ in 0..2 {
        let mut request = request();
        request.method = "POST".to_owned();
        assert_eq!(door.exchange(&request).text(), "first");
    }
    eventually("it came on a new connection", || upstream.connections() == 2);
}

#[test]
fn nobody_there() {
    let upstream = RawUpstream::start(|_| {});
    let door = before(&upstream);
    let exchange = door.exchange(&RawRequest::get(PATH));
    assert_eq!((exchange.status(), exchange.header("retry-after")), (Some(503), Some("5")), "{}", exchange.text());
    assert_eq!(exchange.json()["error"]["code"], "upstream_unavailable");
}
