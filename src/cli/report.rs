//! `weir report`: what happened to a rollout, as Markdown, HTML or JSON.

use super::args::{Format, Global, Output, Report};
use super::client::encode;
use super::console::Console;
use super::stop::Outcome;
use crate::config::units::print_span;

/// Prints the report that the running weir writes.
pub fn run(console: &mut Console, global: &Global, arguments: &Report) -> Outcome {
    let format = match (global.output, arguments.format) {
        (_, Some(format)) => format,
        (Output::Json, None) => Format::Json,
        (Output::Text, None) => Format::Md,
    };
    let path = format!(
        "/api/v1/rollouts/{}/report?since={}&format={}",
        encode(&arguments.rollout),
        print_span(arguments.since),
        format.word()
    );
    let answer = console.client(global)?.ask(&path)?;
    // Escaped by weir for its form; a terminal's own commands are not part of any.
    console.out.write_all(answer.text.as_bytes())?;
    Ok(console.out.flush()?)
}
