//! Breakpoints and single steps of a debugger outside of the guest.

mod common;

use common::{Machine, out};
use engine::{Breakpoint, BreakpointKind, Breakpoints, DebugEvent, Stop};
use iced_x86::code_asm::*;
use testkit::bare::{self, Bare, CODE};

/// Where the instruction is that the debugger waits for: behind one byte and five.
const PLACE: u64 = CODE + 6;

fn counting() -> Bare {
    let bare = Bare::long();
    bare.code(64, CODE, |a| {
        a.nop()?;
        a.mov(ebx, 0x1111_1111u32)?;
        a.inc(rbx)?;
        a.inc(rbx)?;
        a.inc(rbx)?;
        out(a, 1, 7)?;
        bare::exit(a)
    });
    bare
}

fn at(addr: u64) -> Breakpoints {
    Breakpoints { list: vec![Breakpoint { addr, kind: BreakpointKind::Execute }], single_step: false }
}

#[test]
fn a_breakpoint_stops_before_its_instruction_and_lets_go_on() {
    let Some(engine) = common::engine() else { return };
    let mut machine = Machine::new(&engine, &counting());
    machine.cpus[0].set_breakpoints(&at(PLACE)).unwrap();
    assert_eq!(machine.run(), Stop::Debug(DebugEvent::Breakpoint(PLACE)));
    let state = machine.cpus[0].state().unwrap();
    assert_eq!((state.rip, state.gpr[3]), (PLACE, 0x1111_1111));
    assert_eq!(machine.run(), Stop::Kicked, "it stops there once");
    assert_eq!(machine.cpus[0].state().unwrap().gpr[3], 0x1111_1114);
}

#[test]
fn steps_are_single_instructions() {
    let Some(engine) = common::engine() else { return };
    let mut machine = Machine::new(&engine, &counting());
    machine.cpus[0].set_breakpoints(&Breakpoints { list: Vec::new(), single_step: true }).unwrap();
    for next in [CODE + 1, PLACE, PLACE + 3, PLACE + 6] {
        assert_eq!(machine.run(), Stop::Debug(DebugEvent::Step));
        assert_eq!(machine.cpus[0].state().unwrap().rip, next);
    }
    assert_eq!(machine.cpus[0].state().unwrap().gpr[3], 0x1111_1113);
    machine.cpus[0].set_breakpoints(&Breakpoints::default()).unwrap();
    assert_eq!(machine.run(), Stop::Kicked);
}
