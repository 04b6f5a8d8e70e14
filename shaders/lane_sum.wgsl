// The sum of a lane's channels.

#if VEC
fn total(x: Lane) -> f32 {
  return (x.x + x.y) + (x.z + x.w);
}
#else
fn total(x: Lane) -> f32 {
  return x;
}
#endif
