//! `--vnc`: where the screen is shown, and to whom.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use display::vnc::{Identity, Listener, Options, Password, Server};
use vm::Vm;
use zeroize::Zeroizing;

use crate::failure::{Failure, cause};

/// Where the screen is shown, and what a client has to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VncChoice {
    address: Address,
    password_file: Option<PathBuf>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// `ADDRESS:PORT` or `unix:PATH`, and options behind it.
pub(crate) fn parse(text: &str) -> Result<VncChoice, String> {
    let mut words = text.split(',');
    let address = match words.next().unwrap_or_default() {
        word if word.strip_prefix("unix:").is_some_and(|path| !path.is_empty()) => {
            Address::Unix(word.strip_prefix("unix:").unwrap_or_default().into())
        }
        // An IPv6 address is in brackets, so there is no doubt.
        word if word.starts_with(':') => Address::Tcp(tcp(&format!("127.0.0.1{word}"))?),
        word => Address::Tcp(tcp(&word.replacen("localhost", "127.0.0.1", 1))?),
    };
    let mut choice = VncChoice { address, password_file: None, certificate: None, key: None };
    for word in words {
        let place = match word.split_once('=') {
            Some(("password-file", file)) => (&mut choice.password_file, file),
            Some(("tls-cert", file)) => (&mut choice.certificate, file),
            Some(("tls-key", file)) => (&mut choice.key, file),
            _ => return Err(format!("there is no option {word}; take password-file=, tls-cert= or tls-key=FILE")),
        };
        match place {
            (_, "") => return Err(format!("{word} names no file; give its path")),
            (place, file) => *place = Some(file.into()),
        }
    }
    if choice.certificate.is_some() != choice.key.is_some() {
        return Err("a certificate needs its key; give both, tls-cert=FILE and tls-key=FILE".to_owned());
    }
    Ok(choice)
}

fn tcp(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "not an address; write it like 127.0.0.1:5900, [::1]:5900 or unix:PATH".to_owned())
}

/// A socket in the file system, which is gone when this is dropped: its path, device and inode.
#[derive(Debug)]
pub(crate) struct SocketFile(PathBuf, (u64, u64));

impl SocketFile {
    fn new(path: &Path) -> Option<Self> {
        let found = fs::symlink_metadata(path).ok()?;
        Some(Self(path.to_owned(), (found.dev(), found.ino())))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // It may have been removed by somebody, and another VM's be there.
        if Self::new(&self.0).is_some_and(|now| std::mem::ManuallyDrop::new(now).1 == self.1) {
            let _ = fs::remove_file(&self.0);
        }
    }
}

/// Shows the screen of `vm`.
pub(crate) fn start(choice: &VncChoice, name: &str, vm: &Arc<Vm>) -> Result<Option<SocketFile>, Failure> {
    let Some(picture) = vm.picture() else {
        return Err(Failure::input("--vnc", "the VM has no screen", "add --vga std"));
    };
    let password = choice.password_file.as_deref().map(password).transpose()?;
    let identity = match (&choice.certificate, &choice.key) {
        (Some(certificate), Some(key)) => Some(identity(certificate, key)?),
        _ => None,
    };
    let (listener, file) = match &choice.address {
        Address::Tcp(address) => (Listener::Tcp(listen(*address)?), None),
        Address::Unix(path) => (Listener::Unix(listen_at(path)?), SocketFile::new(path)),
    };
    if let Address::Tcp(address) = choice.address
        && !address.ip().is_loopback()
    {
        if password.is_none() {
            tracing::warn!(
                "--vnc {address}: whoever reaches this address sees and controls the VM; add password-file="
            );
        } else if identity.is_none() {
            tracing::warn!("--vnc {address}: the screen and all keys are on the network in the clear; add tls-cert=");
        }
    }
    if let Listener::Tcp(listener) = &listener
        && let Ok(address) = listener.local_addr()
    {
        tracing::info!("the screen is shown by VNC at {address}");
    }
    let options = Options { listener, name: name.to_owned(), password, identity };
    let refused =
        |error: io::Error| Failure::internal(format!("--vnc: {}; raise the limit (ulimit -u)", cause(&error)));
    Server::start(options, picture, vm.input()).map_err(refused)?;
    Ok(file)
}

fn listen(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address)
        .map_err(|error| Failure::input(format!("--vnc {address}"), cause(&error), "take another address or port"))
}

/// A UNIX socket for this user only. One that nobody listens at any more makes way.
fn listen_at(path: &Path) -> Result<UnixListener, Failure> {
    let object = || format!("--vnc unix:{}", path.display());
    let is_socket = fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    if is_socket && UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
        let _ = fs::remove_file(path);
    }
    let refused =
        |error: io::Error| Failure::input(object(), cause(&error), "take another path in a folder of your own");
    // In a folder that nobody else can look into, until only this user can connect.
    let closed = path.with_added_extension(std::process::id().to_string());
    fs::DirBuilder::new().mode(0o700).create(&closed).map_err(refused)?;
    let inside = closed.join("s");
    let made = UnixListener::bind(&inside).and_then(|listener| {
        fs::set_permissions(&inside, fs::Permissions::from_mode(0o600))?;
        // Never over one that is there.
        fs::hard_link(&inside, path)?;
        Ok(listener)
    });
    let _ = fs::remove_file(&inside);
    let _ = fs::remove_dir(&closed);
    made.map_err(refused)
}

fn read(what: &str, path: &Path) -> Result<Zeroizing<Vec<u8>>, Failure> {
    fs::read(path).map(Zeroizing::new).map_err(|error| {
        Failure::input(format!("{what} {}", path.display()), cause(&error), "check the path and its permissions")
    })
}

fn password(path: &Path) -> Result<Password, Failure> {
    let bytes = read("password file", path)?;
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    if line.len() > 8 {
        tracing::warn!("password file {}: VNC takes the first 8 bytes only", path.display());
    }
    Password::first_line(&bytes).ok_or_else(|| {
        let object = format!("password file {}", path.display());
        Failure::input(object, "its first line is empty", "write the password into it")
    })
}

fn identity(certificate: &Path, key: &Path) -> Result<Identity, Failure> {
    let bytes = (read("certificate", certificate)?, read("key", key)?);
    Identity::new(&bytes.0, &bytes.1).map_err(|error| {
        let object = format!("{} and {}", certificate.display(), key.display());
        Failure::input(object, error, "give a certificate and its key in PEM form")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_options() {
        let tcp = |text: &str| Address::Tcp(text.parse().unwrap());
        assert_eq!(parse("127.0.0.1:5900").unwrap().address, tcp("127.0.0.1:5900"));
        assert_eq!(parse(":5901").unwrap().address, tcp("127.0.0.1:5901"));
        assert_eq!(parse("localhost:5901").unwrap().address, tcp("127.0.0.1:5901"));
        assert_eq!(parse("[::1]:5900").unwrap().address, tcp("[::1]:5900"));
        let unix = parse("unix:/a:b,password-file=/p").unwrap();
        assert_eq!(unix.address, Address::Unix("/a:b".into()));
        assert_eq!(unix.password_file, Some("/p".into()));
        let both = parse(":1,tls-cert=c,tls-key=k").unwrap();
        assert_eq!((both.certificate, both.key), (Some("c".into()), Some("k".into())));
        for bad in
            ["", "5900", "unix:", "1.2.3.4", "host:1", ":1,password=x", ":1,password-file=", ":1,tls-cert=c", ":99999"]
        {
            assert!(parse(bad).is_err_and(|why| why.contains(';')), "{bad}");
        }
    }
}
