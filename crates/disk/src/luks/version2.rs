//! Version 2, read only: LUKS2 On-Disk Format Specification 1.1.1. A binary header with a checksum, JSON behind it, both twice.

use std::collections::BTreeMap;

use serde::Deserialize;
use zeroize::Zeroizing;

use super::hash::Hash;
use super::header::MAGIC;
use super::sectors::{Mode, Sectors};
use super::{LuksError, ReadAt, Summary, Unlocked};

const BINARY: usize = 4096;
const SECOND_MAGIC: [u8; 6] = *b"SKUL\xba\xbe";
/// The sizes of header and JSON together that there are: also the places of the second header.
const SIZES: [u64; 9] = [1 << 14, 1 << 15, 1 << 16, 1 << 17, 1 << 18, 1 << 19, 1 << 20, 1 << 21, 1 << 22];
/// What a hostile header may ask of us: KiB of memory, and passes over it.
const MOST_MEMORY: u32 = 4 << 20;
const MOST_WORK: u64 = 1 << 27;

#[derive(Deserialize)]
struct Json {
    keyslots: BTreeMap<String, Keyslot>,
    segments: BTreeMap<String, Segment>,
    digests: BTreeMap<String, Digest>,
    config: Config,
}

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    requirements: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Keyslot {
    #[serde(rename = "type")]
    kind: String,
    key_size: u32,
    area: Area,
    kdf: Kdf,
    #[serde(default)]
    af: Option<Af>,
}

#[derive(Deserialize)]
struct Area {
    offset: String,
    encryption: String,
    key_size: u32,
}

