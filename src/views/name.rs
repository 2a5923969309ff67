//! How does a free text (a thread name, one part of a path, a model) become one path component, and back?
//!
//! Pure text in, text out: depends on the Unicode and hash crates only, on no other module.
//!
//! The rule, in order:
//!
//! 1. The text is normalised to NFC.
//! 2. A character becomes `%XX`, upper-case, one for each UTF-8 byte, if it is one of `% ~ / \ : * ? " < > |`, a
//!    control (C0, DEL, C1), a bidi or zero-width control, U+2028 or U+2029; a leading `.`, `-` or space; a trailing
//!    `.` or space; or the first letter of a Windows device stem. A byte that is not UTF-8 becomes `%XX` too.
//! 3. A combining character right after an escape is escaped as well: the last hex digit is a letter that it would
//!    join (`%3A` + U+0301 is `%3` + U+00C1 to whoever normalises the path). So every component is in NFC.
//! 4. The empty text is `%`. What is longer than [`COMPONENT_BYTES_MAX`] is cut and ends in `~` and eight hex digits.
//!
//! A raw `~` therefore always announces such a suffix, and the code is injective and reversible up to NFC and the cut.
use unicode_normalization::char::canonical_combining_class;
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};
use xxhash_rust::xxh3::xxh3_64;

/// Longest component in bytes, suffix included. `name~suffix.jsonl` stays below the 255 bytes of `NAME_MAX`.
pub const COMPONENT_BYTES_MAX: usize = 200;
/// Hex digits in the suffix behind `~`.
pub const SUFFIX_DIGITS: usize = 8;
/// Longest spelling in bytes that a lookup considers: what the kernel sends at most (`FUSE_NAME_MAX`).
pub const LOOKUP_BYTES_MAX: usize = 1024;
/// The file extension of threads in views.
pub const THREAD_EXTENSION: &str = ".jsonl";

/// Bytes left for the text when a suffix follows it.
const HEAD_BYTES_MAX: usize = COMPONENT_BYTES_MAX - 1 - SUFFIX_DIGITS;
/// The component of the empty text. No other text has it: a `%` of the text is `%25`.
const EMPTY_COMPONENT: &str = "%";
const HEX_UPPER: &[u8; 16] = b"0123456789ABCDEF";

/// The component of `text`. What is too long is told apart by a hash of the whole text.
pub fn encode_component(text: &str) -> String {
    encode_component_bytes(text.as_bytes())
}

/// As [`encode_component`], for bytes that need not be UTF-8.
pub fn encode_component_bytes(bytes: &[u8]) -> String {
    let normal = normalize(bytes);
    // The low half of the hash: eight digits.
    encode_normal(&normal, || format!("{:08x}", xxh3_64(&normal) as u32))
}

/// The component of a thread's name. What is too long is told apart by `id_last8`, the last eight hex digits of the
/// thread id, so that a cut name reads like any other `name~suffix`. Anything but eight hex digits there falls back to
/// the hash of [`encode_component`].
pub fn encode_name(text: &str, id_last8: &str) -> String {
    if !is_suffix(id_last8) {
        return encode_component(text);
    }
    encode_normal(&normalize(text.as_bytes()), || id_last8.to_ascii_lowercase())
}

/// `component~id_last8`: the form that every name has beside the bare one. A component that was cut with this very
/// suffix stays as it is. At most `COMPONENT_BYTES_MAX + 1 + SUFFIX_DIGITS` bytes.
pub fn with_suffix(component: &str, id_last8: &str) -> String {
    let suffix = id_last8.to_ascii_lowercase();
    match split_suffix(component) {
        Some((_, own)) if own == suffix => component.to_owned(),
        _ => format!("{component}~{suffix}"),
    }
}

/// Splits `name~suffix` at its last `~`. `None` if there is no name, or the suffix is not eight hex digits.
pub fn split_suffix(component: &str) -> Option<(&str, &str)> {
    let (head, suffix) = component.rsplit_once('~')?;
    (!head.is_empty() && is_suffix(suffix)).then_some((head, suffix))
}

