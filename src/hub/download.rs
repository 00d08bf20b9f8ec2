//! Fetches files of the Hub into the cache: resumes what was cut, and sends the token to nobody but the endpoint.
//!
//! hf-hub 0.5 knows the cache's layout and the repository's description, and both are used from there. Its transfer is not:
//! it sends the `Authorization` header to whatever host a file is redirected to (a CDN), sees a finished partial file as an
//! error for ever, and waits without a limit.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hf_hub::api::RepoInfo;
use hf_hub::{Cache, Repo};
use indicatif::HumanBytes;
use ureq::http::{HeaderMap, Response, StatusCode, Uri};
use ureq::{Agent, Body};

use super::progress::Report;
use super::{HubOptions, HubToken};

/// Attempts in a row that bring no byte before a transfer is given up.
const FRUITLESS_ATTEMPTS_MAX: u32 = 5;
const REDIRECTS_MAX: usize = 10;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// A peer that is silent for this long is taken for gone.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(60);
const COPY_BYTES: usize = 1 << 18;

/// What lies below is said along, and is no `source`: see [`super::HubError`].
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    #[error(
        "no network: {endpoint} cannot be reached ({problem}); connect and try again, point HF_ENDPOINT at a mirror, \
             or serve a file you have: `understudy serve path/to/model.gguf`. The built-in model needs no network."
    )]
    Unreachable { endpoint: String, problem: Box<ureq::Error> },
    #[error("the Hub says there is no such repository or file ({url}); check the spelling")]
    NotFound { url: String },
    #[error("the Hub refuses {url} ({status}): {}", if *.had_token { "HF_TOKEN is not valid for it, or its licence has to be accepted on its page first" } else { "the name is wrong, or the repository is private or gated: accept its licence on its page and set HF_TOKEN" })]
    Refused { url: String, status: u16, had_token: bool },
    #[error("{url} answers {status}; try again later")]
    Status { url: String, status: u16 },
    #[error("{url} sends {what}, which the Hub never does")]
    Odd { url: String, what: String },
    #[error("the transfer of {name} broke off {attempts} times at {} of {}: {problem}; what is there is kept, run the same command to go on",
            HumanBytes(*.done), HumanBytes(*.total))]
    Broken { name: String, attempts: u32, done: u64, total: u64, problem: io::Error },
    #[error("{folder} has {} free and {name} needs {} more; make room, or set HF_HUB_CACHE to a larger disk",
            HumanBytes(*.free), HumanBytes(*.needed))]
    NoSpace { folder: PathBuf, name: String, free: u64, needed: u64 },
    #[error("{path}: {problem}")]
    File { path: PathBuf, problem: io::Error },
}

/// A connection to one endpoint.
#[derive(Debug)]
pub struct HubClient {
    agent: Agent,
    endpoint: String,
    token: Option<HubToken>,
    cache: Cache,
    retry_pause: Duration,
}

/// What the endpoint says of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Remote {
    etag: String,
    bytes: u64,
}

