//! Every shader variant validates and translates for Vulkan, Metal and DirectX, without a GPU.

use std::collections::HashSet;
use std::sync::Mutex;

use inazuma::gpu::{self, shader, sums};
use inazuma::model::{BatchCapacity, EmbeddingSharing, Mode, ModelConfig, PretrainPlan, StepOptions};
use inazuma::ops::gelu::Gelu;
use inazuma::ops::immediates::{Immediates, Word};
use inazuma::ops::{Binding, Candidate, Count, Dispatch, Grid, Kind, Requirements, Touch, bind};
use inazuma::plan::{Access, Bound, Plan, PlanBuilder};
use inazuma::tensor::{Element, Precision, Role, Rows, StepValues};
use naga::back::{hlsl, msl, spv};
use naga::valid::{Capabilities, ValidationFlags, Validator};

/// WebGPU's defaults: what a candidate may use that asks for nothing.
const INVOCATIONS: u32 = 256;
const WORKGROUP_MEMORY: u32 = 16 << 10;
const STORAGE_BUFFERS: usize = 8;

/// Validates and translates all dispatches of a candidate of this plan, each variant once, and checks that the candidate
/// asks for what its kernels use. `compare` does this for every op it runs.
pub fn validate(candidate: &Candidate, plan: &Plan, op: usize) {
    static DONE: Mutex<Option<HashSet<String>>> = Mutex::new(None);
    let half = plan.is_half();
    // What rounds operands to f16 is for plans in half precision.
    for dispatch in candidate.dispatches.iter().filter(|_| half || !candidate.requires.half) {
        let bound = plan.bound(op, dispatch).unwrap_or_else(|error| panic!("{error:#}"));
        let elements: Vec<Element> = bound.iter().map(|binding| binding.element).collect();
        let (constants, requires) = (&dispatch.constants, &candidate.requires);
        let fields = &dispatch.immediates.fields;
        let key = format!("{} {constants:?} {elements:?} {requires:?} {fields:?}", dispatch.shader);
        if DONE.lock().unwrap().get_or_insert_default().insert(key) {
            translate(dispatch, &bound, candidate);
            check_kinds(dispatch, plan, op);
        }
    }
}

fn translate(dispatch: &Dispatch, bound: &[Bound], candidate: &Candidate) {
    let elements: Vec<Element> = bound.iter().map(|binding| binding.element).collect();
    let name = format!("shaders/{}.wgsl with {:?}, {elements:?}", dispatch.shader, dispatch.constants);
    let source = shader::assemble(dispatch.shader, &dispatch.constants, &elements);
    let source = source.unwrap_or_else(|error| panic!("{error:#}"));
    let module = naga::front::wgsl::parse_str(&source.text)
        .unwrap_or_else(|error| panic!("{name}: {}", error.emit_to_string(&source.text)));
    let mut capabilities = Capabilities::IMMEDIATES;
    let cooperative = candidate.requires.cooperative.is_some();
    if elements.contains(&Element::Half) || cooperative {
        capabilities |= Capabilities::SHADER_FLOAT16;
    }
    if cooperative {
        capabilities |= Capabilities::COOPERATIVE_MATRIX;
    }
    if candidate.requires.subgroups {
        capabilities |= Capabilities::SUBGROUP;
    }
    if candidate.requires.subgroup_barriers {
        capabilities |= Capabilities::SUBGROUP_BARRIER;
    }
    let info = Validator::new(ValidationFlags::all(), capabilities)
        .subgroup_stages(naga::valid::ShaderStages::COMPUTE)
        .subgroup_operations(naga::valid::SubgroupOperationSet::all())
        .validate(&module)
        .unwrap_or_else(|error| panic!("{name}: {}", error.emit_to_string(&source.text)));
    limits(&name, &module, dispatch, candidate);
    check_bindings(&name, &module, bound);
    check_immediates(&name, &module, dispatch);
    check_step(&name, &module);

    spv::write_vec(&module, &info, &spv::Options::default(), None)
        .unwrap_or_else(|error| panic!("{name}: SPIR-V: {error}"));
    let options = msl::Options { lang_version: (2, 4), ..msl::Options::default() };
    let (msl, _) = msl::write_string(&module, &info, &options, &msl::PipelineOptions::default())
        .unwrap_or_else(|error| panic!("{name}: MSL: {error}"));
    // HLSL has no cooperative matrices.
    if let Some(matrices) = candidate.requires.cooperative {
        if matrices == APPLE {
            matrices_of_scalars(&name, &module, &msl);
        }
        return;
    }
    let options = hlsl::Options {
        // f16 is 16 bits wide from 6.2 on.
        shader_model: hlsl::ShaderModel::V6_2,
        special_constants_binding: Some(hlsl::BindTarget { space: 1, ..Default::default() }),
        immediates_target: Some(hlsl::BindTarget { space: 2, ..Default::default() }),
        ..hlsl::Options::default()
    };
    let mut text = String::new();
    hlsl::Writer::new(&mut text, &options, &hlsl::PipelineOptions::default())
        .write(&module, &info, None)
        .unwrap_or_else(|error| panic!("{name}: HLSL: {error}"));
}

