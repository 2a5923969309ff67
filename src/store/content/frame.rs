//! What is in a file of zstd frames, and how large is it decoded?
//!
//! Depends on nothing of the store but reading at an offset.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};

use zstd::zstd_safe;

use super::read_fully_at;

/// How many blocks are walked to find the size that frames state; above it, decoding tells.
const STATED_BLOCKS_MAX: u32 = 1 << 20;
/// The longest header of a zstd frame (RFC 8878, 3.1.1.1, with the magic number).
const FRAME_HEADER_BYTES_MAX: usize = 18;
/// The shortest header of a zstd frame.
const FRAME_HEADER_BYTES_MIN: usize = 6;
const COPY_BUFFER_BYTES: usize = 128 * 1024;

/// The decoded size that the frames of `file` state: None when one does not, or they do not end where the
/// file does.
pub(super) fn stated_size(file: &File) -> io::Result<Option<u64>> {
    let end = file.metadata()?.len();
    let (mut offset, mut total_bytes, mut blocks_left) = (0, 0_u64, STATED_BLOCKS_MAX);
    while offset < end {
        let Some((next, frame_bytes)) = walk_frame(file, offset, &mut blocks_left)? else { return Ok(None) };
        let Some(sum) = total_bytes.checked_add(frame_bytes) else { return Ok(None) };
        (offset, total_bytes) = (next, sum);
    }
    Ok((end > 0 && offset == end).then_some(total_bytes))
}

/// Where the frame at `offset` ends, and the size it states. None when it states none or is not whole.
fn walk_frame(file: &File, offset: u64, blocks_left: &mut u32) -> io::Result<Option<(u64, u64)>> {
    let mut header = [0; FRAME_HEADER_BYTES_MAX];
    let length = read_fully_at(file, &mut header, offset)?;
    if length < FRAME_HEADER_BYTES_MIN {
        return Ok(None);
    }
    let [a, b, c, d, e, f, g, h, ..] = header;
    if u32::from_le_bytes([a, b, c, d]) & !0xf == zstd_safe::zstd_sys::ZSTD_MAGIC_SKIPPABLE_START {
        let content_bytes = u64::from(u32::from_le_bytes([e, f, g, h]));
        return Ok((length >= 8).then_some((offset + 8 + content_bytes, 0)));
    }
    let Ok(Some(frame_bytes)) = zstd_safe::get_frame_content_size(&header[..length]) else { return Ok(None) };
    let mut offset = offset + frame_header_bytes(e);
    loop {
        let mut block = [0; 3];
        if *blocks_left == 0 || read_fully_at(file, &mut block, offset)? < block.len() {
            return Ok(None);
        }
        *blocks_left -= 1;
        let block = u32::from_le_bytes([block[0], block[1], block[2], 0]);
        let content_bytes = match block >> 1 & 3 {
            1 => 1, // one byte, repeated
            3 => return Ok(None),
            _ => block >> 3,
        };
        offset += 3 + u64::from(content_bytes);
        if block & 1 == 1 {
            break;
        }
    }
    let checksum_bytes = if e & 4 == 0 { 0 } else { 4 };
    Ok(Some((offset + checksum_bytes, frame_bytes)))
}

/// The length of a frame header, magic number included, from its descriptor byte (RFC 8878, 3.1.1.1.1).
fn frame_header_bytes(descriptor: u8) -> u64 {
    let single_segment = descriptor & 0x20 != 0;
    let window_bytes = if single_segment { 0 } else { 1 };
    let dictionary_bytes = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let size_bytes = match descriptor >> 6 {
        0 => u64::from(single_segment),
        flag => 1 << flag,
    };
    5 + window_bytes + dictionary_bytes + size_bytes
}

/// Which side of a decode failed.
#[derive(Debug)]
pub(super) enum DecodeFailure {
    Source(io::Error),
    Sink(io::Error),
    Damaged(String),
}

/// Decodes all frames of `source` from its cursor on. Answers the decoded size. Checksums are verified, and
/// the last frame must be whole.
pub(super) fn decode(source: &File, sink: &mut dyn Write) -> std::result::Result<u64, DecodeFailure> {
    let mut decoder = zstd::Decoder::new(source).map_err(DecodeFailure::Source)?;
    let mut buffer = vec![0; COPY_BUFFER_BYTES];
    let mut decoded_bytes = 0;
    loop {
        let length = match decoder.read(&mut buffer) {
            Ok(0) => return Ok(decoded_bytes),
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) if error.raw_os_error().is_some() => return Err(DecodeFailure::Source(error)),
            Err(error) => return Err(DecodeFailure::Damaged(error.to_string())),
        };
        sink.write_all(&buffer[..length]).map_err(DecodeFailure::Sink)?;
        decoded_bytes += length as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::{Home, NAME, sized_frame, text, unsized_frame};
    use super::super::{compressed_path, decoded_size, decoded_size_stated};
    use crate::store::error::StoreError;

    #[test]
    fn sizes_are_stated_only_when_every_frame_states_its_own() {
        let content = text(30_000);
        let (sized, plain_sized) = (sized_frame(&content, true), sized_frame(&content, false));
        let unsized_one = unsized_frame(&content);
        let skippable = [&0x184d_2a53_u32.to_le_bytes()[..], &5_u32.to_le_bytes(), b"notes"].concat();
        let one = Some(content.len() as u64);
        let two = Some(2 * content.len() as u64);
        let zeros = vec![0; 1 << 20];
        let cut = |frames: &[u8], by: usize| frames[..frames.len() - by].to_vec();
        type Case = (&'static str, Vec<u8>, Option<u64>, Option<u64>);
        let cases: Vec<Case> = vec![
            ("checksum", sized.clone(), one, one),
            ("no checksum", plain_sized.clone(), one, one),
            ("no size", unsized_one.clone(), None, one),
            ("two frames", [sized.clone(), plain_sized.clone()].concat(), two, two),
            ("one without", [sized.clone(), unsized_one.clone()].concat(), None, two),
            ("skippable", [skippable.clone(), sized.clone(), skippable.clone()].concat(), one, one),
            ("runs", sized_frame(&zeros, true), Some(1 << 20), Some(1 << 20)),
            ("empty frame", sized_frame(b"", true), Some(0), Some(0)),
            ("one byte", sized_frame(b"x", false), Some(1), Some(1)),
            ("300 bytes", sized_frame(&zeros[..300], false), Some(300), Some(300)),
            ("cut checksum", cut(&sized, 1), None, None),
            ("cut block", cut(&sized, 5000), None, None),
            ("cut header", sized[..5].to_vec(), None, None),
            ("garbage behind", [&sized[..], b"garbage behind"].concat(), None, None),
            ("nothing", Vec::new(), None, None),
            ("no zstd", b"{\"type\":\"session_meta\"}\n".to_vec(), None, None),
        ];
        let home = Home::new();
        for (case, frames, stated, decoded) in cases {
            let path = compressed_path(&home.write_zst(NAME, &frames));
            assert_eq!(decoded_size_stated(&path).unwrap(), stated, "{case}");
            match decoded {
                Some(_) => assert_eq!(decoded_size(&path).unwrap(), decoded.unwrap(), "{case}"),
                None => {
                    assert!(matches!(decoded_size(&path), Err(StoreError::Damaged { .. })), "{case}");
                }
            }
        }
        assert!(matches!(decoded_size(&home.plain("none")), Err(StoreError::NotFound { .. })));
        assert!(matches!(decoded_size_stated(&home.plain("none")), Err(StoreError::NotFound { .. })));
    }
}
