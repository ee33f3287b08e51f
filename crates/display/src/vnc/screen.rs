//! What the clients see: one drawing for all of them, made when somebody waits for it, and which of its tiles each has seen.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::encoding::{Encoding, Pixels};
use super::pixel::{PixelFormat, Translator};
use super::rect::Rect;
use super::tiles::{around, copy_tile, joined, tile_count, tile_rect, tiles_of};
use super::wire::Stream;
use crate::input::{Input, Leds};
use crate::{Frame, Picture};

/// The screen is drawn at most once in this time.
const PERIOD: Duration = Duration::from_millis(33);
/// An update with more rectangles than this is sent as one.
const MOST_RECTS: usize = 1000;

/// A picture of one moment, shared with who is still sending it.
#[derive(Clone, Default)]
pub(super) struct Shot {
    pub(super) width: u16,
    pub(super) height: u16,
    pub(super) all: Vec<u32>,
}

impl Shot {
    fn black(width: u16, height: u16) -> Self {
        Self { width, height, all: vec![0; usize::from(width) * usize::from(height)] }
    }

    pub(super) fn pixels(&self) -> Pixels<'_> {
        Pixels { all: &self.all, width: usize::from(self.width) }
    }
}

/// What is told to a client beside pixels, at most one thing in one update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    /// The screen has this size; with the reason for telling, where the client understands it.
    Size { width: u16, height: u16, extended: Option<SizeReason> },
    /// The pointer is part of the picture: the client is to show none of its own.
    Cursor,
    /// Keys may come with their codes.
    CodedKeys,
    /// The pointer's events tell places, or motions.
    Pointer { absolute: bool },
    /// The keyboard's lights.
    Leds(Leds),
}

/// Why a client is told the size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SizeReason {
    /// The guest has changed it, or the client has not known it.
    Changed,
    /// The client has wished for another one, and does not get it.
    Refused,
}

/// What a client understands beside pixels.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Understands {
    pub(super) size: bool,
    pub(super) extended_size: bool,
    pub(super) cursor: bool,
    pub(super) coded_keys: bool,
    pub(super) pointer: bool,
    pub(super) leds: bool,
}

/// What the writer of a client is to send.
pub(super) struct Update {
    pub(super) shot: Arc<Shot>,
    pub(super) news: Vec<News>,
    pub(super) rects: Vec<Rect>,
    pub(super) encoding: Encoding,
    pub(super) translator: Arc<Translator>,
    /// The colour map has to be told first.
    pub(super) map: bool,
}

/// One client, as far as it concerns the screen.
struct Client {
    stream: Arc<Stream>,
    /// The size that it knows.
    size: (u16, u16),
    /// For each tile, the number of the drawing that it has; 0 for none.
    seen: Vec<u64>,
    /// What it waits for, if it does, and the number of the drawing that it may be answered with.
    request: Option<(Rect, u64)>,
    encoding: Encoding,
    understands: Understands,
    translator: Arc<Translator>,
    map: bool,
    /// It has to be told its size, whether or not that has changed.
    size_reason: Option<SizeReason>,
    cursor_told: bool,
    keys_told: bool,
    absolute_told: Option<bool>,
    leds_told: Option<Leds>,
}

struct State {
    shot: Arc<Shot>,
    /// For each tile of the shot, the number of the drawing in which it last changed.
    tiles: Vec<u64>,
    /// The number of the last drawing.
    drawing: u64,
    leds: Leds,
    absolute: bool,
    clients: HashMap<u64, Client>,
    next_client: u64,
}

/// The screen and those who look at it.
pub(super) struct Screen {
    picture: Arc<dyn Picture>,
    input: Arc<dyn Input>,
    state: Mutex<State>,
    changed: Condvar,
}

