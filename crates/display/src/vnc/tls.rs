//! TLS below the protocol, as VeNCrypt has it.

use std::fmt;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection};

use super::wire::Stream;

/// The most bytes that are put into one record.
const RECORD: usize = 16 << 10;

/// A server's certificate with its key.
#[derive(Clone)]
pub struct Identity(Arc<ServerConfig>);

/// Why there is no identity in some files.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// What was given as a certificate is none.
    #[error("not a certificate in PEM form")]
    Certificate(#[source] pem::Error),
    /// There is no certificate.
    #[error("there is no certificate in it")]
    NoCertificate,
    /// What was given as a key is none.
    #[error("not a private key in PEM form")]
    Key(#[source] pem::Error),
    /// They do not go with each other.
    #[error("certificate and key cannot be used: {0}")]
    Unusable(#[from] rustls::Error),
}

impl Identity {
    /// The identity of a certificate, with those that vouch for it behind it, and its private key, both in PEM form.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn new(certificates: &[u8], key: &[u8]) -> Result<Self, IdentityError> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(certificates)
            .collect::<Result<_, _>>()
            .map_err(IdentityError::Certificate)?;
        if chain.is_empty() {
            return Err(IdentityError::NoCertificate);
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(IdentityError::Key)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        Ok(Self(Arc::new(config.with_no_client_auth().with_single_cert(chain, key)?)))
    }

    /// The server's side of a new connection.
    pub(super) fn accept(&self) -> io::Result<Tls> {
        let connection = ServerConnection::new(Arc::clone(&self.0)).map_err(io::Error::other)?;
        Ok(Tls { connection: Mutex::new(connection), turn: Mutex::new(()) })
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity")
    }
}

/// One connection's TLS. One thread may send while another receives: the state is never locked while the socket is waited
/// for.
pub(super) struct Tls {
    connection: Mutex<ServerConnection>,
    /// Held by who takes records out of the connection until they are on the wire, so that they stay in order.
    turn: Mutex<()>,
}

impl Tls {
    fn connection(&self) -> MutexGuard<'_, ServerConnection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends all of `bytes`; what comes before the handshake is over goes out when it is.
    pub(super) fn send(&self, stream: &Stream, bytes: &[u8]) -> io::Result<()> {
        for part in bytes.chunks(RECORD) {
            let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
            self.connection().writer().write_all(part)?;
            self.flush(stream, &turn)?;
        }
        Ok(())
    }

    /// Receives some bytes, at least one but at the end.
    pub(super) fn receive(&self, stream: &Stream, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.connection().reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
            // Beside a partial record of legal size, so much always fits.
            let mut bytes = [0; 1024];
            let len = (&mut &*stream).read(&mut bytes)?;
            let mut fresh = bytes.get(..len).unwrap_or_default();
            let mut connection = self.connection();
            if fresh.is_empty() {
                connection.read_tls(&mut fresh)?;
            }
            while !fresh.is_empty() {
                // After its end it takes nothing any more.
                if connection.read_tls(&mut fresh)? == 0 {
                    break;
                }
                connection.process_new_packets().map_err(io::Error::other)?;
            }
            let answers = connection.wants_write();
            drop(connection);
            if answers {
                let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
                self.flush(stream, &turn)?;
            }
        }
    }

    fn flush(&self, stream: &Stream, _turn: &MutexGuard<'_, ()>) -> io::Result<()> {
        let mut records = Vec::new();
        let mut connection = self.connection();
        while connection.wants_write() {
            connection.write_tls(&mut records)?;
        }
        drop(connection);
        (&mut &*stream).write_all(&records)
    }
}