impl HubClient {
    pub fn new(options: &HubOptions) -> Self {
        let config = Agent::config_builder()
            .max_redirects(0)
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(SILENCE_TIMEOUT))
            .timeout_per_read(Some(SILENCE_TIMEOUT))
            .user_agent(concat!("understudy/", env!("CARGO_PKG_VERSION")))
            .build();
        Self {
            agent: config.into(),
            endpoint: options.endpoint.clone(),
            token: options.token.clone(),
            cache: Cache::new(options.cache.clone()),
            retry_pause: options.retry_pause,
        }
    }

    /// What `main` is now: the commit and its files.
    pub fn info(&self, repo: &str) -> Result<RepoInfo, TransferError> {
        let url = format!("{}/api/{}", self.endpoint, Repo::model(repo.to_owned()).api_url());
        let mut answer = self.patiently(|| self.success(&url, self.get(&url, None)?.0))?;
        let odd = |what: String| TransferError::Odd { url: url.clone(), what };
        let info: RepoInfo = answer.body_mut().read_json().map_err(|e| odd(format!("a description that is not one ({e})")))?;
        if !is_plain(&info.sha) {
            return Err(odd(format!("the commit {:?}", info.sha)));
        }
        Ok(info)
    }

    /// The file `name` of `repo` at `commit` in the cache, fetched where it is not there yet. All files of a model are asked for at
    /// one commit, [`Self::info`]'s: `main` may move between two of them.
    pub fn file(&self, repo: &str, commit: &str, name: &str, report: &mut dyn Report) -> Result<PathBuf, TransferError> {
        let url = format!("{}/{repo}/resolve/{commit}/{}", self.endpoint, escape(name));
        let remote = self.patiently(|| self.remote(&url))?;
        let cache = self.cache.repo(Repo::model(repo.to_owned()));
        let blob = cache.blob_path(&remote.etag);
        let pointer = cache.pointer_path(commit).join(name);
        let file = |path: &Path| {
            let path = path.to_owned();
            move |problem| TransferError::File { path, problem }
        };
        for folder in [&blob, &pointer].into_iter().filter_map(|path| path.parent()) {
            std::fs::create_dir_all(folder).map_err(file(folder))?;
        }
        if !blob.exists() {
            let _lock = lock(&blob.with_extension("lock"), report)?;
            if !blob.exists() {
                let part = blob.with_extension("part");
                self.fetch(&url, name, &remote, &part, report)?;
                std::fs::rename(&part, &blob).map_err(file(&blob))?;
            }
        }
        if !pointer.exists() {
            let _ = std::fs::remove_file(&pointer);
            point(&blob, &pointer).map_err(file(&pointer))?;
        }
        Ok(pointer)
    }

    /// Notes that `main` of `repo` is `commit`. For when all wanted files of it are there: readers of the cache follow this name, and a
    /// commit that has half of a model would hide the whole one of the commit before.
    pub fn set_ref(&self, repo: &str, commit: &str) -> Result<(), TransferError> {
        let repo = Repo::model(repo.to_owned());
        let path = self.cache.path().join(repo.folder_name()).join("refs").join(repo.revision());
        self.cache.repo(repo).create_ref(commit).map_err(|problem| TransferError::File { path, problem })
    }

    /// Etag and size. The endpoint tells the first before it redirects to where the bytes are; who is asked first wins.
    fn remote(&self, url: &str) -> Result<Remote, TransferError> {
        let odd = |what: String| TransferError::Odd { url: url.to_owned(), what };
        let mut told = HeaderMap::new();
        let mut at = url.to_owned();
        for _ in 0..REDIRECTS_MAX {
            let answer = self.once(&at, Some(0..=0))?;
            let next = redirect(&at, &answer)?;
            for (name, value) in answer.headers() {
                let of_this_answer_alone = next.is_some() && matches!(name.as_str(), "content-length" | "content-range");
                if !of_this_answer_alone && !told.contains_key(name) {
                    told.insert(name.clone(), value.clone());
                }
            }
            let Some(next) = next else {
                self.success(&at, answer)?;
                return read_remote(&told).map_err(odd);
            };
            at = next;
        }
        Err(odd("redirects without end".to_owned()))
    }

    /// Brings `part` to its full length, going on where an earlier attempt ended.
    fn fetch(&self, url: &str, name: &str, remote: &Remote, part: &Path, report: &mut dyn Report) -> Result<(), TransferError> {
        let error = |problem| TransferError::File { path: part.to_owned(), problem };
        let mut file = File::options().create(true).append(true).open(part).map_err(error)?;
        let mut done = file.metadata().map_err(error)?.len();
        if done > remote.bytes {
            file.set_len(0).map_err(error)?;
            done = 0;
        }
        check_space(part, name, remote.bytes - done)?;
        report.start(name, done, remote.bytes);
        let mut fruitless = 0;
        while done < remote.bytes {
            let before = done;
            let broke = match self.fetch_once(url, remote, &mut file, &mut done, report) {
                Ok(()) => io::Error::from(io::ErrorKind::UnexpectedEof),
                Err(TransferError::Unreachable { problem, .. }) => io::Error::other(problem.to_string()),
                Err(TransferError::Status { status, .. }) if is_passing(status) => io::Error::other(format!("HTTP {status}")),
                Err(TransferError::File { problem, .. }) if problem.kind() == io::ErrorKind::StorageFull => {
                    let folder = part.parent().unwrap_or(part).to_owned();
                    return Err(TransferError::NoSpace { folder, name: name.to_owned(), free: 0, needed: remote.bytes - done });
                }
                Err(other) => return Err(other),
            };
            if done >= remote.bytes {
                break;
            }
            fruitless = if done > before { 1 } else { fruitless + 1 };
            if fruitless >= FRUITLESS_ATTEMPTS_MAX {
                return Err(TransferError::Broken {
                    name: name.to_owned(),
                    attempts: fruitless,
                    done,
                    total: remote.bytes,
                    problem: broke,
                });
            }
            report.note(&format!("{name}: the transfer broke off at {} ({broke}); going on", HumanBytes(done)));
            self.pause(fruitless);
        }
        report.finish();
        file.sync_all().map_err(error)
    }

    /// One request for the rest of the file; returns when the peer ends it, complete or not.
    fn fetch_once(
        &self,
        url: &str,
        remote: &Remote,
        file: &mut File,
        done: &mut u64,
        report: &mut dyn Report,
    ) -> Result<(), TransferError> {
        let odd = |what: String| TransferError::Odd { url: url.to_owned(), what };
        let error = |problem| TransferError::File { path: url.into(), problem };
        let (answer, at) = self.get(url, Some(*done..=remote.bytes - 1))?;
        let answer = self.success(&at, answer)?;
        if answer.status() == StatusCode::PARTIAL_CONTENT {
            let range = header(answer.headers(), "content-range").and_then(parse_content_range);
            if range != Some((*done, remote.bytes)) {
                return Err(odd(format!("the range {range:?} where {done} of {} was asked for", remote.bytes)));
            }
        } else {
            // A server without ranges sends the whole again.
            file.set_len(0).map_err(error)?;
            *done = 0;
        }
        let mut body = answer.into_body().into_reader();
        let mut buffer = vec![0; COPY_BYTES];
        loop {
            let got = match body.read(&mut buffer) {
                Ok(0) | Err(_) => return Ok(()),
                Ok(got) => got,
            };
            if *done + got as u64 > remote.bytes {
                return Err(odd(format!("more than the {} bytes it announced", remote.bytes)));
            }
            file.write_all(&buffer[..got]).map_err(error)?;
            *done += got as u64;
            report.reached(*done);
        }
    }

    /// Asks again where the answer is a trouble that passes; what the last attempt says holds.
    fn patiently<T>(&self, ask: impl Fn() -> Result<T, TransferError>) -> Result<T, TransferError> {
        for attempt in 1..FRUITLESS_ATTEMPTS_MAX {
            match ask() {
                Err(TransferError::Status { status, .. }) if is_passing(status) => self.pause(attempt),
                answer => return answer,
            }
        }
        ask()
    }

    /// Before the attempt that follows so many fruitless ones; doubles each time.
    fn pause(&self, fruitless: u32) {
        std::thread::sleep(self.retry_pause * 2u32.pow(fruitless - 1));
    }

    /// Follows redirects; returns the answer and the address that gave it.
    fn get(&self, url: &str, range: Option<std::ops::RangeInclusive<u64>>) -> Result<(Response<Body>, String), TransferError> {
        let mut at = url.to_owned();
        for _ in 0..REDIRECTS_MAX {
            let answer = self.once(&at, range.clone())?;
            match redirect(&at, &answer)? {
                Some(next) => at = next,
                None => return Ok((answer, at)),
            }
        }
        Err(TransferError::Odd { url: url.to_owned(), what: "redirects without end".to_owned() })
    }

    /// One request; the token goes along only to the endpoint's own scheme, host and port.
    fn once(&self, url: &str, range: Option<std::ops::RangeInclusive<u64>>) -> Result<Response<Body>, TransferError> {
        let mut request = self.agent.get(url).header("accept-encoding", "identity");
        if let Some(range) = range {
            request = request.header("range", format!("bytes={}-{}", range.start(), range.end()));
        }
        if let Some(token) = self.token.as_ref().filter(|_| same_origin(url, &self.endpoint)) {
            request = request.header("authorization", format!("Bearer {}", token.0));
        }
        request.call().map_err(|problem| TransferError::Unreachable { endpoint: origin_of(url), problem: Box::new(problem) })
    }

    /// The answer where it is a success, else what its status means.
    fn success(&self, url: &str, answer: Response<Body>) -> Result<Response<Body>, TransferError> {
        // Query strings of a CDN are signatures: they do not belong in a message.
        let url = url.split('?').next().unwrap_or(url).to_owned();
        match answer.status().as_u16() {
            200..=299 => Ok(answer),
            404 | 410 => Err(TransferError::NotFound { url }),
            status @ (401 | 403) => Err(TransferError::Refused { url, status, had_token: self.token.is_some() }),
            status => Err(TransferError::Status { url, status }),
        }
    }
}

