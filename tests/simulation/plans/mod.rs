//! Random histories of plans: `world` lives them, `oracle` judges them, `random` makes them up.

mod oracle;
mod random;
mod world;

pub use world::{Met, World};
