//! Names to addresses, by the system's resolver, which may hang for as long as it likes: on threads of their own, few at a time, and
//! with the last answer kept for when there is none.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError};

use crate::task;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

/// Look-ups at a time: each that hangs holds a thread, which nothing can end.
const LOOKUPS: usize = 2;

/// The resolver; clones share what they know.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    free: Arc<Semaphore>,
    known: Arc<Mutex<HashMap<String, Vec<SocketAddr>>>>,
}

impl Default for Names {
    fn default() -> Self {
        Self {
            free: Arc::new(Semaphore::new(LOOKUPS)),
            known: Arc::default(),
        }
    }
}

impl Names {
    /// The addresses of a host, at least one. What does not answer by `by` is left alone; then the last answer there was is given.
    pub(crate) async fn resolve(
        &self,
        host: &str,
        port: u16,
        by: Instant,
    ) -> Result<Vec<SocketAddr>, String> {
        if let Ok(address) = host.trim_matches(['[', ']']).parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        let mut known = self
            .known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(host)
            .cloned();
        for address in known.iter_mut().flatten() {
            address.set_port(port);
        }
        let why = match timeout_at(by, self.ask(host, port)).await {
            Ok(Ok(addresses)) => {
                let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
                known.insert(host.to_string(), addresses.clone());
                return Ok(addresses);
            }
            Ok(Err(why)) => {
                format!("the name {host} does not resolve: {why}; check it, and this machine's name server")
            }
            Err(_) => format!(
                "the name server has not answered for {host} in time; check this machine's name server"
            ),
        };
        match known {
            Some(addresses) => {
                log::warn!("{why}. Trying the addresses it had before");
                Ok(addresses)
            }
            None => Err(why),
        }
    }

    async fn ask(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
        let permit = self
            .free
            .clone()
            .acquire_owned()
            .await
            .map_err(|error| error.to_string())?;
        let host = host.to_string();
        let answer = task::blocking(move || {
            let _permit = permit;
            (host.as_str(), port)
                .to_socket_addrs()
                .map(Iterator::collect::<Vec<_>>)
        });
        match answer.await {
            Ok(Ok(addresses)) if !addresses.is_empty() => Ok(addresses),
            Ok(Ok(_)) => Err("it has no address".into()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }
}
