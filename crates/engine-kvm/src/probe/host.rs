//! The host's CPU and kernel, as far as virtualization goes.

use std::fs;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// The CPU and the kernel's modules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// The CPU's vendor as CPUID spells it.
    pub vendor: String,
    /// The CPU's name.
    pub cpu: String,
    /// The CPU's flag for virtualization, `vmx` or `svm`; `None` if it has neither, or hides it.
    pub virtualization: Option<String>,
    /// The host is a virtual machine itself.
    pub is_guest: bool,
    /// The kernel's release.
    pub kernel: String,
    /// The kernel's modules for KVM.
    pub modules: Vec<Module>,
    /// Whether guests may be hypervisors; `None` if no module says.
    pub nested: Option<bool>,
}

/// A module of the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Module {
    /// Its name.
    pub name: String,
    /// Whether it works.
    pub state: ModuleState,
}

/// Whether a module works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ModuleState {
    /// It is in the kernel, loaded or built in.
    Loaded,
    /// It lies beside the kernel and can be loaded.
    Loadable,
    /// There is none.
    Absent,
}

impl Host {
    /// Reads what `/proc`, `/sys` and `/lib/modules` below `root` tell.
    #[must_use]
    pub fn read(root: &Path) -> Self {
        let text = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
        let info = beginning(&root.join("proc/cpuinfo"));
        let of = |key: &str| {
            let line = info.lines().find(|line| line.split(':').next().is_some_and(|name| name.trim() == key));
            line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
        };
        let flags = of("flags");
        let has = |flag: &str| flags.split(' ').any(|one| one == flag);
        let kernel = text("proc/sys/kernel/osrelease").trim().to_owned();
        let state = |name: &str| {
            let file = format!("/{}.ko", name.replace('_', "-"));
            let lists = |list: &str| {
                let list = text(&format!("lib/modules/{kernel}/{list}"));
                list.lines().any(|line| line.split(':').next().is_some_and(|path| path.contains(&file)))
            };
            if root.join("sys/module").join(name).is_dir() || lists("modules.builtin") {
                ModuleState::Loaded
            } else if lists("modules.dep") {
                ModuleState::Loadable
            } else {
                ModuleState::Absent
            }
        };
        let named = |name: &str| Module { name: name.to_owned(), state: state(name) };
        let mut modules = vec![named("kvm")];
        let (vmx, svm) = (has("vmx"), has("svm"));
        let vendor = of("vendor_id");
        let intel = vmx || !svm && vendor != "AuthenticAMD";
        modules.push(named(if intel { "kvm_intel" } else { "kvm_amd" }));
        modules.extend(others(root).map(|name| Module { name, state: ModuleState::Loaded }));
        // The kernel writes Y or 1, by the module's age.
        let nested = modules.iter().find_map(|module| {
            let value = text(&format!("sys/module/{}/parameters/nested", module.name));
            value.chars().next().map(|first| matches!(first, 'Y' | '1'))
        });
        Self {
            vendor,
            cpu: of("model name"),
            virtualization: if vmx { Some("vmx".into()) } else { svm.then(|| "svm".into()) },
            is_guest: has("hypervisor"),
            kernel,
            modules,
            nested,
        }
    }

    /// The state of a module.
    #[must_use]
    pub fn module(&self, name: &str) -> ModuleState {
        self.modules.iter().find(|one| one.name == name).map_or(ModuleState::Absent, |one| one.state)
    }

    /// The module for this CPU.
    fn own_module(&self) -> &Module {
        const NONE: Module = Module { name: String::new(), state: ModuleState::Absent };
        self.modules.get(1).unwrap_or(const { &NONE })
    }

    /// What to do where there is no device.
    pub(super) fn missing_device(&self) -> String {
        // The first is what they have in common, and drives nothing.
        if self.modules.iter().skip(1).any(|module| module.state == ModuleState::Loaded) {
            return "hand it in if this is a container (--device /dev/kvm), else restart udev".into();
        }
        self.missing_driver()
    }

    /// What to do where nothing drives the device.
    pub(super) fn missing_driver(&self) -> String {
        let Module { name, state } = self.own_module();
        match (&self.virtualization, state) {
            (None, _) => self.missing_virtualization(),
            (Some(_), ModuleState::Loadable) => format!("load its module: sudo modprobe {name}"),
            (Some(_), ModuleState::Loaded) => format!("see why {name} refuses (dmesg): the firmware may forbid it"),
            (Some(_), ModuleState::Absent) => format!("install the kernel's module {name}"),
        }
    }

