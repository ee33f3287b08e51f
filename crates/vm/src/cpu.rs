//! The thread of one virtual CPU.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use engine::{Amount, Partition, Stat, Stop, Vcpu};
use machine::loader::{Entry, set_memory_types};
use x86::{CpuModel, CpuState};

use crate::control::{Control, CpuStats, Next};
use crate::outcome::registers;
use crate::pins::Pins;
use crate::{OnTripleFault, Outcome};

/// What the thread of a CPU works with.
#[derive(Clone)]
pub(crate) struct CpuSeat {
    pub(crate) id: u32,
    pub(crate) model: CpuModel,
    pub(crate) partition: Arc<dyn Partition>,
    pub(crate) pins: Arc<Pins>,
    pub(crate) control: Arc<Control>,
    /// Where the bootstrap processor starts, replaced at each reset; at the reset vector if there is firmware.
    pub(crate) entry: Arc<Mutex<Option<Entry>>>,
    pub(crate) on_triple_fault: OnTripleFault,
}

impl CpuSeat {
    /// Runs the CPU until the VM ends. Whatever goes wrong here ends it.
    pub(crate) fn occupy(self) {
        match catch_unwind(AssertUnwindSafe(|| self.run())) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => self.control.end(Outcome::Failed(format!("cpu{}: {error}", self.id))),
            Err(panic) => self.control.end(Outcome::Failed(format!("cpu{}: {}", self.id, panic_text(&*panic)))),
        }
        self.control.gone(self.id);
    }

    /// This CPU in the partition that the guest is to go to, with the state that it has here, and what it would be there
    /// after power-on.
    fn get_ready(&self, here: &mut dyn Vcpu) -> engine::Result<(Box<dyn Vcpu>, CpuState)> {
        let state = here.state()?;
        let gone = || engine::Error::Internal("there is nowhere to go".into());
        let mut there = self.control.target().ok_or_else(gone)?.vcpu(self.id, &self.model)?;
        let fresh = there.state()?;
        there.set_state(&state)?;
        Ok((there, fresh))
    }

    fn run(&self) -> engine::Result<()> {
        let mut vcpu = self.partition.vcpu(self.id, &self.model)?;
        let mut power_on = vcpu.state()?;
        let mut elsewhere: Option<(Box<dyn Vcpu>, CpuState)> = None;
        self.control.register(self.id, vcpu.kicker());
        loop {
            match self.control.checkpoint(self.id, stats(&*vcpu)) {
                Next::End => return Ok(()),
                Next::PowerOn => {
                    let mut state = power_on.clone();
                    if let Some(entry) = &*self.entry.lock().unwrap_or_else(PoisonError::into_inner) {
                        // There is no firmware that would.
                        set_memory_types(&mut state);
                        if self.id == 0 {
                            entry.apply(&mut state);
                        }
                    }
                    vcpu.set_state(&state)?;
                    continue;
                }
                Next::GetReady => {
                    let prepared = self.get_ready(&mut *vcpu);
                    let result = prepared.as_ref().map(|_| ()).map_err(ToString::to_string);
                    elsewhere = prepared.ok();
                    self.control.ready(self.id, result);
                    continue;
                }
                Next::Settle(go) => {
                    if let Some((there, fresh)) = elsewhere.take().filter(|_| go) {
                        (vcpu, power_on) = (there, fresh);
                        self.control.register(self.id, vcpu.kicker());
                    }
                    self.control.settled(self.id);
                    continue;
                }
                Next::Run => {}
            }
            match vcpu.run(&*self.pins)? {
                Stop::Kicked => {}
                Stop::Reset => self.pins.reset(),
                Stop::PowerOff => self.control.end(Outcome::PowerOff),
                Stop::TripleFault => {
                    let line = registers(self.id, &vcpu.state()?);
                    match self.on_triple_fault {
                        OnTripleFault::End => self.control.end(Outcome::TripleFault(line)),
                        OnTripleFault::Reset => {
                            tracing::warn!("triple fault, the machine is reset: {line}");
                            self.pins.reset();
                        }
                    }
                }
                Stop::Debug(event) => tracing::debug!(?event, "a stop for a debugger that is not there"),
            }
        }
    }
}

/// What the engine has counted for the CPU of this thread, and the time that the thread has used.
fn stats(vcpu: &dyn Vcpu) -> CpuStats {
    let mut stats = vcpu.stats();
    let amount = Amount::Time(base::thread_cpu_time());
    stats.push(Stat { group: "time", name: "host CPU", amount, headline: true });
    stats
}

/// What a panicking thread had to say.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("internal error: {}", text.unwrap_or("a panic"))
}
