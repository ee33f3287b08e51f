//! `husk doctor`: what this host is worth for VMs, and what can be done about it.

mod limits;
mod page;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use engine::Engine;
use engine_kvm::KvmEngine;
use engine_kvm::probe::{self, Cache, Finding, Instruction, ModuleState, Need, Problem, Ring0};
use engine_soft::{SoftEngine, SoftOptions};
use serde::Serialize;

use crate::failure::{Failure, INTERNAL};
use limits::Limits;
use page::{Page, Row};

/// All that the doctor has found; with `--json` as it is.
#[derive(Debug, Serialize)]
struct Report {
    /// Husk's version.
    version: &'static str,
    /// What `--engine auto` takes; `None` if no engine runs here.
    engine: Option<&'static str>,
    /// Why not KVM.
    problem: Option<Problem>,
    /// The host and its KVM.
    #[serde(flatten)]
    finding: Finding,
    /// The engines that can be made here.
    engines: Vec<Able>,
    /// What the host gives a process.
    limits: Limits,
}

/// What an engine can do here.
#[derive(Debug, Serialize)]
struct Able {
    name: &'static str,
    /// Why there is none; the rest is then empty.
    refused: Option<String>,
    max_vcpus: u32,
    /// The CPU models in full.
    models: Vec<&'static str>,
    /// What the default model has and this engine cannot do here.
    default_model_lacks: Vec<String>,
}

/// Examines the host and tells.
pub(crate) fn run(json: bool, device: &Path) -> Result<ExitCode, Failure> {
    let report = examine(Path::new("/"), device);
    let text = if json {
        serde_json::to_string_pretty(&report).map_err(|e| Failure::internal(format!("report: {e}")))? + "\n"
    } else {
        page(&report).to_string()
    };
    let shown = crate::print(text.as_bytes())?;
    Ok(if report.engine.is_some() { shown } else { ExitCode::from(INTERNAL) })
}

fn examine(root: &Path, device: &Path) -> Report {
    let finding = probe::recall(device, Cache::of_user().as_ref(), true);
    let problem = finding.problem();
    let kvm = match probe::open(device) {
        Ok(opened) => Able::of("kvm", KvmEngine::from_device(opened)),
        Err(problem) => Able::refused("kvm", problem.cause),
    };
    let soft = Able::of("soft", SoftEngine::new(SoftOptions::default()));
    let engines = vec![kvm, soft];
    let able = engines.iter().filter(|one| one.refused.is_none() && (problem.is_none() || one.name != "kvm"));
    let engine = able.map(|one| one.name).next();
    Report { version: env!("CARGO_PKG_VERSION"), engine, problem, finding, engines, limits: Limits::read(root) }
}

impl Able {
    fn refused(name: &'static str, why: String) -> Self {
        Self { name, refused: Some(why), max_vcpus: 0, models: Vec::new(), default_model_lacks: Vec::new() }
    }

    fn of(name: &'static str, engine: engine::Result<impl Engine>) -> Self {
        let engine = match engine {
            Ok(engine) => engine,
            Err(error) => return Self::refused(name, error.to_string()),
        };
        let limits = engine.limits();
        let lacks = |model| vm::model_lacks(model, limits);
        let models = vm::cpu_models().into_iter().filter(|model| lacks(model).is_empty()).collect();
        let default_model_lacks = lacks(vm::DEFAULT_CPU_MODEL);
        Self { name, refused: None, max_vcpus: limits.max_vcpus, models, default_model_lacks }
    }
}

fn page(report: &Report) -> Page {
    let Report { finding, limits, .. } = report;
    let mut page = Page::default();
    page.section("Host", host_rows(finding));
    page.section("KVM", kvm_rows(report));
    if !finding.capabilities.is_empty() {
        page.section("Capabilities of KVM", capability_rows(finding));
    }
    page.section("Memory and limits", limits.rows());
    page.section("Engines", engine_rows(report));
    page
}

