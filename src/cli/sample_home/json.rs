//! How are the sample's JSON lines written? By hand, so that their bytes never change with a crate and
//! a hundred thousand threads take seconds. Depends on nothing.

use std::fmt::Write;

/// Appends `text` as a JSON string with its quotes, escaping only what JSON demands.
pub(super) fn push_string(out: &mut String, text: &str) {
    out.push('"');
    let mut clean_from = 0;
    for (at, byte) in text.bytes().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.push_str(&text[clean_from..at]);
        clean_from = at + 1;
        match byte {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            _ => {
                out.push_str("\\u00");
                for nibble in [byte >> 4, byte & 15] {
                    out.push(char::from(b"0123456789abcdef"[usize::from(nibble)]));
                }
            }
        }
    }
    out.push_str(&text[clean_from..]);
    out.push('"');
}

/// A JSON object being written: keys in the order of the calls.
pub(super) struct Object<'a> {
    out: &'a mut String,
    is_empty: bool,
}

impl<'a> Object<'a> {
    /// Writes one object to `out`.
    pub(super) fn write(out: &'a mut String, fill: impl FnOnce(&mut Object<'_>)) {
        out.push('{');
        fill(&mut Object { out, is_empty: true });
        out.push('}');
    }

    fn key(&mut self, key: &str) -> &mut String {
        if !self.is_empty {
            self.out.push(',');
        }
        self.is_empty = false;
        self.out.push('"');
        self.out.push_str(key);
        self.out.push_str("\":");
        self.out
    }

    /// A string.
    pub(super) fn text(&mut self, key: &str, value: &str) -> &mut Self {
        push_string(self.key(key), value);
        self
    }

    /// A string, if there is one.
    pub(super) fn text_if(&mut self, key: &str, value: Option<&str>) -> &mut Self {
        if let Some(value) = value {
            self.text(key, value);
        }
        self
    }

    /// A number.
    pub(super) fn number(&mut self, key: &str, value: u64) -> &mut Self {
        let _ = write!(self.key(key), "{value}"); // Writing to a String cannot fail.
        self
    }

    /// JSON that is ready made.
    pub(super) fn raw(&mut self, key: &str, json: &str) -> &mut Self {
        self.key(key).push_str(json);
        self
    }

    /// An object within.
    pub(super) fn object(&mut self, key: &str, fill: impl FnOnce(&mut Object<'_>)) -> &mut Self {
        Object::write(self.key(key), fill);
        self
    }

    /// An array of one object, as message content mostly is.
    pub(super) fn list_of_one(&mut self, key: &str, fill: impl FnOnce(&mut Object<'_>)) -> &mut Self {
        let out = self.key(key);
        out.push('[');
        Object::write(out, fill);
        out.push(']');
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_come_back() {
        for text in
            ["", "plain", "a\"b\\c\nd\re\tf\u{0}\u{1f}", "\u{1f680} \u{4fee}\u{590d}", "\u{7f}\u{202e}"]
        {
            let mut out = String::new();
            push_string(&mut out, text);
            assert_eq!(serde_json::from_str::<String>(&out).ok().as_deref(), Some(text), "{out}");
        }
    }

    #[test]
    fn objects_nest() {
        let mut out = String::new();
        Object::write(&mut out, |o| {
            o.text("a", "x").number("b", 7).text_if("none", None).raw("c", "null");
            o.object("d", |_| ()).list_of_one("e", |o| {
                o.text("f", "y");
            });
        });
        assert_eq!(out, r#"{"a":"x","b":7,"c":null,"d":{},"e":[{"f":"y"}]}"#);
    }
}
