//! Memory of an adapter, which wgpu does not tell: asked of the driver through wgpu's handles.

use crate::plan::DeviceMemory;

/// The memory that plans of this adapter lie in; nothing where the driver does not say.
pub(super) fn memory(adapter: &wgpu::Adapter) -> Option<DeviceMemory> {
    let memory = native::memory(adapter)?;
    Some(DeviceMemory { free: memory.free.min(memory.total), ..memory })
}

#[cfg(not(target_vendor = "apple"))]
mod native {
    use ash::vk;

    use super::DeviceMemory;

    pub fn memory(adapter: &wgpu::Adapter) -> Option<DeviceMemory> {
        #[cfg(windows)]
        if let Some(memory) = direct_x(adapter) {
            return Some(memory);
        }
        vulkan(adapter)
    }

    /// The largest heap of the device's own, and what `VK_EXT_memory_budget` leaves of it.
    fn vulkan(adapter: &wgpu::Adapter) -> Option<DeviceMemory> {
        // SAFETY: the handle is only asked what it knows, and not kept.
        let adapter = unsafe { adapter.as_hal::<wgpu::hal::api::Vulkan>() }?;
        let (instance, device) = (adapter.shared_instance(), adapter.raw_physical_device());
        let told = adapter.physical_device_capabilities().supports_extension(vk::EXT_MEMORY_BUDGET_NAME);
        let mut budget = vk::PhysicalDeviceMemoryBudgetPropertiesEXT::default();
        // The question with a budget in it is part of Vulkan 1.1.
        let properties = if told && instance.instance_api_version() >= vk::API_VERSION_1_1 {
            let mut properties = vk::PhysicalDeviceMemoryProperties2::default().push_next(&mut budget);
            // SAFETY: the device is the instance's, and has the extension that the budget belongs to.
            unsafe {
                instance.raw_instance().get_physical_device_memory_properties2(device, &mut properties)
            };
            properties.memory_properties
        } else {
            // SAFETY: the device is the instance's.
            unsafe { instance.raw_instance().get_physical_device_memory_properties(device) }
        };
        let own =
            |heap: &usize| properties.memory_heaps[*heap].flags.contains(vk::MemoryHeapFlags::DEVICE_LOCAL);
        let heaps = properties.memory_heap_count as usize;
        let heap = (0..heaps).filter(own).max_by_key(|&heap| properties.memory_heaps[heap].size)?;
        let total = properties.memory_heaps[heap].size;
        let free = match budget.heap_budget[heap] {
            0 => total,
            granted => granted.saturating_sub(budget.heap_usage[heap]),
        };
        Some(DeviceMemory { total, free })
    }

    /// What DXGI grants this process of the memory nearest to the device.
    #[cfg(windows)]
    fn direct_x(adapter: &wgpu::Adapter) -> Option<DeviceMemory> {
        // SAFETY: the handle is only asked what it knows, and not kept.
        let adapter = unsafe { adapter.as_hal::<wgpu::hal::api::Dx12>() }?;
        // The group's default is 0, DXGI_MEMORY_SEGMENT_GROUP_LOCAL.
        let granted = adapter.raw_adapter().query_video_memory_info(Default::default()).ok()?;
        Some(DeviceMemory {
            total: granted.Budget,
            free: granted.Budget.saturating_sub(granted.CurrentUsage),
        })
    }
}

#[cfg(target_vendor = "apple")]
mod native {
    use objc2_metal::MTLDevice;

    use super::DeviceMemory;

    /// What Metal recommends to use at most, less what this process has.
    pub fn memory(adapter: &wgpu::Adapter) -> Option<DeviceMemory> {
        // SAFETY: the handle is only asked what it knows, and not kept.
        let adapter = unsafe { adapter.as_hal::<wgpu::hal::api::Metal>() }?;
        let device = adapter.raw_device();
        let total = device.recommendedMaxWorkingSetSize();
        Some(DeviceMemory { total, free: total.saturating_sub(device.currentAllocatedSize() as u64) })
    }
}
