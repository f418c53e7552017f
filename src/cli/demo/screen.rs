//! The terminal while the live view is shown: keys one by one, an own screen, everything as it was on drop.

use super::upstream::Mode;
use crossterm::event::{Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers, poll, read};
use crossterm::terminal::{disable_raw_mode, enable_raw_mode, size};
use std::io::{self, Write};
use std::time::Duration;

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// More weight.
    More,
    /// Less weight.
    Less,
    /// The plan paused, or gone on with.
    Pause,
    /// The next stage.
    Next,
    /// Everyone to stable, as a step of the plan.
    Rollback,
    /// Everyone to stable at once.
    Kill,
    /// The kill undone, the breaker closed, or a plan that was rolled back gone on with.
    Revive,
    /// The new upstream made healthy, slow or failing.
    Break(Mode),
    /// The end.
    Quit,
}

/// The terminal in the demo's hands.
#[derive(Debug)]
pub struct Screen(());

impl Screen {
    /// Takes the terminal: no echo, no line editing, a screen of its own, no cursor.
    pub fn open() -> io::Result<Screen> {
        enable_raw_mode()?;
        let screen = Screen(());
        write_now("\x1b[?1049h\x1b[?25l\x1b[2J")?;
        Ok(screen)
    }

    /// The keys pressed since the last call.
    pub fn keys(&self) -> io::Result<Vec<Key>> {
        let mut keys = Vec::new();
        while poll(Duration::ZERO)? {
            if let Event::Key(event) = read()? {
                keys.extend(meaning(event));
            }
        }
        Ok(keys)
    }

    /// Columns and rows.
    pub fn size(&self) -> (usize, usize) {
        size().map_or((80, 24), |(columns, rows)| (usize::from(columns), usize::from(rows)))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = write_now("\x1b[?25h\x1b[?1049l");
        let _ = disable_raw_mode();
    }
}

fn write_now(text: &str) -> io::Result<()> {
    let mut out = io::stdout();
    out.write_all(text.as_bytes())?;
    out.flush()
}

fn meaning(event: KeyEvent) -> Option<Key> {
    if event.kind == KeyEventKind::Release {
        return None;
    }
    let control = event.modifiers.contains(KeyModifiers::CONTROL);
    match event.code {
        KeyCode::Char('c' | 'd') if control => Some(Key::Quit),
        KeyCode::Char('+' | '=') | KeyCode::Up => Some(Key::More),
        KeyCode::Char('-' | '_') | KeyCode::Down => Some(Key::Less),
        KeyCode::Char('p') => Some(Key::Pause),
        KeyCode::Char('n') => Some(Key::Next),
        KeyCode::Char('b') => Some(Key::Rollback),
        KeyCode::Char('k') => Some(Key::Kill),
        KeyCode::Char('r') => Some(Key::Revive),
        KeyCode::Char('h') => Some(Key::Break(Mode::Healthy)),
        KeyCode::Char('s') => Some(Key::Break(Mode::Slow)),
        KeyCode::Char('f') => Some(Key::Break(Mode::Failing)),
        KeyCode::Char('q') | KeyCode::Esc => Some(Key::Quit),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_mean_what_the_screen_says() {
        let plain = |key| meaning(KeyEvent::new(KeyCode::Char(key), KeyModifiers::NONE));
        assert_eq!(plain('+'), Some(Key::More));
        assert_eq!(plain('-'), Some(Key::Less));
        assert_eq!(plain('p'), Some(Key::Pause));
        assert_eq!(plain('n'), Some(Key::Next));
        assert_eq!(plain('b'), Some(Key::Rollback));
        assert_eq!(plain('s'), Some(Key::Break(Mode::Slow)));
        assert_eq!(plain('q'), Some(Key::Quit));
        assert_eq!(plain('c'), None);
        assert_eq!(meaning(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), Some(Key::Quit));
    }
}
