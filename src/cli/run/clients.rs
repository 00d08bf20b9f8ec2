//! What each client has to be told to speak with this server and with nobody else: arguments, variables, a file.
//!
//! A table and nothing more: it starts nothing, writes nothing and reads no environment. How the clients were measured: docs/clients.md.

use std::ffi::OsStr;
use std::path::Path;

use serde_json::json;

/// Where the client is sent, and as whom.
#[derive(Debug, Clone, Copy)]
pub struct Destination<'a> {
    /// `http://HOST:PORT`, without `/v1`.
    pub server: &'a str,
    /// What the client shows as its credential.
    pub token: &'a str,
    /// The name it asks for; the server answers to any.
    pub model: &'a str,
    /// The client's own folder: nothing that lies in the user's is read or changed.
    pub folder: &'a Path,
}

/// What is added to a command that a user typed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Launch {
    /// Before the user's own, which may contradict them.
    pub arguments: Vec<&'static str>,
    pub variables: Vec<(&'static str, String)>,
    pub files: Vec<ClientFile>,
}

/// A file in the client's folder.
#[derive(Debug, PartialEq, Eq)]
pub struct ClientFile {
    pub name: &'static str,
    pub text: String,
    /// The client writes on in it: one that is there already stays.
    pub begun_once: bool,
}

/// A client that this program knows how to start.
#[derive(Debug)]
pub struct Client {
    /// The program's name.
    pub name: &'static str,
    /// How it is installed.
    pub install: &'static str,
    launch: fn(&Destination<'_>) -> Launch,
}

pub const CLIENTS: &[Client] = &[
    Client { name: "claude", install: "npm install -g @anthropic-ai/claude-code", launch: claude },
    Client { name: "codex", install: "npm install -g @openai/codex", launch: codex },
    Client { name: "opencode", install: "npm install -g opencode-ai", launch: opencode },
    Client { name: "aider", install: "pip install aider-chat", launch: aider },
];

/// By the name of the file, so that a path to a client is that client.
pub fn known(program: &OsStr) -> Option<&'static Client> {
    let name = Path::new(program).file_stem()?;
    CLIENTS.iter().find(|client| name == client.name)
}

