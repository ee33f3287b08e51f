//! Sizes as people write them.

/// Parses a size: a number with `K`, `M`, `G` or `T`, which count in powers of 1024 and may be followed by `B` or `iB`;
/// without a unit, MiB.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    parse_in(text, 20)
}

/// The same, but without a unit it counts bytes, as it is the custom for images.
pub(crate) fn parse_bytes(text: &str) -> Result<u64, String> {
    parse_in(text, 0)
}

fn parse_in(text: &str, plain: u32) -> Result<u64, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err("not a size; write it like 512M or 2G".to_owned());
    }
    let too_much = || "more than a machine can have; give it less".to_owned();
    // Digits only fail to be a number when there are too many.
    let number: u64 = number.parse().map_err(|_| too_much())?;
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" => plain,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        other if other.starts_with(['.', ',']) => {
            return Err("not a whole number; take a smaller unit, as in 1536M".to_owned());
        }
        _ => return Err(format!("there is no unit '{unit}'; write it like 512M or 2G")),
    };
    number.checked_mul(1 << shift).ok_or_else(too_much)
}

/// A size as people read it.
pub(crate) fn show(bytes: u64) -> String {
    let units = [(1u64 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let unit = units.into_iter().find(|(size, _)| bytes >= *size);
    match unit {
        Some((size, name)) if bytes.is_multiple_of(size) => format!("{} {name}", bytes / size),
        // One decimal is for the reader only.
        Some((size, name)) => format!("{:.1} {name}", bytes as f64 / size as f64),
        None => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_parse() {
        let good = [("512", 512 << 20), ("512M", 512 << 20), ("2g", 2 << 30), ("1GiB", 1 << 30), ("4096kB", 4 << 20)];
        for (text, bytes) in good {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for bad in ["", "M", "1.5G", "-1", "12 M", "5X", "99999999999999999999", "99999999999T"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert!(parse("3.5G").is_err_and(|e| e.contains("whole number")));
        assert!(parse("99999999999999999999").is_err_and(|e| e.contains("more than")));
    }

    #[test]
    fn sizes_show() {
        assert_eq!(show(512 << 20), "512 MiB");
        assert_eq!(show(1536 << 20), "1.5 GiB");
        assert_eq!(show(1000), "1000 bytes");
    }
}
