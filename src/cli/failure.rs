//! How the program ends when it does not end well: one line on stderr that says what and what to do, and the exit code.

use std::fmt;
use std::io;
use std::process::ExitCode;

use super::print;
use crate::config::settings::ConfigError;
use crate::hub::HubError;

/// 128 + SIGINT, as shells report a program that Ctrl-C ended.
pub const INTERRUPTED: u8 = 130;

#[derive(Debug)]
pub enum Failure {
    /// Asked for wrongly: exit code 2.
    Usage(String),
    /// It went wrong: exit code 1.
    Runtime(anyhow::Error),
    /// Ctrl-C where a line was awaited: exit code 130, and nothing to say.
    Interrupted,
    /// A program that was started for the user ended so, or could not be started: its exit code is ours.
    OfClient { code: u8, message: Option<String> },
    /// Nobody reads standard output any more (`understudy models | head -1`): no failure of ours.
    NobodyReads,
}

impl Failure {
    /// Prints the line and returns the code.
    pub fn report(self) -> ExitCode {
        match self {
            Self::NobodyReads => ExitCode::SUCCESS,
            Self::Interrupted => ExitCode::from(INTERRUPTED),
            Self::OfClient { code, message } => {
                message.iter().for_each(|message| say(message));
                ExitCode::from(code)
            }
            Self::Usage(message) => {
                say(&message);
                ExitCode::from(2)
            }
            Self::Runtime(error) => {
                // `{:#}` joins the causes with colons: one line.
                say(&format!("{error:#}"));
                ExitCode::from(1)
            }
        }
    }

    /// A failure to write a result.
    pub fn of_output(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::NobodyReads
        } else {
            Self::Runtime(anyhow::Error::new(error).context("standard output"))
        }
    }
}

fn say(message: &str) {
    print::tell(format_args!("understudy: {message}"));
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(message) => f.write_str(message),
            Self::Runtime(error) => write!(f, "{error:#}"),
            Self::OfClient { message: Some(message), .. } => f.write_str(message),
            Self::OfClient { code, message: None } => write!(f, "the client ended with {code}"),
            Self::Interrupted => f.write_str("interrupted"),
            Self::NobodyReads => f.write_str("nobody reads the output"),
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::Usage(error.to_string())
    }
}

impl From<HubError> for Failure {
    fn from(error: HubError) -> Self {
        Self::Runtime(error.into())
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Runtime(error)
    }
}
