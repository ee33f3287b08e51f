//! One block at a time: how lock-step runs translated code.

use super::stubs::Exit;
use super::translate::mode;
use crate::cpu::Cpu;
use crate::lockstep::{Ran, Verdict};

impl Cpu {
    /// Runs the block at RIP translated and interpreted; what cannot run twice is run by the interpreter. A difference
    /// ends the run.
    pub(crate) fn run_lock_step(&mut self) {
        if !self.jit.ready || self.translation_mode().is_none() {
            return self.interpret_block();
        }
        match self.lock_step(Self::run_single_block) {
            Verdict::Same(ran) => {
                self.stats.instructions += ran.instructions;
                if let Some(fault) = ran.fault {
                    self.fault = fault;
                    self.deliver_fault();
                }
            }
            Verdict::Nothing => {
                if self.run_one().is_err() {
                    self.deliver_fault();
                }
            }
            Verdict::Different(report) => {
                tracing::error!("{report}");
                self.fail(report);
            }
        }
    }

    /// Runs one block, translated; exceptions are held.
    pub(crate) fn run_single_block(&mut self) -> Ran {
        self.jit.hold = true;
        self.jit.held = None;
        let ran = self.run_held();
        self.jit.hold = false;
        Ran { fault: self.jit.held.take(), ..ran }
    }

    fn run_held(&mut self) -> Ran {
        let nothing = Ran { instructions: 0, fault: None, dead: 0 };
        let Some(mode) = self.translation_mode() else { return nothing };
        let found = match self.find_block_number(mode) {
            Ok(found) => found,
            Err(_) => {
                self.jit.held = Some(self.fault);
                return nothing;
            }
        };
        let Some(mut block) = found else { return nothing };
        for _ in 0..2 {
            let jit = self.translator();
            let (code, start) = (jit.entry(block), jit.blocks[block as usize].key.rip);
            // The block may forget all blocks.
            let points = jit.points_of(block).to_vec();
            let exit = self.enter(code);
            let (rip, through) = match exit {
                Exit::Link | Exit::Poll => {
                    let site = self.jit.site;
                    let jit = self.translator();
                    let Some(exit) = jit.exits.get(site as usize) else { return nothing };
                    let (after, live, rip) = (exit.after, exit.live, exit.rip);
                    if !(jit.blocks[exit.from as usize].has_variant && jit.is_first_exit(site)) {
                        self.rip = rip;
                        return Ran { instructions: after.into(), fault: None, dead: dead(live) };
                    }
                    let Some(form) = self.plain_form_at_rip() else { return nothing };
                    block = form;
                    continue;
                }
                Exit::Indirect => {
                    let site = self.jit.site;
                    let jit = self.translator();
                    let Some(block) = jit.block_at(site) else { return nothing };
                    self.jit.ended = (jit.instruction_at(block, site).0, true);
                    self.indirect();
                    self.jit.ended
                }
                Exit::Called if std::mem::take(&mut self.jit.wants_plain) => {
                    let start = self.translator().blocks[block as usize].key.rip;
                    if self.rip == start {
                        let Some(form) = self.plain_form_at_rip() else { return nothing };
                        block = form;
                        continue;
                    }
                    (self.rip, false)
                }
                Exit::Stale => {
                    self.drop_stale();
                    return nothing;
                }
                Exit::Called => self.jit.ended,
                Exit::Fault => {
                    self.host_fault();
                    self.jit.ended
                }
            };
            let mut at = start;
            let mut index = 0;
            while at != rip && index + 1 < points.len() {
                at = at.wrapping_add(points[index].len.into());
                index += 1;
            }
            let index = (index + usize::from(through)).min(points.len() - 1);
            return Ran { instructions: index as u64, fault: None, dead: dead(points[index].live) };
        }
        nothing
    }
}

impl Cpu {
    fn plain_form_at_rip(&mut self) -> Option<u32> {
        let mode = self.translation_mode()?;
        self.find_block_number(mode | mode::PLAIN).ok().flatten()
    }
}

/// The bits of RFLAGS that are not among the `live` ones, which are numbered as iced does.
fn dead(live: u8) -> u64 {
    use iced_x86::RflagsBits as B;
    use x86::bits::rflags as r;
    let pairs = [(B::CF, r::CF), (B::PF, r::PF), (B::AF, r::AF), (B::ZF, r::ZF), (B::SF, r::SF), (B::OF, r::OF)];
    pairs.into_iter().filter(|(bit, _)| u32::from(live) & bit == 0).fold(0, |all, (_, bit)| all | bit)
}
