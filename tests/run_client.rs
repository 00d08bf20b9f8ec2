//! `understudy run` with clients that are shell scripts: what they are told, what they are not, and what is left when they end.
#![cfg(unix)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use understudy::hub::builtin;

use crate::support::program::{Ended, Program};

/// Says all it was told, and asks the server one thing as the real client would.
const CLAUDE: &str = r#"#!/bin/sh
printf 'argument %s\n' "$@"
env | sed 's/^/variable /'
echo "folder $(cat "$CLAUDE_CONFIG_DIR/.claude.json")"
curl --silent --max-time 60 "$ANTHROPIC_BASE_URL/v1/messages" -H "Authorization: Bearer $ANTHROPIC_AUTH_TOKEN" \
  -H 'anthropic-version: 2023-06-01' -H 'content-type: application/json' \
  -d "{\"model\":\"$ANTHROPIC_MODEL\",\"max_tokens\":4,\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}"
exit 7
"#;

/// A program with `name` on its PATH, and temporary files of its own.
fn with_client(name: &str, script: &str) -> Program {
    let program = Program::new();
    let path = program.home.write(&format!("bin/{name}"), script);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::create_dir(program.home.path().join("temporary")).unwrap();
    let (bin, temporary) = (program.home.path().join("bin"), program.home.path().join("temporary"));
    let system = std::env::var("PATH").unwrap();
    program.env("PATH", &format!("{}:{system}", bin.display())).env("TMPDIR", temporary.to_str().unwrap())
}

/// A port of this machine where nobody listens.
fn free_url() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

fn nobody_listens(url: &str) -> bool {
    TcpStream::connect(url.trim_start_matches("http://")).is_err()
}

/// The client's folder is gone.
#[track_caller]
fn nothing_is_left(program: &Program) {
    let left: Vec<_> = std::fs::read_dir(program.home.path().join("temporary")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

fn value<'a>(said: &'a str, name: &str) -> Option<&'a str> {
    said.lines().find_map(|line| line.strip_prefix("variable ")?.strip_prefix(name)?.strip_prefix('='))
}

#[test]
fn a_server_is_started_for_a_client_and_ends_with_it() {
    let url = free_url();
    let program = with_client("claude", CLAUDE)
        .env("ANTHROPIC_API_KEY", "of-the-cloud")
        .env("CLAUDE_CODE_USE_BEDROCK", "1")
        .env("OPENAI_ORGANIZATION", "of-the-cloud")
        .env("CLAUDE_CODE_MAX_OUTPUT_TOKENS", "99")
        .env("HTTP_PROXY", "http://127.0.0.1:9");
    let ended = program.run(&["run", "--server", &format!("{url}/v1"), "claude", "-p", "two words", "--model", "opus"]);
    assert_eq!(ended.code, Some(7), "the client's own: {ended:?}");
    let said = &ended.stdout;
    assert!(said.starts_with("argument -p\nargument two words\nargument --model\nargument opus\n"), "{said}");
    assert_eq!(value(said, "ANTHROPIC_BASE_URL"), Some(url.as_str()));
    for name in ["ANTHROPIC_MODEL", "ANTHROPIC_SMALL_FAST_MODEL", "ANTHROPIC_DEFAULT_HAIKU_MODEL"] {
        assert_eq!(value(said, name), Some("local"), "{name}");
    }
    assert!(!said.contains("of-the-cloud") && value(said, "CLAUDE_CODE_USE_BEDROCK").is_none(), "{said}");
    assert_eq!(value(said, "CLAUDE_CODE_MAX_OUTPUT_TOKENS"), Some("99"), "what is the user's stays");
    assert_eq!(value(said, "NO_PROXY"), Some("127.0.0.1"), "the web's proxy does not know this machine's server");
    let folder = value(said, "CLAUDE_CONFIG_DIR").unwrap();
    assert!(said.contains("folder {\"hasCompletedOnboarding\":true") && !Path::new(folder).exists(), "{said}");
    assert!(said.contains(&format!("\"model\":\"{}\"", builtin::NAME)) && said.contains("\"stop_reason\":"), "it was answered: {said}");
    assert!(ended.stderr.contains("starting a server"), "{}", ended.stderr);
    nothing_is_left(&program);
    assert!(nobody_listens(&url), "the server ended with its client");
}

#[test]
fn a_server_that_runs_is_used_and_stays() {
    let program = with_client("claude", CLAUDE);
    let server = program.serve(&["--port", "0"]);
    let ended = program.run(&["run", "--server", &format!("http://{}", server.address), "claude"]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(7), ""), "{ended:?}");
    assert!(ended.stdout.contains("\"stop_reason\":"), "{}", ended.stdout);
    assert!(server.request("GET", "/readyz", "").starts_with("HTTP/1.1 200"));
    nothing_is_left(&program);
}

