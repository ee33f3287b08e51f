//! What is said on a control socket: a request is one line of JSON, and so is its answer. The answer to a screenshot is
//! followed by as many bytes as it says.

use std::io::{self, BufRead, Read, Write};
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The version of the protocol.
pub(super) const VERSION: u32 = 1;

/// The longest line.
const LONGEST: u64 = 256 << 10;

/// A line of either side, with the version that it is of.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Versioned<T> {
    version: u32,
    #[serde(flatten)]
    said: T,
}

/// What a VM can be asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case")]
pub(super) enum Request {
    /// What it is, and how it does.
    Status,
    /// What is on its screen.
    Screenshot {
        /// As what.
        form: ScreenForm,
    },
    /// Keys that are pressed together, one such combination after the other.
    SendKey {
        /// The combinations: `ctrl-alt-delete`.
        keys: Vec<String>,
    },
    /// A text that is typed.
    Type {
        /// The text.
        text: String,
        /// The time between two characters in milliseconds.
        delay: u64,
    },
    /// Its power button is pressed, or its plug is pulled.
    Stop {
        /// The plug.
        force: bool,
    },
    /// It stands still from now on.
    Pause,
    /// It goes on.
    Resume,
    /// Its reset button is pressed.
    Reset,
    /// A disc is put into a drive. When this is answered, its open file is to be sent, and is answered again.
    Insert {
        /// The drive's serial number; the only one if there is none.
        drive: Option<String>,
        /// What the disc is called.
        name: PathBuf,
    },
    /// The disc is taken out of a drive.
    Eject {
        /// The drive's serial number; the only one if there is none.
        drive: Option<String>,
        /// Even when the guest holds it.
        force: bool,
    },
}

/// The form of a screenshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum ScreenForm {
    /// A PNG image.
    Png,
    /// The characters of a text screen.
    Text,
}

/// What it answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Answer {
    /// It is done.
    Done {},
    /// What it is, and how it does.
    Status(Status),
    /// So many bytes follow.
    Bytes(u64),
    /// It cannot be done: why, and what to do.
    Error(String),
}

/// A running VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Status {
    /// Its process.
    pub(super) pid: u32,
    /// The engine that runs its code.
    pub(super) engine: String,
    /// `running` or `paused`.
    pub(super) state: String,
}

/// Says something.
pub(super) fn write<T: Serialize>(to: &mut impl Write, said: T) -> io::Result<()> {
    let mut line = serde_json::to_vec(&Versioned { version: VERSION, said })?;
    line.push(b'\n');
    to.write_all(&line)?;
    to.flush()
}

/// Hears what is said next; `None` at the end.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] when it is not of this protocol, with what is wrong.
pub(super) fn read<T: DeserializeOwned>(from: &mut impl BufRead) -> io::Result<Option<T>> {
    let wrong = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    let mut line = Vec::new();
    from.by_ref().take(LONGEST).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Ok(None);
    }
    if line.pop() != Some(b'\n') {
        return Err(wrong("the line does not end".into()));
    }
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let version = serde_json::from_slice::<Version>(&line).map_err(|error| wrong(error.to_string()))?.version;
    if version != VERSION {
        return Err(wrong(format!("it is of version {version} of the protocol, and this is {VERSION}")));
    }
    serde_json::from_slice::<Versioned<T>>(&line).map(|all| Some(all.said)).map_err(|error| wrong(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let requests = [
            Request::Status,
            Request::Screenshot { form: ScreenForm::Png },
            Request::SendKey { keys: vec!["ctrl-c".into()] },
            Request::Type { text: "a\n\"ü".into(), delay: 20 },
            Request::Stop { force: true },
            Request::Pause,
        ];
        let mut wire = Vec::new();
        requests.iter().for_each(|request| write(&mut wire, request).unwrap());
        let answers = [Answer::Done {}, Answer::Bytes(7), Answer::Error("no".into())];
        let mut from = wire.as_slice();
        for request in requests {
            assert_eq!(read(&mut from).unwrap(), Some(request));
        }
        assert_eq!(read::<Request>(&mut from).unwrap(), None);
        wire.clear();
        answers.iter().for_each(|answer| write(&mut wire, answer).unwrap());
        let first = wire.split(|byte| *byte == b'\n').next().unwrap();
        assert_eq!(first, br#"{"version":1,"done":{}}"#);
        let mut from = wire.as_slice();
        for answer in answers {
            assert_eq!(read(&mut from).unwrap(), Some(answer));
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let refused = |line: &str| read::<Request>(&mut line.as_bytes()).unwrap_err().to_string();
        assert!(refused("{\"version\":2,\"verb\":\"dance\"}\n").contains("version 2"));
        assert!(refused("{\"version\":1,\"verb\":\"dance\"}\n").contains("dance"));
        assert!(refused("{\"verb\":\"pause\"}\n").contains("version"));
        assert!(refused("{\"version\":1,\"verb\":\"pause\"}").contains("does not end"));
        assert!(refused(&"x".repeat(1 << 20)).contains("does not end"));
        let deep = format!("{}\n", "[".repeat(100_000));
        assert!(refused(&deep).contains("line 1"));
    }
}
