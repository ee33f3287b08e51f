//! Calls of the interpreter's handlers.

use super::Emitter;
use crate::jit::asm::r;
use crate::jit::layout as l;
use crate::jit::scan::{Ins, STATUS};

impl<'a> Emitter<'a> {
    pub(super) fn call_out(&mut self, ins: &Ins) {
        let touches_flags = ins.reads | ins.writes != 0 || ins.instr.is_invalid();
        let live = if touches_flags { STATUS } else { ins.live_before() };
        self.give_up_flags(live);
        let op = (self.lower)(&ins.instr);
        self.asm.mov_imm(r::R11, op as u64);
        let resume = self.asm.label();
        self.asm.gs_store_label(l::SITE, resume);
        let stub = self.call_stub(touches_flags);
        self.asm.jmp_out(stub);
        self.asm.bind(resume);
        self.now.in_host = false;
        self.now.in_memory = true;
    }
}
