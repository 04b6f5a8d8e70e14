//! Mesa's RADV without a device: WGSL → SPIR-V → machine code, registers and statistics.
//!
//! Everything is done as wgpu 30 does it for `Gpu::compile`, because it changes the code: unchecked indices, no bounds
//! on loops, workgroup memory not cleared, SPIR-V 1.6, and a device with robust buffer access (which costs nothing
//! by itself but keeps RADV from joining loads of neighbours).

use std::collections::BTreeMap;
use std::ffi::CStr;

use anyhow::{Context, Result, anyhow, bail, ensure};
use ash::vk;
use inazuma::gpu::shader::Source;
use naga::back::spv;
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use naga::valid::{Capabilities, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator};

use crate::cards::Card;

/// What the compiler says of a kernel.
pub struct Compiled {
    /// Threads of a workgroup, and those of a subgroup.
    pub threads: u32,
    pub lanes: u32,
    /// As named by the driver: `VGPRs`, `LDS size`, `Spilled VGPRs`, …
    pub statistics: BTreeMap<String, u64>,
    /// The disassembly.
    pub isa: String,
}

impl Compiled {
    pub fn statistic(&self, name: &str) -> u64 {
        self.statistics.get(name).copied().unwrap_or(0)
    }
}

/// An open null device. Nothing is destroyed: the program ends with it.
pub struct Compiler {
    pub card: &'static Card,
    device: ash::Device,
    executables: ash::khr::pipeline_executable_properties::Device,
    /// Name of device and driver.
    pub name: String,
    _entry: ash::Entry,
    _instance: ash::Instance,
}

fn text(chars: &[std::ffi::c_char]) -> String {
    // SAFETY: Vulkan ends its names with a zero within the array.
    unsafe { CStr::from_ptr(chars.as_ptr()) }.to_string_lossy().into_owned()
}

