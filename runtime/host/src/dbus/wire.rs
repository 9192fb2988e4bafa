//! Values and messages in D-Bus wire format (D-Bus Specification, "Type System", "Message Protocol"), little endian.

use crate::gvariant::Value;

/// Boundary of a type, by the first character of its signature.
fn alignment(kind: u8) -> usize {
    match kind {
        b'y' | b'g' | b'v' => 1,
        b'n' | b'q' => 2,
        b'x' | b't' | b'd' | b'(' | b'{' => 8,
        _ => 4,
    }
}

fn pad(out: &mut Vec<u8>, to: usize) {
    out.resize(out.len().next_multiple_of(to), 0);
}

/// Appends a value; offsets count from the start of `out`, which therefore begins at a multiple of 8.
fn put(out: &mut Vec<u8>, value: &Value) {
    let text = |out: &mut Vec<u8>, s: &str| {
        out.extend((s.len() as u32).to_le_bytes());
        out.extend(s.as_bytes());
        out.push(0);
    };
    pad(out, alignment(value.signature().as_bytes()[0]));
    match value {
        Value::Byte(b) => out.push(*b),
        Value::Bool(b) => out.extend(u32::from(*b).to_le_bytes()),
        Value::I32(n) => out.extend(n.to_le_bytes()),
        Value::U32(n) => out.extend(n.to_le_bytes()),
        Value::I64(n) => out.extend(n.to_le_bytes()),
        Value::U64(n) => out.extend(n.to_le_bytes()),
        Value::Double(n) => out.extend(n.to_le_bytes()),
        Value::Str(s) | Value::Path(s) => text(out, s),
        Value::Signature(s) => put_signature(out, s),
        Value::Array(element, list) => {
            let at = out.len();
            out.extend([0; 4]);
            // The padding before the first element does not count as length.
            pad(out, alignment(element.as_bytes().first().copied().unwrap_or(b'y')));
            let start = out.len();
            list.iter().for_each(|v| put(out, v));
            let length = (out.len() - start) as u32;
            out[at..at + 4].copy_from_slice(&length.to_le_bytes());
        }
        Value::Struct(fields) => fields.iter().for_each(|v| put(out, v)),
        Value::Variant(inner) => {
            put_signature(out, &inner.signature());
            put(out, inner);
        }
    }
}

fn put_signature(out: &mut Vec<u8>, s: &str) {
    out.push(s.len() as u8);
    out.extend(s.as_bytes());
    out.push(0);
}

/// Header field codes.
const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SIGNATURE: u8 = 8;

/// A method of an object of a peer.
#[derive(Clone, Copy)]
pub struct Method<'a> {
    /// None without a bus.
    pub to: Option<&'a str>,
    pub path: &'a str,
    pub interface: &'a str,
    pub member: &'a str,
}

/// A method call that wants a reply.
pub fn call(serial: u32, method: Method, arguments: &[Value]) -> Vec<u8> {
    let Method { to, path, interface, member } = method;
    let mut body = Vec::new();
    arguments.iter().for_each(|v| put(&mut body, v));
    let mut fields = vec![
        (PATH, Value::Path(path.into())),
        (INTERFACE, Value::str(interface)),
        (MEMBER, Value::str(member)),
    ];
    fields.extend(to.map(|to| (DESTINATION, Value::str(to))));
    if !arguments.is_empty() {
        fields
            .push((SIGNATURE, Value::Signature(arguments.iter().map(Value::signature).collect())));
    }
    // Little endian, METHOD_CALL, no flags, version 1.
    let mut out = vec![b'l', 1, 0, 1];
    out.extend((body.len() as u32).to_le_bytes());
    out.extend(serial.to_le_bytes());
    let field = |(code, v)| Value::Struct(vec![Value::Byte(code), Value::Variant(Box::new(v))]);
    put(&mut out, &Value::Array("(yv)".into(), fields.into_iter().map(field).collect()));
    pad(&mut out, 8);
    out.extend(body);
    out
}

