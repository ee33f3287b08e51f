//! What is told when something is refused or KVM cannot go on.

mod common;

use common::Machine;
use engine::{Engine, EngineConfig, Error};
use iced_x86::code_asm::*;
use memory::{Gpa, GuestMemory, Kind, Region};
use testkit::bare::{Bare, CODE};
use x86::CpuModel;

#[test]
fn an_instruction_that_kvm_cannot_emulate_is_shown() {
    let Some(engine) = common::engine() else { return };
    let bare = Bare::protected();
    // FSIN on device memory is nothing that any KVM emulates: FNSTENV stores to it.
    bare.code(32, CODE, |a| {
        a.mov(ebx, 0x1234_5678)?;
        a.fnstenv(ptr(0x4000_0000))?;
        common::exit(a)
    });
    let mut machine = Machine::new(&engine, &bare);
    let error = machine.cpus[0].run(&*machine.recorder).expect_err("a failure");
    let Error::Internal(text) = &error else { panic!("{error}") };
    assert!(text.contains("instruction d9 35 00 00 00 40"), "{text}");
    assert!(text.contains("cs:rip 0008:10005") && text.contains("rbx 12345678"), "{text}");
    assert!(text.contains("cpu0") && text.contains("--engine soft"), "{text}");
}

#[test]
fn what_the_host_cannot_do_is_refused_by_name() {
    let Some(engine) = common::engine() else { return };
    let memory = GuestMemory::new(&[Region { start: Gpa(0), len: 0x1000, kind: Kind::Ram }]).unwrap();
    let create = |vcpus| engine.create(&EngineConfig { vcpus, name: "test".into() }, &memory);
    let most = engine.limits().max_vcpus;
    for vcpus in [0, most + 1] {
        let Err(Error::Config(text)) = create(vcpus) else { panic!("{vcpus} vCPUs") };
        assert_eq!(text, format!("{vcpus} vCPUs: this host's KVM runs 1 to {most}"));
    }
    let partition = create(1).unwrap();
    let model = CpuModel::named("x86-64-v1").unwrap().intersect(&engine.limits().ceiling);
    let vcpu = partition.vcpu(0, &model).unwrap();
    for id in [0, 1] {
        assert!(matches!(partition.vcpu(id, &model), Err(Error::Config(_))), "{id}");
    }
    drop(vcpu);
}

#[test]
fn a_descriptor_that_is_no_kvm_is_refused() {
    let null = std::fs::File::open("/dev/null").unwrap();
    let error = engine_kvm::KvmEngine::from_device(null.into()).expect_err("not KVM");
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
}
