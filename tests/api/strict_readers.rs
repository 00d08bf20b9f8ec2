//! The strict readers themselves: a stream as it should be passes, and each way to spoil it does not. A rule that nothing breaks is none.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::support::http_client::{Head, Reply};
use crate::support::{chat_stream, completion_stream, infill_stream};

const USAGE: &str = "{\"prompt_tokens\":3,\"completion_tokens\":2,\"total_tokens\":5,\"prompt_tokens_details\":{\"cached_tokens\":0},\"completion_tokens_details\":{\"reasoning_tokens\":0}}";

fn reply(body: &str) -> Reply {
    let headers = [("content-type", "text/event-stream; charset=utf-8"), ("cache-control", "no-cache")];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    Reply { head: Head { status: 200, headers }, body: body.as_bytes().to_vec() }
}

/// `good` passes, and does not with the first of each pair written as the second.
#[track_caller]
fn check(read: impl Fn(&Reply), good: &str, spoils: &[(&str, &str)]) {
    read(&reply(good));
    for (from, to) in spoils {
        assert!(good.contains(from), "{from:?} is not in it");
        let spoilt = reply(&good.replacen(from, to, 1));
        assert!(catch_unwind(AssertUnwindSafe(|| read(&spoilt))).is_err(), "{from:?} as {to:?} passes");
    }
}

fn frames(data: &[String]) -> String {
    data.iter().map(|data| format!("data: {data}\n\n")).collect()
}

fn chunk(id: &str, object: &str, entry: &str, usage: &str) -> String {
    format!("{{\"id\":\"{id}\",\"object\":\"{object}\",\"created\":7,\"model\":\"m\",\"choices\":[{entry}],\"usage\":{usage}}}")
}

#[test]
fn completions() {
    let chunk = |entry: &str| chunk("cmpl-1", "text_completion", entry, "null");
    let good = frames(&[
        chunk(
            "{\"text\":\"é!\",\"index\":0,\"logprobs\":{\"tokens\":[\"é\",\"!\"],\"token_logprobs\":[-0.5,-1.0],\
             \"top_logprobs\":[{\"é\":-0.5},{\"a\":-0.25,\"!\":-1.0}],\"text_offset\":[0,1]},\"finish_reason\":null}",
        ),
        chunk("{\"text\":\"\",\"index\":0,\"logprobs\":null,\"finish_reason\":null}"),
        chunk("{\"text\":\"b\",\"index\":1,\"logprobs\":null,\"finish_reason\":null}"),
        chunk("{\"text\":\"\",\"index\":0,\"logprobs\":null,\"finish_reason\":\"stop\"}"),
        chunk("{\"text\":\"\",\"index\":1,\"logprobs\":null,\"finish_reason\":\"length\"}"),
        chunk("").replace("null", USAGE),
        "[DONE]".to_owned(),
    ]);
    let one_more = "{\"text\":\"c\",\"index\":0,\"logprobs\":null,\"finish_reason\":null}";
    let late =
        format!("{}\n\ndata: {}", chunk("{\"text\":\"\",\"index\":1,\"logprobs\":null,\"finish_reason\":\"length\"}"), chunk(one_more));
    let finish_1 = chunk("{\"text\":\"\",\"index\":1,\"logprobs\":null,\"finish_reason\":\"length\"}");
    let check_stream = |reply: &Reply| drop(completion_stream::read_completion_stream(reply, 2));
    check(
        check_stream,
        &good,
        &[
            ("data: [DONE]\n\n", ""),
            ("data: [DONE]", "event: done\ndata: [DONE]"),
            ("[DONE]", "{\"error\":\"down\"}"),
            ("\"id\":\"cmpl-1\"", "\"id\":\"cmpl-2\""),
            ("\"id\":\"cmpl-1\"", "\"id\":\"chatcmpl-1\""),
            ("text_completion", "text_completion.chunk"),
            ("\"created\":7", "\"created\":8"),
            ("\"model\":\"m\"", "\"model\":\"n\""),
            (",\"usage\":null", ""),
            ("\"usage\":null", &format!("\"usage\":{USAGE}")),
            ("\"total_tokens\":5", "\"total_tokens\":6"),
            ("\"cached_tokens\":0", "\"cached_tokens\":4"),
            (",\"finish_reason\":\"stop\"", ""),
            ("\"finish_reason\":\"stop\"", "\"finish_reason\":\"tool_calls\""),
            ("\"finish_reason\":\"stop\"", "\"finish_reason\":null"),
            (
                "\"text\":\"\",\"index\":0,\"logprobs\":null,\"finish_reason\":\"stop\"",
                "\"text\":\"c\",\"index\":0,\"logprobs\":null,\"finish_reason\":\"stop\"",
            ),
            ("\"index\":1", "\"index\":2"),
            (finish_1.as_str(), late.as_str()),
            ("\"text_offset\":[0,1]", "\"text_offset\":[0,2]"),
            ("\"text_offset\":[0,1]", "\"text_offset\":[1,0]"),
            ("\"text_offset\":[0,1]", "\"text_offset\":[0]"),
            ("[-0.5,-1.0]", "[-0.5,1.0]"),
            ("[-0.5,-1.0]", "[-0.5,null]"),
            ("[-0.5,-1.0]", "[-0.5]"),
            ("[-0.5,-1.0]", "[null,-1.0]"),
            ("{\"é\":-0.5}", "{\"a\":-0.5}"),
            ("[{\"é\":-0.5},{\"a\":-0.25,\"!\":-1.0}]", "[{\"é\":-0.5}]"),
            ("\"tokens\":[\"é\",\"!\"]", "\"tokens\":[\"!\",\"é\"]"),
            ("\"tokens\":[\"é\",\"!\"],", ""),
            ("data: {\"id\":\"cmpl-1\"", ": a remark\n\ndata: {\"id\":\"cmpl-1\""),
        ],
    );
    let failed = frames(&[
        chunk("{\"text\":\"b\",\"index\":0,\"logprobs\":null,\"finish_reason\":null}"),
        "{\"error\":{\"message\":\"it broke\",\"type\":\"server_error\",\"param\":null,\"code\":null}}".to_owned(),
    ]);
    let end = chunk("").replace("null", USAGE);
    check(
        |reply| drop(completion_stream::fold(reply)),
        &failed,
        &[
            ("it broke", ""),
            ("\"param\":null,", ""),
            (",\"code\":null}}", ",\"code\":null}}\n\ndata: [DONE]\n\ndata: [DONE]"),
            ("data: {\"error\"", &format!("data: {end}\n\ndata: {{\"error\"")),
        ],
    );
}

