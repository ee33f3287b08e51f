//! Entries that run no guest code, in which KVM takes up what waits in front of a CPU: a vector of the PIC that was handed
//! over, and an interrupt of the APIC's timer. No call reads them there, and a CPU that goes elsewhere would lose them.
//!
//! An entry that `immediate_exit` ends returns before that. One with a signal pending takes both up and returns at the
//! guest's door.

use std::io;

use engine::Result;
use kvm_ioctls::VcpuFd;

use crate::kick::{Seat, with_signal_pending};
use crate::{ioctl, state};

/// A vector takes two entries: the first may only end a HLT.
const FOR_A_VECTOR: u32 = 2;
/// How often an entry that a kick has kept out is tried again.
const MOST_TRIES: u32 = 8;

/// What is left to do at the end of a run.
pub(crate) struct Settling {
    /// Entries that a vector needs.
    needed: u32,
    /// Entries so far.
    done: u32,
}

impl Settling {
    /// `offered`: a vector was handed over.
    pub(crate) fn new(offered: bool) -> Self {
        Self { needed: if offered { FOR_A_VECTOR } else { 0 }, done: 0 }
    }

    /// Whether there has to be one entry more. When not, the timer's time has been noted.
    pub(crate) fn goes_on(&mut self, vcpu: &VcpuFd, context: &state::Context) -> Result<bool> {
        let expired = context.note_timer(vcpu)? && self.done == 0;
        let goes_on = expired || self.done < self.needed;
        self.done += u32::from(goes_on);
        Ok(goes_on)
    }
}

/// An entry that runs no guest code.
pub(crate) fn enter(vcpu: &VcpuFd, seat: &Seat, thread: i32) -> io::Result<()> {
    with_signal_pending(thread, |mask| {
        if let Err(error) = ioctl::set_signal_mask(vcpu, Some(mask)) {
            tracing::debug!(%error, "KVM takes no mask of signals: an interrupt may be lost if this guest moves");
            return Err(io::Error::from_raw_os_error(libc::EINTR));
        }
        let mut outcome = Ok(());
        for _ in 0..MOST_TRIES {
            seat.let_in();
            outcome = ioctl::run(vcpu);
            if outcome.is_ok() || !seat.was_kept_out() {
                break;
            }
        }
        ioctl::set_signal_mask(vcpu, None)?;
        outcome
    })?
}
