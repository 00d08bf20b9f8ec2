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
    fault_13_slow_body_and_nobody_faster => silences::slow_body_and_nobody_faster,
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
    fault_31_html_pages => upstream_errors::html_pages,
    fault_31_html_pages_without_a_local_model => upstream_errors::html_pages_without_a_local_model,
    fault_32_one_500 => upstream_errors::one_500,
    fault_32_one_500_that_forbids_another_try => upstream_errors::one_500_that_forbids_another_try,
    fault_33_always_503 => upstream_errors::always_503,
    fault_34_always_529 => upstream_errors::always_529,
    fault_35_rate_limit_that_is_short => upstream_errors::rate_limit_that_is_short,
    fault_35_rate_limit_is_no_idle_time => upstream_errors::rate_limit_is_no_idle_time,
    fault_36_quota_is_spent => upstream_errors::quota_is_spent,
    fault_37_rate_limit_without_a_word => upstream_errors::rate_limit_without_a_word,
    fault_38_retry_after_that_is_nonsense => upstream_errors::retry_after_that_is_nonsense,
    fault_38_retry_after_is_clamped => upstream_errors::retry_after_is_clamped,
    fault_39_credential_is_refused => upstream_errors::credential_is_refused,
    fault_39_outage_of_logins => upstream_errors::outage_of_logins,
    fault_39_outage_of_logins_by_default => upstream_errors::outage_of_logins_by_default,
    fault_40_request_is_invalid => upstream_errors::request_is_invalid,
    fault_41_context_is_too_long => upstream_errors::context_is_too_long,
    fault_41_context_is_too_long_for_everybody => upstream_errors::context_is_too_long_for_everybody,
    fault_42_refusal => upstream_errors::refusal,
    fault_42_refusal_as_a_reason_to_stop => upstream_errors::refusal_as_a_reason_to_stop,
    fault_43_request_is_too_large => upstream_errors::request_is_too_large,
    fault_44_flapping => recovery::flapping,
    fault_44_brownout => recovery::brownout,
    fault_44_one_probe_at_a_time => recovery::one_probe_at_a_time,
    fault_44_damping => recovery::damping,
    fault_44_probe_waits_for_what_was_usual => probes::waits_for_what_was_usual,
    fault_44_probe_is_read_along_with => probes::is_read_along_with,
    fault_44_probe_in_one_piece => probes::in_one_piece_is_not_asked_for_again_soon,
    fault_45_in_the_middle_of_a_tool_loop => recovery::in_the_middle_of_a_tool_loop,
    fault_45_after_a_long_silence_in_a_tool_loop => recovery::after_a_long_silence_in_a_tool_loop,
    fault_46_history_of_this_machine => recovery::history_of_this_machine,
    fault_47_huge_event => transport::huge_event,
    fault_47_huge_reply => transport::huge_reply,
    fault_47_header_bomb => transport::header_bomb,
    fault_47_redirect_without_end => transport::redirect_without_end,
    fault_48_continue_that_never_comes => transport::continue_that_never_comes,
    fault_48_answer_before_the_body => transport::answer_before_the_body,
    fault_48_early_503 => transport::early_503,
    fault_49_connection_closed_while_idle => transport::connection_closed_while_idle,
    fault_50_http_2_only => transport::http_2_only,
    fault_50_healthy_http_2 => http2::healthy,
    fault_50_http_2_is_agreed_on => http2::agreed_on,
    fault_50_stream_refused => http2::stream_refused,
    fault_50_overloaded => http2::overloaded,
    fault_50_wants_http_1 => http2::wants_http_1,
    fault_50_goes_away_in_mid_stream => http2::goes_away_in_mid_stream,
    fault_50_goes_away_while_idle => http2::goes_away_while_idle,
    fault_50_stream_reset => http2::stream_reset,
    fault_50_connection_dies_with_many_streams => http2::connection_dies_with_many_streams,
    fault_50_one_stream_stalls => http2::one_stream_stalls,
    fault_50_ping_is_not_answered => http2::ping_is_not_answered,
    fault_50_client_that_does_not_read => http2::client_that_does_not_read,
    fault_50_client_leaves => http2::client_leaves,
    fault_51_leaves_in_any_phase => clients::leaves_in_any_phase,
    fault_51_leaves_the_local_model => clients::leaves_the_local_model,
    fault_51_leaves_after_a_takeover => clients::leaves_after_a_takeover,
    fault_52_sent_twice => clients::sent_twice,
    fault_52_two_replies_under_one_id => clients::two_replies_under_one_id,
    fault_53_no_local_model_yet => clients::no_local_model_yet,
    fault_53_no_room_at_the_local_model => clients::no_room_at_the_local_model,
    fault_53_queue_of_the_last_resort => clients::queue_of_the_last_resort,
    fault_54_both_fail => clients::both_fail,
    fault_54_both_fail_for_want_of_room => clients::both_fail_for_want_of_room,
    fault_55_connections_after_a_sleep => surroundings::connections_after_a_sleep,
    fault_56_key_file_is_gone => surroundings::key_file_is_gone,
    fault_56_scraper_that_hangs => surroundings::scraper_that_hangs,
    fault_57_network_that_goes_and_comes => surroundings::network_that_goes_and_comes,
    fault_57_network_that_is_back => surroundings::network_that_is_back,
    fault_58_encodings_and_trailers => transport::encodings_and_trailers,
    fault_58_encodings_by_name => transport::encodings_by_name,
    fault_58_encoding_that_is_cut => transport::encoding_that_is_cut,
    fault_59_captive_portal => transport::captive_portal,
    fault_59_captive_portal_without_a_certificate => transport::captive_portal_without_a_certificate,
    fault_59_captive_portal_without_a_local_model => transport::captive_portal_without_a_local_model,
    fault_60_stopped_in_mid_stream => clients::stopped_in_mid_stream,
    fault_60_stopped_for_good => clients::stopped_for_good,
    fault_60_breakers_while_draining => clients::breakers_while_draining,
    scenario_s01_retry_after => scenarios::s01_retry_after,
    scenario_s02_rate_limit_for_ever => scenarios::s02_rate_limit_for_ever,
    scenario_s03_one_500 => scenarios::s03_one_500,
    scenario_s04_503_for_ever => scenarios::s04_503_for_ever,
    scenario_s05_reset_before_any_byte => scenarios::s05_reset_before_any_byte,
    scenario_s06_no_response => scenarios::s06_no_response,
    scenario_s07_first_token_after_20_s => scenarios::s07_first_token_after_20_s,
    scenario_s08_dies_after_40_tokens => scenarios::s08_dies_after_40_tokens,
    scenario_s09_silent_after_20_tokens => scenarios::s09_silent_after_20_tokens,
    scenario_s10_event_that_is_no_json => scenarios::s10_event_that_is_no_json,
    scenario_s11_no_last_event => scenarios::s11_no_last_event,
    scenario_s12_context_length => scenarios::s12_context_length,
    scenario_s13_content_policy => scenarios::s13_content_policy,
    scenario_s14_second_cloud_refuses_to_go_on => scenarios::s14_second_cloud_refuses_to_go_on,
    scenario_s15_outage_of_a_minute => scenarios::s15_outage_of_a_minute,
    scenario_s16_name_of_the_fallback => scenarios::s16_name_of_the_fallback,
    second_cloud_goes_on_within_a_text => second_cloud::goes_on_within_a_text,
    second_cloud_goes_on_across_protocols => second_cloud::goes_on_across_protocols,
    second_cloud_only_where_it_is_known_to => second_cloud::only_where_it_is_known_to,
    second_cloud_fails_and_the_local_model_goes_on => second_cloud::fails_and_the_local_model_goes_on,
    second_cloud_refuses_and_is_none_the_worse => second_cloud::refuses_and_is_none_the_worse,
    second_cloud_is_not_asked_while_it_rests => second_cloud::is_not_asked_while_it_rests,
    second_cloud_never_within_arguments => second_cloud::never_within_arguments,
    second_cloud_breaks_off_as_well => second_cloud::breaks_off_as_well,
    second_cloud_white_space_at_the_seam => second_cloud::white_space_at_the_seam,
    second_cloud_goes_on_with_a_text_that_trickles => second_cloud::goes_on_with_a_text_that_trickles,
}

mod breaker;
mod breaker_simulation;
mod calls;
mod chronicle;
mod classify;
mod clients;
mod connections;
mod cuts;
mod doors;
mod event_streams;
mod fault_plans;
mod fault_upstream;
mod history;
mod http2;
mod http2_upstream;
mod journal;
mod limits;
mod outcome;
mod passing;
mod probes;
mod raw_upstream;
mod recovery;
mod relay;
mod replies;
mod report;
mod scenarios;
mod schema_check;
mod seam;
mod seam_escapes;
mod seam_streams;
mod seam_tokens;
mod second_cloud;
mod sessions;
mod silences;
mod sse_splitter;
mod strict_client;
mod surroundings;
mod takeover;
mod tap;
mod transport;
mod upstream_errors;
mod verdicts;
