//! `GET /metrics`, read as Prometheus and Kubernetes' endpoint picker read it.

use std::time::Duration;

use serde_json::json;
use understudy::server::config::{ApiKeys, ServerConfig};

use crate::support::exposition::Exposition;
use crate::support::test_app::{MODEL, Options, TestApp};

const COMPLETIONS: &str = "/v1/completions";

/// By their full names: what a dashboard made for vLLM asks for.
const NAMES: [(&str, &str); 23] = [
    ("vllm:num_requests_running", "gauge"),
    ("vllm:num_requests_waiting", "gauge"),
    ("vllm:kv_cache_usage_perc", "gauge"),
    ("vllm:gpu_cache_usage_perc", "gauge"),
    ("vllm:cache_config_info", "gauge"),
    ("vllm:prompt_tokens_total", "counter"),
    ("vllm:generation_tokens_total", "counter"),
    ("vllm:prefix_cache_queries_total", "counter"),
    ("vllm:prefix_cache_hits_total", "counter"),
    ("vllm:num_preemptions_total", "counter"),
    ("vllm:spec_decode_num_drafts_total", "counter"),
    ("vllm:spec_decode_num_draft_tokens_total", "counter"),
    ("vllm:spec_decode_num_accepted_tokens_total", "counter"),
    ("vllm:request_success_total", "counter"),
    ("vllm:time_to_first_token_seconds", "histogram"),
    ("vllm:inter_token_latency_seconds", "histogram"),
    ("vllm:time_per_output_token_seconds", "histogram"),
    ("vllm:e2e_request_latency_seconds", "histogram"),
    ("vllm:request_queue_time_seconds", "histogram"),
    ("vllm:request_prefill_time_seconds", "histogram"),
    ("vllm:request_decode_time_seconds", "histogram"),
    ("vllm:request_prompt_tokens", "histogram"),
    ("vllm:request_generation_tokens", "histogram"),
];

fn read(app: &TestApp) -> Exposition {
    let reply = app.get("/metrics");
    assert_eq!((reply.status(), reply.header("content-type")), (200, Some("text/plain; version=0.0.4; charset=utf-8")));
    Exposition::read(reply.text())
}

#[test]
fn every_name_is_there_with_the_model() {
    let metrics = read(&TestApp::new());
    for (name, kind) in NAMES {
        let family = metrics.family(name);
        assert_eq!(family.kind, kind, "{name}");
        assert!(family.samples.iter().all(|sample| sample.labels["model_name"] == MODEL), "{family:?}");
    }
    assert_eq!(metrics.0.len(), NAMES.len(), "what is new is in this list, and in the documentation");
    assert_eq!(metrics.value("vllm:cache_config_info", &[("block_size", "32"), ("num_gpu_blocks", "512")]), 1.0);
}

