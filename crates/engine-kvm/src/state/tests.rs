//! States go into KVM and come back the same.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use engine::{Clock, Error, VmTime};
use kvm_bindings::{KVM_CAP_SPLIT_IRQCHIP, kvm_enable_cap};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use x86::bits::{cr0, cr4, efer, rflags};
use x86::msr::apic_base;
use x86::{Activity, CpuState, DescriptorTable, Event, Segment};

use super::{Context, Shared, read, write};
use crate::capabilities::Capabilities;
use crate::cpuid::HostCpuid;

/// A VM without memory, whose vCPUs never run.
struct Bare {
    kvm: Kvm,
    vm: Arc<VmFd>,
    clock: Clock,
    shared: Arc<Shared>,
}

impl Bare {
    /// `None` on a host without KVM.
    fn new() -> Option<Self> {
        let Ok(kvm) = Kvm::new() else {
            println!("no /dev/kvm here: not tested");
            return None;
        };
        let vm = Arc::new(kvm.create_vm().unwrap());
        let split = kvm_enable_cap { cap: KVM_CAP_SPLIT_IRQCHIP, args: [24, 0, 0, 0], ..Default::default() };
        vm.enable_cap(&split).unwrap();
        let clock = Clock::start().unwrap();
        let shared = Shared::new(&kvm, &vm, &clock).unwrap();
        Some(Self { kvm, vm, clock, shared })
    }

    fn cpu(&self, id: u32) -> (VcpuFd, Context) {
        let vcpu = self.vm.create_vcpu(u64::from(id)).unwrap();
        let host = HostCpuid::of(&self.kvm).unwrap();
        let ceiling = host.ceiling(&Capabilities::of(&self.kvm).unwrap()).unwrap();
        vcpu.set_cpuid2(&host.answers(&ceiling, id, 2, 1_000_000_000).unwrap()).unwrap();
        let context = Context::new(&self.shared, &vcpu, id, &Arc::new(AtomicBool::new(false))).unwrap();
        (vcpu, context)
    }
}

/// Xorshift.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn flag(&mut self) -> bool {
        self.next() & 1 != 0
    }

    fn canonical(&mut self) -> u64 {
        ((self.next() as i64) << 16 >> 16) as u64
    }

    fn one_of<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.next() as usize % list.len()]
    }

    fn table(&mut self) -> DescriptorTable {
        DescriptorTable { base: self.canonical(), limit: self.next() as u16 }
    }

    fn segment(&mut self, kind: u16, dpl: u16) -> Segment {
        let selector = self.next() as u16;
        let attr = kind | dpl << 5 | Segment::PRESENT | Segment::S | Segment::ACCESSED;
        // AMD's processors do not keep G: what is read follows from the limit.
        if self.flag() {
            Segment { base: 0, limit: u32::MAX, selector, attr: attr | Segment::DB | Segment::GRANULARITY }
        } else {
            Segment { base: self.next() & 0xffff_f000, limit: self.next() as u32 & 0xffff, selector, attr }
        }
    }
}

const CODE: u16 = Segment::CODE | Segment::WRITABLE_OR_READABLE;
const DATA: u16 = Segment::WRITABLE_OR_READABLE;