/// Matrices of 8 in subgroups of 32 lanes are Apple's.
const APPLE: (u32, u32) = (8, 32);

/// MSL loads matrices from pointers to scalars and stores them there; naga passes on whatever pointer it is given.
fn matrices_of_scalars(name: &str, module: &naga::Module, msl: &str) {
    let elements = |variable: &naga::GlobalVariable| match module.types[variable.ty].inner {
        naga::TypeInner::Array { base, .. } => Some(&module.types[base].inner),
        _ => None,
    };
    let scalars = module.global_variables.iter().filter_map(|(_, variable)| {
        let scalar = matches!(elements(variable), Some(naga::TypeInner::Scalar(_)));
        variable.name.as_deref().filter(|_| scalar)
    });
    let scalars: Vec<&str> = scalars.collect();
    let touched = ["NagaCooperativeLoad(&", "simdgroup_store("];
    let lines = msl.lines().filter(|line| touched.iter().any(|call| line.contains(call)));
    for line in lines {
        let pointer = line.split('&').nth(1).unwrap_or_default();
        let known = scalars.iter().any(|variable| pointer.starts_with(variable));
        assert!(known, "{name}: MSL: no scalars: {}", line.trim());
    }
}

/// What the kernel uses, against what its candidate says and what WebGPU guarantees.
fn limits(name: &str, module: &naga::Module, dispatch: &Dispatch, candidate: &Candidate) {
    let requires = &candidate.requires;
    let invocations: u32 = module.entry_points.iter().map(|e| e.workgroup_size.iter().product::<u32>()).sum();
    assert!(
        module.entry_points.len() == 1 && module.entry_points[0].name == "main",
        "{name}: one entry point"
    );
    assert!(invocations <= INVOCATIONS.max(requires.invocations), "{name}: {invocations} invocations");
    let shared = module.global_variables.iter().filter(|(_, v)| v.space == naga::AddressSpace::WorkGroup);
    let memory: u32 =
        shared.map(|(_, v)| module.types[v.ty].inner.size(module.to_ctx()).next_multiple_of(16)).sum();
    let allowed = WORKGROUP_MEMORY.max(requires.workgroup_memory);
    assert!(memory <= allowed, "{name}: {memory} bytes of workgroup memory");
    let bindings = dispatch.bindings.len();
    let allowed = STORAGE_BUFFERS.max(requires.storage_buffers as usize);
    assert!(bindings <= allowed, "{name}: {bindings} storage buffers");
    let words = dispatch.immediates.words.len();
    assert!(words <= 32, "{name}: {words} words of immediates");
}

/// Bindings of the shader, against those of the dispatch: number, access, and whether they hold integers.
fn check_bindings(name: &str, module: &naga::Module, bound: &[Bound]) {
    let mut found = 0;
    for (_, variable) in module.global_variables.iter() {
        let naga::AddressSpace::Storage { access } = variable.space else { continue };
        let Some(binding) = &variable.binding else { continue };
        let index = binding.binding as usize;
        let bound = index.checked_sub(1).and_then(|index| bound.get(index));
        let bound = bound.unwrap_or_else(|| panic!("{name}: the dispatch has no binding {index}"));
        let writes = access.contains(naga::StorageAccess::STORE);
        let allowed = bound.access == Access::ReadWrite;
        assert!(writes == allowed, "{name}: binding {index}: access differs from the dispatch's");
        let integers = scalar(module, variable.ty).kind == naga::ScalarKind::Uint;
        // Zeros are the same bits in every type.
        let wanted = bound.element == Element::Uint;
        assert!(integers == wanted || name.contains("/clear.wgsl"), "{name}: binding {index}: not the type");
        found += 1;
    }
    assert!(found == bound.len(), "{name}: {found} bindings, the dispatch has {}", bound.len());
}

