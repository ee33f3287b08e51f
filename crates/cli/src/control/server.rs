//! The VM's side of its control socket.

use std::io::{self, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use disk::file::{Access, HostFile};
use disk::raw::Raw;
use display::keys::{Combination, Key, Stroke, strokes};
use display::{Frame, Input};
use vm::Vm;

use super::protocol::{self, Answer, Request, ScreenForm, Status};

/// The most connections at a time.
const MOST: usize = 16;
/// Who says nothing or takes nothing for this long is not waited for.
const PATIENCE: Duration = Duration::from_secs(30);
/// A guest that reads no key for this long does not read its keyboard.
const KEY_PATIENCE: Duration = Duration::from_secs(5);
/// The longest time between two characters.
const LONGEST_DELAY: Duration = Duration::from_secs(5);

/// What requests are about.
struct Controlled {
    vm: Arc<Vm>,
    engine: &'static str,
    paused: AtomicBool,
    connections: AtomicUsize,
}

/// Serves requests by threads of its own, as long as the process lives.
pub(crate) fn serve(listener: UnixListener, vm: Arc<Vm>, engine: &'static str) -> io::Result<()> {
    let controlled =
        Arc::new(Controlled { vm, engine, paused: AtomicBool::new(false), connections: AtomicUsize::new(0) });
    let accept = move || {
        loop {
            match listener.accept() {
                Ok((stream, _)) => start(&controlled, stream),
                Err(error) => {
                    tracing::warn!(%error, "control socket");
                    // Without descriptors, say, it would fail again at once.
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
        }
    };
    std::thread::Builder::new().name("control".into()).spawn(accept).map(drop)
}

fn start(controlled: &Arc<Controlled>, stream: UnixStream) {
    let controlled = Arc::clone(controlled);
    if controlled.connections.fetch_add(1, Ordering::SeqCst) >= MOST {
        controlled.connections.fetch_sub(1, Ordering::SeqCst);
        tracing::warn!("the control socket has too many connections");
        return;
    }
    let counted = Arc::clone(&controlled);
    let serve = move || {
        if let Err(error) = controlled.serve(&stream) {
            tracing::debug!(%error, "a connection to the control socket");
        }
        controlled.connections.fetch_sub(1, Ordering::SeqCst);
    };
    if let Err(error) = std::thread::Builder::new().name("control".into()).spawn(serve) {
        counted.connections.fetch_sub(1, Ordering::SeqCst);
        tracing::warn!(%error, "no thread for a connection to the control socket");
    }
}

impl Controlled {
    fn serve(&self, stream: &UnixStream) -> io::Result<()> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut from = BufReader::new(stream);
        let mut to = stream;
        loop {
            let request = match protocol::read(&mut from) {
                Ok(Some(request)) => request,
                Ok(None) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    return protocol::write(&mut to, Answer::Error(format!("not a request: {error}")));
                }
                Err(error) => return Err(error),
            };
            let answered = match request {
                Request::Insert { drive, name } => self.insert(drive.as_deref(), &name, stream),
                other => self.answer(other),
            };
            let (answer, bytes) = match answered {
                Ok(Reply::Short(answer)) => (answer, Vec::new()),
                Ok(Reply::Bytes(bytes)) => (Answer::Bytes(bytes.len() as u64), bytes),
                Err(why) => (Answer::Error(why), Vec::new()),
            };
            protocol::write(&mut to, answer)?;
            to.write_all(&bytes)?;
        }
    }

    /// Does what is asked for, or says why not and what to do.
    fn answer(&self, request: Request) -> Result<Reply, String> {
        match request {
            Request::Status => {
                let state = if self.paused.load(Ordering::SeqCst) { "paused" } else { "running" };
                let (pid, engine) = (std::process::id(), self.engine.to_owned());
                return Ok(Reply::Short(Answer::Status(Status { pid, engine, state: state.to_owned() })));
            }
            Request::Screenshot { form } => return self.screenshot(form).map(Reply::Bytes),
            Request::SendKey { keys } => self.send_keys(&keys)?,
            Request::Type { text, delay } => self.type_text(&text, Duration::from_millis(delay).min(LONGEST_DELAY))?,
            Request::Stop { force: true } => self.vm.power_off(),
            Request::Stop { force: false } => self.vm.power_button(),
            Request::Pause => {
                self.paused.store(true, Ordering::SeqCst);
                self.vm.pause();
            }
            Request::Resume => {
                self.paused.store(false, Ordering::SeqCst);
                self.vm.resume();
            }
            Request::Reset => self.vm.reset(),
            Request::Eject { drive, force } => {
                let drive = self.drive(drive.as_deref())?;
                self.vm.eject_disc(drive, force).map_err(|error| error.to_string())?;
            }
            // It needs the connection.
            Request::Insert { .. } => {}
        }
        Ok(Reply::Short(Answer::Done {}))
    }

    /// The drive that is meant.
    fn drive<'a>(&'a self, named: Option<&'a str>) -> Result<&'a str, String> {
        match (named, &*self.vm.disc_drives()) {
            (Some(drive), _) | (None, &[drive]) => Ok(drive),
            (None, []) => Err("it has no drive for discs; run it with one (husk run --cdrom FILE)".to_owned()),
            (None, several) => Err(format!("it has several drives; name one (--drive): {}", several.join(", "))),
        }
    }

    /// Puts a disc into a drive, whose open file is sent on request.
    fn insert(&self, drive: Option<&str>, name: &Path, mut stream: &UnixStream) -> Result<Reply, String> {
        let drive = self.drive(drive)?;
        let failed = |error: io::Error| format!("{}: {error}; try again", name.display());
        protocol::write(&mut stream, Answer::Done {}).map_err(failed)?;
        let file = base::receive_file(stream).map_err(failed)?;
        let disc = HostFile::over(file, name, Access::Read).map_err(|error| error.to_string())?;
        self.vm.insert_disc(drive, Arc::new(Raw::new(Arc::new(disc)))).map_err(|error| error.to_string())?;
        Ok(Reply::Short(Answer::Done {}))
    }

    fn screenshot(&self, form: ScreenForm) -> Result<Vec<u8>, String> {
        let screen = self.vm.picture().ok_or("it has no screen; run it with one (husk run --vga std)")?;
        match form {
            ScreenForm::Text => {
                let text = screen.text().ok_or("its screen shows no text; take a picture (file.png)")?;
                Ok(text.into_bytes())
            }
            ScreenForm::Png => {
                let mut frame = Frame::new();
                screen.draw(&mut frame);
                let mut bytes = Vec::new();
                display::write_png(&frame, &mut bytes).map_err(|error| format!("{error}; try again later"))?;
                Ok(bytes)
            }
        }
    }

    fn send_keys(&self, combinations: &[String]) -> Result<(), String> {
        let parsed: Result<Vec<_>, _> = combinations.iter().map(|text| text.parse::<Combination>()).collect();
        let parsed = parsed.map_err(|error| error.to_string())?;
        let input = self.vm.input();
        for (combination, text) in parsed.iter().zip(combinations) {
            let taken = display::press(&*input, combination.keys());
            if !taken || !input.wait_for_room(KEY_PATIENCE) {
                return Err(format!("{text}: {}", self.deaf()));
            }
        }
        Ok(())
    }

    fn type_text(&self, text: &str, delay: Duration) -> Result<(), String> {
        let none = |character: char| format!("{character:?}: a US keyboard has no such key; leave it out");
        let strokes = strokes(text).map_err(none)?;
        let input = self.vm.input();
        for (stroke, typed) in strokes.iter().zip(0..) {
            if !strike(&*input, *stroke) || !input.wait_for_room(KEY_PATIENCE) {
                return Err(format!("after {typed} of {} characters: {}", strokes.len(), self.deaf()));
            }
            std::thread::sleep(delay);
        }
        Ok(())
    }

    /// Why keys are not read.
    fn deaf(&self) -> &'static str {
        if self.paused.load(Ordering::SeqCst) {
            "it is paused; resume it first"
        } else {
            "the guest does not read its keyboard; try again when it does"
        }
    }
}

/// Types one character; returns whether the keyboard has taken it.
fn strike(input: &dyn Input, stroke: Stroke) -> bool {
    let shift = stroke.shift != (stroke.letter && input.leds().caps);
    if shift { display::press(input, &[Key::SHIFT, stroke.key]) } else { display::press(input, &[stroke.key]) }
}

/// What is answered.
enum Reply {
    Short(Answer),
    Bytes(Vec<u8>),
}
