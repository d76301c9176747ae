//! `headwater-agent check`: a table of what is well and what is not.

use std::path::Path;
use std::process::ExitCode;

use headwater_agent::check;

pub(crate) fn check(config: &Path) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let findings = match runtime {
        Ok(runtime) => {
            let findings = runtime.block_on(check::check(config));
            // A sensor or a name server that hangs must not hold up the end.
            runtime.shutdown_background();
            findings
        }
        Err(error) => {
            eprintln!("headwater-agent: cannot start the event loop: {error}");
            return ExitCode::FAILURE;
        }
    };
    let width = findings
        .iter()
        .map(|finding| finding.subject.chars().count())
        .max()
        .unwrap_or(0);
    let mut failed = 0;
    for finding in &findings {
        let mark = if finding.ok { "ok" } else { "FAILED" };
        println!("{mark:<6}  {:<width$}  {}", finding.subject, finding.what);
        if let Some(todo) = &finding.todo {
            println!("{:<6}  {:<width$}  → {todo}", "", "");
        }
        failed += usize::from(!finding.ok);
    }
    if failed == 0 {
        println!("All well.");
        ExitCode::SUCCESS
    } else {
        println!("{failed} of {} failed.", findings.len());
        ExitCode::FAILURE
    }
}
