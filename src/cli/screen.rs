//! A terminal in our hands: keys one by one, a screen of its own, frames drawn over each other, everything as it was on
//! drop.

use crossterm::event::{Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers, poll, read};
use crossterm::terminal::{disable_raw_mode, enable_raw_mode, size};
use std::io::{self, Write};
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What came from the person at the terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// `q`, Esc, Ctrl-C or Ctrl-D.
    Quit,
    /// Another key.
    Key(KeyEvent),
    /// The window has another size; what it showed is cleared.
    Resized,
}

/// The terminal, until it is dropped.
#[derive(Debug)]
pub struct Screen(());

impl Screen {
    /// Takes the terminal: no echo, no line editing, a screen of its own, no cursor, no wrapped lines.
    pub fn open() -> io::Result<Screen> {
        enable_raw_mode()?;
        let screen = Screen(());
        write_now("\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J")?;
        Ok(screen)
    }

    /// What came since the last call.
    pub fn inputs(&self) -> io::Result<Vec<Input>> {
        let mut inputs = Vec::new();
        while poll(Duration::ZERO)? {
            inputs.extend(meaning(&read()?));
        }
        if inputs.contains(&Input::Resized) {
            // Terminals move what they showed when they are resized: nothing of it may stay.
            write_now("\x1b[2J")?;
        }
        Ok(inputs)
    }

    /// Columns and rows.
    pub fn size(&self) -> (usize, usize) {
        size().map_or((80, 24), |(columns, rows)| (usize::from(columns), usize::from(rows)))
    }
}

/// How wide the terminal is, for what is printed and left there.
pub fn columns() -> usize {
    size().map_or(80, |(columns, _)| usize::from(columns))
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = write_now("\x1b[?7h\x1b[?25h\x1b[?1049l");
        let _ = disable_raw_mode();
    }
}

fn write_now(text: &str) -> io::Result<()> {
    let mut out = io::stdout();
    out.write_all(text.as_bytes())?;
    out.flush()
}

fn meaning(event: &Event) -> Option<Input> {
    match *event {
        Event::Key(key) if key.kind == KeyEventKind::Release => None,
        Event::Key(key) if is_quit(key) => Some(Input::Quit),
        Event::Key(key) => Some(Input::Key(key)),
        Event::Resize(..) => Some(Input::Resized),
        _ => None,
    }
}

/// Whether it is a key that ends what is shown.
pub fn is_quit(key: KeyEvent) -> bool {
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    match key.code {
        KeyCode::Char('c' | 'd') => control,
        KeyCode::Char('q') | KeyCode::Esc => true,
        _ => false,
    }
}

/// What ends a process from outside: then the terminal must be given back first.
#[derive(Debug)]
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    /// Listens for them from now on; inside a runtime.
    pub fn new() -> io::Result<Signals> {
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits that long; true if a signal came.
    pub async fn within(&mut self, span: Duration) -> bool {
        tokio::select! {
            () = tokio::time::sleep(span) => false,
            _ = self.interrupt.recv() => true,
            _ = self.terminate.recv() => true,
            _ = self.hangup.recv() => true,
        }
    }
}

/// A whole screen out of lines, drawn over the last one: each line is cut at the width and its rest cleared, then whatever
/// was below. Nothing is cleared before it is written, so nothing flickers. Where lines are left out, the last one says so.
pub fn frame(text: &str, columns: usize, rows: usize) -> String {
    let (room, count) = (rows.saturating_sub(1), text.lines().count());
    let shown = if count > room { room.saturating_sub(1) } else { count };
    let mut drawn = String::from("\x1b[H");
    let mut draw = |line: &str| {
        drawn.push_str(&cut(line, columns));
        drawn.push_str("\x1b[K\r\n");
    };
    text.lines().take(shown).for_each(&mut draw);
    if room > 0 && count > room {
        draw(&format!("... {} more lines; a taller window shows them", count - shown));
    }
    drawn + "\x1b[J"
}

/// The first `columns` characters of a line, the last of them `…` where more would have come: half a number must not look like
/// one. Colours take no room and end with the line.
pub fn cut(line: &str, columns: usize) -> String {
    let mut pieces: Vec<&str> = Vec::new();
    let (mut used, mut painted) = (0, false);
    for piece in pieces_of(line.trim_end()) {
        let wide = room(piece);
        painted |= wide == 0;
        if used + wide > columns {
            if let Some(last) = pieces.iter_mut().rev().find(|piece| room(piece) > 0) {
                *last = "…";
            }
            return pieces.concat() + if painted { "\x1b[0m" } else { "" };
        }
        used += wide;
        pieces.push(piece);
    }
    pieces.concat()
}

