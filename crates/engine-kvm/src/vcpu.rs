//! One vCPU: its loop of entries, and its face to the machine.

use std::cell::Cell;
use std::sync::Arc;

use engine::{Breakpoints, CpuIo, Error, Kicker, Result, Stat, Stop, Vcpu};
use kvm_ioctls::VcpuFd;
use x86::{CpuModel, CpuState};

use crate::counters::Counters;
use crate::debug::Debugger;
use crate::kick::{Seat, prepare_thread};
use crate::partition::Shared;
use crate::run_page::RunPage;
use crate::settle::{self, Settling};
use crate::{failure, ioctl, state};

thread_local! {
    /// The kernel's number of this thread once it is ready to run vCPUs.
    static THREAD: Cell<i32> = const { Cell::new(0) };
}

/// One vCPU of a VM.
pub(crate) struct KvmVcpu {
    pub(crate) id: u32,
    pub(crate) fd: VcpuFd,
    pub(crate) seat: Arc<Seat>,
    pub(crate) counters: Counters,
    pub(crate) shared: Arc<Shared>,
    /// The instruction of the last exit ends with the next entry: port and memory-mapped I/O.
    unfinished: bool,
    /// KVM has not told yet whether the CPU would take an interrupt.
    unasked: bool,
    /// A vector has been handed over and may still wait in front of the CPU, where no state shows it.
    offered: bool,
    pub(crate) debugger: Debugger,
    context: state::Context,
}

impl KvmVcpu {
    pub(crate) fn new(id: u32, model: &CpuModel, shared: &Arc<Shared>) -> Result<Self> {
        let host = |what: &str| {
            let what = format!("vCPU {id}: {what}");
            move |error: kvm_ioctls::Error| Error::Host { what, source: error.into() }
        };
        let fd = shared.vm.create_vcpu(u64::from(id)).map_err(|error| match error.errno() {
            libc::EEXIST => Error::Config(format!("vCPU {id} exists already")),
            libc::ENOMEM => host("the host has no memory for it")(error),
            _ => host("KVM refuses to create it")(error),
        })?;
        let page = RunPage::map(&fd, shared.vm.run_size())
            .map_err(|source| Error::Host { what: format!("vCPU {id}: its run page"), source })?;
        shared.log.add(&fd)?;
        let khz = fd.get_tsc_khz().map_err(host("KVM does not tell the rate of its time-stamp counter"))?;
        let cpuid = shared.host_cpuid.answers(model, id, shared.vcpus, u64::from(khz) * 1000)?;
        fd.set_cpuid2(&cpuid).map_err(host("KVM refuses its CPUID"))?;
        let seat = Arc::new(Seat::new(page));
        let context = state::Context::new(&shared.state, &fd, id, seat.extint_cell())?;
        let counters = Counters::default();
        let vcpu = Self {
            id,
            fd,
            seat,
            debugger: Debugger::default(),
            counters,
            shared: Arc::clone(shared),
            unfinished: false,
            unasked: true,
            offered: false,
            context,
        };
        state::write(&vcpu.fd, &vcpu.context, &CpuState::power_on(id, model.signature()))?;
        Ok(vcpu)
    }

    pub(crate) fn seat(&self) -> &Arc<Seat> {
        &self.seat
    }

    /// The number of this thread, which is from now on ready to be taken out of the guest.
    fn thread() -> Result<i32> {
        THREAD.with(|thread| {
            if thread.get() == 0 {
                let what = "cannot set up the signal that interrupts a CPU".into();
                thread.set(prepare_thread().map_err(|source| Error::Host { what, source })?);
            }
            Ok(thread.get())
        })
    }