fn host_rows(finding: &Finding) -> Vec<Row> {
    let host = &finding.host;
    let or = |text: &str, otherwise: &str| if text.is_empty() { otherwise.to_owned() } else { text.to_owned() };
    let virtualization = match host.virtualization.as_deref() {
        Some("vmx") => Row::good("virtualization", "vmx (Intel VT-x)"),
        Some(flag) => Row::good("virtualization", format!("{flag} (AMD-V)")),
        None => Row::note("virtualization", "none: the CPU shows neither vmx nor svm"),
    };
    let machine = if host.is_guest { "a virtual machine itself: KVM would be nested" } else { "not a virtual machine" };
    let mut rows = vec![
        Row::plain("CPU", or(&host.cpu, "unknown")),
        Row::plain("kernel", or(&host.kernel, "unknown")),
        Row::plain("machine", machine),
        virtualization,
    ];
    rows.extend(host.modules.iter().map(|module| {
        let name = format!("module {}", module.name);
        match module.state {
            ModuleState::Loaded => Row::good(name, "loaded"),
            ModuleState::Loadable => Row::bad(name, "not loaded", format!("sudo modprobe {}", module.name)),
            ModuleState::Absent => Row::note(name, "not there"),
        }
    }));
    rows.push(match host.nested {
        Some(true) => Row::plain("nested guests", "allowed by the module"),
        Some(false) => Row::plain("nested guests", "not allowed by the module"),
        None => Row::plain("nested guests", "the module does not say"),
    });
    rows
}

fn kvm_rows(report: &Report) -> Vec<Row> {
    let finding = &report.finding;
    let device: &PathBuf = &finding.device.path;
    let name = device.display().to_string();
    let Some(ring0) = &finding.ring0 else {
        let problem = report.problem.clone();
        return problem.map(|problem| Row::bad(name, problem.cause, problem.fix)).into_iter().collect();
    };
    let mut rows = vec![Row::good(name, "opens")];
    let fix = report.problem.as_ref().map(|problem| problem.fix.clone()).unwrap_or_default();
    let speed = |mips: u32| format!("{mips} million instructions per second");
    match ring0 {
        Ring0::Hardware { mips } => {
            rows.push(Row::good("ring 0", "runs in hardware"));
            rows.push(Row::good("speed", speed(*mips)));
        }
        Ring0::Emulated { mips } => {
            rows.push(Row::bad("ring 0", "is emulated by KVM: too slow for a kernel", fix));
            rows.push(Row::note("speed", speed(*mips)));
        }
        Ring0::Fails { instruction, mips } => {
            let what = match instruction {
                Instruction::Loop => "runs nothing".to_owned(),
                other => format!("is emulated by KVM, which fails at {}", other.name()),
            };
            rows.push(Row::bad("ring 0", what, fix));
            rows.push(Row::note("speed", speed(*mips)));
        }
        Ring0::Hangs => rows.push(Row::bad("ring 0", "hangs: KVM does not come back from the guest", fix)),
        Ring0::Refused { what, error, .. } => rows.push(Row::bad("VM", format!("{what} is refused: {error}"), fix)),
    }
    let milliseconds = finding.took as f64 / 1e3;
    rows.push(Row::plain("probe", format!("took {milliseconds:.1} ms; its verdict holds until the next boot")));
    rows
}

fn capability_rows(finding: &Finding) -> Vec<Row> {
    let row = |one: &probe::Capability| {
        let value = match one.value {
            ..=0 => format!("no: {}", one.purpose),
            1 => one.purpose.clone(),
            more => format!("{} ({more})", one.purpose),
        };
        match (one.value > 0, one.need) {
            (true, _) => Row::good(&one.name, value),
            (false, Need::Useful) => Row::note(&one.name, value),
            (false, Need::Needed) => Row::bad(&one.name, value, "run a newer Linux kernel"),
        }
    };
    finding.capabilities.iter().map(row).collect()
}

fn engine_rows(report: &Report) -> Vec<Row> {
    let mut rows = Vec::new();
    for able in &report.engines {
        if let Some(why) = &able.refused {
            rows.push(Row::note(able.name, format!("not here: {why}")));
            continue;
        }
        let models = if able.models.is_empty() { "no CPU model in full".to_owned() } else { able.models.join(", ") };
        rows.push(Row::good(able.name, format!("up to {} CPUs; {models}", able.max_vcpus)));
        if !able.default_model_lacks.is_empty() {
            let what = format!("{} lacks {}", vm::DEFAULT_CPU_MODEL, able.default_model_lacks.join(", "));
            rows.push(Row::note("", what));
        }
    }
    let why = report.problem.as_ref().map(|problem| format!(": {}", problem.cause)).unwrap_or_default();
    rows.push(match report.engine {
        Some("kvm") => Row::good("auto takes", "kvm"),
        Some(other) => Row::plain("auto takes", format!("{other}{why}")),
        None => Row::bad("auto takes", "none: no VM can be run here", "ask for a host with KVM or an x86-64-v1 CPU"),
    });
    rows
}
