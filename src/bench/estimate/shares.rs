//! A run with several ranks: what each of them computes and holds, and how long all take together.

use std::fmt::{self, Display};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::device::Device;
use crate::files::size;
use crate::note::duration;
use crate::plan::{Phase, Plan};
use crate::tensor::Precision;
use crate::train::config::{Leg, Surroundings, TrainConfig};
use crate::train::examples::full_extents;
use crate::train::key::Value;
use crate::train::settings::Settings;

use super::ranks::{Cluster, Exchange, LAUNCH, Pace, accumulation, share};
use super::speed::{Network, Speed};
use super::{flops, largest, steps};

/// What is asked of ranks; where nothing is said, what is typical.
#[derive(Clone, Debug)]
pub struct Asked {
    pub ranks: usize,
    pub per_node: Option<usize>,
    pub network: Network,
    pub reduce: Precision,
    /// Seconds of a message, near or far.
    pub latency: Option<f64>,
    pub host_link: Option<Speed>,
    pub host_memory: Option<Speed>,
    /// Seconds that a micro-batch takes whatever is in it.
    pub overhead_seconds: Option<f64>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Ranks {
    pub ranks: usize,
    pub ranks_per_node: usize,
    /// Of a node's link; nothing where all are on one node.
    pub network_bytes_per_second: Option<f64>,
    pub latency_seconds: f64,
    pub host_link_bytes_per_second: f64,
    pub host_memory_bytes_per_second: f64,
    pub reduce: Precision,
    /// Of the phase with most to compute: sequences of the rank that has most of them, how it takes them, parameters.
    pub sequences: usize,
    pub micro_batch: usize,
    pub accumulation: usize,
    pub trained_parameters: u64,
    /// Of its exchange.
    pub exchange: Exchange,
    /// Of the largest plan, with a share of the moments.
    pub memory_bytes: u64,
    /// Why the device cannot hold it with all moments, if it cannot.
    pub refused: Option<String>,
    /// Of the mean step: all of it, and what is computing.
    pub step_seconds: f64,
    pub compute_seconds: f64,
    /// What is not computing, of the step.
    pub communication_share: f64,
    /// Steps in the time of one on one device, and the same for each rank.
    pub speed_up: f64,
    pub efficiency: f64,
    /// Of the run.
    pub seconds: f64,
}

impl Asked {
    /// What connects the ranks of a run on this device.
    fn cluster(&self, device: &Device) -> Result<Cluster> {
        let Asked { ranks, .. } = *self;
        let (per_node, network) = match (self.network, self.per_node) {
            (Network::OneNode, None) => (ranks, f64::INFINITY),
            (Network::OneNode, Some(_)) => {
                anyhow::bail!("--network pcie is one node with all ranks; leave --ranks-per-node out")
            }
            (Network::Link(speed), per_node) => (per_node.unwrap_or(1), speed.0),
        };
        let mut cluster = Cluster { reduce: self.reduce, ..Cluster::typical(ranks, per_node, network) };
        if let Some(latency) = self.latency {
            (cluster.latency, cluster.shared_latency) = (latency, latency);
        }
        if let Some(Speed(speed)) = self.host_memory {
            cluster.host_memory = speed;
        }
        // What a processor computes lies in its host's memory already: a copy there reads and writes.
        if !device.is_hardware_gpu() {
            cluster.host_link = cluster.host_memory / 2.0;
        }
        if let Some(Speed(speed)) = self.host_link {
            cluster.host_link = speed;
        }
        Ok(cluster)
    }

    /// The run as one rank makes it: batches that are shares. `legs` are those of the whole.
    ///
    /// # Errors
    /// More ranks than sequences, in any phase.
    pub fn own_legs(
        &self,
        mut settings: Settings,
        surroundings: Surroundings<'_>,
        legs: &[Leg],
    ) -> Result<Vec<Leg>> {
        let ranks = self.ranks;
        for Leg { config, .. } in legs {
            let (size, phase) = (config.batch_size, config.phase.number);
            ensure!(
                size >= ranks,
                "{}batch_size is {size}, and {ranks} ranks need a sequence each: set batch_size to {ranks} or more, or \
                 --ranks to {size} or less",
                if legs.len() > 1 { format!("phase {}: ", phase + 1) } else { String::new() }
            );
        }
        let of = |value: &Value| match *value {
            Value::Whole(size) => Value::Whole(share(size as usize, ranks) as u64),
            ref other => other.clone(),
        };
        if let Some(size) = settings.get("batch_size").map(of) {
            settings.set_value("batch_size", size)?;
        }
        for phase in 0..settings.phases() {
            if let Some(size) = settings.get_in(phase, "batch_size").map(of) {
                settings.set_in(phase, "batch_size", size)?;
            }
        }
        TrainConfig::resolve(settings, surroundings)?.legs()
    }