#[derive(Deserialize)]
struct Af {
    stripes: u32,
    hash: String,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Kdf {
    Pbkdf2 { hash: String, iterations: u32, salt: String },
    Argon2i { time: u32, memory: u32, cpus: u32, salt: String },
    Argon2id { time: u32, memory: u32, cpus: u32, salt: String },
}

#[derive(Deserialize)]
struct Segment {
    #[serde(rename = "type")]
    kind: String,
    offset: String,
    size: String,
    #[serde(default)]
    iv_tweak: String,
    #[serde(default)]
    encryption: String,
    #[serde(default)]
    sector_size: u32,
    #[serde(default)]
    integrity: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Digest {
    #[serde(rename = "type")]
    kind: String,
    keyslots: Vec<String>,
    segments: Vec<String>,
    hash: String,
    iterations: u32,
    salt: String,
    digest: String,
}

fn corrupt(what: &str) -> LuksError {
    LuksError::Corrupt(what.to_owned())
}

fn unsupported(what: impl Into<String>) -> LuksError {
    LuksError::Unsupported(what.into())
}

fn number(text: &str) -> Result<u64, LuksError> {
    text.parse().map_err(|_| corrupt("a number of its JSON is none"))
}

/// Base64 (RFC 4648, section 4).
fn base64(text: &str) -> Result<Vec<u8>, LuksError> {
    let mut bytes = Vec::new();
    let (mut bits, mut count) = (0u32, 0);
    for letter in text.trim_end_matches('=').bytes() {
        let value = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return Err(corrupt("a value of its JSON is not base64")),
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    Ok(bytes)
}

/// One of the two copies of the header, if it is intact.
fn copy(read: &mut ReadAt<'_>, at: u64, magic: [u8; 6]) -> Result<Option<(u64, String, Json)>, LuksError> {
    let mut bytes = vec![0; BINARY];
    read(at, &mut bytes)?;
    let be64 = |at: usize| bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_be_bytes);
    let text = |at: usize, len: usize| {
        let field: Vec<u8> = bytes[at..at + len].iter().copied().take_while(u8::is_ascii_graphic).collect();
        String::from_utf8(field).unwrap_or_default()
    };
    let size = be64(8);
    if !bytes.starts_with(&magic) || bytes[6..8] != [0, 2] || !SIZES.contains(&size) || be64(256) != at {
        return Ok(None);
    }
    let (sequence, uuid) = (be64(16), text(168, 40));
    let hash = Hash::by_name(&text(72, 32))?;
    let sum = bytes[448..512].to_vec();
    bytes.resize(size as usize, 0);
    read(at + BINARY as u64, &mut bytes[BINARY..])?;
    bytes[448..512].fill(0);
    if !sum.starts_with(&hash.digest(&[&bytes])) {
        return Ok(None);
    }
    let json = &bytes[BINARY..];
    let end = json.iter().position(|byte| *byte == 0).unwrap_or(json.len());
    let json =
        serde_json::from_slice(&json[..end]).map_err(|error| LuksError::Corrupt(format!("its JSON: {error}")))?;
    Ok(Some((sequence, uuid, json)))
}

fn header(read: &mut ReadAt<'_>) -> Result<(String, Json), LuksError> {
    let mut newest = copy(read, 0, MAGIC)?;
    // A file that ends before some of these places just has no copy there.
    for at in SIZES {
        if let Ok(Some(second)) = copy(read, at, SECOND_MAGIC) {
            newest = newest.into_iter().chain([second]).max_by_key(|(sequence, ..)| *sequence);
            break;
        }
    }
    let (_, uuid, json) = newest.ok_or_else(|| corrupt("neither copy of it is intact"))?;
    if let Some(needs) = &json.config.requirements
        && needs.get("mandatory").and_then(|list| list.as_array()).is_some_and(|list| !list.is_empty())
    {
        return Err(unsupported(format!("a requirement ({needs})")));
    }
    Ok((uuid, json))
}

/// The only segment, which is the payload.
fn payload(json: &Json) -> Result<(&String, &Segment), LuksError> {
    let mut segments = json.segments.iter();
    let (Some(only), None) = (segments.next(), segments.next()) else {
        return Err(unsupported(format!("{} segments", json.segments.len())));
    };
    match only.1 {
        segment if segment.kind != "crypt" => Err(unsupported(format!("a segment of the type {}", segment.kind))),
        segment if segment.integrity.is_some() => Err(unsupported("integrity tags")),
        _ => Ok(only),
    }
}

pub(super) fn summary(read: &mut ReadAt<'_>) -> Result<Summary, LuksError> {
    let (uuid, json) = header(read)?;
    let (_, segment) = payload(&json)?;
    let slots = json.keyslots.keys().filter_map(|number| number.parse().ok()).collect();
    let payload = number(&segment.offset)?;
    Ok(Summary { version: 2, cipher: segment.encryption.clone(), hash: String::new(), uuid, slots, payload })
}

fn mode(encryption: &str) -> Result<Mode, LuksError> {
    let name = encryption.strip_prefix("aes-").ok_or_else(|| unsupported(format!("the cipher {encryption}")))?;
    Mode::by_name(name)
}

fn derive(kdf: &Kdf, passphrase: &[u8], len: usize) -> Result<Zeroizing<Vec<u8>>, LuksError> {
    let (algorithm, time, memory, cpus, salt) = match kdf {
        Kdf::Pbkdf2 { hash, iterations, salt } => {
            if u64::from(*iterations) > MOST_WORK || *iterations == 0 {
                return Err(corrupt("its key derivation asks for too much"));
            }
            return Ok(Hash::by_name(hash)?.pbkdf2(passphrase, &base64(salt)?, *iterations, len));
        }
        Kdf::Argon2i { time, memory, cpus, salt } => (argon2::Algorithm::Argon2i, time, memory, cpus, salt),
        Kdf::Argon2id { time, memory, cpus, salt } => (argon2::Algorithm::Argon2id, time, memory, cpus, salt),
    };
    if *memory > MOST_MEMORY || u64::from(*memory) * u64::from(*time) > MOST_WORK {
        return Err(corrupt("its key derivation asks for too much"));
    }
    let refused = |error: argon2::Error| LuksError::Corrupt(format!("its key derivation: {error}"));
    let parameters = argon2::Params::new(*memory, *time, *cpus, Some(len)).map_err(refused)?;
    let mut key = Zeroizing::new(vec![0; len]);
    let work = argon2::Argon2::new(algorithm, argon2::Version::V0x13, parameters);
    work.hash_password_into(passphrase, &base64(salt)?, &mut key).map_err(refused)?;
    Ok(key)
}

/// The master key out of a slot, right or wrong.
fn try_slot(read: &mut ReadAt<'_>, slot: &Keyslot, passphrase: &[u8]) -> Result<Option<Zeroizing<Vec<u8>>>, LuksError> {
    let af = slot.af.as_ref().filter(|_| slot.kind == "luks2");
    let af = af.ok_or_else(|| unsupported(format!("a key slot of the type {}", slot.kind)))?;
    if slot.key_size > 512 || slot.area.key_size > 512 || !(1..=4000).contains(&af.stripes) {
        return Err(corrupt("a key slot is too large"));
    }
    let len = slot.key_size as usize * af.stripes as usize;
    let key = derive(&slot.kdf, passphrase, slot.area.key_size as usize)?;
    let mut split = Zeroizing::new(vec![0; len.next_multiple_of(512)]);
    read(number(&slot.area.offset)?, &mut split)?;
    let sectors = Sectors::new(mode(&slot.area.encryption)?, &key, 512)?;
    crate::cipher::Cipher::decrypt(&sectors, 0, &mut split);
    Ok(Hash::by_name(&af.hash)?.merge(&split[..len], af.stripes as usize))
}

pub(super) fn unlock(read: &mut ReadAt<'_>, passphrase: &[u8]) -> Result<Unlocked, LuksError> {
    let (_, json) = header(read)?;
    let (name, segment) = payload(&json)?;
    let sector = segment.sector_size as usize;
    if !matches!(sector, 512 | 1024 | 2048 | 4096) {
        return Err(corrupt("its sectors have no size that there is"));
    }
    for digest in json.digests.values().filter(|digest| digest.segments.contains(name)) {
        let work = u64::from(digest.iterations);
        if digest.kind != "pbkdf2" || work > MOST_WORK || work == 0 {
            return Err(unsupported(format!("a digest of the type {}", digest.kind)));
        }
        let (hash, salt, known) = (Hash::by_name(&digest.hash)?, base64(&digest.salt)?, base64(&digest.digest)?);
        for slot in digest.keyslots.iter().filter_map(|number| json.keyslots.get(number)) {
            let Some(master) = try_slot(read, slot, passphrase)? else { continue };
            if !known.is_empty() && **hash.pbkdf2(&master, &salt, digest.iterations, known.len().min(64)) == known {
                let sectors = Sectors::new(mode(&segment.encryption)?, &master, sector)?;
                let payload_len = if segment.size == "dynamic" { None } else { Some(number(&segment.size)?) };
                let first_sector = if segment.iv_tweak.is_empty() { 0 } else { number(&segment.iv_tweak)? };
                return Ok(Unlocked { sectors, payload: number(&segment.offset)?, payload_len, first_sector, sector });
            }
        }
    }
    Err(LuksError::WrongPassphrase)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cipher::Cipher;

    const KEY: [u8; 64] = [0x5a; 64];

    /// An area with one slot for the passphrase, its second header intact as well.
    fn area(kdf: &str) -> Vec<u8> {
        let salt = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        let digest = Hash::Sha256.pbkdf2(&KEY, &[0; 32], 1000, 32);
        let digest = encoded(&digest);
        let json = format!(
            r#"{{"keyslots":{{"0":{{"type":"luks2","key_size":64,"af":{{"type":"luks1","stripes":4000,"hash":"sha256"}},
            "area":{{"type":"raw","offset":"32768","size":"258048","encryption":"aes-xts-plain64","key_size":64}},
            "kdf":{{{kdf},"salt":"{salt}"}}}}}},"tokens":{{}},
            "segments":{{"0":{{"type":"crypt","offset":"294912","size":"dynamic","iv_tweak":"0",
            "encryption":"aes-xts-plain64","sector_size":4096}}}},
            "digests":{{"0":{{"type":"pbkdf2","keyslots":["0"],"segments":["0"],"hash":"sha256","iterations":1000,
            "salt":"{salt}","digest":"{digest}"}}}},"config":{{"json_size":"12288","keyslots_size":"258048"}}}}"#
        );
        let mut area = vec![0; 294_912];
        for (at, magic) in [(0usize, MAGIC), (16384, SECOND_MAGIC)] {
            let header = &mut area[at..at + 16384];
            header[..6].copy_from_slice(&magic);
            header[7] = 2;
            header[8..16].copy_from_slice(&16384u64.to_be_bytes());
            header[23] = 1;
            header[72..78].copy_from_slice(b"sha256");
            header[256..264].copy_from_slice(&(at as u64).to_be_bytes());
            header[BINARY..BINARY + json.len()].copy_from_slice(json.as_bytes());
            let sum = Hash::Sha256.digest(&[header]);
            header[448..480].copy_from_slice(&sum);
        }
        let kdf: Kdf = serde_json::from_str(&format!(r#"{{{kdf},"salt":"{salt}"}}"#)).unwrap();
        let key = derive(&kdf, b"sesame", 64).unwrap();
        let mut split = Hash::Sha256.split(&KEY, Zeroizing::new(vec![9; 256_000]));
        Sectors::new(Mode::by_name("xts-plain64").unwrap(), &key, 512).unwrap().encrypt(0, &mut split);
        area[32768..32768 + split.len()].copy_from_slice(&split);
        area
    }

    fn encoded(bytes: &[u8]) -> String {
        const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let letters = (0..(bytes.len() * 8).div_ceil(6)).map(|n| {
            let bit = |at: usize| bytes.get(at / 8).map_or(0, |byte| byte >> (7 - at % 8) & 1);
            let value = (0..6).fold(0, |value, bit_of| value << 1 | bit(n * 6 + bit_of));
            char::from(LETTERS[usize::from(value)])
        });
        letters.collect()
    }

    fn reader(area: &[u8]) -> impl FnMut(u64, &mut [u8]) -> std::io::Result<()> + '_ {
        |at, data| {
            let from = usize::try_from(at).ok().and_then(|at| area.get(at..)?.get(..data.len()));
            data.copy_from_slice(from.ok_or(std::io::ErrorKind::UnexpectedEof)?);
            Ok(())
        }
    }

    #[test]
    fn both_key_derivations_unlock() {
        for kdf in [
            r#""type":"pbkdf2","hash":"sha512","iterations":1000"#,
            r#""type":"argon2id","time":4,"memory":64,"cpus":2"#,
            r#""type":"argon2i","time":4,"memory":64,"cpus":1"#,
        ] {
            let mut area = area(kdf);
            let opened = unlock(&mut reader(&area), b"sesame").unwrap();
            assert_eq!((opened.payload, opened.sector, opened.payload_len), (294_912, 4096, None));
            let wrong = unlock(&mut reader(&area), b"barley");
            assert!(matches!(wrong, Err(LuksError::WrongPassphrase)), "{kdf}: {wrong:?}");
            assert_eq!(summary(&mut reader(&area)).unwrap().slots, [0]);
            // The second header stands in for the first, and nothing for both.
            area[5000] ^= 1;
            assert!(unlock(&mut reader(&area), b"sesame").is_ok());
            area[16384 + 5000] ^= 1;
            assert!(matches!(unlock(&mut reader(&area), b"sesame"), Err(LuksError::Corrupt(_))));
        }
    }

    #[test]
    fn a_header_that_asks_for_too_much_is_refused() {
        let salt = r#""salt":"AAAAAAAAAAAAAAAAAAAAAA==""#;
        for kdf in [
            r#""type":"pbkdf2","hash":"sha512","iterations":4294967295"#,
            r#""type":"pbkdf2","hash":"sha512","iterations":0"#,
            r#""type":"argon2id","time":4,"memory":4294967295,"cpus":2"#,
            r#""type":"argon2id","time":4294967295,"memory":1048576,"cpus":2"#,
            r#""type":"argon2id","time":0,"memory":64,"cpus":0"#,
        ] {
            let kdf: Kdf = serde_json::from_str(&format!("{{{kdf},{salt}}}")).unwrap();
            assert!(derive(&kdf, b"x", 64).is_err());
        }
    }

    #[test]
    fn base64_is_read() {
        assert_eq!(base64("aHVzaw==").unwrap(), b"husk");
        assert_eq!(base64(&encoded(b"husk of maize")).unwrap(), b"husk of maize");
        assert_eq!(base64("").unwrap(), b"");
        assert!(base64("a b").is_err());
    }
}