/// A state that a guest can be in, in long mode, protected mode or real mode.
fn random_state(r: &mut Random, id: u32) -> CpuState {
    let mut s = CpuState::power_on(id, 0);
    s.gpr = std::array::from_fn(|_| r.next());
    s.rip = r.canonical();
    s.rflags = r.next() & (rflags::STATUS | rflags::DF | rflags::IF | rflags::AC | rflags::ID) | rflags::ONE;
    let mode = r.next() % 3;
    let dpl = if mode == 0 { 0 } else { r.one_of(&[0, 3]) };
    s.cr0 = cr0::ET | cr0::NE | r.next() & (cr0::MP | cr0::TS | cr0::WP | cr0::AM);
    s.cr4 = r.next() & (cr4::TSD | cr4::DE | cr4::PSE | cr4::PGE | cr4::OSFXSR | cr4::OSXMMEXCPT);
    match mode {
        0 => s.rip &= 0xffff,
        1 => {
            s.cr0 |= cr0::PE;
            s.rip &= 0xffff_ffff;
        }
        _ => {
            s.cr0 |= cr0::PE | cr0::PG;
            s.cr4 |= cr4::PAE;
            s.msrs.efer = efer::LME | efer::LMA | r.next() & (efer::SCE | efer::NXE);
            s.cr3 = r.next() & 0xf_ffff_f000;
        }
    }
    if mode != 0 {
        s.seg = std::array::from_fn(|_| r.segment(DATA, dpl));
        s.seg[1] = r.segment(CODE, dpl);
        for i in [0, 3, 4, 5] {
            if r.flag() {
                let base = if i >= 4 { s.seg[i].base } else { 0 };
                s.seg[i] = Segment { base, limit: 0, selector: 0, attr: Segment::UNUSABLE };
            }
        }
        s.ldt = Segment { base: 0, limit: 0, selector: 0, attr: Segment::UNUSABLE };
        s.tr = Segment { base: r.next() & 0xffff_f000, limit: 0x67, selector: 0x40, attr: Segment::PRESENT | 11 };
    }
    if mode == 2 {
        s.seg[1] = Segment { base: 0, limit: u32::MAX, selector: 0x10, attr: s.seg[1].attr };
        s.seg[1].attr = s.seg[1].attr & !Segment::DB | Segment::LONG | Segment::GRANULARITY;
        s.seg[4].base = r.canonical();
        s.seg[5].base = r.canonical();
        if dpl == 0 && r.flag() {
            s.seg[2] = Segment { base: 0, limit: 0, selector: 0, attr: Segment::UNUSABLE };
        }
    }
    (s.gdt, s.idt) = (r.table(), r.table());
    s.cr2 = r.next();
    s.dr = [r.canonical(), r.canonical(), r.canonical(), r.canonical(), 0xffff_0ff0 | r.next() & 0xe00f, 0x400];
    s.dr[5] |= r.next() & 0x3ff;
    let m = &mut s.msrs;
    m.tsc_adjust = r.next();
    m.tsc_aux = r.next() & 0xffff_ffff;
    (m.star, m.sfmask) = (r.next(), r.next() & 0xffff_ffff);
    (m.lstar, m.cstar, m.kernel_gs_base) = (r.canonical(), r.canonical(), r.canonical());
    (m.sysenter_cs, m.sysenter_esp, m.sysenter_eip) = (r.next() & 0xffff, r.canonical(), r.canonical());
    m.pat = u64::from_le_bytes(std::array::from_fn(|_| r.one_of(&[0, 1, 4, 5, 6, 7])));
    m.mtrr_def_type = r.one_of(&[0, 6, 0xc06, 0x800]);
    m.mtrr_fixed = std::array::from_fn(|_| u64::from_le_bytes(std::array::from_fn(|_| r.one_of(&[0, 1, 4, 5, 6]))));
    for var in &mut m.mtrr_var {
        *var = [r.next() & 0xf_ffff_f000 | r.one_of(&[0, 1, 4, 5, 6]), r.next() & 0xf_ffff_f000 | 1 << 11];
    }
    m.mcg_status = r.next() & 7;
    m.mcg_ctl = r.one_of(&[0, u64::MAX]);
    for bank in &mut m.mc_banks {
        bank[0] = r.one_of(&[0, u64::MAX]);
    }
    m.tsc_offset = r.next() >> 20;
    m.kvm_clock_offset = r.next() >> 20;
    s.xcr0 = r.one_of(&[1, 3, 7]);
    for at in (0..24).chain(160..416).chain(576..832) {
        s.xsave.0[at] = r.next() as u8;
    }
    for at in (32..160).filter(|at| at % 16 < 10) {
        s.xsave.0[at] = r.next() as u8;
    }
    s.xsave.0[5] = 0;
    let control = r.next() as u32 & 0xffff;
    s.xsave.0[24..28].copy_from_slice(&control.to_le_bytes());
    random_lapic(r, &mut s);
    s.activity = r.one_of(&[Activity::Running, Activity::Halted, Activity::WaitForSipi]);
    random_events(r, &mut s);
    s
}

