//! `walvaultd`: the sidecar's command line.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use tracing_subscriber::filter::LevelFilter;
use walvault_config::Config;
use walvault_daemon::{app, command};

/// Streams PostgreSQL's WAL and takes base backups into an encrypted archive.
#[derive(Parser)]
#[command(name = "walvaultd", version)]
struct Arguments {
    /// The configuration [default: $WALVAULT_CONFIG, else /etc/walvault/walvault.toml]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Stream WAL into the archive until told to stop
    Run(command::run::Arguments),
    /// Take a base backup now
    Backup(command::backup::Arguments),
    /// Try everything that streaming and backups need, and say how to mend what is not right
    Check(command::check::Arguments),
    /// Ask the walvaultd that runs here whether it is well
    Health(command::health::Arguments),
    /// Write a configuration for the PostgreSQL that is found
    Init(command::init::Arguments),
}

/// Gives memory back soon after a burst, without a page fault for every block during one.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// How long the end of the process waits for threads that block, such as in a file system.
const HUNG: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match start(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("walvaultd: error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start(arguments: Arguments) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    if let Command::Init(arguments) = arguments.command {
        let runtime = tokio::runtime::Runtime::new()?;
        return Ok(runtime.block_on(command::init::run(arguments))?);
    }
    let config = Config::load(arguments.config.as_deref())?;
    log_to_stderr(config.log.level.into());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    // A task runs on the thread that waits for the sockets; `block_on` itself would be woken on
    // another one by every message of the server.
    let ended = runtime.block_on(async { tokio::spawn(run(arguments.command, config)).await });
    // A thread that hangs in a file system holds up no end: whatever had to be stored is.
    runtime.shutdown_timeout(HUNG);
    ended.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

async fn run(
    command: Command,
    config: Config,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let stop = app::stop_on_signal()?;
    match command {
        Command::Run(arguments) => command::run::run(config, arguments, stop).await?,
        Command::Backup(arguments) => command::backup::run(config, arguments, stop).await?,
        Command::Check(arguments) => command::check::run(config, arguments).await?,
        Command::Health(arguments) => command::health::run(&config.admin, arguments).await?,
        // It was run before there was a configuration.
        Command::Init(_) => {}
    }
    Ok(())
}

/// Text for people at a terminal, JSON for whoever collects logs.
fn log_to_stderr(level: tracing::Level) {
    let filter = tracing_subscriber::filter::Targets::new()
        .with_default(LevelFilter::WARN)
        // A prefix: every crate of ours.
        .with_target("walvault", level);
    use tracing_subscriber::layer::SubscriberExt;
    use tracing_subscriber::util::SubscriberInitExt;
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_target(false);
    let registry = tracing_subscriber::registry().with(filter);
    if std::io::stderr().is_terminal() {
        registry.with(layer).init();
    } else {
        registry.with(layer.json().flatten_event(true)).init();
    }
}
