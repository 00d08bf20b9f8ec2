//! The tables `[gateway]` and `[[upstream]]` of `understudy.toml`: who is asked before the local model, and for how long.

use std::time::Duration;

use serde::Deserialize;

use super::ApiKey;

/// The front door. Without upstreams it is not there.
#[derive(Debug, Clone, PartialEq)]
pub struct Gateway {
    /// In the order in which they are asked.
    pub upstreams: Vec<Upstream>,
    pub limits: Limits,
    /// Whether the local model goes on where an upstream broke off.
    pub takeover: bool,
    pub shadow: Shadow,
    pub auth_outage: AuthOutage,
    /// Opens the first local text after a switch; empty: nothing does. `{model}` is filled in.
    pub notice: String,
    pub journal: Journal,
    /// Whether the local model is the last tier.
    pub local: bool,
}

/// One tier.
#[derive(Debug, Clone, PartialEq)]
pub struct Upstream {
    pub name: String,
    pub kind: Kind,
    pub scheme: Scheme,
    pub host: String,
    pub port: u16,
    /// Before the path of the request, without a slash at its end.
    pub base_path: String,
    /// Model names that go here; empty: all. A `*` at the end stands for any ending.
    pub models: Vec<String>,
    /// Sent in place of the model that the client names.
    pub model: Option<String>,
    pub key: Credential,
    /// Whether it goes on where an assistant's message at the end of a request ends; `None`: where its model is known to.
    pub continues: Option<bool>,
    /// Whether what is written anew for it is marked for its prompt cache: Anthropic's alone has marks.
    pub cache_marks: bool,
    /// In which of OpenAI's APIs requests are written anew for it.
    pub api: OpenAiApi,
    /// A login of a subscription may be relayed.
    pub subscription_login: bool,
    pub http: HttpVersion,
}

/// Which HTTP it is spoken to in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub enum HttpVersion {
    /// What both ends agree on in the TLS handshake; without TLS HTTP/1.1.
    #[default]
    #[serde(skip)]
    Negotiated,
    #[serde(rename = "1.1")]
    Http1,
    /// Without asking.
    #[serde(rename = "2")]
    Http2,
}

/// OpenAI's two APIs for conversations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OpenAiApi {
    #[default]
    Chat,
    Responses,
}

/// Which protocol it speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Anthropic,
    Openai,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    Http,
    Https,
}

/// What opens its door.
#[derive(Debug, Clone, PartialEq)]
pub enum Credential {
    /// What the client sends, untouched.
    OfClient,
    Own(ApiKey),
}

/// Whether the local cache follows the conversations that an upstream answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shadow {
    Off,
    /// While an upstream has failed within the last ten minutes.
    OnDegraded,
    Always,
}

/// What a 401 or 403 means that comes where the same credential was good a moment ago.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuthOutage {
    /// What it says.
    Relay,
    /// Perhaps an outage of the login: the local model answers if there is more evidence.
    Local,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Journal {
    Off,
    /// In the user's folder for state.
    OfUser,
    Told(std::path::PathBuf),
}

/// How long an upstream may take.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    pub connect: Duration,
    /// From the request to the first content, for a short prompt.
    pub first_content: Duration,
    /// At most, however long the prompt.
    pub first_content_max: Duration,
    /// To the whole of a reply that is not streamed.
    pub whole_reply: Duration,
    pub byte_silence: Duration,
    pub progress_text: Duration,
    /// In thinking and in the arguments of tools.
    pub progress_other: Duration,
    /// Tokens a second: a text that is slower for all of `slow` is handed over; 0: none is.
    pub slow_below: f64,
    pub slow: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            connect: seconds(2),
            first_content: seconds(12),
            first_content_max: seconds(45),
            whole_reply: seconds(300),
            byte_silence: seconds(15),
            progress_text: seconds(45),
            progress_other: seconds(120),
            slow_below: 1.0,
            slow: seconds(60),
        }
    }
}

pub const NOTICE: &str = "[understudy: {model} on this machine answers in the cloud's place]";

