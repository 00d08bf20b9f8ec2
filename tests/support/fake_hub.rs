//! A pretend Hugging Face Hub on loopback: one repository with its commits, and the misbehaviour a test asks for. Notes every request.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// What a request for a file meets instead of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    Status(u16),
    /// The connection ends after so many bytes of the body.
    CutAfter(usize),
    /// The `Range` header is ignored: 200 and the whole file.
    NoRanges,
    /// More bytes than the announced size follow... announced as such by nobody.
    TooLong,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub path: String,
    pub range: Option<String>,
    pub authorization: Option<String>,
}

/// Files of a commit, by name.
type Files = BTreeMap<String, Vec<u8>>;

#[derive(Debug, Default)]
struct State {
    /// By hash; earlier ones are still there for who asks for them.
    commits: BTreeMap<String, Files>,
    /// The hash that `main` means.
    head: String,
    /// Taken one a transfer.
    faults: VecDeque<Fault>,
    /// Taken one a request for the first byte alone, by which a client learns size and etag.
    probe_faults: VecDeque<Fault>,
    info_faults: VecDeque<Fault>,
    /// Files are redirected there, as the Hub does to its CDN.
    cdn: Option<String>,
    token: Option<String>,
    renamed_from: Option<String>,
    seen: Vec<Seen>,
}

/// Answers until it is dropped.
pub struct FakeHub {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    stop: Arc<AtomicBool>,
}

pub const REPO: &str = "org/repo";

impl FakeHub {
    pub fn start(files: &[(&str, &[u8])]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let (state, stop) = (Arc::new(Mutex::new(State::default())), Arc::new(AtomicBool::new(false)));
        let (shared, stopped) = (state.clone(), stop.clone());
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let shared = shared.clone();
                std::thread::spawn(move || {
                    // A peer that goes away is the test's own doing.
                    let _ = serve(connection, &shared);
                });
            }
        });
        let hub = Self { address, state, stop };
        hub.commit(files);
        hub
    }

    /// `main` moves on to a new commit that has these files and no others.
    pub fn commit(&self, files: &[(&str, &[u8])]) -> &Self {
        let mut state = self.state();
        let hash = format!("{:040x}", 0xc0ffee_u64 + state.commits.len() as u64);
        let files = files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec())).collect();
        state.commits.insert(hash.clone(), files);
        state.head = hash;
        drop(state);
        self
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn fault(&self, fault: Fault) -> &Self {
        self.state().faults.push_back(fault);
        self
    }

    /// A fault of the request for the first byte, which comes before a transfer.
    pub fn probe_fault(&self, fault: Fault) -> &Self {
        self.state().probe_faults.push_back(fault);
        self
    }

    /// A fault of the repository's description.
    pub fn info_fault(&self, fault: Fault) -> &Self {
        self.state().info_faults.push_back(fault);
        self
    }

    /// Files are redirected to this hub.
    pub fn redirect_to(&self, cdn: &FakeHub) -> &Self {
        self.state().cdn = Some(cdn.url());
        self
    }

    /// Refuses requests without this token.
    pub fn ask_for(&self, token: &str) -> &Self {
        self.state().token = Some(token.to_owned());
        self
    }

    /// `name` redirects to [`REPO`] on this host.
    pub fn renamed_from(&self, name: &str) -> &Self {
        self.state().renamed_from = Some(name.to_owned());
        self
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.state().seen.clone()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no test panics while it holds the state")
    }
}