#[test]
fn any_other_command_gets_what_sdks_read() {
    let program = with_client("tool", "#!/bin/sh\nenv | sed 's/^/variable /'\n").env("OPENAI_API_KEY", "of-the-cloud");
    let server = program.serve(&["--port", "0"]);
    let url = format!("http://{}", server.address);
    let ended = program.run(&["run", "--server", &url, "--", "tool"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let openai = format!("{url}/v1");
    for (name, expected) in [
        ("OPENAI_BASE_URL", openai.as_str()),
        ("OPENAI_API_BASE", &openai),
        ("OPENAI_API_KEY", "understudy-local"),
        ("ANTHROPIC_BASE_URL", &url),
        ("ANTHROPIC_AUTH_TOKEN", "understudy-local"),
    ] {
        assert_eq!(value(&ended.stdout, name), Some(expected), "{name}");
    }
}

#[test]
fn codex_finds_its_provider_in_a_folder_that_may_be_kept() {
    let script = "#!/bin/sh\ncat \"$CODEX_HOME/config.toml\"\necho conversation >> \"$CODEX_HOME/history\"\n";
    let program = with_client("codex", script);
    let server = program.serve(&["--port", "0"]);
    let url = format!("http://{}", server.address);
    let run = |options: &[&str]| program.run(&[&["run", "--server", &url], options, &["codex", "exec"]].concat());
    let ended = run(&[]);
    let config: toml::Table = toml::from_str(&ended.stdout).expect("it is TOML");
    assert_eq!(config["model_providers"]["understudy"]["base_url"].as_str(), Some(format!("{url}/v1").as_str()));
    assert_eq!(config["model_providers"]["understudy"]["wire_api"].as_str(), Some("responses"));
    nothing_is_left(&program);
    assert_eq!((run(&["--keep", "mine"]).code, run(&["--keep", "mine"]).code), (Some(0), Some(0)));
    let history = std::fs::read_to_string(program.home.path().join("mine/history")).unwrap();
    assert_eq!(history, "conversation\nconversation\n");
}

#[test]
fn a_client_that_is_not_installed_is_told_with_how_to_install_it() {
    let url = free_url();
    let program = Program::new().env("PATH", "/nowhere");
    for (client, advice) in
        [("claude", "npm install -g @anthropic-ai/claude-code"), ("aider", "pip install"), ("cluade", "claude, codex, opencode, aider")]
    {
        let ended = program.run(&["run", "--server", &url, client]);
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(127), ""), "{ended:?}");
        assert!(ended.stderr.starts_with("understudy: ") && ended.stderr.contains(advice), "{ended:?}");
        assert_eq!(ended.stderr.lines().count(), 1, "nothing was started before: {ended:?}");
    }
}

#[test]
fn what_is_printed_does_in_a_shell_what_run_does() {
    let script =
        "#!/bin/sh\nprintf 'argument %s\\n' \"$@\"\nenv | grep -E 'CODEX|OPENAI|ANTHROPIC' | sort\ncat \"$CODEX_HOME/config.toml\"\n";
    let program = with_client("codex", script).env("OPENAI_API_KEY", "of-the-cloud");
    let server = program.serve(&["--port", "0"]);
    let url = format!("http://{}", server.address);
    let typed = ["--name", "it's", "codex", "exec", "$HOME 'x'"];
    let run = program.run(&[&["run", "--server", &url], typed.as_slice()].concat());
    let printed = program.run(&[&["run", "--print", "--server", &url], typed.as_slice()].concat());
    assert_eq!(printed.code, Some(0), "{printed:?}");
    let mut shell = program.command(&[]);
    let variables: Vec<_> = shell.get_envs().map(|(name, value)| (name.to_owned(), value.map(ToOwned::to_owned))).collect();
    shell = Command::new("sh");
    shell.env_clear().envs(variables.into_iter().filter_map(|(name, value)| Some((name, value?)))).args(["-c", &printed.stdout]);
    let by_hand = Ended::of(shell.current_dir(program.home.path()).output().unwrap());
    let without_folder = |said: &str| said.lines().filter(|line| !line.starts_with("CODEX_HOME=")).collect::<Vec<_>>().join("\n");
    assert_eq!(by_hand.stderr, "", "{}", printed.stdout);
    assert_eq!(without_folder(&by_hand.stdout), without_folder(&run.stdout));
    assert!(run.stdout.contains("argument $HOME 'x'") && run.stdout.contains("it's") && !run.stdout.contains("of-the-cloud"), "{run:?}");
}

#[test]
fn a_key_is_shown_to_the_server_it_belongs_to() {
    let program = with_client("claude", CLAUDE);
    program.home.write("keys", "# ours\nfirst-key\n");
    let server = program.serve(&["--port", "0", "--api-key-file", "keys"]);
    let url = format!("http://{}", server.address);
    let without = program.run(&["run", "--server", &url, "claude"]);
    assert_eq!((without.code, without.stdout.as_str()), (Some(2), ""), "{without:?}");
    assert!(without.stderr.contains("--server-key-file"), "{without:?}");
    let with = program.run(&["run", "--server", &url, "--server-key-file", "keys", "claude"]);
    assert_eq!(with.code, Some(7), "{with:?}");
    assert!(with.stdout.contains("\"stop_reason\":") && value(&with.stdout, "ANTHROPIC_AUTH_TOKEN") == Some("first-key"), "{with:?}");
    let printed = program.run(&["run", "--print", "--server", &url, "--server-key-file", "keys", "claude"]);
    assert!(printed.stdout.contains("YOUR_KEY") && !printed.stdout.contains("first-key"), "{printed:?}");
    // A key of our own configuration is for this machine.
    let ours = Program::new().env("UNDERSTUDY_API_KEY", "first-key");
    let shown = |url: &str| ours.run(&["run", "--print", "--server", url, "claude"]).stdout;
    assert!(shown(&url).contains("YOUR_KEY") && shown("http://10.0.0.1:7878").contains("understudy-local"));
}

