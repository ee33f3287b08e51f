//! A picture of a screen as a file (Portable Network Graphics, ISO/IEC 15948).

use std::io::{self, Write};

use crate::Frame;

/// Writes `frame` as a PNG image.
///
/// # Errors
/// Those of `to`; [`io::ErrorKind::InvalidInput`] when the frame has no pixels.
pub fn write_png(frame: &Frame, to: impl Write) -> io::Result<()> {
    if frame.bounds().is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the screen has no size"));
    }
    let mut encoder = png::Encoder::new(to, frame.width(), frame.height());
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header().map_err(io_error)?;
    let mut bytes = Vec::with_capacity(frame.pixels().len() * 3);
    for pixel in frame.pixels() {
        let [_, red, green, blue] = pixel.to_be_bytes();
        bytes.extend([red, green, blue]);
    }
    writer.write_image_data(&bytes).map_err(io_error)?;
    writer.finish().map_err(io_error)
}

fn io_error(error: png::EncodingError) -> io::Error {
    match error {
        png::EncodingError::IoError(error) => error,
        other => io::Error::other(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let mut frame = Frame::new();
        frame.resize(3, 2);
        frame.set_row(0, &[0x12_3456, 0, 0xff_ffff]);
        let mut file = Vec::new();
        write_png(&frame, &mut file).unwrap();
        let mut reader = png::Decoder::new(io::Cursor::new(file)).read_info().unwrap();
        let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut bytes).unwrap();
        assert_eq!((info.width, info.height, info.color_type), (3, 2, png::ColorType::Rgb));
        assert_eq!(bytes[..9], [0x12, 0x34, 0x56, 0, 0, 0, 0xff, 0xff, 0xff]);
        assert!(write_png(&Frame::new(), io::sink()).is_err());
    }
}
