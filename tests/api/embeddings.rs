//! `/v1/embeddings` and `/v1/rerank`: every form of input and output, what is refused, who waits for whom, a real encoder in company.

use std::sync::atomic::Ordering;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use models::testing::tiny_encoder::{HIDDEN, TinyEncoder};
use serde_json::{Value, json};
use understudy::server::config::ServerConfig;

use crate::support::temp_dir::TempDir;
use crate::support::test_app::{Embedding, MODEL, Options, TestApp};

const EMBEDDINGS: &str = "/v1/embeddings";
const RERANK: &str = "/v1/rerank";

fn with_encoder(encoder: TinyEncoder) -> (TestApp, TempDir) {
    let folder = TempDir::new();
    encoder.save(folder.path());
    (TestApp::start(Options { embedding: Embedding::Own(folder.path().to_owned()), ..Options::default() }), folder)
}

fn vectors(reply: &Value) -> Vec<Vec<f32>> {
    let data = reply["data"].as_array().expect("a list");
    for (index, item) in data.iter().enumerate() {
        assert_eq!((&item["object"], &item["index"]), (&json!("embedding"), &json!(index)));
    }
    data.iter().map(|item| serde_json::from_value(item["embedding"].clone()).expect("numbers")).collect()
}

/// What the fake says of these ids, at length 1.
fn fake_vector(ids: &[u32]) -> Vec<f32> {
    let said = [ids.len() as u32, ids[0], ids[ids.len() - 1], ids.iter().sum()];
    let length = said.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    said.iter().map(|x| (f64::from(*x) / length) as f32).collect()
}

#[track_caller]
fn refused(app: &TestApp, path: &str, body: Value, param: &str, says: &str) {
    let reply = app.post(path, &body);
    let error = &reply.json()["error"];
    assert_eq!((reply.status(), error["param"].as_str()), (400, Some(param)), "{error}");
    assert!(error["message"].as_str().is_some_and(|message| message.contains(says)), "{error} lacks {says:?}");
}

#[test]
fn every_form_of_input_is_the_same_vector_of_length_one() {
    let app = TestApp::new();
    let reply = app.ok(EMBEDDINGS, &json!({"input": "abc", "model": "text-embedding-3-small", "user": "u"}));
    assert_eq!(reply["object"], "list");
    assert_eq!(reply["model"], MODEL, "the name of who really answers");
    assert_eq!(reply["usage"], json!({"prompt_tokens": 3, "total_tokens": 3}));
    assert_eq!(vectors(&reply), [fake_vector(&[97, 98, 99])]);
    for input in [json!(["abc"]), json!([97, 98, 99]), json!([[97, 98, 99]]), json!([{"text": "abc"}])] {
        assert_eq!(app.ok(EMBEDDINGS, &json!({"input": input}))["data"], reply["data"], "{input}");
    }
    let several = app.ok(EMBEDDINGS, &json!({"input": ["x", "abc", "x"]}));
    assert_eq!(vectors(&several), [fake_vector(&[120]), fake_vector(&[97, 98, 99]), fake_vector(&[120])]);
    assert_eq!(several["usage"]["prompt_tokens"], 5);
}

#[test]
fn base64_holds_the_same_numbers() {
    let app = TestApp::new();
    let floats = vectors(&app.ok(EMBEDDINGS, &json!({"input": ["abc", "x"], "encoding_format": "float"})));
    let reply = app.ok(EMBEDDINGS, &json!({"input": ["abc", "x"], "encoding_format": "base64"}));
    for (index, vector) in floats.iter().enumerate() {
        let bytes = STANDARD.decode(reply["data"][index]["embedding"].as_str().expect("a string")).expect("base64");
        let numbers: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        assert_eq!(&numbers, vector);
    }
}

#[test]
fn dimensions_are_the_first_numbers_at_length_one() {
    let app = TestApp::new();
    let vector = vectors(&app.ok(EMBEDDINGS, &json!({"input": "abc", "dimensions": 2}))).remove(0);
    let whole = fake_vector(&[97, 98, 99]);
    let length = (whole[0] * whole[0] + whole[1] * whole[1]).sqrt();
    assert_eq!(vector.len(), 2);
    assert!((vector[0] - whole[0] / length).abs() < 1e-6 && (vector[1] - whole[1] / length).abs() < 1e-6, "{vector:?}");
    refused(
        &app,
        EMBEDDINGS,
        json!({"input": "abc", "dimensions": 5}),
        "dimensions",
        "must be between 1 and 4, which is what this model gives",
    );
}

