//! `--explain`: the plan as text.
