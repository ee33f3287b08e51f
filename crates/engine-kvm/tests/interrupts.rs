//! Interrupts by message, PIC, timer, eventfd and pin.

mod common;

use base::Event;
use common::{Machine, Pin, handler, lapic_enable, lapic_write, out};
use engine::{IoAddr, IoSpace, MsiMessage, Signal};
use iced_x86::code_asm::*;
use testkit::bare::{Bare, CODE};

/// To the CPU with APIC ID 0.
fn message(vector: u8) -> MsiMessage {
    MsiMessage { address: 0xfee0_0000, data: u32::from(vector) }
}

/// A guest that says that it is ready on port 1 and halts; handler `vector` says 2 and ends the run.
fn halted(vector: u8) -> Bare {
    let bare = Bare::protected();
    bare.code(32, CODE, |a| {
        lapic_enable(a)?;
        out(a, 1, 1)?;
        a.sti()?;
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.hlt()?;
        a.jmp(again)
    });
    handler(&bare, vector, 0x2_0000, |a| {
        out(a, 1, 2)?;
        lapic_write(a, 0xb0, 0)?;
        common::exit(a)
    });
    bare
}

#[test]
fn a_message_wakes_a_halted_cpu() {
    let Some(engine) = common::engine() else { return };
    let mut machine = Machine::new(&engine, &halted(0x40));
    machine.run_while(|outside| {
        outside.wait_for_out(1, 1);
        outside.partition.send_msi(message(0x40));
    });
    assert_eq!(machine.recorder.log(), [Pin::Out(1, vec![1]), Pin::Out(1, vec![2])]);
}

#[test]
fn the_end_of_a_level_triggered_interrupt_is_told_and_of_no_other() {
    let Some(engine) = common::engine() else { return };
    for (level, expected) in [(0, None), (1 << 15 | 1 << 14, Some(Pin::Eoi(0x41)))] {
        let mut machine = Machine::new(&engine, &halted(0x41));
        machine.run_while(|outside| {
            outside.wait_for_out(1, 1);
            let edge = message(0x41);
            outside.partition.send_msi(MsiMessage { data: edge.data | level, ..edge });
        });
        let told = machine.recorder.log().into_iter().find(|pin| matches!(pin, Pin::Eoi(_)));
        assert_eq!(told, expected);
    }
}

#[test]
fn more_level_triggered_messages_than_routes() {
    let Some(engine) = common::engine() else { return };
    let bare = halted(0x30);
    // All handlers end the interrupt, say so, and wait for the next one.
    for vector in 0x30..0x60u8 {
        handler(&bare, vector, 0x2_0000 + u32::from(vector) * 64, |a| {
            out(a, 1, vector)?;
            lapic_write(a, 0xb0, 0)?;
            a.add(esp, 12)?;
            a.sti()?;
            a.hlt()?;
            a.ud2()
        });
    }
    let mut machine = Machine::new(&engine, &bare);
    machine.run_while(|outside| {
        outside.wait_for_out(1, 1);
        for vector in 0x30..0x60u8 {
            outside.partition.send_msi(MsiMessage { address: 0xfee0_0000, data: u32::from(vector) | 3 << 14 });
            outside.wait_for(&Pin::Eoi(vector));
        }
        outside.kicker.kick();
    });
    assert!(machine.recorder.port(1).into_iter().skip(1).eq(0x30..0x60));
}

