//! ELECTRA: configuration, parameters, and the plan of a step.
