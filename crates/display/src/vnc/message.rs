//! What clients say (RFC 6143, section 7.5, and the community's RFB protocol for what is newer). Whatever they send, a
//! message takes bounded memory.

use std::io::{self, Read};

use super::pixel::PixelFormat;
use super::rect::Rect;

/// So much text of a client's clipboard is thrown away; who has more is shown the door.
const MOST_TEXT: u32 = 1 << 20;
/// The most screens of a wish for another size.
const MOST_SCREENS: usize = 16;

/// A message of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Message {
    /// Pixels are to be like this from now on.
    PixelFormat(PixelFormat),
    /// The client knows these encodings, the favourite first.
    Encodings(Vec<i32>),
    /// It wants to know what is in `rect`: what has changed there since it last heard of it, or all of it.
    Request { changes: bool, rect: Rect },
    /// A key, as the character or the function on it, goes down or up.
    Key { down: bool, keysym: u32 },
    /// A key goes down or up, with its make code.
    CodedKey { down: bool, keysym: u32, number: u32 },
    /// The pointer moves, or its buttons change.
    Pointer { buttons: u8, x: u16, y: u16 },
    /// The client's clipboard has text, which nobody takes.
    Text,
    /// It wishes for a screen of another size.
    Size,
}

/// Why a client is not listened to any longer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// The connection ends.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// There is no such message.
    #[error("message {0} is unknown")]
    Unknown(u8),
    /// There is no such pixel format.
    #[error("it wants a pixel format that cannot be")]
    Format,
    /// It sends more than it is listened to.
    #[error("it sends {bytes} bytes of {what}")]
    TooLong { what: &'static str, bytes: u32 },
}

/// Bytes of the wire, in the order of the network.
struct Fields<'a, R>(&'a mut R);

impl<R: Read> Fields<'_, R> {
    fn bytes<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.0.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn u8(&mut self) -> io::Result<u8> {
        self.bytes().map(u8::from_be_bytes)
    }

    fn u16(&mut self) -> io::Result<u16> {
        self.bytes().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> io::Result<u32> {
        self.bytes().map(u32::from_be_bytes)
    }

    fn rect(&mut self) -> io::Result<Rect> {
        Ok(Rect { x: self.u16()?, y: self.u16()?, width: self.u16()?, height: self.u16()? })
    }

    fn skip(&mut self, bytes: u32) -> io::Result<()> {
        let skipped = io::copy(&mut self.0.by_ref().take(u64::from(bytes)), &mut io::sink())?;
        if skipped == u64::from(bytes) { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

impl Message {
    /// Reads the next message. Of the encodings, those that `known` says no to are left out.
    pub(super) fn read(from: &mut impl Read, known: impl Fn(i32) -> bool) -> Result<Self, Fault> {
        let mut fields = Fields(from);
        match fields.u8()? {
            0 => {
                let [_, _, _] = fields.bytes()?;
                PixelFormat::parse(&fields.bytes()?).map(Self::PixelFormat).map_err(|_| Fault::Format)
            }
            2 => {
                fields.u8()?;
                let mut encodings = Vec::new();
                for _ in 0..fields.u16()? {
                    let encoding = i32::from_be_bytes(fields.bytes()?);
                    // Each counts once, so there are never more of them than are known.
                    if known(encoding) && !encodings.contains(&encoding) {
                        encodings.push(encoding);
                    }
                }
                Ok(Self::Encodings(encodings))
            }
            3 => Ok(Self::Request { changes: fields.u8()? != 0, rect: fields.rect()? }),
            4 => {
                let down = fields.u8()? != 0;
                fields.u16()?;
                Ok(Self::Key { down, keysym: fields.u32()? })
            }
            5 => Ok(Self::Pointer { buttons: fields.u8()?, x: fields.u16()?, y: fields.u16()? }),
            6 => {
                let [_, _, _] = fields.bytes()?;
                match fields.u32()? {
                    bytes @ 0..=MOST_TEXT => fields.skip(bytes)?,
                    bytes => return Err(Fault::TooLong { what: "text", bytes }),
                }
                Ok(Self::Text)
            }
            // SetDesktopSize.
            251 => {
                let [_, _, _, _, _] = fields.bytes()?;
                let screens = fields.u8()?;
                fields.u8()?;
                if usize::from(screens) > MOST_SCREENS {
                    return Err(Fault::TooLong { what: "screens", bytes: u32::from(screens) * 16 });
                }
                fields.skip(u32::from(screens) * 16)?;
                Ok(Self::Size)
            }
            // QEMU's own: 0 is a key with its code.
            255 => match fields.u8()? {
                0 => {
                    let down = fields.u16()? != 0;
                    Ok(Self::CodedKey { down, keysym: fields.u32()?, number: fields.u32()? })
                }
                _ => Err(Fault::Unknown(255)),
            },
            other => Err(Fault::Unknown(other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Message, Fault> {
        let mut from = bytes;
        let message = Message::read(&mut from, |encoding| encoding >= 0);
        assert!(message.is_err() || from.is_empty(), "all of it is read");
        message
    }

    #[test]
    fn messages_are_read() {
        let rect = Rect { x: 1, y: 2, width: 3, height: 4 };
        assert_eq!(read(&[3, 1, 0, 1, 0, 2, 0, 3, 0, 4]).unwrap(), Message::Request { changes: true, rect });
        assert_eq!(read(&[4, 1, 0, 0, 0, 0, 255, 13]).unwrap(), Message::Key { down: true, keysym: 0xff0d });
        assert_eq!(read(&[5, 8, 1, 0, 0, 2]).unwrap(), Message::Pointer { buttons: 8, x: 256, y: 2 });
        assert_eq!(read(&[6, 0, 0, 0, 0, 0, 0, 2, 65, 66]).unwrap(), Message::Text);
        let coded = [255, 0, 0, 1, 0, 0, 0, 97, 0, 0, 0, 0x1e];
        assert_eq!(read(&coded).unwrap(), Message::CodedKey { down: true, keysym: 97, number: 0x1e });
        let mut size = vec![251, 0, 4, 0, 3, 0, 1, 0];
        size.extend([0; 16]);
        assert_eq!(read(&size).unwrap(), Message::Size);
        let mut encodings = vec![2, 0, 0, 4];
        for encoding in [16i32, -1, 16, 0] {
            encodings.extend(encoding.to_be_bytes());
        }
        assert_eq!(read(&encodings).unwrap(), Message::Encodings(vec![16, 0]));
    }

    #[test]
    fn nonsense_ends_it() {
        assert!(matches!(read(&[7]), Err(Fault::Unknown(7))));
        assert!(matches!(read(&[255, 1]), Err(Fault::Unknown(255))));
        assert!(matches!(read(&[6, 0, 0, 0, 255, 255, 255, 255]), Err(Fault::TooLong { .. })));
        assert!(matches!(read(&[251, 0, 4, 0, 3, 0, 255, 0]), Err(Fault::TooLong { .. })));
        assert!(matches!(read(&[0; 20]), Err(Fault::Format)));
        assert!(matches!(read(&[3, 1]), Err(Fault::Io(_))));
        assert!(matches!(read(&[6, 0, 0, 0, 0, 0, 0, 2, 65]), Err(Fault::Io(_))));
    }
}