impl Screen {
    pub(super) fn new(picture: Arc<dyn Picture>, input: Arc<dyn Input>) -> Self {
        let state = State {
            shot: Arc::new(Shot::black(640, 480)),
            tiles: vec![0; tile_count(640, 480)],
            drawing: 0,
            leds: Leds::default(),
            absolute: false,
            clients: HashMap::new(),
            next_client: 0,
        };
        Self { picture, input, state: Mutex::new(state), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many clients there are.
    pub(super) fn clients(&self) -> usize {
        self.lock().clients.len()
    }

    /// Draws the screen whenever somebody waits for it, for ever.
    pub(super) fn keep_drawn(&self) {
        let mut frame = Frame::new();
        loop {
            let state = self.lock();
            let idle = |state: &mut State| state.clients.values().all(|client| client.request.is_none());
            drop(self.changed.wait_while(state, idle));
            let begun = Instant::now();
            self.draw(&mut frame);
            std::thread::sleep(PERIOD.saturating_sub(begun.elapsed()));
        }
    }

    /// Draws the screen once, and tells who waits.
    pub(super) fn draw(&self, frame: &mut Frame) {
        self.picture.draw(frame);
        let (leds, absolute) = (self.input.leds(), self.input.is_absolute());
        let mut state = self.lock();
        (state.leds, state.absolute) = (leds, absolute);
        state.absorb(frame);
        drop(state);
        self.changed.notify_all();
    }

    /// Takes in a client that has come as far as ServerInit; returns its number and the size of the screen.
    pub(super) fn enter(&self, stream: Arc<Stream>, shared: bool) -> (u64, (u16, u16)) {
        let mut state = self.lock();
        if !shared {
            // RFC 6143, 7.3.1: who does not share the screen has it alone.
            state.clients.values().for_each(|client| client.stream.close());
        }
        let number = state.next_client;
        state.next_client += 1;
        let size = (state.shot.width, state.shot.height);
        let client = Client {
            stream,
            size,
            seen: vec![0; state.tiles.len()],
            request: None,
            encoding: Encoding::Raw,
            understands: Understands::default(),
            translator: Arc::new(Translator::new(&PixelFormat::NATIVE)),
            map: false,
            size_reason: None,
            cursor_told: false,
            keys_told: false,
            absolute_told: None,
            leds_told: None,
        };
        state.clients.insert(number, client);
        (number, size)
    }

    /// A client has gone.
    pub(super) fn leave(&self, number: u64) {
        self.lock().clients.remove(&number);
        self.changed.notify_all();
    }

    fn change(&self, number: u64, what: impl FnOnce(&mut Client)) {
        if let Some(client) = self.lock().clients.get_mut(&number) {
            what(client);
        }
        self.changed.notify_all();
    }

    pub(super) fn set_format(&self, number: u64, format: &PixelFormat) {
        let translator = Arc::new(Translator::new(format));
        self.change(number, |client| {
            client.translator = translator;
            client.map = format.wants_map();
        });
    }

    pub(super) fn set_encodings(&self, number: u64, encoding: Encoding, understands: Understands) {
        self.change(number, |client| {
            client.encoding = encoding;
            if understands.extended_size && !client.understands.extended_size {
                client.size_reason = Some(SizeReason::Changed);
            }
            client.understands = understands;
        });
    }

    pub(super) fn refuse_size(&self, number: u64) {
        self.change(number, |client| client.size_reason = Some(SizeReason::Refused));
    }

    pub(super) fn request(&self, number: u64, changes: bool, rect: Rect) {
        let mut state = self.lock();
        let (drawing, shown) = (state.drawing, (state.shot.width, state.shot.height));
        if let Some(client) = state.clients.get_mut(&number) {
            let (width, height) = client.size;
            let rect = rect.within(width, height);
            if !changes {
                // The client may not know that the screen has another size by now.
                for tile in tiles_of(rect.within(shown.0, shown.1), shown.0) {
                    if let Some(seen) = client.seen.get_mut(tile) {
                        *seen = 0;
                    }
                }
            }
            // What is asked for twice before it is answered, is answered once, for both parts.
            let both = match client.request {
                Some((before, _)) if before.area() > 0 => around(before, rect),
                _ => rect,
            };
            client.request = Some((both, drawing + 1));
        }
        drop(state);
        self.changed.notify_all();
    }

    /// What client `number` knows of the screen's size, and whether its pointer tells motions.
    pub(super) fn pointer_mode(&self, number: u64) -> Option<((u16, u16), bool)> {
        let state = self.lock();
        state.clients.get(&number).map(|client| (client.size, client.absolute_told == Some(false)))
    }

    /// Waits until there is something to send to a client; `None` when it has gone.
    pub(super) fn next_update(&self, number: u64) -> Option<Update> {
        let mut state = self.lock();
        loop {
            if let Some(update) = state.update(number)? {
                return Some(update);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl State {
    /// Takes over what has changed.
    fn absorb(&mut self, frame: &mut Frame) {
        self.drawing += 1;
        let damage = frame.take_damage();
        let size = |len: u32| u16::try_from(len).unwrap_or(u16::MAX);
        let (width, height) = (size(frame.width()), size(frame.height()));
        if width == 0 || height == 0 {
            return;
        }
        if (width, height) != (self.shot.width, self.shot.height) {
            self.shot = Arc::new(Shot { width, height, all: frame.pixels().to_vec() });
            self.tiles = vec![self.drawing; tile_count(width, height)];
            return;
        }
        let shot = Arc::make_mut(&mut self.shot);
        for rect in damage {
            let rect = Rect { x: size(rect.x), y: size(rect.y), width: size(rect.width), height: size(rect.height) };
            for tile in tiles_of(rect.within(width, height), width) {
                let changed = copy_tile(frame.pixels(), &mut shot.all, (width, height), tile);
                if let Some(number) = self.tiles.get_mut(tile).filter(|_| changed) {
                    *number = self.drawing;
                }
            }
        }
    }

    /// What is to be sent to a client now; the outer `None` when it has gone.
    fn update(&mut self, number: u64) -> Option<Option<Update>> {
        let client = self.clients.get_mut(&number)?;
        let Some((rect, _)) = client.request.filter(|(_, least)| self.drawing >= *least) else { return Some(None) };
        let (news, alone) = client.news(&self.shot, self.leds, self.absolute, self.tiles.len());
        // A new size goes alone: the client has to ask anew.
        let rects = if alone { Vec::new() } else { client.unseen(&self.shot, &self.tiles, rect) };
        if news.is_empty() && rects.is_empty() {
            return Some(None);
        }
        client.request = None;
        Some(Some(Update {
            shot: Arc::clone(&self.shot),
            news,
            rects,
            encoding: client.encoding,
            translator: Arc::clone(&client.translator),
            map: std::mem::take(&mut client.map),
        }))
    }
}

impl Client {
    /// What it has to be told beside pixels, and whether that goes alone.
    fn news(&mut self, shot: &Shot, leds: Leds, absolute: bool, tiles: usize) -> (Vec<News>, bool) {
        let understands = self.understands;
        let mut news = Vec::new();
        let size = (shot.width, shot.height);
        if understands.size || understands.extended_size {
            let changed = self.size != size;
            let reason = self.size_reason.take().or(changed.then_some(SizeReason::Changed));
            if changed {
                self.size = size;
                self.seen = vec![0; tiles];
            }
            if let Some(reason) = reason {
                let extended = understands.extended_size.then_some(reason);
                if changed || extended.is_some() {
                    return (vec![News::Size { width: size.0, height: size.1, extended }], true);
                }
            }
        }
        if understands.cursor && !std::mem::replace(&mut self.cursor_told, true) {
            news.push(News::Cursor);
        }
        if understands.coded_keys && !std::mem::replace(&mut self.keys_told, true) {
            news.push(News::CodedKeys);
        }
        if understands.pointer && self.absolute_told.replace(absolute) != Some(absolute) {
            news.push(News::Pointer { absolute });
        }
        if understands.leds && self.leds_told.replace(leds) != Some(leds) {
            news.push(News::Leds(leds));
        }
        (news, false)
    }

    /// The parts within `rect` that it has not seen, which it has then.
    fn unseen(&mut self, shot: &Shot, tiles: &[u64], rect: Rect) -> Vec<Rect> {
        // Who does not understand another size sees what fits into the one that it knows.
        let (width, height) = (self.size.0.min(shot.width), self.size.1.min(shot.height));
        let fits = self.size == (shot.width, shot.height);
        let rect = rect.within(width, height);
        if self.seen.len() != tiles.len() {
            self.seen = vec![0; tiles.len()];
        }
        let mut parts: Vec<Rect> = Vec::new();
        for tile in tiles_of(rect, shot.width) {
            let (Some(seen), Some(number)) = (self.seen.get_mut(tile), tiles.get(tile)) else { continue };
            // Before the first drawing all tiles are black and of number 0, which counts as one too.
            if *seen > *number {
                continue;
            }
            *seen = number + 1;
            let part = tile_rect(tile, shot.width, shot.height);
            let part = if fits { part } else { part.within(width, height) };
            match parts.last_mut() {
                Some(last) if last.y == part.y && last.x + last.width == part.x => last.width += part.width,
                _ => parts.push(part),
            }
        }
        let parts = if parts.len() > 4 * MOST_RECTS { parts } else { joined(parts) };
        if parts.len() > MOST_RECTS {
            return parts.into_iter().reduce(around).into_iter().collect();
        }
        parts
    }
}
