//! The control socket of a running VM: `husk run` opens it, and other commands talk through it to the VM.

mod client;
mod place;
mod protocol;
mod server;
mod verbs;

pub(crate) use place::{NoPlace, Place};
pub(crate) use server::serve;
pub(crate) use verbs::{Verb, run};