#[test]
fn what_cannot_be_embedded_is_refused_by_place() {
    let app = TestApp::new();
    let long = "x".repeat(101);
    let many = vec!["x".repeat(100); 2_048];
    for (body, param, says) in [
        (json!({}), "input", "is required"),
        (json!({"input": ["a", ""]}), "input[1]", "is empty: this model has no tokens for it"),
        (json!({"input": []}), "input", "is empty"),
        (json!({"input": [[97], [320]]}), "input[1]", "holds token 320, but the vocabulary has 320 tokens"),
        (json!({"input": ["a", long]}), "input[1]", "is too long: 101 tokens > 100 maximum"),
        (json!({"input": "a", "encoding_format": "int8"}), "encoding_format", "must be \"float\" or \"base64\", not \"int8\""),
        (json!({"input": "a", "truncate_prompt_tokens": 0}), "truncate_prompt_tokens", "must be at least 1"),
        (json!({"input": vec!["a"; 2_049]}), "input", "has 2049 texts; at most 2048"),
    ] {
        refused(&app, EMBEDDINGS, body, param, says);
    }
    let reply = app.post(EMBEDDINGS, &json!({"input": long}));
    assert_eq!(reply.json()["error"]["code"], "context_length_exceeded");
    for (body, tokens) in [
        (json!({"input": long, "truncate_prompt_tokens": -1}), 100),
        (json!({"input": long, "truncate_prompt_tokens": 7}), 7),
        (json!({"input": long, "truncate": true}), 100),
        (json!({"input": "xx", "truncate_prompt_tokens": 7}), 2),
    ] {
        assert_eq!(app.ok(EMBEDDINGS, &body)["usage"]["prompt_tokens"], tokens, "{body}");
    }
    assert_eq!(app.ok(EMBEDDINGS, &json!({"input": many}))["usage"]["prompt_tokens"], 204_800);
}

#[test]
fn a_failure_is_one_requests_own() {
    let app = TestApp::new();
    for (text, says) in
        [("FAIL", "the model failed: the text cannot be made into tokens: the text says so"), ("PANIC", "panicked: the text says so")]
    {
        let reply = app.post(EMBEDDINGS, &json!({"input": ["a", text]}));
        let message = reply.json()["error"]["message"].as_str().expect("a message").to_owned();
        assert_eq!(reply.status(), 500);
        assert!(message.contains(says) && !message.contains("backtrace"), "{message}");
        app.ok(EMBEDDINGS, &json!({"input": "a"}));
    }
}

#[test]
fn a_full_queue_says_when_to_come_back_and_clients_that_go_make_room() {
    let app = TestApp::new();
    app.embedder_held.store(true, Ordering::Relaxed);
    let body = json!({"input": "abc"}).to_string();
    let mut waiting: Vec<_> = (0..40)
        .map(|_| {
            let mut connection = app.connect();
            connection.request("POST", EMBEDDINGS, &[], body.as_bytes());
            connection
        })
        .collect();
    let mut refused = 0;
    while refused < 8 {
        let Some(answered) = (0..waiting.len()).find(|&index| waiting[index].has_reply()) else { continue };
        let reply = waiting.swap_remove(answered).read_reply();
        assert_eq!((reply.status(), reply.header("retry-after")), (503, Some("2")), "{}", reply.text());
        assert_eq!(reply.json()["error"]["code"], "server_busy");
        refused += 1;
    }
    // All but the last go away; what was begun for them ends, and the one who stayed is answered.
    let mut stayed = waiting.pop().expect("32 wait");
    drop(waiting);
    app.embedder_held.store(false, Ordering::Relaxed);
    assert_eq!(stayed.read_reply().status(), 200);
    app.ok(EMBEDDINGS, &json!({"input": "abc"}));
}

#[test]
fn an_encoder_gives_the_same_bits_in_any_company_over_http() {
    let (app, _folder) = with_encoder(TinyEncoder::bert(1));
    let texts = ["hello world", "the cat sat", "a b c d e f g h i j k l m n o p", "hello world", "!"];
    let together = app.ok(EMBEDDINGS, &json!({"input": texts}));
    assert_eq!(together["model"], "own-encoder");
    let together = vectors(&together);
    for (text, vector) in texts.iter().zip(&together) {
        assert_eq!(vectors(&app.ok(EMBEDDINGS, &json!({"input": text}))), std::slice::from_ref(vector), "{text:?}");
        let length: f32 = vector.iter().map(|x| x * x).sum();
        assert!(vector.len() == HIDDEN && (length - 1.0).abs() < 1e-5, "{length}");
    }
    assert_eq!(together[0], together[3]);
    assert_ne!(together[0], together[1]);
    // [CLS] hello world [SEP]
    assert_eq!(vectors(&app.ok(EMBEDDINGS, &json!({"input": [2, 4, 5, 3]}))), &together[..1]);
}