/// What came in.
#[derive(Debug, Default)]
pub struct BusMessage {
    /// 2 is a reply, 3 an error, 4 a signal.
    pub kind: u8,
    pub reply_serial: u32,
    pub member: String,
    pub error_name: String,
    pub body: Vec<Value>,
}

/// No message that we wait for is larger.
const LARGEST: usize = 1 << 20;

/// The length of a message whose first 16 bytes are given.
pub fn length(head: &[u8; 16]) -> Option<usize> {
    let number = |at: usize| {
        u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]) as usize
    };
    // Only little-endian peers: the manager runs on this machine.
    let total = (16 + number(12)).next_multiple_of(8).checked_add(number(4))?;
    (head[0] == b'l' && number(12) <= LARGEST && number(4) <= LARGEST).then_some(total)
}

/// Decodes a whole message; `None` if it is malformed or uses a type that no manager sends us.
pub fn decode(bytes: &[u8]) -> Option<BusMessage> {
    let mut message = BusMessage { kind: *bytes.get(1)?, ..BusMessage::default() };
    let mut reader = Reader { bytes, at: 12 };
    let Value::Array(_, fields) = reader.value("a(yv)", 0)? else { return None };
    let mut signature = String::new();
    for field in fields {
        let Value::Struct(pair) = field else { return None };
        let [Value::Byte(code), Value::Variant(value)] = pair.as_slice() else { return None };
        match (*code, value.as_ref()) {
            (MEMBER, Value::Str(s)) => message.member = s.clone(),
            (ERROR_NAME, Value::Str(s)) => message.error_name = s.clone(),
            (REPLY_SERIAL, Value::U32(n)) => message.reply_serial = *n,
            (SIGNATURE, Value::Signature(s)) => signature = s.clone(),
            _ => {}
        }
    }
    reader.align(8)?;
    // The body counts its offsets from its own start, which is aligned.
    let mut body = Reader { bytes: &bytes[reader.at..], at: 0 };
    let mut rest = signature.as_str();
    while !rest.is_empty() {
        let (one, after) = split(rest)?;
        message.body.push(body.value(one, 0)?);
        rest = after;
    }
    Some(message)
}

