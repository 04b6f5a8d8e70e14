//! The framing of TFRecord and event files: a record is its length (u64), the masked CRC-32C of these 8 bytes, the bytes
//! themselves, and their masked CRC-32C, all little-endian (tensorflow/core/lib/io/record_writer.h).

use std::io::Read;

use anyhow::{Context, Result, ensure};

/// No record is longer; a longer one is a broken length.
const LONGEST: u64 = 64 << 20;

/// Bytes around those of a record.
pub const FRAME: u64 = 16;

/// CRC-32C, rotated and shifted so that a CRC of data with CRCs in it is none of theirs.
pub fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// A record as it stands in a file.
pub fn framed(body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u64).to_le_bytes();
    let (head, tail) = (masked_crc(&length).to_le_bytes(), masked_crc(body).to_le_bytes());
    [&length[..], &head, body, &tail].concat()
}

/// The bytes of the next record, compared with what `checksum` says; nothing at the end.
///
/// # Errors
/// The file ends within a record, or a checksum is wrong.
pub fn next_record(file: &mut impl Read, checksum: impl Fn(&[u8]) -> u32) -> Result<Option<Vec<u8>>> {
    let mut head = Vec::with_capacity(12);
    file.by_ref().take(12).read_to_end(&mut head).context("cannot read on")?;
    if head.is_empty() {
        return Ok(None);
    }
    ensure!(head.len() == 12, "the file ends within the length of a record");
    let (length, crc) = head.split_at(8);
    ensure!(checksum(length) == word(crc), "the checksum of a record's length is wrong");
    let length = u64::from_le_bytes(length.try_into().unwrap_or_default());
    ensure!(length <= LONGEST, "a record of {length} bytes is too long to be an example");
    // Grows with what is there, whatever the length says.
    let mut body = Vec::new();
    file.by_ref().take(length + 4).read_to_end(&mut body).context("cannot read on")?;
    ensure!(body.len() as u64 == length + 4, "the file ends within a record");
    let crc = body.split_off(length as usize);
    ensure!(checksum(&body) == word(&crc), "the checksum of a record is wrong");
    Ok(Some(body))
}

fn word(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes.try_into().unwrap_or_default())
}
