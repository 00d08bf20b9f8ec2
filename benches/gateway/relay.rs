//! What the relay costs while the cloud is well: time, beside the direct path to the same upstream in turns, and memory.

use std::time::Duration;

use super::client::{Client, body, find};
use super::cloud::{Cloud, STAMP, Say};
use super::figures::{Bar, Samples, difference_us, line, remark};
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

/// The two ways to one upstream.
struct Paths {
    direct: Client,
    relayed: Client,
}

impl Paths {
    fn open(cloud: &Cloud, program: &Program) -> Result<Self, Error> {
        let mut paths = Self { direct: Client::connect(cloud.address())?, relayed: Client::connect(program.address)? };
        let asked = body(false, 256, "hello");
        for _ in 0..50 {
            paths.each(|client, _| {
                client.send(Say::Whole, &asked, 0)?;
                client.finish()
            })?;
        }
        match paths.relayed.is_of_cloud() {
            true => Ok(paths),
            false => Err("the relay does not ask the upstream".into()),
        }
    }

    /// Direct, then relayed.
    fn each<T>(&mut self, mut ask: impl FnMut(&mut Client, Path) -> Result<T, Error>) -> Result<[T; 2], Error> {
        Ok([ask(&mut self.direct, Path::Direct)?, ask(&mut self.relayed, Path::Relayed)?])
    }
}

#[derive(Debug, Clone, Copy)]
enum Path {
    Direct,
    Relayed,
}

pub fn run(cloud: &Cloud, options: &Options) -> Result<(), Error> {
    if !["latency", "first-token", "frames", "memory"].iter().any(|row| options.wants(row)) {
        return Ok(());
    }
    let program = Program::start(Some(cloud.address()))?;
    if options.wants("latency") {
        latency(&mut Paths::open(cloud, &program)?, options)?;
    }
    if options.wants("first-token") {
        first_token(&mut Paths::open(cloud, &program)?, options)?;
    }
    if options.wants("frames") {
        frames(cloud, &mut Paths::open(cloud, &program)?, options)?;
    }
    if options.wants("memory") {
        memory(cloud, &program)?;
    }
    Ok(())
}

fn latency(paths: &mut Paths, options: &Options) -> Result<(), Error> {
    let asked = body(false, 256, "hello");
    let [mut direct, mut relayed, mut added] = [(); 3].map(|()| Samples::default());
    for _ in 0..options.trials * PAIRS {
        let [one, other] = paths.each(|client, _| {
            client.send(Say::Whole, &asked, 0)?;
            client.finish()
        })?;
        direct.push_us(one);
        relayed.push_us(other);
        added.push(difference_us(other, one));
    }
    let how = format!(
        "body {} B, reply 1 KB, {} pairs; direct {:.1}, relayed {:.1}",
        asked.len(),
        added.len(),
        direct.median(),
        relayed.median()
    );
    line("added latency, whole reply, p50", added.median(), LATENCY, &how);
    remark("  the same, p99 less p99", relayed.quantile(0.99) - direct.quantile(0.99), "µs", "");
    Ok(())
}

fn first_token(paths: &mut Paths, options: &Options) -> Result<(), Error> {
    let asked = body(true, 256, "hello");
    let say = Say::Frames { count: 1, every: Duration::ZERO };
    let [mut direct, mut relayed, mut added] = [(); 3].map(|()| Samples::default());
    for _ in 0..options.trials {
        let [one, other] = paths.each(|client, _| {
            client.send(say, &asked, 0)?;
            let at = client.until(STAMP, 0)?.duration_since(client.sent_at());
            client.finish()?;
            Ok(at)
        })?;
        direct.push_us(one);
        relayed.push_us(other);
        added.push(difference_us(other, one));
    }
    let how = format!("{} pairs; direct {:.1}, relayed {:.1}", added.len(), direct.median(), relayed.median());
    line("added time to the first token, p50", added.median(), FIRST_TOKEN, &how);
    Ok(())
}

/// From the upstream's write to the client's read, frame by frame.
fn frames(cloud: &Cloud, paths: &mut Paths, options: &Options) -> Result<(), Error> {
    let asked = body(true, 256, "hello");
    let say = Say::Frames { count: FRAMES, every: FRAME_EVERY };
    let [mut direct, mut relayed] = [(); 2].map(|()| Samples::default());
    for _ in 0..options.trials {
        paths.each(|client, path| {
            client.send(say, &asked, 0)?;
            let samples = if matches!(path, Path::Direct) { &mut direct } else { &mut relayed };
            let mut from = 0;
            for _ in 0..FRAMES {
                let at = client.until(STAMP, from)?;
                // The stamp has twenty digits, which lie in the same write.
                let digits = from + find(&client.read[from..], STAMP).ok_or("it was found just now")? + STAMP.len();
                from = digits + 20;
                let written_ns: u64 = std::str::from_utf8(client.read.get(digits..from).ok_or("half a frame")?)?.parse()?;
                samples.push_us(at.duration_since(cloud.started()).saturating_sub(Duration::from_nanos(written_ns)));
            }
            client.finish()
        })?;
    }
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
    remark("  the same, p50 less p50", relayed.median() - direct.median(), "µs", "");
    Ok(())
}

/// Resident memory: of the program that has relayed, above one that has no upstream; and of streams that stand open.
fn memory(cloud: &Cloud, program: &Program) -> Result<(), Error> {
    Paths::open(cloud, program)?;
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
