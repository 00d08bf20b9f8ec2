//! A front door between a client and upstreams that misbehave: the real server, gateway and engine on loopback sockets. The local model says
//! what the prompt orders, so that whoever goes on with a reply has the same text to say: the seam is checked byte for byte.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use understudy::config::gateway::{Keys, Tables};
use understudy::gateway::door::Gateway;
use understudy::gateway::drill::answer::SIXTY_WORDS;
use understudy::gateway::drill::fault_upstream::{Attempt, FaultUpstream};
use understudy::gateway::drill::http::Dialect;
use understudy::gateway::drill::plan::Plan;
use understudy::gateway::drill::raw_client::{Exchange, RawClient, RawRequest, SseEvent};
use understudy::gateway::edge_probe;
use understudy::gateway::journal::Journal;
use understudy::gateway::rules::Rules;

use super::test_app::{MODEL, Options, TestApp};

/// Of all limits, so that a silence of fifteen seconds is one of 150 ms.
pub const SCALE: u32 = 100;
/// Beyond all limits: what has not ended by then hangs.
pub const HANGS: Duration = Duration::from_secs(30);
pub const LOCAL: &str = MODEL;
/// The model that clients ask for.
pub const CLOUD: &str = "claude-test";

pub struct FrontDoor {
    pub app: TestApp,
    pub gateway: Gateway,
    pub upstreams: Vec<FaultUpstream>,
}

/// How the door is set up.
pub struct Setup {
    pub plans: Vec<Plan>,
    /// Upstreams that somebody else runs, asked after those of the plans.
    pub urls: Vec<String>,
    /// `openai` where a dialect of OpenAI's is tested.
    pub kind: &'static str,
    /// Lines of the table `[gateway]`.
    pub gateway: &'static str,
    /// Lines for the first upstream.
    pub upstream: &'static str,
    /// Of the others, where it is another than the first one's.
    pub others_kind: Option<&'static str>,
    /// Lines for the others, beside their key.
    pub others: &'static str,
    /// 1: the limits that users have.
    pub scale: u32,
    pub journal: Journal,
    pub options: Options,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            plans: Vec::new(),
            urls: Vec::new(),
            kind: "anthropic",
            gateway: "",
            upstream: "",
            others_kind: None,
            others: "",
            scale: SCALE,
            journal: Journal::off(),
            options: Options::default(),
        }
    }
}

impl FrontDoor {
    pub fn start(setup: Setup) -> Self {
        Self::start_with(setup, |_| {})
    }

    /// With rules that differ from the scaled ones.
    pub fn start_with(setup: Setup, change: impl FnOnce(&mut Rules)) -> Self {
        let app = TestApp::start(setup.options);
        let (gateway, upstreams) = app.runtime().block_on(async {
            let mut upstreams = Vec::new();
            for plan in setup.plans {
                upstreams.push(FaultUpstream::start(plan).await.expect("a loopback port is free"));
            }
            let mut file = format!("[gateway]\n{}\n", setup.gateway);
            for (index, url) in upstreams.iter().map(FaultUpstream::url).chain(setup.urls).enumerate() {
                let (kind, more) = match index {
                    0 => (setup.kind, setup.upstream.to_owned()),
                    _ => (setup.others_kind.unwrap_or(setup.kind), format!("key_env = \"SECOND\"\n{}", setup.others)),
                };
                file += &format!("[[upstream]]\nname = \"cloud-{index}\"\nkind = \"{kind}\"\nurl = \"{url}\"\n{more}\n");
            }
            let keys = Keys { variable: &|_| Some("second-key".to_owned()), file: &|path| std::fs::read_to_string(path) };
            let config = Tables::parse(&file, false).and_then(|tables| tables.resolve(&[], &keys)).expect("the setup is a configuration");
            let mut rules = Rules::of(&config).scaled(setup.scale);
            change(&mut rules);
            let interval = rules.breakers.edge_probe_interval;
            let gateway = Gateway::new(config, rules, setup.journal, 1);
            if let Some(interval) = interval {
                edge_probe::begin(gateway.clone(), interval);
            }
            (gateway, upstreams)
        });
        app.state.set_gateway(gateway.clone());
        Self { app, gateway, upstreams }
    }

    pub fn address(&self) -> SocketAddr {
        self.app.address
    }

    /// Of the first upstream.
    pub fn upstream(&self) -> &FaultUpstream {
        &self.upstreams[0]
    }

    /// Requests to generate that reached the first upstream.
    pub fn attempts(&self) -> Vec<Attempt> {
        self.upstream().generations()
    }

    pub fn exchange(&self, request: &RawRequest) -> Exchange {
        self.app.runtime().block_on(RawClient::exchange(self.address(), request, HANGS))
    }

    /// A streaming request whose answer, whoever gives it, is the sixty words.
    pub fn ask(&self, dialect: Dialect) -> Exchange {
        self.exchange(&request(dialect, true))
    }
}

/// Asks for the sixty words: an upstream says them anyway, and the local model does as it is told.
pub fn request(dialect: Dialect, stream: bool) -> RawRequest {
    let order = format!("SAY[[{SIXTY_WORDS}]]");
    let mut body = match dialect {
        Dialect::OpenaiResponses => json!({"model": CLOUD, "input": order, "max_output_tokens": 500}),
        _ => json!({"model": CLOUD, "messages": [{"role": "user", "content": order}], "max_tokens": 500}),
    };
    body["stream"] = Value::from(stream);
    RawRequest::post(dialect.path(), &body)
}

/// The text of a streamed reply, without the notice of a switch.
pub fn text(dialect: Dialect, exchange: &Exchange) -> String {
    without_notice(&exchange.events().iter().filter_map(|event| delta(dialect, event)).collect::<String>()).to_owned()
}

/// What was said, without the line that tells who speaks.
pub fn without_notice(text: &str) -> &str {
    text.split_once("in the cloud's place]\n\n").map_or(text, |(_, rest)| rest)
}

fn delta(dialect: Dialect, event: &SseEvent) -> Option<String> {
    let json = event.json();
    let text = match dialect {
        Dialect::AnthropicMessages => &json["delta"]["text"],
        Dialect::OpenaiChat => &json["choices"][0]["delta"]["content"],
        Dialect::OpenaiResponses if json["type"] == "response.output_text.delta" => &json["delta"],
        Dialect::OpenaiResponses => return None,
    };
    text.as_str().map(str::to_owned)
}
