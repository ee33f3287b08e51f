//! Lock-step: what has run translated runs again in the interpreter from the same state, and both must have done the
//! same.
//!
//! The translated run comes first, with a [`Journal`] open: rights to write silently are dropped before, so the MMU sees
//! the first write to each page. Then memory and registers go back, and the interpreter runs as many instructions, with
//! the same journal open, so that a page which only one of the two writes is noticed too. Compared are all registers but
//! for the flags that the instructions leave undefined, the exception, and the pages in the journal. Accessed and dirty
//! bits count only if neither run walked the page tables, since both share one TLB.
//!
//! Nothing that cannot be taken back may run twice: instructions that reach beyond registers and memory are left out
//! ([`may_run_twice`]), and accesses to devices are refused while a journal is open. Other vCPUs would change memory
//! between the two runs, so there is one vCPU only.

mod journal;
mod reference;
mod snapshot;

#[cfg(test)]
mod tests;

pub(crate) use journal::Journal;
pub(crate) use reference::may_run_twice;

use crate::cpu::{Cpu, Fault};
use reference::Trace;
use snapshot::Snapshot;

/// What a run of translated code has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ran {
    /// How many instructions have been retired. A repeated string instruction counts when it is through.
    pub(crate) instructions: u64,
    /// The exception that the next one has raised and that has not been delivered; RIP is that instruction's.
    pub(crate) fault: Option<Fault>,
    /// The bits of RFLAGS that nobody will read any more, and that may hold anything.
    pub(crate) dead: u64,
}

/// What came of two runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Both have done this. The fault is still to be delivered.
    Same(Ran),
    /// Nothing has run: the instruction at RIP is for the interpreter alone.
    Nothing,
    /// They differ: the report, whose first line says where, and in what first.
    Different(String),
}

impl Cpu {
    /// Has `translated` run some instructions, none of them one that may not run twice, and compares with the
    /// interpreter.
    pub(crate) fn lock_step(&mut self, translated: impl FnOnce(&mut Self) -> Ran) -> Verdict {
        let before = Snapshot::take(self);
        let walks = self.stats.tlb_walks;
        self.open_journal(Journal::new());
        let ran = translated(self);
        let Some(mut journal) = self.journal.take() else { return Verdict::Nothing };
        let refused = std::mem::take(&mut journal.refused);
        let ran = Ran { fault: ran.fault.filter(|_| !refused), ..ran };
        let after = Snapshot::take(self);
        let (stats, left) = (self.stats, self.leave);
        journal.roll_back(self);
        before.restore(self);
        if ran.instructions == 0 && ran.fault.is_none() {
            return Verdict::Nothing;
        }
        let mut trace = Trace::default();
        self.open_journal(*journal);
        let again = self.run_reference(ran, &after, &mut trace);
        let Some(journal) = self.journal.take() else { return Verdict::Nothing };
        let walked = self.stats.tlb_walks != walks;
        let reference = Snapshot::take(self);
        self.stats = stats;
        self.leave |= left;
        let mut differences = after.differences(&reference, ran.dead);
        let again = Ran { dead: ran.dead, ..again };
        if again != ran {
            differences.insert(0, format!("the end {} and {}", ending(&ran), ending(&again)));
        }
        for d in journal.differences(walked) {
            let (page, offset) = (d.page, d.offset);
            differences.push(format!("page {page:#x} of memory at {offset:#x} {:02x?} and {:02x?}", d.first, d.second));
        }
        if !differences.is_empty() {
            let open = trace.undefined_flags(before.code_size());
            let only_flags = again == ran && after.differences(&reference, open.flags | ran.dead).is_empty();
            // An instruction that has read an undefined flag may have done this or that.
            if !(open.read || only_flags && journal.differences(walked).is_empty()) {
                return Verdict::Different(report(&before, &after, &reference, &trace, &differences));
            }
        }
        // What the translated run has set in page tables must not be lost.
        if walked {
            journal.roll_forward(self);
        }
        Verdict::Same(ran)
    }

    fn open_journal(&mut self, journal: Journal) {
        self.drop_write_tags();
        self.journal = Some(Box::new(journal));
    }
}

fn ending(ran: &Ran) -> String {
    let end = ran.fault.map_or_else(|| "no exception".to_owned(), |f| format!("exception {}", f.vector));
    let code = ran.fault.and_then(|f| f.error_code).map_or_else(String::new, |code| format!(" ({code:#x})"));
    format!("{} instructions, {end}{code}", ran.instructions)
}

fn report(before: &Snapshot, after: &Snapshot, again: &Snapshot, trace: &Trace, differences: &[String]) -> String {
    let first = differences.first().map_or("", String::as_str);
    let mut text = format!("lock-step: translated and interpreted differ from rip {:#x}: {first}\n", before.rip);
    text.push_str("all differences, translated and interpreted:\n");
    differences.iter().for_each(|d| text.push_str(&format!("  {d}\n")));
    text.push_str("what the interpreter has run:\n");
    text.push_str(&trace.disassemble(before.code_size()));
    text.push_str(&format!("before:\n{}", before.describe()));
    text.push_str(&format!("after, translated:\n{}", after.describe()));
    text.push_str(&format!("after, interpreted:\n{}", again.describe()));
    text
}