#[test]
fn both_models_are_listed_and_strict_names_are_the_right_ones() {
    let folder = TempDir::new();
    TinyEncoder::bert(2).save(folder.path());
    let config = ServerConfig { strict_model: true, ..ServerConfig::default() };
    let app = TestApp::start(Options { embedding: Embedding::Own(folder.path().to_owned()), config, ..Options::default() });
    let list = app.get("/v1/models").json();
    let ids: Vec<&str> = list["data"].as_array().expect("a list").iter().filter_map(|card| card["id"].as_str()).collect();
    assert_eq!(ids, [MODEL, "own-encoder"]);
    assert_eq!(app.get("/v1/models/own-encoder").json()["max_model_len"], 64);
    app.ok(EMBEDDINGS, &json!({"input": "hello", "model": "own-encoder"}));
    for model in [MODEL, "text-embedding-3-small"] {
        let reply = app.post(EMBEDDINGS, &json!({"input": "hello", "model": model}));
        assert_eq!((reply.status(), reply.json()["error"]["code"].as_str()), (404, Some("model_not_found")), "{model}");
    }
    assert_eq!(app.get("/v1/models/other").status(), 404);
}

#[test]
fn documents_are_ranked_by_cosine() {
    let app = TestApp::new();
    let documents = json!(["zzzzzzzzzzzzzzzzzzzz", {"text": "abc"}, "abd"]);
    for path in [RERANK, "/rerank", "/v2/rerank"] {
        let reply = app.ok(path, &json!({"query": "abc", "documents": documents, "model": "rerank-v3", "return_documents": true}));
        assert_eq!((&reply["model"], &reply["usage"]["total_tokens"]), (&json!(MODEL), &json!(29)));
        let results = reply["results"].as_array().expect("a list");
        assert_eq!(results.iter().map(|result| result["index"].as_u64()).collect::<Vec<_>>(), [Some(1), Some(2), Some(0)]);
        let scores: Vec<f64> = results.iter().filter_map(|result| result["relevance_score"].as_f64()).collect();
        assert!((scores[0] - 1.0).abs() < 1e-6 && scores[1] < 1.0 && scores[2] < scores[1], "{scores:?}");
        assert_eq!(results[0]["document"], json!({"text": "abc"}));
    }
    let reply = app.ok(RERANK, &json!({"query": "abc", "documents": documents, "top_n": 1}));
    assert_eq!(reply["results"].as_array().map(Vec::len), Some(1));
    assert!(reply["results"][0].get("document").is_none());
    refused(&app, RERANK, json!({"query": "abc", "documents": ["a", "x".repeat(101)]}), "documents[1]", "101 tokens > 100 maximum");
    refused(&app, RERANK, json!({"query": "", "documents": ["a"]}), "query", "is empty");
    refused(&app, RERANK, json!({"query": "a", "documents": ["a", 1]}), "documents[1]", "must be a string");
}

#[test]
fn a_cross_encoder_ranks_and_gives_no_embeddings() {
    let (app, _folder) = with_encoder(TinyEncoder { classifier: true, ..TinyEncoder::bert(3) });
    let documents = ["hello world", "the cat", "0123456789"];
    let reply = app.ok(RERANK, &json!({"query": "the cat sat", "documents": documents}));
    let results = reply["results"].as_array().expect("a list");
    let scores: Vec<f64> = results.iter().filter_map(|result| result["relevance_score"].as_f64()).collect();
    assert!(scores.is_sorted_by(|a, b| a >= b) && scores.iter().all(|score| (0.0..=1.0).contains(score)), "{scores:?}");
    for result in results {
        let index = result["index"].as_u64().expect("an index") as usize;
        let alone = app.ok(RERANK, &json!({"query": "the cat sat", "documents": [documents[index]]}));
        assert_eq!(alone["results"][0]["relevance_score"], result["relevance_score"], "alone and in company");
    }
    let reply = app.post(EMBEDDINGS, &json!({"input": "hello"}));
    assert_eq!((reply.status(), reply.json()["error"]["code"].as_str()), (400, Some("no_embeddings")));
}

#[test]
fn where_nothing_gives_embeddings_it_is_said() {
    let app = TestApp::start(Options { embedding: Embedding::None, ..Options::default() });
    for (path, body) in [(EMBEDDINGS, json!({"input": "a"})), (RERANK, json!({"query": "a", "documents": ["b"]}))] {
        let reply = app.post(path, &body);
        assert_eq!((reply.status(), reply.json()["error"]["code"].as_str()), (400, Some("no_embeddings")));
        assert!(reply.text().contains("--embedding-model"), "{}", reply.text());
    }
    let app = TestApp::start(Options { loaded: false, ..Options::default() });
    assert_eq!(app.post(EMBEDDINGS, &json!({"input": "a"})).status(), 503);
}

#[test]
fn embeddings_and_streams_share_the_machine() {
    let app = TestApp::new();
    let (mut stream, head) = app.open_stream("/v1/completions", &json!({"prompt": "go", "stream": true, "max_tokens": 4_000}));
    assert_eq!(head.status, 200);
    assert!(stream.next_chunk().is_some());
    app.ok(EMBEDDINGS, &json!({"input": vec!["abc"; 50]}));
    assert!(stream.next_chunk().is_some());
}