    /// What to do where the CPU does not virtualize.
    pub(super) fn missing_virtualization(&self) -> String {
        let advice = if self.is_guest {
            "switch on nested virtualization in the hypervisor that runs this machine"
        } else {
            "switch on VT-x or AMD-V (SVM) in the firmware's setup"
        };
        advice.into()
    }
}

/// The first few KiB of a file: of many CPUs one is enough, and the kernel takes its time to describe them all.
fn beginning(path: &Path) -> String {
    let mut bytes = Vec::new();
    if let Ok(file) = fs::File::open(path) {
        // What has been read until an error is what there is.
        let _ = file.take(8 << 10).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The loaded modules that drive KVM in another way than VT-x and AMD-V.
fn others(root: &Path) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(root.join("sys/module")).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.retain(|name| name.starts_with("kvm_") && name != "kvm_intel" && name != "kvm_amd");
    names.sort();
    names.into_iter()
}

#[cfg(test)]
mod tests {
    use testkit::folder::Folder;

    use super::*;

    const RELEASE: (&str, &str) = ("proc/sys/kernel/osrelease", "6.1.0\n");

    fn cpu(vendor: &str, flags: &str) -> String {
        format!(
            "processor\t: 0\nvendor_id\t: {vendor}\nmodel name\t: A CPU: fast\nflags\t\t: {flags}\nvmx flags\t: ept\n"
        )
    }

    #[test]
    fn a_host_with_everything() {
        let files = [
            RELEASE,
            ("proc/cpuinfo", &cpu("GenuineIntel", "fpu vmx sse")),
            ("sys/module/kvm/x", ""),
            ("sys/module/kvm_intel/parameters/nested", "Y\n"),
        ];
        let host = Host::read(&Folder::with("host-all", &files));
        assert_eq!((host.cpu.as_str(), host.kernel.as_str()), ("A CPU: fast", "6.1.0"));
        assert_eq!((host.virtualization.as_deref(), host.is_guest, host.nested), (Some("vmx"), false, Some(true)));
        assert_eq!(host.module("kvm"), ModuleState::Loaded);
        assert_eq!(host.module("kvm_intel"), ModuleState::Loaded);
        assert!(host.missing_device().contains("container"));
        assert!(host.missing_driver().contains("firmware"));
    }

    #[test]
    fn each_lack_has_its_advice() {
        let dep = "kernel/arch/x86/kvm/kvm.ko.xz:\nkernel/arch/x86/kvm/kvm-amd.ko.xz: kernel/arch/x86/kvm/kvm.ko.xz\n";
        let files = [RELEASE, ("proc/cpuinfo", &cpu("AuthenticAMD", "svm")), ("lib/modules/6.1.0/modules.dep", dep)];
        let host = Host::read(&Folder::with("host-loadable", &files));
        assert_eq!(host.module("kvm_amd"), ModuleState::Loadable);
        assert_eq!(host.missing_device(), "load its module: sudo modprobe kvm_amd");

        let host = Host::read(&Folder::with("host-absent", &[RELEASE, ("proc/cpuinfo", &cpu("AuthenticAMD", "svm"))]));
        assert_eq!(host.missing_device(), "install the kernel's module kvm_amd");

        let host = Host::read(&Folder::with("host-off", &[RELEASE, ("proc/cpuinfo", &cpu("GenuineIntel", "sse"))]));
        assert!(host.missing_device().contains("firmware's setup") && host.nested.is_none());

        let host = Host::read(&Folder::with(
            "host-guest",
            &[RELEASE, ("proc/cpuinfo", &cpu("GenuineIntel", "sse hypervisor"))],
        ));
        assert!(host.is_guest && host.missing_device().contains("nested virtualization"));

        let files = [RELEASE, ("proc/cpuinfo", &cpu("GenuineIntel", "sse")), ("sys/module/kvm_odd/x", "")];
        let host = Host::read(&Folder::with("host-odd", &files));
        assert_eq!(host.module("kvm_odd"), ModuleState::Loaded);
        assert!(host.missing_device().contains("container"));

        let host = Host::read(Path::new("/nowhere"));
        assert_eq!((host.cpu.as_str(), host.virtualization), ("", None));
    }
}
