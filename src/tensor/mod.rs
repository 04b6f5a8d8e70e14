//! Shapes, element types and ids: the leaf everything else stands on.

pub mod draws;
pub mod random;

/// Which of a step's varying extents counts the rows of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Extent {
    /// The number of rows never varies.
    Fixed,
    /// Real tokens of the micro-batch (packed rows; padding does not exist).
    Tokens,
    /// Sequences of the micro-batch.
    Sequences,
    /// Rows that carry a label where these are neither tokens nor sequences: masked slots in pre-training, items in
    /// fine-tuning.
    Labelled,
}

impl Extent {
    /// How the extent is written in shapes; nothing for rows that never vary.
    pub fn letter(self) -> &'static str {
        match self {
            Extent::Fixed => "",
            Extent::Tokens => "T",
            Extent::Sequences => "B",
            Extent::Labelled => "M",
        }
    }
}

/// The extents of one micro-batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extents {
    pub tokens: usize,
    pub sequences: usize,
    pub labelled: usize,
}

/// A row count with a static capacity: `clamp(extent − offset, 0, capacity)` rows are in use in a step.
///
/// `offset` serves tensors that hold one chunk of a longer list of rows (the vocabulary head).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rows {
    pub extent: Extent,
    pub offset: usize,
    pub capacity: usize,
}

impl Rows {
    /// `n` rows, always.
    pub fn fixed(n: usize) -> Self {
        Rows { extent: Extent::Fixed, offset: 0, capacity: n }
    }

    /// Up to `capacity` rows, as many as the step's extent says.
    pub fn of(extent: Extent, capacity: usize) -> Self {
        Rows { extent, offset: 0, capacity }
    }

    /// Rows `offset..offset + capacity` of these.
    pub fn chunk(self, offset: usize, capacity: usize) -> Self {
        Rows {
            extent: self.extent,
            offset: self.offset + offset,
            capacity: capacity.min(self.capacity.saturating_sub(offset)),
        }
    }

    /// Rows in use in a step with these extents.
    pub fn count(&self, extents: &Extents) -> usize {
        let total = match self.extent {
            Extent::Fixed => return self.capacity,
            Extent::Tokens => extents.tokens,
            Extent::Sequences => extents.sequences,
            Extent::Labelled => extents.labelled,
        };
        total.saturating_sub(self.offset).min(self.capacity)
    }
}

/// Names a tensor of one plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TensorId(pub u32);

/// The type of a tensor's elements. `Float` and `Half` are f32 and f16 on the GPU; on the CPU both are the scalar of
/// the executor. Kernels compute in f32 whatever they read and write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Element {
    Float,
    Half,
    Uint,
}

impl Element {
    /// Bytes of an element on the GPU.
    pub fn bytes(self) -> u64 {
        match self {
            Element::Half => 2,
            Element::Float | Element::Uint => 4,
        }
    }
}

/// How activations and their gradients are kept between ops. Parameters, their gradients and moments, statistics,
/// logits and losses are f32 always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    #[default]
    F32,
    F16,
}

impl Precision {
    /// As configurations, flags and reports write them.
    pub const NAMES: [&str; 2] = ["f32", "f16"];

    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

impl std::str::FromStr for Precision {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "f32" => Ok(Precision::F32),
            "f16" => Ok(Precision::F16),
            _ => Err(format!("precision is {text}; it must be {}", Self::NAMES.join(" or "))),
        }
    }
}

/// What a tensor is for; decides where it lives and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    Parameter,
    Gradient,
    FirstMoment,
    SecondMoment,
    /// Uploaded with every micro-batch.
    Batch,
    /// Lives through the whole step and is read back (losses, counts, the clip factor).
    Metric,
    /// Lives from its first writer to its last reader within the micro-batch.
    Activation,
    /// As `Activation`, for gradients of activations.
    ActivationGradient,
    /// As `Activation`, used by a single op.
    Scratch,
}

/// A tensor of a plan: `rows × columns`, row-major, without gaps.
#[derive(Clone, Debug)]
pub struct TensorInfo {
    pub name: String,
    pub rows: Rows,
    pub columns: usize,
    pub element: Element,
    pub role: Role,
}

impl TensorInfo {
    /// Elements at full capacity.
    pub fn elements(&self) -> usize {
        self.rows.capacity * self.columns
    }
}

/// The scalars of one step and micro-batch, as kernels see them (uniform, binding 0 of every kernel).
///
/// The layout is that of `struct Step` in `shaders/prelude.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
pub struct StepValues {
    /// Rows of packed activations in use.
    pub tokens: u32,
    pub sequences: u32,
    pub labelled: u32,
    /// Index in the whole batch of this micro-batch's first sequence: a coordinate of random draws.
    pub first_sequence: u32,
    /// Key of all draws of this step (`random::derive(root(seed), step)`).
    pub key: [u32; 2],
    /// Learning rate of this update.
    pub learning_rate: f32,
    /// Factor on all gradients of the losses; 1 except under dynamic loss scaling.
    pub loss_scale: f32,
    /// Weight of the labelled rows of the whole batch: Σ w of the masked slots, or what the items count.
    pub labelled_total: f32,
    /// Real tokens of the whole batch.
    pub tokens_total: f32,
    /// A larger norm of the gradients makes the update change nothing; 0 for any.
    pub norm_limit: f32,
    /// 1 / the temperature of the softmax that replacements are drawn from.
    pub inverse_temperature: f32,
    /// Of the discriminator's loss in this step.
    pub discriminator_weight: f32,
    /// What Adam's first moment and its ε are multiplied by; 1 each without bias correction.
    pub moment_scale: f32,
    pub epsilon_scale: f32,
    pub reserved: u32,
}

impl Default for StepValues {
    /// All 0 but for Adam's scales, which correct nothing.
    fn default() -> Self {
        StepValues { moment_scale: 1.0, epsilon_scale: 1.0, ..bytemuck::Zeroable::zeroed() }
    }
}

impl StepValues {
    pub fn extents(&self) -> Extents {
        Extents {
            tokens: self.tokens as usize,
            sequences: self.sequences as usize,
            labelled: self.labelled as usize,
        }
    }
}

/// Dropout at one site of the model.
///
/// An element is dropped where its 16 random bits are below `threshold`; what stays is multiplied by
/// `scale`, the reciprocal of the exact probability of staying. The bits of channel c of a row are half-word
/// c mod 4 of `threefry(derive(step key, site, sequence), [position, c / 4])` (attention: see `ops::attention`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// Of 65,536; 0 switches dropout off.
    pub threshold: u32,
    pub scale: f32,
    /// Identifies the place in the model: network, layer, sub-layer.
    pub site: u32,
}

impl Dropout {
    pub fn new(probability: f64, site: u32) -> Self {
        let threshold = (probability * 65536.0).round().clamp(0.0, 65535.0) as u32;
        Dropout { threshold, scale: (65536.0 / (65536.0 - f64::from(threshold))) as f32, site }
    }

    pub fn off() -> Self {
        Dropout::new(0.0, 0)
    }

    pub fn is_on(&self) -> bool {
        self.threshold != 0
    }
}

/// The four 16-bit draws of one block, in channel order.
#[inline(always)]
pub fn dropout_block(key: [u32; 2], counter: [u32; 2]) -> [u32; 4] {
    let [a, b] = random::threefry(key, counter);
    [a & 0xffff, a >> 16, b & 0xffff, b >> 16]
}
