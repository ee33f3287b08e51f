//! The descriptor of a VMDK: a text that names its extents ("Virtual Disk Format 5.0", "The Descriptor File").

use crate::import::{ImportError, Parsed, Source};

use super::SECTOR;

/// A descriptor is at most this long.
const MOST: u64 = 64 << 10;
/// And has at most so many extents, which are open files.
const MOST_EXTENTS: usize = 512;
const FIRST_LINE: &str = "# Disk DescriptorFile";

/// What an extent is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Raw bytes of a file, from this byte on.
    Flat { file: String, offset: u64 },
    /// A sparse file.
    Sparse { file: String },
    /// Nothing.
    Zero,
}

/// A part of the disk.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// Bytes.
    pub(super) len: u64,
    pub(super) kind: Kind,
}

/// What the text says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Descriptor {
    pub(super) extents: Vec<Part>,
    parent: Option<String>,
}

/// Whether these bytes start a descriptor; empty lines may be in front of the line that says so.
pub(super) fn probe(start: &[u8]) -> bool {
    let start = start.trim_ascii_start();
    start.get(..FIRST_LINE.len()).is_some_and(|line| line.eq_ignore_ascii_case(FIRST_LINE.as_bytes()))
}

/// The text at this place of a file.
pub(super) fn read(source: &Source, at: u64, len: u64) -> Parsed<String> {
    if len > MOST {
        return Err(ImportError::corrupt("its descriptor is too long"));
    }
    let mut bytes = vec![0; len as usize];
    source.read(at, &mut bytes)?;
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8(bytes[..end].to_vec()).map_err(|_| ImportError::corrupt("its descriptor is not a text in UTF-8"))
}

/// The words of a line; quotation marks hold one together.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for letter in line.chars() {
        match letter {
            '"' => quoted = !quoted,
            letter if letter.is_whitespace() && !quoted => words.push(String::new()),
            letter => words.iter_mut().last().into_iter().for_each(|word| word.push(letter)),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

impl Descriptor {
    pub(super) fn parse(text: &str) -> Parsed<Self> {
        let mut extents = Vec::new();
        let mut parent = None;
        if !probe(text.as_bytes()) {
            return Err(ImportError::corrupt("it does not start as a descriptor does"));
        }
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let words = words(line);
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            if let [access @ ("RW" | "RDONLY" | "NOACCESS"), rest @ ..] = words.as_slice() {
                if *access == "NOACCESS" {
                    return Err(ImportError::Unsupported("an extent that must not be read".to_owned()));
                }
                extents.push(Part::parse(rest, line)?);
                if extents.len() > MOST_EXTENTS {
                    return Err(ImportError::corrupt(format!("more than {MOST_EXTENTS} extents")));
                }
            } else if let Some((key, value)) = line.split_once('=')
                && key.trim().eq_ignore_ascii_case("parentCID")
            {
                parent = Some(value.trim().trim_matches('"').to_owned());
            }
        }
        Ok(Self { extents, parent })
    }

    /// An image with a parent holds a part of a disk only.
    pub(super) fn refuse_parent(&self) -> Parsed<()> {
        match &self.parent {
            Some(parent) if !parent.eq_ignore_ascii_case("ffffffff") => {
                Err(ImportError::Unsupported("a parent image (it is a snapshot of another)".to_owned()))
            }
            _ => Ok(()),
        }
    }
}

impl Part {
    fn parse(words: &[&str], line: &str) -> Parsed<Self> {
        let wrong =
            || ImportError::corrupt(format!("its descriptor says '{}'", line.chars().take(80).collect::<String>()));
        let [len, kind, rest @ ..] = words else { return Err(wrong()) };
        let sectors = |text: &str| text.parse::<u64>().ok()?.checked_mul(SECTOR);
        let len = sectors(len).filter(|len| *len > 0).ok_or_else(wrong)?;
        // A name that leads elsewhere would read any file of the host into the image.
        let file = || match rest.first() {
            Some(name) if !name.contains('/') && *name != ".." => Ok((*name).to_owned()),
            Some(name) => Err(ImportError::Unsupported(format!("the extent {name} in another folder"))),
            None => Err(wrong()),
        };
        let kind = match *kind {
            "ZERO" => Kind::Zero,
            "FLAT" | "VMFS" => {
                let offset = rest.get(1).map_or(Some(0), |text| sectors(text)).ok_or_else(wrong)?;
                Kind::Flat { file: file()?, offset }
            }
            "SPARSE" => Kind::Sparse { file: file()? },
            other => return Err(ImportError::Unsupported(format!("extents of the kind {other}"))),
        };
        Ok(Self { len, kind })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_are_read() {
        let text = "# Disk DescriptorFile\nversion=1\nCID=1234\nparentCID=ffffffff\ncreateType=\"custom\"\n\n\
            RW 4 FLAT \"a disk-f001.vmdk\" 8\nRW 10 SPARSE \"b.vmdk\"\nRDONLY 2 ZERO\n#DDB\nddb.x = \"1\"\n";
        assert!(Descriptor::parse("\n# disk descriptorfile\n").is_ok() && Descriptor::parse("# Disk\n").is_err());
        let read = Descriptor::parse(text).unwrap();
        let flat = Kind::Flat { file: "a disk-f001.vmdk".to_owned(), offset: 4096 };
        assert_eq!(read.extents[0], Part { len: 2048, kind: flat });
        assert_eq!(read.extents[1], Part { len: 5120, kind: Kind::Sparse { file: "b.vmdk".to_owned() } });
        assert_eq!(read.extents[2], Part { len: 1024, kind: Kind::Zero });
        assert!(read.refuse_parent().is_ok());
        assert!(Descriptor::parse("# Disk DescriptorFile\nparentCID=12345678").unwrap().refuse_parent().is_err());
    }

    #[test]
    fn bad_extents_are_refused() {
        for bad in [
            "RW 4 FLAT \"../../etc/shadow\" 0",
            "RW 4 FLAT \"/etc/shadow\" 0",
            "RW 4 FLAT",
            "RW 99999999999999999999 ZERO",
            "RW 36028797018963968 ZERO",
            "RW 0 ZERO",
            "RW 4 FLAT a x",
            "RW 4 VMFSSPARSE a",
            "RW",
            "NOACCESS 4 FLAT a",
        ] {
            let why = Descriptor::parse(&format!("{FIRST_LINE}\n{bad}")).unwrap_err().to_string();
            assert!(!why.contains("does not start"), "{bad}: {why}");
        }
        assert!(Descriptor::parse(&(format!("{FIRST_LINE}\n") + &"RW 1 ZERO\n".repeat(MOST_EXTENTS + 1))).is_err());
    }
}
