//! A small client, written from the specification.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::super::encoding::Encoding;
use super::super::encoding::reader::Reader;
use super::super::password::Password;
use super::super::pixel::{PixelFormat, Translator};

/// A stream of bytes to the server.
pub(super) trait Wire: Read + Write + Send {}
impl<T: Read + Write + Send> Wire for T {}

/// What an update tells beside pixels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Told {
    Pixels { encoding: i32, place: [u16; 4] },
    Pseudo { encoding: i32, place: [u16; 4], more: Vec<u8> },
}

pub(super) struct Client {
    wire: Box<dyn Wire>,
    reader: Reader,
    translator: Translator,
    pub(super) size: (u16, u16),
    pub(super) name: String,
    /// What it believes to be on the screen.
    pub(super) screen: Vec<u32>,
}

pub(super) fn connect(path: &std::path::Path) -> UnixStream {
    let stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream
}

pub(super) fn take<const N: usize>(wire: &mut dyn Wire) -> [u8; N] {
    let mut bytes = [0; N];
    wire.read_exact(&mut bytes).expect("the server says more");
    bytes
}

/// The handshake up to SecurityResult; the error is the reason that the server gives.
pub(super) fn authenticate(wire: &mut dyn Wire, version: &str, password: Option<&str>) -> Result<(), String> {
    assert_eq!(&take::<12>(wire), b"RFB 003.008\n");
    wire.write_all(format!("RFB 003.{version}\n").as_bytes()).unwrap();
    // What the server makes of odd versions.
    let version = match version {
        "005" => "003",
        "889" => "008",
        other => other,
    };
    let kind = if version == "003" {
        u32::from_be_bytes(take(wire)) as u8
    } else {
        let [count] = take(wire);
        assert_eq!(count, 1);
        let [kind] = take(wire);
        wire.write_all(&[kind]).unwrap();
        kind
    };
    match (kind, password) {
        (1, None) if version != "008" => return Ok(()),
        (1, None) => {}
        (2, Some(password)) => answer_challenge(wire, password),
        other => panic!("security {other:?}"),
    }
    result(wire, version)
}

pub(super) fn answer_challenge(wire: &mut dyn Wire, password: &str) {
    let challenge = take(wire);
    let answer = Password::first_line(password.as_bytes()).unwrap().answer(&challenge);
    wire.write_all(&answer).unwrap();
}

pub(super) fn result(wire: &mut dyn Wire, version: &str) -> Result<(), String> {
    match (u32::from_be_bytes(take(wire)), version) {
        (0, _) => Ok(()),
        (_, "008") => {
            let mut reason = vec![0; u32::from_be_bytes(take(wire)) as usize];
            wire.read_exact(&mut reason).unwrap();
            Err(String::from_utf8(reason).unwrap())
        }
        _ => Err(String::new()),
    }
}

impl Client {
    /// Comes in without a password, sharing the screen.
    pub(super) fn enter(path: &std::path::Path) -> Self {
        let mut wire = connect(path);
        authenticate(&mut wire, "008", None).unwrap();
        Self::init(Box::new(wire), true)
    }

    /// From ClientInit on.
    pub(super) fn init(mut wire: Box<dyn Wire>, shared: bool) -> Self {
        wire.write_all(&[u8::from(shared)]).unwrap();
        let [a, b, c, d] = take(&mut *wire);
        assert_eq!(take::<16>(&mut *wire), PixelFormat::NATIVE.bytes());
        let mut name = vec![0; u32::from_be_bytes(take(&mut *wire)) as usize];
        wire.read_exact(&mut name).unwrap();
        let translator = Translator::new(&PixelFormat::NATIVE);
        let size = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        Self {
            wire,
            reader: Reader::new(&translator),
            translator,
            size,
            name: String::from_utf8(name).unwrap(),
            screen: vec![0xdead_beef; usize::from(size.0) * usize::from(size.1)],
        }
    }

    pub(super) fn send(&mut self, bytes: &[u8]) {
        self.wire.write_all(bytes).unwrap();
    }

    /// Whether the server has closed the connection.
    pub(super) fn is_shown_the_door(&mut self) -> bool {
        let mut rest = Vec::new();
        // A reset says the same.
        let _ = self.wire.read_to_end(&mut rest);
        true
    }

    pub(super) fn encodings(&mut self, encodings: &[i32]) {
        let mut message = vec![2, 0];
        message.extend((encodings.len() as u16).to_be_bytes());
        encodings.iter().for_each(|encoding| message.extend(encoding.to_be_bytes()));
        self.send(&message);
    }

