//! Mode pages: MODE SENSE and MODE SELECT (SPC-4, 6.11 to 6.14 and 7.5; SBC-3, 6.5).

use super::Sense;

/// Pages.
const ERROR_RECOVERY: u8 = 0x01;
const CACHING: u8 = 0x08;
const CONTROL: u8 = 0x0a;
const ALL: u8 = 0x3f;

/// Of the caching page: writes may stay in the cache.
const WCE: u8 = 4;

/// Device-specific parameter: write protected; FUA and DPO are understood.
const PROTECTED: u8 = 0x80;
const DPOFUA: u8 = 0x10;

/// Which values MODE SENSE asks for.
const CHANGEABLE: u8 = 1;
const SAVED: u8 = 3;

/// What MODE SENSE answers. `long` is the command of 10 bytes.
pub(super) fn sense(long: bool, page: u8, subpage: u8, read_only: bool, write_cache: bool) -> Result<Vec<u8>, Sense> {
    let (control, page) = (page >> 6, page & 0x3f);
    if control == SAVED {
        return Err(Sense::NO_SAVING);
    }
    if !matches!(subpage, 0 | 0xff) {
        return Err(Sense::FIELD);
    }
    let changeable = control == CHANGEABLE;
    let mut pages = Vec::new();
    if matches!(page, ERROR_RECOVERY | ALL) {
        pages.extend([ERROR_RECOVERY, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    }
    if matches!(page, CACHING | ALL) {
        let mut caching = [0; 20];
        caching[..3].copy_from_slice(&[CACHING, 18, if write_cache || changeable { WCE } else { 0 }]);
        pages.extend(caching);
    }
    if matches!(page, CONTROL | ALL) {
        let mut body = [CONTROL, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        // Commands are ordered as the unit likes.
        body[3] = if changeable { 0 } else { 0x10 };
        pages.extend(body);
    }
    if pages.is_empty() {
        return Err(Sense::FIELD);
    }
    let specific = DPOFUA | if read_only { PROTECTED } else { 0 };
    let mut data = if long {
        let mut header = ((pages.len() + 6) as u16).to_be_bytes().to_vec();
        header.extend([0, specific, 0, 0, 0, 0]);
        header
    } else {
        vec![(pages.len() + 3) as u8, 0, specific, 0]
    };
    data.extend(pages);
    Ok(data)
}

/// Takes on the parameters of MODE SELECT: whether writes may stay in the cache, if they say so.
pub(super) fn select(long: bool, parameters: &[u8]) -> Result<Option<bool>, Sense> {
    let header = if long { 8 } else { 4 };
    let descriptors = match (long, parameters) {
        (false, [_, _, _, len, ..]) => usize::from(*len),
        (true, [_, _, _, _, _, _, high, low, ..]) => usize::from(*high) << 8 | usize::from(*low),
        (_, []) => return Ok(None),
        _ => return Err(Sense::PARAMETER_LENGTH),
    };
    let mut rest = parameters.get(header + descriptors..).ok_or(Sense::PARAMETER_LENGTH)?;
    let mut write_cache = None;
    while !rest.is_empty() {
        let [code, len, body @ ..] = rest else { return Err(Sense::PARAMETER_LENGTH) };
        let body = body.get(..usize::from(*len)).ok_or(Sense::PARAMETER_LENGTH)?;
        match (code & 0x7f, body) {
            (CACHING, [flags, others @ ..]) if flags & !WCE == 0 && others.iter().all(|byte| *byte == 0) => {
                write_cache = Some(flags & WCE != 0);
            }
            (ERROR_RECOVERY | CONTROL, _) => {}
            _ => return Err(Sense::PARAMETER),
        }
        rest = rest.get(2 + body.len()..).unwrap_or_default();
    }
    Ok(write_cache)
}
