//! Places in answers as rules name them: JSON pointers (RFC 6901) in which `*` stands for any key or index, and `header:NAME`.

use std::fmt;

/// A place that rules name; for JSON everything below it too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ignore {
    /// A header, in lower case.
    Header(String),
    /// A JSON pointer's parts; without any it is the whole body.
    Pointer(Vec<Part>),
}

/// A part of a pointer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// That key, or that index.
    Key(String),
    /// Any.
    Any,
}

/// Why a text names no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IgnoreError {
    /// It is neither a pointer nor a header.
    Form,
    /// A `~` that is not `~0` or `~1`.
    Escape,
    /// It has too many parts.
    Deep,
}

impl fmt::Display for IgnoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            IgnoreError::Form => {
                f.write_str("is no place in an answer: write a JSON pointer like \"/items/*/id\", or \"header:NAME\"")
            }
            IgnoreError::Escape => f.write_str("has a `~` that is neither `~0` (for `~`) nor `~1` (for `/`)"),
            IgnoreError::Deep => write!(f, "has more than {PARTS_MAX} parts"),
        }
    }
}

impl Ignore {
    /// Reads one.
    ///
    /// # Errors
    /// `IgnoreError` if the text is none.
    pub fn parse(text: &str) -> Result<Ignore, IgnoreError> {
        if let Some(name) = text.strip_prefix("header:") {
            let name = name.trim().to_ascii_lowercase();
            let fits = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
            return fits.then_some(Ignore::Header(name)).ok_or(IgnoreError::Form);
        }
        if text.is_empty() || text == "/" {
            return Ok(Ignore::Pointer(Vec::new()));
        }
        let rest = text.strip_prefix('/').ok_or(IgnoreError::Form)?;
        let parts = rest.split('/').map(part).collect::<Result<Vec<Part>, IgnoreError>>()?;
        if parts.len() > PARTS_MAX { Err(IgnoreError::Deep) } else { Ok(Ignore::Pointer(parts)) }
    }

    /// Whether it names that header.
    pub fn is_header(&self, name: &str) -> bool {
        matches!(self, Ignore::Header(own) if own == name)
    }

    /// Whether it names all of the body.
    pub fn is_whole_body(&self) -> bool {
        matches!(self, Ignore::Pointer(parts) if parts.is_empty())
    }

    /// Whether it names exactly this place.
    pub fn is_at(&self, path: &Path<'_>) -> bool {
        let Ignore::Pointer(parts) = self else { return false };
        parts.len() == path.0.len()
            && parts.iter().zip(&path.0).rev().all(|(part, step)| match (part, step) {
                (Part::Any, _) => true,
                (Part::Key(own), Step::Key(key)) => own == key,
                (Part::Key(own), Step::Index(index)) => own.parse() == Ok(*index),
            })
    }
}

fn part(text: &str) -> Result<Part, IgnoreError> {
    if text == "*" {
        return Ok(Part::Any);
    }
    let mut key = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        key.push(match character {
            '~' => match characters.next() {
                Some('0') => '~',
                Some('1') => '/',
                _ => return Err(IgnoreError::Escape),
            },
            other => other,
        });
    }
    Ok(Part::Key(key))
}

/// A place in a body while it is walked through.
#[derive(Clone, Debug, Default)]
pub struct Path<'a>(Vec<Step<'a>>);

#[derive(Clone, Copy, Debug)]
enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

impl<'a> Path<'a> {
    /// Into a table.
    pub fn enter(&mut self, key: &'a str) {
        self.0.push(Step::Key(key));
    }

    /// Into a list.
    pub fn enter_at(&mut self, index: usize) {
        self.0.push(Step::Index(index));
    }

    /// Back out.
    pub fn leave(&mut self) {
        self.0.pop();
    }

    /// Whether it is the body itself.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The keys on the way.
    pub fn keys(&self) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter_map(|step| match step {
            Step::Key(key) => Some(*key),
            Step::Index(_) => None,
        })
    }

    /// As a pointer, cut to a stated length.
    pub fn exact(&self) -> String {
        self.written(|index| index.to_string())
    }

    /// As a pointer with `*` for every index.
    pub fn field(&self) -> String {
        self.written(|_| "*".to_owned())
    }

    fn written(&self, index: impl Fn(usize) -> String) -> String {
        let mut text = String::new();
        for step in &self.0 {
            if text.len() > PATH_BYTES_MAX {
                text.push_str("/…");
                break;
            }
            text.push('/');
            match step {
                Step::Key(key) => super::cut(key).chars().for_each(|character| match character {
                    '~' => text.push_str("~0"),
                    '/' => text.push_str("~1"),
                    other => text.push(other),
                }),
                Step::Index(at) => text.push_str(&index(*at)),
            }
        }
        if text.is_empty() { "/".to_owned() } else { text }
    }
}

/// Parts of a pointer.
const PARTS_MAX: usize = 32;
/// Bytes of a path after which it is cut.
const PATH_BYTES_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(pointer: &str, path: &Path<'_>) -> bool {
        Ignore::parse(pointer).unwrap().is_at(path)
    }

    #[test]
    fn a_pointer_names_one_place_and_a_star_any_of_its_kind() {
        let mut path = Path::default();
        path.enter("items");
        path.enter_at(3);
        path.enter("a/b~c");
        assert!(at("/items/3/a~1b~0c", &path) && at("/items/*/a~1b~0c", &path) && at("/*/*/*", &path));
        assert!(!at("/items/4/a~1b~0c", &path) && !at("/items/*", &path) && !at("/items/*/id", &path));
        assert_eq!((path.exact().as_str(), path.field().as_str()), ("/items/3/a~1b~0c", "/items/*/a~1b~0c"));
        path.leave();
        assert!(at("/items/3", &path) && at("/*/*", &path) && !at("/items", &path));
    }

    #[test]
    fn what_names_no_place_is_refused() {
        assert_eq!(Ignore::parse("timestamp"), Err(IgnoreError::Form));
        assert_eq!(Ignore::parse("header:"), Err(IgnoreError::Form));
        assert_eq!(Ignore::parse("/a/~2"), Err(IgnoreError::Escape));
        assert_eq!(Ignore::parse("/a~"), Err(IgnoreError::Escape));
        assert_eq!(Ignore::parse(&"/a".repeat(PARTS_MAX + 1)), Err(IgnoreError::Deep));
        assert_eq!(Ignore::parse("header: Date"), Ok(Ignore::Header("date".into())));
        assert!(Ignore::parse("").unwrap().is_whole_body());
    }

    #[test]
    fn a_hostile_key_makes_no_long_path() {
        let (long, mut path) = ("k".repeat(100_000), Path::default());
        (0..100).for_each(|_| path.enter(&long));
        assert!(path.exact().len() < 2 * PATH_BYTES_MAX, "{}", path.exact().len());
    }
}