/// The text of a component: the inverse of [`encode_component`] and [`encode_name`], up to NFC. Of a cut component it
/// is the text that is left. `None` if no text has this component as its escapes are malformed or not UTF-8, or it is
/// no path component at all. Characters that should have been escaped stand for themselves.
pub fn decode_component(component: &str) -> Option<String> {
    String::from_utf8(decode_component_bytes(component)?).ok()
}

/// As [`decode_component`], for components of bytes that need not be UTF-8.
pub fn decode_component_bytes(component: &str) -> Option<Vec<u8>> {
    let text = split_suffix(component).map_or(component, |(head, _)| head);
    decode_escapes(text.as_bytes())
}

/// The key under which two components count as the same name: canonical caseless matching (Unicode D145), in NFC.
/// Idempotent.
pub fn fold_key(component: &str) -> String {
    if component.is_ascii() {
        return component.to_ascii_lowercase();
    }
    // Folding the decomposed form catches U+0345, whose folding is not a mark any more.
    let decomposed: String = component.nfd().collect();
    caseless::default_case_fold_str(&decomposed).nfc().collect()
}

/// The components that a spelling of one directory entry may mean, best first, without repetitions: the spelling as it
/// is (in NFC), then read as an encoded component, then as raw text (so `.config` finds `%2Econfig`). Empty if the
/// spelling is empty or longer than [`LOOKUP_BYTES_MAX`].
pub fn component_forms(spelling: &[u8]) -> Vec<String> {
    let mut forms = Vec::with_capacity(3);
    if spelling.is_empty() || spelling.len() > LOOKUP_BYTES_MAX {
        return forms;
    }
    let normal = normalize(spelling);
    if let Ok(exact) = std::str::from_utf8(&normal) {
        push_new(&mut forms, exact.to_owned());
        let (head, suffix) = split_suffix(exact).map_or((exact, None), |(head, suffix)| (head, Some(suffix)));
        if let Some(text) = decode_escapes(head.as_bytes()) {
            let component = encode_component_bytes(&text);
            push_new(&mut forms, suffix.map_or(component.clone(), |suffix| with_suffix(&component, suffix)));
        }
    }
    push_new(&mut forms, encode_component_bytes(&normal));
    forms
}

/// What a lookup in `by-name` tries. Listing is exact, lookup is liberal.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LookupForms {
    /// Components without the thread extension, best first. Try them as listed names first, then by [`fold_key`].
    pub components: Vec<String>,
    /// If none of those is there: threads of this name whose id ends in this suffix, whether or not they are listed
    /// with it. The name is a component, to be compared by [`fold_key`]; the suffix is lower-case.
    pub suffixed: Vec<(String, String)>,
}

/// The forms of one spelling in `by-name`: NFC, encoded or raw, with or without the extension (in any case), and
/// `name~suffix`. The form without the extension comes first: `a.jsonl` is the thread `a` before it is one whose name
/// really is `a.jsonl`.
pub fn lookup_forms(spelling: &[u8]) -> LookupForms {
    let mut forms = LookupForms::default();
    for stem in [strip_extension(spelling), Some(spelling)].into_iter().flatten() {
        for component in component_forms(stem) {
            push_new(&mut forms.components, component);
        }
    }
    for component in &forms.components {
        if let Some((head, suffix)) = split_suffix(component) {
            push_new(&mut forms.suffixed, (head.to_owned(), suffix.to_ascii_lowercase()));
        }
    }
    forms
}

fn push_new<T: PartialEq>(list: &mut Vec<T>, item: T) {
    if !list.contains(&item) {
        list.push(item);
    }
}

/// The spelling without the thread extension. `None` if it has none or is nothing else.
fn strip_extension(spelling: &[u8]) -> Option<&[u8]> {
    let at = spelling.len().checked_sub(THREAD_EXTENSION.len())?;
    let (stem, extension) = spelling.split_at(at);
    (at > 0 && extension.eq_ignore_ascii_case(THREAD_EXTENSION.as_bytes())).then_some(stem)
}

