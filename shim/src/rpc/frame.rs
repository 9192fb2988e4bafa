//! The frames of ttrpc: a header of ten bytes (length, stream, type, flags; big endian), then the message.

use tokio::io::{Error, ErrorKind};

pub const HEADER: usize = 10;
/// A longer message is refused, as by containerd's own implementation.
pub const MAX_MESSAGE: usize = 4 << 20;

pub const REQUEST: u8 = 1;
pub const RESPONSE: u8 = 2;

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Header {
    pub length: usize,
    pub stream: u32,
    pub kind: u8,
}

impl Header {
    /// The header at the start of `bytes`, if it is there whole.
    pub fn parse(bytes: &[u8]) -> Option<Header> {
        let bytes = bytes.get(..HEADER)?;
        let number = |at: usize| {
            u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        Some(Header { length: number(0) as usize, stream: number(4), kind: bytes[8] })
    }
}

/// Appends one frame.
pub fn put(out: &mut Vec<u8>, stream: u32, kind: u8, message: &impl prost::Message) {
    let length = message.encoded_len();
    out.reserve(HEADER + length);
    out.extend_from_slice(&(length as u32).to_be_bytes());
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(&[kind, 0]);
    // A Vec grows as needed: encoding into it cannot fail.
    let _ = message.encode(out);
}

/// Reads what there is from a stream socket into `into`; an error for the end of the stream.
pub fn read_some(stream: &tokio::net::UnixStream, into: &mut Vec<u8>) -> std::io::Result<bool> {
    let mut buffer = [0u8; 8192];
    match stream.try_read(&mut buffer) {
        Ok(0) => Err(Error::from(ErrorKind::UnexpectedEof)),
        Ok(n) => {
            into.extend_from_slice(&buffer[..n]);
            Ok(true)
        }
        Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Writes all of `bytes`.
pub async fn write_all(stream: &tokio::net::UnixStream, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        match stream.try_write(bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(e) if e.kind() == ErrorKind::WouldBlock => stream.writable().await?,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_what_the_wire_says() {
        let mut out = Vec::new();
        let request = conex_proto::ttrpc::Request {
            service: "s".into(),
            method: "m".into(),
            ..Default::default()
        };
        put(&mut out, 3, REQUEST, &request);
        assert_eq!(out, [0, 0, 0, 6, 0, 0, 0, 3, 1, 0, 0x0a, 1, b's', 0x12, 1, b'm']);
        assert_eq!(Header::parse(&out), Some(Header { length: 6, stream: 3, kind: REQUEST }));
        assert_eq!(Header::parse(&out[..9]), None);
    }
}