/// What the file says, as written.
#[derive(Debug, Default, Deserialize)]
pub struct Tables {
    #[serde(default)]
    upstream: Vec<UpstreamTable>,
    #[serde(default)]
    gateway: GatewayTable,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct UpstreamTable {
    name: Option<String>,
    kind: Option<Kind>,
    url: toml::Spanned<String>,
    #[serde(default)]
    models: Vec<String>,
    model: Option<String>,
    continues: Option<bool>,
    cache_marks: Option<bool>,
    api: Option<OpenAiApi>,
    key_env: Option<String>,
    key_file: Option<String>,
    #[serde(default)]
    relay_subscription_login: bool,
    #[serde(default)]
    plain_http: bool,
    http: Option<HttpVersion>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct GatewayTable {
    takeover: Option<bool>,
    local: Option<bool>,
    shadow: Option<Shadow>,
    auth_outage: Option<AuthOutage>,
    notice: Option<String>,
    journal: Option<String>,
    connect_limit: Option<f64>,
    first_content_limit: Option<f64>,
    first_content_limit_max: Option<f64>,
    whole_reply_limit: Option<f64>,
    byte_silence_limit: Option<f64>,
    progress_limit: Option<f64>,
    progress_limit_thinking: Option<f64>,
    slow_below: Option<f64>,
    slow_limit: Option<f64>,
}

/// What cannot be used, and where in the file it stands (a byte), where that is known.
#[derive(Debug, PartialEq, Eq)]
pub struct TableError {
    pub offset: Option<usize>,
    pub message: String,
}

impl TableError {
    fn new(message: impl Into<String>) -> Self {
        Self { offset: None, message: message.into() }
    }
}

/// Reads the world for a key: an environment variable, a file.
pub struct Keys<'a> {
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    pub file: &'a dyn Fn(&str) -> std::io::Result<String>,
}

impl Tables {
    /// Of the whole file; what is no table of the gateway is not looked at. `addresses`: `upstream` is a list of addresses, which is a
    /// setting like others.
    pub fn parse(text: &str, addresses: bool) -> Result<Self, TableError> {
        #[derive(Deserialize)]
        struct WithoutUpstreams {
            #[serde(default)]
            gateway: GatewayTable,
        }
        let tables = match addresses {
            false => toml::from_str(text),
            true => toml::from_str(text).map(|WithoutUpstreams { gateway }| Self { upstream: Vec::new(), gateway }),
        };
        tables.map_err(|error| TableError {
            offset: error.span().map(|span| span.start),
            message: error.message().trim().replace('\n', "; "),
        })
    }