#[test]
fn a_server_that_cannot_be_had_is_told_with_its_reason() {
    let program = with_client("claude", CLAUDE);
    let url = free_url();
    let ended = program.run(&["run", "--server", &url, "--model", "gone.gguf", "claude"]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{ended:?}");
    assert!(ended.stderr.trim_end().lines().next_back().unwrap().contains("gone.gguf"), "{ended:?}");
    nothing_is_left(&program);
    for (url, code, part) in
        [("box:7878", 2, "--server: box:7878: it must begin with http://"), ("http://127.0.0.1:7878/v2", 2, "only /v1")]
    {
        let ended = program.run(&["run", "--server", url, "claude"]);
        assert_eq!(ended.code, Some(code), "{ended:?}");
        assert!(ended.stderr.contains(part), "{ended:?}");
    }
    let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", stranger.local_addr().unwrap());
    let answering = std::thread::spawn(move || {
        let mut stream = stranger.accept().unwrap().0;
        let _ = stream.read(&mut [0; 1024]);
        stream.write_all(b"HTTP/1.1 404 Not Found\r\n\r\n").unwrap();
    });
    let ended = program.run(&["run", "--server", &url, "claude"]);
    answering.join().unwrap();
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("answers 404"), "{ended:?}");
    nothing_is_left(&program);
}

/// Starts a command whose output is read line by line.
fn start(program: &Program, args: &[&str]) -> Child {
    program.command(args).stdin(Stdio::null()).spawn().expect("the binary was built")
}

fn signal(process: &Child, name: &str) {
    let sent = Command::new("kill").args([&format!("-{name}"), &process.id().to_string()]).status().expect("kill is there");
    assert!(sent.success());
}

#[test]
fn signals_are_the_client_s_and_so_is_its_end() {
    let script = "#!/bin/sh\ntrap 'echo heard; exit 5' TERM INT\necho ready\nfor _ in $(seq 200); do sleep 0.05; done\n";
    let program = with_client("claude", script);
    let server = program.serve(&["--port", "0"]);
    let url = format!("http://{}", server.address);
    for name in ["TERM", "INT"] {
        let mut running = start(&program, &["run", "--server", &url, "claude"]);
        let mut out = BufReader::new(running.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        signal(&running, name);
        let mut rest = String::new();
        out.read_to_string(&mut rest).unwrap();
        assert_eq!((rest.as_str(), running.wait().unwrap().code()), ("heard\n", Some(5)), "{name}");
        nothing_is_left(&program);
    }
    let program = with_client("claude", "#!/bin/sh\nkill -KILL $$\n");
    let ended = program.run(&["run", "--server", &url, "claude"]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(128 + 9), ""), "as a shell tells it");
    nothing_is_left(&program);
}

#[test]
fn what_is_typed_on_the_terminal_does_not_stop_the_server() {
    let script = "#!/bin/sh\ntrap 'heard=1' INT\necho ready\nfor _ in $(seq 200); do [ -n \"$heard\" ] || sleep 0.05; done\nsleep 0.3\n\
                  curl --silent --output /dev/null --write-out '%{http_code}' \"$ANTHROPIC_BASE_URL/readyz\"\n";
    let program = with_client("claude", script);
    // Ctrl-C goes to all in the foreground's group: here a group of its own.
    let mut command = program.command(&["run", "--server", &free_url(), "claude"]);
    let mut running = std::os::unix::process::CommandExt::process_group(&mut command, 0).stdin(Stdio::null()).spawn().unwrap();
    let mut out = BufReader::new(running.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    let sent = Command::new("kill").args(["-INT", "--", &format!("-{}", running.id())]).status().expect("kill is there");
    assert!(sent.success());
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert_eq!((rest.as_str(), running.wait().unwrap().code()), ("200", Some(0)));
    nothing_is_left(&program);
}

#[test]
fn an_interrupt_ends_the_waiting_for_a_server() {
    let program = with_client("claude", CLAUDE);
    let loading = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", loading.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in loading.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.1 503 Service Unavailable\r\n\r\n");
        }
    });
    let mut running = start(&program, &["run", "--server", &url, "claude"]);
    let mut line = String::new();
    BufReader::new(running.stderr.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("is not ready"), "{line}");
    signal(&running, "INT");
    assert_eq!(running.wait().unwrap().code(), Some(130));
    nothing_is_left(&program);
}
