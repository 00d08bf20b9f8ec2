//! The front door: its decisions, its relay, and what becomes of every fault.

/// Cases by their names; what they check stands in the modules, by theme.
macro_rules! cases {
    ($($case:ident => $theme:ident::$check:ident,)*) => {
        $(
            #[test]
            fn $case() {
                $theme::$check();
            }
        )*
    };
}

cases! {
    fault_01_connection_refused => connections::connection_refused,
    fault_02_syn_blackhole => connections::syn_blackhole,
    fault_03_reset_before_headers => connections::reset_before_headers,
    fault_04_closed_before_headers => connections::closed_before_headers,
    fault_05_name_unknown => connections::name_unknown,
    fault_06_tls => connections::tls,
    fault_07_no_headers_ever => silences::no_headers_ever,
    fault_08_headers_dribble => silences::headers_dribble,
    fault_09_headers_then_silence => silences::headers_then_silence,
    fault_10_pings_without_content => silences::pings_without_content,
    fault_11_slow_first_token => silences::slow_first_token,
    fault_12_latency_ramp => silences::latency_ramp,
    fault_13_slow_body => silences::slow_body,
    fault_14_stall_mid_text => silences::stall_mid_text,
    fault_15_stall_mid_text_with_pings => silences::stall_mid_text_with_pings,
    fault_16_reset_mid_text => cuts::reset_mid_text,
    fault_17_closed_without_last_chunk => cuts::closed_without_last_chunk,
    fault_18_clean_end_without_finish => cuts::clean_end_without_finish,
    fault_19_content_length_longer_than_body => cuts::content_length_longer_than_body,
    fault_20_cut_in_thinking => cuts::cut_in_thinking,
    fault_21_cut_in_tool_arguments => calls::cut_in_tool_arguments,
    fault_22_cut_between_tool_calls => calls::cut_between_tool_calls,
    fault_23_cut_before_the_last_event => cuts::cut_before_the_last_event,
    fault_24_malformed_events => event_streams::malformed_events,
    fault_25_missing_done => event_streams::missing_done,
    fault_26_forms_of_event_streams => event_streams::forms_of_event_streams,
    fault_27_error_as_the_first_event => event_streams::error_as_the_first_event,
    fault_28_error_after_the_start => event_streams::error_after_the_start,
    fault_29_error_mid_text => event_streams::error_mid_text,
    fault_30_successes_that_are_none => event_streams::successes_that_are_none,
}

mod breaker;
mod breaker_simulation;
mod calls;
mod classify;
mod connections;
mod cuts;
mod event_streams;
mod fault_plans;
mod fault_upstream;
mod history;
mod invariants;
mod journal;
mod limits;
mod relay;
mod replies;
mod report;
mod schema_check;
mod seam;
mod seam_streams;
mod seam_tokens;
mod sessions;
mod silences;
mod sse_splitter;
mod strict_client;
mod takeover;
mod tap;
mod verdicts;