    /// `more`: addresses told elsewhere, asked after those of the file.
    pub fn resolve(self, more: &[String], keys: &Keys<'_>) -> Result<Gateway, TableError> {
        let mut upstreams = Vec::new();
        for table in self.upstream {
            let offset = table.url.span().start;
            upstreams.push(upstream(table, keys).map_err(|error| TableError { offset: error.offset.or(Some(offset)), ..error })?);
        }
        for url in more {
            let url = toml::Spanned::new(0..0, url.clone());
            let table = UpstreamTable {
                name: None,
                kind: None,
                url,
                models: Vec::new(),
                model: None,
                continues: None,
                cache_marks: None,
                api: None,
                key_env: None,
                key_file: None,
                relay_subscription_login: false,
                http: None,
                plain_http: false,
            };
            upstreams.push(upstream(table, keys)?);
        }
        let without_key: Vec<&str> =
            upstreams.iter().filter(|upstream| upstream.key == Credential::OfClient).map(|upstream| upstream.host.as_str()).collect();
        if let [first, .., other] = without_key[..]
            && first != other
        {
            let message = format!(
                "{first} and {other} both have no key of their own, but the client's credential goes to one host only: \
                 give all others key_env or key_file"
            );
            return Err(TableError::new(message));
        }
        for (index, upstream) in upstreams.iter().enumerate() {
            if upstreams[..index].iter().any(|earlier| earlier.name == upstream.name) {
                return Err(TableError::new(format!("two upstreams are called {:?}: give one another `name`", upstream.name)));
            }
        }
        let table = self.gateway;
        let limits = Limits::default();
        let limit = |name: &str, told: Option<f64>, default: Duration| match told {
            None => Ok(default),
            Some(seconds) if seconds > 0.0 && seconds <= 86_400.0 => Ok(Duration::from_secs_f64(seconds)),
            Some(seconds) => Err(TableError::new(format!("{name}: {seconds} is not a number of seconds (above 0, up to 86400)"))),
        };
        Ok(Gateway {
            upstreams,
            limits: Limits {
                connect: limit("connect_limit", table.connect_limit, limits.connect)?,
                first_content: limit("first_content_limit", table.first_content_limit, limits.first_content)?,
                first_content_max: limit("first_content_limit_max", table.first_content_limit_max, limits.first_content_max)?,
                whole_reply: limit("whole_reply_limit", table.whole_reply_limit, limits.whole_reply)?,
                byte_silence: limit("byte_silence_limit", table.byte_silence_limit, limits.byte_silence)?,
                progress_text: limit("progress_limit", table.progress_limit, limits.progress_text)?,
                progress_other: limit("progress_limit_thinking", table.progress_limit_thinking, limits.progress_other)?,
                slow_below: match table.slow_below.unwrap_or(limits.slow_below) {
                    speed if (0.0..=1000.0).contains(&speed) => speed,
                    speed => return Err(TableError::new(format!("slow_below: {speed} is not a number of tokens a second (0 to 1000)"))),
                },
                slow: limit("slow_limit", table.slow_limit, limits.slow)?,
            },
            takeover: table.takeover.unwrap_or(true),
            shadow: table.shadow.unwrap_or(Shadow::OnDegraded),
            auth_outage: table.auth_outage.unwrap_or(AuthOutage::Relay),
            notice: one_line(table.notice.unwrap_or_else(|| NOTICE.to_owned()))?,
            journal: match table.journal.as_deref() {
                None => Journal::OfUser,
                Some("off") => Journal::Off,
                Some(folder) => Journal::Told(folder.into()),
            },
            local: table.local.unwrap_or(true),
        })
    }
}

fn one_line(notice: String) -> Result<String, TableError> {
    match notice.contains(['\n', '\r']) {
        true => Err(TableError::new("notice must be one line")),
        false => Ok(notice),
    }
}

fn upstream(table: UpstreamTable, keys: &Keys<'_>) -> Result<Upstream, TableError> {
    let written = table.url.get_ref().as_str();
    let wrong = |why: &str| TableError::new(format!("url: {written:?} {why}"));
    let (scheme, rest) = match written.split_once("://") {
        Some(("https", rest)) => (Scheme::Https, rest),
        Some(("http", rest)) => (Scheme::Http, rest),
        _ => return Err(wrong("is not an address (like https://api.anthropic.com)")),
    };
    let (authority, path) = rest.split_once('/').map_or((rest, ""), |(authority, path)| (authority, path));
    if authority.contains('@') || written.contains(['?', '#']) || written.chars().any(|character| character <= ' ') {
        return Err(wrong("must be a host and a path, without a user, a query or spaces"));
    }
    let (host, port) = host_and_port(authority).ok_or_else(|| wrong("has no host, or a port that is none"))?;
    let port = port.unwrap_or(match scheme {
        Scheme::Http => 80,
        Scheme::Https => 443,
    });
    if scheme == Scheme::Http && !is_loopback(&host) && !table.plain_http {
        return Err(wrong("would send keys and conversations in the clear; use https, or say `plain_http = true`"));
    }
    // Both vendors' SDKs are told `.../v1`; the paths of requests have it already.
    let base_path = path.trim_end_matches('/');
    let base_path = base_path.strip_suffix("v1").unwrap_or(base_path).trim_end_matches('/');
    let key = match (&table.key_env, &table.key_file) {
        (Some(_), Some(_)) => return Err(TableError::new("key_env and key_file: one of them is enough")),
        (None, None) => Credential::OfClient,
        (Some(name), None) => {
            let value = (keys.variable)(name).ok_or_else(|| TableError::new(format!("key_env: the variable {name} is not set")))?;
            own_key("key_env", &value)?
        }
        (None, Some(path)) => {
            let text = (keys.file)(path).map_err(|error| TableError::new(format!("key_file: {path}: {error}")))?;
            own_key("key_file", &text)?
        }
    };
    let kind = table.kind.unwrap_or(if host.contains("anthropic") || host.contains("claude") { Kind::Anthropic } else { Kind::Openai });
    if table.api.is_some() && kind != Kind::Openai {
        return Err(TableError::new("api: only upstreams of kind \"openai\" have two of them"));
    }
    if table.api == Some(OpenAiApi::Responses) && table.continues == Some(true) {
        return Err(TableError::new("continues: a response does not go on where an assistant's message ends"));
    }
    Ok(Upstream {
        name: table.name.unwrap_or_else(|| host.clone()),
        kind,
        scheme,
        port,
        base_path: if base_path.is_empty() { String::new() } else { format!("/{}", base_path.trim_start_matches('/')) },
        models: table.models,
        model: table.model,
        key,
        continues: table.continues,
        cache_marks: table.cache_marks.unwrap_or(true),
        api: table.api.unwrap_or_default(),
        subscription_login: table.relay_subscription_login,
        http: table.http.unwrap_or_default(),
        host,
    })
}

fn own_key(field: &str, text: &str) -> Result<Credential, TableError> {
    let key = text.trim();
    match key.is_empty() || key.chars().any(|character| !character.is_ascii_graphic()) {
        true => Err(TableError::new(format!("{field}: holds no key, or more than one line"))),
        false => Ok(Credential::Own(ApiKey::new(key.to_owned()))),
    }
}

fn host_and_port(authority: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (address, after) = rest.split_once(']')?;
            address.parse::<std::net::Ipv6Addr>().ok()?;
            (address, after.strip_prefix(':'))
        }
        None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
    };
    let port = port.map(|port| port.parse::<u16>()).transpose().ok()?;
    (!host.is_empty() && port != Some(0)).then(|| (host.to_ascii_lowercase(), port))
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl Upstream {
    /// Whether requests for this model go here.
    pub fn takes(&self, model: &str) -> bool {
        let fits = |pattern: &String| match pattern.strip_suffix('*') {
            Some(beginning) => model.starts_with(beginning),
            None => model == pattern,
        };
        self.models.is_empty() || self.models.iter().any(fits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(text: &str) -> Result<Gateway, String> {
        let variable = |name: &str| (name == "SECOND_KEY").then(|| " sk-second\n".to_owned());
        let file = |path: &str| match path {
            "key" => Ok("sk-file\n".to_owned()),
            _ => Err(std::io::Error::new(std::io::ErrorKind::NotFound, "no such file")),
        };
        let tables = Tables::parse(text, false).map_err(|error| error.message)?;
        tables.resolve(&[], &Keys { variable: &variable, file: &file }).map_err(|error| error.message)
    }

    #[test]
    fn two_clouds_and_this_machine() {
        let gateway = resolve(
            r#"
            port = 7878
            [[upstream]]
            url = "https://api.anthropic.com"
            [[upstream]]
            name = "second"
            kind = "openai"
            url = "https://api.example.org:8443/team/v1/"
            models = ["gpt-*", "o3"]
            model = "gpt-5"
            key_env = "SECOND_KEY"
            http = "1.1"
            continues = true
            cache_marks = false
            api = "chat"
            [gateway]
            first_content_limit = 0.5
            shadow = "always"
            slow_below = 0
            "#,
        )
        .unwrap();
        let [first, second] = &gateway.upstreams[..] else { panic!("two upstreams") };
        assert_eq!(
            (first.name.as_str(), first.kind, first.port, first.base_path.as_str()),
            ("api.anthropic.com", Kind::Anthropic, 443, "")
        );
        assert_eq!(first.key, Credential::OfClient);
        assert_eq!((first.http, second.http), (HttpVersion::Negotiated, HttpVersion::Http1));
        assert_eq!((first.continues, second.continues), (None, Some(true)));
        assert_eq!((first.cache_marks, second.cache_marks), (true, false));
        assert_eq!((first.api, second.api), (OpenAiApi::Chat, OpenAiApi::Chat));
        assert_eq!((second.port, second.base_path.as_str(), second.kind), (8443, "/team", Kind::Openai));
        assert_eq!(second.key, Credential::Own(ApiKey::new("sk-second".to_owned())));
        assert!(second.takes("gpt-4") && second.takes("o3") && !second.takes("o3-mini") && first.takes("anything"));
        assert_eq!((gateway.limits.first_content, gateway.limits.byte_silence), (Duration::from_millis(500), Duration::from_secs(15)));
        assert_eq!((gateway.limits.slow_below, gateway.limits.slow), (0.0, Duration::from_secs(60)));
        assert_eq!((gateway.shadow, gateway.takeover, gateway.local), (Shadow::Always, true, true));
        assert!(!format!("{gateway:?}").contains("sk-second"), "a key was printed");
    }

    #[test]
    fn what_cannot_be_used_is_refused() {
        for (text, word) in [
            ("[[upstream]]\nurl = 'ftp://x'", "is not an address"),
            ("[[upstream]]\nurl = 'http://x.example'", "in the clear"),
            ("[[upstream]]\nurl = 'https://a:b@x.example'", "without a user"),
            ("[[upstream]]\nurl = 'https://'", "has no host"),
            ("[[upstream]]\nurl = 'https://x:99999'", "a port that is none"),
            ("[[upstream]]\nkind = 'anthropic'", "missing field `url`"),
            ("[[upstream]]\nurl = 'https://x'\nkind = 'cohere'", "unknown variant `cohere`"),
            ("[[upstream]]\nurl = 'https://x'\nhttp = '3'", "unknown variant `3`"),
            ("[[upstream]]\nurl = 'https://x'\napi = 'assistants'", "unknown variant `assistants`"),
            ("[[upstream]]\nurl = 'https://x'\nkind = 'anthropic'\napi = 'chat'", "only upstreams of kind \"openai\""),
            ("[[upstream]]\nurl = 'https://x'\napi = 'responses'\ncontinues = true", "does not go on"),
            ("[[upstream]]\nurl = 'https://x'\nkye = 'x'", "unknown field `kye`"),
            ("[[upstream]]\nurl = 'https://x'\nkey_env = 'GONE'", "the variable GONE is not set"),
            ("[[upstream]]\nurl = 'https://x'\nkey_file = 'gone'", "key_file: gone: no such file"),
            ("[[upstream]]\nurl = 'https://x'\nkey_file = 'key'\nkey_env = 'SECOND_KEY'", "one of them is enough"),
            ("[[upstream]]\nurl = 'https://x'\n[[upstream]]\nurl = 'https://y'", "the client's credential goes to one host only"),
            ("[[upstream]]\nurl = 'https://x'\n[[upstream]]\nurl = 'https://x'", "two upstreams are called"),
            ("[gateway]\nbyte_silence_limit = -1", "is not a number of seconds"),
            ("[gateway]\nslow_below = -1", "is not a number of tokens a second"),
            ("[gateway]\nnotice = \"a\\nb\"", "must be one line"),
            ("[gateway]\nshadow = 'sometimes'", "unknown variant"),
        ] {
            let error = resolve(text).expect_err(text);
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn plain_http_is_for_this_machine() {
        for text in ["http://127.0.0.1:80", "http://localhost", "http://[::1]:9"] {
            let gateway = resolve(&format!("[[upstream]]\nurl = '{text}'")).unwrap();
            assert_eq!(gateway.upstreams[0].scheme, Scheme::Http, "{text}");
        }
        assert!(resolve("[[upstream]]\nurl = 'http://vllm.cluster:8000'\nplain_http = true").is_ok());
    }
}
