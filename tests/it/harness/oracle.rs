//! An origin that knows for every request how its answer must look, and that notices every request that is submitted
//! twice: each has an id, in its path, in a field and in its body.

use super::caller::{Ask, Ending, Payload};
use super::origin::{Origin, Seen};
use super::relay::Relay;
use super::reply::{Answer, Content, Reply};
use bytes::Bytes;
use std::collections::BTreeMap;

/// The field that carries the id.
pub const ID: &str = "x-chaos-id";
/// The field that asks for a way of answering.
const FORM: &str = "x-answer";

/// An origin that answers `Form`s.
pub struct Oracle {
    /// The origin.
    pub origin: Origin,
}

/// How a request's body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    Nothing,
    /// Its length is announced.
    Sized,
    /// It is not.
    Chunked,
}

impl Framing {
    /// All of them.
    pub const ALL: [Framing; 3] = [Framing::Nothing, Framing::Sized, Framing::Chunked];
}

/// How an answer's body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Its length is announced.
    Sized,
    /// It is not.
    Chunked,
    /// It is not, and trailers follow.
    Trailers,
}

impl Form {
    /// All of them.
    pub const ALL: [Form; 3] = [Form::Sized, Form::Chunked, Form::Trailers];
}

/// How often a request was submitted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Submitted {
    /// Times that something of it was sent.
    pub begun: u64,
    /// Times that it arrived whole.
    pub whole: u64,
}

/// A request with a new id.
pub fn ask(method: &'static str, path: &str, id: &str, framing: Framing, form: Form) -> Ask {
    let payload = match framing {
        Framing::Nothing => Payload::Nothing,
        Framing::Sized => Payload::Sized(upload(id).concat()),
        Framing::Chunked => Payload::Chunked(upload(id).to_vec()),
    };
    let fields = vec![(ID, id.to_owned()), (FORM, format!("{form:?}")), ("x-user-id", id.to_owned())];
    Ask { method, target: format!("{path}/{id}"), fields, payload }
}

/// The body of every answer to that id.
pub fn answer_to(id: &str) -> String {
    download(id).concat()
}

/// Whether an ending is the whole and right answer to that id.
pub fn is_right(ending: &Ending, id: &str) -> bool {
    matches!(ending, Ending::Answer { status: 200, body, .. } if *body == answer_to(id))
}

fn upload(id: &str) -> [String; 3] {
    [format!("{id} is asked "), "word ".repeat(40), format!("{id} ends")]
}

fn download(id: &str) -> [String; 3] {
    [format!("{id} is answered "), "word ".repeat(30), format!("{id} ends")]
}

impl Oracle {
    /// Starts one.
    pub async fn start(name: &str) -> Oracle {
        let origin = Origin::start(name).await;
        let of = name.to_owned();
        origin.script(move |seen| answer(seen, &of));
        Oracle { origin }
    }

    /// The requests of that method that have arrived here or were sent here through `relay`, by id.
    pub fn submitted(&self, method: &str, relay: Option<&Relay>) -> BTreeMap<String, Submitted> {
        let mut submitted = BTreeMap::<String, Submitted>::new();
        for seen in self.origin.state().requests.iter().filter(|seen| seen.method == method) {
            // One changed byte can turn an id into another one, but not twice alike.
            let (in_path, in_field) = (seen.target.rsplit('/').next().unwrap_or_default(), seen.field(ID));
            let id = if in_field == Some(in_path) { in_path.to_owned() } else { format!("{in_path} {in_field:?}") };
            let of = submitted.entry(id).or_default();
            of.begun += 1;
            of.whole += u64::from(seen.complete);
        }
        if let Some(relay) = relay {
            relay.look(|done| {
                let lines = done.begun.iter().filter(|(line, _)| line.starts_with(method));
                for (id, &begun) in lines.filter_map(|(line, begun)| Some((id_of(line)?, begun))) {
                    // What the relay has passed on is counted above as well.
                    let of = submitted.entry(id.to_owned()).or_default();
                    of.begun = of.begun.max(begun);
                }
            });
        }
        submitted
    }

    /// The ids of whole requests whose body is not theirs.
    pub fn mixed_up(&self) -> Vec<String> {
        let is_mixed = |seen: &&Seen| {
            let id = seen.field(ID).unwrap_or_default();
            seen.complete
                && seen.body_bytes > 0
                && seen.body_checksum != crc32fast::hash(upload(id).concat().as_bytes())
        };
        let id = |seen: &Seen| format!("{} {}", seen.method, seen.target);
        self.origin.state().requests.iter().filter(is_mixed).map(id).collect()
    }
}

/// The ids among `counts`, one count for each place a request may go, that were submitted more than once.
pub fn duplicates(counts: &[BTreeMap<String, Submitted>]) -> Vec<(String, Submitted)> {
    let mut sums = BTreeMap::<String, Submitted>::new();
    for (id, submitted) in counts.iter().flatten() {
        let sum = sums.entry(id.clone()).or_default();
        sum.begun += submitted.begun;
        sum.whole += submitted.whole;
    }
    sums.into_iter().filter(|(_, sum)| sum.begun > 1 || sum.whole > 1).collect()
}

/// The id in a request line.
fn id_of(line: &str) -> Option<&str> {
    line.split(' ').nth(1)?.rsplit('/').next()
}

fn answer(seen: &Seen, origin: &str) -> Reply {
    let pieces = download(seen.field(ID).unwrap_or_default());
    let form = Form::ALL.into_iter().find(|form| seen.field(FORM) == Some(&format!("{form:?}")));
    let body = match form {
        None | Some(Form::Sized) => Content::Sized(Bytes::from(pieces.concat())),
        Some(Form::Chunked | Form::Trailers) => Content::Chunked(pieces.map(Bytes::from).to_vec()),
    };
    let trailers = if form == Some(Form::Trailers) { vec![("x-sum", "1")] } else { Vec::new() };
    let fields = vec![("x-origin", origin.to_owned())];
    Reply::Answer(Answer { fields, body, trailers, ..Answer::default() })
}
