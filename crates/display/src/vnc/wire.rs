//! The connection to a client.

use std::io::{self, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::tls::Tls;

/// Where clients come in.
#[derive(Debug)]
pub enum Listener {
    /// A TCP port.
    Tcp(TcpListener),
    /// A UNIX socket.
    Unix(UnixListener),
}

impl Listener {
    /// Waits for the next client.
    pub(super) fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept()?;
                // Keys and small updates are not to wait for each other.
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
            Self::Unix(listener) => Ok(Stream::Unix(listener.accept()?.0)),
        }
    }
}

/// A connection of either kind.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    pub(super) fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_read_timeout(timeout),
            Self::Unix(stream) => stream.set_read_timeout(timeout),
        }
    }

    pub(super) fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_write_timeout(timeout),
            Self::Unix(stream) => stream.set_write_timeout(timeout),
        }
    }

    /// Ends the connection; whoever waits for it wakes up.
    pub(super) fn close(&self) {
        // It may have ended already.
        let _ = match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Both),
            Self::Unix(stream) => stream.shutdown(Shutdown::Both),
        };
    }
}

impl Read for &Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => (&mut &*stream).read(buffer),
            Stream::Unix(stream) => (&mut &*stream).read(buffer),
        }
    }
}

impl Write for &Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => (&mut &*stream).write(bytes),
            Stream::Unix(stream) => (&mut &*stream).write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The sending half.
#[derive(Clone)]
pub(super) struct Sender {
    stream: Arc<Stream>,
    tls: Option<Arc<Tls>>,
}

impl Sender {
    pub(super) fn new(stream: Arc<Stream>) -> Self {
        Self { stream, tls: None }
    }

    /// Sends all of `bytes`.
    pub(super) fn send(&self, bytes: &[u8]) -> io::Result<()> {
        match &self.tls {
            None => (&mut &*self.stream).write_all(bytes),
            Some(tls) => tls.send(&self.stream, bytes),
        }
    }
}

/// The receiving half.
pub(super) struct Receiver {
    stream: BufReader<Source>,
}

/// Where the bytes come from.
struct Source {
    stream: Arc<Stream>,
    tls: Option<Arc<Tls>>,
    /// All that is read has to come before.
    deadline: Option<Instant>,
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(deadline) = self.deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.stream.set_read_timeout(Some(left))?;
        }
        match &self.tls {
            None => (&mut &*self.stream).read(buffer),
            Some(tls) => tls.receive(&self.stream, buffer),
        }
    }
}

impl Receiver {
    pub(super) fn new(stream: Arc<Stream>, deadline: Instant) -> Self {
        let source = Source { stream, tls: None, deadline: Some(deadline) };
        Self { stream: BufReader::with_capacity(4096, source) }
    }

    /// From now on bytes may come at any time.
    pub(super) fn lift_deadline(&mut self) -> io::Result<()> {
        let source = self.stream.get_mut();
        source.deadline = None;
        source.stream.set_read_timeout(None)
    }

    /// From now on all goes through TLS, as the server's side of it.
    pub(super) fn start_tls(&mut self, sender: &mut Sender, tls: Tls) -> io::Result<()> {
        // What came before its time is not under TLS's protection and is not taken for it.
        if !self.stream.buffer().is_empty() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let tls = Arc::new(tls);
        let source = self.stream.get_mut();
        source.tls = Some(Arc::clone(&tls));
        sender.tls = Some(tls);
        Ok(())
    }
}

impl Read for Receiver {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.read(buffer)
    }
}