#[test]
fn requests_are_counted_by_how_they_end() {
    let app = TestApp::start(Options { pace: Duration::from_millis(1), ..Options::default() });
    let prompt = "This is a prompt of more than sixty-four tokens, of which two blocks are found again by who comes later. SAY[[hello]]";
    let tokens = |text: &str| app.tokenizer.encode(text, false).expect("text can be encoded").len() as f64;
    let (prompt_tokens, said, recite) = (tokens(prompt), tokens("hello"), tokens("recite"));
    // Twice to the stop token, once to a stop string, once to the length.
    for more in [json!({}), json!({}), json!({"stop": "l"}), json!({"max_tokens": 2})] {
        let mut body = json!({"prompt": prompt});
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        app.ok(COMPLETIONS, &body);
    }
    let (mut gone, _) = app.open_stream(COMPLETIONS, &json!({"prompt": "recite", "max_tokens": 4_000, "stream": true}));
    gone.next_chunk();
    let running = read(&app);
    assert_eq!(running.value("vllm:num_requests_running", &[]), 1.0);
    let usage = running.value("vllm:kv_cache_usage_perc", &[]);
    assert!(usage > 0.0 && usage < 0.5, "{usage}");
    drop(gone);
    app.wait_until("the stream is cancelled", |stats| stats.cancelled_total == 1);
    app.broken.store(true, std::sync::atomic::Ordering::Relaxed);
    // Two, so that they are told from the one that was cancelled.
    for _ in 0..2 {
        assert_eq!(app.complete(&json!({"prompt": "x"})).status(), 500);
    }

    let metrics = read(&app);
    for (reason, requests) in [("stop", 3.0), ("length", 1.0), ("abort", 1.0), ("error", 2.0)] {
        assert_eq!(metrics.value("vllm:request_success_total", &[("finished_reason", reason)]), requests, "{reason}");
    }
    assert_eq!(metrics.value("vllm:num_requests_running", &[]) + metrics.value("vllm:num_requests_waiting", &[]), 0.0);
    assert_eq!(metrics.value("vllm:kv_cache_usage_perc", &[]), 0.0);
    let stats = app.stats();
    assert_eq!(metrics.value("vllm:generation_tokens_total", &[]), stats.generated_tokens_total as f64);
    // "recite" is computed, "x" never was.
    assert_eq!(metrics.value("vllm:prompt_tokens_total", &[]), 4.0 * prompt_tokens + recite);
    assert_eq!(metrics.value("vllm:prefix_cache_queries_total", &[]), 4.0 * prompt_tokens + recite + 2.0);
    assert_eq!(metrics.value("vllm:prefix_cache_hits_total", &[]), 3.0 * (prompt_tokens - 1.0));
    // The four that ended well; their tokens, and how often one followed another.
    for name in NAMES.iter().filter(|(name, kind)| *kind == "histogram" && name.contains("request_")).map(|(name, _)| name) {
        assert_eq!(metrics.value(&format!("{name}_count"), &[]), 4.0, "{name}");
    }
    assert_eq!(metrics.value("vllm:request_prompt_tokens_sum", &[]), 4.0 * prompt_tokens);
    // The stop string comes in the middle: how much was generated by then is a matter of moments.
    let generated = metrics.value("vllm:request_generation_tokens_sum", &[]);
    assert!((2.0 * said + 2.0 + 1.0..=3.0 * said + 2.0).contains(&generated), "{generated}");
    assert_eq!(metrics.value("vllm:time_to_first_token_seconds_count", &[]), 5.0);
    let between = metrics.value("vllm:inter_token_latency_seconds_count", &[]);
    assert_eq!(between, stats.generated_tokens_total as f64 - 5.0, "each token but the first of each");
    assert_eq!(metrics.value("vllm:time_per_output_token_seconds_count", &[]), between);
    // A step takes a millisecond at least.
    assert!(metrics.value("vllm:inter_token_latency_seconds_sum", &[]) >= 0.001 * between);
    assert_eq!(metrics.value("vllm:inter_token_latency_seconds_bucket", &[("le", "80")]), between);
}

#[test]
fn who_may_use_the_api_may_read_them() {
    let config = ServerConfig { api_keys: ApiKeys::new(["key".to_owned()]), ..ServerConfig::default() };
    let app = TestApp::start(Options { config, ..Options::default() });
    let refused = app.get("/metrics");
    assert_eq!((refused.status(), refused.header("www-authenticate")), (401, Some("Bearer")));
    assert!(!refused.text().contains(MODEL));
    assert_eq!(app.send("GET", "/metrics", &["Authorization: Bearer key"], b"").status(), 200);
    assert_eq!(app.send("GET", "/metrics", &["Host: evil.example", "Authorization: Bearer key"], b"").status(), 403);
    assert_eq!(app.send("POST", "/metrics", &["Authorization: Bearer key"], b"{}").status(), 405);
}

#[test]
fn before_the_model_is_there_there_is_nothing_to_read() {
    let app = TestApp::start(Options { loaded: false, ..Options::default() });
    assert_eq!(app.get("/metrics").status(), 503);
}

#[test]
#[should_panic(expected = "the last bucket is not the count")]
fn the_reader_catches_a_histogram_that_contradicts_itself() {
    let text = "# HELP a_b b\n# TYPE a_b histogram\na_b_bucket{le=\"1\"} 1\na_b_bucket{le=\"+Inf\"} 2\na_b_sum 1\na_b_count 3\n";
    Exposition::read(text);
}