impl Compiler {
    /// Opens RADV for the chip of a card; the script has pointed the loader at RADV alone.
    pub fn open(card: &'static Card) -> Result<Self> {
        // SAFETY: no other thread runs yet. And the calls of Vulkan in their order; all structures live through their calls.
        unsafe {
            std::env::set_var("RADV_FORCE_FAMILY", card.family);
            let entry = ash::Entry::load().context("no Vulkan loader (package libvulkan1)")?;
            let application = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_3);
            let info = vk::InstanceCreateInfo::default().application_info(&application);
            let instance = entry.create_instance(&info, None).context("vkCreateInstance")?;
            let physical = instance.enumerate_physical_devices()?.into_iter().next();
            let physical =
                physical.context("RADV offers no device: start tools/gcn-report, not this program")?;
            let mut driver = vk::PhysicalDeviceDriverProperties::default();
            let mut properties = vk::PhysicalDeviceProperties2::default().push_next(&mut driver);
            instance.get_physical_device_properties2(physical, &mut properties);
            let device_name = text(&properties.properties.device_name);
            let name = format!("{device_name}, {} {}", text(&driver.driver_name), text(&driver.driver_info));
            ensure!(card.is_device(&device_name), "{name} is not {}", card.family);
            let device = create_device(&instance, physical, card)?;
            let executables = ash::khr::pipeline_executable_properties::Device::new(&instance, &device);
            Ok(Compiler { card, device, executables, name, _entry: entry, _instance: instance })
        }
    }

    /// Compiles a kernel with this many tensors and words of immediates.
    pub fn compile(&self, source: &Source, bindings: usize, immediates: usize) -> Result<Compiled> {
        let (words, threads) = translate(source)?;
        // SAFETY: as in `open`.
        unsafe {
            let pipeline = self.pipeline(&words, bindings, immediates)?;
            let info = vk::PipelineExecutableInfoKHR::default().pipeline(pipeline).executable_index(0);
            let mut statistics = BTreeMap::new();
            for statistic in self.executables.get_pipeline_executable_statistics(&info)? {
                let value = match statistic.format {
                    vk::PipelineExecutableStatisticFormatKHR::UINT64 => statistic.value.u64,
                    vk::PipelineExecutableStatisticFormatKHR::INT64 => statistic.value.i64 as u64,
                    _ => continue,
                };
                statistics.insert(text(&statistic.name), value);
            }
            let isa = self.disassembly(&info)?;
            let lanes = self.lanes(pipeline)?;
            self.device.destroy_pipeline(pipeline, None);
            Ok(Compiled { threads, lanes, statistics, isa })
        }
    }

    unsafe fn pipeline(&self, words: &[u32], bindings: usize, immediates: usize) -> Result<vk::Pipeline> {
        // SAFETY: the caller's promise.
        unsafe {
            let module =
                self.device.create_shader_module(&vk::ShaderModuleCreateInfo::default().code(words), None)?;
            let kind = |binding: usize| match binding {
                0 => vk::DescriptorType::UNIFORM_BUFFER,
                _ => vk::DescriptorType::STORAGE_BUFFER,
            };
            let bindings: Vec<_> = (0..=bindings)
                .map(|binding| {
                    vk::DescriptorSetLayoutBinding::default()
                        .binding(binding as u32)
                        .descriptor_type(kind(binding))
                        .descriptor_count(1)
                        .stage_flags(vk::ShaderStageFlags::COMPUTE)
                })
                .collect();
            let info = vk::DescriptorSetLayoutCreateInfo::default().bindings(&bindings);
            let sets = [self.device.create_descriptor_set_layout(&info, None)?];
            let ranges = [vk::PushConstantRange::default()
                .stage_flags(vk::ShaderStageFlags::COMPUTE)
                .size(4 * immediates.max(1) as u32)];
            let info =
                vk::PipelineLayoutCreateInfo::default().set_layouts(&sets).push_constant_ranges(&ranges);
            let layout = self.device.create_pipeline_layout(&info, None)?;
            let mut lanes = vk::PipelineShaderStageRequiredSubgroupSizeCreateInfo::default()
                .required_subgroup_size(self.card.lanes);
            let mut stage = vk::PipelineShaderStageCreateInfo::default()
                .stage(vk::ShaderStageFlags::COMPUTE)
                .module(module)
                .name(c"main");
            if self.card.demand_lanes {
                stage = stage.push_next(&mut lanes);
            }
            let info = vk::ComputePipelineCreateInfo::default().stage(stage).layout(layout).flags(
                vk::PipelineCreateFlags::CAPTURE_STATISTICS_KHR
                    | vk::PipelineCreateFlags::CAPTURE_INTERNAL_REPRESENTATIONS_KHR,
            );
            let made = self.device.create_compute_pipelines(vk::PipelineCache::null(), &[info], None);
            let pipelines = made.map_err(|(_, error)| error).context("vkCreateComputePipelines")?;
            self.device.destroy_pipeline_layout(layout, None);
            self.device.destroy_descriptor_set_layout(sets[0], None);
            self.device.destroy_shader_module(module, None);
            Ok(pipelines[0])
        }
    }

    unsafe fn lanes(&self, pipeline: vk::Pipeline) -> Result<u32> {
        let get = self.executables.fp().get_pipeline_executable_properties_khr;
        let info = vk::PipelineInfoKHR::default().pipeline(pipeline);
        let mut count = 1;
        let mut found = vk::PipelineExecutablePropertiesKHR::default();
        // SAFETY: one structure of memory for one executable, which is what a compute pipeline has.
        unsafe { get(self.device.handle(), &info, &mut count, &mut found).result()? };
        Ok(found.subgroup_size)
    }

    unsafe fn disassembly(&self, info: &vk::PipelineExecutableInfoKHR<'_>) -> Result<String> {
        let get = self.executables.fp().get_pipeline_executable_internal_representations_khr;
        // SAFETY: asked twice as the extension wants it: for sizes, then with memory of these sizes.
        unsafe {
            let mut count = 0;
            get(self.device.handle(), info, &mut count, std::ptr::null_mut()).result()?;
            let mut found = vec![vk::PipelineExecutableInternalRepresentationKHR::default(); count as usize];
            get(self.device.handle(), info, &mut count, found.as_mut_ptr()).result()?;
            let mut memory: Vec<Vec<u8>> = found.iter().map(|one| vec![0; one.data_size]).collect();
            for (one, bytes) in found.iter_mut().zip(&mut memory) {
                one.p_data = bytes.as_mut_ptr().cast();
            }
            get(self.device.handle(), info, &mut count, found.as_mut_ptr()).result()?;
            let assembly = found.iter().position(|one| text(&one.name).to_lowercase().contains("assembly"));
            let Some(index) = assembly else {
                let names: Vec<String> = found.iter().map(|one| text(&one.name)).collect();
                bail!("the driver gives no assembly, only {}", names.join(", "));
            };
            Ok(String::from_utf8_lossy(&memory[index]).trim_end_matches('\0').to_owned())
        }
    }
}

