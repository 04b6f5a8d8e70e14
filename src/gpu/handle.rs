//! The handle of an open device: its queue, and the errors that it reports.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::adapter::{Adapter, WANTED};
use super::capabilities::{Capabilities, IMMEDIATE_BYTES};
use super::faults::{DeviceLost, OutOfMemory};

/// An open device.
pub struct Handle {
    pub device: wgpu::Device,
    pub queue: wgpu::Queue,
    pub capabilities: Capabilities,
    /// The first error nobody waited for.
    complaints: Complaints,
    /// Why the device is gone, once it is.
    lost: Arc<OnceLock<String>>,
}

/// What a device complains of while nobody waits for it: the first error stays.
#[derive(Clone, Default)]
pub struct Complaints(Arc<Mutex<Option<wgpu::Error>>>);

impl Complaints {
    pub fn report(&self, error: wgpu::Error) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }

    fn take(&self) -> Option<wgpu::Error> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Handle {
    /// Opens the adapter with all limits it offers.
    pub fn open(adapter: &Adapter) -> Result<Handle> {
        let capabilities = adapter.capabilities.clone();
        if !capabilities.immediates {
            bail!("{} cannot run our kernels: no immediates of {IMMEDIATE_BYTES} bytes", capabilities.name);
        }
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("inazuma"),
            required_features: adapter.inner.features() & WANTED,
            required_limits: adapter.inner.limits(),
            // SAFETY: of the experimental features we ask for cooperative matrices alone; what uses them is tested.
            experimental_features: unsafe { wgpu::ExperimentalFeatures::enabled() },
            ..Default::default()
        };
        let (device, queue) = pollster::block_on(adapter.inner.request_device(&descriptor))
            .with_context(|| format!("opening {}", capabilities.name))?;
        let complaints = Complaints::default();
        let shared = complaints.clone();
        device.on_uncaptured_error(Arc::new(move |error| shared.report(error)));
        let lost = Arc::new(OnceLock::new());
        let shared = lost.clone();
        // Dropping the device ends in this callback too: then nobody asks any more.
        device.set_device_lost_callback(move |_, message| {
            let _ = shared.set(one_line(&message));
        });
        Ok(Handle { device, queue, capabilities, complaints, lost })
    }

    /// Fails where the device is gone.
    fn present(&self) -> Result<()> {
        match self.lost.get() {
            Some(why) => Err(DeviceLost(format!(
                "{}: the device was lost{}{why}",
                self.capabilities.name,
                if why.is_empty() { "" } else { ": " }
            ))
            .into()),
            None => Ok(()),
        }
    }

    /// Where the device reports what nobody waits for; tests complain here in its place.
    pub fn complaints(&self) -> &Complaints {
        &self.complaints
    }

    /// Fails where the device has reported an error since the last call.
    pub fn check(&self) -> Result<()> {
        self.present()?;
        let Some(error) = self.complaints.take() else { return Ok(()) };
        // A lost device complains of what was made on it first, and says that it is lost when its work has ended.
        let timeout = Some(Duration::from_secs(5));
        let _ = self.device.poll(wgpu::PollType::Wait { submission_index: None, timeout });
        self.present()?;
        let name = &self.capabilities.name;
        match error {
            wgpu::Error::OutOfMemory { .. } => {
                Err(OutOfMemory(format!("{name}: out of device memory")).into())
            }
            error => bail!("{name}: {}", one_line(&error.to_string())),
        }
    }

    /// Runs `f` and turns what the device complains of meanwhile into an error.
    pub fn guarded<R>(&self, f: impl FnOnce() -> R) -> Result<R> {
        use wgpu::ErrorFilter::{self, Internal, Validation};
        let internal = self.device.push_error_scope(Internal);
        let memory = self.device.push_error_scope(ErrorFilter::OutOfMemory);
        let validation = self.device.push_error_scope(Validation);
        let result = f();
        let errors = [validation.pop(), memory.pop(), internal.pop()].map(Pop::wait);
        self.present()?;
        match errors.into_iter().flatten().next() {
            Some(wgpu::Error::OutOfMemory { .. }) => {
                Err(OutOfMemory("out of device memory".to_owned()).into())
            }
            Some(error) => bail!("{}", one_line(&error.to_string())),
            None => Ok(result),
        }
    }

    /// Waits until everything up to `submission` is done, and so is the mapping asked for after it.
    pub(super) fn wait(&self, submission: wgpu::SubmissionIndex, mapping: &Mapping) -> Result<()> {
        let waiting = wgpu::PollType::Wait { submission_index: Some(submission), timeout: None };
        let polled = self.device.poll(waiting);
        self.check()?;
        polled.context("waiting for the device")?;
        // The callback of the mapping may be in the hands of another thread that polled at the same time.
        let since = Instant::now();
        while mapping.pending() && since.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_micros(50));
        }
        self.present()?;
        if !mapping.ready() {
            bail!("{}: a buffer could not be mapped", self.capabilities.name);
        }
        Ok(())
    }
}

/// How far the mapping of a buffer is.
#[derive(Clone, Debug, Default)]
pub(super) struct Mapping(Arc<AtomicU8>);

impl Mapping {
    const READY: u8 = 1;
    const FAILED: u8 = 2;

    /// Asks for the whole buffer; the mapping follows the submissions before it.
    pub fn start(buffer: &wgpu::Buffer, mode: wgpu::MapMode) -> Self {
        let mapping = Mapping::default();
        let state = mapping.0.clone();
        buffer.map_async(mode, .., move |result| {
            state.store(if result.is_ok() { Self::READY } else { Self::FAILED }, Ordering::Release);
        });
        mapping
    }

    pub fn pending(&self) -> bool {
        self.0.load(Ordering::Acquire) == 0
    }

    pub fn ready(&self) -> bool {
        self.0.load(Ordering::Acquire) == Self::READY
    }
}

trait Pop {
    fn wait(self) -> Option<wgpu::Error>;
}

impl<F: Future<Output = Option<wgpu::Error>>> Pop for F {
    fn wait(self) -> Option<wgpu::Error> {
        pollster::block_on(self)
    }
}

pub(super) fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}
