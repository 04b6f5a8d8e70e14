//! The executor of one rank of several (`plan::Sharding`): computes as the executor inside does, and exchanges what the
//! ranks need of each other between the ops of the update.
//!
//! Before the update gradients are summed, each slice by the rank that owns it, in the order of ranks: group after group,
//! the first while a device that works by itself still computes the last. Norm, clipping and whether the step counts are
//! decided from all ranks' sums, and by the first rank for all, as devices may round a root otherwise. After it each rank
//! has the parameters of all. The metrics are then those of the whole batch.
//!
//! What is above knows nothing of it, but must do the same on every rank: reading moments, or gradients after an update,
//! gathers them.

use std::ops::Range;

use anyhow::{Context, Result, ensure};

use crate::plan::{Executor, Identity, Phase, Plan, Sharding, Submitted, Upload};
use crate::ranks::{Ranks, Travel};
use crate::tensor::{Element, Role, StepValues, TensorId};

/// Runs one rank's plan.
pub struct RankedExecutor {
    inner: Box<dyn Executor>,
    ranks: Ranks,
    travel: Travel,
    sharding: Sharding,
    /// What is exchanged before which op; in order.
    exchanges: Vec<(usize, Exchange)>,
    /// What a step reports, but for the loss scale, which follows from it.
    metrics: Vec<(TensorId, Element)>,
    micro: Range<usize>,
    update: Range<usize>,
    /// Whether the last micro-batch of a step is being computed.
    last: bool,
    /// Groups whose gradients are on their way to the host, in order.
    fetched: Vec<usize>,
    /// Whether gradients are summed already, of which this rank has its own.
    summed: bool,
}

/// What is exchanged before an op, or at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exchange {
    /// Backward is done with a group: the host begins to fetch its gradients.
    Group(usize),
    Gradients,
    Sums,
    Decision,
    Values,
}

impl RankedExecutor {
    /// Errors: a plan that is not one rank's of several.
    pub fn new(inner: Box<dyn Executor>, ranks: Ranks, travel: Travel) -> Result<Self> {
        let plan = inner.plan();
        let sharding = plan.sharding.clone().context("a plan for one rank alone; please report this")?;
        let (partials, _) = sharding.partials.as_ref().context("ranks without a norm; please report this")?;
        let [micro, update] = [Phase::Micro, Phase::Update].map(|phase| plan.phase(phase));
        let reads = |&op: &usize| plan.ops[op].reads().any(|tensor| tensor == *partials);
        let decides = update.clone().find(reads).context("nothing decides the norm; please report this")?;
        ensure!(
            sharding.ranks == ranks.size() && sharding.rank == ranks.rank(),
            "a plan for rank {} of {}; please report this",
            sharding.rank,
            sharding.ranks
        );
        let groups = plan.groups_in_order().into_iter();
        let mut exchanges: Vec<(usize, Exchange)> =
            groups.map(|(op, number)| (op, Exchange::Group(number))).collect();
        exchanges.extend([
            (update.start, Exchange::Gradients),
            (decides, Exchange::Sums),
            (decides + 1, Exchange::Decision),
        ]);
        let tensors = plan.tensors.iter().enumerate().map(|(index, info)| (TensorId(index as u32), info));
        let reported = tensors.filter(|(id, info)| info.role == Role::Metric && plan.loss_scale != Some(*id));
        let metrics = reported.map(|(id, info)| (id, info.element)).collect();
        Ok(RankedExecutor {
            inner,
            ranks,
            travel,
            sharding,
            exchanges,
            metrics,
            micro,
            update,
            last: false,
            fetched: Vec::new(),
            summed: false,
        })
    }