/// The device as wgpu would open it, and what tells of compiled code.
unsafe fn create_device(
    instance: &ash::Instance,
    physical: vk::PhysicalDevice,
    card: &Card,
) -> Result<ash::Device> {
    let features = vk::PhysicalDeviceFeatures::default().robust_buffer_access(true);
    let mut robustness = vk::PhysicalDeviceRobustness2FeaturesEXT::default().robust_buffer_access2(true);
    let mut executable =
        vk::PhysicalDevicePipelineExecutablePropertiesFeaturesKHR::default().pipeline_executable_info(true);
    let mut storage = vk::PhysicalDevice16BitStorageFeatures::default().storage_buffer16_bit_access(true);
    let mut half = vk::PhysicalDeviceShaderFloat16Int8Features::default().shader_float16(true);
    let mut model = vk::PhysicalDeviceVulkanMemoryModelFeatures::default().vulkan_memory_model(true);
    let mut sizes = vk::PhysicalDeviceSubgroupSizeControlFeatures::default().subgroup_size_control(true);
    let mut cooperative = vk::PhysicalDeviceCooperativeMatrixFeaturesKHR::default().cooperative_matrix(true);
    let mut extensions =
        vec![ash::khr::pipeline_executable_properties::NAME.as_ptr(), ash::ext::robustness2::NAME.as_ptr()];
    let queues = [vk::DeviceQueueCreateInfo::default().queue_priorities(&[1.0])];
    let matrices = card.unit_matrix_flops > 0.0;
    if matrices {
        extensions.push(ash::khr::cooperative_matrix::NAME.as_ptr());
    }
    let mut info = vk::DeviceCreateInfo::default()
        .queue_create_infos(&queues)
        .enabled_extension_names(&extensions)
        .enabled_features(&features)
        .push_next(&mut robustness)
        .push_next(&mut storage)
        .push_next(&mut half)
        .push_next(&mut model)
        .push_next(&mut sizes)
        .push_next(&mut executable);
    if matrices {
        info = info.push_next(&mut cooperative);
    }
    // SAFETY: the caller's promise; the structures live to the end of this function.
    unsafe { instance.create_device(physical, &info, None) }.with_context(|| format!("a device for {card}"))
}

/// SPIR-V of a kernel, and the threads of its workgroup.
fn translate(source: &Source) -> Result<(Vec<u32>, u32)> {
    let module = naga::front::wgsl::parse_str(&source.text)
        .map_err(|error| anyhow!("{}", error.emit_to_string(&source.text)))?;
    let capabilities = Capabilities::IMMEDIATES
        | Capabilities::SUBGROUP
        | Capabilities::SUBGROUP_BARRIER
        | Capabilities::SHADER_FLOAT16
        | Capabilities::COOPERATIVE_MATRIX;
    let info = Validator::new(ValidationFlags::all(), capabilities)
        .subgroup_stages(ShaderStages::COMPUTE)
        .subgroup_operations(SubgroupOperationSet::all())
        .validate(&module)
        .map_err(|error| anyhow!("{}", error.emit_to_string(&source.text)))?;
    let unchecked = BoundsCheckPolicy::Unchecked;
    let options = spv::Options {
        lang_version: (1, 6),
        flags: spv::WriterFlags::LABEL_VARYINGS | spv::WriterFlags::FORCE_POINT_SIZE,
        bounds_check_policies: BoundsCheckPolicies {
            index: unchecked,
            buffer: unchecked,
            image_load: unchecked,
            binding_array: unchecked,
        },
        zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
        force_loop_bounding: false,
        ray_query_initialization_tracking: false,
        emit_int_div_checks: false,
        ..spv::Options::default()
    };
    let words = spv::write_vec(&module, &info, &options, None)?;
    Ok((words, module.entry_points[0].workgroup_size.iter().product()))
}
