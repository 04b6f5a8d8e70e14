//! Every shader variant validates and translates for Vulkan, Metal and DirectX, without a GPU.

use std::collections::HashSet;
use std::sync::Mutex;

use inazuma::gpu::shader;
use inazuma::ops::{Candidate, Dispatch};
use inazuma::plan::Plan;
use inazuma::tensor::Element;
use naga::back::{hlsl, msl, spv};
use naga::valid::{Capabilities, ValidationFlags, Validator};

/// WebGPU's defaults: what a candidate may use that asks for nothing.
const INVOCATIONS: u32 = 256;
const WORKGROUP_MEMORY: u32 = 16 << 10;
const STORAGE_BUFFERS: usize = 8;

/// Validates and translates all dispatches of a candidate of this plan, each variant once, and checks that the candidate
/// asks for what its kernels use. `compare` does this for every op it runs.
pub fn validate(candidate: &Candidate, plan: &Plan) {
    static DONE: Mutex<Option<HashSet<String>>> = Mutex::new(None);
    let half = plan.is_half();
    // What rounds operands to halves is for plans in half precision.
    for dispatch in candidate.dispatches.iter().filter(|_| half || !candidate.requires.half) {
        let elements: Vec<Element> = dispatch.bindings.iter().map(|b| plan.info(b.tensor).element).collect();
        let (constants, requires) = (&dispatch.constants, &candidate.requires);
        let key = format!("{} {constants:?} {elements:?} {requires:?}", dispatch.shader);
        if DONE.lock().unwrap().get_or_insert_default().insert(key) {
            translate(dispatch, &elements, candidate);
        }
    }
}

fn translate(dispatch: &Dispatch, elements: &[Element], candidate: &Candidate) {
    let name = format!("shaders/{}.wgsl with {:?}, {elements:?}", dispatch.shader, dispatch.constants);
    let source = shader::assemble(dispatch.shader, &dispatch.constants, elements);
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
    let info = Validator::new(ValidationFlags::all(), capabilities)
        .subgroup_stages(naga::valid::ShaderStages::COMPUTE)
        .subgroup_operations(naga::valid::SubgroupOperationSet::all())
        .validate(&module)
        .unwrap_or_else(|error| panic!("{name}: {}", error.emit_to_string(&source.text)));
    limits(&name, &module, dispatch, candidate);

    spv::write_vec(&module, &info, &spv::Options::default(), None)
        .unwrap_or_else(|error| panic!("{name}: SPIR-V: {error}"));
    let options = msl::Options { lang_version: (2, 4), ..msl::Options::default() };
    msl::write_string(&module, &info, &options, &msl::PipelineOptions::default())
        .unwrap_or_else(|error| panic!("{name}: MSL: {error}"));
    // HLSL has no cooperative matrices.
    if cooperative {
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
    assert!(dispatch.immediates.len() <= 32, "{name}: {} words of immediates", dispatch.immediates.len());
    check_bindings(name, module, dispatch);
}

/// Bindings of the shader, against those of the dispatch: number and access.
fn check_bindings(name: &str, module: &naga::Module, dispatch: &Dispatch) {
    for (_, variable) in module.global_variables.iter() {
        let naga::AddressSpace::Storage { access } = variable.space else { continue };
        let Some(binding) = &variable.binding else { continue };
        let index = binding.binding as usize;
        let declared = index.checked_sub(1).and_then(|index| dispatch.bindings.get(index));
        let declared = declared.unwrap_or_else(|| panic!("{name}: the dispatch has no binding {index}"));
        let writes = access.contains(naga::StorageAccess::STORE);
        let allowed = declared.access == inazuma::ops::Access::ReadWrite;
        assert!(writes == allowed, "{name}: binding {index}: access differs from the dispatch's");
    }
}
