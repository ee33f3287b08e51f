//! The values of options of `husk img`.

use disk::Format;

use crate::size;

/// `NAME=VALUE` of an option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pair {
    pub(crate) name: String,
    pub(crate) value: String,
}

/// Another size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// This one.
    To(u64),
    /// Larger by so many bytes.
    More(u64),
    /// Smaller by so many bytes.
    Less(u64),
}

/// A size of which a plain number counts bytes, as in all tools for images.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    size::parse_bytes(text)
}

/// The format of a name.
pub(crate) fn format(text: &str) -> Result<Format, String> {
    let known = super::open::FORMATS;
    // As qemu-img calls it.
    let text = if text == "vpc" { "vhd" } else { text };
    let found = known.iter().find(|(name, _)| *name == text).map(|(_, format)| *format);
    let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
    found.ok_or_else(|| format!("there is no such format; take one of {}", names.join(", ")))
}

/// An option and its value; without one, it is switched on.
pub(crate) fn pair(text: &str) -> Result<Pair, String> {
    let (name, value) = text.split_once('=').unwrap_or((text, "on"));
    if name.is_empty() {
        return Err("an option has no name; write it like cluster_size=64k".to_owned());
    }
    Ok(Pair { name: name.to_owned(), value: value.to_owned() })
}

/// A new size, or a difference.
pub(crate) fn change(text: &str) -> Result<Change, String> {
    match text.split_at_checked(1) {
        Some(("+", size)) => bytes(size).map(Change::More),
        Some(("-", size)) => bytes(size).map(Change::Less),
        _ => bytes(text).map(Change::To),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_parse() {
        assert_eq!(bytes("65536"), Ok(65536));
        assert_eq!(bytes("64k"), Ok(65536));
        assert_eq!(change("+1G"), Ok(Change::More(1 << 30)));
        assert_eq!(change("-512"), Ok(Change::Less(512)));
        assert_eq!(change("3M"), Ok(Change::To(3 << 20)));
        assert!(change("+").is_err() && change("").is_err() && change("+-1").is_err());
        assert_eq!(pair("a=b=c"), Ok(Pair { name: "a".into(), value: "b=c".into() }));
        assert_eq!(pair("lazy_refcounts"), Ok(Pair { name: "lazy_refcounts".into(), value: "on".into() }));
        assert!(pair("=x").is_err());
        assert!(format("vpc").is_ok() && format("qcow2").is_ok());
        assert!(format("qcow3").is_err_and(|e| e.contains("qcow2")));
    }
}
