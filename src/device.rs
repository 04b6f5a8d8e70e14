use crate::plan::{Executor, Plan};
use anyhow::Result;
#[derive(Clone, Debug)]
pub struct DeviceChoice(String);
impl std::str::FromStr for DeviceChoice {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        Ok(DeviceChoice(s.into()))
    }
}
pub fn open_executor(c: &DeviceChoice, plan: Plan, threads: usize) -> Result<Box<dyn Executor>> {
    if c.0 == "f64" {
        return Ok(Box::new(crate::cpu::CpuExecutor::<f64>::new(plan, threads)?));
    }
    Ok(Box::new(crate::cpu::CpuExecutor::<f32>::new(plan, threads)?))
}
