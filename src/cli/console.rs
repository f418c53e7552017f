//! What a command may touch of its surroundings: output, input, environment, and whether a person is watching.
//!
//! Handed in by `main`, so that tests give text in and get text out.

use super::args::{Colour, Global, Output};
use super::client::Client;
use super::render::Paint;
use super::stop::{Outcome, Stop};
use std::io::{BufRead, Write};
use std::path::Path;

/// The surroundings of one command.
pub struct Console<'a> {
    /// Standard output.
    pub out: &'a mut dyn Write,
    /// Standard error.
    pub err: &'a mut dyn Write,
    /// Standard input.
    pub input: &'a mut dyn BufRead,
    /// How this program is called: what to type for it in another terminal.
    pub program: &'a str,
    /// The environment; what is not UTF-8 is replaced.
    pub environment: &'a [(String, String)],
    /// Whether standard output is a terminal.
    pub out_is_terminal: bool,
    /// Whether standard error is a terminal.
    pub err_is_terminal: bool,
    /// Whether standard input is a terminal.
    pub in_is_terminal: bool,
}

impl Console<'_> {
    /// A variable that is set and not empty.
    pub fn variable(&self, name: &str) -> Option<&str> {
        let found = self.environment.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// Colours for standard output.
    pub fn paint(&self, global: &Global) -> Paint {
        self.paint_if(global.color, self.out_is_terminal)
    }

    /// Colours for standard error.
    pub fn paint_errors(&self, colour: Colour) -> Paint {
        self.paint_if(colour, self.err_is_terminal)
    }

    /// A client for the address that option, environment or default name.
    pub fn client(&self, global: &Global) -> Result<Client, Stop> {
        let address = global.admin.as_deref().or_else(|| self.variable("WEIR_ADMIN")).unwrap_or(ADMIN_DEFAULT);
        self.client_for(address, global)
    }

    /// A client for that address, with the token of option or environment.
    pub fn client_for(&self, address: &str, global: &Global) -> Result<Client, Stop> {
        let token = match &global.token_file {
            Some(path) => Some(read_token(path)?),
            None => self.variable("WEIR_TOKEN").map(|token| token.trim().to_owned()),
        };
        if token.as_ref().is_some_and(|token| !token.bytes().all(|byte| byte.is_ascii_graphic())) {
            return Err(Stop::Usage("a token holds visible ASCII characters only".to_owned()));
        }
        Client::new(address, token)
    }

    /// Prints one line.
    pub fn line(&mut self, text: &str) -> Outcome {
        Ok(writeln!(self.out, "{text}")?)
    }

    /// Prints a body of the API as it came, or what `text` makes of it.
    pub fn print(&mut self, global: &Global, body: &str, text: impl FnOnce() -> Result<String, Stop>) -> Outcome {
        let text = if global.output == Output::Json { format!("{}\n", body.trim_end()) } else { text()? };
        self.out.write_all(text.as_bytes())?;
        Ok(self.out.flush()?)
    }

    fn paint_if(&self, colour: Colour, terminal: bool) -> Paint {
        let plain = self.variable("NO_COLOR").is_some() || self.variable("TERM") == Some("dumb");
        Paint { on: colour == Colour::Always || (colour == Colour::Auto && terminal && !plain) }
    }
}

fn read_token(path: &Path) -> Result<String, Stop> {
    let text = std::fs::read_to_string(path).map_err(|error| Stop::Usage(format!("{}: {error}", path.display())))?;
    match text.trim() {
        "" => Err(Stop::Usage(format!("{}: holds no token", path.display()))),
        token => Ok(token.to_owned()),
    }
}

/// Where weir listens unless its config says otherwise.
const ADMIN_DEFAULT: &str = "http://127.0.0.1:9900";
