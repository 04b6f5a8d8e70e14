//! The directory of a zip archive whose members are stored as they are, as `torch.save` writes it: where each member's
//! bytes lie in the file. Nothing is unpacked, so nothing can grow; members that are compressed are refused.
//!
//! Layout: PKWARE's APPNOTE 6.3 (4.3.7 local headers, 4.3.12 central directory, 4.3.14 to 4.3.16 its end, 4.5.3 the
//! extra field of zip64).

use std::collections::BTreeMap;
use std::ops::Range;

use anyhow::{Context, Result, bail, ensure};

/// A member: its bytes in the file, and their checksum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub range: Range<usize>,
    pub crc: u32,
}

const END: &[u8; 4] = b"PK\x05\x06";
const END_LENGTH: usize = 22;
const END_64: &[u8; 4] = b"PK\x06\x06";
const END_64_LENGTH: usize = 56;
const LOCATOR_64: &[u8; 4] = b"PK\x06\x07";
const LOCATOR_64_LENGTH: usize = 20;
const CENTRAL: &[u8; 4] = b"PK\x01\x02";
const CENTRAL_LENGTH: usize = 46;
const LOCAL: &[u8; 4] = b"PK\x03\x04";
const LOCAL_LENGTH: usize = 30;
/// The longest comment that may follow the end of the directory.
const LONGEST_COMMENT: usize = u16::MAX as usize;

/// Whether the bytes begin like an archive.
pub fn is_zip(bytes: &[u8]) -> bool {
    bytes.starts_with(LOCAL)
}

/// Members by name.
///
/// Errors: what is cut off or out of place, compressed or encrypted members, members that overlap, a name twice.
pub fn directory(bytes: &[u8]) -> Result<BTreeMap<String, Member>> {
    let central = central_directory(bytes)?;
    let mut members = BTreeMap::new();
    let mut at = central.start;
    while at < central.end {
        let (name, member, next) = central_header(bytes, at, central.clone())?;
        ensure!(members.insert(name.clone(), member).is_none(), "zip: there are two members {name}");
        at = next;
    }
    let mut ranges: Vec<&Range<usize>> = members.values().map(|member| &member.range).collect();
    ranges.sort_by_key(|range| (range.start, range.end));
    ensure!(ranges.windows(2).all(|pair| pair[0].end <= pair[1].start), "zip: members overlap");
    Ok(members)
}

/// Where the central directory lies.
fn central_directory(bytes: &[u8]) -> Result<Range<usize>> {
    let first = bytes.len().saturating_sub(END_LENGTH + LONGEST_COMMENT);
    let last = bytes.len().checked_sub(END_LENGTH).context("zip: too short for an archive")?;
    let found = (first..=last).rev().find(|&at| bytes[at..].starts_with(END));
    let end = found.context("zip: there is no end of a directory; is the file cut short?")?;
    let (mut length, mut start) = (u64::from(u32_at(bytes, end + 12)?), u64::from(u32_at(bytes, end + 16)?));
    let mut limit = end;
    let locator = end.checked_sub(LOCATOR_64_LENGTH).filter(|&at| bytes[at..].starts_with(LOCATOR_64));
    if let Some(locator) = locator {
        let place = usize::try_from(u64_at(bytes, locator + 8)?)?;
        let fits = place.checked_add(END_64_LENGTH).is_some_and(|after| after <= locator);
        ensure!(fits && bytes[place..].starts_with(END_64), "zip: the zip64 directory is out of place");
        (length, start) = (u64_at(bytes, place + 40)?, u64_at(bytes, place + 48)?);
        limit = place;
    }
    let range = start.checked_add(length).filter(|&end| end <= limit as u64);
    let end = range.context("zip: the directory is out of place")?;
    Ok(start as usize..end as usize)
}

/// A member of the central directory at `at`, and where the next one begins.
fn central_header(bytes: &[u8], at: usize, central: Range<usize>) -> Result<(String, Member, usize)> {
    let whole = at.checked_add(CENTRAL_LENGTH).is_some_and(|end| end <= central.end);
    ensure!(whole && bytes[at..].starts_with(CENTRAL), "zip: the directory is damaged");
    let [name_length, extra_length, comment_length] =
        [28, 30, 32].map(|offset| u16_at(bytes, at + offset).map(usize::from));
    let (name_length, extra_length) = (name_length?, extra_length?);
    let name_end = at + CENTRAL_LENGTH + name_length;
    let extra_end = name_end + extra_length;
    let next = extra_end + comment_length?;
    ensure!(next <= central.end, "zip: the directory is cut off");
    let name = String::from_utf8_lossy(&bytes[at + CENTRAL_LENGTH..name_end]).into_owned();
    ensure!(u16_at(bytes, at + 8)? & 1 == 0, "zip: {name} is encrypted");
    ensure!(
        u16_at(bytes, at + 10)? == 0,
        "zip: {name} is compressed, which torch.save never does; it is refused"
    );
    let mut fields = [20, 24, 42].map(|offset| u32_at(bytes, at + offset).map(u64::from).unwrap_or_default());
    let wide = [fields[1], fields[0], fields[2]].map(|field| field == u64::from(u32::MAX));
    if wide.contains(&true) {
        let mut values = zip64(&bytes[name_end..extra_end]).into_iter();
        // In the order of the extra field: size, stored size, place.
        for (field, wide) in [1, 0, 2].into_iter().zip(wide) {
            if wide {
                fields[field] =
                    values.next().with_context(|| format!("zip: {name} lacks its zip64 sizes"))?;
            }
        }
    }
    let [stored, size, place] = fields;
    ensure!(stored == size, "zip: {name} has {stored} bytes stored, but is {size} long");
    let range = local_range(bytes, place, size, central.start).with_context(|| format!("zip: {name}"))?;
    Ok((name, Member { range, crc: u32_at(bytes, at + 16)? }, next))
}

/// The 64-bit values of an extra field.
fn zip64(mut extra: &[u8]) -> Vec<u64> {
    while let (Ok(tag), Ok(length)) = (u16_at(extra, 0), u16_at(extra, 2)) {
        let Some(field) = extra.get(4..4 + usize::from(length)) else { break };
        if tag == 1 {
            let words = field.chunks_exact(8);
            return words.map(|word| u64::from_le_bytes(word.try_into().unwrap_or_default())).collect();
        }
        extra = &extra[4 + usize::from(length)..];
    }
    Vec::new()
}

/// Where a member's bytes lie: after its local header, before the directory.
fn local_range(bytes: &[u8], place: u64, size: u64, end: usize) -> Result<Range<usize>> {
    let place = usize::try_from(place)?;
    let header = place.checked_add(LOCAL_LENGTH).is_some_and(|after| after <= end);
    ensure!(header && bytes[place..].starts_with(LOCAL), "its header is out of place");
    let names = usize::from(u16_at(bytes, place + 26)?) + usize::from(u16_at(bytes, place + 28)?);
    let start = place + LOCAL_LENGTH + names;
    let after = usize::try_from(size).ok().and_then(|size| start.checked_add(size));
    match after.filter(|&after| after <= end) {
        Some(after) => Ok(start..after),
        None => bail!("it reaches past the end of the archive"),
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16> {
    Ok(u16::from_le_bytes(bytes.get(at..at + 2).context("zip: cut off")?.try_into()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32> {
    Ok(u32::from_le_bytes(bytes.get(at..at + 4).context("zip: cut off")?.try_into()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64> {
    Ok(u64::from_le_bytes(bytes.get(at..at + 8).context("zip: cut off")?.try_into()?))
}
