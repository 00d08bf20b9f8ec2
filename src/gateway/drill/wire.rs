//! The form of bytes on the wire: line ends, comments, chunks, gzip. Pure, and all of it legal.

use super::answer::{LineEnds, Wire};
use super::frames::Frame;

/// A frame as text, in the form that was asked for. `number` is its place in the stream.
pub fn frame_bytes(frame: &Frame, wire: &Wire, number: usize) -> Vec<u8> {
    let mut text = String::new();
    let mut lines = 0;
    let mut line = |content: &str| {
        let end = match (wire.line_ends, (number + lines) % 3) {
            // An LF here, behind a CR, would make one line end of two.
            (LineEnds::Mixed, _) if content.is_empty() => "\r\n",
            (LineEnds::Lf, _) | (LineEnds::Mixed, 0) => "\n",
            (LineEnds::CrLf, _) | (LineEnds::Mixed, 1) => "\r\n",
            (LineEnds::Cr | LineEnds::Mixed, _) => "\r",
        };
        text.push_str(content);
        text.push_str(end);
        lines += 1;
    };
    if wire.comments {
        line(": a comment");
    }
    if let Some(event) = frame.event {
        line(&format!("event: {event}"));
    }
    match frame.data.split_at_checked(1).filter(|(open, _)| wire.split_data && *open == "{") {
        Some((open, rest)) => {
            line(&format!("data: {open}"));
            line(&format!("data: {rest}"));
        }
        None => line(&format!("data: {}", frame.data)),
    }
    line("");
    let bom: &[u8] = if wire.bom && number == 0 { "\u{feff}".as_bytes() } else { &[] };
    [bom, text.as_bytes()].concat()
}

/// A chunk of `transfer-encoding: chunked`.
pub fn chunk(bytes: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

/// Ends a chunked body.
pub fn last_chunk(wire: &Wire) -> Vec<u8> {
    if wire.trailers { b"0\r\nx-drill-trailer: yes\r\n\r\n".to_vec() } else { b"0\r\n\r\n".to_vec() }
}

/// A gzip stream (RFC 1952) of stored blocks (RFC 1951): every piece can be read as soon as it has come.
#[derive(Debug, Clone)]
pub struct Gzip {
    crc: u32,
    length: u32,
    started: bool,
}

impl Gzip {
    pub fn new() -> Self {
        Self { crc: u32::MAX, length: 0, started: false }
    }

    pub fn piece(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        if !std::mem::replace(&mut self.started, true) {
            out.extend_from_slice(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255]);
        }
        for block in bytes.chunks(usize::from(u16::MAX)) {
            out.extend(stored_block(block, false));
            self.crc = block.iter().fold(self.crc, |crc, byte| crc_step(crc, *byte));
            self.length = self.length.wrapping_add(block.len() as u32);
        }
        out
    }

    pub fn end(&self) -> Vec<u8> {
        let mut out = stored_block(&[], true);
        out.extend_from_slice(&(!self.crc).to_le_bytes());
        out.extend_from_slice(&self.length.to_le_bytes());
        out
    }
}

fn stored_block(block: &[u8], last: bool) -> Vec<u8> {
    let length = block.len() as u16;
    [&[u8::from(last)][..], &length.to_le_bytes(), &(!length).to_le_bytes(), block].concat()
}

/// CRC-32 as gzip has it, bit by bit: a drill sends little.
fn crc_step(crc: u32, byte: u8) -> u32 {
    (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_says_what_the_format_says() {
        let mut gzip = Gzip::new();
        let bytes = [gzip.piece(b"1234"), gzip.piece(b"56789"), gzip.end()].concat();
        // The check value of CRC-32 is that of the text 123456789.
        assert_eq!(bytes[bytes.len() - 8..], [0x26, 0x39, 0xf4, 0xcb, 9, 0, 0, 0]);
        assert_eq!(bytes[10..19], [0, 4, 0, 0xfb, 0xff, b'1', b'2', b'3', b'4']);
    }
}
