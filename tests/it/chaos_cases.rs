//! The steps of an exchange with an upstream, the faults that can happen at each, and what clients may see of them.

use crate::harness::caller::Ending;
use crate::harness::oracle::{Form, Framing, is_right};
use crate::harness::parts::Part;
use crate::harness::relay::{At, Fault, Shot, Way};
use fastrand::Rng;
use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

/// A step of an exchange, in the order of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// The connection is refused.
    BeforeAccept,
    /// The connection is there, nothing has passed.
    Accepted,
    /// HTTP/2: weir's frames about the connection itself, at any time.
    OpeningUp,
    /// HTTP/2: the upstream's frames about the connection itself, at any time.
    OpeningDown,
    /// Somewhere in the request's head.
    RequestHead,
    /// Somewhere in its body.
    RequestBody,
    /// After its last chunk.
    RequestTrailers,
    /// The request has been sent, no byte of an answer has come.
    Requested,
    /// Somewhere in the answer's head.
    AnswerHead,
    /// Somewhere in its body.
    AnswerBody,
    /// After its last chunk, before or in its trailers.
    AnswerTrailers,
    /// The answer is complete, the connection lies idle.
    Answered,
}

const STEPS: [Step; 12] = [
    Step::BeforeAccept,
    Step::Accepted,
    Step::OpeningUp,
    Step::OpeningDown,
    Step::RequestHead,
    Step::RequestBody,
    Step::RequestTrailers,
    Step::Requested,
    Step::AnswerHead,
    Step::AnswerBody,
    Step::AnswerTrailers,
    Step::Answered,
];

impl Step {
    /// The part of a message that it is in.
    fn part(self) -> Option<(Way, Part)> {
        match self {
            Step::BeforeAccept | Step::Accepted | Step::Answered => None,
            Step::OpeningUp => Some((Way::Up, Part::Opening)),
            Step::OpeningDown => Some((Way::Down, Part::Opening)),
            Step::RequestHead => Some((Way::Up, Part::Head)),
            Step::RequestBody => Some((Way::Up, Part::Body)),
            Step::RequestTrailers => Some((Way::Up, Part::Trailers)),
            Step::Requested | Step::AnswerHead => Some((Way::Down, Part::Head)),
            Step::AnswerBody => Some((Way::Down, Part::Body)),
            Step::AnswerTrailers => Some((Way::Down, Part::Trailers)),
        }
    }
}

/// How long each part of each kind of exchange is.
#[derive(Default)]
pub struct Layout(Vec<(Kind, [[u64; Part::COUNT]; 2])>);

type Kind = (Framing, Form);

impl Layout {
    /// Notes what one exchange was like.
    pub fn note(&mut self, framing: Framing, form: Form, lengths: [[u64; Part::COUNT]; 2]) {
        self.0.push(((framing, form), lengths));
    }

    /// Bytes at which something can happen in that step.
    fn offsets(&self, step: Step, framing: Framing, form: Form) -> std::ops::Range<u64> {
        let Some((way, part)) = step.part() else { return 0..1 };
        let known = self.0.iter().find(|(kind, _)| *kind == (framing, form));
        let length = known.map_or(0, |(_, lengths)| lengths[way as usize][part as usize]);
        match step {
            Step::Requested => 0..1,
            Step::AnswerHead => 1..length,
            _ => 0..length,
        }
    }
}

/// One exchange and what happens to it.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// When.
    pub step: Step,
    /// At which byte of the step.
    pub offset: u64,
    /// What.
    pub fault: Fault,
    /// The request's method.
    pub method: &'static str,
    /// The request's body.
    pub framing: Framing,
    /// The answer's body.
    pub form: Form,
    /// Whether the connection has carried a request before.
    pub pooled: bool,
    /// Whether the client speaks HTTP/2.
    pub http2_client: bool,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Case { step, offset, fault, method, framing, form, pooled, http2_client } = self;
        let connection = if *pooled { "pooled" } else { "fresh" };
        let client = if *http2_client { "HTTP/2" } else { "HTTP/1.1" };
        write!(
            f,
            "{fault:?} at byte {offset} of {step:?}, {method} with body {framing:?}, answer {form:?}, \
             {connection} connection, client speaks {client}"
        )
    }
}

impl Case {
    /// What the relay is to do; none where it refuses the connection instead.
    pub fn shot(&self) -> Option<Shot> {
        let at = match (self.step, self.step.part()) {
            (Step::BeforeAccept, _) => return None,
            (Step::Answered, _) => At::End(Way::Down),
            (_, Some((way, part))) => At::Byte(way, part, self.offset),
            (_, None) => At::Accept,
        };
        Some(Shot { at, fault: self.fault, message: None })
    }

    /// Whether a connection ends by it.
    pub fn breaks(&self) -> bool {
        matches!(self.fault, Fault::Reset | Fault::Cut) && self.step != Step::BeforeAccept
    }

