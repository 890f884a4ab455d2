//! The log writer's executable in the tests: what the `malha` binary does under its hidden subcommand.

fn main() -> std::process::ExitCode {
    let mut args = std::env::args_os().skip(1);
    match args.next() {
        Some(word) if word == "log-writer" => malha_runtime::logger_main(args),
        _ => std::process::ExitCode::FAILURE,
    }
}
