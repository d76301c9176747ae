//! `headwater-agent status`: asks a running agent over its socket.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use headwater_agent::{Config, Status};

/// Where the units of `deploy/systemd` put it.
const USUAL: [&str; 2] = [
    "/run/headwater-agent/agent.sock",
    "/var/lib/headwater-agent/agent.sock",
];
/// How long an agent may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest answer that is read, bytes.
const ANSWER_MAX: u64 = 16 * 1024 * 1024;

pub(crate) fn status(config: Option<&Path>, socket: Option<PathBuf>, json: bool) -> ExitCode {
    let places = match places(config, socket) {
        Ok(places) => places,
        Err(error) => {
            eprintln!("headwater-agent: {error}");
            return ExitCode::from(2);
        }
    };
    let mut tried = Vec::new();
    for place in places {
        let error = match ask(&place) {
            Ok(answer) if json => {
                println!("{}", answer.trim_end());
                return ExitCode::SUCCESS;
            }
            Ok(answer) => match Status::shown(&answer) {
                Ok(shown) => {
                    print!("{shown}");
                    return ExitCode::SUCCESS;
                }
                Err(error) => format!("its answer cannot be read ({error}); is it of another version?"),
            },
            Err(error) => error.to_string(),
        };
        tried.push(format!("{}: {error}", place.display()));
    }
    if tried.is_empty() {
        tried.push("its settings name neither a socket nor a state directory".into());
    }
    eprintln!("headwater-agent: no agent answers; {}", tried.join("; "));
    ExitCode::FAILURE
}

/// Where the socket may be.
fn places(config: Option<&Path>, socket: Option<PathBuf>) -> Result<Vec<PathBuf>, headwater_agent::Error> {
    if let Some(socket) = socket {
        return Ok(vec![socket]);
    }
    let usual = USUAL.iter().map(PathBuf::from);
    match config {
        // A unit may have set the directories, which only the service sees.
        Some(config) => Ok(Config::load(config)?
            .status_socket()
            .map_or_else(|| usual.collect(), |socket| vec![socket])),
        None => Ok(usual.collect()),
    }
}

fn ask(socket: &Path) -> std::io::Result<String> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut answer = String::new();
    stream.take(ANSWER_MAX).read_to_string(&mut answer)?;
    Ok(answer)
}
