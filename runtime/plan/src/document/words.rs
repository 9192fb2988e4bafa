//! What is wrong with a JSON text, in the reader's words.

use crate::oci::shape::Node;

/// `an object with uid, gid and umask`
pub fn expected(node: &Node) -> String {
    match node {
        Node::Leaf { expected, .. } => (*expected).into(),
        Node::List(_) => "an array".into(),
        Node::Map(_) => "an object".into(),
        Node::Object { names, .. } => match names() {
            names @ [.., _, _] if names.len() <= 6 => {
                let (last, rest) = names.split_last().unwrap_or((&"", &[]));
                format!("an object with {} and {last}", rest.join(", "))
            }
            [one] => format!("an object with {one}"),
            names => format!(
                "an object with {} …",
                names.iter().take(4).copied().collect::<Vec<_>>().join(", ")
            ),
        },
    }
}

/// `the string "x"`; long ones are cut.
pub fn value(text: &[u8]) -> String {
    let shown = |text: &[u8]| {
        let text = String::from_utf8_lossy(text);
        match text.char_indices().nth(40) {
            Some((i, _)) => format!("{}…", &text[..i]),
            None => text.into_owned(),
        }
    };
    match text.first() {
        Some(b'{') => "an object".into(),
        Some(b'[') => "an array".into(),
        Some(b'"') => format!("the string {}", shown(text)),
        Some(b'-' | b'0'..=b'9') => format!("the number {}", shown(text)),
        _ => shown(text),
    }
}

/// Why a text is no JSON, with its place.
pub fn syntax(e: &serde_json::Error, text: &[u8]) -> String {
    let place = format!("line {} column {}", e.line(), e.column());
    let what = match text {
        [0xef, 0xbb, 0xbf, ..] => {
            return "the file begins with a byte order mark (EF BB BF); JSON has none".into()
        }
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => return "the file is UTF-16; JSON is UTF-8".into(),
        text if text.trim_ascii().is_empty() => return "the file is empty".into(),
        _ => e.to_string(),
    };
    let what = what.split(" at line ").next().unwrap_or_default();
    let said = match what {
        w if w.starts_with("EOF while parsing") => "the text ends in the middle of it",
        "trailing comma" => "a comma with nothing after it",
        "trailing characters" => "something follows the end of the document",
        "key must be a string" => "expected a name in double quotes",
        "expected ident" | "expected value" => {
            "expected a value: true, false, null, a number, a string, [ or {"
        }
        "expected `:`" => "expected a colon after the name",
        "expected `,` or `}`" => "expected a comma or the end of the object, }",
        "expected `,` or `]`" => "expected a comma or the end of the array, ]",
        "invalid escape" => "a backslash must be followed by one of \" \\ / b f n r t u",
        "control character (\\u0000-\\u001F) found while parsing a string" => {
            "a string must not hold a raw line break or control character"
        }
        "invalid number" => "this is no number of JSON",
        "number out of range" => "a number this large cannot be read",
        w if w.contains("surrogate")
            || w.contains("hex escape")
            || w.contains("unicode code point") =>
        {
            "\\u must be followed by four hexadecimal digits, and a surrogate by its other half"
        }
        "recursion limit exceeded" => "it is nested more than 128 deep",
        other => other,
    };
    format!("not JSON: {said} ({place})")
}