fn is_suffix(text: &str) -> bool {
    text.len() == SUFFIX_DIGITS && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// NFC of every stretch of UTF-8; bytes that are none stay.
fn normalize(bytes: &[u8]) -> Vec<u8> {
    let mut normal = Vec::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        match is_nfc_quick(chunk.valid().chars()) {
            IsNormalized::Yes => normal.extend_from_slice(chunk.valid().as_bytes()),
            _ => normal.extend(chunk.valid().nfc().collect::<String>().into_bytes()),
        }
        normal.extend_from_slice(chunk.invalid());
    }
    normal
}

/// Encodes what [`normalize`] gave, and cuts it if it is too long.
fn encode_normal(normal: &[u8], suffix: impl FnOnce() -> String) -> String {
    if normal.is_empty() {
        return EMPTY_COMPONENT.to_owned();
    }
    let mut writer = ComponentWriter::default();
    let device = has_device_stem(normal);
    let mut position = 0;
    for chunk in normal.utf8_chunks() {
        for character in chunk.valid().chars() {
            let first = position == 0;
            position += character.len_utf8();
            let last = position == normal.len();
            let escape = must_escape(character)
                || (first && (device || matches!(character, '.' | '-' | ' ')))
                || (last && matches!(character, '.' | ' '))
                || (writer.after_escape && joins_previous(character));
            writer.push(character.encode_utf8(&mut [0; 4]), escape);
        }
        for byte in chunk.invalid() {
            position += 1;
            writer.push_byte(*byte);
        }
        if writer.is_over() {
            return writer.cut(&suffix());
        }
    }
    writer.out
}

/// The component so far, and where it could be cut.
#[derive(Default)]
struct ComponentWriter {
    out: String,
    /// The last boundary of a character that leaves room for a suffix.
    cut_at: usize,
    after_escape: bool,
}

impl ComponentWriter {
    fn push(&mut self, character: &str, escape: bool) {
        // Nothing behind the limit is ever used.
        if self.is_over() {
            return;
        }
        match escape {
            true => character.bytes().for_each(|byte| self.push_escape(byte)),
            false => self.out.push_str(character),
        }
        self.close(escape);
    }

    fn push_byte(&mut self, byte: u8) {
        if !self.is_over() {
            self.push_escape(byte);
            self.close(true);
        }
    }

    fn push_escape(&mut self, byte: u8) {
        self.out.push('%');
        self.out.push(char::from(HEX_UPPER[usize::from(byte >> 4)]));
        self.out.push(char::from(HEX_UPPER[usize::from(byte & 15)]));
    }

    fn close(&mut self, escape: bool) {
        self.after_escape = escape;
        if self.out.len() <= HEAD_BYTES_MAX {
            self.cut_at = self.out.len();
        }
    }

    fn is_over(&self) -> bool {
        self.out.len() > COMPONENT_BYTES_MAX
    }

    fn cut(mut self, suffix: &str) -> String {
        self.out.truncate(self.cut_at);
        // Something is left: a leading space or dot is escaped.
        self.out.truncate(self.out.trim_end_matches([' ', '.']).len());
        self.out.push('~');
        self.out.push_str(suffix);
        self.out
    }
}

/// The characters that never stay, wherever they stand.
fn must_escape(character: char) -> bool {
    match character {
        '%' | '~' | '/' | '\\' | ':' | '*' | '?' | '"' | '<' | '>' | '|' => true,
        // Arabic letter mark; Mongolian vowel separator; zero width space and joiners, direction marks.
        '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' => true,
        // Line and paragraph separator, embeddings and overrides.
        '\u{2028}'..='\u{202e}' => true,
        // Word joiner, invisible operators, isolates, deprecated format controls; byte order mark.
        '\u{2060}'..='\u{206f}' | '\u{feff}' => true,
        // C0, DEL and C1.
        _ => character.is_control(),
    }
}

/// May normalisation join this character to the one before it, or move it to there?
fn joins_previous(character: char) -> bool {
    !character.is_ascii()
        && (canonical_combining_class(character) != 0
            || is_nfc_quick(std::iter::once(character)) != IsNormalized::Yes)
}

