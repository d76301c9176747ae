//! `headwater-agent journal`: looks at the journal on flash, beside a running agent or without one.

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use headwater_agent::Config;
use headwater_agent::journal::view::{Form, View};

use super::arguments::Look;

pub(crate) fn look(what: Look, config: Option<&Path>, dir: Option<PathBuf>, json: bool) -> ExitCode {
    let dir = match dir.map_or_else(|| configured(config), Ok) {
        Ok(dir) => dir,
        Err(error) => {
            eprintln!("headwater-agent: {error}");
            return ExitCode::from(2);
        }
    };
    let mut out = BufWriter::new(io::stdout().lock());
    let result = View::open(&dir).and_then(|mut view| {
        let code = match what {
            Look::Inspect => view.inspect(&mut out).map(|()| ExitCode::SUCCESS)?,
            Look::Verify => match view.verify(&mut out)? {
                0 => ExitCode::SUCCESS,
                _ => ExitCode::FAILURE,
            },
            Look::Export => {
                let form = if json { Form::Json } else { Form::Csv };
                let exported = view.export(form, &mut out)?;
                eprintln!("{} readings; {} are lost", exported.readings, exported.lost);
                ExitCode::SUCCESS
            }
        };
        out.flush()?;
        Ok(code)
    });
    match result {
        Ok(code) => code,
        // Whoever reads has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!(
                "headwater-agent: the journal in {} cannot be read: {error}; --dir names the state directory",
                dir.display()
            );
            ExitCode::FAILURE
        }
    }
}

/// The state directory of the settings.
fn configured(config: Option<&Path>) -> Result<PathBuf, String> {
    let config = Config::load(config.unwrap_or(Path::new(""))).map_err(|error| error.to_string())?;
    config
        .state_dir
        .ok_or_else(|| "the settings name no state_dir, so nothing is on flash; --dir names one".to_string())
}
