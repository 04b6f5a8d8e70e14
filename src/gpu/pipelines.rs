//! Compiled kernels, shared by all executors of a device: one pipeline for each shader with its constants.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use anyhow::{Context, Result, bail};
use rayon::prelude::*;

use crate::ops::Dispatch;
use crate::plan::Access;
use crate::tensor::Element;

use super::capabilities::IMMEDIATE_BYTES;
use super::handle::{Handle, one_line};
use super::{shader, tuning};

/// Element type of a binding, and whether it is written.
pub(super) type Slot = (Element, Access);

/// What makes two pipelines differ.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct PipelineKey {
    shader: &'static str,
    constants: Vec<(&'static str, u32)>,
    /// Element types of the bindings.
    elements: Vec<Element>,
    /// Which bindings are written.
    written: Vec<bool>,
    immediate_words: usize,
    checked: bool,
}

pub(super) struct Pipeline {
    pub pipeline: wgpu::ComputePipeline,
    pub layout: wgpu::BindGroupLayout,
}

/// The driver's compiled kernels, kept on disk: the next run starts at once.
struct PipelineCache {
    inner: wgpu::PipelineCache,
    path: PathBuf,
    /// Bytes on disk, to see whether there is something new.
    kept: Mutex<usize>,
}

impl PipelineCache {
    /// Nothing where the device or the system has no place for it: a cache is never worth an error.
    fn open(device: &wgpu::Device, adapter: &wgpu::Adapter) -> Option<Self> {
        if !device.features().contains(wgpu::Features::PIPELINE_CACHE) {
            return None;
        }
        // The key is the driver's own: data of another version has another name.
        let key = wgpu::util::pipeline_cache_key(&adapter.get_info())?;
        let path = tuning::folder().ok()?.join(format!("{key}.pipelines"));
        let data = std::fs::read(&path).unwrap_or_default();
        let descriptor = wgpu::PipelineCacheDescriptor {
            label: Some("inazuma"),
            data: (!data.is_empty()).then_some(&data[..]),
            fallback: true,
        };
        // SAFETY: the data are what `get_data` gave for this key, written whole or not at all; wgpu and the
        // driver check a header in it, and `fallback` makes them start afresh where it does not match.
        let inner = unsafe { device.create_pipeline_cache(&descriptor) };
        Some(PipelineCache { inner, path, kept: Mutex::new(data.len()) })
    }

    fn keep(&self) {
        let Some(data) = self.inner.get_data() else { return };
        let mut kept = self.kept.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        // Where it cannot be written, the next run compiles again.
        if data.len() != *kept && tuning::write(&self.path, &data).is_ok() {
            *kept = data.len();
        }
    }
}

impl PipelineKey {
    fn of(dispatch: &Dispatch, slots: &[Slot], checked: bool) -> Self {
        PipelineKey {
            shader: dispatch.shader,
            constants: dispatch.constants.clone(),
            elements: slots.iter().map(|(element, _)| *element).collect(),
            written: slots.iter().map(|(_, access)| *access == Access::ReadWrite).collect(),
            immediate_words: dispatch.immediates.words.len(),
            checked,
        }
    }
}

/// The pipelines of a device.
pub(super) struct Pipelines {
    compiled: Mutex<HashMap<PipelineKey, Arc<Pipeline>>>,
    /// Where the driver keeps compiled kernels, if it can.
    kept: Option<PipelineCache>,
}

impl Pipelines {
    pub fn open(device: &wgpu::Device, adapter: &wgpu::Adapter) -> Self {
        Pipelines { compiled: Mutex::default(), kept: PipelineCache::open(device, adapter) }
    }

    fn compiled(&self) -> MutexGuard<'_, HashMap<PipelineKey, Arc<Pipeline>>> {
        self.compiled.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Compiles what these dispatches, each with the slots of its bindings, need: each pipeline once, on all cores. `checked` modules test every index and zero workgroup memory: slower, for tests. What was compiled is
    /// kept for the next run.
    pub fn compile_all<'a>(
        &self,
        handle: &Handle,
        dispatches: impl Iterator<Item = (&'a Dispatch, Vec<Slot>)>,
        checked: bool,
    ) -> Result<()> {
        let mut keys: Vec<PipelineKey> =
            dispatches.map(|(dispatch, slots)| PipelineKey::of(dispatch, &slots, checked)).collect();
        let mut seen = HashSet::new();
        keys.retain(|key| seen.insert(key.clone()) && !self.compiled().contains_key(key));
        keys.into_par_iter().try_for_each(|key| {
            let pipeline = Arc::new(self.compile(handle, &key)?);
            self.compiled().insert(key, pipeline);
            anyhow::Ok(())
        })?;
        if let Some(cache) = &self.kept {
            cache.keep();
        }
        Ok(())
    }

    /// The compiled pipeline of a dispatch.
    pub fn get(&self, dispatch: &Dispatch, slots: &[Slot], checked: bool) -> Result<Arc<Pipeline>> {
        let found = self.compiled().get(&PipelineKey::of(dispatch, slots, checked)).cloned();
        found.with_context(|| format!("{} was not compiled", dispatch.shader))
    }

    fn compile(&self, handle: &Handle, key: &PipelineKey) -> Result<Pipeline> {
        let source = shader::assemble(key.shader, &key.constants, &key.elements)?;
        let descriptor = wgpu::ShaderModuleDescriptor {
            label: Some(key.shader),
            source: wgpu::ShaderSource::Wgsl(source.text.as_str().into()),
        };
        let checks = if key.checked {
            wgpu::ShaderRuntimeChecks::checked()
        } else {
            wgpu::ShaderRuntimeChecks::unchecked()
        };
        let scope = handle.device.push_error_scope(wgpu::ErrorFilter::Validation);
        // SAFETY: the shaders are ours, and tested in checked modules for indices out of bounds.
        let module = unsafe { handle.device.create_shader_module_trusted(descriptor, checks) };
        if let Some(error) = pollster::block_on(scope.pop()) {
            let info = pollster::block_on(module.get_compilation_info());
            let location = info.messages.iter().find_map(|message| message.location);
            let line = location.map(|at| source.locate(at.line_number as usize));
            let place = line.unwrap_or_else(|| format!("shaders/{}.wgsl", key.shader));
            bail!("{place}: {}", one_line(&error.to_string()));
        }
        handle
            .guarded(|| self.create(&handle.device, key, &module))
            .with_context(|| format!("shaders/{}.wgsl with {:?}", key.shader, key.constants))
    }

    fn create(&self, device: &wgpu::Device, key: &PipelineKey, module: &wgpu::ShaderModule) -> Pipeline {
        let entry = |(binding, ty): (usize, wgpu::BufferBindingType)| wgpu::BindGroupLayoutEntry {
            binding: binding as u32,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
            count: None,
        };
        let storage =
            key.written.iter().map(|&written| wgpu::BufferBindingType::Storage { read_only: !written });
        let entries: Vec<_> =
            std::iter::once(wgpu::BufferBindingType::Uniform).chain(storage).enumerate().map(entry).collect();
        let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some(key.shader),
            entries: &entries,
        });
        let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(key.shader),
            bind_group_layouts: &[Some(&layout)],
            immediate_size: (4 * key.immediate_words as u32).min(IMMEDIATE_BYTES),
        });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(key.shader),
            layout: Some(&pipeline_layout),
            module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &[],
                zero_initialize_workgroup_memory: key.checked,
            },
            cache: self.kept.as_ref().map(|cache| &cache.inner),
        });
        Pipeline { pipeline, layout }
    }
}
