//! Kicks end runs, and none gets lost.

mod common;

use std::sync::atomic::{AtomicU32, Ordering};

use common::{Machine, out};
use engine::Stop;
use iced_x86::code_asm::*;
use testkit::bare::{Bare, CODE};

fn spinning() -> Bare {
    let bare = Bare::protected();
    bare.code(32, CODE, |a| {
        out(a, 1, 1)?;
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.inc(ebx)?;
        a.jmp(again)
    });
    bare
}

fn halted() -> Bare {
    let bare = Bare::protected();
    bare.code(32, CODE, |a| {
        out(a, 1, 1)?;
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.hlt()?;
        a.jmp(again)
    });
    bare
}

#[test]
fn a_kick_before_the_first_run_counts() {
    let Some(engine) = common::engine() else { return };
    let mut machine = Machine::new(&engine, &spinning());
    machine.cpus[0].kicker().kick();
    assert_eq!(machine.run(), Stop::Kicked);
    assert_eq!(machine.recorder.log(), [], "nothing has run");
    assert_eq!(machine.cpus[0].state().unwrap().rip, CODE);
}

#[test]
fn a_kick_ends_a_run_whatever_the_cpu_does() {
    let Some(engine) = common::engine() else { return };
    for bare in [spinning(), halted()] {
        let mut machine = Machine::new(&engine, &bare);
        let stop = machine.run_while(|outside| {
            outside.wait_for_out(1, 1);
            outside.kicker.kick();
        });
        assert_eq!(stop, Stop::Kicked);
    }
}

#[test]
fn of_a_thousand_kicks_none_is_lost() {
    let Some(engine) = common::engine() else { return };
    for bare in [spinning(), halted()] {
        let mut machine = Machine::new(&engine, &bare);
        let kicker = machine.cpus[0].kicker();
        // Each kick is answered by the end of a run before the next one comes: one that were lost would never be.
        let ended = AtomicU32::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for n in 0..1000 {
                    kicker.kick();
                    while ended.load(Ordering::SeqCst) <= n {
                        std::thread::yield_now();
                    }
                }
            });
            for _ in 0..1000 {
                assert_eq!(machine.cpus[0].run(&*machine.recorder).unwrap(), Stop::Kicked);
                ended.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
}

#[test]
fn a_port_access_is_whole_when_a_run_ends() {
    let Some(engine) = common::engine() else { return };
    let bare = Bare::protected();
    bare.code(32, CODE, |a| {
        a.mov(ecx, 3)?;
        a.mov(edx, u32::from(testkit::bare::EXIT))?;
        a.mov(esi, 0x3_0000)?;
        // Each element ends the run.
        a.rep().outsb()?;
        a.in_(al, 0x21)?;
        common::exit(a)
    });
    let mut machine = Machine::new(&engine, &bare);
    loop {
        assert_eq!(machine.run(), Stop::Kicked);
        let state = machine.cpus[0].state().unwrap();
        let done = u64::from(machine.recorder.exits.load(Ordering::SeqCst));
        // A state that is loaded goes on as it was saved.
        machine.cpus[0].set_state(&state).unwrap();
        if done >= 4 {
            assert_eq!((done, state.gpr[0] & 0xff), (4, 0x21));
            break;
        }
        assert_eq!((state.gpr[1], state.gpr[6]), (3 - done, 0x3_0000 + done), "what was written has been counted");
    }
}

#[test]
fn a_cpu_may_run_on_any_thread() {
    let Some(engine) = common::engine() else { return };
    let mut machine = Machine::new(&engine, &spinning());
    for _ in 0..20 {
        let kicker = machine.cpus[0].kicker();
        let (cpu, recorder) = (&mut machine.cpus[0], &machine.recorder);
        std::thread::scope(|scope| {
            let running = scope.spawn(move || cpu.run(&**recorder));
            kicker.kick();
            assert_eq!(running.join().unwrap().unwrap(), Stop::Kicked);
        });
    }
}
