//! Values with a type (D-Bus Specification, "Type System"), and GVariant text as far as annotations need it: `true`, `5`,
//! `uint64 5`, `'text'`, `['a', 'b']`, `@as []`.

/// A value with its type.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Byte(u8),
    Bool(bool),
    I32(i32),
    U32(u32),
    I64(i64),
    U64(u64),
    Double(f64),
    Str(String),
    Path(String),
    Signature(String),
    /// The elements' signature, which an empty array needs, and the elements.
    Array(String, Vec<Value>),
    Struct(Vec<Value>),
    Variant(Box<Value>),
}

impl Value {
    pub fn str(text: impl Into<String>) -> Value {
        Value::Str(text.into())
    }

    pub fn strings<S: Into<String>>(list: impl IntoIterator<Item = S>) -> Value {
        Value::Array("s".into(), list.into_iter().map(Value::str).collect())
    }

    pub fn bytes(list: &[u8]) -> Value {
        Value::Array("y".into(), list.iter().map(|b| Value::Byte(*b)).collect())
    }

    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::Str(s) | Value::Path(s) | Value::Signature(s) => Some(s),
            Value::Variant(v) => v.as_str(),
            _ => None,
        }
    }

    pub fn signature(&self) -> String {
        match self {
            Value::Byte(_) => "y".into(),
            Value::Bool(_) => "b".into(),
            Value::I32(_) => "i".into(),
            Value::U32(_) => "u".into(),
            Value::I64(_) => "x".into(),
            Value::U64(_) => "t".into(),
            Value::Double(_) => "d".into(),
            Value::Str(_) => "s".into(),
            Value::Path(_) => "o".into(),
            Value::Signature(_) => "g".into(),
            Value::Array(element, _) => format!("a{element}"),
            Value::Struct(fields) => {
                format!("({})", fields.iter().map(Value::signature).collect::<String>())
            }
            Value::Variant(_) => "v".into(),
        }
    }
}

/// Parses one value.
///
/// # Errors
/// What is wrong, for the user.
pub fn parse(text: &str) -> Result<Value, String> {
    let mut p = Parser { rest: text, depth: 0 };
    let value = p.value(None)?;
    match p.rest.trim() {
        "" => Ok(value),
        left => Err(format!("{left:?} after the value")),
    }
}

struct Parser<'a> {
    rest: &'a str,
    depth: u32,
}

/// D-Bus Specification, "Valid Signatures": arrays nest no deeper.
const DEEPEST: u32 = 32;

const TYPES: [(&str, char); 9] = [
    ("boolean", 'b'),
    ("byte", 'y'),
    ("int32", 'i'),
    ("uint32", 'u'),
    ("int64", 'x'),
    ("uint64", 't'),
    ("double", 'd'),
    ("string", 's'),
    ("objectpath", 'o'),
];

