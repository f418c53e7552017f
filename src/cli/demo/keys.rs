//! What a key means while the live view is shown.

use super::upstream::Mode;
use crate::cli::screen::is_quit;
use crossterm::event::{KeyCode, KeyEvent, KeyEventKind};

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

/// What the key means here, if anything.
pub fn meaning(event: KeyEvent) -> Option<Key> {
    if event.kind == KeyEventKind::Release {
        return None;
    }
    if is_quit(event) {
        return Some(Key::Quit);
    }
    match event.code {
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
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossterm::event::KeyModifiers;

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