/// `struct Step` of the prelude, against `StepValues`: names and offsets.
fn check_step(name: &str, module: &naga::Module) {
    macro_rules! fields {
        ($($field:ident),*) => { [$((stringify!($field), std::mem::offset_of!(StepValues, $field))),*] };
    }
    let expected = fields!(
        tokens,
        sequences,
        labelled,
        first_sequence,
        key,
        learning_rate,
        loss_scale,
        labelled_total,
        tokens_total,
        norm_limit,
        inverse_temperature,
        discriminator_weight,
        moment_scale,
        epsilon_scale,
        reserved
    );
    let mut uniforms = module.global_variables.iter().filter(|(_, v)| v.space == naga::AddressSpace::Uniform);
    let (_, step) = uniforms.next().unwrap_or_else(|| panic!("{name}: no step uniform"));
    let naga::TypeInner::Struct { members, span } = &module.types[step.ty].inner else {
        panic!("{name}: the step uniform is a struct");
    };
    let found: Vec<(&str, usize)> =
        members.iter().map(|m| (m.name.as_deref().unwrap_or_default(), m.offset as usize)).collect();
    assert_eq!(found, expected, "{name}: fields of the step uniform");
    assert_eq!(*span as usize, size_of::<StepValues>(), "{name}: bytes of the step uniform");
}

/// The scalar that a type is made of.
fn scalar(module: &naga::Module, ty: naga::Handle<naga::Type>) -> naga::Scalar {
    match module.types[ty].inner {
        naga::TypeInner::Scalar(scalar) | naga::TypeInner::Atomic(scalar) => scalar,
        naga::TypeInner::Vector { scalar, .. } => scalar,
        naga::TypeInner::Array { base, .. } => scalar(module, base),
        naga::TypeInner::Struct { ref members, .. } => scalar(module, members[0].ty),
        ref other => panic!("a binding of {other:?}"),
    }
}

/// `struct Immediates` of the shader, against the struct in Rust: names, offsets and types of all fields, in order.
fn check_immediates(name: &str, module: &naga::Module, dispatch: &Dispatch) {
    let mut of_shader = Vec::new();
    let mut bytes = 0;
    for (_, variable) in module.global_variables.iter() {
        if !matches!(variable.space, naga::AddressSpace::Immediate) {
            continue;
        }
        let naga::TypeInner::Struct { members, span } = &module.types[variable.ty].inner else {
            panic!("{name}: immediates are a struct");
        };
        bytes = *span as usize;
        for member in members {
            let word = match module.types[member.ty].inner {
                naga::TypeInner::Scalar(naga::Scalar::U32) => Word::U32,
                naga::TypeInner::Scalar(naga::Scalar::I32) => Word::I32,
                naga::TypeInner::Scalar(naga::Scalar::F32) => Word::F32,
                ref other => panic!("{name}: immediates of {other:?}"),
            };
            of_shader.push((member.name.clone().expect("members have names"), member.offset as usize, word));
        }
    }
    let immediates = &dispatch.immediates;
    let of_dispatch: Vec<(String, usize, Word)> =
        immediates.fields.iter().map(|field| (field.name.to_owned(), field.offset, field.word)).collect();
    assert_eq!(of_shader, of_dispatch, "{name}: fields of the immediates, in the shader and in Rust");
    assert_eq!(bytes, 4 * immediates.words.len(), "{name}: bytes of immediates");
}

/// What an op declares as `Activation` may be of half precision: its kernels then take it so, or assembling fails.
fn check_kinds(dispatch: &Dispatch, plan: &Plan, op: usize) {
    let declared = |binding: &Binding| {
        let used = plan.ops[op].tensors.iter().find(|used| used.tensor == binding.tensor());
        match used.expect("declared").kind {
            Kind::Activation if plan.info(binding.tensor()).element != Element::Uint => Element::Half,
            Kind::Uint => Element::Uint,
            _ => Element::Float,
        }
    };
    let elements: Vec<Element> = dispatch.bindings.iter().map(declared).collect();
    if dispatch.shader != "clear" {
        shader::assemble(dispatch.shader, &dispatch.constants, &elements)
            .unwrap_or_else(|error| panic!("{error:#}"));
    }
}

