//! The `headwater-agent` program: see the library.

#[path = "main/arguments.rs"]
mod arguments;
#[path = "main/check.rs"]
mod check;
#[cfg(feature = "enroll")]
#[path = "main/enroll.rs"]
mod enroll;
#[path = "main/init.rs"]
mod init;
#[path = "main/journal.rs"]
mod journal;
#[path = "main/notify.rs"]
mod notify;
#[path = "main/run.rs"]
mod run;
#[path = "main/status.rs"]
mod status;

use std::process::ExitCode;

use arguments::Call;

/// A static program would have the allocator of whichever libc it is linked with, and they differ in what they give back: this one keeps
/// a backlog's drain as small at its end as at its beginning.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

/// What `--version` prints of a program of this version. It stands in the program's file as it is here, and `headwater-relay release manifest` looks for
/// it: so that what is signed is the version and for the machine that it is signed as.
macro_rules! mark {
    ($version:expr) => {
        concat!("headwater-agent ", $version, " ", env!("TARGET"), "\n")
    };
}

fn main() -> ExitCode {
    program(mark!(env!("CARGO_PKG_VERSION")))
}

/// The program, as that which `--version` prints this of.
pub(crate) fn program(mark: &'static str) -> ExitCode {
    headwater_agent::version::of_program(mark.split(' ').nth(1).unwrap_or_default());
    let call = match arguments::parse(std::env::args_os().skip(1).collect()) {
        Ok(call) => call,
        Err(error) => {
            eprintln!("headwater-agent: {error}; see headwater-agent --help");
            return ExitCode::from(2);
        }
    };
    match call {
        Call::Run { config } => run::run(&config),
        Call::Check { config } => check::check(&config),
        Call::Init { output, force } => init::init(output.as_deref(), force),
        Call::Status { config, socket, json } => status::status(config.as_deref(), socket, json),
        Call::Journal {
            what,
            config,
            dir,
            json,
        } => journal::look(what, config.as_deref(), dir, json),
        #[cfg(feature = "enroll")]
        Call::Enroll(how) => enroll::enroll(how),
        #[cfg(feature = "enroll")]
        Call::FirstBoot { config, boot, wait } => enroll::first_boot(&config, &boot, wait),
        #[cfg(not(feature = "enroll"))]
        Call::Enroll(_) | Call::FirstBoot { .. } => {
            eprintln!("headwater-agent: this build leaves enrolment out; build with the feature `enroll`");
            ExitCode::from(2)
        }
        Call::Help => {
            print!("{}", arguments::HELP);
            ExitCode::SUCCESS
        }
        Call::Version => {
            print!("{mark}");
            ExitCode::SUCCESS
        }
    }
}
