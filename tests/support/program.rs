//! The real binary as a user runs it: in an empty folder, with nothing of this machine's own settings.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::temp_dir::TempDir;

/// For an answer or an end that must come: a hang is a failure and not a stop.
const LIMIT: Duration = Duration::from_secs(60);

/// How a run is set up.
pub struct Program {
    pub home: TempDir,
    variables: Vec<(String, String)>,
}

/// A finished run.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// A server that runs; killed with the test.
pub struct Running {
    child: Child,
    /// `127.0.0.1:PORT`.
    pub address: String,
    /// What it said on stdout up to and including the line with its address.
    pub banner: String,
    stderr: Arc<Mutex<String>>,
    stderr_reader: Option<JoinHandle<()>>,
}

/// Where a server's standard error goes.
pub enum Stderr {
    /// Into a pipe that is read as it fills.
    Read,
    /// Into a pipe that stays open and that nobody reads.
    Unread,
    Into(Stdio),
}

impl Program {
    pub fn new() -> Self {
        Self { home: TempDir::new(), variables: Vec::new() }
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Writes `understudy.toml` into the working folder.
    pub fn config(self, text: &str) -> Self {
        self.home.write("understudy.toml", text);
        self
    }

    pub fn run(&self, args: &[&str]) -> Ended {
        self.run_with_input(args, "")
    }

    /// Runs to the end with `input` on a pipe.
    pub fn run_with_input(&self, args: &[&str], input: &str) -> Ended {
        let mut child = self.command(args).stdin(Stdio::piped()).spawn().expect("the binary was built");
        // A program that does not read its input may have closed it.
        let _ = child.stdin.take().expect("stdin is a pipe").write_all(input.as_bytes());
        Ended::of(child.wait_with_output().expect("it was started"))
    }

    /// Starts a server and waits until it says where it listens.
    pub fn serve(&self, args: &[&str]) -> Running {
        self.serve_with(args, Stderr::Read)
    }

    #[expect(clippy::zombie_processes, reason = "`Running` kills and waits when it is dropped")]
    pub fn serve_with(&self, args: &[&str], errors: Stderr) -> Running {
        let mut command = self.command(args);
        let is_read = matches!(errors, Stderr::Read);
        if let Stderr::Into(place) = errors {
            command.stderr(place);
        }
        let mut child = command.stdin(Stdio::null()).spawn().expect("the binary was built");
        let stderr = Arc::new(Mutex::new(String::new()));
        let shared = stderr.clone();
        // The end of a pipe that nobody reads stays with the child.
        let pipe = if is_read { child.stderr.take() } else { None };
        let stderr_reader = pipe.map(|mut pipe| {
            std::thread::spawn(move || {
                let mut chunk = [0; 4096];
                while let Ok(got @ 1..) = pipe.read(&mut chunk) {
                    shared.lock().expect("no panic holds it").push_str(&String::from_utf8_lossy(&chunk[..got]));
                }
            })
        });
        let mut banner = String::new();
        let mut lines = BufReader::new(child.stdout.take().expect("stdout is a pipe"));
        loop {
            let mut line = String::new();
            if lines.read_line(&mut line).expect("stdout is text") == 0 {
                let _ = (child.wait(), stderr_reader.map(JoinHandle::join));
                panic!("no address was printed; stdout: {banner}\nstderr: {}", stderr.lock().expect("no panic holds it"));
            }
            banner.push_str(&line);
            if let Some((_, rest)) = line.split_once("http://") {
                let address = rest.split(['/', '"']).next().unwrap_or_default().to_owned();
                // Nobody reads on: a server must not mind.
                return Running { child, address, banner, stderr, stderr_reader };
            }
        }
    }

    /// The command with its environment and its pipes, for runs that need more than an input.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_understudy"));
        command.args(args).current_dir(self.home.path()).env_clear();
        for kept in ["PATH", "LD_LIBRARY_PATH", "SYSTEMROOT"] {
            command.envs(std::env::var(kept).ok().map(|value| (kept, value)));
        }
        command.env("HOME", self.home.path()).env("RUST_BACKTRACE", "0");
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }
}

impl Ended {
    pub fn of(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Running {
    /// Sends a request and reads the whole answer, head included.
    pub fn request(&self, method: &str, path: &str, body: &str) -> String {
        let mut answer = String::new();
        self.open(method, path, body).read_to_string(&mut answer).expect("an answer");
        answer
    }

    /// Sends a request and leaves the answer to be read.
    pub fn open(&self, method: &str, path: &str, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).expect("the server listens");
        stream.set_read_timeout(Some(LIMIT)).expect("a socket has a time limit");
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n");
        stream.write_all(format!("{head}content-length: {length}\r\n\r\n{body}").as_bytes()).expect("the server reads");
        stream
    }

    /// Sends a signal by name.
    #[cfg(unix)]
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status().expect("kill is there");
        assert!(status.success());
    }

    /// Waits for the end; the exit code and what stood on stderr.
    pub fn wait(mut self) -> (Option<i32>, String) {
        let given_up = Instant::now() + LIMIT;
        let code = loop {
            match self.child.try_wait().expect("it was started") {
                Some(status) => break status.code(),
                None => assert!(Instant::now() < given_up, "the program does not end"),
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        if let Some(reader) = self.stderr_reader.take() {
            reader.join().expect("the reader does not panic");
        }
        let stderr = self.stderr.lock().expect("no panic holds it").clone();
        (code, stderr)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
