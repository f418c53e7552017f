//! Every way a command ends other than well, with its exit code and what the person is told.

use std::fmt;
use std::io;

/// How a command went.
pub type Outcome = Result<(), Stop>;

/// Why a command stopped.
#[derive(Debug)]
pub enum Stop {
    /// The answer is no, and has been printed.
    No,
    /// The command or the config is wrong.
    Usage(String),
    /// The config is wrong and every problem has been printed.
    Problems,
    /// The admin address does not answer, or what answers is not weir.
    Unreachable {
        /// As the person gave it.
        address: String,
        /// What happened.
        cause: String,
    },
    /// weir answered with an error.
    Refused {
        /// The HTTP status.
        status: u16,
        /// Its message.
        message: String,
        /// Its body, which `-o json` passes on.
        body: String,
    },
    /// weir refused the config that it was told to read again.
    BadConfig {
        /// Every problem.
        message: String,
        /// The answer's body, which `-o json` passes on.
        body: String,
    },
    /// What was printed could not be written; a closed pipe is no error.
    Output(io::Error),
}

impl Stop {
    /// The exit code: 1 no, 2 usage or config, 3 not reachable; 0 if the reader of a pipe has seen enough.
    pub fn code(&self) -> u8 {
        match self {
            Stop::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            Stop::No | Stop::Refused { status: 409, .. } => 1,
            Stop::Unreachable { .. } | Stop::Refused { status: 500.., .. } => 3,
            Stop::Usage(_) | Stop::Problems | Stop::Refused { .. } | Stop::BadConfig { .. } | Stop::Output(_) => 2,
        }
    }

    /// What standard error gets; none if everything has been said.
    pub fn message(&self) -> Option<String> {
        match self {
            Stop::No | Stop::Problems => None,
            Stop::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => None,
            _ => Some(self.to_string()),
        }
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stop::No => f.write_str("no"),
            Stop::Problems => f.write_str("the config has problems"),
            Stop::Usage(message) => f.write_str(message),
            Stop::Unreachable { address, cause } => {
                writeln!(f, "cannot reach weir at {address}: {cause}")?;
                f.write_str("  Is it running? Say where with --admin or WEIR_ADMIN (http://HOST:PORT or unix:PATH).")
            }
            Stop::Refused { status: 401, message, .. } => {
                writeln!(f, "{message}")?;
                f.write_str("  Give the token with --token-file or WEIR_TOKEN.")
            }
            Stop::Refused { message, .. } | Stop::BadConfig { message, .. } => f.write_str(message),
            Stop::Output(error) => write!(f, "cannot write the output: {error}"),
        }
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Stop::Output(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_those_of_the_contract() {
        let refused = |status| Stop::Refused { status, message: String::new(), body: String::new() };
        let unreachable = Stop::Unreachable { address: String::new(), cause: String::new() };
        let pipe = Stop::Output(io::ErrorKind::BrokenPipe.into());
        let full = Stop::Output(io::ErrorKind::StorageFull.into());
        for (stop, code) in [
            (Stop::No, 1),
            (refused(409), 1),
            (Stop::Usage(String::new()), 2),
            (Stop::Problems, 2),
            (Stop::BadConfig { message: String::new(), body: String::new() }, 2),
            (refused(400), 2),
            (refused(401), 2),
            (refused(404), 2),
            (full, 2),
            (unreachable, 3),
            (refused(503), 3),
            (pipe, 0),
        ] {
            assert_eq!(stop.code(), code, "{stop:?}");
        }
    }
}
