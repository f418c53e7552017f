//! A rehearsal: the plans of a config on a virtual clock, with traffic that is made up from what is assumed.
//!
//! The engine is the one that serves, with its course, its breakers and its commands; the metrics are those of `rollout`, read
//! from the same histories. Only requests are drawn instead of served, and time jumps where nothing can change. It touches
//! nothing outside of itself: no sockets, no clock, no state. Called by `weir rehearse`.

pub mod assume;
mod draw;
#[cfg(test)]
pub mod fixture;
mod pace;
mod run;
mod series;
pub mod story;
#[cfg(test)]
mod tests;
pub mod usual;
mod world;

pub use assume::Assumptions;
pub use run::{members, rehearse};
pub use story::{End, Happening, Judged, Met, Passage, RolloutStory, Story};