#[test]
fn the_pic_interrupts_a_halted_and_a_busy_cpu() {
    let Some(engine) = common::engine() else { return };
    for busy in [false, true] {
        let bare = Bare::protected();
        bare.code(32, CODE, |a| {
            // LINT0 is where the PIC comes in.
            lapic_enable(a)?;
            lapic_write(a, 0x350, 0x700)?;
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
        let mut machine = Machine::new(&engine, &bare);
        machine.recorder.pic.lock().unwrap().push_back(0x21);
        machine.run_while(|outside| {
            outside.wait_for_out(1, 1);
            outside.partition.signal(0, Signal::ExtInt(true));
        });
        let expected = [Pin::Out(1, vec![1]), Pin::Ack(Some(0x21)), Pin::Out(1, vec![2])];
        assert_eq!(machine.recorder.log(), expected, "busy: {busy}");
    }
}

#[test]
fn the_pic_waits_until_interrupts_are_on() {
    let Some(engine) = common::engine() else { return };
    let bare = Bare::protected();
    bare.code(32, CODE, |a| {
        lapic_enable(a)?;
        lapic_write(a, 0x350, 0x700)?;
        out(a, 1, 1)?;
        // The machine raises INTR here.
        a.in_(al, 0x20)?;
        out(a, 1, 2)?;
        a.sti()?;
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.nop()?;
        a.jmp(again)
    });
    handler(&bare, 0x22, 0x2_0000, |a| {
        out(a, 1, 3)?;
        common::exit(a)
    });
    let mut machine = Machine::new(&engine, &bare);
    machine.recorder.pic.lock().unwrap().push_back(0x22);
    machine.partition.signal(0, Signal::ExtInt(true));
    machine.run();
    let expected =
        [Pin::Out(1, vec![1]), Pin::In(0x20, 1), Pin::Out(1, vec![2]), Pin::Ack(Some(0x22)), Pin::Out(1, vec![3])];
    assert_eq!(machine.recorder.log(), expected);
}

#[test]
fn a_pic_that_no_longer_asks_is_let_be() {
    let Some(engine) = common::engine() else { return };
    let bare = halted(0x42);
    let mut machine = Machine::new(&engine, &bare);
    machine.run_while(|outside| {
        outside.wait_for_out(1, 1);
        outside.partition.signal(0, Signal::ExtInt(true));
        outside.partition.signal(0, Signal::ExtInt(false));
        outside.partition.send_msi(message(0x42));
    });
    assert_eq!(machine.recorder.port(1), [1, 2]);
}

#[test]
fn the_timer_of_the_local_apic() {
    let Some(engine) = common::engine() else { return };
    let bare = halted(0x50);
    bare.code(32, CODE, |a| {
        lapic_enable(a)?;
        lapic_write(a, 0x320, 0x50)?;
        lapic_write(a, 0x3e0, 0xb)?;
        lapic_write(a, 0x380, 100_000)?;
        a.sti()?;
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.hlt()?;
        a.jmp(again)
    });
    let mut machine = Machine::new(&engine, &bare);
    machine.run();
    assert_eq!(machine.recorder.port(1), [2]);
}

#[test]
fn an_nmi_comes_whatever_the_flags_say() {
    let Some(engine) = common::engine() else { return };
    let bare = Bare::protected();
    bare.code(32, CODE, |a| {
        lapic_enable(a)?;
        out(a, 1, 1)?;
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.hlt()?;
        a.jmp(again)
    });
    handler(&bare, 2, 0x2_0000, |a| {
        out(a, 1, 2)?;
        common::exit(a)
    });
    let mut machine = Machine::new(&engine, &bare);
    machine.run_while(|outside| {
        outside.wait_for_out(1, 1);
        outside.partition.signal(0, Signal::Nmi);
    });
    assert_eq!(machine.recorder.port(1), [1, 2]);
}

#[test]
fn an_event_interrupts() {
    let Some(engine) = common::engine() else { return };
    let mut machine = Machine::new(&engine, &halted(0x43));
    let interrupt = machine.partition.msi_event(message(0x43)).expect("an interrupt by eventfd");
    machine.run_while(|outside| {
        outside.wait_for_out(1, 1);
        interrupt.event().signal();
    });
    assert_eq!(machine.recorder.port(1), [1, 2]);
}

#[test]
fn interrupts_by_eventfd_are_given_back() {
    let Some(engine) = common::engine() else { return };
    let machine = Machine::new(&engine, &halted(0x43));
    for _ in 0..10_000 {
        drop(machine.partition.msi_event(message(0x43)).expect("an interrupt by eventfd"));
    }
}

#[test]
fn a_doorbell_rings_and_the_bus_hears_nothing() {
    let Some(engine) = common::engine() else { return };
    let bare = Bare::protected();
    bare.code(32, CODE, |a| {
        a.mov(eax, 5)?;
        a.mov(dword_ptr(0x4000_0000), eax)?;
        a.mov(word_ptr(0x4000_1000), ax)?;
        a.inc(eax)?;
        a.mov(word_ptr(0x4000_1000), ax)?;
        a.out(0x30, al)?;
        common::exit(a)?;
        a.mov(dword_ptr(0x4000_0000), eax)?;
        common::exit(a)
    });
    let mut machine = Machine::new(&engine, &bare);
    let events: [Event; 3] = std::array::from_fn(|_| Event::new().unwrap());
    let at = |space, addr, len, value| IoAddr { space, addr, len, value };
    let bells = [
        at(IoSpace::Memory, 0x4000_0000, 4, None),
        at(IoSpace::Memory, 0x4000_1000, 2, Some(5)),
        at(IoSpace::Port, 0x30, 1, None),
    ];
    let bells: Vec<_> =
        bells.into_iter().zip(&events).map(|(at, event)| machine.partition.doorbell(at, event).unwrap()).collect();
    machine.run();
    assert_eq!(events.each_ref().map(Event::take), [1, 1, 1]);
    assert_eq!(machine.recorder.log(), [Pin::Write(0x4000_1000, vec![6, 0])], "another value");
    // A doorbell that is gone is a device again.
    drop(bells);
    machine.run();
    assert_eq!(events[0].take(), 0);
    assert_eq!(machine.recorder.log().last(), Some(&Pin::Write(0x4000_0000, vec![6, 0, 0, 0])));
}

#[test]
fn a_second_cpu_is_started_and_put_back() {
    let Some(engine) = common::engine() else { return };
    let bare = Bare::protected();
    // The second CPU, in real mode at 7000h: says 9 and halts.
    bare.code(16, 0x7000, |a| {
        out(a, 2, 9)?;
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.hlt()?;
        a.jmp(again)
    });
    bare.code(32, CODE, |a| {
        lapic_enable(a)?;
        for low in [0x0000_4500, 0x0000_4607] {
            lapic_write(a, 0x310, 1 << 24)?;
            lapic_write(a, 0x300, low)?;
        }
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.nop()?;
        a.jmp(again)
    });
    let mut machine = Machine::with(&engine, &bare, 2, &[]);
    let mut second = machine.cpus.remove(1);
    let (kicker, recorder) = (second.kicker(), machine.recorder.clone());
    let running = std::thread::spawn(move || {
        let stop = second.run(&*recorder).unwrap();
        (stop, second.state().unwrap())
    });
    machine.run_while(|outside| {
        outside.wait_for_out(2, 9);
        outside.partition.signal(1, Signal::Init);
        kicker.kick();
        outside.kicker.kick();
    });
    let (_, state) = running.join().unwrap();
    assert_eq!(state.activity, x86::Activity::WaitForSipi);
}
