//! What an engine has counted.

use std::time::Duration;

/// One figure of [`crate::Vcpu::stats`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// What it belongs to; figures of one group follow each other.
    pub group: &'static str,
    /// Its name within the group.
    pub name: &'static str,
    /// How much.
    pub amount: Amount,
    /// Whether it belongs into one line that says it all.
    pub headline: bool,
}

/// How much of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amount {
    /// So many.
    Count(u64),
    /// So many bytes.
    Bytes(u64),
    /// So long.
    Time(Duration),
}

impl Amount {
    /// Whether there is none of it.
    #[must_use]
    pub fn is_zero(self) -> bool {
        matches!(self, Self::Count(0) | Self::Bytes(0) | Self::Time(Duration::ZERO))
    }
}
