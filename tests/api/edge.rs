//! The edge: health, models, unknown routes, request ids, keys, Host and Origin, CORS.

use serde_json::{Value, json};
use understudy::server::config::{ApiKeys, ServerConfig};

use crate::support::http_client::Reply;
use crate::support::test_app::{MODEL, NOW_UNIX_S, Options, TestApp};

const CHAT: &str = "/v1/chat/completions";

fn app(config: ServerConfig) -> TestApp {
    TestApp::start(Options { config, ..Options::default() })
}

fn hello_body() -> Vec<u8> {
    json!({"messages": [{"role": "user", "content": "SAY[[hello]]"}]}).to_string().into_bytes()
}

#[track_caller]
fn check_error(reply: &Reply, status: u16, kind: &str, code: &str) {
    assert_eq!(reply.status(), status, "{}", reply.text());
    let error = &reply.json()["error"];
    assert_eq!((&error["type"], &error["code"]), (&json!(kind), &json!(code)));
    assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()));
    assert!(reply.header("x-request-id").is_some());
}

#[track_caller]
fn check_error_of(reply: &Reply, status: u16, says: &str) {
    assert_eq!(reply.status(), status, "{}", reply.text());
    assert!(reply.json()["error"]["message"].as_str().is_some_and(|message| message.contains(says)), "{}", reply.text());
}

#[test]
fn health() {
    let app = TestApp::new();
    assert_eq!((app.get("/livez").status(), app.get("/livez").text()), (200, "ok\n"));
    for path in ["/readyz", "/health"] {
        assert_eq!(app.get(path).json(), json!({"status": "ok", "model": MODEL}));
    }
    let hello = app.get("/");
    assert_eq!((hello.status(), hello.header("content-type")), (200, Some("text/plain; charset=utf-8")));
    assert!(hello.text().contains(MODEL));
    let mut connection = app.connect();
    connection.request("HEAD", "/", &[], b"");
    assert_eq!(connection.read_head().status, 200);
}

#[test]
fn models() {
    let app = TestApp::new();
    let model = json!({"id": MODEL, "object": "model", "created": NOW_UNIX_S, "owned_by": "understudy", "max_model_len": 4096, "meta": {}});
    assert_eq!(app.get("/v1/models").json(), json!({"object": "list", "data": [model]}));
    // The name holds a slash and a colon; any other means the same model, and is told the true name.
    for path in [format!("/v1/models/{MODEL}"), "/v1/models/tiny%2Ftest-model:Q8_0".into(), "/v1/models/gpt-5.5".into()] {
        assert_eq!(app.get(&path).json(), model, "{path}");
    }
}

#[test]
fn strict_model_names() {
    let app = app(ServerConfig { strict_model: true, ..ServerConfig::default() });
    check_error(&app.get("/v1/models/gpt-5.5"), 404, "invalid_request_error", "model_not_found");
    assert_eq!(app.get(&format!("/v1/models/{MODEL}")).status(), 200);
    let body = |model: Value| json!({"model": model, "messages": [{"role": "user", "content": "SAY[[x]]"}]});
    check_error(&app.chat(&body("gpt-5.5".into())), 404, "invalid_request_error", "model_not_found");
    assert_eq!(app.chat(&body("gpt-5.5".into())).json()["error"]["param"], "model");
    assert_eq!(app.chat(&body(MODEL.into())).status(), 200);
    assert_eq!(app.chat(&body(Value::Null)).status(), 200, "no name is no wrong name");
}

#[test]
fn unknown_routes_and_methods_answer_in_json() {
    let app = TestApp::new();
    for path in ["/v1/unknown", "/v1/chat/completions/x", "/favicon.ico", "/v1"] {
        check_error(&app.get(path), 404, "invalid_request_error", "unknown_url");
    }
    check_error_of(&app.get("/v1/models/%FF"), 400, "not UTF-8");
    check_error(&app.send("POST", "/nowhere", &[], b"{}"), 404, "invalid_request_error", "unknown_url");
    for (method, path, allow) in [("GET", CHAT, "POST"), ("DELETE", "/v1/models", "GET,HEAD"), ("PUT", "/v1/completions", "POST")] {
        let reply = app.send(method, path, &[], b"");
        check_error(&reply, 405, "invalid_request_error", "method_not_allowed");
        assert_eq!(reply.header("allow"), Some(allow));
    }
}