    /// Runs `ops` piece by piece, with the exchanges between.
    fn in_pieces(
        &mut self,
        ops: Range<usize>,
        mut run: impl FnMut(&mut dyn Executor, Range<usize>) -> Result<()>,
    ) -> Result<()> {
        // For its uploads alone.
        if ops.is_empty() {
            return run(self.inner.as_mut(), ops);
        }
        if ops.start < self.micro.start {
            (self.last, self.summed) = (false, false);
        }
        let mut next = ops.start;
        while next < ops.end {
            for number in 0..self.exchanges.len() {
                let (op, exchange) = self.exchanges[number];
                if op == next {
                    self.exchange(exchange)?;
                }
            }
            let cuts = self.exchanges.iter().filter(|(_, exchange)| self.last || !is_group(*exchange));
            let cut = cuts.map(|(op, _)| *op).filter(|&op| op > next).min();
            let until = cut.map_or(ops.end, |cut| cut.min(ops.end));
            run(self.inner.as_mut(), next..until)?;
            next = until;
        }
        if ops.end == self.update.end && ops.start < ops.end {
            if self.exchanges.iter().any(|&(op, exchange)| op == ops.end && exchange == Exchange::Decision) {
                self.exchange(Exchange::Decision)?;
            }
            self.exchange(Exchange::Values)?;
        }
        Ok(())
    }

    fn exchange(&mut self, what: Exchange) -> Result<()> {
        match what {
            Exchange::Group(number) => self.fetch(number),
            Exchange::Gradients => self.sum_gradients(),
            Exchange::Sums => self.sum_metrics(),
            Exchange::Decision => self.take_decision(),
            Exchange::Values => self.collect_values(),
        }
        .with_context(|| format!("exchanging {what:?} with the other ranks"))
    }

    /// Begins to copy a group's gradients to the host, while what follows is computed.
    fn fetch(&mut self, number: usize) -> Result<()> {
        if self.last && !self.sharding.groups[number].trained.is_empty() {
            self.inner.request(number as u64, &[self.sharding.groups[number].gradients])?;
            self.fetched.push(number);
        }
        Ok(())
    }

    /// Sums the gradients of group after group, in the one order of all ranks. Those of a rank without a micro-batch are
    /// not on their way.
    fn sum_gradients(&mut self) -> Result<()> {
        let fetched = std::mem::take(&mut self.fetched);
        for index in 0..self.exchanges.len() {
            let (_, Exchange::Group(number)) = self.exchanges[index] else { continue };
            let group = &self.sharding.groups[number];
            if group.trained.is_empty() {
                continue;
            }
            let gradients = if fetched.contains(&number) {
                let (of, words) = self.inner.poll(true)?.context("gradients did not arrive")?;
                let words = words.into_iter().next().filter(|_| of == number as u64);
                bytemuck::cast_vec(words.context("other results came than gradients; please report this")?)
            } else {
                self.inner.read(group.gradients)?
            };
            self.sum_group(number, &gradients)?;
        }
        (self.last, self.summed) = (false, true);
        Ok(())
    }

    fn sum_group(&mut self, number: usize, gradients: &[f32]) -> Result<()> {
        let group = &self.sharding.groups[number];
        let slice = group.slice(self.sharding.rank);
        let own = group.own_gradients;
        let sum = if group.is_whole() {
            self.ranks.sum_own(gradients, &group.travelling(), self.travel)?
        } else {
            let packed = pack(gradients, &group.trained);
            let sum = self.ranks.sum_own(&packed, &group.travelling(), self.travel)?;
            let mut values = gradients[slice.clone()].to_vec();
            unpack(&sum, &group.trained_of(self.sharding.rank), &mut values);
            values
        };
        if slice.is_empty() { Ok(()) } else { self.inner.write(own, &sum) }
    }

