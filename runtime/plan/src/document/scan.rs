//! Walking a JSON text by bytes: where the value of a path is, and which path is at a place. Documents are walked only
//! when something in them is to be shown.

pub enum PathStep {
    Key(String),
    Index(usize),
}

/// `linux.sysctl["net.ipv4.x"]` and `mounts[1].options[0]` as steps.
pub fn steps(field: &str) -> Vec<PathStep> {
    let mut out = Vec::new();
    let mut rest = field;
    while !rest.is_empty() {
        if let Some(inner) = rest.strip_prefix("[\"") {
            let Some(end) = inner.find("\"]") else { break };
            out.push(PathStep::Key(inner[..end].to_string()));
            rest = &inner[end + 2..];
        } else if let Some(inner) = rest.strip_prefix('[') {
            let Some(end) = inner.find(']') else { break };
            let Ok(i) = inner[..end].parse() else { break };
            out.push(PathStep::Index(i));
            rest = &inner[end + 1..];
        } else {
            let end = rest.find(['.', '[']).unwrap_or(rest.len());
            out.push(PathStep::Key(rest[..end].to_string()));
            rest = &rest[end..];
        }
        rest = rest.strip_prefix('.').unwrap_or(rest);
    }
    out
}

/// Adds a key to a path, as [`steps`] reads it.
pub fn push_key(path: &mut String, key: &str) {
    let plain = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric());
    let dot = if path.is_empty() || !plain { "" } else { "." };
    *path += &if plain { format!("{dot}{key}") } else { format!("[{key:?}]") };
}

/// Where the name of the field begins whose value is at `value`.
pub fn key_before(text: &[u8], value: usize) -> Option<usize> {
    let colon = text[..value].iter().rposition(|b| *b == b':')?;
    let end = text[..colon].iter().rposition(|b| *b == b'"')?;
    text[..end].iter().rposition(|b| *b == b'"')
}

/// Walks a document that is known to be valid JSON.
pub struct Scan<'a> {
    pub text: &'a [u8],
    pub at: usize,
}

impl<'a> Scan<'a> {
    pub fn space(&mut self) -> Option<u8> {
        while self
            .text
            .get(self.at)
            .is_some_and(|b| b.is_ascii_whitespace() || *b == b',' || *b == b':')
        {
            self.at += 1;
        }
        self.text.get(self.at).copied()
    }

    /// A string; `None` if there is none.
    pub fn string(&mut self) -> Option<&'a [u8]> {
        if self.text.get(self.at) != Some(&b'"') {
            return None;
        }
        let from = self.at + 1;
        self.at = from;
        loop {
            match self.text.get(self.at)? {
                b'\\' => self.at += 2,
                b'"' => break,
                _ => self.at += 1,
            }
        }
        self.at += 1;
        self.text.get(from..self.at - 1)
    }

    /// Over a value, however deep it is.
    pub fn skip(&mut self) -> Option<()> {
        let mut depth = 0usize;
        loop {
            match self.space()? {
                b'"' => {
                    self.string()?;
                }
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                    if !matches!(self.space()?, b'}' | b']') {
                        continue;
                    }
                }
                b'}' | b']' => {}
                _ => {
                    while self.text.get(self.at).is_some_and(|b| !b",:}] \t\r\n".contains(b)) {
                        self.at += 1;
                    }
                }
            }
            // A value is over, and with it all that end here.
            while depth > 0 && matches!(self.space()?, b'}' | b']') {
                depth -= 1;
                self.at += 1;
            }
            if depth == 0 {
                return Some(());
            }
        }
    }

    /// Goes down to the value that covers `offset`; true if this one does. What ended before it has been passed already, and
    /// of a value of another kind than expected serde_json tells the place right before it. No deeper than serde_json reads what it knows.
    pub fn path_to(&mut self, offset: usize, path: &mut String, depth: u32) -> Option<bool> {
        let open = self.space()?;
        if open != b'{' && open != b'[' || depth > 130 {
            self.skip()?;
            return Some(offset < self.at);
        }
        if offset < self.at {
            self.skip()?;
            return Some(true);
        }
        self.at += 1;
        let mut index = 0;
        while !matches!(self.space()?, b'}' | b']') {
            let before = path.len();
            if open == b'{' {
                push_key(path, &String::from_utf8_lossy(self.string()?));
                // A wrong key, rather than a wrong value.
                if offset < self.at {
                    return Some(true);
                }
            } else {
                *path += &format!("[{index}]");
                index += 1;
            }
            if self.path_to(offset, path, depth + 1)? {
                return Some(true);
            }
            path.truncate(before);
        }
        self.at += 1;
        Some(offset < self.at)
    }

    pub fn enter_key(&mut self, key: &str) -> Option<()> {
        if self.space()? != b'{' {
            return None;
        }
        self.at += 1;
        while self.space()? == b'"' {
            let found = self.string()? == key.as_bytes();
            self.space()?;
            if found {
                return Some(());
            }
            self.skip()?;
        }
        None
    }

    pub fn enter_index(&mut self, index: usize) -> Option<()> {
        if self.space()? != b'[' {
            return None;
        }
        self.at += 1;
        for _ in 0..index {
            if self.space()? == b']' {
                return None;
            }
            self.skip()?;
        }
        (self.space()? != b']').then_some(())
    }
}
