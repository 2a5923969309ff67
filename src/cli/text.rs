//! How does text from a rollout get onto a terminal, whole characters and nothing that the terminal obeys?

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::path::Path;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::store::error::{Result, StoreError};

/// Stands for what was cut.
const ELLIPSIS: &str = "\u{2026}";
/// Columns of a terminal that does not say.
const COLUMNS_DEFAULT: usize = 80;
const JOINER: char = '\u{200d}';

/// True for what changes how other characters appear, or does something to a terminal.
fn is_control(char: char) -> bool {
    char.is_control()
        || matches!(char, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}' | '\u{200e}' | '\u{200f}')
        || matches!(char, '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

/// One line: runs of white space become one space, controls become `\u{..}`.
pub(super) fn clean(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for word in text.split_whitespace() {
        if !line.is_empty() {
            line.push(' ');
        }
        push_escaped(&mut line, word);
    }
    line
}

/// One line in which nothing else is lost: for paths, whose spaces count.
pub(super) fn escaped(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    push_escaped(&mut line, text);
    line
}

fn push_escaped(line: &mut String, text: &str) {
    for char in text.chars() {
        if is_control(char) {
            line.extend(char.escape_default());
        } else {
            line.push(char);
        }
    }
}

/// Columns that cleaned text takes.
pub(super) fn columns(text: &str) -> usize {
    text.width()
}

/// The beginning of cleaned text that fits `max` columns, with an ellipsis where something is missing.
pub(super) fn cut(text: &str, max: usize) -> String {
    // No text of `max` columns has so many bytes, but for one that is all combining marks.
    let in_reach = text.char_indices().nth(max.saturating_mul(8)).map_or(text.len(), |(at, _)| at);
    if in_reach == text.len() && columns(text) <= max {
        return text.to_owned();
    }
    let room = max.saturating_sub(1);
    let fits = boundaries(&text[..in_reach]).into_iter().take_while(|&at| columns(&text[..at]) <= room);
    let end = fits.last().unwrap_or(0);
    format!("{}{ELLIPSIS}", text[..end].trim_end())
}

/// The end of cleaned text that fits `max` columns: of a path, the end says more.
pub(super) fn cut_start(text: &str, max: usize) -> String {
    if columns(text) <= max {
        return text.to_owned();
    }
    let room = max.saturating_sub(1);
    let start = boundaries(text).into_iter().find(|&at| columns(&text[at..]) <= room).unwrap_or(text.len());
    format!("{ELLIPSIS}{}", &text[start..])
}

/// Where text may be cut: not before a mark, a joiner or a skin tone, nor behind a joiner.
fn boundaries(text: &str) -> Vec<usize> {
    let mut found = Vec::new();
    let mut before = None;
    for (at, char) in text.char_indices() {
        let continues = char.width() == Some(0) || matches!(char, '\u{1f3fb}'..='\u{1f3ff}');
        if !continues && before != Some(JOINER) {
            found.push(at);
        }
        before = Some(char);
    }
    found.push(text.len());
    found
}

/// Cleaned text with spaces behind it, `width` columns in all.
pub(super) fn pad(text: &str, width: usize) -> String {
    format!("{text}{}", " ".repeat(width.saturating_sub(columns(text))))
}

/// Columns of the terminal that standard output is; None if it is none.
pub(super) fn terminal_columns() -> Option<usize> {
    if !io::stdout().is_terminal() {
        return None;
    }
    // SAFETY: a struct of four integers, for which zero is a value.
    let mut size: libc::winsize = unsafe { std::mem::zeroed() };
    // SAFETY: TIOCGWINSZ writes a winsize to the address it is given.
    let asked = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &mut size) };
    Some(if asked == 0 && size.ws_col > 0 { usize::from(size.ws_col) } else { COLUMNS_DEFAULT })
}

/// Runs `work` over buffered standard output. A reader that goes away (`| head`) is a success.
pub(super) fn to_stdout(work: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let done = work(&mut out).and_then(|()| out.flush().map_err(output_error));
    match done {
        Err(StoreError::Io { source, .. }) if source.kind() == ErrorKind::BrokenPipe => {
            // What is still buffered has no reader.
            let _ = out.into_parts();
            Ok(())
        }
        other => other,
    }
}

/// An error of writing to standard output.
pub(super) fn output_error(source: io::Error) -> StoreError {
    StoreError::io("write to", Path::new("standard output"))(source)
}

/// Writes a value as JSON on one line.
pub(super) fn write_json_line(out: &mut dyn Write, value: &impl serde::Serialize) -> Result<()> {
    serde_json::to_writer(&mut *out, value).map_err(|error| output_error(error.into()))?;
    out.write_all(b"\n").map_err(output_error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_obeys_comes_through() {
        for (text, shown) in [
            ("plain", "plain"),
            (" two\n\tlines ", "two lines"),
            ("\u{1b}[31mred\u{7}", "\\u{1b}[31mred\\u{7}"),
            ("a\u{9b}b\u{7f}", "a\\u{9b}b\\u{7f}"),
            ("\u{202e}gpj.exe", "\\u{202e}gpj.exe"),
            ("\u{4fee}\u{590d}", "\u{4fee}\u{590d}"),
        ] {
            assert_eq!(clean(text), shown);
        }
        assert_eq!(escaped("a  b\nc"), "a  b\\nc");
    }

    #[test]
    fn characters_are_not_split() {
        let family = "\u{1f469}\u{200d}\u{1f4bb}";
        for (text, max, shown) in [
            ("short", 5, "short".to_owned()),
            ("longer", 5, "long\u{2026}".to_owned()),
            ("\u{4fee}\u{590d}\u{767b}", 6, "\u{4fee}\u{590d}\u{767b}".to_owned()),
            ("\u{4fee}\u{590d}\u{767b}", 5, "\u{4fee}\u{590d}\u{2026}".to_owned()),
            ("\u{4fee}\u{590d}\u{767b}", 4, "\u{4fee}\u{2026}".to_owned()),
            ("ae\u{301}b", 2, "a\u{2026}".to_owned()),
            ("ae\u{301}bc", 3, "ae\u{301}\u{2026}".to_owned()),
            (&format!("{family}{family}"), 3, format!("{family}\u{2026}")),
            (&format!("{family}{family}"), 2, "\u{2026}".to_owned()),
            ("abc", 0, "\u{2026}".to_owned()),
        ] {
            assert_eq!(cut(text, max), shown, "{text} {max}");
        }
        assert_eq!(cut_start("/srv/demo/app", 6), "\u{2026}o/app");
        assert_eq!(cut_start("/\u{4fee}\u{590d}", 4), "\u{2026}\u{590d}");
        assert_eq!(pad("\u{4fee}", 4), "\u{4fee}  ");
        let long = "x".repeat(1_000_000);
        assert_eq!(columns(&cut(&long, 10)), 10);
    }
}