/// For a client of the table what it needs, for any other program the variables that SDKs read.
pub fn launch(client: Option<&Client>, destination: &Destination<'_>) -> Launch {
    client.map_or(any_other as fn(&Destination<'_>) -> Launch, |client| client.launch)(destination)
}

/// An answer may take long to begin on a slow machine, and the client waits for it: half an hour.
const PATIENCE_MS: &str = "1800000";

/// A folder of its own has neither a login nor the wish for one: with a bearer token in the environment none is asked for, and the
/// welcome is marked as over. Whether a project's folder is trusted remains the user's answer.
fn claude(to: &Destination<'_>) -> Launch {
    let mut variables = anthropic(to);
    // Every name under which a model is asked for: the large, the small, and those of sub-agents.
    let names = ["ANTHROPIC_MODEL", "ANTHROPIC_SMALL_FAST_MODEL", "ANTHROPIC_DEFAULT_OPUS_MODEL"];
    let more_names = ["ANTHROPIC_DEFAULT_SONNET_MODEL", "ANTHROPIC_DEFAULT_HAIKU_MODEL", "CLAUDE_CODE_SUBAGENT_MODEL"];
    variables.extend(names.into_iter().chain(more_names).map(|name| (name, to.model.to_owned())));
    variables.extend(
        [
            ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1"),
            // A line that changes with every session and is of no use here stays out of the prompt.
            ("CLAUDE_CODE_ATTRIBUTION_HEADER", "0"),
            ("API_FORCE_IDLE_TIMEOUT", "0"),
            ("CLAUDE_STREAM_IDLE_TIMEOUT_MS", PATIENCE_MS),
            ("API_TIMEOUT_MS", PATIENCE_MS),
        ]
        .map(|(name, value)| (name, value.to_owned())),
    );
    variables.push(("CLAUDE_CONFIG_DIR", to.folder.display().to_string()));
    let welcomed = json!({ "hasCompletedOnboarding": true, "theme": "dark" }).to_string();
    Launch { arguments: Vec::new(), variables, files: vec![ClientFile { name: ".claude.json", text: welcomed, begun_once: true }] }
}

/// It knows its providers from a file alone, and speaks only the Responses API.
fn codex(to: &Destination<'_>) -> Launch {
    let config = format!(
        "model = {model}\n\
         model_provider = \"understudy\"\n\
         check_for_update_on_startup = false\n\
         \n\
         [model_providers.understudy]\n\
         name = \"Understudy\"\n\
         base_url = {base_url}\n\
         wire_api = \"responses\"\n\
         env_key = \"{CODEX_KEY}\"\n\
         stream_idle_timeout_ms = {PATIENCE_MS}\n\
         \n\
         [analytics]\n\
         enabled = false\n",
        model = toml_text(to.model),
        base_url = toml_text(&format!("{}/v1", to.server)),
    );
    let variables = vec![("CODEX_HOME", to.folder.display().to_string()), (CODEX_KEY, to.token.to_owned())];
    Launch { arguments: Vec::new(), variables, files: vec![ClientFile { name: "config.toml", text: config, begun_once: false }] }
}

/// The variable in which Codex finds its token: any that nobody else reads.
const CODEX_KEY: &str = "CODEX_LOCAL_TOKEN";

/// The configuration travels in a variable, which counts more than the project's file and the user's. No other provider is left, so
/// logins that the user has there are not used.
fn opencode(to: &Destination<'_>) -> Launch {
    let model = format!("understudy/{}", to.model);
    let config = json!({
        "provider": { "understudy": {
            "npm": "@ai-sdk/openai-compatible",
            "name": "Understudy",
            "options": { "baseURL": format!("{}/v1", to.server), "apiKey": to.token },
            "models": { to.model: { "name": to.model } },
        } },
        "enabled_providers": ["understudy"],
        "model": model,
        "small_model": model,
        "autoupdate": false,
        "share": "disabled",
    });
    // A list of all models of all clouds would be fetched at every start.
    let variables = vec![("OPENCODE_CONFIG_CONTENT", config.to_string()), ("OPENCODE_DISABLE_MODELS_FETCH", "1".to_owned())];
    Launch { variables, ..Launch::default() }
}

fn aider(to: &Destination<'_>) -> Launch {
    let mut variables = openai(to);
    let model = format!("openai/{}", to.model);
    variables.extend(["AIDER_MODEL", "AIDER_WEAK_MODEL", "AIDER_EDITOR_MODEL"].map(|name| (name, model.clone())));
    // It would ask the network for prices of models at every start.
    variables.push(("LITELLM_LOCAL_MODEL_COST_MAP", "True".to_owned()));
    let arguments = vec!["--no-check-update", "--no-show-model-warnings", "--no-analytics"];
    Launch { arguments, variables, files: Vec::new() }
}

fn any_other(to: &Destination<'_>) -> Launch {
    Launch { variables: [openai(to), anthropic(to)].concat(), ..Launch::default() }
}

/// `OPENAI_API_BASE` is what older programs read.
fn openai(to: &Destination<'_>) -> Vec<(&'static str, String)> {
    let base = format!("{}/v1", to.server);
    vec![("OPENAI_BASE_URL", base.clone()), ("OPENAI_API_BASE", base), ("OPENAI_API_KEY", to.token.to_owned())]
}

fn anthropic(to: &Destination<'_>) -> Vec<(&'static str, String)> {
    vec![("ANTHROPIC_BASE_URL", to.server.to_owned()), ("ANTHROPIC_AUTH_TOKEN", to.token.to_owned())]
}

/// Whether a variable would send a client to a cloud, show it a credential there, or name a model that only a cloud has. What merely
/// sets a client up (`CLAUDE_CODE_MAX_OUTPUT_TOKENS`, `AIDER_DARK_MODE`) stays.
pub fn speaks_of_a_cloud(variable: &str) -> bool {
    const BEGINNINGS: &[&str] =
        &["ANTHROPIC_", "OPENAI_", "AZURE_OPENAI_", "CLAUDE_CODE_USE_", "CLAUDE_CODE_SKIP_", "CLAUDE_CODE_OAUTH_", "CLAUDE_CODE_API_KEY_"];
    const NAMES: &[&str] = &[
        "CLAUDE_CODE_SUBAGENT_MODEL",
        "CLAUDE_CONFIG_DIR",
        "AWS_BEARER_TOKEN_BEDROCK",
        "CODEX_HOME",
        "CODEX_API_KEY",
        "OPENCODE_CONFIG",
        "OPENCODE_CONFIG_CONTENT",
        "AIDER_MODEL",
        "AIDER_WEAK_MODEL",
        "AIDER_EDITOR_MODEL",
        "AIDER_API_KEY",
        "AIDER_SET_ENV",
        "AIDER_OPENAI_API_KEY",
        "AIDER_OPENAI_API_BASE",
        "AIDER_OPENAI_API_TYPE",
        "AIDER_OPENAI_API_VERSION",
        "AIDER_OPENAI_API_DEPLOYMENT_ID",
        "AIDER_OPENAI_ORGANIZATION_ID",
        "AIDER_ANTHROPIC_API_KEY",
    ];
    BEGINNINGS.iter().any(|beginning| variable.starts_with(beginning)) || NAMES.contains(&variable)
}

/// The value of `NO_PROXY` with which requests to `host` go straight there, whatever the machine's proxy for the web is.
pub fn past_the_proxy(no_proxy: Option<&str>, host: &str) -> String {
    match no_proxy.filter(|list| !list.is_empty()) {
        Some(list) if list == "*" || list.split(',').any(|name| name.trim() == host) => list.to_owned(),
        Some(list) => format!("{list},{host}"),
        None => host.to_owned(),
    }
}

/// A string of TOML. JSON's escapes are all among TOML's.
fn toml_text(text: &str) -> String {
    json!(text).to_string()
}

/// What a shell reads back as `text`.
pub fn quoted(text: &OsStr) -> String {
    let text = text.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.into_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to() -> Destination<'static> {
        Destination { server: "http://127.0.0.1:7878", token: "token", model: "local", folder: Path::new("/folder") }
    }

    fn launch_of(name: &str) -> Launch {
        launch(known(OsStr::new(name)), &to())
    }

    fn variable<'a>(launch: &'a Launch, name: &str) -> Option<&'a str> {
        launch.variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    #[test]
    fn a_client_is_known_by_the_name_of_its_file() {
        for path in ["claude", "/opt/bin/claude", "./claude", "claude.cmd"] {
            assert_eq!(known(OsStr::new(path)).map(|client| client.name), Some("claude"), "{path}");
        }
        for path in ["claudette", "claude/run", ""] {
            assert!(known(OsStr::new(path)).is_none(), "{path}");
        }
    }

    #[test]
    fn nobody_is_sent_anywhere_but_to_the_server() {
        for name in ["claude", "codex", "opencode", "aider", "python3"] {
            let launch = launch_of(name);
            let told = launch.variables.iter().map(|(_, value)| value).chain(launch.files.iter().map(|file| &file.text));
            let places: Vec<&str> = told.flat_map(|text| text.match_indices("http").map(|(at, _)| &text[at..])).collect();
            assert!(!places.is_empty(), "{name} is sent nowhere");
            assert!(places.iter().all(|place| place.starts_with(to().server)), "{name}: {places:?}");
            let token = launch.variables.iter().any(|(_, value)| value.contains("token"));
            assert!(token, "{name} has no token to show");
        }
    }

    #[test]
    fn every_variable_that_is_set_for_a_cloud_s_client_is_removed_first() {
        // What is set counts anyway; a twin of it that was forgotten would count beside it.
        for name in ["claude", "aider", "any"] {
            for (variable, _) in launch_of(name).variables {
                let of_a_cloud = variable.contains("BASE") || variable.contains("TOKEN") || variable.contains("MODEL");
                let local = ["LITELLM_LOCAL_MODEL_COST_MAP"].contains(&variable);
                assert!(!of_a_cloud || local || speaks_of_a_cloud(variable), "{name}: {variable}");
            }
        }
    }

    #[test]
    fn what_speaks_of_a_cloud_goes_and_what_sets_a_client_up_stays() {
        for gone in [
            "ANTHROPIC_API_KEY",
            "ANTHROPIC_CUSTOM_HEADERS",
            "CLAUDE_CODE_USE_BEDROCK",
            "CLAUDE_CODE_OAUTH_TOKEN",
            "OPENAI_ORGANIZATION",
            "CODEX_HOME",
            "AIDER_MODEL",
        ] {
            assert!(speaks_of_a_cloud(gone), "{gone}");
        }
        for kept in ["PATH", "HOME", "CLAUDE_CODE_MAX_OUTPUT_TOKENS", "AIDER_DARK_MODE", "AWS_PROFILE", "MY_OPENAI_API_KEY", ""] {
            assert!(!speaks_of_a_cloud(kept), "{kept}");
        }
    }

    #[test]
    fn names_with_quotes_stay_names() {
        let to = Destination { model: "a\"b\\c", ..to() };
        let codex = launch(known(OsStr::new("codex")), &to);
        let config: toml::Table = toml::from_str(&codex.files[0].text).expect("it is TOML");
        assert_eq!(config["model"].as_str(), Some("a\"b\\c"));
        assert_eq!(config["model_providers"]["understudy"]["base_url"].as_str(), Some("http://127.0.0.1:7878/v1"));
        let opencode = launch(known(OsStr::new("opencode")), &to);
        let config: serde_json::Value = serde_json::from_str(variable(&opencode, "OPENCODE_CONFIG_CONTENT").unwrap()).expect("it is JSON");
        assert_eq!(config["provider"]["understudy"]["models"]["a\"b\\c"]["name"], "a\"b\\c");
    }

    #[test]
    fn a_proxy_of_the_web_is_passed_by() {
        assert_eq!(past_the_proxy(None, "127.0.0.1"), "127.0.0.1");
        assert_eq!(past_the_proxy(Some(""), "127.0.0.1"), "127.0.0.1");
        assert_eq!(past_the_proxy(Some("corp.example"), "127.0.0.1"), "corp.example,127.0.0.1");
        assert_eq!(past_the_proxy(Some("a, 127.0.0.1"), "127.0.0.1"), "a, 127.0.0.1");
        assert_eq!(past_the_proxy(Some("*"), "127.0.0.1"), "*");
    }

    #[test]
    fn a_shell_reads_back_what_was_quoted() {
        for (text, shell) in [("-p", "-p"), ("two words", "'two words'"), ("it's", r"'it'\''s'"), ("", "''"), ("$HOME", "'$HOME'")] {
            assert_eq!(quoted(OsStr::new(text)), shell);
        }
    }
}
