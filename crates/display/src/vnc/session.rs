//! One client: a thread that listens to it and one that sends.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::encoding::{Encoder, Encoding};
use super::handshake::{Refused, Security, greet, server_init};
use super::keyboard::Keyboard;
use super::message::{Fault, Message};
use super::mouse::Mouse;
use super::screen::{News, Screen, SizeReason, Understands, Update};
use super::wire::{Receiver, Sender, Stream};
use crate::input::{Input, Leds};

/// Who has not come in within this time stays out.
const COME_IN: Duration = Duration::from_secs(20);
/// Who takes nothing for so long is gone.
const PATIENCE: Duration = Duration::from_secs(60);
/// Updates are sent in parts of about this size.
const PART: usize = 64 << 10;

/// Pseudo-encodings: what a client understands beside pixels.
const DESKTOP_SIZE: i32 = -223;
const CURSOR: i32 = -239;
const POINTER_MOTION: i32 = -257;
const CODED_KEYS: i32 = -258;
const LED_STATE: i32 = -261;
const EXTENDED_SIZE: i32 = -308;
const PSEUDO: [i32; 6] = [DESKTOP_SIZE, CURSOR, POINTER_MOTION, CODED_KEYS, LED_STATE, EXTENDED_SIZE];

/// Why a client has gone.
#[derive(Debug, thiserror::Error)]
pub(super) enum Gone {
    #[error("{0}")]
    Refused(#[from] Refused),
    #[error("{0}")]
    Fault(#[from] Fault),
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Serves a client until it goes.
pub(super) fn serve(
    stream: Stream,
    screen: &Arc<Screen>,
    input: &Arc<dyn Input>,
    security: &Security,
    name: &str,
) -> Result<(), Gone> {
    let stream = Arc::new(stream);
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut sender = Sender::new(Arc::clone(&stream));
    let mut receiver = Receiver::new(Arc::clone(&stream), Instant::now() + COME_IN);
    let shared = greet(&mut receiver, &mut sender, security)?;
    receiver.lift_deadline()?;
    let (number, (width, height)) = screen.enter(Arc::clone(&stream), shared);
    let _presence = Presence { screen, stream: &stream, number };
    sender.send(&server_init(width, height, name))?;
    let writer = std::thread::Builder::new().name("vnc-out".into()).spawn({
        let (screen, stream) = (Arc::clone(screen), Arc::clone(&stream));
        move || {
            if let Err(error) = send_updates(&screen, number, &sender) {
                tracing::debug!(%error, "a VNC client takes nothing");
            }
            stream.close();
        }
    });
    // It ends when the client has left the screen.
    drop(writer?);
    listen(&mut receiver, screen, input, number)
}

/// While it lives, the client is there.
struct Presence<'a> {
    screen: &'a Screen,
    stream: &'a Stream,
    number: u64,
}

impl Drop for Presence<'_> {
    fn drop(&mut self) {
        self.screen.leave(self.number);
        self.stream.close();
    }
}

fn listen(receiver: &mut Receiver, screen: &Screen, input: &Arc<dyn Input>, number: u64) -> Result<(), Gone> {
    let mut keyboard = Keyboard::new(Arc::clone(input));
    let mut mouse = Mouse::new(Arc::clone(input));
    let known = |encoding| PSEUDO.contains(&encoding) || Encoding::of(encoding).is_some();
    loop {
        match Message::read(receiver, known)? {
            Message::PixelFormat(format) => screen.set_format(number, &format),
            Message::Encodings(encodings) => {
                let favourite = encodings.iter().find_map(|encoding| Encoding::of(*encoding));
                let has = |pseudo: i32| encodings.contains(&pseudo);
                let understands = Understands {
                    size: has(DESKTOP_SIZE),
                    extended_size: has(EXTENDED_SIZE),
                    cursor: has(CURSOR),
                    coded_keys: has(CODED_KEYS),
                    pointer: has(POINTER_MOTION),
                    leds: has(LED_STATE),
                };
                screen.set_encodings(number, favourite.unwrap_or(Encoding::Raw), understands);
            }
            Message::Request { changes, rect } => screen.request(number, changes, rect),
            Message::Key { down, keysym } => keyboard.key(down, keysym),
            // Those without a code are taken by what is on them.
            Message::CodedKey { down, keysym, number: 0 } => keyboard.key(down, keysym),
            Message::CodedKey { down, number, .. } => keyboard.coded(down, number),
            Message::Pointer { buttons, x, y } => {
                if let Some((size, relative)) = screen.pointer_mode(number) {
                    mouse.event(buttons, x, y, size, relative);
                }
            }
            Message::Text => {}
            Message::Size => screen.refuse_size(number),
        }
    }
}

fn send_updates(screen: &Screen, number: u64, sender: &Sender) -> io::Result<()> {
    let mut encoder = Encoder::default();
    while let Some(update) = screen.next_update(number) {
        send(&update, &mut encoder, sender)?;
    }
    Ok(())
}

fn send(update: &Update, encoder: &mut Encoder, sender: &Sender) -> io::Result<()> {
    let mut out = Vec::new();
    if update.map {
        out.extend(colour_map());
    }
    // There are never more rectangles than a number of two bytes counts.
    let count = (update.news.len() + update.rects.len()) as u16;
    out.extend([0, 0]);
    out.extend(count.to_be_bytes());
    update.news.iter().for_each(|news| put_news(*news, &mut out));
    for rect in &update.rects {
        put_head([rect.x, rect.y, rect.width, rect.height], update.encoding.number(), &mut out);
        encoder.put(update.encoding, &update.translator, update.shot.pixels(), *rect, &mut out);
        if out.len() >= PART {
            sender.send(&out)?;
            out.clear();
        }
    }
    if out.is_empty() { Ok(()) } else { sender.send(&out) }
}

/// The head of a rectangle.
fn put_head(place: [u16; 4], encoding: i32, out: &mut Vec<u8>) {
    place.iter().for_each(|number| out.extend(number.to_be_bytes()));
    out.extend(encoding.to_be_bytes());
}

fn put_news(news: News, out: &mut Vec<u8>) {
    match news {
        News::Size { width, height, extended: None } => put_head([0, 0, width, height], DESKTOP_SIZE, out),
        News::Size { width, height, extended: Some(reason) } => {
            // The reason and, where the client has asked, the answer: "resize is administratively prohibited".
            let (why, answer) = match reason {
                SizeReason::Changed => (0, 0),
                SizeReason::Refused => (1, 1),
            };
            put_head([why, answer, width, height], EXTENDED_SIZE, out);
            // One screen, of number 0, at the upper left corner, without flags.
            out.extend([1, 0, 0, 0]);
            out.extend([0; 8]);
            out.extend(width.to_be_bytes());
            out.extend(height.to_be_bytes());
            out.extend([0; 4]);
        }
        News::Cursor => put_head([0; 4], CURSOR, out),
        News::CodedKeys => put_head([0; 4], CODED_KEYS, out),
        News::Pointer { absolute } => put_head([u16::from(absolute), 0, 0, 0], POINTER_MOTION, out),
        News::Leds(Leds { scroll, num, caps }) => {
            put_head([0; 4], LED_STATE, out);
            out.push(u8::from(scroll) | u8::from(num) << 1 | u8::from(caps) << 2);
        }
    }
}

/// SetColourMapEntries with all 256 colours: red in three bits, green in three, blue in two.
fn colour_map() -> Vec<u8> {
    let mut map = vec![1, 0, 0, 0, 1, 0];
    let full = |part: u16, most: u16| (u32::from(part) * u32::from(u16::MAX) / u32::from(most)) as u16;
    for colour in 0..256 {
        for value in [full(colour >> 5, 7), full(colour >> 2 & 7, 7), full(colour & 3, 3)] {
            map.extend(value.to_be_bytes());
        }
    }
    map
}