impl Drop for FakeHub {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

/// One request a connection.
fn serve(connection: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let mut lines = BufReader::new(connection.try_clone()?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut headers = BTreeMap::new();
    for line in lines {
        let line = line?;
        if line.is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':') {
            headers.insert(name.to_lowercase(), value.trim().to_owned());
        }
    }
    let range = headers.get("range").cloned();
    let authorization = headers.get("authorization").cloned();
    let mut state = state.lock().expect("no other connection panics");
    state.seen.push(Seen { path: path.clone(), range: range.clone(), authorization: authorization.clone() });
    if let Some(token) = &state.token
        && authorization != Some(format!("Bearer {token}"))
    {
        return answer(&connection, "401 Unauthorized", &[], b"");
    }
    if let Some(old) = state.renamed_from.clone().filter(|old| path.contains(&format!("/{old}/"))) {
        let new = path.replace(&old, REPO);
        return answer(&connection, "307 Temporary Redirect", &[("location", &new)], b"");
    }
    if path == format!("/api/models/{REPO}/revision/main") {
        if let Some(Fault::Status(status)) = state.info_faults.pop_front() {
            return answer(&connection, &format!("{status} Fault"), &[], b"");
        }
        let State { head, commits, .. } = &*state;
        let names: Vec<String> = commits[head].keys().map(|name| format!("{{\"rfilename\":\"{name}\"}}")).collect();
        let json = format!("{{\"sha\":\"{head}\",\"siblings\":[{}]}}", names.join(","));
        return answer(&connection, "200 OK", &[("content-type", "application/json")], json.as_bytes());
    }
    let (commit, name) = match path.strip_prefix(&format!("/{REPO}/resolve/")) {
        Some(rest) => rest.split_once('/').unwrap_or_default(),
        None => (state.head.as_str(), path.strip_prefix("/cdn/").unwrap_or_default()),
    };
    let (commit, name) = (commit.to_owned(), name.split('?').next().unwrap_or_default());
    let bytes = state.commits.get(&commit).and_then(|files| files.get(name)).cloned();
    let Some(bytes) = bytes else { return answer(&connection, "404 Not Found", &[], b"") };
    let etag = format!("\"etag-of-{}-{}\"", name.replace(['/', '.'], "_"), bytes.len());
    if let Some(cdn) = &state.cdn {
        let location = format!("{cdn}/cdn/{name}?signature=secret");
        let size = bytes.len().to_string();
        let headers =
            [("location", location.as_str()), ("x-repo-commit", commit.as_str()), ("x-linked-etag", &etag), ("x-linked-size", &size)];
        return answer(&connection, "302 Found", &headers, b"");
    }
    let probe = range.as_deref() == Some("bytes=0-0");
    let fault = if probe { state.probe_faults.pop_front() } else { state.faults.pop_front() };
    drop(state);
    if let Some(Fault::Status(status)) = fault {
        return answer(&connection, &format!("{status} Fault"), &[], b"");
    }
    let start = range.as_deref().and_then(|range| range.strip_prefix("bytes=")?.split_once('-')?.0.parse::<usize>().ok());
    let common = [("etag", etag.as_str()), ("x-repo-commit", commit.as_str())];
    let (status, body, content_range) = match start {
        Some(start) if fault != Some(Fault::NoRanges) => {
            if start >= bytes.len() {
                return answer(&connection, "416 Range Not Satisfiable", &common, b"");
            }
            let end = if probe { 0 } else { bytes.len() - 1 };
            ("206 Partial Content", bytes[start..=end].to_vec(), Some(format!("bytes {start}-{end}/{}", bytes.len())))
        }
        _ => ("200 OK", bytes, None),
    };
    let mut headers = common.to_vec();
    headers.extend(content_range.as_deref().map(|range| ("content-range", range)));
    match fault {
        Some(Fault::CutAfter(kept)) => {
            write_head(&connection, status, &headers, body.len())?;
            (&connection).write_all(&body[..kept.min(body.len())])
        }
        Some(Fault::TooLong) => {
            let longer = [body.as_slice(), b"surplus"].concat();
            answer(&connection, status, &headers, &longer)
        }
        _ => answer(&connection, status, &headers, &body),
    }
}

fn answer(connection: &TcpStream, status: &str, headers: &[(&str, &str)], body: &[u8]) -> std::io::Result<()> {
    write_head(connection, status, headers, body.len())?;
    let mut connection = connection;
    connection.write_all(body)
}

fn write_head(mut connection: &TcpStream, status: &str, headers: &[(&str, &str)], length: usize) -> std::io::Result<()> {
    let mut head = format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    connection.write_all(head.as_bytes())
}
