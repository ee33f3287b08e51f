//! A CPU on the test bench: single instructions from a given state, without interrupts.

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use engine::{Clock, EngineConfig, Error, Result, Vcpu};
use memory::GuestMemory;
use x86::{CpuModel, CpuState};

use crate::cpu::Cpu;
use crate::options::SoftOptions;
use crate::partition::SoftPartition;
use crate::pending::Pending;
use crate::vcpu::SoftVcpu;

/// A vCPU that is stepped by hand. For tests: no machine answers its I/O, and exceptions are reported, not delivered.
pub struct Bench {
    vcpu: SoftVcpu,
    _partition: Arc<SoftPartition>,
}

/// How a run on the bench has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UserExit {
    /// All instructions have run.
    Ran,
    /// An instruction has raised an exception, and nothing of it has happened.
    Exception {
        /// The vector.
        vector: u8,
        /// The error code, if the vector has one.
        error_code: Option<u32>,
        /// CR2, meaningful for page faults.
        cr2: u64,
    },
}

impl Bench {
    /// A CPU of `model` over `mem`, as `options` say.
    ///
    /// # Errors
    /// As of [`crate::SoftEngine`].
    pub fn new(mem: &GuestMemory, model: &CpuModel, options: SoftOptions) -> Result<Self> {
        options.check()?;
        let config = EngineConfig { vcpus: 1, name: "bench".into() };
        let what = "cannot start the clock's thread".to_owned();
        let clock = Clock::start().map_err(|source| Error::Host { what, source })?;
        let partition = SoftPartition::new(&config, mem, &clock, model.clone(), options)?;
        Ok(Self { vcpu: partition.soft_vcpu(0, model)?, _partition: Arc::new(partition) })
    }

    /// The CPU.
    pub fn vcpu(&mut self) -> &mut dyn Vcpu {
        &mut self.vcpu
    }

    /// The CPU within, for the engine's own tests.
    #[cfg(test)]
    pub(crate) fn cpu(&mut self) -> &mut Cpu {
        &mut self.vcpu.cpu
    }

    /// Loads a state.
    ///
    /// # Errors
    /// As of [`Vcpu::set_state`].
    pub fn set_state(&mut self, state: &CpuState) -> Result<()> {
        self.vcpu.set_state(state)
    }

    /// The state.
    ///
    /// # Errors
    /// As of [`Vcpu::state`].
    pub fn state(&mut self) -> Result<CpuState> {
        self.vcpu.state()
    }

    /// RIP.
    #[must_use]
    pub fn rip(&self) -> u64 {
        self.vcpu.cpu.rip
    }

    /// As [`Bench::run_blocks`], and no longer than `limit`: translated code that goes round in circles is called back
    /// then, which gives [`engine::Stop::Kicked`].
    pub fn run_for(&mut self, budget: usize, limit: Duration) -> Option<engine::Stop> {
        let slot = Arc::clone(&self.vcpu.cpu.slot);
        let (through, ended) = mpsc::channel::<()>();
        std::thread::scope(|scope| {
            let alarm = &slot;
            scope.spawn(move || {
                if ended.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                    alarm.post(Pending::KICK);
                }
            });
            let stop = self.run_blocks(budget);
            drop(through);
            stop
        })
    }

    /// Runs as in a machine, exceptions delivered, until `budget` blocks have been entered or the CPU halts; blocks that
    /// are linked count as one. What ended it before, if something did.
    pub fn run_blocks(&mut self, budget: usize) -> Option<engine::Stop> {
        let cpu: &mut Cpu = &mut self.vcpu.cpu;
        cpu.enter_thread();
        for _ in 0..budget {
            if cpu.halted || cpu.wait_for_sipi {
                break;
            }
            if let Some(stop) = cpu.run_blocks(1) {
                return Some(stop);
            }
        }
        None
    }

    /// Why the engine itself could not go on, if so; told once.
    pub fn take_failure(&mut self) -> Option<String> {
        self.vcpu.cpu.failure.take()
    }

    /// Whether the CPU waits for an interrupt.
    #[must_use]
    pub fn is_halted(&self) -> bool {
        self.vcpu.cpu.halted
    }

    /// Runs instructions until `stop_at` is the next one, `most` have run or one raises an exception.
    pub fn run_user(&mut self, stop_at: u64, most: usize) -> UserExit {
        let cpu: &mut Cpu = &mut self.vcpu.cpu;
        for _ in 0..most {
            if cpu.rip == stop_at {
                break;
            }
            if cpu.run_one().is_err() {
                let fault = cpu.fault;
                return UserExit::Exception { vector: fault.vector, error_code: fault.error_code, cr2: cpu.cr2 };
            }
        }
        UserExit::Ran
    }

    /// Runs as a CPU runs, block after block, until RIP leaves `inside`, `most` instructions have run or one raises an
    /// exception.
    pub fn run_inside(&mut self, inside: std::ops::Range<u64>, most: usize) -> UserExit {
        let cpu: &mut Cpu = &mut self.vcpu.cpu;
        let mut left = most;
        while left > 0 && inside.contains(&cpu.rip) {
            cpu.leave = 0;
            let mut run = || {
                let block = cpu.find_block()?;
                // SAFETY: blocks are freed by `find_block` only.
                let ops = unsafe { &(&(*block).ops)[..] };
                for op in ops.iter().take_while(|op| inside.contains(&op.rip())) {
                    cpu.rip = op.next;
                    if let Err(raised) = (op.run)(cpu, op) {
                        cpu.rip = op.rip();
                        return Err(raised);
                    }
                    left = left.saturating_sub(1);
                    if cpu.leave != 0 {
                        break;
                    }
                }
                Ok(())
            };
            if run().is_err() {
                let fault = cpu.fault;
                return UserExit::Exception { vector: fault.vector, error_code: fault.error_code, cr2: cpu.cr2 };
            }
        }
        UserExit::Ran
    }

    /// The same with translated code as far as there is some: instructions up to the end of the block that leaves `inside`
    /// run, too. Gives the bits of RFLAGS, too, that nobody will read any more.
    pub fn run_translated(&mut self, inside: std::ops::Range<u64>, most: usize) -> (UserExit, u64) {
        let cpu: &mut Cpu = &mut self.vcpu.cpu;
        cpu.enter_thread();
        let mut left = most as u64;
        let mut dead = 0;
        while left > 0 && inside.contains(&cpu.rip) {
            cpu.leave = 0;
            cpu.serve_shootdown();
            if cpu.code_mail_waits() {
                cpu.serve_code_writes();
            }
            let ran = cpu.run_single_block();
            left = left.saturating_sub(ran.instructions.max(1));
            if ran.instructions != 0 {
                dead = ran.dead;
            }
            if ran.fault.is_some() && inside.contains(&cpu.rip) {
                let fault = cpu.fault;
                let exit = UserExit::Exception { vector: fault.vector, error_code: fault.error_code, cr2: cpu.cr2 };
                return (exit, ran.dead);
            }
            if ran.instructions == 0 && ran.fault.is_none() && cpu.run_one().is_err() {
                let fault = cpu.fault;
                let exit = UserExit::Exception { vector: fault.vector, error_code: fault.error_code, cr2: cpu.cr2 };
                // Nothing has run since.
                return (exit, dead);
            }
        }
        (UserExit::Ran, 0)
    }
}
