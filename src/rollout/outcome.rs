//! Every end of a request, classified once: which class of answer, which kind of failure, and whether the arm is to blame.
//!
//! Clients that leave, 4xx and whatever weir itself refuses never count against an arm. Called by the data plane at the
//! end of each request; the counts in `tally` use the slots named here.

/// The class of an answer's status, or none when no answer came; the `code` label of the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodeClass {
    /// No answer from the upstream reached the client.
    None,
    /// 1xx, which ends a request only as a switch of protocols.
    Informational,
    /// 2xx.
    Success,
    /// 3xx.
    Redirect,
    /// 4xx.
    Client,
    /// 5xx.
    Server,
}

impl CodeClass {
    /// How many classes there are.
    pub const COUNT: usize = 6;
    /// All classes, in index order.
    pub const ALL: [CodeClass; Self::COUNT] = [
        CodeClass::None,
        CodeClass::Informational,
        CodeClass::Success,
        CodeClass::Redirect,
        CodeClass::Client,
        CodeClass::Server,
    ];

    /// The class of an HTTP status; anything outside 100..=599 is `None`.
    pub const fn of(status: u16) -> CodeClass {
        match status {
            100..=199 => CodeClass::Informational,
            200..=299 => CodeClass::Success,
            300..=399 => CodeClass::Redirect,
            400..=499 => CodeClass::Client,
            500..=599 => CodeClass::Server,
            _ => CodeClass::None,
        }
    }

    /// The value of the `code` label.
    pub const fn label(self) -> &'static str {
        match self {
            CodeClass::None => "none",
            CodeClass::Informational => "1xx",
            CodeClass::Success => "2xx",
            CodeClass::Redirect => "3xx",
            CodeClass::Client => "4xx",
            CodeClass::Server => "5xx",
        }
    }
}

/// A way in which an upstream failed a request; the `kind` label of `weir_request_errors_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// It answered with a status that counts as a failure.
    Status,
    /// No TCP connection: refused, unreachable, timed out, or no endpoint to connect to.
    Connect,
    /// The TLS handshake with it failed.
    Tls,
    /// No answer, or no further body byte, in time.
    Timeout,
    /// It closed or reset before its answer began.
    Reset,
    /// It cut the body after its answer began.
    Truncated,
    /// What it sent is not HTTP.
    Protocol,
    /// Its gRPC status says that the server is at fault.
    Grpc,
}

impl ErrorKind {
    /// How many kinds there are.
    pub const COUNT: usize = 8;
    /// All kinds, in index order.
    pub const ALL: [ErrorKind; Self::COUNT] = [
        ErrorKind::Status,
        ErrorKind::Connect,
        ErrorKind::Tls,
        ErrorKind::Timeout,
        ErrorKind::Reset,
        ErrorKind::Truncated,
        ErrorKind::Protocol,
        ErrorKind::Grpc,
    ];

    /// The value of the `kind` label.
    pub const fn label(self) -> &'static str {
        match self {
            ErrorKind::Status => "status_5xx",
            ErrorKind::Connect => "connect",
            ErrorKind::Tls => "tls",
            ErrorKind::Timeout => "timeout",
            ErrorKind::Reset => "reset",
            ErrorKind::Truncated => "truncated",
            ErrorKind::Protocol => "protocol",
            ErrorKind::Grpc => "grpc",
        }
    }
}

/// How a request ended, as the data plane saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The whole answer went out.
    Complete,
    /// The client went away before that; nobody's failure.
    ClientLeft,
    /// The upstream failed in this way.
    Failed(ErrorKind),
}

/// Everything that decides whether a request counts against its arm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The status of the upstream's answer; none if there was no answer.
    pub status: Option<u16>,
    /// The `grpc-status` of head or trailers, where the answer has one.
    pub grpc_status: Option<u8>,
    /// How it ended.
    pub end: End,
}

/// Which outcomes count as the arm's failure: `[rollouts.NAME.errors]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorRules {
    /// Inclusive ranges of statuses that count, e.g. `(500, 599)`.
    pub statuses: Vec<(u16, u16)>,
    /// Whether a gRPC status that means server fault counts.
    pub grpc: bool,
}

impl Default for ErrorRules {
    fn default() -> Self {
        ErrorRules { statuses: vec![(500, 599)], grpc: true }
    }
}

impl ErrorRules {
    /// The kind of failure that `outcome` is for its arm, or none. A failure to deliver outranks the status.
    pub fn failure(&self, outcome: &Outcome) -> Option<ErrorKind> {
        if let End::Failed(kind) = outcome.end {
            return Some(kind);
        }
        let counts = |status: u16| self.statuses.iter().any(|&(low, high)| (low..=high).contains(&status));
        if outcome.status.is_some_and(counts) {
            return Some(ErrorKind::Status);
        }
        if self.grpc && outcome.grpc_status.is_some_and(grpc_server_fault) {
            return Some(ErrorKind::Grpc);
        }
        None
    }
}

/// Whether a gRPC status code blames the server: unknown (2), deadline exceeded (4), unimplemented (12), internal (13),
/// unavailable (14), data loss (15). The others describe the caller's request or a normal refusal
/// (gRPC "Status codes and their use").
const fn grpc_server_fault(code: u8) -> bool {
    matches!(code, 2 | 4 | 12 | 13 | 14 | 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(status: Option<u16>, end: End) -> Outcome {
        Outcome { status, grpc_status: None, end }
    }

    #[test]
    fn a_client_that_leaves_and_a_4xx_blame_nobody() {
        let rules = ErrorRules::default();
        assert_eq!(rules.failure(&outcome(None, End::ClientLeft)), None);
        assert_eq!(rules.failure(&outcome(Some(404), End::Complete)), None);
        assert_eq!(rules.failure(&outcome(Some(200), End::Complete)), None);
    }

    #[test]
    fn a_5xx_counts_even_if_the_client_left_meanwhile() {
        let rules = ErrorRules::default();
        assert_eq!(rules.failure(&outcome(Some(503), End::ClientLeft)), Some(ErrorKind::Status));
    }

    #[test]
    fn a_cut_after_200_is_named_by_the_cut() {
        let rules = ErrorRules::default();
        let cut = outcome(Some(200), End::Failed(ErrorKind::Truncated));
        assert_eq!(rules.failure(&cut), Some(ErrorKind::Truncated));
    }

    #[test]
    fn grpc_codes_count_only_where_the_server_is_at_fault() {
        let rules = ErrorRules::default();
        let with = |code| Outcome { status: Some(200), grpc_status: Some(code), end: End::Complete };
        let blamed: Vec<u8> = (0..=16).filter(|&code| rules.failure(&with(code)).is_some()).collect();
        assert_eq!(blamed, [2, 4, 12, 13, 14, 15]);
        let off = ErrorRules { grpc: false, ..ErrorRules::default() };
        assert_eq!(off.failure(&with(13)), None);
    }

    #[test]
    fn index_order_is_the_order_of_all() {
        for (index, kind) in ErrorKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, index);
        }
        for (index, class) in CodeClass::ALL.into_iter().enumerate() {
            assert_eq!(class as usize, index);
        }
    }
}
