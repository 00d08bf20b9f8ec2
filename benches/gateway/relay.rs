//! What the relay costs while the cloud is well: time, beside the direct path to the same upstream in turns, and memory.

use std::time::Duration;

use super::client::{Client, body, find};
use super::cloud::{Cloud, STAMP, Say};
use super::figures::{Bar, Samples, line, remark};
use super::peers::{self, Peer};
use super::program::Program;
use super::{Error, Options};

const LATENCY: Bar = Bar { most: 45.0, unit: "µs" };
const FIRST_TOKEN: Bar = Bar { most: 130.0, unit: "µs" };
const FRAME: Bar = Bar { most: 50.0, unit: "µs" };
const IDLE: Bar = Bar { most: 8.0, unit: "MiB" };
const STREAM: Bar = Bar { most: 64.0, unit: "KiB" };

/// Pairs of whole replies a trial: they are short.
const PAIRS: usize = 10;
const FRAMES: usize = 50;
const FRAME_EVERY: Duration = Duration::from_micros(300);
const STREAMS: usize = 400;

/// The ways to one upstream: the direct one, the relayed one, and through each peer.
struct Paths(Vec<(&'static str, Client)>);

const DIRECT: usize = 0;
const RELAYED: usize = 1;

impl Paths {
    fn open(cloud: &Cloud, program: &Program, peers: &[Peer]) -> Result<Self, Error> {
        let ours = [("direct", cloud.address()), ("relayed", program.address)];
        let all = ours.into_iter().chain(peers.iter().map(|peer| (peer.name, peer.address)));
        let mut paths = Self(all.map(|(name, address)| Ok((name, Client::connect(address)?))).collect::<Result<_, Error>>()?);
        let asked = body(false, 256, "hello");
        for _ in 0..50 {
            paths.each(|client| {
                client.send(Say::Whole, &asked, 0)?;
                client.finish()
            })?;
        }
        match paths.0[RELAYED].1.is_of_cloud() {
            true => Ok(paths),
            false => Err("the relay does not ask the upstream".into()),
        }
    }

    /// One after the other.
    fn each<T>(&mut self, mut ask: impl FnMut(&mut Client) -> Result<T, Error>) -> Result<Vec<T>, Error> {
        self.0.iter_mut().map(|(_, client)| ask(client)).collect()
    }

    /// The same so many times. `[path][time]`, in µs.
    fn times(&mut self, times: usize, mut ask: impl FnMut(&mut Client) -> Result<Duration, Error>) -> Result<Vec<Samples>, Error> {
        let mut samples: Vec<Samples> = self.0.iter().map(|_| Samples::default()).collect();
        for _ in 0..times {
            for (samples, time) in samples.iter_mut().zip(self.each(&mut ask)?) {
                samples.push_us(time);
            }
        }
        Ok(samples)
    }

    /// Rows without a bar: what each peer adds.
    fn remarks(&self, samples: &[Samples], figure: impl Fn(&Samples, &Samples) -> f64) {
        for ((name, _), of_peer) in self.0.iter().zip(samples).skip(RELAYED + 1) {
            remark(&format!("  the same, {name}"), figure(of_peer, &samples[DIRECT]), "µs", "");
        }
    }
}

pub fn run(cloud: &Cloud, options: &Options) -> Result<(), Error> {
    if !["latency", "first-token", "frames", "memory"].iter().any(|row| options.wants(row)) {
        return Ok(());
    }
    let program = Program::start(Some(cloud.address()))?;
    let peers = peers::start(cloud.address());
    if options.wants("latency") {
        latency(&mut Paths::open(cloud, &program, &peers)?, options)?;
    }
    if options.wants("first-token") {
        first_token(&mut Paths::open(cloud, &program, &peers)?, options)?;
    }
    if options.wants("frames") {
        frames(cloud, &mut Paths::open(cloud, &program, &peers)?, options)?;
    }
    drop(peers);
    if options.wants("memory") {
        memory(cloud, &program)?;
    }
    Ok(())
}

fn latency(paths: &mut Paths, options: &Options) -> Result<(), Error> {
    let asked = body(false, 256, "hello");
    let samples = paths.times(options.trials * PAIRS, |client| {
        client.send(Say::Whole, &asked, 0)?;
        client.finish()
    })?;
    let (direct, relayed) = (&samples[DIRECT], &samples[RELAYED]);
    let how = format!(
        "body {} B, reply 1 KB, {} rounds; direct {:.1}, relayed {:.1}",
        asked.len(),
        relayed.len(),
        direct.median(),
        relayed.median()
    );
    line("added latency, whole reply, p50", relayed.above(direct).median(), LATENCY, &how);
    paths.remarks(&samples, |peer, direct| peer.above(direct).median());
    remark("  the same, p99 less p99", relayed.quantile(0.99) - direct.quantile(0.99), "µs", "");
    Ok(())
}

fn first_token(paths: &mut Paths, options: &Options) -> Result<(), Error> {
    let asked = body(true, 256, "hello");
    let say = Say::Frames { count: 1, every: Duration::ZERO };
    let samples = paths.times(options.trials, |client| {
        client.send(say, &asked, 0)?;
        let at = client.until(STAMP, 0)?.duration_since(client.sent_at());
        client.finish()?;
        Ok(at)
    })?;
    let (direct, relayed) = (&samples[DIRECT], &samples[RELAYED]);
    let how = format!("{} rounds; direct {:.1}, relayed {:.1}", relayed.len(), direct.median(), relayed.median());
    line("added time to the first token, p50", relayed.above(direct).median(), FIRST_TOKEN, &how);
    paths.remarks(&samples, |peer, direct| peer.above(direct).median());
    Ok(())
}

/// From the upstream's write to the client's read, frame by frame.
fn frames(cloud: &Cloud, paths: &mut Paths, options: &Options) -> Result<(), Error> {
    let asked = body(true, 256, "hello");
    let say = Say::Frames { count: FRAMES, every: FRAME_EVERY };
    let mut samples: Vec<Samples> = paths.0.iter().map(|_| Samples::default()).collect();
    for _ in 0..options.trials {
        let times = paths.each(|client| {
            client.send(say, &asked, 0)?;
            let mut times = Vec::with_capacity(FRAMES);
            let mut from = 0;
            for _ in 0..FRAMES {
                let at = client.until(STAMP, from)?;
                // The stamp has twenty digits, which lie in the same write.
                let digits = from + find(&client.read[from..], STAMP).ok_or("it was found just now")? + STAMP.len();
                from = digits + 20;
                let written_ns: u64 = std::str::from_utf8(client.read.get(digits..from).ok_or("half a frame")?)?.parse()?;
                times.push(at.duration_since(cloud.started()).saturating_sub(Duration::from_nanos(written_ns)));
            }
            client.finish()?;
            Ok(times)
        })?;
        for (samples, times) in samples.iter_mut().zip(times) {
            times.into_iter().for_each(|time| samples.push_us(time));
        }
    }
    let (direct, relayed) = (&samples[DIRECT], &samples[RELAYED]);
    let how = format!(
        "{} frames each, one every {} µs; p50 direct {:.1}, relayed {:.1}; p99 {:.1}, {:.1}",
        relayed.len(),
        FRAME_EVERY.as_micros(),
        direct.median(),
        relayed.median(),
        direct.quantile(0.99),
        relayed.quantile(0.99)
    );
    line("added per frame, p99 less p99", relayed.quantile(0.99) - direct.quantile(0.99), FRAME, &how);
    paths.remarks(&samples, |peer, direct| peer.quantile(0.99) - direct.quantile(0.99));
    remark("  the same, p50 less p50", relayed.median() - direct.median(), "µs", "");
    paths.remarks(&samples, |peer, direct| peer.median() - direct.median());
    Ok(())
}

/// Resident memory: of the program that has relayed, above one that has no upstream; and of streams that stand open.
fn memory(cloud: &Cloud, program: &Program) -> Result<(), Error> {
    Paths::open(cloud, program, &[])?;
    let alone = Program::start(None)?;
    // Both have just started as far as the engine goes: what it will hold, it holds.
    std::thread::sleep(Duration::from_millis(500));
    let above = (program.resident_kib()? - alone.resident_kib()?) / 1024.0;
    drop(alone);
    line(
        "memory of the relay path, idle, above the engine",
        above,
        IDLE,
        "VmRSS after relayed requests, less that of a server without upstreams",
    );

    let asked = body(true, 256, "hello");
    let open = |count: usize| -> Result<Vec<Client>, Error> {
        let mut clients = Vec::with_capacity(count);
        for session in 0..count {
            let mut client = Client::connect(program.address)?;
            client.send(Say::OpenEnd, &asked, session)?;
            client.until(b"Well", 0)?;
            clients.push(client);
        }
        Ok(clients)
    };
    // The first ones fill what is kept between requests.
    let warm = open(8)?;
    let before = program.resident_kib()?;
    // Within the silence that a stream is allowed: they must not have been taken over when memory is read.
    let clients = open(STREAMS)?;
    let each = (program.resident_kib()? - before) / clients.len() as f64;
    line("memory of an open stream that is idle", each, STREAM, &format!("{STREAMS} streams, each of its own conversation"));
    drop((warm, clients));
    Ok(())
}