impl Parser<'_> {
    fn value(&mut self, wanted: Option<char>) -> Result<Value, String> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(format!("more than {DEEPEST} levels deep"));
        }
        let value = self.one(wanted);
        self.depth -= 1;
        value
    }

    fn one(&mut self, wanted: Option<char>) -> Result<Value, String> {
        self.rest = self.rest.trim_start();
        match self.rest.chars().next() {
            None => Err("no value".into()),
            Some('[') => self.array(wanted),
            Some('@') => self.annotated(),
            Some(quote @ ('\'' | '"')) => self.string(quote, wanted),
            Some(_) => {
                let end = self
                    .rest
                    .find(|c: char| c.is_whitespace() || ",]".contains(c))
                    .unwrap_or(self.rest.len());
                let word = &self.rest[..end];
                self.rest = &self.rest[end..];
                match TYPES.iter().find(|(name, _)| *name == word) {
                    Some((_, kind)) => self.value(Some(*kind)),
                    None => scalar(word, wanted),
                }
            }
        }
    }

    /// `@as []`: an array whose elements' type cannot be seen.
    fn annotated(&mut self) -> Result<Value, String> {
        let (signature, rest) =
            self.rest[1..].split_once(char::is_whitespace).ok_or("no value after the type")?;
        self.rest = rest.trim_start();
        let kinds: Vec<char> = signature.chars().collect();
        match kinds.as_slice() {
            ['a', kind] if TYPES.iter().any(|(_, k)| k == kind) => self.array(Some(*kind)),
            [kind] if TYPES.iter().any(|(_, k)| k == kind) => self.value(Some(*kind)),
            _ => Err(format!("the type @{signature} is not supported")),
        }
    }

    fn array(&mut self, wanted: Option<char>) -> Result<Value, String> {
        self.rest = self.rest.strip_prefix('[').ok_or("expected [")?;
        let mut list: Vec<Value> = Vec::new();
        loop {
            self.rest = self.rest.trim_start();
            if let Some(rest) = self.rest.strip_prefix(']') {
                self.rest = rest;
                break;
            }
            if !list.is_empty() {
                self.rest = self.rest.strip_prefix(',').ok_or("expected , or ]")?;
            }
            list.push(self.value(wanted)?);
        }
        let element = match (list.first(), wanted) {
            (Some(first), _) => first.signature(),
            (None, Some(kind)) => kind.to_string(),
            (None, None) => return Err("an empty array needs its type: @as []".into()),
        };
        if list.iter().any(|v| v.signature() != element) {
            return Err("the elements are of different types".into());
        }
        Ok(Value::Array(element, list))
    }

    fn string(&mut self, quote: char, wanted: Option<char>) -> Result<Value, String> {
        let mut out = String::new();
        let mut chars = self.rest.char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' => out.push(match chars.next().map(|c| c.1) {
                    Some('n') => '\n',
                    Some('t') => '\t',
                    Some(c @ ('\\' | '\'' | '"')) => c,
                    _ => return Err("unknown escape".into()),
                }),
                c if c == quote => {
                    self.rest = &self.rest[at + 1..];
                    if out.contains('\0') {
                        return Err("NUL in a string".into());
                    }
                    return match wanted {
                        None | Some('s') => Ok(Value::Str(out)),
                        Some('o') => Ok(Value::Path(out)),
                        Some(_) => Err(format!("{out:?} is no number")),
                    };
                }
                c => out.push(c),
            }
        }
        Err("the string does not end".into())
    }
}

fn scalar(word: &str, wanted: Option<char>) -> Result<Value, String> {
    let bad = |_| format!("{word:?} is out of range or no number");
    match (word, wanted) {
        ("true", None | Some('b')) => return Ok(Value::Bool(true)),
        ("false", None | Some('b')) => return Ok(Value::Bool(false)),
        _ => {}
    }
    let (digits, radix) = word.strip_prefix("0x").map_or((word, 10), |hex| (hex, 16));
    Ok(match wanted {
        Some('y') => Value::Byte(u8::from_str_radix(digits, radix).map_err(bad)?),
        Some('u') => Value::U32(u32::from_str_radix(digits, radix).map_err(bad)?),
        Some('x') => Value::I64(i64::from_str_radix(digits, radix).map_err(bad)?),
        Some('t') => Value::U64(u64::from_str_radix(digits, radix).map_err(bad)?),
        Some('d') => Value::Double(serde_json::from_str(word).map_err(|_| format!("{word:?} is no number"))?),
        Some('i') => Value::I32(i32::from_str_radix(digits, radix).map_err(bad)?),
        None if word.contains('.') => {
            Value::Double(serde_json::from_str(word).map_err(|_| format!("{word:?} is no value"))?)
        }
        None => Value::I32(i32::from_str_radix(digits, radix).map_err(|_| {
            format!("{word:?} is no value: text needs quotes, a number beyond 32 bits its type (uint64 {word})")
        })?),
        Some(_) => return Err(format!("{word:?} is not of the type given")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        for (text, want) in [
            ("true", Value::Bool(true)),
            ("-5", Value::I32(-5)),
            ("uint64 5000000000", Value::U64(5_000_000_000)),
            ("byte 0x10", Value::Byte(16)),
            ("'in\\'active'", Value::str("in'active")),
            ("\"x\"", Value::str("x")),
            ("['a.service', 'b.service']", Value::strings(["a.service", "b.service"])),
            ("@as []", Value::strings::<&str>([])),
            ("uint32 7", Value::U32(7)),
            ("1.5", Value::Double(1.5)),
        ] {
            assert_eq!(parse(text).unwrap(), want, "{text}");
        }
        for deep in ["[", "uint32 ", "@as ", "@u "] {
            assert!(parse(&deep.repeat(100_000)).is_err(), "{deep}");
        }
        for bad in [
            "",
            "x",
            "[",
            "[]",
            "'a",
            "['a', 5]",
            "uint32 -1",
            "5 6",
            "@a{sv} {}",
            "uint32 'x'",
            "99999999999",
            "'\\q'",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
