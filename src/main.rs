//! The command line of Berth.

fn main() -> std::process::ExitCode {
    berth::cli::main()
}
