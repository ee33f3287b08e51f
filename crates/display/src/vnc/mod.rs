//! A VNC server: the RFB protocol (RFC 6143), versions 3.3, 3.7 and 3.8, with the extensions of the community's RFB protocol
//! that QEMU's keys and pointer, changing sizes and TLS need.
//!
//! One thread accepts, one draws the screen while somebody looks, and each client has two: a client that takes nothing
//! holds up nobody but itself.

mod encoding;
mod handshake;
mod keyboard;
mod message;
mod mouse;
mod password;
mod pixel;
mod rect;
mod screen;
mod session;
#[cfg(test)]
mod tests;
mod tiles;
mod tls;
mod wire;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

pub use password::Password;
pub use tls::{Identity, IdentityError};
pub use wire::Listener;

use crate::input::Input;
use crate::{Frame, Picture};
use handshake::Security;
use screen::Screen;

/// The most clients at a time, those included that have not come in yet.
const MOST_CLIENTS: usize = 32;

/// How a screen is shown.
#[derive(Debug)]
pub struct Options {
    /// Where clients come in.
    pub listener: Listener,
    /// What clients show as the screen's name.
    pub name: String,
    /// The password that they have to know.
    pub password: Option<Password>,
    /// With it, all goes through TLS.
    pub identity: Option<Identity>,
}

/// A running server. It runs as long as the process does.
pub struct Server {
    screen: Arc<Screen>,
}

impl Server {
    /// Starts to show `picture`, and to hand keys and pointer to `input`.
    ///
    /// # Errors
    /// The host's refusal of a thread.
    pub fn start(options: Options, picture: Arc<dyn Picture>, input: Arc<dyn Input>) -> io::Result<Self> {
        let Options { listener, name, password, identity } = options;
        let security = Security { password, identity };
        let screen = Arc::new(Screen::new(picture, Arc::clone(&input)));
        // The first client is to find a picture, and its size.
        screen.draw(&mut Frame::new());
        let drawn = Arc::clone(&screen);
        std::thread::Builder::new().name("screen".into()).spawn(move || drawn.keep_drawn())?;
        let shown = Arc::clone(&screen);
        std::thread::Builder::new().name("vnc".into()).spawn(move || {
            let count = Arc::new(AtomicUsize::new(0));
            loop {
                match listener.accept() {
                    Ok(stream) => {
                        let place = Place::take(&count);
                        let (screen, input) = (Arc::clone(&shown), Arc::clone(&input));
                        let (security, name) = (security.clone(), name.clone());
                        let Some(place) = place else {
                            tracing::warn!("a VNC client is sent away: there are {MOST_CLIENTS} already");
                            continue;
                        };
                        let serve = move || {
                            let _place = place;
                            if let Err(gone) = session::serve(stream, &screen, &input, &security, &name) {
                                tracing::debug!(%gone, "a VNC client has gone");
                            }
                        };
                        if let Err(error) = std::thread::Builder::new().name("vnc-in".into()).spawn(serve) {
                            tracing::warn!(%error, "no thread for a VNC client");
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a VNC client could not come in");
                        // Without descriptors, say, it would fail again at once.
                        std::thread::sleep(Duration::from_millis(100));
                    }
                }
            }
        })?;
        Ok(Self { screen })
    }

    /// How many clients see the screen.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.screen.clients()
    }
}

/// One of the places for clients, while it lives.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(count: &Arc<AtomicUsize>) -> Option<Self> {
        let free = |taken: usize| (taken < MOST_CLIENTS).then_some(taken + 1);
        count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, free).ok().map(|_| Self(Arc::clone(count)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What a client sends after it has come in, for fuzzing: reads messages from `bytes` until one is none, and hands keys and
/// pointer to `input`. Returns how many there were.
#[must_use]
pub fn hear(mut bytes: &[u8], input: &Arc<dyn Input>) -> usize {
    let mut keyboard = keyboard::Keyboard::new(Arc::clone(input));
    let mut mouse = mouse::Mouse::new(Arc::clone(input));
    let mut heard = 0;
    while let Ok(message) = message::Message::read(&mut bytes, |encoding| encoding < 32) {
        heard += 1;
        match message {
            message::Message::PixelFormat(format) => {
                let translator = pixel::Translator::new(&format);
                let mut out = Vec::new();
                translator.put(translator.value(0x12_3456), &mut out);
                translator.put_compressed(translator.value(0xff_ffff), &mut out);
            }
            message::Message::Key { down, keysym } => keyboard.key(down, keysym),
            message::Message::CodedKey { down, number, .. } => keyboard.coded(down, number),
            message::Message::Pointer { buttons, x, y } => mouse.event(buttons, x, y, (y, x), heard % 2 == 0),
            _ => {}
        }
    }
    heard
}
