//! A program and all that it starts, as one process group: begun, and ended, as a whole.
//!
//! A process that leaves the group (`setsid`) is out of reach here; under systemd it ends with the agent's unit.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};

/// Between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(1);

/// A running program. When it is dropped its group is killed.
#[derive(Debug)]
pub(crate) struct Group {
    child: Child,
    id: Pid,
}

impl Group {
    /// Starts a program with its arguments, in a directory, without input, in an environment of its own: `PATH`, `LANG`, and what
    /// `environment` adds.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn start(
        command: &[String],
        environment: &BTreeMap<String, String>,
        dir: &Path,
    ) -> io::Result<Self> {
        let (program, arguments) = command
            .split_first()
            .ok_or_else(|| io::Error::other("there is no command"))?;
        let child = Command::new(program)
            .args(arguments)
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .env("LANG", "C.UTF-8")
            .envs(environment)
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        // A child that has not been waited for has its number; it leads the group of that number.
        let id = child
            .id()
            .and_then(|id| Pid::from_raw(id as i32))
            .ok_or_else(|| io::Error::other("the process has no number"))?;
        Ok(Self { child, id })
    }

    /// The program's output and error output, once.
    pub(crate) fn pipes(&mut self) -> Option<(ChildStdout, ChildStderr)> {
        Some((self.child.stdout.take()?, self.child.stderr.take()?))
    }

    /// Waits until the program has ended. What it started may still run.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) async fn ended(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Ends the group: it is asked to, and after a second made to. Returns when the program itself has ended; for one that
    /// hangs in the kernel that may be never.
    pub(crate) async fn end(&mut self) {
        self.signal(Signal::TERM);
        if tokio::time::timeout(GRACE, self.child.wait()).await.is_err() {
            self.signal(Signal::KILL);
            let _ = self.child.wait().await;
        }
        // The program obeyed, what it started need not have.
        self.signal(Signal::KILL);
    }

    /// Kills what is left of the group.
    pub(crate) fn kill(&self) {
        self.signal(Signal::KILL);
    }

    fn signal(&self, signal: Signal) {
        // The number stays the group's while any member lives. Once none does nobody is there to be signalled, which is no
        // error; the system gives numbers out in turn, so that it is not another's by now.
        let _ = kill_process_group(self.id, signal);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}
