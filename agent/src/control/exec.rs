//! The command `exec`: a program of `control.exec`, as it stands there: no shell, no arguments from outside, no input, an environment of its
//! own, a process group that is killed at the time limit, and an output of bounded length.

use std::time::Duration;
#[cfg(feature = "source-exec")]
use std::{collections::BTreeMap, io, path::Path, process::ExitStatus};

#[cfg(feature = "source-exec")]
use tokio::io::{AsyncRead, AsyncReadExt};

use super::command::Outcome;
#[cfg(feature = "source-exec")]
use crate::group::Group;

/// What a program may write that is kept, bytes of output and of error output each.
#[cfg(feature = "source-exec")]
const OUTPUT_MAX: u64 = 16 * 1024;

/// Runs a program, and tells what it wrote.
#[cfg(not(feature = "source-exec"))]
pub(super) async fn run(_: Vec<String>, _: Duration) -> Outcome {
    Outcome::refused("this build runs no programs; build with the feature `source-exec`")
}

/// Runs a program, and tells what it wrote.
#[cfg(feature = "source-exec")]
pub(super) async fn run(program: Vec<String>, limit: Duration) -> Outcome {
    let mut group = match Group::start(&program, &BTreeMap::new(), Path::new("/")) {
        Ok(group) => group,
        Err(error) => return Outcome::failed(format!("it cannot be started: {error}")),
    };
    let ended = tokio::time::timeout(limit, watch(&mut group)).await;
    group.kill();
    match ended {
        Ok(Ok((status, output))) if status.success() => Outcome::ok(output),
        Ok(Ok((status, output))) => Outcome::failed(format!("{status}\n{output}")),
        Ok(Err(error)) => Outcome::failed(format!("its output cannot be read: {error}")),
        Err(_) => Outcome::failed(format!("it took longer than {limit:?} and was killed")),
    }
}

/// Its exit status, and what it wrote: output, then error output.
#[cfg(feature = "source-exec")]
async fn watch(group: &mut Group) -> io::Result<(ExitStatus, String)> {
    let (stdout, stderr) = group.pipes().ok_or_else(|| io::Error::other("there is none"))?;
    let (status, out, err) = tokio::join!(group.ended(), text(stdout), text(stderr));
    let (out, err) = (out?, err?);
    let between = if out.is_empty() || err.is_empty() {
        ""
    } else {
        "\n"
    };
    Ok((status?, format!("{out}{between}{err}")))
}

/// The beginning of what is read; the rest is read too, so that the writer is not stopped.
#[cfg(feature = "source-exec")]
async fn text(pipe: impl AsyncRead + Unpin) -> io::Result<String> {
    let mut kept = Vec::new();
    let mut pipe = pipe.take(OUTPUT_MAX);
    pipe.read_to_end(&mut kept).await?;
    let mut rest = pipe.into_inner();
    let cut = tokio::io::copy(&mut rest, &mut tokio::io::sink()).await?;
    let mut text = String::from_utf8_lossy(&kept).into_owned();
    if cut > 0 {
        text.push_str(&format!("… ({cut} bytes cut)"));
    }
    Ok(text)
}

#[cfg(all(test, feature = "source-exec"))]
mod tests {
    use super::*;
    use headwater_proto::pb::ReplyStatus;

    async fn shell(script: &str, limit: Duration) -> Outcome {
        let program = ["/bin/sh", "-c", script].map(String::from).to_vec();
        run(program, limit).await
    }

    #[tokio::test]
    async fn what_a_program_writes_is_told() {
        let long = Duration::from_secs(20);
        let outcome = shell("echo out; echo err >&2; test -z \"$HOME\"", long).await;
        assert_eq!(outcome, Outcome::ok("out\n\nerr\n"));
        let outcome = shell("echo no >&2; exit 3", long).await;
        assert_eq!(outcome.status, ReplyStatus::Failed);
        assert!(
            outcome.output.contains("exit status: 3") && outcome.output.contains("no"),
            "{outcome:?}"
        );
        let outcome = run(vec!["/nonexistent/program".into()], long).await;
        assert!(outcome.output.contains("cannot be started"), "{outcome:?}");
    }

    #[tokio::test]
    async fn a_flood_is_cut_and_does_not_stop_the_program() {
        let outcome = shell(
            "head -c 3000000 /dev/zero | tr '\\0' x; echo end >&2",
            Duration::from_secs(20),
        )
        .await;
        assert_eq!(outcome.status, ReplyStatus::Ok);
        assert!(outcome.output.len() < 20_000 && outcome.output.contains("bytes cut"));
        assert!(outcome.output.ends_with("end\n"));
    }

    #[tokio::test]
    async fn one_that_hangs_is_killed_with_all_that_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        let script = format!(
            "sleep 1000 & echo $! > {0}.part; mv {0}.part {0}; wait",
            file.display()
        );
        let limit = Duration::from_secs(1);
        let outcome = shell(&script, limit).await;
        assert!(outcome.output.contains("was killed"), "{outcome:?}");
        let pid = std::fs::read_to_string(&file).unwrap();
        let status = format!("/proc/{}/stat", pid.trim());
        // Gone, or dead and not yet waited for by whom it was left to.
        let alive = || std::fs::read_to_string(&status).is_ok_and(|stat| !stat.contains(") Z"));
        for _ in 0..200 {
            if !alive() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{} still runs", pid.trim());
    }
}