#[test]
fn request_ids() {
    let app = TestApp::new();
    let id = |headers: &[&str]| app.send("GET", "/livez", headers, b"").header("x-request-id").expect("an id").to_owned();
    assert_eq!(id(&["X-Request-Id: my-id_1.2:3"]), "my-id_1.2:3");
    let long = format!("x-request-id: {}", "a".repeat(129));
    for harmful in ["x-request-id: a b", "x-request-id: <script>", "x-request-id:", &long] {
        let own = id(&[harmful]);
        assert!(own.starts_with("req_") && own.len() == 36, "{own}");
    }
    assert_ne!(id(&[]), id(&[]));
    let reply = app.send("POST", CHAT, &["x-request-id: chat-1"], &hello_body());
    assert_eq!((reply.status(), reply.header("x-request-id")), (200, Some("chat-1")));
}

#[test]
fn keys() {
    let app = app(ServerConfig { api_keys: ApiKeys::new(["first-key".into(), "second-key".into()]), ..ServerConfig::default() });
    for header in ["Authorization: Bearer first-key", "authorization: bearer second-key", "X-Api-Key: first-key"] {
        assert_eq!(app.send("POST", CHAT, &[header], &hello_body()).status(), 200, "{header}");
        assert_eq!(app.send("GET", "/v1/models", &[header], b"").status(), 200);
    }
    for (headers, code) in [
        (&[][..], "missing_api_key"),
        (&["Authorization: Basic first-key"], "missing_api_key"),
        (&["Authorization: Bearer wrong"], "invalid_api_key"),
        (&["Authorization: Bearer first-key2"], "invalid_api_key"),
        (&["Authorization: Bearer "], "missing_api_key"),
        (&["x-api-key: "], "invalid_api_key"),
        (&["x-api-key: FIRST-KEY"], "invalid_api_key"),
    ] {
        for (method, path) in [("POST", CHAT), ("GET", "/v1/models"), ("GET", "/unknown")] {
            let reply = app.send(method, path, headers, if method == "POST" { b"{}" } else { b"" });
            check_error(&reply, 401, "authentication_error", code);
            assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
            assert!(!reply.text().contains("first-key"), "a key is never shown");
        }
    }
    for path in ["/livez", "/readyz", "/health", "/"] {
        for stranger in [&[][..], &["x-api-key: wrong"]] {
            let reply = app.send("GET", path, stranger, b"");
            assert_eq!(reply.status(), 200, "{path} needs no key");
            assert!(!reply.text().contains(MODEL), "{path} names the model to a stranger: {}", reply.text());
        }
        let reply = app.send("GET", path, &["x-api-key: first-key"], b"");
        assert_eq!((reply.status(), reply.text().contains(MODEL)), (200, path != "/livez"), "{path}");
    }
}

