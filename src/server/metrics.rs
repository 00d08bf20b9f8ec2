//! `GET /metrics`: the engine's numbers in Prometheus' text format, under the names that dashboards and Kubernetes' endpoint picker know
//! from vLLM. What we count the same way has the same name; what we do not count is not there.
//!
//! Read by who may use the API: the model's name and the load are nobody else's business. See docs/api.md.

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use prometheus::core::Collector;
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Histogram, TextEncoder};

use super::{AppState, Served};
use crate::api::errors::{ApiError, ErrorKind};
use crate::engine::meters::Meters;
use crate::engine::{EngineConfig, EngineStats};

const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

pub async fn metrics(State(state): State<AppState>) -> Response {
    let text = state.served().and_then(|Served { engine, card, .. }| {
        let families = families(&card.id, &engine.stats(), engine.config(), engine.meters());
        let unwritten = |error| ApiError::new(ErrorKind::Internal, format!("the metrics could not be written: {error}"));
        TextEncoder::new().encode_to_string(&families).map_err(unwritten)
    });
    match text {
        Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Err(error) => error.into_response(),
    }
}

fn families(model: &str, stats: &EngineStats, config: &EngineConfig, meters: &Meters) -> Vec<MetricFamily> {
    let families = Families { model };
    let usage = stats.blocks_used as f64 / stats.blocks_total.max(1) as f64;
    let stopped = stats.finished_total - stats.finished_at_length_total;
    let mut all = vec![
        families.gauge("num_requests_running", "Requests that run.", stats.running as f64),
        families.gauge("num_requests_waiting", "Requests that wait to run.", stats.waiting as f64),
        families.gauge("kv_cache_usage_perc", "Share of the cache that running requests use; 1 is all of it.", usage),
        // vLLM's name for the same until 0.9, which older endpoint pickers read.
        families.gauge("gpu_cache_usage_perc", "The same as vllm:kv_cache_usage_perc, by its old name.", usage),
        families.counter(
            "prompt_tokens_total",
            "Tokens of prompts that are computed or came from the cache.",
            stats.prefilled_tokens_total,
        ),
        families.counter("generation_tokens_total", "Tokens generated.", stats.generated_tokens_total),
        families.counter("prefix_cache_queries_total", "Tokens looked for in the prefix cache.", stats.cache_queried_tokens_total),
        families.counter("prefix_cache_hits_total", "Of these, tokens found.", stats.cache_hit_tokens_total),
        families.counter(
            "num_preemptions_total",
            "Requests paused because the cache was full, or for more urgent ones.",
            stats.pauses_total,
        ),
        families.counter("spec_decode_num_drafts_total", "Drafts that were checked, of one or more tokens.", stats.drafts_total),
        families.counter("spec_decode_num_draft_tokens_total", "Tokens guessed ahead and checked.", stats.drafted_tokens_total),
        families.counter("spec_decode_num_accepted_tokens_total", "Of these, tokens that were right.", stats.accepted_tokens_total),
        families.counters(
            "request_success_total",
            "Requests that are over, by how they ended.",
            "finished_reason",
            &[
                ("stop", stopped),
                ("length", stats.finished_at_length_total),
                ("abort", stats.cancelled_total),
                ("error", stats.failed_total),
            ],
        ),
        families.cache_config(config),
    ];
    if let Some(predicted) = stats.first_token_in {
        all.push(families.first_token_in(predicted.as_secs_f64()));
    }
    let draft = stats.draft_model;
    if draft.rows_total > 0 {
        let of = "Of the tokens guessed ahead, those guessed by the draft model";
        all.push(families.own("draft_model_tokens_total", families.counter("", &format!("{of}."), draft.guessed_total)));
        all.push(families.own("draft_model_accepted_tokens_total", families.counter("", &format!("{of} that came."), draft.right_total)));
        let rows = families.counter("", "Tokens that the draft model computed, to read and to guess.", draft.rows_total);
        all.push(families.own("draft_model_computed_tokens_total", rows));
    }
    for histogram in meters.histograms() {
        all.extend(families.histogram(histogram));
    }
    all
}

/// Makes families of one model.
struct Families<'a> {
    model: &'a str,
}

impl Families<'_> {
    fn gauge(&self, name: &str, help: &str, value: f64) -> MetricFamily {
        family(name, help, MetricType::GAUGE, vec![self.gauge_metric(value, &[])])
    }

    fn gauge_metric(&self, value: f64, labels: &[(&str, &str)]) -> Metric {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        let mut metric = Metric::from_label(self.labels(labels));
        metric.set_gauge(gauge);
        metric
    }

    fn counter(&self, name: &str, help: &str, value: u64) -> MetricFamily {
        family(name, help, MetricType::COUNTER, vec![self.counter_metric(value, &[])])
    }

    /// One for each value of a label.
    fn counters(&self, name: &str, help: &str, label: &str, values: &[(&str, u64)]) -> MetricFamily {
        let metrics = values.iter().map(|&(of, value)| self.counter_metric(value, &[(label, of)])).collect();
        family(name, help, MetricType::COUNTER, metrics)
    }

    fn counter_metric(&self, value: u64, labels: &[(&str, &str)]) -> Metric {
        let mut counter = Counter::default();
        counter.set_value(value as f64);
        let mut metric = Metric::from_label(self.labels(labels));
        metric.set_counter(counter);
        metric
    }

    /// Nothing of vLLM's: it has our own name.
    fn first_token_in(&self, seconds: f64) -> MetricFamily {
        let help = "What a short request that came now would wait for its first token, as predicted.";
        self.own("first_token_in_seconds", self.gauge("", help, seconds))
    }

    /// Under a name of ours.
    fn own(&self, name: &str, mut family: MetricFamily) -> MetricFamily {
        family.set_name(format!("understudy:{name}"));
        family
    }

    /// A gauge that is always 1: what it says is in its labels, which Kubernetes' endpoint picker reads.
    fn cache_config(&self, config: &EngineConfig) -> MetricFamily {
        let (block_size, blocks) = (kernels::BLOCK_TOKENS.to_string(), config.blocks.to_string());
        let labels = [("block_size", block_size.as_str()), ("num_gpu_blocks", blocks.as_str()), ("enable_prefix_caching", "True")];
        family("cache_config_info", "The size of the cache.", MetricType::GAUGE, vec![self.gauge_metric(1.0, &labels)])
    }

    /// Of the time between tokens also by vLLM's old name.
    fn histogram(&self, histogram: &Histogram) -> Vec<MetricFamily> {
        let mut families = histogram.collect();
        for family in &mut families {
            family.set_name(full_name(family.name()));
            family.mut_metric().iter_mut().for_each(|metric| metric.set_label(self.labels(&[])));
        }
        if let Some(family) = families.iter().find(|family| family.name() == "vllm:inter_token_latency_seconds") {
            let mut by_old_name = family.clone();
            by_old_name.set_name(full_name("time_per_output_token_seconds"));
            by_old_name.set_help("The same as vllm:inter_token_latency_seconds, by its old name.".to_owned());
            families.push(by_old_name);
        }
        families
    }

    fn labels(&self, more: &[(&str, &str)]) -> Vec<LabelPair> {
        let pair = |&(name, value): &(&str, &str)| {
            let mut pair = LabelPair::default();
            pair.set_name(name.to_owned());
            pair.set_value(value.to_owned());
            pair
        };
        [("model_name", self.model)].iter().chain(more).map(pair).collect()
    }
}

fn family(name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(full_name(name));
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

fn full_name(name: &str) -> String {
    format!("vllm:{name}")
}
