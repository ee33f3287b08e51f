//! Two machines that are to do the same.

pub(crate) mod machine;
mod pieces;
pub(crate) mod program;
pub(crate) mod trace;
