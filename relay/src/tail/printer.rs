//! The thread that prints.

use std::io::{self, BufWriter, Write};
use std::sync::mpsc;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::acks::Total;
use super::line::{Form, Line};

/// What a counted frame carried, and the count with it.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) lines: Vec<Line>,
    pub(super) total: Total,
}

/// Why nothing more is printed.
#[derive(Debug)]
pub(super) enum Ended {
    /// Nobody reads.
    Closed,
    /// Anything else.
    Failed(io::Error),
}

/// The way to it. What waits for it is bounded by the window: nothing is acknowledged that is not printed.
#[derive(Debug)]
pub(super) struct Printer {
    jobs: mpsc::Sender<Job>,
    printed: UnboundedReceiver<io::Result<Total>>,
    last: Total,
    done: Total,
}

impl Printer {
    /// Starts it.
    pub(super) fn start(json: bool) -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel();
        let (done, printed) = unbounded_channel();
        std::thread::Builder::new().name("print".into()).spawn(move || {
            let mut form = Form::new(json);
            if let Err(error) = print(&queue, &done, &mut form) {
                // Whoever asked may be gone.
                let _ = done.send(Err(error));
            }
        })?;
        Ok(Self {
            jobs,
            printed,
            last: Total::default(),
            done: Total::default(),
        })
    }

    /// To be printed.
    pub(super) fn print(&mut self, job: Job) {
        self.last = job.total;
        // A thread that has ended says why, to `printed`.
        let _ = self.jobs.send(job);
    }

    /// The next count up to which all is printed.
    pub(super) async fn printed(&mut self) -> Result<Total, Ended> {
        match self.printed.recv().await {
            Some(Ok(total)) => {
                self.done = total;
                Ok(total)
            }
            Some(Err(error)) if error.kind() != io::ErrorKind::BrokenPipe => Err(Ended::Failed(error)),
            Some(Err(_)) | None => Err(Ended::Closed),
        }
    }

    /// Whether something is still to be printed.
    pub(super) fn is_behind(&self) -> bool {
        self.done != self.last
    }

    /// Another connection counts anew.
    pub(super) fn reset(&mut self) {
        (self.last, self.done) = (Total::default(), Total::default());
    }
}

fn print(
    queue: &mpsc::Receiver<Job>,
    done: &UnboundedSender<io::Result<Total>>,
    form: &mut Form,
) -> io::Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    while let Ok(job) = queue.recv() {
        for line in &job.lines {
            form.write(line, &mut out)?;
        }
        out.flush()?;
        if done.send(Ok(job.total)).is_err() {
            break;
        }
    }
    Ok(())
}