/// A status of a server that is busy or broken for the moment.
fn is_passing(status: u16) -> bool {
    status == 429 || status >= 500
}

/// Where a redirect leads, as a whole address; `None` for an answer that is none. From https never to plain http.
fn redirect(from: &str, answer: &Response<Body>) -> Result<Option<String>, TransferError> {
    if !matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let odd = |what: &str| TransferError::Odd { url: from.to_owned(), what: what.to_owned() };
    let location = header(answer.headers(), "location").ok_or_else(|| odd("a redirect to nowhere"))?;
    let target = if location.starts_with('/') && !location.starts_with("//") {
        format!("{}{location}", origin_of(from))
    } else {
        location.to_owned()
    };
    let uri: Uri = target.parse().map_err(|_| odd("a redirect to no address"))?;
    match uri.scheme_str() {
        Some("https") => Ok(Some(target)),
        Some("http") if from.starts_with("http://") => Ok(Some(target)),
        Some("http") => Err(odd("a redirect from https to plain http")),
        _ => Err(odd("a redirect to no address")),
    }
}

fn read_remote(headers: &HeaderMap) -> Result<Remote, String> {
    let etag = header(headers, "x-linked-etag").or_else(|| header(headers, "etag")).ok_or("no etag header")?;
    let etag = etag.trim_start_matches("W/").trim_matches('"');
    if !is_plain(etag) {
        return Err(format!("the etag {etag:?}"));
    }
    let linked = header(headers, "x-linked-size").and_then(|size| size.parse().ok());
    let ranged = || header(headers, "content-range").and_then(|range| range.rsplit('/').next()?.parse().ok());
    let whole = || header(headers, "content-length").and_then(|length| length.parse().ok());
    let bytes = linked.or_else(ranged).or_else(whole).ok_or("no size")?;
    Ok(Remote { etag: etag.to_owned(), bytes })
}

