//! The other side of a control socket: the commands that talk to a running VM.

use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::place;
use super::protocol::{self, Answer, Request};
use crate::failure::{BAD_INPUT, Failure, cause};

/// A VM that says nothing for this long is not waited for, but while it types.
const PATIENCE: Duration = Duration::from_secs(60);
/// The largest picture of a screen.
const MOST_BYTES: u64 = 1 << 30;

/// A connection to a running VM.
pub(super) struct Connection {
    name: String,
    stream: BufReader<UnixStream>,
}

impl Connection {
    /// Connects to the VM `name`.
    pub(super) fn open(name: &str) -> Result<Self, Failure> {
        let stream = place::connect(name).map_err(|error| match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => no_such_vm(name),
            _ => lost(name, &error),
        })?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(|error| lost(name, &error))?;
        Ok(Self { name: name.to_owned(), stream: BufReader::new(stream) })
    }

    /// Waits for answers as long as it takes.
    pub(super) fn be_patient(&self) -> Result<(), Failure> {
        self.stream.get_ref().set_read_timeout(None).map_err(|error| lost(&self.name, &error))
    }

    /// Asks, and returns the answer if it is no refusal.
    pub(super) fn ask(&mut self, request: &Request) -> Result<Answer, Failure> {
        let mut to = self.stream.get_ref();
        protocol::write(&mut to, request).map_err(|error| lost(&self.name, &error))?;
        self.answer()
    }

    fn answer(&mut self) -> Result<Answer, Failure> {
        match protocol::read(&mut self.stream) {
            Ok(Some(Answer::Error(why))) => Err(Failure::new(format!("VM {}: {why}", self.name), BAD_INPUT)),
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err(lost(&self.name, &ErrorKind::UnexpectedEof.into())),
            Err(error) => Err(lost(&self.name, &error)),
        }
    }

    /// Sends an open file, and returns the answer if it is no refusal.
    pub(super) fn send_file(&mut self, file: &File) -> Result<Answer, Failure> {
        base::send_file(self.stream.get_ref(), file).map_err(|error| lost(&self.name, &error))?;
        self.answer()
    }

    /// The bytes that follow an answer.
    pub(super) fn bytes(&mut self, count: u64) -> Result<Vec<u8>, Failure> {
        let mut bytes = Vec::new();
        let read = self.stream.by_ref().take(count.min(MOST_BYTES)).read_to_end(&mut bytes);
        match read {
            Ok(len) if len as u64 == count => Ok(bytes),
            Ok(_) => Err(lost(&self.name, &ErrorKind::UnexpectedEof.into())),
            Err(error) => Err(lost(&self.name, &error)),
        }
    }
}

/// Nothing but what the host and the VM's process do can be the reason.
fn lost(name: &str, error: &io::Error) -> Failure {
    let why = match error.kind() {
        ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => {
            "it has ended meanwhile".into()
        }
        ErrorKind::WouldBlock | ErrorKind::TimedOut => "it does not answer".into(),
        _ => cause(error),
    };
    Failure::internal(format!("VM {name}: {why}; see 'husk list'"))
}

fn no_such_vm(name: &str) -> Failure {
    let running = place::running().unwrap_or_default();
    let which = match running.as_slice() {
        [] => "none is running; start it with 'husk run --name NAME'".to_owned(),
        names => format!("running: {}", names.join(", ")),
    };
    Failure::input(format!("VM {name}"), "there is no running VM of this name", which)
}