    /// Puts together what one device takes, at so many FLOPs a second, and what the exchange adds.
    pub fn estimate(&self, legs: &[Leg], own: &[Leg], device: &Device, rate: f64) -> Result<Ranks> {
        let cluster = self.cluster(device)?;
        let (mut single, mut computing, mut all, mut count) = (0.0, 0.0, 0.0, 0.0);
        let mut most: Option<(f64, &TrainConfig, &TrainConfig, u64, Exchange)> = None;
        for leg in legs {
            let mine = own.iter().find(|own| own.config.phase.number == leg.config.phase.number);
            let mine = &mine.context("a phase is missing; please report this")?.config;
            let plan = leg.config.plan()?.plan;
            let step = flops(&leg.config) / rate;
            let fixed = self.overhead_seconds.unwrap_or_else(|| fixed_seconds(&plan, device));
            let pace = Pace::of(step, leg.config.batch_size, leg.config.micro_batch, fixed);
            let compute = pace.seconds(mine.batch_size, mine.micro_batch);
            let trained = trained(&plan);
            let exchange = cluster.exchange(trained);
            let steps = steps(leg);
            single += steps * step;
            computing += steps * compute;
            all += steps * (compute + exchange.seconds());
            count += steps;
            if most.as_ref().is_none_or(|(work, ..)| *work < steps * step) {
                most = Some((steps * step, &leg.config, mine, trained, exchange));
            }
        }
        let (_, _, mine, trained_parameters, exchange) = most.context("a run of no steps")?;
        let (plan, of) = largest(own)?;
        let (steps, ranks) = (f64::max(count, 1.0), self.ranks as f64);
        Ok(Ranks {
            ranks: self.ranks,
            ranks_per_node: cluster.per_node,
            network_bytes_per_second: cluster.network.is_finite().then_some(cluster.network),
            latency_seconds: if cluster.network.is_finite() {
                cluster.latency
            } else {
                cluster.shared_latency
            },
            host_link_bytes_per_second: cluster.host_link,
            host_memory_bytes_per_second: cluster.host_memory,
            reduce: self.reduce,
            sequences: mine.batch_size,
            micro_batch: mine.micro_batch,
            accumulation: accumulation(mine.batch_size, mine.micro_batch),
            trained_parameters,
            exchange,
            memory_bytes: memory(&plan, of, self.ranks),
            refused: of.check(device.room(), false).err().map(|error| format!("{error:#}")),
            step_seconds: all / steps,
            compute_seconds: computing / steps,
            communication_share: (all - computing) / all,
            speed_up: single / all,
            efficiency: single / all / ranks,
            seconds: all,
        })
    }
}

/// What a micro-batch takes on this device whatever is in it: its launches, on a card.
fn fixed_seconds(plan: &Plan, device: &Device) -> f64 {
    let launches = plan.ops.iter().filter(|op| op.phase == Phase::Micro).count();
    if device.is_hardware_gpu() { launches as f64 * LAUNCH } else { 0.0 }
}

/// Numbers that have a gradient.
pub fn trained(plan: &Plan) -> u64 {
    let trained = plan.parameters.iter().filter(|parameter| parameter.trains);
    trained.map(|parameter| (parameter.rows * parameter.columns) as u64).sum()
}

/// Of a plan, with a share of its moments.
pub fn memory(plan: &Plan, config: &TrainConfig, ranks: usize) -> u64 {
    let summary = plan.summary(&full_extents(config));
    let held = |role: &str| summary.bytes_by_role.get(role).copied().unwrap_or(0);
    let moments = held("first moments") + held("second moments");
    summary.bytes - moments + moments.div_ceil(ranks.max(1) as u64)
}

impl Display for Ranks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ranks { ranks, sequences, micro_batch, accumulation, exchange, .. } = self;
        let between = match self.network_bytes_per_second {
            Some(speed) => format!("{} a node, {} between nodes", self.ranks_per_node, Speed(speed)),
            None => "on one node".to_owned(),
        };
        let memory = size(self.memory_bytes);
        writeln!(
            f,
            "ranks     {ranks}, {between}: at most {sequences} sequences each, {accumulation} × {micro_batch}, in {memory}"
        )?;
        if let Some(refused) = &self.refused {
            writeln!(f, "          does not fit: {refused}")?;
        }
        writeln!(
            f,
            "          predicted {:.4} s a step, {:.1} % of it communication: {:.2} times as fast as one, efficiency {:.0} %; \
             {} in all",
            self.step_seconds,
            100.0 * self.communication_share,
            self.speed_up,
            100.0 * self.efficiency,
            duration(self.seconds)
        )?;
        let [readback, reduce, sum, norm, gather, write] = [
            exchange.readback_seconds,
            exchange.reduce_scatter_seconds,
            exchange.sum_seconds,
            exchange.norm_seconds,
            exchange.all_gather_seconds,
            exchange.write_seconds,
        ]
        .map(|seconds| 1e3 * seconds);
        writeln!(
            f,
            "          ms: {:.2} computing, {readback:.2} gradients to the host, {reduce:.2} reduce-scatter ({}), \
             {sum:.2} sums, {norm:.2} norm, {gather:.2} all-gather, {write:.2} parameters to the device",
            1e3 * self.compute_seconds,
            self.reduce.name()
        )?;
        writeln!(f, "          each sends {} a step", size(exchange.sent_bytes as u64))
    }
}