fn random_lapic(r: &mut Random, s: &mut CpuState) {
    let extended = r.flag();
    s.msrs.apic_base |= if extended { apic_base::EXTD } else { 0 };
    let l = &mut s.lapic;
    l.apic_base = s.msrs.apic_base;
    l.set_virtual_wire();
    l.tpr = r.next() as u32 & 0xff;
    if !extended {
        l.ldr = r.next() as u32 & 0xff00_0000;
    }
    l.svr |= r.next() as u32 & 0xff;
    let bits = |r: &mut Random| -> [u32; 8] {
        let mut bits = std::array::from_fn(|_| r.next() as u32);
        bits[0] &= 0xffff_0000;
        bits
    };
    (l.isr, l.irr, l.tmr) = (bits(r), bits(r), bits(r));
    l.icr = r.next() & 0xff00_0000_000c_cfff;
    l.esr_pending = r.one_of(&[0, 1 << 5]);
    l.timer_divide = r.next() as u32 & 0xb;
    let vector = 0x30 | r.next() as u32 & 0xf;
    match r.next() % 3 {
        0 => {
            l.lvt_timer = 2 << 17 | vector;
            l.tsc_deadline = r.one_of(&[0, 1 << 60]);
            s.msrs.tsc_deadline = l.tsc_deadline;
        }
        _ => l.lvt_timer = vector | 1 << 16,
    }
    (l.lvt_error, l.lvt_perf) = (0xfe, r.one_of(&[0x400, 0x1_0000]));
}

fn random_events(r: &mut Random, s: &mut CpuState) {
    s.events.nmi_blocked = r.flag();
    s.events.nmi_pending = r.flag();
    s.events.extint = r.flag();
    if s.activity == Activity::Running {
        s.events.interrupt_shadow = r.flag();
        s.events.injecting = r.one_of(&[
            None,
            Some(Event { vector: 14, error_code: Some(2), software: false }),
            Some(Event { vector: 6, error_code: None, software: false }),
            Some(Event { vector: 2, error_code: None, software: false }),
            Some(Event { vector: 0x41, error_code: None, software: false }),
        ]);
    }
}

#[test]
fn a_state_comes_back_the_same() {
    let Some(bare) = Bare::new() else { return };
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64 | 1;
    println!("seed {seed:#x}");
    let mut random = Random(seed);
    bare.clock.set(VmTime(5_000_000_000));
    let (vcpu, context) = bare.cpu(1);
    for round in 0..300 {
        let mut state = random_state(&mut random, 1);
        state.msrs.tsc_hz = context.tsc_hz();
        write(&vcpu, &context, &state)
            .unwrap_or_else(|error| panic!("round {round}, seed {seed:#x}: {error}\n{state:x?}"));
        let back = read(&vcpu, &context).unwrap();
        if !context.tsc.is_movable() {
            state.msrs.tsc_offset = back.msrs.tsc_offset;
        }
        same(&back, &state, round);
        // And what KVM gives it takes.
        write(&vcpu, &context, &back).unwrap();
        let mut again = read(&vcpu, &context).unwrap();
        if !context.tsc.is_movable() {
            again.msrs.tsc_offset = back.msrs.tsc_offset;
        }
        same(&again, &back, round);
    }
}

/// Compares by parts, so that a failure can be read.
fn same(got: &CpuState, want: &CpuState, round: u32) {
    assert_eq!(got.seg, want.seg, "round {round}");
    assert_eq!(got.msrs, want.msrs, "round {round}");
    assert_eq!(got.lapic, want.lapic, "round {round}");
    assert_eq!(got.events, want.events, "round {round}");
    let differ: Vec<_> = (0..832).filter(|i| got.xsave.0[*i] != want.xsave.0[*i]).collect();
    assert!(differ.is_empty(), "round {round}: bytes of the XSAVE area {differ:?}");
    assert_eq!(got, want, "round {round}");
}

#[test]
fn power_on_is_as_the_software_engine_has_it() {
    let Some(bare) = Bare::new() else { return };
    let (vcpu, context) = bare.cpu(0);
    let mut fresh = read(&vcpu, &context).unwrap();
    let want = CpuState::power_on(0, fresh.gpr[2] as u32);
    // What KVM itself starts with lacks "accessed" in some.
    fresh.seg.iter_mut().for_each(|segment| segment.attr |= Segment::ACCESSED);
    assert_eq!((fresh.seg, fresh.cr0, fresh.rip, fresh.dr), (want.seg, want.cr0, want.rip, want.dr));
    assert_eq!(fresh.msrs.apic_base, want.msrs.apic_base);
    fresh.lapic.lvt_lint0 = want.lapic.lvt_lint0;
    assert_eq!(fresh.lapic, want.lapic);
}

