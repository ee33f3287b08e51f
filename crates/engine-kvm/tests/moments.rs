//! Interrupts of the PIC and of the timer, on CPUs that are stopped at the worst of moments and go on elsewhere.

mod common;

use std::sync::atomic::Ordering;
use std::time::Duration;

use common::{Machine, handler, lapic_enable, lapic_write, out};
use engine::{Signal, Stop};
use engine_kvm::KvmEngine;
use testkit::bare::{Bare, CODE};
use x86::bits::rflags;
use x86::{Activity, CpuState};

/// A guest that takes interrupts of the PIC, starts its timer for one shot of `timer` ns if that is not zero, says on port 1
/// that it is ready, and halts, or turns round and round. The handler of 21h says 2 and ends the run.
fn guest(busy: bool, timer: u32) -> Bare {
    let bare = Bare::protected();
    bare.code(32, CODE, |a| {
        lapic_enable(a)?;
        lapic_write(a, 0x350, 0x700)?;
        if timer != 0 {
            lapic_write(a, 0x320, 0x21)?;
            lapic_write(a, 0x3e0, 0xb)?;
            lapic_write(a, 0x380, timer)?;
        }
        out(a, 1, 1)?;
        a.sti()?;
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        if busy {
            a.nop()?;
        } else {
            a.hlt()?;
        }
        a.jmp(again)
    });
    handler(&bare, 0x21, 0x2_0000, |a| {
        out(a, 1, 2)?;
        common::exit(a)
    });
    bare
}

/// Runs the guest for a moment, until it waits, and stops it.
fn stopped(engine: &KvmEngine, busy: bool, timer: u32) -> (Machine, CpuState) {
    let mut machine = Machine::new(engine, &guest(busy, timer));
    loop {
        let stop = machine.run_while(|outside| {
            std::thread::sleep(Duration::from_millis(5));
            outside.kicker.kick();
        });
        assert_eq!(stop, Stop::Kicked);
        let state = machine.cpus[0].state().unwrap();
        if state.rflags & rflags::IF != 0 && (busy || state.activity == Activity::Halted) {
            assert_eq!(machine.recorder.port(1), [1]);
            return (machine, state);
        }
    }
}

/// Has another machine go on with `state`: its handler is reached.
fn goes_on(engine: &KvmEngine, busy: bool, state: &CpuState) {
    let mut there = Machine::new(engine, &guest(busy, 0));
    there.cpus[0].set_state(state).unwrap();
    there.run();
    assert_eq!(there.recorder.port(1), [2], "busy: {busy}");
}

#[test]
fn an_interrupt_of_the_pic_wakes_a_cpu_whose_state_was_loaded() {
    let Some(engine) = common::engine() else { return };
    for busy in [false, true] {
        let (mut machine, mut state) = stopped(&engine, busy, 0);
        state.events.extint = true;
        machine.recorder.pic.lock().unwrap().push_back(0x21);
        machine.cpus[0].set_state(&state).unwrap();
        machine.run();
        assert_eq!(machine.recorder.port(1), [1, 2], "busy: {busy}");
    }
}

#[test]
fn an_interrupt_that_the_pic_has_given_goes_along() {
    let Some(engine) = common::engine() else { return };
    for busy in [false, true] {
        let (mut machine, _) = stopped(&engine, busy, 0);
        machine.recorder.pic.lock().unwrap().push_back(0x21);
        machine.recorder.kick_on_ack.store(true, Ordering::SeqCst);
        machine.partition.signal(0, Signal::ExtInt(true));
        assert_eq!(machine.run(), Stop::Kicked);
        let state = machine.cpus[0].state().unwrap();
        assert_eq!(machine.recorder.port(1), [1], "no guest code has run");
        assert_eq!(state.events.injecting.map(|event| event.vector), Some(0x21), "busy: {busy}");
        goes_on(&engine, busy, &state);
        // Where it was it is not lost either.
        machine.run();
        assert_eq!(machine.recorder.port(1), [1, 2], "busy: {busy}");
    }
}

#[test]
fn a_timer_that_expires_while_the_cpu_stands_still_goes_along() {
    let Some(engine) = common::engine() else { return };
    for busy in [false, true] {
        let (mut machine, state) = stopped(&engine, busy, 400_000_000);
        assert!(state.lapic.timer_running);
        std::thread::sleep(Duration::from_millis(500));
        let late = machine.cpus[0].state().unwrap();
        assert!(late.lapic.timer_running, "busy: {busy}");
        assert_eq!(late.lapic.timer_start_ns, state.lapic.timer_start_ns, "busy: {busy}");
        goes_on(&engine, busy, &late);
        machine.run();
        assert_eq!(machine.recorder.port(1), [1, 2], "busy: {busy}");
    }
}

#[test]
fn a_timer_that_has_stopped_does_not_start_again() {
    let Some(engine) = common::engine() else { return };
    let (mut machine, mut state) = stopped(&engine, false, 400_000_000);
    state.lapic.timer_running = false;
    machine.cpus[0].set_state(&state).unwrap();
    let read = machine.cpus[0].state().unwrap();
    assert_eq!((read.lapic.timer_running, read.lapic.timer_initial), (false, 400_000_000));
    let stop = machine.run_while(|outside| {
        std::thread::sleep(Duration::from_millis(600));
        outside.kicker.kick();
    });
    assert_eq!((stop, machine.recorder.port(1)), (Stop::Kicked, vec![1]));
}