    pub(super) fn format(&mut self, bytes: [u8; 16]) {
        let mut message = vec![0, 0, 0, 0];
        message.extend(bytes);
        self.send(&message);
        let format = PixelFormat::parse(&bytes).unwrap();
        self.translator = Translator::new(&format);
        self.reader = Reader::new(&self.translator);
    }

    pub(super) fn request(&mut self, changes: bool) {
        let mut message = vec![3, u8::from(changes), 0, 0, 0, 0];
        message.extend(self.size.0.to_be_bytes());
        message.extend(self.size.1.to_be_bytes());
        self.send(&message);
    }

    pub(super) fn key(&mut self, down: bool, keysym: u32) {
        let mut message = vec![4, u8::from(down), 0, 0];
        message.extend(keysym.to_be_bytes());
        self.send(&message);
    }

    pub(super) fn pointer(&mut self, buttons: u8, x: u16, y: u16) {
        let mut message = vec![5, buttons];
        message.extend(x.to_be_bytes());
        message.extend(y.to_be_bytes());
        self.send(&message);
    }

    /// What the pixels of a picture are in this client's form.
    pub(super) fn values(&self, pixels: &[u32]) -> Vec<u32> {
        pixels.iter().map(|pixel| self.translator.value(*pixel)).collect()
    }

    /// Reads one update, and takes over what it shows.
    pub(super) fn update(&mut self) -> Vec<Told> {
        let [kind] = take(&mut *self.wire);
        if kind == 1 {
            let [_, first, second, high, low] = take(&mut *self.wire);
            assert_eq!(([first, second], [high, low]), ([0, 0], [1, 0]));
            let colours: [u8; 256 * 6] = take(&mut *self.wire);
            assert_eq!(colours[255 * 6..], [255; 6]);
            return self.update();
        }
        assert_eq!(kind, 0);
        let [_, high, low] = take(&mut *self.wire);
        (0..u16::from_be_bytes([high, low])).map(|_| self.rect()).collect()
    }

    fn rect(&mut self) -> Told {
        let place: [u16; 4] = std::array::from_fn(|_| u16::from_be_bytes(take(&mut *self.wire)));
        let [x, y, width, height] = place.map(usize::from);
        let number = i32::from_be_bytes(take(&mut *self.wire));
        let Some(encoding) = Encoding::of(number) else {
            let more = match number {
                -261 => take::<1>(&mut *self.wire).to_vec(),
                -308 => take::<20>(&mut *self.wire).to_vec(),
                _ => Vec::new(),
            };
            if matches!(number, -223 | -308) && !(number == -308 && place[1] != 0) {
                self.size = (place[2], place[3]);
                self.screen = vec![0; width * height];
            }
            return Told::Pseudo { encoding: number, place, more };
        };
        let data = self.data(encoding, width, height);
        let values = self.reader.read(encoding, &data, width, height);
        let across = usize::from(self.size.0);
        assert!(x + width <= across && y + height <= usize::from(self.size.1), "{place:?}");
        for (row, values) in values.chunks(width).enumerate() {
            let at = (y + row) * across + x;
            self.screen[at..at + width].copy_from_slice(values);
        }
        Told::Pixels { encoding: number, place }
    }

    /// The bytes of a rectangle: with Hextile only its contents tell how many there are.
    fn data(&mut self, encoding: Encoding, width: usize, height: usize) -> Vec<u8> {
        let size = self.translator.size();
        let mut data = Vec::new();
        let more = |wire: &mut dyn Wire, data: &mut Vec<u8>, count: usize| {
            let at = data.len();
            data.resize(at + count, 0);
            wire.read_exact(&mut data[at..]).unwrap();
            at
        };
        let wire = &mut *self.wire;
        match encoding {
            Encoding::Raw => {
                more(wire, &mut data, width * height * size);
            }
            Encoding::Zrle => {
                more(wire, &mut data, 4);
                let len = u32::from_be_bytes(data[..4].try_into().unwrap()) as usize;
                more(wire, &mut data, len);
            }
            Encoding::Hextile => {
                for y in (0..height).step_by(16) {
                    for x in (0..width).step_by(16) {
                        let at = more(wire, &mut data, 1);
                        let flags = data[at];
                        if flags & 1 != 0 {
                            more(wire, &mut data, 16.min(width - x) * 16.min(height - y) * size);
                            continue;
                        }
                        let colours = usize::from(flags >> 1 & 1) + usize::from(flags >> 2 & 1);
                        more(wire, &mut data, colours * size);
                        if flags & 8 != 0 {
                            let at = more(wire, &mut data, 1);
                            let each = 2 + if flags & 16 != 0 { size } else { 0 };
                            let count = usize::from(data[at]);
                            more(wire, &mut data, count * each);
                        }
                    }
                }
            }
        }
        data
    }
}