/// Would Windows open a device for this name? The extension, and spaces before it, do not count there.
fn has_device_stem(normal: &[u8]) -> bool {
    let stem = normal.split(|byte| *byte == b'.').next().unwrap_or_default();
    let Ok(stem) = std::str::from_utf8(stem) else { return false };
    let stem = stem.trim_end_matches(' ').to_ascii_uppercase();
    if matches!(stem.as_str(), "CON" | "PRN" | "AUX" | "NUL" | "CONIN$" | "CONOUT$") {
        return true;
    }
    let Some(port) = stem.strip_prefix("COM").or_else(|| stem.strip_prefix("LPT")) else { return false };
    let mut digits = port.chars();
    matches!(digits.next(), Some('0'..='9' | '\u{b9}' | '\u{b2}' | '\u{b3}')) && digits.next().is_none()
}

/// Undoes `%XX`. `None` if an escape is malformed or this cannot be a path component.
fn decode_escapes(component: &[u8]) -> Option<Vec<u8>> {
    if component == EMPTY_COMPONENT.as_bytes() {
        return Some(Vec::new());
    }
    if component.is_empty() || component.iter().any(|byte| matches!(byte, b'/' | 0)) {
        return None;
    }
    let mut text = Vec::with_capacity(component.len());
    let mut rest = component.iter();
    while let Some(byte) = rest.next() {
        text.push(match byte {
            b'%' => hex_value(*rest.next()?)? << 4 | hex_value(*rest.next()?)?,
            other => *other,
        });
    }
    Some(text)
}