    /// Whether the client may see its request end like this; `happened` is whether the fault did, `falls_back` whether
    /// stable may answer instead.
    pub fn allows(&self, happened: bool, falls_back: bool, ending: &Ending, id: &str) -> Result<(), &'static str> {
        let may_succeed = self.may_succeed() || (falls_back && self.method == "GET");
        let right = is_right(ending, id);
        let harmless = self.step == Step::Answered || matches!(self.fault, Fault::Slow { .. });
        match (ending, self.fault) {
            (Ending::Nothing, _) => Err("no answer at all"),
            _ if !happened || harmless => right.then_some(()).ok_or("nothing stood in its way"),
            // A changed byte may make any answer; that it has an end is all one can ask.
            (_, Fault::Garble) => Ok(()),
            (Ending::Answer { status: 200, .. }, _) if !right => Err("a wrong or short success"),
            (Ending::Answer { status: 200, .. }, _) => may_succeed.then_some(()).ok_or("a success from nowhere"),
            (Ending::Answer { status: 502..=504, origin: None, .. }, _) => Ok(()),
            (Ending::Answer { .. }, _) => Err("an answer of no one"),
            (Ending::Cut, _) if self.has_head() => Ok(()),
            (Ending::Cut, _) => Err("a cut answer where none had begun"),
        }
    }

    /// Whether weir may have found another way to the right answer.
    fn may_succeed(&self) -> bool {
        let repeatable = self.method == "GET" && self.framing == Framing::Nothing;
        // On a connection that is just there nothing may have been sent; frames about the connection may come late.
        repeatable || self.step < Step::RequestHead
    }

    /// Whether the answer's head can have reached the client.
    fn has_head(&self) -> bool {
        self.step >= Step::AnswerBody || matches!(self.step, Step::OpeningUp | Step::OpeningDown)
    }
}

/// Cases without end: first every fault at every step of every kind of request, then the answer's head byte by byte, then
/// everything byte by byte, then all over again with other bytes and kinds.
pub struct Cases {
    rng: Rng,
    layout: Layout,
    faults: Vec<Fault>,
    queue: VecDeque<Case>,
    rounds: u64,
}

impl Cases {
    /// Of these faults.
    pub fn new(rng: Rng, layout: Layout, faults: &[Fault]) -> Cases {
        Cases { rng, layout, faults: faults.to_vec(), queue: VecDeque::new(), rounds: 0 }
    }

    fn refill(&mut self) {
        let mut cases = match self.rounds % 3 {
            0 => self.every_step(),
            1 => self.byte_by_byte(&[Step::AnswerHead]),
            _ => self.byte_by_byte(&STEPS),
        };
        self.rounds += 1;
        self.rng.shuffle(&mut cases);
        self.queue.extend(cases);
    }

    fn every_step(&mut self) -> Vec<Case> {
        let mut cases = Vec::new();
        for step in STEPS {
            for fault in self.faults.clone() {
                for method in ["GET", "POST"] {
                    for framing in Framing::ALL {
                        cases.extend(self.case(step, fault, method, framing));
                    }
                }
            }
        }
        cases
    }

    fn byte_by_byte(&mut self, steps: &[Step]) -> Vec<Case> {
        let mut cases = Vec::new();
        for &step in steps {
            let kinds = || Framing::ALL.into_iter().flat_map(|framing| Form::ALL.map(|form| (framing, form)));
            let longest = kinds().map(|(framing, form)| self.layout.offsets(step, framing, form).end).max();
            for offset in 0..longest.unwrap_or(0) {
                let fault = self.faults[self.rng.usize(..self.faults.len())];
                let method = if self.rng.bool() { "GET" } else { "POST" };
                let framing = Framing::ALL[self.rng.usize(..3)];
                let case = self.case(step, fault, method, framing);
                cases.extend(case.map(|case| Case { offset, ..case }));
            }
        }
        cases
    }

    /// One with the rest left to chance; none if that kind of request has no such step.
    fn case(&mut self, step: Step, fault: Fault, method: &'static str, framing: Framing) -> Option<Case> {
        let forms: Vec<Form> =
            Form::ALL.into_iter().filter(|&form| !self.layout.offsets(step, framing, form).is_empty()).collect();
        let form = *forms.get(self.rng.usize(..forms.len().max(1)))?;
        let makes_no_sense = match step {
            Step::BeforeAccept => fault != Fault::Reset,
            Step::Accepted | Step::Answered => matches!(fault, Fault::Slow { .. } | Fault::Garble),
            _ => false,
        };
        if makes_no_sense {
            return None;
        }
        let fault = match fault {
            Fault::Slow { pause, .. } => Fault::Slow { bytes: self.rng.usize(8..40), pause },
            other => other,
        };
        let offset = self.rng.u64(self.layout.offsets(step, framing, form));
        let pooled = step > Step::OpeningDown && self.rng.bool();
        Some(Case { step, offset, fault, method, framing, form, pooled, http2_client: self.rng.bool() })
    }
}

impl Iterator for Cases {
    type Item = Case;

    fn next(&mut self) -> Option<Case> {
        if self.queue.is_empty() {
            self.refill();
        }
        self.queue.pop_front()
    }
}

/// Few bytes at a time; how many is left to chance.
pub const SLOW: Fault = Fault::Slow { bytes: 1, pause: Duration::from_millis(1) };