/// The first complete type of a signature, and the rest.
fn split(signature: &str) -> Option<(&str, &str)> {
    let bytes = signature.as_bytes();
    // D-Bus Specification, "Valid Signatures": at most 255 bytes, all of them ASCII.
    if !signature.is_ascii() || bytes.len() > 255 {
        return None;
    }
    let mut end = 0;
    while bytes.get(end) == Some(&b'a') {
        end += 1;
    }
    let mut depth = 0;
    loop {
        match bytes.get(end)? {
            b'(' | b'{' => depth += 1,
            b')' | b'}' => depth -= 1,
            _ => {}
        }
        end += 1;
        if depth == 0 {
            return Some(signature.split_at(end));
        }
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn align(&mut self, to: usize) -> Option<()> {
        self.at = self.at.next_multiple_of(to);
        (self.at <= self.bytes.len()).then_some(())
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let out = self.bytes.get(self.at..self.at + N)?.try_into().ok()?;
        self.at += N;
        Some(out)
    }

    fn text(&mut self, length: usize) -> Option<String> {
        let bytes = self.bytes.get(self.at..self.at.checked_add(length)?)?;
        self.at += length + 1;
        String::from_utf8(bytes.to_vec()).ok()
    }

    /// A value of a type with a fixed length; the inner `None` for another one.
    fn number(&mut self, kind: u8) -> Option<Option<Value>> {
        Some(Some(match kind {
            b'y' => Value::Byte(self.take::<1>()?[0]),
            b'b' => Value::Bool(u32::from_le_bytes(self.take()?) != 0),
            b'i' => Value::I32(i32::from_le_bytes(self.take()?)),
            b'u' | b'h' => Value::U32(u32::from_le_bytes(self.take()?)),
            b'x' => Value::I64(i64::from_le_bytes(self.take()?)),
            b't' => Value::U64(u64::from_le_bytes(self.take()?)),
            b'd' => Value::Double(f64::from_le_bytes(self.take()?)),
            _ => return Some(None),
        }))
    }

    fn array(&mut self, element: &str, depth: u32) -> Option<Value> {
        let length = u32::from_le_bytes(self.take()?) as usize;
        self.align(alignment(*element.as_bytes().first()?))?;
        let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len())?;
        let mut list = Vec::new();
        while self.at < end {
            list.push(self.value(element, depth + 1)?);
        }
        Some(Value::Array(element.into(), list))
    }

    fn value(&mut self, signature: &str, depth: u32) -> Option<Value> {
        if depth > 32 {
            return None;
        }
        let kind = *signature.as_bytes().first()?;
        self.align(alignment(kind))?;
        if let Some(number) = self.number(kind)? {
            return Some(number);
        }
        Some(match kind {
            b's' | b'o' => {
                let length = u32::from_le_bytes(self.take()?) as usize;
                let text = self.text(length)?;
                if kind == b's' {
                    Value::Str(text)
                } else {
                    Value::Path(text)
                }
            }
            b'g' => {
                let length = self.take::<1>()?[0] as usize;
                Value::Signature(self.text(length)?)
            }
            b'v' => {
                let length = self.take::<1>()?[0] as usize;
                let inner = self.text(length)?;
                // One complete type.
                split(&inner).filter(|(_, rest)| rest.is_empty())?;
                Value::Variant(Box::new(self.value(&inner, depth + 1)?))
            }
            b'a' => self.array(&signature[1..], depth)?,
            b'(' | b'{' => {
                let mut fields = Vec::new();
                // An empty structure takes no bytes: an array of them would never end.
                let mut rest =
                    signature.get(1..signature.len() - 1).filter(|inner| !inner.is_empty())?;
                while !rest.is_empty() {
                    let (one, after) = split(rest)?;
                    fields.push(self.value(one, depth + 1)?);
                    rest = after;
                }
                Value::Struct(fields)
            }
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(values: &[Value]) {
        let mut bytes =
            call(7, Method { to: Some("a.b"), path: "/x", interface: "i.f", member: "M" }, values);
        assert_eq!(length(bytes[..16].try_into().unwrap()), Some(bytes.len()));
        let back = decode(&bytes).unwrap();
        assert_eq!((back.kind, back.member.as_str(), back.body.as_slice()), (1, "M", values));
        // No prefix and no flipped byte makes the decoder panic.
        for n in 0..bytes.len() {
            let _ = decode(&bytes[..n]);
        }
        for n in 0..bytes.len() {
            bytes[n] ^= 0xff;
            let _ = decode(&bytes);
            bytes[n] ^= 0xff;
        }
    }

    #[test]
    fn signatures_that_are_none() {
        for bad in [
            "\u{fc}",
            "a\u{fc}",
            "(u\u{fc}",
            "(",
            "a",
            "((((",
            ")",
            "aaaaaaaaaaa(",
            &"a".repeat(300),
        ] {
            assert!(split(bad).is_none() || bad == ")", "{bad}");
            let mut reader = Reader { bytes: &[0; 64], at: 0 };
            let _ = reader.value(bad, 0);
            let variant = [&[bad.len() as u8], bad.as_bytes(), &[0; 40]].concat();
            let _ = Reader { bytes: &variant, at: 0 }.value("v", 0);
        }
    }

    #[test]
    fn every_type_comes_back() {
        round(&[
            Value::Byte(1),
            Value::U64(u64::MAX),
            Value::Bool(true),
            Value::str("x"),
            Value::I32(-1),
            Value::I64(-5),
            Value::Double(1.5),
            Value::Array(
                "(ss)".into(),
                vec![Value::Struct(vec![Value::str("a"), Value::str("bc")])],
            ),
            Value::Array("(sv)".into(), vec![]),
            Value::Variant(Box::new(Value::Array("u".into(), vec![Value::U32(9)]))),
            Value::Path("/a".into()),
            Value::Signature("a(sv)".into()),
        ]);
        round(&[]);
    }
}
