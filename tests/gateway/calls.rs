//! Cases 21 and 22: the reply breaks off among its calls. What is closed is executed, so it is whole or it is not closed.

use serde_json::{Value, json};
use understudy::gateway::drill::answer::{Answer, Call, Ending, Misbehaviour, Point, Reply};
use understudy::gateway::drill::http::Dialect;
use understudy::gateway::drill::plan::Plan;
use understudy::gateway::drill::raw_client::RawRequest;
use understudy::gateway::status::Use;

use super::doors::{DIALECTS, unscaled};
use super::outcome::{Expected, ask_with, next_is_answered, settled, status};
use super::strict_client::Ended;
use crate::support::front_door::CLOUD;

pub const WEATHER: &str = r#"{"city": "Zoë's \"Ålesund\"\n", "days": 12.5, "units": ["metric"], "at": {"lat": -1.2e3, "sea": true}}"#;
const ESCAPED: &str = r#"{"city": "Zo\u00eb \ud834\udd1e\"", "days": 2}"#;
const CLOCK: &str = r#"{"zone": "Europe/Oslo"}"#;

/// Offers tools and orders the calls that the upstream makes, in the local model's own form.
pub fn request_with_tools(dialect: Dialect, calls: &[(&str, &str)], offered: &[&str]) -> RawRequest {
    let form =
        |(name, arguments): &(&str, &str)| format!("<tool_call>\n{{\"name\": \"{name}\", \"arguments\": {arguments}}}\n</tool_call>");
    let order = format!("SAY[[{}]]", calls.iter().map(form).collect::<Vec<_>>().join("\n"));
    let schema = |name: &str| match name {
        "clock" => json!({"type": "object", "properties": {"zone": {"type": "string"}}, "required": ["zone"]}),
        _ => json!({"type": "object", "properties": {
            "city": {"type": "string"}, "days": {"type": "number"}, "units": {"type": "array", "items": {"type": "string"}},
            "at": {"type": "object"},
        }, "required": ["city", "days"]}),
    };
    let tools = offered.iter().map(|name| match dialect {
        Dialect::AnthropicMessages => json!({"name": name, "input_schema": schema(name)}),
        Dialect::OpenaiChat => json!({"type": "function", "function": {"name": name, "parameters": schema(name)}}),
        Dialect::OpenaiResponses => json!({"type": "function", "name": name, "parameters": schema(name)}),
    });
    let body = match dialect {
        Dialect::OpenaiResponses => json!({"model": CLOUD, "stream": true, "input": order, "max_output_tokens": 500}),
        _ => json!({"model": CLOUD, "stream": true, "messages": [{"role": "user", "content": order}], "max_tokens": 500}),
    };
    let mut body = body;
    body["tools"] = tools.collect();
    RawRequest::post(dialect.path(), &body)
}

pub fn value(arguments: &str) -> Value {
    serde_json::from_str(arguments).expect("arguments are JSON")
}

fn cut_at(arguments: &str, bytes: usize) -> Plan {
    let at = Point::Arguments { call: 0, bytes };
    let calls = Reply::calls(vec![Call::new("weather", arguments)]);
    Plan::always(Answer::saying(calls).and_wrong(Misbehaviour::Cut { at, how: Ending::Fin }))
}

pub fn cut_in_tool_arguments() {
    let within = |part: &str, bytes: usize| WEATHER.find(part).expect("a part of the arguments") + bytes;
    let places = [within("{", 1), within("Ålesund", 3), within("\\n", 1), within("12.5", 3), within("true", 2), WEATHER.len()];
    for (number, dialect) in DIALECTS.into_iter().enumerate() {
        let door = unscaled(dialect, Plan::healthy());
        // Cuts speak against the upstream, and it is asked all the same.
        door.gateway.set_use(Use::Cloud);
        let asked = |arguments| request_with_tools(dialect, &[("weather", arguments)], &["weather"]);
        let expected = Expected { text: "", calls: &[("weather", value(WEATHER))] };
        // Behind the brace, in a string, an escape, a number, a word, behind the last brace; and wherever else, elsewhere in each dialect.
        let cuts: Vec<usize> = places.into_iter().chain((number..WEATHER.len()).step_by(11)).collect();
        for bytes in cuts.iter().copied() {
            door.upstream().set_plan(cut_at(WEATHER, bytes));
            let turn = ask_with(&door, dialect, asked(WEATHER), expected);
            assert_eq!(turn.told.calls[0].arguments, WEATHER, "cut after {bytes} bytes: {}", turn.exchange.text());
            assert!(turn.told.calls[0].is_whole, "cut after {bytes} bytes: {}", turn.exchange.text());
        }
        assert_eq!(door.attempts().len(), cuts.len());
        // A character that stands as an escape, or as two: what is begun is made whole, and whoever likes escapes goes on to write them.
        for bytes in (number..=ESCAPED.len()).step_by(3) {
            door.upstream().set_plan(cut_at(ESCAPED, bytes));
            let turn = ask_with(&door, dialect, asked(ESCAPED), Expected { text: "", calls: &[("weather", value(ESCAPED))] });
            let call = &turn.told.calls[0];
            assert!(call.is_whole && call.arguments == ESCAPED, "cut after {bytes} bytes: {}", turn.exchange.text());
        }
        // Of a tool that the request does not offer nobody knows the arguments: the call stays open, and the reply says that it failed.
        door.upstream().set_plan(cut_at(WEATHER, 20));
        let turn = ask_with(&door, dialect, request_with_tools(dialect, &[("weather", WEATHER)], &["clock"]), expected);
        assert!(matches!(turn.told.end, Ended::Failed(_)) && !turn.told.calls[0].is_whole, "{}", turn.exchange.text());
        door.upstream().set_plan(Plan::healthy());
        next_is_answered(&door, dialect);
    }
}

pub fn cut_between_tool_calls() {
    let calls = Reply::calls(vec![Call::new("weather", WEATHER), Call::new("clock", CLOCK)]);
    let both = [("weather", WEATHER), ("clock", CLOCK)];
    for dialect in DIALECTS {
        let tools = || request_with_tools(dialect, &both, &["weather", "clock"]);
        let cut = |at| Plan::always(Answer::saying(calls.clone()).and_wrong(Misbehaviour::Cut { at, how: Ending::Fin }));
        let door_between = unscaled(dialect, cut(Point::Calls(1)));
        let first = Expected { text: "", calls: &[("weather", value(WEATHER))] };
        let turn = ask_with(&door_between, dialect, tools(), first);
        let reason = if dialect == Dialect::AnthropicMessages {
            "tool_use"
        } else if dialect == Dialect::OpenaiChat {
            "tool_calls"
        } else {
            "completed"
        };
        assert_eq!(turn.told.end, Ended::Well(reason.to_owned()), "{}", turn.exchange.text());
        assert_eq!(status(&door_between).takeovers, 0, "the client executes what it has");
        door_between.upstream().set_plan(Plan::healthy());
        settled(&door_between, dialect, 1);
        // Within the second one it is worth going on.
        let door_within = unscaled(dialect, cut(Point::Arguments { call: 1, bytes: 12 }));
        let turn =
            ask_with(&door_within, dialect, tools(), Expected { text: "", calls: &both.map(|(name, arguments)| (name, value(arguments))) });
        turn.is_taken_over("cut");
        assert_eq!(turn.told.end, Ended::Well(reason.to_owned()), "{}", turn.exchange.text());
    }
}
