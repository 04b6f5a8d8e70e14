//! Sorted tables of LevelDB, which TensorFlow's `.index` files are (tensorflow/core/lib/io/table_format; LevelDB's
//! doc/table_format.md).
//!
//! ```text
//! blocks       each followed by a byte (0 plain, 1 snappy) and the masked CRC-32C of block and byte
//! footer       48 bytes: handles (offset and length as varints) of two blocks, the meta index, which is empty here, and
//!              the index, zeros, a magic number
//! a block      entries: shared, unshared and value lengths as varints, the unshared end of the key, the value;
//!              then u32 offsets of entries whose keys share nothing, and their count
//! the index    for each block of data, a key not below its last and its handle
//! ```

use anyhow::{Context, Result, bail, ensure};

use super::masked_crc;

const FOOTER: usize = 48;
const MAGIC: u64 = 0xdb47_7524_8b80_fb57;
/// The byte and the checksum after a block.
const TRAILER: usize = 5;
const PLAIN: u8 = 0;
const SNAPPY: u8 = 1;

/// Snappy's densest element copies 64 bytes and has 3: a block that claims more than this many times its size is a lie.
const SNAPPY_RATIO: usize = 24;

/// A longer key is no name of a variable.
const LONGEST_KEY: usize = 1024;

/// Entries of a table at most; a large model with its moments has 2,500.
const MOST_ENTRIES: usize = 1 << 16;

/// All entries, in the order of the file. `checksums` says whether they are looked at.
///
/// Errors: anything cut off, out of place or order, or whose checksum does not match; blocks that overlap (a small file
/// could unfold into a large one), unknown compression.
pub fn entries(bytes: &[u8], checksums: bool) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let start = bytes.len().checked_sub(FOOTER).context("too short for a table")?;
    let footer = &bytes[start..];
    let magic = u64::from_le_bytes(footer[FOOTER - 8..].try_into()?);
    ensure!(magic == MAGIC, "not a TensorFlow index (a table with another mark at its end)");
    let mut rest = &footer[..FOOTER - 8];
    let _meta_index = handle(&mut rest)?;
    let index = handle(&mut rest)?;
    let mut entries: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    let mut position = 0;
    for (_, value) in block_entries(&block(bytes, index, checksums)?).context("the table's index")? {
        let (offset, length) = handle(&mut &value[..]).context("the table's index")?;
        ensure!(offset >= position, "the table's blocks overlap or are out of order");
        position = offset.saturating_add(length);
        let read = block_entries(&block(bytes, (offset, length), checksums)?);
        entries.extend(read.with_context(|| format!("the table's block at byte {offset}"))?);
        ensure!(entries.len() <= MOST_ENTRIES, "a table of more than {MOST_ENTRIES} entries");
    }
    let rising = entries.windows(2).all(|pair| pair[0].0 < pair[1].0);
    ensure!(rising, "the table's keys are out of order");
    Ok(entries)
}

/// Offset and length of a block.
fn handle(rest: &mut &[u8]) -> Result<(usize, usize)> {
    Ok((usize::try_from(varint(rest)?)?, usize::try_from(varint(rest)?)?))
}

/// The contents of a block.
fn block(bytes: &[u8], (offset, length): (usize, usize), checksums: bool) -> Result<Vec<u8>> {
    let end = offset.checked_add(length).and_then(|end| end.checked_add(TRAILER));
    let end = end.filter(|&end| end <= bytes.len() - FOOTER);
    let whole = end.with_context(|| format!("a block at byte {offset} reaches out of the table"))?;
    let (checked, crc) = bytes[offset..whole].split_at(length + 1);
    let crc = u32::from_le_bytes(crc.try_into()?);
    ensure!(
        !checksums || masked_crc(checked) == crc,
        "the block at byte {offset} is damaged (its checksum does not match)"
    );
    let contents = &checked[..length];
    match checked[length] {
        PLAIN => Ok(contents.to_vec()),
        SNAPPY => unpack(contents).with_context(|| format!("the block at byte {offset}")),
        kind => bail!("the block at byte {offset} is compressed in an unknown way ({kind})"),
    }
}

fn unpack(packed: &[u8]) -> Result<Vec<u8>> {
    let length = snap::raw::decompress_len(packed).context("not snappy")?;
    ensure!(
        length <= packed.len().saturating_mul(SNAPPY_RATIO),
        "snappy: {} bytes cannot unfold into {length}",
        packed.len()
    );
    snap::raw::Decoder::new().decompress_vec(packed).context("not snappy")
}

/// Keys and values of a block.
fn block_entries(block: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let counted = block.len().checked_sub(4).context("shorter than a count")?;
    let restarts = u32::from_le_bytes(block[counted..].try_into()?) as usize;
    let end = restarts.checked_mul(4).and_then(|length| counted.checked_sub(length));
    let mut rest = &block[..end.context("more restarts than it has room for")?];
    let (mut key, mut entries) = (Vec::new(), Vec::new());
    while !rest.is_empty() {
        let [shared, unshared, length] = [varint(&mut rest)?, varint(&mut rest)?, varint(&mut rest)?];
        let fits = unshared.checked_add(length).is_some_and(|length| length <= rest.len() as u64);
        ensure!(fits, "an entry reaches out of it");
        ensure!(shared <= key.len() as u64, "a key shares more with the one before it than that has");
        let (unshared, length) = (unshared as usize, length as usize);
        key.truncate(shared as usize);
        key.extend_from_slice(&rest[..unshared]);
        ensure!(key.len() <= LONGEST_KEY, "a key of {} bytes", key.len());
        entries.push((key.clone(), rest[unshared..unshared + length].to_vec()));
        ensure!(entries.len() <= MOST_ENTRIES, "more than {MOST_ENTRIES} entries");
        rest = &rest[unshared + length..];
    }
    Ok(entries)
}

/// A number of seven bits a byte, low ones first.
fn varint(rest: &mut &[u8]) -> Result<u64> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, after) = rest.split_first().context("cut off within a number")?;
        *rest = after;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(number);
        }
    }
    bail!("a number of more than 64 bits")
}
