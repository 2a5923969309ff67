//! How do rollout files get damaged in the wild (spec 2.8)? Bytes in, bytes out; pure.

use super::plan::{Era, Plan, Role};
use super::prng::{Prng, thread_id};

/// NULs that a power loss leaves.
const NUL_BYTES: usize = 512;

/// Where the line begins that is `share` of `of` lines into the file; never the first line.
fn line_start(bytes: &[u8], share: usize, of: usize) -> usize {
    let starts: Vec<usize> = memchr::memchr_iter(b'\n', bytes).map(|at| at + 1).collect();
    let inner = starts.len().saturating_sub(2);
    starts.get((inner * share / of).min(inner)).copied().unwrap_or(0)
}

fn line_end(bytes: &[u8], from: usize) -> usize {
    memchr::memchr(b'\n', &bytes[from..]).map_or(bytes.len(), |at| from + at + 1)
}

fn insert(mut bytes: Vec<u8>, at: usize, what: &[u8]) -> Vec<u8> {
    bytes.splice(at..at, what.iter().copied());
    bytes
}

/// The id in the header replaced by another thread's.
fn foreign_header(mut bytes: Vec<u8>, plan: &Plan, other_id: &str) -> Vec<u8> {
    let end = line_end(&bytes, 0);
    let places: Vec<usize> = memchr::memmem::find_iter(&bytes[..end], plan.id.as_bytes()).collect();
    for at in places {
        bytes[at..at + other_id.len()].copy_from_slice(other_id.as_bytes());
    }
    bytes
}

/// The bytes as this role leaves them. Expects at least three lines, as every sample rollout has.
pub(super) fn apply(mut bytes: Vec<u8>, plan: &Plan, prng: &mut Prng) -> Vec<u8> {
    let middle = line_start(&bytes, 1, 2);
    match plan.role {
        Some(Role::ZeroByte) => bytes.clear(),
        Some(Role::Torn) => {
            let last = memchr::memrchr(b'\n', &bytes[..bytes.len().saturating_sub(1)]).map_or(0, |at| at + 1);
            let length = bytes.len() - last;
            bytes.truncate(last + length / 2);
        }
        Some(Role::Glued) => {
            let end = line_end(&bytes, middle);
            bytes.drain(end.saturating_sub(1)..end);
        }
        Some(Role::NulBytes) => {
            let mut nuls = vec![0; NUL_BYTES];
            nuls.push(b'\n');
            bytes = insert(bytes, middle, &nuls);
        }
        Some(Role::InvalidUtf8) => {
            let line: &[u8] = if plan.era == Era::Bare {
                b"{\"type\":\"message\",\"role\":\"user\",\"content\":[{\"type\":\"input_text\",\"text\":\"caf\xe9 \xff\xfe\"}]}\n"
            } else {
                b"{\"timestamp\":\"2026-01-01T00:00:00.000Z\",\"type\":\"event_msg\",\"payload\":{\"type\":\"agent_message\",\"message\":\"caf\xe9 \xff\xfe\"}}\n"
            };
            bytes = insert(bytes, middle, line);
        }
        Some(Role::Crlf) => {
            bytes = bytes
                .split_inclusive(|byte| *byte == b'\n')
                .flat_map(|line| [&line[..line.len() - 1], b"\r\n"])
                .flatten()
                .copied()
                .collect();
        }
        Some(Role::CutAndContinued) => {
            let end = line_end(&bytes, middle);
            bytes.drain(middle + (end - middle) / 2..end);
        }
        Some(Role::StateMarkers) => {
            bytes = insert(bytes, middle, b"{\"record_type\":\"state\"}\n");
        }
        Some(Role::NoHeader) => {
            let end = line_end(&bytes, 0);
            bytes.drain(..end);
        }
        Some(Role::HeaderOnly) => bytes.truncate(line_end(&bytes, 0)),
        Some(Role::ForeignHeader) => {
            let other_id = thread_id(prng, plan.start_ms, true);
            bytes = foreign_header(bytes, plan, &other_id);
        }
        Some(Role::UnknownLines) => {
            let lines = "{\"timestamp\":\"2026-08-01T00:00:00.000Z\",\"type\":\"of_the_future\",\"payload\":{}}\n\
                         \n  \n[1,2,3]\nnull\n\"text\"\n{}\n";
            bytes = insert(bytes, middle, lines.as_bytes());
        }
        _ => {}
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::super::Size;
    use super::super::plan::Layout;
    use super::super::prng::Purpose;
    use super::*;

    #[test]
    fn each_role_damages_as_it_says() {
        let text = "{\"id\":\"ID\"}\n{\"a\":1}\n{\"bbbb\":2}\n{\"cccc\":3}\n";
        let mut plan = Layout::new(30, 1, Size::Tiny).plan(20);
        let header = format!("{{\"id\":\"{}\"}}\n", plan.id);
        let rest = &text["{\"id\":\"ID\"}\n".len()..];
        let cases: [(Role, &[u8]); 8] = [
            (Role::Torn, b"{\"a\":1}\n{\"bbbb\":2}\n{\"ccc"),
            (Role::Glued, b"{\"a\":1}\n{\"bbbb\":2}{\"cccc\":3}\n"),
            (Role::Crlf, b"{\"a\":1}\r\n{\"bbbb\":2}\r\n{\"cccc\":3}\r\n"),
            (Role::CutAndContinued, b"{\"a\":1}\n{\"bbb{\"cccc\":3}\n"),
            (Role::StateMarkers, b"{\"a\":1}\n{\"record_type\":\"state\"}\n{\"bbbb\":2}\n{\"cccc\":3}\n"),
            (Role::HeaderOnly, b""),
            (Role::ForeignHeader, rest.as_bytes()),
            (Role::Custom, rest.as_bytes()),
        ];
        for (role, expected) in cases {
            plan.role = Some(role);
            let mut prng = Prng::new(1, 1, Purpose::Damage);
            let damaged = apply(format!("{header}{rest}").into_bytes(), &plan, &mut prng);
            let end = line_end(&damaged, 0);
            assert_eq!(&damaged[end..], expected, "{role:?}");
            assert_eq!(
                &damaged[..end] == header.as_bytes(),
                !matches!(role, Role::ForeignHeader | Role::Crlf)
            );
        }
    }
}
