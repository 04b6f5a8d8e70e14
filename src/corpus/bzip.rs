//! Decoding one bzip2 stream at a time, knowing at every moment how much of the output is proved by a checksum.
//!
//! A bzip2 stream is a row of blocks, each with a CRC that the decoder compares only after it has handed the whole
//! block out. To keep everything sound and nothing else when a block is damaged, [`StreamDecoder`] remembers where the
//! last good block ended.

use bzip2::{Decompress, Status};

/// How much compressed input the decoder sees at once. A call that comes back with room left in the output has used
/// up its input, and has therefore finished and checked every block it wrote; small slices make such moments frequent.
const INPUT_SLICE: usize = 32 * 1024;

/// Output is grown by this much at a time.
const OUTPUT_STEP: usize = 256 * 1024;

/// Why [`StreamDecoder::feed`] returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fed {
    /// The input is used up; the stream goes on.
    NeedsInput,
    /// The output has reached the limit; call again with the rest of the input.
    Full,
    /// The stream is complete, its checksum right. The rest of the input lies behind it.
    End,
}

/// The stream is damaged at or shortly before the input consumed so far.
#[derive(Debug)]
pub(super) struct Corrupt;

/// One bzip2 stream being decoded.
pub(super) struct StreamDecoder {
    inner: Decompress,
    verified_out: u64,
}

impl StreamDecoder {
    pub(super) fn new() -> Self {
        Self { inner: Decompress::new(false), verified_out: 0 }
    }

    /// Compressed bytes consumed since the stream began.
    pub(super) fn consumed(&self) -> u64 {
        self.inner.total_in()
    }

    /// How many bytes at the end of the output are not yet covered by a checked block.
    pub(super) fn unverified(&self) -> usize {
        usize::try_from(self.inner.total_out() - self.verified_out).unwrap_or(usize::MAX)
    }

    /// Decodes from `input` onto the end of `out` until the input or the stream ends or `out` is `limit` bytes long.
    /// Returns what happened and how many bytes of `input` were used.
    ///
    /// # Errors
    /// [`Corrupt`] for damaged data; `out` is then cut back to what the block checksums cover.
    pub(super) fn feed(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
        limit: usize,
    ) -> Result<(Fed, usize), Corrupt> {
        let start = self.inner.total_in();
        loop {
            let used = (self.inner.total_in() - start) as usize;
            if out.len() >= limit {
                return Ok((Fed::Full, used));
            }
            if out.capacity() - out.len() < OUTPUT_STEP / 2 {
                out.reserve(OUTPUT_STEP);
            }
            let slice = &input[used..input.len().min(used + INPUT_SLICE)];
            let status = self.inner.decompress_vec(slice, out);
            let used = (self.inner.total_in() - start) as usize;
            let drained = out.len() < out.capacity();
            match status {
                Ok(Status::StreamEnd) => {
                    self.verified_out = self.inner.total_out();
                    return Ok((Fed::End, used));
                }
                Ok(Status::MemNeeded) | Err(_) => {
                    out.truncate(out.len().saturating_sub(self.unverified()));
                    return Err(Corrupt);
                }
                Ok(_) if drained => {
                    self.verified_out = self.inner.total_out();
                    if used == input.len() {
                        return Ok((Fed::NeedsInput, used));
                    }
                }
                Ok(_) => {}
            }
        }
    }
}

/// Finds the next place in `bytes` where a bzip2 stream with data starts: `BZh1`–`BZh9` and the magic of a block.
/// Streams start on byte boundaries, and the pattern is 80 bits long: it does not turn up by chance.
pub(super) fn find_stream_start(bytes: &[u8]) -> Option<usize> {
    const BLOCK_MAGIC: &[u8] = b"1AY&SY";
    let mut from = 0;
    while let Some(found) = memchr::memmem::find(&bytes[from..], BLOCK_MAGIC) {
        let magic = from + found;
        if magic >= 4 && bytes[magic - 4..].starts_with(b"BZh") && matches!(bytes[magic - 1], b'1'..=b'9') {
            return Some(magic - 4);
        }
        from = magic + 1;
    }
    None
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Write;

    use super::*;

    /// One bzip2 stream of `data`.
    pub(in crate::corpus) fn compress(data: &[u8]) -> Vec<u8> {
        let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    /// Bytes that bzip2 cannot shrink much, the same on every run.
    pub(in crate::corpus) fn noise(length: usize) -> Vec<u8> {
        let mut state = 0x2545_f491_u32;
        (0..length)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 17;
                state ^= state << 5;
                b'a' + (state % 23) as u8
            })
            .collect()
    }

    #[test]
    fn a_damaged_block_is_dropped_and_those_before_it_kept() {
        let data = noise(350_000);
        let mut packed = compress(&data);
        let middle = packed.len() * 5 / 8; // inside the third of four blocks of 100 kB
        packed[middle] ^= 4;
        let mut out = Vec::new();
        let mut decoder = StreamDecoder::new();
        assert!(decoder.feed(&packed, &mut out, usize::MAX).is_err());
        assert!(out.len() >= 190_000 && out.len() < 300_000, "{}", out.len());
        assert!(data.starts_with(&out));
    }

    #[test]
    fn stream_starts_are_found() {
        let one = compress(b"hello");
        let mut two = one.clone();
        two.extend_from_slice(&one);
        assert_eq!(find_stream_start(&two), Some(0));
        assert_eq!(find_stream_start(&two[1..]), Some(one.len() - 1));
        assert_eq!(find_stream_start(&one[1..]), None);
    }
}
