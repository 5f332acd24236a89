//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::command::{
    audit, copy, drill, export, install, keep, keys, list, prune, report, restore, settle, show,
    verify, wal_fetch,
};
use crate::exit::{self, Failure};
use crate::place::Place;
use crate::prefetch;
use crate::runtime::block_on;

/// Restores a PostgreSQL cluster from its walvault archive, to any instant the archive holds
#[derive(Debug, Parser)]
#[command(name = "walvault", version, propagate_version = true)]
pub struct Cli {
    /// The configuration; else $WALVAULT_CONFIG, else /etc/walvault/walvault.toml
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What walvault does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Bring a copy of the archive what it lacks
    Copy(copy::Copy),
    /// Prove by a restore that is thrown away that the archive can be restored
    Drill(Box<drill::Drill>),
    /// Write a sealed copy for offline media
    Export(export::Export),
    /// Copy this program to where PostgreSQL's container can run it
    Install(install::Install),
    /// Show, check and print who did what
    #[command(subcommand)]
    Audit(audit::Audit),
    /// Keep a backup whatever retention says
    Keep(keep::Keep),
    /// Let retention free a backup that was kept
    Unkeep(keep::Unkeep),
    /// Place a legal hold on a backup
    Hold(keep::PlaceHold),
    /// Release a legal hold
    Release(keep::Release),
    /// Make key files; show, check and change who can open the archive
    Keys(keys::Keys),
    /// Show backups, recovery windows, gaps and timelines
    List(list::List),
    /// Remove what neither retention nor anybody keeps
    Prune(prune::Prune),
    /// Report on a stretch of time, or make evidence of it
    Report(report::Report),
    /// Rebuild a data directory as it was at an instant
    Restore(Box<restore::Restore>),
    /// Make a restored cluster that has recovered an ordinary one
    Settle(settle::Settle),
    /// Show everything about one backup
    Show(show::Show),
    /// Check that the archive is sound
    Verify(verify::Verify),
    /// Fetch one file of WAL: PostgreSQL's restore_command
    WalFetch(wal_fetch::WalFetch),
    /// Fetch WAL ahead for wal-fetch, which starts this by itself
    #[command(hide = true)]
    WalPrefetch(WalPrefetch),
}

/// Fetches WAL ahead for a server that asks for it.
#[derive(Debug, clap::Args)]
pub struct WalPrefetch {
    /// Where it waits
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// The pg_wal of the server that replays it
    #[arg(value_name = "PG_WAL")]
    pg_wal: PathBuf,
    #[command(flatten)]
    place: Place,
}

/// The command line of `wal-fetch` alone. PostgreSQL waits for it with every segment, and describing all
/// commands takes longer than parsing one.
#[derive(Debug, Parser)]
#[command(name = "walvault", disable_help_flag = true)]
struct WalFetchLine {
    #[arg(long, global = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: WalFetchCommand,
}

#[derive(Debug, Subcommand)]
enum WalFetchCommand {
    WalFetch(wal_fetch::WalFetch),
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    // PostgreSQL takes an exit code up to 125 of restore_command for "there is no such file".
    let serves_wal = arguments
        .iter()
        .skip(1)
        .any(|argument| argument == "wal-fetch");
    if serves_wal && let Ok(line) = WalFetchLine::try_parse_from(&arguments) {
        let WalFetchCommand::WalFetch(command) = &line.command;
        return wal_fetch::main(command, line.config.as_deref());
    }
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Where standard error is closed there is nobody to tell.
            let _ = error.print();
            return match error.exit_code() {
                0 => ExitCode::SUCCESS,
                _ if serves_wal => ExitCode::from(wal_fetch::MISCONFIGURED),
                code => ExitCode::from(u8::try_from(code).unwrap_or(exit::USAGE)),
            };
        }
    };
    if let Command::Verify(command) = &cli.command {
        return verify::main(command, cli.config.as_deref());
    }
    if let Command::WalFetch(command) = &cli.command {
        return wal_fetch::main(command, cli.config.as_deref());
    }
    if let Command::WalPrefetch(command) = &cli.command {
        let source = command.place.source(cli.config.as_deref());
        return prefetch::helper::main(command.dir.clone(), &command.pg_wal, source);
    }
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            exit::tell(&failure);
            ExitCode::from(failure.code())
        }
    }
}

fn run(cli: &Cli) -> Result<(), Failure> {
    let config = cli.config.as_deref();
    match &cli.command {
        Command::Copy(command) => block_on(command.run(config)),
        Command::Drill(command) => {
            // Before there are threads.
            crate::drill::yield_to_others();
            block_on(command.run(config))
        }
        Command::Export(command) => block_on(command.run(config)),
        Command::Install(command) => command.run(),
        Command::Audit(command) => block_on(command.run(config)),
        Command::Keep(command) => block_on(command.run(config)),
        Command::Unkeep(command) => block_on(command.run(config)),
        Command::Hold(command) => block_on(command.run(config)),
        Command::Release(command) => block_on(command.run(config)),
        Command::Keys(command) => block_on(command.run(config)),
        Command::List(command) => block_on(command.run(config)),
        Command::Prune(command) => block_on(command.run(config)),
        Command::Report(command) => block_on(command.run(config)),
        Command::Restore(command) => block_on(command.run(config)),
        Command::Settle(command) => command.run(),
        Command::Show(command) => block_on(command.run(config)),
        // Their exit codes are their own.
        Command::Verify(_) | Command::WalFetch(_) | Command::WalPrefetch(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn wal_fetch_alone_is_the_command_that_it_is_among_all() {
        for line in [
            "walvault wal-fetch --config c 000000010000000000000003 pg_wal/RECOVERYXLOG",
            "walvault --config c wal-fetch 00000002.history p",
        ] {
            let all = Cli::try_parse_from(line.split(' ')).expect("a command line");
            let alone = WalFetchLine::try_parse_from(line.split(' ')).expect("a command line");
            let (Command::WalFetch(one), WalFetchCommand::WalFetch(other)) =
                (all.command, alone.command)
            else {
                panic!("{line}");
            };
            assert_eq!(format!("{one:?}"), format!("{other:?}"));
            assert_eq!(all.config, alone.config);
        }
    }

    #[test]
    fn the_configuration_may_be_named_before_and_after_the_command() {
        for line in ["walvault --config c list", "walvault list --config c"] {
            let cli = Cli::try_parse_from(line.split(' ')).expect("a command line");
            assert_eq!(cli.config, Some(PathBuf::from("c")));
        }
    }
}
