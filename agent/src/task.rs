//! Tasks, and work on threads that may wait. Tokio makes some thirty functions of its own for every type of future or closure that it is given;
//! in a box they are one type, which makes the program some tens of KB smaller. Nothing here is begun more often than sources and
//! connections are, so the box costs nothing.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::task::{JoinError, JoinHandle};

/// A future in a box.
pub(crate) type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A future in a box: for a [`tokio::task::JoinSet`].
pub(crate) fn boxed<T>(future: impl Future<Output = T> + Send + 'static) -> Boxed<T> {
    Box::pin(future)
}

/// Begins a task.
pub(crate) fn spawn<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    tokio::spawn(boxed(future))
}

/// Begins work on a thread that may wait.
pub(crate) fn begin(work: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    let work: Box<dyn FnOnce() + Send> = Box::new(work);
    tokio::task::spawn_blocking(work)
}

/// Begins work on a thread that may wait, and waits for what comes of it. Work goes on if the future is dropped.
///
/// # Errors
/// That it panicked.
pub(crate) fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> impl Future<Output = Result<T, JoinError>> {
    let place = Arc::new(Mutex::new(None));
    let put = place.clone();
    let working = begin(move || {
        let result = work();
        *put.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
    });
    async move {
        working.await?;
        let result = place.lock().unwrap_or_else(PoisonError::into_inner).take();
        Ok(result.expect("work that has ended without a panic has put its result there"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_comes_of_work_is_handed_over_and_a_panic_is_told() {
        assert_eq!(blocking(|| 7).await.unwrap(), 7);
        let failed = blocking(|| -> u8 { panic!("as a test wants it") }).await;
        assert!(failed.unwrap_err().is_panic());
        assert_eq!(spawn(async { 8 }).await.unwrap(), 8);
    }
}
