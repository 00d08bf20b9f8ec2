//! Starts the program.

fn main() -> std::process::ExitCode {
    understudy::cli::main()
}