    /// Partial sums of the norm are those of all, metrics the sums over all.
    fn sum_metrics(&mut self) -> Result<()> {
        let (partials, bounds) = self.sharding.partials.clone().context("no partial sums")?;
        let rank = self.sharding.rank;
        let own = self.inner.read(partials)?;
        let mut said: Vec<u32> =
            own[bounds[rank]..bounds[rank + 1]].iter().map(|sum| sum.to_bits()).collect();
        for &(tensor, element) in &self.metrics {
            match element {
                Element::Uint => said.extend(self.inner.read_uint(tensor)?),
                _ => said.extend(self.inner.read(tensor)?.into_iter().map(f32::to_bits)),
            }
        }
        let said: Vec<Vec<u32>> = self
            .ranks
            .gather(bytemuck::cast_slice(&said))?
            .iter()
            .map(|bytes| bytemuck::pod_collect_to_vec(bytes))
            .collect();
        let mut rest: Vec<&[u32]> = said.iter().map(Vec::as_slice).collect();
        let mut take = |counts: &dyn Fn(usize) -> usize| -> Result<Vec<&[u32]>> {
            let each = rest.iter_mut().enumerate().map(|(rank, rest)| rest.split_off(..counts(rank)));
            each.collect::<Option<_>>().context("another rank says less than it should")
        };
        let sums: Vec<f32> = take(&|rank| bounds[rank + 1] - bounds[rank])?
            .into_iter()
            .flat_map(|words| words.iter().map(|&word| f32::from_bits(word)))
            .collect();
        self.inner.write(partials, &sums)?;
        for &(tensor, element) in &self.metrics {
            let length = self.inner.plan().info(tensor).elements();
            let all = take(&|_| length)?;
            if element == Element::Uint {
                let mut sum = vec![0u32; length];
                all.iter().for_each(|words| sum.iter_mut().zip(*words).for_each(|(sum, word)| *sum += word));
                self.inner.write_uint(tensor, &sum)?;
            } else {
                let mut sum = vec![0.0f64; length];
                let add = |(sum, &word): (&mut f64, &u32)| *sum += f64::from(f32::from_bits(word));
                all.iter().for_each(|words| sum.iter_mut().zip(*words).for_each(add));
                let sum: Vec<f32> = sum.into_iter().map(|sum| sum as f32).collect();
                self.inner.write(tensor, &sum)?;
            }
        }
        Ok(())
    }

    /// Norm, factor and flag are those that the first rank has found.
    fn take_decision(&mut self) -> Result<()> {
        for &(tensor, element) in &self.metrics {
            if element != Element::Uint {
                let own = self.inner.read(tensor)?;
                let bits: Vec<u32> = own.into_iter().map(f32::to_bits).collect();
                let said = if self.ranks.is_first() { bytemuck::cast_slice(&bits) } else { &[] };
                let all = self.ranks.gather(said)?;
                let first: Vec<f32> = bytemuck::pod_collect_to_vec(all.first().context("rank 0 is silent")?);
                self.inner.write(tensor, &first)?;
            }
        }
        Ok(())
    }

    /// What each rank has updated becomes all ranks'.
    fn collect_values(&mut self) -> Result<()> {
        let Sharding { rank, groups, .. } = &self.sharding;
        let rank = *rank;
        for group in groups.iter().filter(|group| !group.trained.is_empty()) {
            let own = group.slice(rank);
            let updated = if own.is_empty() { Vec::new() } else { self.inner.read(group.own_values)? };
            if group.is_whole() {
                let all = self.ranks.collect(&updated, &group.travelling())?;
                self.inner.write(group.values, &all)?;
                continue;
            }
            let collected =
                self.ranks.collect(&pack(&updated, &group.trained_of(rank)), &group.travelling())?;
            let mut values = self.inner.read(group.values)?;
            unpack(&collected, &group.trained, &mut values);
            self.inner.write(group.values, &values)?;
        }
        Ok(())
    }

    /// All of a tensor that ranks have pieces of; nothing for any other.
    fn gathered(&mut self, tensor: TensorId) -> Result<Option<Vec<f32>>> {
        let Some(piece) = self.sharding.piece(tensor).cloned() else { return Ok(None) };
        // Until they are summed each rank has gradients of its own.
        if self.inner.plan().info(tensor).role == Role::Gradient && !self.summed {
            return Ok(None);
        }
        let own = piece.own.map_or(Ok(Vec::new()), |own| self.inner.read(own))?;
        self.ranks.collect(&own, &piece.bounds).map(Some)
    }
}