    /// Hands an interrupt of the PIC over if there is one and the CPU would take it, and else asks to be told when.
    fn offer_pic_interrupt(&mut self, io: &dyn CpuIo) -> Result<()> {
        let page = self.seat.page();
        // With room for another one.
        self.offered &= !page.is_ready_for_interrupt();
        if !self.seat.extint() {
            page.request_interrupt_window(false);
            return Ok(());
        }
        if page.is_ready_for_interrupt()
            && let Some(vector) = io.pic_ack()
        {
            self.counters.pic_interrupts += 1;
            let what = "KVM refuses an interrupt of the PIC".into();
            ioctl::interrupt(&self.fd, vector).map_err(|source| Error::Host { what, source })?;
            // One at a time: the next when this one has been taken.
            page.not_ready_for_interrupt();
            self.offered = true;
        }
        page.request_interrupt_window(self.seat.extint());
        Ok(())
    }
}

impl Vcpu for KvmVcpu {
    fn run(&mut self, io: &dyn CpuIo) -> Result<Stop> {
        let thread = Self::thread()?;
        self.context.catch_up(&self.fd)?;
        self.debugger.begin(&self.fd)?;
        let mut ending = None;
        let mut settling = None;
        loop {
            if ending.is_none() && self.seat.take_kick() {
                ending = Some(Stop::Kicked);
            }
            let mut settles = false;
            match &ending {
                // Nobody goes on from here.
                Some(Stop::TripleFault) if !self.unfinished => return Ok(Stop::TripleFault),
                Some(stop) if !self.unfinished => {
                    let settling = settling.get_or_insert_with(|| Settling::new(self.offered));
                    if !settling.goes_on(&self.fd, &self.context)? {
                        self.offered = false;
                        return Ok(stop.clone());
                    }
                    settles = true;
                }
                // The instruction is brought to its end, and no other one begun.
                Some(_) => self.seat.stay_out(),
                // A CPU that is halted in the state that was loaded would not come out to tell.
                None if self.unasked && self.seat.extint() => self.seat.stay_out(),
                None => self.offer_pic_interrupt(io)?,
            }
            self.unasked = false;
            self.counters.entries += 1;
            let outcome = if settles {
                settle::enter(&self.fd, &self.seat, thread)
            } else {
                self.context.timer_runs();
                self.seat.enter(thread);
                let outcome = ioctl::run(&self.fd);
                self.seat.leave();
                outcome
            };
            match outcome {
                Ok(()) => {
                    let (stop, unfinished) = self.attend(io)?;
                    self.unfinished = unfinished;
                    // More than a kick has ended the run.
                    ending = if matches!(ending, None | Some(Stop::Kicked)) { stop.or(ending) } else { ending };
                }
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {
                        self.counters.interrupted += 1;
                        self.unfinished = false;
                    }
                    // A CPU that waited for its start-up IPI and has got it.
                    Some(libc::EAGAIN) => {}
                    _ => return Err(failure::run(self.id, &self.fd, &error, &self.shared.memory())),
                },
            }
        }
    }

    fn kicker(&self) -> Kicker {
        let seat = Arc::clone(&self.seat);
        Kicker::new(move || seat.kick())
    }

    fn state(&mut self) -> Result<CpuState> {
        state::read(&self.fd, &self.context)
    }

    fn set_state(&mut self, state: &CpuState) -> Result<()> {
        state::write(&self.fd, &self.context, state)?;
        let lapic = &state.lapic;
        let level = std::array::from_fn(|i| lapic.tmr[i] & (lapic.isr[i] | lapic.irr[i]));
        self.shared.routes.expect(&self.shared.vm, self.id, &level)?;
        self.debugger.forget_place();
        self.unfinished = false;
        self.unasked = true;
        // What the page says belongs to the former state.
        self.seat.page().not_ready_for_interrupt();
        Ok(())
    }

    fn set_breakpoints(&mut self, breakpoints: &Breakpoints) -> Result<()> {
        self.debugger.set(&self.fd, breakpoints)
    }

    fn stats(&self) -> Vec<Stat> {
        self.counters.list()
    }
}
