//! temp
pub struct MaskedExample {
    pub input_ids: Vec<u32>,
    pub segments: Vec<u32>,
    pub masked: Vec<(u32, u32)>,
}
#[derive(Default)]
pub struct WordLists {
    pub ids: Vec<u32>,
    pub starts: Vec<u32>,
    pub rows: Vec<u32>,
}
#[derive(Default)]
pub struct PackedBatch {
    pub first_sequence: usize,
    pub starts: Vec<u32>,
    pub input_ids: Vec<u32>,
    pub positions: Vec<u32>,
    pub segments: Vec<u32>,
    pub sequences: Vec<u32>,
    pub masked_rows: Vec<u32>,
    pub masked_ids: Vec<u32>,
    pub masked_sequences: Vec<u32>,
    pub masked_slots: Vec<u32>,
    pub slot_of_row: Vec<u32>,
    pub generator_words: WordLists,
    pub discriminator_words: WordLists,
}
fn lists(mut rows: Vec<(u32, u32)>, t: usize) -> WordLists {
    rows.sort();
    let mut l = WordLists::default();
    for (i, &(id, row)) in rows.iter().enumerate() {
        if l.ids.last() != Some(&id) {
            l.ids.push(id);
            l.starts.push(i as u32);
        }
        l.rows.push(row);
    }
    l.starts.push(rows.len() as u32);
    if l.ids.len() < t {
        l.ids.push(u32::MAX);
    }
    l
}
impl PackedBatch {
    pub fn pack(first: usize, ex: &[MaskedExample]) -> PackedBatch {
        let mut b = PackedBatch { first_sequence: first, starts: vec![0], ..Default::default() };
        for (s, e) in ex.iter().enumerate() {
            let base = b.input_ids.len() as u32;
            for (p, (&id, &seg)) in e.input_ids.iter().zip(&e.segments).enumerate() {
                b.input_ids.push(id);
                b.segments.push(seg);
                b.positions.push(p as u32);
                b.sequences.push(s as u32);
                b.slot_of_row.push(u32::MAX);
            }
            for (slot, &(p, id)) in e.masked.iter().enumerate() {
                b.slot_of_row[(base + p) as usize] = b.masked_rows.len() as u32;
                b.masked_rows.push(base + p);
                b.masked_ids.push(id);
                b.masked_sequences.push(s as u32);
                b.masked_slots.push(slot as u32);
            }
            b.starts.push(b.input_ids.len() as u32);
        }
        let t = b.input_ids.len();
        b.generator_words = lists(b.input_ids.iter().enumerate().map(|(r, &i)| (i, r as u32)).collect(), t);
        b.discriminator_words = lists(
            b.input_ids
                .iter()
                .enumerate()
                .filter(|(r, _)| b.slot_of_row[*r] == u32::MAX)
                .map(|(r, &i)| (i, r as u32))
                .collect(),
            t,
        );
        b
    }
}