#[test]
fn chat() {
    let chunk = |entry: &str| chunk("chatcmpl-1", "chat.completion.chunk", entry, "null");
    let good = frames(&[
        chunk("{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,\"finish_reason\":null}"),
        chunk("{\"index\":0,\"delta\":{\"content\":\"a\"},\"logprobs\":null,\"finish_reason\":null}"),
        chunk("{\"index\":0,\"delta\":{},\"logprobs\":null,\"finish_reason\":\"stop\"}"),
        chunk("").replace("null", USAGE),
        "[DONE]".to_owned(),
    ]);
    check(
        |reply| drop(chat_stream::read_chat_stream(reply, 1)),
        &good,
        &[
            ("chat.completion.chunk", "chat.completion"),
            ("\"role\":\"assistant\",", ""),
            ("\"finish_reason\":\"stop\"", "\"finish_reason\":null"),
            (
                "\"delta\":{},\"logprobs\":null,\"finish_reason\":\"stop\"",
                "\"delta\":{\"content\":\"b\"},\"logprobs\":null,\"finish_reason\":\"stop\"",
            ),
            ("{\"content\":\"a\"}", "{\"content\":\"a\",\"text\":\"a\"}"),
            ("\"completion_tokens\":2", "\"completion_tokens\":3"),
        ],
    );
}

#[test]
fn infill() {
    let last = "{\"index\":0,\"content\":\"\",\"stop\":true,\"model\":\"m\",\"tokens_predicted\":2,\"tokens_evaluated\":5,\"tokens_cached\":7,\
                \"truncated\":false,\"stop_type\":\"eos\",\"stopping_word\":\"\",\"timings\":{\"cache_n\":1,\"prompt_n\":4,\"predicted_n\":2}}";
    let piece = |text: &str| format!("{{\"index\":0,\"content\":\"{text}\",\"stop\":false}}");
    let good = frames(&[piece("a"), piece(""), piece("b"), last.to_owned()]);
    let failed = "{\"error\":{\"message\":\"it broke\",\"type\":\"server_error\",\"param\":null,\"code\":null}}";
    let read = |reply: &Reply| {
        let folded = infill_stream::read_infill_stream(reply);
        assert_eq!((&folded.reply["content"], folded.keep_alives, folded.error), (&"ab".into(), 1, None));
    };
    check(
        read,
        &good,
        &[
            ("\"stop\":false", "\"stop\":true"),
            ("\"stop\":true", "\"stop\":false"),
            ("\"index\":0", "\"index\":1"),
            ("\"content\":\"\",\"stop\":true", "\"content\":\"c\",\"stop\":true"),
            ("\"content\":\"b\",", ""),
            ("\"stop_type\":\"eos\"", "\"stop_type\":\"none\""),
            ("\"stop_type\":\"eos\"", "\"stop_type\":\"word\""),
            ("\"stopping_word\":\"\"", "\"stopping_word\":\"x\""),
            ("\"tokens_cached\":7", "\"tokens_cached\":5"),
            ("\"prompt_n\":4", "\"prompt_n\":5"),
            ("\"predicted_n\":2", "\"predicted_n\":1"),
            ("\"truncated\":false", "\"truncated\":true"),
            ("\"model\":\"m\",", ""),
            (last, failed),
            (last, "[DONE]"),
            ("data: ", "event: piece\ndata: "),
        ],
    );
    let chosen = frames(&["{\"content\":\"a\"}".to_owned(), "{\"timings/prompt_n\":4,\"content\":\"\"}".to_owned()]);
    check(
        |reply| infill_stream::check_chosen_stream(reply, &["timings/prompt_n", "timings/prompt_ms", "content"]),
        &chosen,
        &[("{\"content\":\"a\"}", "{\"content\":\"a\",\"stop\":false}"), ("\"timings/prompt_n\":4,", ""), ("\"content\":\"a\"", "")],
    );
}