/// A line over as many as its words need at that width, those behind the first one indented. Colours take no room.
pub fn fold(line: &str, columns: usize) -> String {
    let (mut text, mut used) = (String::new(), 0);
    for (number, word) in line.split(' ').enumerate() {
        let wide: usize = pieces_of(word).map(room).sum();
        if used > 0 && used + 1 + wide > columns {
            text.truncate(text.trim_end().len());
            text.push_str("\n  ");
            used = 2;
        } else if number > 0 {
            text.push(' ');
            used += 1;
        }
        text.push_str(word);
        used += wide;
    }
    text
}

/// Characters and colours, one by one. Ours are all of the form ESC [ digits m.
fn pieces_of(line: &str) -> impl Iterator<Item = &str> {
    let mut rest = line;
    std::iter::from_fn(move || {
        let first = rest.chars().next()?;
        let length = if first == '\x1b' { rest.find('m').map_or(rest.len(), |end| end + 1) } else { first.len_utf8() };
        let (piece, behind) = rest.split_at(length);
        rest = behind;
        Some(piece)
    })
}

fn room(piece: &str) -> usize {
    usize::from(!piece.starts_with('\x1b'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_end_it_are_known_and_others_handed_on() {
        let key = |code, modifiers| Event::Key(KeyEvent::new(code, modifiers));
        for quit in [
            key(KeyCode::Char('q'), KeyModifiers::NONE),
            key(KeyCode::Esc, KeyModifiers::NONE),
            key(KeyCode::Char('c'), KeyModifiers::CONTROL),
        ] {
            assert_eq!(meaning(&quit), Some(Input::Quit), "{quit:?}");
        }
        let other = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::NONE);
        assert_eq!(meaning(&Event::Key(other)), Some(Input::Key(other)));
        assert_eq!(meaning(&Event::Resize(100, 30)), Some(Input::Resized));
        assert_eq!(meaning(&Event::FocusGained), None);
        let released = KeyEvent::new_with_kind(KeyCode::Esc, KeyModifiers::NONE, KeyEventKind::Release);
        assert_eq!(meaning(&Event::Key(released)), None);
    }

    #[test]
    fn a_line_is_cut_at_the_width_and_its_colour_ends_there() {
        assert_eq!(cut("rollout", 4), "rol…");
        assert_eq!(cut("rollout", 7), "rollout");
        assert_eq!(cut("\x1b[31mkilled\x1b[0m now", 4), "\x1b[31mkil…\x1b[0m");
        assert_eq!(cut("\x1b[31mkilled\x1b[0m now", 6), "\x1b[31mkille…\x1b[0m\x1b[0m");
        assert_eq!(cut("killed   ", 6), "killed", "nothing is lost");
        assert_eq!(cut("\x1b[31mkilled\x1b[0m", 6), "\x1b[31mkilled\x1b[0m");
        assert_eq!(cut("▁▂▃▄", 2), "▁…");
        assert_eq!(cut("a", 0), "");
    }

    #[test]
    fn words_go_on_in_the_next_line_and_colours_take_no_room() {
        assert_eq!(fold("stage ten runs", 9), "stage ten\n  runs");
        assert_eq!(fold("\x1b[31mstage\x1b[0m  ten runs", 9), "\x1b[31mstage\x1b[0m\n  ten\n  runs");
        assert_eq!(fold("a-word-that-fits-nowhere", 4), "a-word-that-fits-nowhere");
        assert_eq!(fold("  far in", 6), "  far\n  in");
    }

    #[test]
    fn a_frame_is_drawn_over_the_last_one_and_never_scrolls() {
        assert_eq!(frame("one\ntwo\n", 2, 10), "\x1b[Ho…\x1b[K\r\nt…\x1b[K\r\n\x1b[J");
        let frame = frame("one\ntwo\nthree\nfour\n", 80, 4);
        assert_eq!(
            frame,
            "\x1b[Hone\x1b[K\r\ntwo\x1b[K\r\n... 2 more lines; a taller window shows them\x1b[K\r\n\x1b[J"
        );
        assert_eq!(super::frame("one\n", 80, 0), "\x1b[H\x1b[J");
    }
}
