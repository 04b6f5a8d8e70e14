//! Kernel tests against the CPU reference, and whole-step tests.
