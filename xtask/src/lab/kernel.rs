//! The lab's kernel: Debian's, and those of its modules that a host of virtual machines wants.

use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::guest;

/// The kernel inside of a bzImage (Linux, Documentation/arch/x86/boot.rst), if it is packed by xz or LZ4, as Debian 12's are.
///
/// An emulated CPU takes ten seconds to unpack it.
pub(crate) fn unpacked(image: &[u8]) -> Option<Vec<u8>> {
    const SETUP_SECTORS: usize = 0x1f1;
    const PAYLOAD_OFFSET: usize = 0x248;
    const PAYLOAD_LENGTH: usize = 0x24c;
    let word = |at: usize| image.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes).map(|n| n as usize);
    let sectors = usize::from(*image.get(SETUP_SECTORS)?);
    let start = (sectors + 1) * 512 + word(PAYLOAD_OFFSET)?;
    let payload = image.get(start..start.checked_add(word(PAYLOAD_LENGTH)?)?)?;
    let kernel = if payload.starts_with(&LZ4.to_le_bytes()) {
        from_lz4(&payload[4..])?
    } else {
        let mut kernel = Vec::new();
        lzma_rust2::XzReader::new(payload, false).read_to_end(&mut kernel).ok()?;
        kernel
    };
    kernel.starts_with(b"\x7fELF").then_some(kernel)
}

/// The magic number of a legacy frame of LZ4 (*LZ4 Frame Format Description*).
const LZ4: u32 = 0x184c_2102;

/// What the blocks of a legacy frame hold.
fn from_lz4(mut packed: &[u8]) -> Option<Vec<u8>> {
    const BLOCK: usize = 8 << 20;
    let mut kernel = Vec::new();
    while let Some((len, rest)) = packed.split_first_chunk() {
        // At the end is the length of all, which is no block's.
        let Some((block, rest)) = rest.split_at_checked(u32::from_le_bytes(*len) as usize) else { break };
        kernel.extend(lz4_flex::block::decompress(block, BLOCK).ok()?);
        packed = rest;
    }
    Some(kernel)
}

/// Kernel modules by their names.
pub(super) struct Modules(HashMap<String, PathBuf>);

impl Modules {
    /// Those in `folder` and all folders in it.
    pub(super) fn of(folder: &Path) -> Result<Self> {
        let mut modules = HashMap::new();
        let mut folders = vec![folder.to_path_buf()];
        while let Some(folder) = folders.pop() {
            let entries = fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
            for path in entries.flatten().map(|entry| entry.path()) {
                if path.is_dir() {
                    folders.push(path);
                } else if let Some((name, _)) = path.file_name().and_then(|n| n.to_str()?.split_once(".ko")) {
                    modules.insert(name.replace('-', "_"), path);
                }
            }
        }
        Ok(Self(modules))
    }

    /// A module and what it depends on, in the order to load them, without those in `loaded`.
    pub(super) fn chain(&self, name: &str, loaded: &mut Vec<String>) -> Result<Vec<(String, Vec<u8>)>> {
        let name = name.replace('-', "_");
        if loaded.contains(&name) {
            return Ok(Vec::new());
        }
        loaded.push(name.clone());
        let path = self.0.get(&name).with_context(|| format!("the kernel's package has no module {name}"))?;
        if path.extension().is_none_or(|extension| extension != "ko") {
            bail!("the module {} is compressed: the lab knows Debian 12's plain ones only", path.display());
        }
        let bytes = guest::read(path)?;
        let mut chain = Vec::new();
        for other in depends(&bytes) {
            chain.extend(self.chain(&other, loaded)?);
        }
        chain.push((name, bytes));
        Ok(chain)
    }
}

/// The modules that a module names as what it depends on, in its section `.modinfo`.
fn depends(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|part| part == KEY) else { return Vec::new() };
    let list = module[at + KEY.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
    let list = String::from_utf8_lossy(list);
    list.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_module_depends_on_is_read_from_it() {
        assert_eq!(depends(b"\x7fELF..license=GPL\0depends=kvm,ccp-x\0retpoline=Y\0"), ["kvm", "ccp_x"]);
        assert!(depends(b"license=GPL\0depends=\0name=rng_core\0").is_empty());
        assert!(depends(b"\x7fELF").is_empty());
    }

    #[test]
    fn a_file_that_is_no_kernel_has_none_inside() {
        assert!(unpacked(b"MZ").is_none());
        assert!(unpacked(&[0xff; 0x400]).is_none());
    }
}