fn is_group(exchange: Exchange) -> bool {
    matches!(exchange, Exchange::Group(_))
}

/// The elements of these ranges, one after the other.
fn pack(values: &[f32], ranges: &[Range<usize>]) -> Vec<f32> {
    ranges.iter().flat_map(|range| &values[range.clone()]).copied().collect()
}

fn unpack(packed: &[f32], ranges: &[Range<usize>], values: &mut [f32]) {
    let mut rest = packed;
    for range in ranges {
        let (part, after) = rest.split_at(range.len());
        values[range.clone()].copy_from_slice(part);
        rest = after;
    }
}

impl Executor for RankedExecutor {
    fn plan(&self) -> &Plan {
        self.inner.plan()
    }

    fn run(&mut self, ops: Range<usize>, values: &StepValues, uploads: &[Upload<'_>]) -> Result<()> {
        let mut uploads = uploads;
        self.in_pieces(ops, |inner, ops| inner.run(ops, values, std::mem::take(&mut uploads)))
    }

    fn ops_at_once(&self) -> usize {
        self.inner.ops_at_once()
    }

    fn before_last_micro_batch(&mut self) {
        self.last = true;
    }

    fn timed(
        &mut self,
        ops: Range<usize>,
        values: &StepValues,
        uploads: &[Upload<'_>],
    ) -> Result<Vec<Range<f64>>> {
        let mut uploads = uploads;
        let mut spans: Vec<Range<f64>> = Vec::new();
        self.in_pieces(ops, |inner, ops| {
            let before = spans.last().map_or(0.0, |span| span.end);
            let part = inner.timed(ops, values, std::mem::take(&mut uploads))?;
            spans.extend(part.into_iter().map(|span| before + span.start..before + span.end));
            Ok(())
        })?;
        Ok(spans)
    }

    fn finish(&mut self) -> Result<()> {
        self.inner.finish()
    }

    fn strategy(&self, op: usize) -> &'static str {
        self.inner.strategy(op)
    }

    fn rounds_operands(&self, op: usize) -> bool {
        self.inner.rounds_operands(op)
    }

    /// Of a tensor that ranks have pieces of, each keeps its own.
    fn write(&mut self, tensor: TensorId, data: &[f32]) -> Result<()> {
        let Some(piece) = self.sharding.piece(tensor) else { return self.inner.write(tensor, data) };
        if self.inner.plan().info(tensor).role == Role::Gradient {
            return self.inner.write(tensor, data);
        }
        let rank = self.sharding.rank;
        let (start, end) = (piece.bounds[rank], piece.bounds[rank + 1].min(data.len()));
        match piece.own.filter(|_| start < end) {
            Some(own) => self.inner.write(own, &data[start..end]),
            None => Ok(()),
        }
    }

    fn write_uint(&mut self, tensor: TensorId, data: &[u32]) -> Result<()> {
        self.inner.write_uint(tensor, data)
    }

    fn read(&mut self, tensor: TensorId) -> Result<Vec<f32>> {
        match self.gathered(tensor)? {
            Some(values) => Ok(values),
            None => self.inner.read(tensor),
        }
    }

    fn read_uint(&mut self, tensor: TensorId) -> Result<Vec<u32>> {
        self.inner.read_uint(tensor)
    }

    fn request(&mut self, tag: u64, tensors: &[TensorId]) -> Result<()> {
        self.inner.request(tag, tensors)
    }

    fn poll(&mut self, wait: bool) -> Result<Option<(u64, Vec<Vec<u32>>)>> {
        self.inner.poll(wait)
    }

    fn identity(&self) -> Identity {
        self.inner.identity()
    }

    fn submitted(&self) -> Submitted {
        self.inner.submitted()
    }
}

#[cfg(test)]
mod tests;
