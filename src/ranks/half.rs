//! How gradients travel: as they are, or as half floats with a scale for each block.

use std::borrow::Cow;
use std::fmt::{self, Display, Formatter};

use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};

/// Numbers that have a scale in common: as gradients of one tensor, or nearly, are of one size.
const BLOCK: usize = 1024;

/// The largest of a block lies between this and its double: sums of what it becomes cannot overflow, as they are made in
/// f32, and 2⁻²⁴ of f16 is 2⁻³⁹ of the largest.
const LARGEST: f32 = 16384.0;

/// What a gradient is while it travels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Travel {
    #[default]
    F32,
    /// Half as many bytes; a gradient loses what f16 loses, relative to the largest of its 1,024 neighbours.
    F16,
}

impl Display for Travel {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Travel::F32 => "f32",
            Travel::F16 => "f16",
        })
    }
}

/// Words on their way, and whose they are.
pub struct Packed<'a> {
    pub words: Cow<'a, [u32]>,
    pub bounds: Vec<usize>,
}

impl Travel {
    /// Words that so many numbers take.
    pub fn words(self, numbers: usize) -> usize {
        match self {
            Travel::F32 => numbers,
            Travel::F16 => {
                let words = |numbers: usize| if numbers == 0 { 0 } else { 1 + numbers.div_ceil(2) };
                numbers / BLOCK * words(BLOCK) + words(numbers % BLOCK)
            }
        }
    }

    /// The numbers as they travel, each rank's for itself.
    pub fn pack<'a>(self, values: &'a [f32], bounds: &[usize]) -> Packed<'a> {
        if self == Travel::F32 {
            return Packed { words: bytemuck::cast_slice(values).into(), bounds: bounds.to_vec() };
        }
        let (mut words, mut packed) = (Vec::with_capacity(self.words(values.len())), vec![0]);
        for range in bounds.windows(2) {
            for block in values[range[0]..range[1]].chunks(BLOCK) {
                pack(block, &mut words);
            }
            packed.push(words.len());
        }
        Packed { words: words.into(), bounds: packed }
    }

    /// Adds what came from one rank.
    pub fn add(self, words: &[u32], sum: &mut [f32]) {
        match self {
            Travel::F32 => {
                let values: &[f32] = bytemuck::cast_slice(words);
                sum.iter_mut().zip(values).for_each(|(sum, &value)| *sum += value);
            }
            Travel::F16 => {
                let blocks = words.chunks(self.words(BLOCK)).zip(sum.chunks_mut(BLOCK));
                blocks.for_each(|(words, sum)| add(words, sum));
            }
        }
    }
}

fn pack(block: &[f32], words: &mut Vec<u32>) {
    let largest = block.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    // A power of two, so that it costs no digit. Where there is no number (f32's max ignores NaN) or an infinite one, it
    // stays what it is: the step is refused by its norm.
    let power = |largest: f32| (LARGEST.log2() - largest.log2().floor()).clamp(-126.0, 126.0).exp2();
    let scale = if largest.is_finite() && largest > 0.0 { power(largest) } else { 1.0 };
    words.push((1.0 / scale).to_bits());
    let scaled: Vec<f32> = block.iter().map(|value| value * scale).collect();
    let mut halves = vec![f16::ZERO; scaled.len().next_multiple_of(2)];
    halves[..scaled.len()].convert_from_f32_slice(&scaled);
    let bits: &[u16] = halves.reinterpret_cast();
    words.extend(bits.chunks_exact(2).map(|pair| u32::from(pair[0]) | u32::from(pair[1]) << 16));
}

fn add(words: &[u32], sum: &mut [f32]) {
    let Some((scale, words)) = words.split_first() else { return };
    let scale = f32::from_bits(*scale);
    let bits: Vec<u16> = words.iter().flat_map(|&word| [word as u16, (word >> 16) as u16]).collect();
    let halves: &[f16] = bits.reinterpret_cast();
    let mut values = vec![0.0f32; halves.len()];
    halves.convert_to_f32_slice(&mut values);
    sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += scale * value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_keep_eleven_bits_of_the_largest() {
        for count in [0usize, 1, 2, 3, 1023, 1024, 1025, 5000] {
            let value = |index: usize| ((index * 7919 % 2003) as f32 - 1001.0) * 1e-9f32;
            let values: Vec<f32> = (0..count).map(value).collect();
            let bounds = [0, count / 3, count];
            let packed = Travel::F16.pack(&values, &bounds);
            assert_eq!(packed.bounds[1], Travel::F16.words(count / 3));
            assert_eq!(packed.words.len() - packed.bounds[1], Travel::F16.words(count - count / 3));
            for part in 0..2 {
                let expected = &values[bounds[part]..bounds[part + 1]];
                let mut sum = vec![1e-6f32; expected.len()];
                Travel::F16.add(&packed.words[packed.bounds[part]..packed.bounds[part + 1]], &mut sum);
                for (sum, expected) in sum.iter().zip(expected) {
                    assert!((sum - 1e-6 - expected).abs() <= 1.1e-6 / 2048.0, "{count}: {sum} {expected}");
                }
            }
        }
    }

    #[test]
    fn what_is_no_number_stays_none() {
        for bad in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
            let values = [1.0, bad, 3.0];
            let packed = Travel::F16.pack(&values, &[0, 3]);
            let mut sum = [0.0; 3];
            Travel::F16.add(&packed.words, &mut sum);
            assert!(!sum[1].is_finite());
        }
        // Near the smallest and the largest that there are.
        for value in [f32::MIN_POSITIVE, f32::MAX / 2.0, 1e-45] {
            let values = [value];
            let packed = Travel::F16.pack(&values, &[0, 1]);
            let mut sum = [0.0];
            Travel::F16.add(&packed.words, &mut sum);
            assert!((sum[0] - value).abs() <= value / 1024.0, "{value} {}", sum[0]);
        }
    }
}