fn hex_value(digit: u8) -> Option<u8> {
    // Below 16, so it fits.
    char::from(digit).to_digit(16).map(|value| value as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nfc(text: &str) -> String {
        text.nfc().collect()
    }

    #[test]
    fn the_table_of_the_rule() {
        let table = [
            ("planb", "planb"),
            ("fix: auth/login (v2)", "fix%3A auth%2Flogin (v2)"),
            ("100% done", "100%25 done"),
            ("~/src", "%7E%2Fsrc"),
            ("..", "%2E%2E"),
            (".", "%2E"),
            ("...", "%2E.%2E"),
            (".env", "%2Eenv"),
            ("-rf", "%2Drf"),
            ("-", "%2D"),
            (" ", "%20"),
            (" a b ", "%20a b%20"),
            ("a-b.c d", "a-b.c d"),
            ("trailing. ", "trailing.%20"),
            ("trailing .", "trailing %2E"),
            (
                "\u{4fee}\u{590d} \u{767b}\u{5f55}/\u{6ce8}\u{518c}",
                "\u{4fee}\u{590d} \u{767b}\u{5f55}%2F\u{6ce8}\u{518c}",
            ),
            ("e\u{301}", "\u{e9}"),
            ("\n", "%0A"),
            ("\u{202e}", "%E2%80%AE"),
            ("", "%"),
            ("%", "%25"),
            ("\\:*?\"<>|", "%5C%3A%2A%3F%22%3C%3E%7C"),
            ("\0a\u{7f}b\u{85}c", "%00a%7Fb%C2%85c"),
            ("a\u{200b}\u{feff}b\u{2028}\u{2029}\u{2066}", "a%E2%80%8B%EF%BB%BFb%E2%80%A8%E2%80%A9%E2%81%A6"),
            ("\u{1f680} go", "\u{1f680} go"),
            ("[a](b){c}'$&;!#=+,@", "[a](b){c}'$&;!#=+,@"),
        ];
        for (text, component) in table {
            assert_eq!(encode_component(text), component, "{text:?}");
            assert_eq!(encode_name(text, "0123abcd"), component, "{text:?}");
            assert_eq!(decode_component(component), Some(nfc(text)), "{component:?}");
        }
    }

    #[test]
    fn device_stems_lose_their_first_letter() {
        let table = [
            ("NUL", "%4EUL"),
            ("con.md", "%63on.md"),
            ("Prn", "%50rn"),
            ("aux.tar.gz", "%61ux.tar.gz"),
            ("COM1", "%43OM1"),
            ("com0.x", "%63om0.x"),
            ("LPT\u{b9}", "%4CPT\u{b9}"),
            ("com\u{b3}.txt", "%63om\u{b3}.txt"),
            ("CONIN$", "%43ONIN$"),
            ("conout$.log", "%63onout$.log"),
            ("CON .x", "%43ON .x"),
            ("console", "console"),
            ("com", "com"),
            ("com10", "com10"),
            ("LPT\u{2074}", "LPT\u{2074}"),
            ("x.con", "x.con"),
            ("NUL:x", "NUL%3Ax"),
        ];
        for (text, component) in table {
            assert_eq!(encode_component(text), component, "{text:?}");
            assert_eq!(decode_component(component).as_deref(), Some(text));
        }
    }

    #[test]
    fn bytes_that_are_not_utf8_are_escaped() {
        let table: [(&[u8], &str); 4] = [
            (b"a\xffb", "a%FFb"),
            (b"\xe2\x80", "%E2%80"),
            (b"%FF", "%25FF"),
            // The mark would join the digit `A`.
            (b"\xfa\xcc\x81", "%FA%CC%81"),
        ];
        for (bytes, component) in table {
            assert_eq!(encode_component_bytes(bytes), component);
            assert_eq!(decode_component_bytes(component).as_deref(), Some(bytes));
        }
        assert_eq!(decode_component("a%FFb"), None);
    }

    #[test]
    fn marks_do_not_join_the_digits_of_an_escape() {
        for text in [":\u{301}x", "<\u{327}\u{301}", ".\u{316}\u{301}", "?\u{338}", "\n\u{1161}\u{11a8}"] {
            let component = encode_component(text);
            assert_eq!(component, nfc(&component));
            assert_eq!(decode_component(&component), Some(nfc(text)));
        }
        assert_eq!(encode_component(":\u{301}x"), "%3A%CC%81x");
        // Composed before it is encoded: not less-than is a letter of its own.
        assert_eq!(encode_component("<\u{338}"), "\u{226e}");
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let hashed = encode_component(&"a".repeat(201));
        assert_eq!(hashed.len(), COMPONENT_BYTES_MAX);
        assert!(hashed.starts_with(&"a".repeat(191)));
        assert_eq!(encode_component(&"a".repeat(200)), "a".repeat(200));
        assert_ne!(hashed, encode_component(&"a".repeat(202)));

        let table = [
            ("x".repeat(300), format!("{}~0123abcd", "x".repeat(191))),
            // 3 bytes each: 63 of them are 189.
            ("\u{4fee}".repeat(80), format!("{}~0123abcd", "\u{4fee}".repeat(63))),
            (":".repeat(80), format!("{}~0123abcd", "%3A".repeat(63))),
            // One character of three escapes is not split: 21 of 9 bytes are 189.
            ("\u{202e}".repeat(80), format!("{}~0123abcd", "%E2%80%AE".repeat(21))),
            (format!("a{}b", ". ".repeat(200)), "a~0123abcd".to_owned()),
            (" ".repeat(300), "%20~0123abcd".to_owned()),
            (format!("NUL.{}", "x".repeat(4000)), format!("%4EUL.{}~0123abcd", "x".repeat(185))),
        ];
        for (text, component) in table {
            assert_eq!(encode_name(&text, "0123ABCD"), component);
            let head = decode_component(&component).unwrap();
            assert!(text.starts_with(&head) && !head.is_empty());
        }
    }

    #[test]
    fn a_bad_suffix_falls_back_to_the_hash() {
        let text = "y".repeat(500);
        for bad in ["", "123", "0123abcg", "0123abcd0", "../../..", "\u{e9}\u{e9}\u{e9}\u{e9}"] {
            assert_eq!(encode_name(&text, bad), encode_component(&text));
        }
    }

    #[test]
    fn suffixes_split_and_join() {
        assert_eq!(with_suffix("planb", "0123ABCD"), "planb~0123abcd");
        let cut = encode_name(&"z".repeat(300), "0123abcd");
        assert_eq!(with_suffix(&cut, "0123abcd"), cut);
        assert_eq!(with_suffix("a~11111111", "0123abcd"), "a~11111111~0123abcd");
        assert!(with_suffix(&cut, "ffffffff").len() + THREAD_EXTENSION.len() <= 255);
        let table = [
            ("planb~0123abcd", Some(("planb", "0123abcd"))),
            ("a~11111111~0123abcd", Some(("a~11111111", "0123abcd"))),
            ("planb", None),
            ("~0123abcd", None),
            ("planb~0123abc", None),
            ("planb~0123abcx", None),
        ];
        for (component, parts) in table {
            assert_eq!(split_suffix(component), parts);
        }
    }

    #[test]
    fn malformed_components_have_no_text() {
        for component in ["", "a%", "a%4", "%zz", "%%", "%+1", "a/b", "a\0", "%FF", "%C3%28"] {
            assert_eq!(decode_component(component), None, "{component:?}");
        }
        assert_eq!(decode_component("%3a"), Some(":".to_owned()));
        assert_eq!(decode_component("a:b"), Some("a:b".to_owned()));
    }

    #[test]
    fn keys_fold_case_and_normalisation() {
        let same = [
            ("PlanB", "planb"),
            ("\u{c9}t\u{e9}", "E\u{301}TE\u{301}"),
            ("stra\u{df}e", "STRASSE"),
            ("\u{3a3}\u{3c3}\u{3c2}", "\u{3c3}\u{3c3}\u{3c3}"),
            ("\u{1fb3}", "\u{391}\u{399}"),
            ("a%3Ab", "A%3aB"),
        ];
        for (left, right) in same {
            assert_eq!(fold_key(left), fold_key(right), "{left} {right}");
        }
        assert_ne!(fold_key("a"), fold_key("\u{e1}"));
    }

    #[test]
    fn keys_of_all_characters_are_idempotent() {
        for character in '\0'..=char::MAX {
            let key = fold_key(&character.to_string());
            assert_eq!(fold_key(&key), key, "{character:?}");
        }
    }

    #[test]
    fn lookups_try_the_best_form_first() {
        type Row = (&'static [u8], &'static [&'static str], &'static [(&'static str, &'static str)]);
        let table: [Row; 12] = [
            (b"planb.jsonl", &["planb", "planb.jsonl"], &[]),
            (b"planb.JSONL", &["planb", "planb.JSONL"], &[]),
            (b"planb", &["planb"], &[]),
            (b".jsonl", &[".jsonl", "%2Ejsonl"], &[]),
            (b"e\xcc\x81.jsonl", &["\u{e9}", "\u{e9}.jsonl"], &[]),
            (b".config", &[".config", "%2Econfig"], &[]),
            (b"50%25", &["50%25", "50%2525"], &[]),
            (b"%", &["%", "%25"], &[]),
            (b"a\xff", &["a%FF"], &[]),
            (b"a:b", &["a:b", "a%3Ab"], &[]),
            (b"a~0123ABCD", &["a~0123ABCD", "a~0123abcd", "a%7E0123ABCD"], &[("a", "0123abcd")]),
            (b"", &[], &[]),
        ];
        for (spelling, components, suffixed) in table {
            let forms = lookup_forms(spelling);
            assert_eq!(forms.components, components, "{}", spelling.escape_ascii());
            let found: Vec<_> =
                forms.suffixed.iter().map(|(name, id)| (name.as_str(), id.as_str())).collect();
            assert_eq!(found, suffixed, "{}", spelling.escape_ascii());
        }
        let raw = lookup_forms(b"fix: x~0123abcd.jsonl");
        assert!(raw.suffixed.contains(&("fix%3A x".to_owned(), "0123abcd".to_owned())));
        assert_eq!(lookup_forms(&[b'a'; LOOKUP_BYTES_MAX + 7]), LookupForms::default());
    }

    fn hostile_text() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            3 => any::<char>().prop_map(String::from),
            3 => "[ -~]{1,3}",
            2 => proptest::sample::select(vec![
                "/", "\\", "%", "%2", "%2F", "~", ".", "..", "-", " ", "\0", "\n", "\u{7f}", "\u{85}", "\u{301}",
                "\u{327}", "\u{338}", "\u{345}", "e\u{301}", "\u{1e9b}\u{323}", "\u{202e}", "\u{200d}", "\u{2028}",
                "\u{1f468}\u{200d}\u{1f469}", "\u{1100}", "\u{1161}", "\u{11a8}", "CON", "nul", "COM1", "lpt\u{b2}",
                "~0123abcd", ".jsonl", ":", "A", "\u{212b}", "\u{130}", "\u{df}",
            ])
            .prop_map(String::from),
        ];
        proptest::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
    }

    fn assert_legal(component: &str) {
        assert!(!component.is_empty() && component.len() <= COMPONENT_BYTES_MAX, "{component:?}");
        assert_eq!(component, nfc(component));
        let (head, _) = split_suffix(component).unwrap_or((component, ""));
        assert!(!head.contains('~') && !head.contains(|c: char| c != '%' && must_escape(c)), "{component:?}");
        assert!(!component.starts_with(['.', '-', ' ']), "{component:?}");
        assert!(!head.ends_with(['.', ' ']) && !has_device_stem(component.as_bytes()), "{component:?}");
        assert!(decode_component_bytes(component).is_some(), "{component:?}");
    }

    /// The same cases at each run, and no file of failures.
    fn deterministic() -> ProptestConfig {
        let rng_seed = proptest::test_runner::RngSeed::Fixed(1);
        ProptestConfig { cases: 1000, rng_seed, failure_persistence: None, ..ProptestConfig::default() }
    }

    proptest! {
        #![proptest_config(deterministic())]

        #[test]
        fn texts_round_trip(text in hostile_text()) {
            let component = encode_component(&text);
            assert_legal(&component);
            let decoded = decode_component(&component).unwrap();
            match split_suffix(&component) {
                None => prop_assert_eq!(&decoded, &nfc(&text)),
                Some(_) => prop_assert!(nfc(&text).starts_with(&decoded)),
            }
            prop_assert_eq!(&encode_component(&nfc(&text)), &component);
            prop_assert!(component_forms(component.as_bytes()).first() == Some(&component));
        }

        #[test]
        fn names_are_legal_and_found(text in hostile_text()) {
            let component = encode_name(&text, "89abcdef");
            assert_legal(&component);
            let listed = format!("{component}{THREAD_EXTENSION}");
            prop_assert!(lookup_forms(listed.as_bytes()).components.first() == Some(&component));
            let decomposed: String = listed.nfd().collect();
            prop_assert!(lookup_forms(decomposed.as_bytes()).components.first() == Some(&component));
            let suffixed = lookup_forms(with_suffix(&component, "89abcdef").as_bytes()).suffixed;
            let bare = split_suffix(&component).map_or(component.as_str(), |(head, _)| head);
            prop_assert!(suffixed.contains(&(bare.to_owned(), "89abcdef".to_owned())));
        }

        #[test]
        fn different_texts_have_different_components(left in hostile_text(), right in hostile_text()) {
            let same = nfc(&left) == nfc(&right);
            prop_assert_eq!(encode_component(&left) == encode_component(&right), same);
        }

        #[test]
        fn short_texts_are_injective(left in "[%~2E. A\u{301}:]{0,3}", right in "[%~2E. A\u{301}:]{0,3}") {
            let same = nfc(&left) == nfc(&right);
            prop_assert_eq!(encode_component(&left) == encode_component(&right), same);
        }

        #[test]
        fn bytes_round_trip(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let component = encode_component_bytes(&bytes);
            assert_legal(&component);
            prop_assert_eq!(decode_component_bytes(&component), Some(normalize(&bytes)));
        }

        #[test]
        fn keys_are_idempotent(text in hostile_text()) {
            let key = fold_key(&text);
            prop_assert_eq!(&fold_key(&key), &key);
            prop_assert_eq!(&key, &nfc(&key));
            prop_assert_eq!(fold_key(&nfc(&text)), key);
        }

        #[test]
        fn any_bytes_can_be_looked_up(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let forms = lookup_forms(&bytes);
            prop_assert_eq!(forms.components.is_empty(), bytes.is_empty());
        }
    }
}