#[test]
fn what_no_cpu_can_be_in_is_refused() {
    let Some(bare) = Bare::new() else { return };
    let (vcpu, context) = bare.cpu(0);
    let good = read(&vcpu, &context).unwrap();
    let spoil: [fn(&mut CpuState); 7] = [
        |s| s.cr0 |= cr0::PG,
        |s| s.msrs.efer |= efer::LMA,
        |s| s.xcr0 = 0,
        |s| s.lapic.id = 9,
        |s| s.msrs.mcg_ctl = 5,
        |s| s.activity = Activity::Shutdown,
        |s| s.dr[5] = 1 << 32,
    ];
    for (i, spoil) in spoil.iter().enumerate() {
        let mut bad = good.clone();
        spoil(&mut bad);
        assert!(matches!(write(&vcpu, &context, &bad), Err(Error::State(_))), "{i}");
    }
    write(&vcpu, &context, &good).unwrap();
    let mut foreign = good.clone();
    foreign.msrs.tsc_hz = 123_456_789_000_000;
    assert!(matches!(write(&vcpu, &context, &foreign), Err(Error::Unsupported { .. })));
}

#[test]
fn a_countdown_goes_on() {
    let Some(bare) = Bare::new() else { return };
    bare.clock.set(VmTime(7_000_000_000));
    let (vcpu, context) = bare.cpu(0);
    let mut state = read(&vcpu, &context).unwrap();
    state.lapic.set_virtual_wire();
    for (mode, running) in [(0, true), (1 << 17, true)] {
        state.lapic.lvt_timer = mode | 0x40;
        state.lapic.timer_initial = 4_000_000_000;
        state.lapic.timer_divide = 0xb;
        state.lapic.timer_running = true;
        state.lapic.timer_start_ns = 6_000_000_000;
        write(&vcpu, &context, &state).unwrap();
        let back = read(&vcpu, &context).unwrap();
        assert_eq!(back.lapic.timer_running, running);
        // It had a second behind it, and KVM has gone on since.
        assert!(back.lapic.timer_start_ns <= 6_000_000_000, "{:?}", back.lapic);
        assert_eq!(back.lapic.irr, [0; 8]);
    }
}

#[test]
fn counters_of_all_cpus_stay_together_over_a_pause() {
    let Some(bare) = Bare::new() else { return };
    let cpus = [bare.cpu(0), bare.cpu(1)];
    let states: Vec<_> = cpus.iter().map(|(vcpu, context)| read(vcpu, context).unwrap()).collect();
    for ((vcpu, context), state) in cpus.iter().zip(&states) {
        let mut state = state.clone();
        state.msrs.tsc_offset = 1_000_000;
        state.msrs.kvm_clock_offset = 77;
        write(vcpu, context, &state).unwrap();
    }
    for _ in 0..3 {
        bare.clock.resume();
        let offsets: Vec<_> = cpus
            .iter()
            .map(|(vcpu, context)| {
                context.catch_up(vcpu).unwrap();
                super::ioctl::tsc_offset(vcpu)
            })
            .collect();
        assert_eq!(offsets[0], offsets[1]);
        bare.clock.pause();
        std::thread::sleep(Duration::from_millis(20));
        let offsets: Vec<_> = cpus
            .iter()
            .map(|(vcpu, context)| read(vcpu, context).unwrap().msrs)
            .map(|m| (m.tsc_offset, m.kvm_clock_offset))
            .collect();
        assert_eq!(offsets[0], offsets[1]);
        // A pause of 20 ms would show as tens of millions of ticks.
        let hz = cpus[0].1.tsc_hz();
        assert!(!cpus[0].1.tsc.is_movable() || offsets[0].0.abs_diff(1_000_000) < hz / 200, "{offsets:?}");
        assert!(offsets[0].1.wrapping_sub(77).cast_signed().abs() < 5_000_000, "{offsets:?}");
    }
}
