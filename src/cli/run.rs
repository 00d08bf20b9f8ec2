//! `understudy run`: a client, unmodified, with this server for its cloud. No login is asked for, for a login is what fails first when
//! a cloud does; nothing of the user's own settings is read or changed; what was made for the client is gone with it.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use anyhow::Context as _;

use super::args::RunArgs;
use super::failure::Failure;
use super::print;
use crate::config::{Config, Server};
use crate::gateway::local_token::LOCAL_TOKEN;

mod clients;

pub mod client_folder;
mod happenings;
mod local_server;
mod server_url;

use client_folder::ClientFolder;
use clients::{Client, Destination, Launch, quoted};
use happenings::Happenings;
use local_server::LocalServer;
use server_url::{Answer, ServerUrl};

/// What a shell answers for a program that is not there, and for one that cannot be run.
const NOT_FOUND: u8 = 127;
const NOT_RUNNABLE: u8 = 126;

pub fn run(config: &Config, args: &RunArgs) -> Result<(), Failure> {
    let [program, arguments @ ..] = args.command.as_slice() else {
        return Err(Failure::Usage("which client? understudy run claude, or understudy run -- COMMAND".to_owned()));
    };
    let client = clients::known(program);
    let url = match &args.server {
        Some(typed) => typed.parse().map_err(|error| Failure::Usage(format!("--server: {typed}: {error}")))?,
        None => url_of(&config.server),
    };
    let token = token(config, args, &url)?;
    if args.print {
        return print_launch(
            client,
            args,
            &Destination { server: &url.to_string(), token: &token.shown(), model: &args.name, folder: Path::new(FOLDER) },
        );
    }
    // Before anything is loaded.
    let path = find(program).ok_or_else(|| not_found(program, client))?;
    let happenings = Happenings::listen()?;
    let folder = match &args.keep {
        Some(path) => ClientFolder::kept(path).with_context(|| format!("--keep: {}", path.display()))?,
        None => ClientFolder::disposable().context("a folder for the client")?,
    };
    let mut server = local_server::at_hand(&url, &happenings, || {
        let arguments = serve_arguments(&url, args)?;
        print::remark(format_args!("understudy: nobody answers at {url}; starting a server"));
        LocalServer::start(&arguments, &folder.path().join("server.log"))
    })?;
    check_key(&url, &token)?;
    let launch =
        clients::launch(client, &Destination { server: &url.to_string(), token: token.text(), model: &args.name, folder: folder.path() });
    for file in &launch.files {
        folder.write(file).with_context(|| format!("{} for the client", file.name))?;
    }
    let status = happenings.run(&mut command(&path, arguments, &launch, &url));
    if let Some(server) = &mut server {
        // The client has told of it in its own way; this is the reason.
        if let Err(failure) = server.check_alive() {
            print::remark(format_args!("understudy: {failure}"));
        }
    }
    let status = status.map_err(|error| Failure::OfClient { code: NOT_RUNNABLE, message: Some(format!("{}: {error}", path.display())) })?;
    drop((server, folder));
    match exit_code(status) {
        0 => Ok(()),
        code => Err(Failure::OfClient { code, message: None }),
    }
}

/// Where a server of this configuration is found from this machine.
fn url_of(server: &Server) -> ServerUrl {
    let ip = match server.host {
        ip if !ip.is_unspecified() => ip,
        std::net::IpAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
        std::net::IpAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
    };
    let port = if server.port == 0 { crate::config::PORT } else { server.port };
    ServerUrl::of(ip, port)
}

/// What the client shows as its credential.
enum Token {
    /// The server asks for a key: this one.
    Key(String),
    /// It asks for none: anything will do.
    ThrowAway,
}

impl Token {
    fn text(&self) -> &str {
        match self {
            Self::Key(key) => key,
            Self::ThrowAway => LOCAL_TOKEN,
        }
    }

    /// For a person, on a screen.
    fn shown(&self) -> String {
        match self {
            Self::Key(_) => "YOUR_KEY".to_owned(),
            Self::ThrowAway => LOCAL_TOKEN.to_owned(),
        }
    }
}

/// Our own key goes to a server of this machine, and to no other but by a file that was named for it.
fn token(config: &Config, args: &RunArgs, url: &ServerUrl) -> Result<Token, Failure> {
    if let Some(path) = &args.server_key_file {
        let text =
            std::fs::read_to_string(path).map_err(|error| Failure::Usage(format!("--server-key-file: {}: {error}", path.display())))?;
        let key = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
        let key = key.ok_or_else(|| Failure::Usage(format!("--server-key-file: {} holds no key", path.display())))?;
        return Ok(Token::Key(key.to_owned()));
    }
    let own = config.server.api_keys.first().filter(|_| url.loopback().is_some());
    Ok(own.map_or(Token::ThrowAway, |key| Token::Key(key.as_str().to_owned())))
}

/// A server that wants another key says so now and not in the middle of a client's screen.
fn check_key(url: &ServerUrl, token: &Token) -> Result<(), Failure> {
    match url.can_be_asked().then(|| url.get("/v1/models", Some(token.text()))) {
        Some(Answer::Status(401 | 403)) => {
            Err(Failure::Usage(format!("the server at {url} asks for a key that this is not; name its file with --server-key-file")))
        }
        _ => Ok(()),
    }
}

