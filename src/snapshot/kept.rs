//! Which requests the access log keeps, by how they ended. Asked by the workers at the end of each.

/// Which requests the access log keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AccessLog {
    /// None.
    #[default]
    Off,
    /// Those that ended badly, and so many ppm of the others.
    Sampled(u32),
    /// All.
    Full,
}

impl AccessLog {
    /// Whether it keeps a request that ended well or not; a number below a million is drawn where it matters.
    pub fn keeps(self, ended_well: bool, draw: impl FnOnce() -> u32) -> bool {
        self == AccessLog::Full || matches!(self, AccessLog::Sampled(ppm) if !ended_well || draw() < ppm)
    }
}
