//! Parse, dispatch, exit status. Everything else lives in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    inazuma::cli::main()
}
