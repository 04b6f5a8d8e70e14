// Dropout of a lane; immediates have threshold and scale.

// The factors of one lane of channels under dropout.
fn factors(key: vec2<u32>, position: u32, lane: u32) -> Lane {
#if VEC
  return dropout_factors(key, position, lane, immediates.threshold, immediates.scale);
#else
  return dropout_factors(key, position, lane / 4u, immediates.threshold, immediates.scale)[lane % 4u];
#endif
}
