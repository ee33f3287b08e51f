//! The terminal, or a pipe, as the VM's serial console.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use vm::{CharOut, SerialPort, Vm};

use crate::failure::Failure;
use crate::keys::{HELP, Keys, Typed};
use crate::log::with_returns;
use crate::stats;

/// So much output may wait for a slow reader before the guest does.
const LIMIT: usize = 1 << 20;
/// Output is gathered for so long, which nobody sees, so that not each byte costs a system call.
const GATHER: Duration = Duration::from_millis(1);

/// What the VM shows, on its way to standard output by a thread of its own: the guest is not stopped by a slow reader until
/// [`LIMIT`] bytes wait.
pub(crate) struct Output {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: Vec<u8>,
    /// The thread is writing what it has taken out of `waiting`.
    writing: bool,
    /// Nobody reads any more, or nobody cares: what does not fit is lost.
    abandoned: bool,
}

impl Output {
    /// Starts the thread that writes to `to`; `gone` is called when its reader has gone away.
    pub(crate) fn start(mut to: File, gone: impl FnOnce(io::Error) + Send + 'static) -> io::Result<Arc<Self>> {
        let output = Arc::new(Self { state: Mutex::default(), changed: Condvar::new() });
        let writer = Arc::clone(&output);
        std::thread::Builder::new().name("console-out".into()).spawn(move || {
            if let Err(error) = writer.write(&mut to) {
                writer.abandon();
                gone(error);
            }
        })?;
        Ok(output)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, to: &mut File) -> io::Result<()> {
        loop {
            let state = self.lock();
            drop(self.changed.wait_while(state, |s| s.waiting.is_empty()));
            std::thread::sleep(GATHER);
            let mut state = self.lock();
            let bytes = std::mem::take(&mut state.waiting);
            state.writing = true;
            drop(state);
            self.changed.notify_all();
            let result = to.write_all(&bytes);
            self.lock().writing = false;
            self.changed.notify_all();
            result?;
        }
    }

    /// Takes bytes; blocks while too many wait.
    pub(crate) fn put(&self, bytes: &[u8]) {
        let state = self.lock();
        let full = |s: &mut State| s.waiting.len() >= LIMIT && !s.abandoned;
        let mut state = self.changed.wait_while(state, full).unwrap_or_else(PoisonError::into_inner);
        if state.waiting.len() < LIMIT {
            let first = state.waiting.is_empty();
            state.waiting.extend_from_slice(bytes);
            drop(state);
            if first {
                self.changed.notify_all();
            }
        }
    }

    /// From now on nobody waits for a slow reader.
    pub(crate) fn abandon(&self) {
        self.lock().abandoned = true;
        self.changed.notify_all();
    }

    /// Waits until all is written, as long as the reader takes something within `patience`.
    pub(crate) fn flush(&self, patience: Duration) {
        let end = Instant::now() + patience;
        let state = self.lock();
        let left = end.saturating_duration_since(Instant::now());
        let unwritten = |s: &mut State| s.writing || !s.waiting.is_empty();
        drop(self.changed.wait_timeout_while(state, left, unwritten));
    }

    /// This output as the place where a port's characters go.
    pub(crate) fn port(self: &Arc<Self>) -> Box<dyn CharOut> {
        let output = Arc::clone(self);
        Box::new(move |bytes: &[u8]| output.put(bytes))
    }
}

/// A file as the place where a port's characters go.
pub(crate) fn file_port(mut file: File, name: String) -> Box<dyn CharOut> {
    let mut failed = false;
    Box::new(move |bytes: &[u8]| {
        if !failed && let Err(error) = file.write_all(bytes) {
            failed = true;
            tracing::error!("{name}: {error}; the rest of this port's output is lost");
        }
    })
}

/// Starts the thread that hands what is typed to `port`, and does what the keys for Husk say. The end of the input does not
/// end the VM.
pub(crate) fn read_input(vm: Arc<Vm>, port: SerialPort, output: Arc<Output>) -> Result<(), Failure> {
    let typed_by_hand = io::stdin().is_terminal();
    let work = move || {
        let mut keys = Keys::default();
        let mut buffer = [0; 4096];
        loop {
            let bytes = match io::stdin().lock().read(&mut buffer) {
                Ok(0) => return,
                Ok(n) => buffer.get(..n).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return tracing::info!("standard input: {error}; nothing more will be typed"),
            };
            // In a pipe every byte is for the guest.
            let all = if typed_by_hand { keys.sort(bytes) } else { vec![Typed::Data(bytes.to_vec())] };
            for typed in all {
                match typed {
                    Typed::Data(data) => {
                        if port.send(&data) < data.len() {
                            return;
                        }
                    }
                    Typed::Break => port.send_break(),
                    Typed::PowerButton => vm.power_button(),
                    Typed::Help => output.put(&with_returns(HELP.as_bytes())),
                    Typed::Stats => output.put(&with_returns(format!("\n{}", stats::table(&vm.stats())).as_bytes())),
                    Typed::Stop => {
                        output.abandon();
                        vm.power_off();
                    }
                }
            }
        }
    };
    let thread = std::thread::Builder::new().name("console-in".into()).spawn(work);
    thread
        .map(drop)
        .map_err(|e| Failure::internal(format!("cannot start thread console-in: {e}; raise the limit (ulimit -u)")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::OwnedFd;
    use std::sync::mpsc;

    #[test]
    fn output_waits_for_a_slow_reader_and_loses_nothing() {
        let (mut reader, writer) = io::pipe().unwrap();
        let output = Output::start(File::from(OwnedFd::from(writer)), |_| {}).unwrap();
        let all: Vec<u8> = (0..3 * LIMIT).map(|i| (i / 1000) as u8).collect();
        let guest = std::thread::spawn({
            let (output, all) = (Arc::clone(&output), all.clone());
            move || all.chunks(4093).for_each(|part| output.put(part))
        });
        let mut seen = vec![0; all.len()];
        reader.read_exact(&mut seen).unwrap();
        guest.join().unwrap();
        assert!(seen == all);
    }

    #[test]
    fn a_reader_that_goes_away_is_noticed_and_blocks_nobody() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let (tell, told) = mpsc::channel();
        let gone = move |error: io::Error| tell.send(error.kind()).unwrap();
        let output = Output::start(File::from(OwnedFd::from(writer)), gone).unwrap();
        (0..2 * LIMIT / 4096).for_each(|_| output.put(&[0; 4096]));
        assert_eq!(told.recv(), Ok(io::ErrorKind::BrokenPipe));
    }

    #[test]
    fn an_abandoned_output_blocks_nobody() {
        let (reader, writer) = io::pipe().unwrap();
        let output = Output::start(File::from(OwnedFd::from(writer)), |_| {}).unwrap();
        output.abandon();
        (0..2 * LIMIT / 4096).for_each(|_| output.put(&[0; 4096]));
        drop(reader);
    }
}
