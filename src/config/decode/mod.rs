//! Tree to typed values with every problem collected: unknown keys with a suggestion, wrong types, missing keys.
//!
//! One table per section (`section!` in `raw`) yields the struct, its decoder and its description; the description is what
//! `schema`, `environment` and `effective` walk. A key that is nearly right is decoded as what it nearly is, so that one
//! slip is one problem and not five.

mod fields;
mod values;

pub use fields::Fields;
pub use values::*;

use super::problem::Problems;
use super::tree::{Node, Place, shortened};
use std::fmt;

/// A value that knows where it stands.
#[derive(Clone, Debug)]
pub struct Spot<T> {
    /// The value.
    pub value: T,
    /// Where it stands.
    pub place: Place,
}

/// What a config value looks like, for everyone who walks the config without knowing its keys.
#[derive(Clone, Debug)]
pub enum Shape {
    /// Text.
    Text,
    /// The path of a file, relative to the config's folder.
    File,
    /// `stdout`, `stderr` or the path of a file.
    Output,
    /// An address, or `unix:` and a path.
    Socket,
    /// A secret that only the environment may hold.
    Secret,
    /// An address of the web, which may hold a secret.
    Url,
    /// `true` or `false`.
    Bool,
    /// `false`, which switches something off.
    False,
    /// A whole number from 0.
    Count,
    /// Any number.
    Number,
    /// `"12.5%"`.
    Share,
    /// `"30s"`.
    Span,
    /// `"64KiB"`.
    Size,
    /// One of these words.
    Word(&'static [&'static str]),
    /// A list.
    List(Box<Shape>),
    /// Names that the user chooses, each with such a value.
    Map(Box<Shape>),
    /// Fixed keys.
    Table(Section),
    /// One of several.
    Either(Vec<Shape>),
}

/// A table with fixed keys.
#[derive(Clone, Debug)]
pub struct Section {
    /// What it is for.
    pub doc: &'static str,
    /// Its keys, in the order of the documentation.
    pub keys: Vec<Key>,
}

/// One key of a section.
#[derive(Clone, Debug)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// What it means.
    pub doc: &'static str,
    /// What its value looks like.
    pub shape: Shape,
    /// Whether it must be there.
    pub required: bool,
    /// What holds without it, as it would be written.
    pub default: Option<&'static str>,
    /// Why this version does not carry it out, if it does not.
    pub later: Option<&'static str>,
}

/// A type that can be read from a tree.
pub trait Decode: Sized {
    /// What it looks like.
    fn shape() -> Shape;
    /// Reads it. None after at least one problem.
    fn decode(node: &Node, path: &Path<'_>, problems: &mut Problems<'_>) -> Option<Self>;
}

/// The keys from the root to a value, printed like `rollouts.chat.stages[0].weight`.
#[derive(Clone, Copy, Debug)]
pub enum Path<'a> {
    /// The whole config.
    Root,
    /// A key.
    Key(&'a Path<'a>, &'a str),
    /// An element of a list.
    Index(&'a Path<'a>, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root => Ok(()),
            Path::Key(Path::Root, key) => f.write_str(&shortened(key)),
            Path::Key(parent, key) => write!(f, "{parent}.{}", shortened(key)),
            Path::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// The name of a key without the mark of a raw identifier.
pub fn plain(name: &'static str) -> &'static str {
    name.strip_prefix("r#").unwrap_or(name)
}

/// Declares a section: its struct, decoder and description from one table. Modes: `[required]`, `[optional]`, `[later "why"]`.
macro_rules! section {
    (
        $(#[doc = $doc:literal])+
        $name:ident {
            $( $(#[doc = $key_doc:literal])+ $key:ident : [$mode:ident $($why:literal)?] $type:ty $(= $default:literal)? , )+
        }
    ) => {
        $(#[doc = $doc])+
        #[derive(Clone, Debug, Default)]
        pub struct $name {
            $( $(#[doc = $key_doc])+ pub $key: Option<$crate::config::decode::Spot<$type>>, )+
        }

        impl $crate::config::decode::Decode for $name {
            fn shape() -> $crate::config::decode::Shape {
                $crate::config::decode::Shape::Table($crate::config::decode::Section {
                    doc: concat!($($doc),+).trim_ascii(),
                    keys: vec![$( $crate::config::decode::Key {
                        name: $crate::config::decode::plain(stringify!($key)),
                        doc: concat!($($key_doc),+).trim_ascii(),
                        shape: <$type as $crate::config::decode::Decode>::shape(),
                        required: $crate::config::decode::section!(@required $mode),
                        default: $crate::config::decode::section!(@option $($default)?),
                        later: $crate::config::decode::section!(@option $($why)?),
                    } ),+],
                })
            }

            fn decode(
                node: &$crate::config::tree::Node,
                path: &$crate::config::decode::Path<'_>,
                problems: &mut $crate::config::problem::Problems<'_>,
            ) -> Option<Self> {
                const KEYS: &[(&str, bool)] =
                    &[$( (stringify!($key), $crate::config::decode::section!(@required $mode)) ),+];
                let fields = $crate::config::decode::Fields::open(node, path, KEYS, problems)?;
                Some($name {
                    $( $key: fields.take(
                        stringify!($key),
                        $crate::config::decode::section!(@option $($why)?),
                        path,
                        problems,
                    ), )+
                })
            }
        }
    };
    (@required required) => { true };
    (@required $mode:ident) => { false };
    (@option) => { None };
    (@option $value:literal) => { Some($value) };
}

/// Declares a key's fixed words as an enum.
macro_rules! words {
    ($(#[doc = $doc:literal])+ $name:ident { $( $(#[doc = $word_doc:literal])+ $word:ident = $text:literal ),+ $(,)? }) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $( $(#[doc = $word_doc])+ $word, )+
        }

        impl $name {
            /// The word as it is written.
            #[allow(dead_code, reason = "not every key's word is said again")]
            pub const fn word(self) -> &'static str {
                match self {
                    $( $name::$word => $text, )+
                }
            }
        }

        impl $crate::config::decode::Decode for $name {
            fn shape() -> $crate::config::decode::Shape {
                $crate::config::decode::Shape::Word(&[$($text),+])
            }

            fn decode(
                node: &$crate::config::tree::Node,
                path: &$crate::config::decode::Path<'_>,
                problems: &mut $crate::config::problem::Problems<'_>,
            ) -> Option<Self> {
                $crate::config::decode::word(node, path, &[$(($text, $name::$word)),+], problems)
            }
        }
    };
}

pub(crate) use {section, words};