/// Etags and commits become names of files.
fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.len() <= 128 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

/// `bytes 5-9/10` -> (5, 10).
fn parse_content_range(text: &str) -> Option<(u64, u64)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (start, _) = range.split_once('-')?;
    Some((start.parse().ok()?, total.parse().ok()?))
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// `https://host:port` of an address.
fn origin_of(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    format!("{scheme}://{authority}")
}

fn same_origin(a: &str, b: &str) -> bool {
    let parts = |url: &str| {
        let uri: Uri = url.parse().ok()?;
        let port = uri.port_u16().or(match uri.scheme_str() {
            Some("https") => Some(443),
            Some("http") => Some(80),
            _ => None,
        })?;
        Some((uri.scheme_str()?.to_owned(), uri.host()?.to_ascii_lowercase(), port))
    };
    parts(a).is_some_and(|a| Some(a) == parts(b))
}

/// Percent-encodes what may not stand in a path; slashes stay.
fn escape(name: &str) -> String {
    let mut escaped = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => escaped.push(byte as char),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

/// One process fetches a file, the others wait for it.
fn lock(path: &Path, report: &mut dyn Report) -> Result<File, TransferError> {
    let error = |problem| TransferError::File { path: path.to_owned(), problem };
    let file = File::create(path).map_err(error)?;
    if file.try_lock().is_err() {
        report.note("another process is fetching this file; waiting for it");
        file.lock().map_err(error)?;
    }
    Ok(file)
}

/// A link with a relative target, as the other tools make it; where links are not to be had, a hard link or a copy.
fn point(blob: &Path, pointer: &Path) -> io::Result<()> {
    #[cfg(unix)]
    {
        // Both lie in the repository's folder: up from the pointer's folder to it, down to the blob.
        let root = blob.parent().and_then(Path::parent).unwrap_or(Path::new("/"));
        let depth = pointer.strip_prefix(root).map_or(0, |inner| inner.components().count().saturating_sub(1));
        let mut target: PathBuf = std::iter::repeat_n("..", depth).collect();
        target.push(blob.strip_prefix(root).unwrap_or(blob));
        std::os::unix::fs::symlink(target, pointer)
    }
    #[cfg(not(unix))]
    {
        std::fs::hard_link(blob, pointer).or_else(|_| std::fs::copy(blob, pointer).map(|_| ()))
    }
}

/// Refuses before the first byte what cannot fit. Where `df` does not tell, the write itself will.
fn check_space(part: &Path, name: &str, needed: u64) -> Result<(), TransferError> {
    let folder = part.parent().unwrap_or(part);
    let output = std::process::Command::new("df").arg("-Pk").arg(folder).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    match free_bytes(&text) {
        Some(free) if free < needed => Err(TransferError::NoSpace { folder: folder.to_owned(), name: name.to_owned(), free, needed }),
        _ => Ok(()),
    }
}

/// The fourth column of the second line of `df -Pk` (POSIX), in bytes.
fn free_bytes(df: &str) -> Option<u64> {
    let kilobytes: u64 = df.lines().nth(1)?.split_whitespace().nth(3)?.parse().ok()?;
    kilobytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_knows_its_origin() {
        let endpoint = "https://huggingface.co";
        assert!(same_origin("https://huggingface.co/a/b?c", endpoint));
        assert!(same_origin("https://HuggingFace.co:443/a", endpoint));
        for other in [
            "http://huggingface.co/a",
            "https://huggingface.co:8443/a",
            "https://cdn.huggingface.co/a",
            "https://huggingface.co.evil.example/a",
            "https://huggingface.co@evil.example/a",
            "//huggingface.co/a",
            "",
        ] {
            assert!(!same_origin(other, endpoint), "{other}");
        }
    }

    #[test]
    fn names_the_hub_gives_cannot_leave_the_cache() {
        let headers = |etag: &str| {
            let mut map = HeaderMap::new();
            map.insert("etag", etag.parse().unwrap());
            map.insert("content-range", "bytes 0-0/10".parse().unwrap());
            read_remote(&map)
        };
        assert_eq!(headers("W/\"abc\"").unwrap(), Remote { etag: "abc".into(), bytes: 10 });
        assert!(headers("\"../../x\"").is_err());
        assert!(headers("\"\"").is_err());
        assert!(is_plain("0123abc") && !is_plain("../x") && !is_plain("a/b") && !is_plain(""));
    }

    #[test]
    fn df_in_posix_form() {
        let text = "Filesystem 1024-blocks Used Available Capacity Mounted on\n/dev/sda1 100 40 60 40% /\n";
        assert_eq!(free_bytes(text), Some(60 * 1024));
        assert_eq!(free_bytes(""), None);
    }

    #[test]
    fn small_readers() {
        assert_eq!(parse_content_range("bytes 5-9/10"), Some((5, 10)));
        assert_eq!(parse_content_range("bytes */10"), None);
        assert_eq!(escape("Q4 K/ä.gguf"), "Q4%20K/%C3%A4.gguf");
        assert_eq!(origin_of("http://a:1/b?c"), "http://a:1");
    }
}