/// The kernels of whole steps, at the widths of the presets, in both precisions.
#[test]
fn every_kernel_of_a_step() {
    for (hidden_size, embedding_size) in [(256, 128), (768, 768), (33, 33)] {
        let config = ModelConfig {
            vocab_size: 500,
            embedding_size,
            hidden_size,
            layers: 1,
            heads: hidden_size.div_ceil(128),
            ffn_size: 4 * hidden_size,
            max_positions: 64,
            generator_hidden_size: 32,
            generator_layers: 1,
            generator_heads: 1,
            generator_ffn_size: 128,
            embedding_sharing: EmbeddingSharing::Shared,
        };
        let capacity = BatchCapacity { tokens: 128, sequences: 2, labelled: 20, max_length: 64 };
        for (mode, precision) in [
            (Mode::Train, Precision::F32),
            (Mode::Train, Precision::F16),
            (Mode::Parity, Precision::F32),
            (Mode::Evaluate, Precision::F32),
        ] {
            let options = StepOptions { mode, precision, ..StepOptions::default() };
            let plan = PretrainPlan::new(&config, capacity, &options).expect("a plan").plan;
            for op in 0..plan.ops.len() {
                let candidates = plan.candidates(op).expect("within the limits");
                candidates.iter().for_each(|candidate| validate(candidate, &plan, op));
            }
            validate_sums(&plan);
        }
    }
}

/// The kernels that add up partial sums, of ops alone and of groups, within the limits of different adapters.
fn validate_sums(plan: &Plan) {
    for adapter in [gpu::Capabilities::baseline(), gpu::Capabilities::desktop()] {
        let alone = (0..plan.ops.len()).map(|op| vec![op]);
        for ops in alone.chain(plan.sum_groups.iter().map(|group| group.ops.clone())) {
            for sums in sums::dispatches(plan, &ops, &adapter).expect("declared") {
                let slots = sums.slots();
                assert!(slots.len() <= adapter.storage_buffers as usize, "{} storage buffers", slots.len());
                let bound = |(element, access)| Bound {
                    tensor: sums.tensors[0],
                    element,
                    access,
                    touch: Touch::Accumulate,
                };
                let bound: Vec<Bound> = slots.into_iter().map(bound).collect();
                let candidate = Candidate::only("sums", sums.dispatch()).swap_remove(0);
                translate(&candidate.dispatches[0], &bound, &candidate);
            }
        }
    }
}

/// The probe of subgroups is no op's: it has no other dispatch.
#[test]
fn the_probe_of_lanes() {
    for matrix in [0, 8, 16] {
        let mut builder = PlanBuilder::new();
        let output = builder.tensor("output", Rows::fixed(3), 1, Element::Uint, Role::Batch);
        let dispatch = Dispatch {
            shader: "probe_lanes",
            constants: vec![("MATRIX", matrix), ("THREADS", 256)],
            bindings: bind([output]),
            immediates: Immediates::default(),
            grid: Grid(vec![Count::Fixed(1)]),
        };
        let (access, touch) = (Access::ReadWrite, Touch::Write);
        let bound = Bound { tensor: output, element: Element::Uint, access, touch };
        let cooperative = (matrix > 0).then_some((matrix, 32));
        let requires = Requirements { subgroups: true, cooperative, ..Requirements::default() };
        let candidate = Candidate { strategy: "probe", requires, dispatches: vec![] };
        translate(&dispatch, &[bound], &candidate);
    }
}

/// Fields in another order than the shader's are found.
#[test]
#[should_panic(expected = "fields of the immediates")]
fn immediates_of_other_fields_are_found() {
    let mut builder = PlanBuilder::new();
    let rows = Rows::fixed(4);
    let [input, output] = ["x", "y"].map(|name| builder.activation(name, rows, 4));
    builder.push("gelu", Gelu { input, output, rows, columns: 4 });
    let plan = builder.build(&[]).expect("a plan");
    let mut candidate = plan.candidates(0).expect("kernels").swap_remove(0);
    candidate.dispatches[0].immediates.fields.swap(0, 1);
    let bound = plan.bound(0, &candidate.dispatches[0]).expect("declared");
    translate(&candidate.dispatches[0], &bound, &candidate);
}