#[test]
fn a_foreign_host_is_refused() {
    let app = app(ServerConfig { allowed_hosts: vec!["box.example".into()], ..ServerConfig::default() });
    for host in ["localhost:7878", "127.0.0.1", "[::1]:1", "box.example", "BOX.example:7878"] {
        assert_eq!(app.send("GET", "/v1/models", &[&format!("Host: {host}")], b"").status(), 200, "{host}");
    }
    for host in ["evil.example", "evil.example:7878", "127.0.0.1.evil.example", "box.example.evil"] {
        for path in ["/v1/models", "/livez", "/"] {
            check_error(&app.send("GET", path, &[&format!("Host: {host}")], b""), 403, "permission_error", "host_not_allowed");
        }
    }
    let mut connection = app.connect();
    connection.send(b"GET http://evil.example/v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(connection.read_reply().status(), 403, "the name in the request line counts too");
    let mut connection = app.connect();
    connection.send(b"GET /v1/models HTTP/1.0\r\n\r\n");
    let mut connection_text = String::new();
    while let Some(byte) = connection.read_byte() {
        connection_text.push(byte as char);
    }
    assert!(connection_text.starts_with("HTTP/1.0 200"), "{connection_text}");
}

#[test]
fn a_foreign_origin_is_refused() {
    let app = TestApp::new();
    let own = format!("Origin: http://{}", app.address);
    assert_eq!(app.send("POST", CHAT, &[&own], &hello_body()).status(), 200, "our own page");
    for origin in ["https://evil.example", "null", "http://localhost:3000", "http://127.0.0.1", "chrome-extension://x", "garbage"] {
        let header = format!("Origin: {origin}");
        let reply = app.send("POST", CHAT, &[&header], &hello_body());
        check_error(&reply, 403, "permission_error", "origin_not_allowed");
        assert_eq!(reply.header("access-control-allow-origin"), None);
        check_error(
            &app.send("OPTIONS", CHAT, &[&header, "Access-Control-Request-Method: POST"], b""),
            403,
            "permission_error",
            "origin_not_allowed",
        );
    }
    let one = app.stats().prompt_tokens_total;
    assert_eq!(app.send("POST", CHAT, &[], &hello_body()).status(), 200);
    assert_eq!(app.stats().prompt_tokens_total, 2 * one, "only the allowed ones reached the model");
}

#[test]
fn cors_where_it_is_configured() {
    let api_keys = ApiKeys::new(["key".into()]);
    let app = app(ServerConfig { cors_origins: vec!["https://chat.example".into()], api_keys, ..ServerConfig::default() });
    let ours = "Origin: https://chat.example";
    let preflight = app.send(
        "OPTIONS",
        CHAT,
        &[
            ours,
            "Access-Control-Request-Method: POST",
            "Access-Control-Request-Headers: authorization,x-mine",
            "Access-Control-Request-Private-Network: true",
        ],
        b"",
    );
    assert_eq!(preflight.status(), 204, "a preflight carries no key");
    for (name, value) in [
        ("access-control-allow-origin", "https://chat.example"),
        ("access-control-allow-headers", "authorization,x-mine"),
        ("access-control-allow-methods", "GET, HEAD, POST, DELETE, OPTIONS"),
        ("access-control-allow-private-network", "true"),
        ("vary", "origin"),
    ] {
        assert_eq!(preflight.header(name), Some(value));
    }
    let reply = app.send("POST", CHAT, &[ours, "Authorization: Bearer key"], &hello_body());
    assert_eq!((reply.status(), reply.header("access-control-allow-origin")), (200, Some("https://chat.example")));
    assert_eq!(
        reply.header("access-control-expose-headers"),
        Some("x-request-id, request-id, retry-after, x-should-retry, x-understudy-served-by, x-understudy-reason")
    );
    let refused = app.send("POST", CHAT, &[ours], &hello_body());
    assert_eq!(
        (refused.status(), refused.header("access-control-allow-origin")),
        (401, Some("https://chat.example")),
        "the page may read the error"
    );
    check_error(&app.send("POST", CHAT, &["Origin: https://evil.example"], &hello_body()), 403, "permission_error", "origin_not_allowed");
    check_error(&app.send("POST", CHAT, &["Origin: null"], &hello_body()), 403, "permission_error", "origin_not_allowed");
    assert_eq!(app.send("GET", "/livez", &[], b"").header("access-control-allow-origin"), None);
}

#[test]
fn one_connection_serves_many_requests() {
    let app = TestApp::new();
    let mut connection = app.connect();
    for _ in 0..3 {
        connection.request("POST", CHAT, &[], &hello_body());
        assert_eq!(connection.read_reply().json()["choices"][0]["message"]["content"], "hello");
        connection.request("POST", CHAT, &[], b"{");
        assert_eq!(connection.read_reply().status(), 400);
    }
}