/// The rest the server reads where this process has: in the same file and variables.
fn serve_arguments(url: &ServerUrl, args: &RunArgs) -> Result<Vec<String>, Failure> {
    let Some(ip) = url.loopback() else {
        return Err(anyhow::anyhow!("nobody answers at {url}, and a server can be started on this machine only").into());
    };
    let mut arguments: Vec<String> = args.model.iter().cloned().collect();
    arguments.extend(["--host".to_owned(), ip.to_string(), "--port".to_owned(), url.port.to_string()]);
    arguments.extend(args.common.typed());
    Ok(arguments)
}

/// The terminal, the folder and all other variables are the user's.
fn command(program: &Path, arguments: &[OsString], launch: &Launch, url: &ServerUrl) -> Command {
    let mut command = Command::new(program);
    command.args(&launch.arguments).args(arguments);
    for name in of_a_cloud() {
        command.env_remove(name);
    }
    command.envs(launch.variables.iter().map(|(name, value)| (*name, value)));
    command.envs(past_the_proxy(url));
    command
}

/// Variables of this process that the client must not see.
fn of_a_cloud() -> Vec<String> {
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let mut names: Vec<String> = names.filter(|name| clients::speaks_of_a_cloud(name)).collect();
    names.sort();
    names
}

/// Where this machine has a proxy for the web: the variables that lead past it.
fn past_the_proxy(url: &ServerUrl) -> Vec<(&'static str, String)> {
    let has_proxy = ["http_proxy", "https_proxy", "all_proxy"]
        .iter()
        .any(|name| [std::env::var_os(name), std::env::var_os(name.to_uppercase())].iter().flatten().any(|value| !value.is_empty()));
    let names: &[&'static str] = if has_proxy { &["NO_PROXY", "no_proxy"] } else { &[] };
    names.iter().map(|name| (*name, clients::past_the_proxy(std::env::var(name).ok().as_deref(), &url.host))).collect()
}

/// As a shell would find it.
fn find(program: &OsStr) -> Option<PathBuf> {
    let typed = Path::new(program);
    if typed.components().count() > 1 {
        return typed.exists().then(|| typed.to_owned());
    }
    let endings = match cfg!(windows) {
        true => std::env::var("PATHEXT").unwrap_or_else(|_| ".EXE;.CMD;.BAT".to_owned()),
        false => String::new(),
    };
    let named = |ending: &str| {
        let mut name = program.to_owned();
        name.push(ending);
        name
    };
    let folders = std::env::var_os("PATH")?;
    let mut paths = std::env::split_paths(&folders).flat_map(|folder| endings.split(';').map(move |ending| folder.join(named(ending))));
    paths.find(|path| can_be_run(path))
}

#[cfg(unix)]
fn can_be_run(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|about| about.is_file() && about.permissions().mode() & 0o111 != 0)
}

#[cfg(not(unix))]
fn can_be_run(path: &Path) -> bool {
    path.is_file()
}

fn not_found(program: &OsStr, client: Option<&Client>) -> Failure {
    let program = program.to_string_lossy();
    let message = match client {
        Some(client) => format!("{program} is not installed (no such program on PATH); to install it: {}", client.install),
        None => {
            let known: Vec<&str> = clients::CLIENTS.iter().map(|client| client.name).collect();
            format!("{program}: no such program; the clients known by name are {}", known.join(", "))
        }
    };
    Failure::OfClient { code: NOT_FOUND, message: Some(message) }
}

/// As a shell tells it: 128 and the signal's number for a program that one has ended.
fn exit_code(status: ExitStatus) -> u8 {
    #[cfg(unix)]
    let code = status.code().or_else(|| std::os::unix::process::ExitStatusExt::signal(&status).map(|signal| 128 + signal));
    #[cfg(not(unix))]
    let code = status.code();
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

/// The client's folder in what is printed: the variable of the printed lines.
const FOLDER: &str = "$folder";

/// The same as lines for a shell, for those who would rather do it themselves.
fn print_launch(client: Option<&Client>, args: &RunArgs, destination: &Destination<'_>) -> Result<(), Failure> {
    let launch = clients::launch(client, destination);
    let mut lines = Vec::new();
    let removed = of_a_cloud();
    if !removed.is_empty() {
        lines.push(format!("unset {}", removed.join(" ")));
    }
    let in_folder = launch.variables.iter().any(|(_, value)| value.contains(FOLDER));
    match &args.keep {
        _ if !in_folder && launch.files.is_empty() => {}
        Some(path) => lines.push(format!("folder={}", quoted(path.as_os_str()))),
        None => lines.push("folder=$(mktemp -d)".to_owned()),
    }
    for file in &launch.files {
        lines.push(format!("cat > \"$folder/{}\" <<'END'\n{}\nEND", file.name, file.text.trim_end()));
    }
    for (name, value) in &launch.variables {
        let value = if value == FOLDER { format!("\"{FOLDER}\"") } else { quoted(OsStr::new(value)) };
        lines.push(format!("export {name}={value}"));
    }
    let typed = launch.arguments.iter().map(OsStr::new).chain(args.command.iter().skip(1).map(OsString::as_os_str));
    let words: Vec<String> = args.command.iter().take(1).map(OsString::as_os_str).chain(typed).map(quoted).collect();
    lines.push(words.join(" "));
    print::line(lines.join("\n"))
}
