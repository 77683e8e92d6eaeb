//! The `curio` binary: parses the command line and hands over.

use std::process::ExitCode;

fn main() -> ExitCode {
    curio_runner::cli::main()
}
