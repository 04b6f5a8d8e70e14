//! What the processor calls itself.

/// Its make and model, where the processor tells: x86 does.
#[cfg(target_arch = "x86_64")]
pub fn name() -> Option<String> {
    let brand = raw_cpuid::CpuId::new().get_processor_brand_string()?;
    Some(brand.as_str().split_whitespace().collect::<Vec<_>>().join(" ")).filter(|name| !name.is_empty())
}

/// Nothing: only x86 tells.
#[cfg(not(target_arch = "x86_64"))]
pub fn name() -> Option<String> {
    None
}
