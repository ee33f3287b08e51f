//! How a connection begins: version, security, and what the screen is like (RFC 6143, sections 7.1 to 7.3; VeNCrypt as the
//! community's RFB protocol has it).

use std::io::{self, Read};
use std::time::Duration;

use super::password::Password;
use super::pixel::PixelFormat;
use super::tls::Identity;
use super::wire::{Receiver, Sender};

const NONE: u8 = 1;
const VNC: u8 = 2;
const VENCRYPT: u8 = 19;

/// VeNCrypt's own types: a certificate, and then nothing more or the password.
const X509_NONE: u32 = 260;
const X509_VNC: u32 = 261;

/// Who has given a wrong password waits for so long, so that guessing takes its time.
const AFTER_A_WRONG_PASSWORD: Duration = Duration::from_secs(2);

/// Who may come in.
#[derive(Debug, Clone, Default)]
pub(super) struct Security {
    pub(super) password: Option<Password>,
    pub(super) identity: Option<Identity>,
}

/// Why a client does not come in.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it does not speak RFB")]
    NotRfb,
    #[error("it wants security of type {0}, which was not offered")]
    Security(u32),
    #[error("its password is wrong")]
    Password,
}

/// The version of the protocol that is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Version {
    V3,
    V7,
    V8,
}

/// Brings a client as far as to ServerInit; returns whether it shares the screen with others.
pub(super) fn greet(from: &mut Receiver, to: &mut Sender, security: &Security) -> Result<bool, Refused> {
    to.send(b"RFB 003.008\n")?;
    let version = version(&bytes(from)?).ok_or(Refused::NotRfb)?;
    let offered = match (&security.identity, &security.password) {
        (Some(_), _) => VENCRYPT,
        (None, Some(_)) => VNC,
        (None, None) => NONE,
    };
    if version == Version::V3 {
        if offered == VENCRYPT {
            to.send(&0u32.to_be_bytes())?;
            to.send(&reason("the screen is shown by TLS only, which needs version 3.7 of the protocol"))?;
            return Err(Refused::Security(0));
        }
        to.send(&u32::from(offered).to_be_bytes())?;
    } else {
        to.send(&[1, offered])?;
        let [chosen] = bytes(from)?;
        if chosen != offered {
            to.send(&failure(version, "there is no such security here"))?;
            return Err(Refused::Security(u32::from(chosen)));
        }
    }
    let wants_password = match (&security.identity, &security.password) {
        (Some(identity), password) => {
            vencrypt(from, to, identity, password.is_some())?;
            password
        }
        (None, password) => password,
    };
    if let Some(password) = wants_password {
        let mut challenge = [0; 16];
        getrandom::fill(&mut challenge).map_err(|error| Refused::Io(io::Error::other(error)))?;
        to.send(&challenge)?;
        if !password.is_answer(&challenge, &bytes(from)?) {
            std::thread::sleep(AFTER_A_WRONG_PASSWORD);
            to.send(&failure(version, "the password is wrong"))?;
            return Err(Refused::Password);
        }
    }
    // Before version 3.8, who was not asked for anything was not told the result either.
    if version == Version::V8 || wants_password.is_some() || security.identity.is_some() {
        to.send(&0u32.to_be_bytes())?;
    }
    let [shared] = bytes(from)?;
    Ok(shared != 0)
}

/// ServerInit: the size of the screen, the form of its pixels and its name.
pub(super) fn server_init(width: u16, height: u16, name: &str) -> Vec<u8> {
    let mut init = Vec::new();
    init.extend(width.to_be_bytes());
    init.extend(height.to_be_bytes());
    init.extend(PixelFormat::NATIVE.bytes());
    init.extend((name.len() as u32).to_be_bytes());
    init.extend(name.as_bytes());
    init
}

fn bytes<const N: usize>(from: &mut Receiver) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// `RFB 003.008\n`. Versions that are none are taken as the specification says: 3.5 as 3.3, those above 3.8 as that.
fn version(text: &[u8; 12]) -> Option<Version> {
    let text = str::from_utf8(text).ok()?;
    let (major, minor) = text.strip_prefix("RFB ")?.strip_suffix('\n')?.split_once('.')?;
    let number = |digits: &str| digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse::<u32>().ok())?;
    match (number(major)?, number(minor)?) {
        (3, 7) => Some(Version::V7),
        (3, 0..7) => Some(Version::V3),
        (3.., _) => Some(Version::V8),
        _ => None,
    }
}

fn reason(text: &str) -> Vec<u8> {
    let mut bytes = Vec::from((text.len() as u32).to_be_bytes());
    bytes.extend(text.as_bytes());
    bytes
}

/// SecurityResult of who does not come in; since version 3.8 it says why.
fn failure(version: Version, text: &str) -> Vec<u8> {
    let mut bytes = Vec::from(1u32.to_be_bytes());
    if version == Version::V8 {
        bytes.extend(reason(text));
    }
    bytes
}

/// VeNCrypt, version 0.2: from its end on all goes through TLS.
fn vencrypt(from: &mut Receiver, to: &mut Sender, identity: &Identity, password: bool) -> Result<(), Refused> {
    to.send(&[0, 2])?;
    if bytes(from)? != [0, 2] {
        to.send(&[1])?;
        return Err(Refused::Security(u32::from(VENCRYPT)));
    }
    let offered = if password { X509_VNC } else { X509_NONE };
    to.send(&[0, 1])?;
    to.send(&offered.to_be_bytes())?;
    let chosen = u32::from_be_bytes(bytes(from)?);
    if chosen != offered {
        to.send(&[0])?;
        return Err(Refused::Security(chosen));
    }
    to.send(&[1])?;
    Ok(from.start_tls(to, identity.accept()?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        for (text, expected) in [
            ("RFB 003.003\n", Some(Version::V3)),
            ("RFB 003.005\n", Some(Version::V3)),
            ("RFB 003.007\n", Some(Version::V7)),
            ("RFB 003.008\n", Some(Version::V8)),
            ("RFB 003.889\n", Some(Version::V8)),
            ("RFB 004.001\n", Some(Version::V8)),
            ("RFB 002.002\n", None),
            ("RFB +03.008\n", None),
            ("HTTP/1.1 200", None),
        ] {
            assert_eq!(version(text.as_bytes().try_into().unwrap()), expected, "{text}");
        }
        assert_eq!(version(&[0xff; 12]), None);
    }
}
