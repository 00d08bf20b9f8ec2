//! What the front door costs while the cloud is well, and how fast it is when the cloud is not: one table, the bars beside, nothing
//! asserted. Linux alone is asked for memory.
//!
//!     cargo bench --bench gateway -- [--trials N] [--only latency,first-token,frames,memory,switch,silence,reset,return] [--slow]
//!
//! The upstream is one on loopback that writes prepared bytes. What the relay costs is measured on the program as it is delivered, in a
//! process of its own, each request in turn with one that goes to the upstream directly. Switches are measured on the same server in this
//! process, with the built-in model as the last tier, because rules have to be told that no configuration has: breakers that stay closed,
//! limits of a hundredth. `--slow` waits for the default limits, too: a minute more.

mod client;
mod cloud;
mod comeback;
mod figures;
mod local;
mod peers;
mod program;
mod relay;
mod switches;

use cloud::Cloud;
use local::Local;

pub type Error = Box<dyn std::error::Error>;

const ROWS: [&str; 8] = ["latency", "first-token", "frames", "memory", "switch", "silence", "reset", "return"];

pub struct Options {
    pub trials: usize,
    pub slow: bool,
    only: Vec<String>,
}

fn main() -> Result<(), Error> {
    let options = Options::of(std::env::args().skip(1))?;
    let cloud = Cloud::start()?;
    println!("{} trials unless said otherwise; figure, bar, whether it is reached", options.trials);
    relay::run(&cloud, &options)?;
    if ["switch", "silence", "reset", "return"].iter().any(|row| options.wants(row)) {
        let local = Local::start()?;
        switches::run(&cloud, &local, &options)?;
        comeback::run(&cloud, &local, &options)?;
    }
    println!("the sixteen scenarios and the sixty fault cases are tests: cargo test --test tests gateway::");
    Ok(())
}

impl Options {
    fn of(args: impl Iterator<Item = String>) -> Result<Self, Error> {
        let mut options = Self { trials: 200, slow: false, only: Vec::new() };
        // Cargo adds `--bench`.
        let mut args = args.filter(|arg| arg != "--bench");
        while let Some(name) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{name} wants a value"));
            match name.as_str() {
                "--trials" => options.trials = value()?.parse()?,
                "--only" => options.only = value()?.split(',').map(str::to_owned).collect(),
                "--slow" => options.slow = true,
                _ => return Err(format!("unknown option {name}").into()),
            }
        }
        match options.only.iter().find(|row| !ROWS.contains(&row.as_str())) {
            Some(wrong) => Err(format!("no row {wrong}; the rows are {}", ROWS.join(", ")).into()),
            None => Ok(options),
        }
    }

    pub fn wants(&self, row: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == row)
    }
}
