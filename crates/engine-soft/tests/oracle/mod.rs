//! Instructions tested against the CPU of the host, the only exact oracle for everything that is legal in ring 3.
//!
//! A [`Case`](case::Case) is a complete user-mode state with a few instructions; the [`Host`](host::Host) runs it in a child process, a
//! [`Subject`](subject::Subject) runs it in the engine, and the two [`Outcome`](case::Outcome)s have to agree in everything but what the SDM leaves
//! undefined.

pub(crate) mod case;
pub(crate) mod catalogue;
pub(crate) mod compare;
pub(crate) mod fixups;
pub(crate) mod generate;
pub(crate) mod host;
pub(crate) mod operands;
pub(crate) mod random;
pub(crate) mod subject;
pub(crate) mod undefined;
