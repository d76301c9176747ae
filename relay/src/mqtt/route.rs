//! Which of several brokers is next, and what rumqttc needs to connect to it.
//!
//! Who polls an event loop calls, in a circle: [`Route::options`] for what the loop gets before it connects; [`Route::stands`] once it is
//! known that the connection serves; [`Route::failed`] when it ends, which says whether to wait before the next attempt. In between,
//! [`Route::homing`] tells of a connection to another broker than the first when to give it up for the first.

use std::time::Duration;

use rumqttc::{ConnectReturnCode, ConnectionError, MqttOptions, NetworkOptions, TlsConfiguration, Transport};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::broker::Broker;
use super::settings::MqttSettings;
use super::{Error, random, tls};

/// The largest packet MQTT knows. The broker's own limit is the one that counts: a lower one here would end the connection
/// at each packet above it, and a kept one would come again for ever.
const MAX_PACKET: usize = 268_435_455;

/// The way of one connection to one of its brokers.
#[derive(Debug)]
pub struct Route {
    section: String,
    settings: MqttSettings,
    id: String,
    brokers: Vec<Broker>,
    /// The broker of this attempt or connection.
    at: usize,
    /// Attempts since a connection stood.
    tried: usize,
    stands: bool,
    /// Why each could not be had when it was last tried.
    reasons: Vec<Option<String>>,
}

impl Route {
    /// To the brokers of these settings, which stand at `section`. Each connection has a client id of its own: of several with the same
    /// settings all but one say their `name`.
    ///
    /// # Errors
    /// [`Error::Broker`].
    pub fn new(settings: &MqttSettings, section: &str, name: Option<&str>) -> Result<Self, Error> {
        let brokers: Vec<_> = settings
            .broker
            .addresses()
            .iter()
            .map(|address| Broker::parse(address, section))
            .collect::<Result<_, _>>()?;
        if brokers.is_empty() {
            return Err(Error::Broker {
                section: section.to_string(),
                address: String::new(),
                why: "give at least one address".into(),
            });
        }
        let mut id = match settings.client_id.as_str() {
            "" => format!("headwater-relay-{:08x}", random()),
            id => id.to_string(),
        };
        if let Some(name) = name {
            id = format!("{id}-{name}");
        }
        Ok(Self {
            section: section.to_string(),
            settings: settings.clone(),
            id,
            reasons: vec![None; brokers.len()],
            brokers,
            at: 0,
            tried: 0,
            stands: false,
        })
    }

    /// The broker of this attempt or connection.
    pub fn broker(&self) -> &Broker {
        &self.brokers[self.at]
    }

    /// What rumqttc needs for the broker of this attempt: a clean session under the connection's client id. Who wants something else
    /// sets it in what it gets. The files are read now.
    ///
    /// # Errors
    /// [`Error::Secret`], [`Error::Tls`].
    pub async fn options(&self) -> Result<MqttOptions, Error> {
        // Files may be on a disk that hangs, and the system's authorities are many.
        let (section, settings) = (self.section.clone(), self.settings.clone());
        let encrypted = self.broker().tls;
        let read = tokio::task::spawn_blocking(move || Files::read(&settings, &section, encrypted)).await;
        let files = read.map_err(|error| Error::Interrupted {
            section: self.section.clone(),
            why: error.to_string(),
        })??;
        let mut options = self.bare();
        if !self.settings.user.is_empty() {
            options.set_credentials(&self.settings.user, files.password);
        }
        if let Some(tls) = files.tls {
            options.set_transport(Transport::tls_with_config(tls));
        }
        Ok(options)
    }

    /// The same without what is in files, to make an event loop with: it gets the whole before it connects.
    pub fn bare(&self) -> MqttOptions {
        let broker = self.broker();
        let mut options = MqttOptions::new(&self.id, &broker.host, broker.port);
        options.set_keep_alive(self.settings.keep_alive);
        options.set_clean_session(true);
        options.set_max_packet_size(MAX_PACKET, MAX_PACKET);
        options
    }

    /// What rumqttc needs to know of the network.
    pub fn network(&self) -> NetworkOptions {
        let mut options = NetworkOptions::new();
        options.set_connection_timeout(self.settings.connect_timeout.as_secs());
        options
    }

    /// The connection serves: should it end, the first broker is tried first.
    pub fn stands(&mut self) {
        self.stands = true;
        self.reasons.fill(None);
    }

    /// The connection, or the attempt at one, has ended for this reason, and the next broker is up. Returns the reasons of all that
    /// could not be had, and whether to wait before the next attempt: between two rounds, not within one.
    pub fn failed(&mut self, reason: String) -> (String, bool) {
        self.reasons[self.at] = Some(reason);
        let told = self
            .reasons
            .iter()
            .flatten()
            .cloned()
            .collect::<Vec<_>>()
            .join("; ");
        if std::mem::take(&mut self.stands) {
            (self.at, self.tried) = (0, 0);
            return (told, true);
        }
        self.at = (self.at + 1) % self.brokers.len();
        self.tried += 1;
        (told, self.tried.is_multiple_of(self.brokers.len()))
    }

    /// Ends when this connection is to another broker than the first, has been for long enough, and the first takes
    /// connections again. For a connection to the first there is nothing to wait for.
    pub fn homing(&self) -> Homing {
        let mut probe = JoinSet::new();
        if self.at > 0 {
            let first = &self.brokers[0];
            let address = (first.host.clone(), first.port);
            let (after, limit) = (self.settings.return_after, self.settings.connect_timeout);
            // Bridges that left together do not come back at once.
            let after = after + jitter(after / 10);
            probe.spawn(async move {
                loop {
                    tokio::time::sleep(after).await;
                    if let Ok(Ok(_)) = tokio::time::timeout(limit, TcpStream::connect(&address)).await {
                        return;
                    }
                }
            });
        }
        Homing(probe)
    }

    /// Why this broker is given up although it serves.
    pub fn going_home(&self) -> String {
        format!("going back from {} to {}", self.broker(), self.brokers[0])
    }

    /// An error of the event loop's, for a person.
    pub fn explain(&self, error: &ConnectionError) -> String {
        let (broker, section) = (self.broker(), &self.section);
        if let Some(why) = tls::explain(error, &self.settings.tls, section) {
            return format!("no connection to {broker}: {why}");
        }
        match error {
            ConnectionError::ConnectionRefused(
                ConnectReturnCode::BadUserNamePassword | ConnectReturnCode::NotAuthorized,
            ) => {
                format!("{broker} refuses us: look at {section}.user and {section}.password_file")
            }
            ConnectionError::ConnectionRefused(code) => format!("{broker} refuses us: {code:?}"),
            ConnectionError::NetworkTimeout => format!("{broker} does not answer"),
            error => format!("no connection to {broker}: {error}"),
        }
    }
}

/// Reads everything that connections with these settings need, and keeps nothing: to tell at the start what is wrong. Blocks on files.
///
/// # Errors
/// [`Error`].
pub fn check(settings: &MqttSettings, section: &str) -> Result<(), Error> {
    let route = Route::new(settings, section, None)?;
    let encrypted = route.brokers.iter().any(|broker| broker.tls);
    Files::read(settings, section, encrypted).map(|_| ())
}

/// See [`Route::homing`].
#[derive(Debug)]
pub struct Homing(JoinSet<()>);

impl Homing {
    /// For while there is no connection: ends never.
    pub fn never() -> Self {
        Self(JoinSet::new())
    }

    /// Waits for it. May be dropped and called again.
    pub async fn wait(&mut self) {
        match self.0.join_next().await {
            Some(_) => {}
            None => std::future::pending().await,
        }
    }
}

/// What is in files.
struct Files {
    password: String,
    tls: Option<TlsConfiguration>,
}

impl Files {
    fn read(settings: &MqttSettings, section: &str, encrypted: bool) -> Result<Self, Error> {
        let password = match &settings.password_file {
            Some(path) => headwater_config::secret(path).map_err(|why| Error::Secret {
                section: section.to_string(),
                why,
            })?,
            None => String::new(),
        };
        let tls = match encrypted {
            true => Some(tls::config(&settings.tls).map_err(|why| Error::Tls {
                section: section.to_string(),
                why,
            })?),
            false => None,
        };
        Ok(Self {
            password,
            tls: tls.map(TlsConfiguration::Rustls),
        })
    }
}

fn jitter(longest: Duration) -> Duration {
    longest.mul_f64(f64::from(random() % 1000) / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(brokers: &[&str]) -> Route {
        let settings = MqttSettings {
            broker: brokers.iter().map(ToString::to_string).collect::<Vec<_>>().into(),
            return_after: Duration::from_secs(1),
            ..MqttSettings::default()
        };
        Route::new(&settings, "mqtt", None).unwrap()
    }

    #[test]
    fn brokers_are_tried_in_order_with_a_pause_after_each_round() {
        let mut route = route(&["a", "b", "c"]);
        let mut tried = Vec::new();
        for _ in 0..6 {
            let host = route.broker().host.clone();
            let (_, pause) = route.failed(format!("{host} is down"));
            tried.push((host, pause));
        }
        let order: Vec<_> = tried
            .iter()
            .map(|(host, pause)| (host.as_str(), *pause))
            .collect();
        let round = [("a", false), ("b", false), ("c", true)];
        assert_eq!(order, [round, round].concat());
        let (told, _) = route.failed("a is down".into());
        assert_eq!(
            told, "a is down; b is down; c is down",
            "the same text in every round"
        );
    }

    #[test]
    fn after_a_connection_that_stood_the_first_is_tried_first() {
        let mut route = route(&["a", "b"]);
        route.failed("a is down".into());
        assert_eq!(route.broker().host, "b");
        route.stands();
        let (told, pause) = route.failed("b is gone".into());
        assert_eq!((told.as_str(), pause), ("b is gone", true));
        assert_eq!(route.broker().host, "a");
    }

    #[test]
    fn each_connection_has_a_client_id_of_its_own() {
        let mut settings = MqttSettings::default();
        let id =
            |settings: &MqttSettings, name| Route::new(settings, "mqtt", name).unwrap().bare().client_id();
        assert_ne!(id(&settings, None), id(&settings, None));
        settings.client_id = "relay".into();
        assert_eq!(id(&settings, None), "relay");
        assert_eq!(id(&settings, Some("meters")), "relay-meters");
    }

    #[tokio::test]
    async fn the_password_is_read_for_each_connection_and_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("password");
        std::fs::write(&file, "first\n").unwrap();
        let settings = MqttSettings {
            user: "relay".into(),
            password_file: Some(file.clone()),
            ..MqttSettings::default()
        };
        let route = Route::new(&settings, "mqtt", None).unwrap();
        let password = async || route.options().await.unwrap().credentials().unwrap().password;
        assert_eq!(password().await, "first");
        std::fs::write(&file, "second\n").unwrap();
        assert_eq!(password().await, "second");
        assert!(!format!("{route:?}").contains("second"));
        std::fs::remove_file(&file).unwrap();
        let error = route.options().await.unwrap_err().to_string();
        assert!(error.starts_with("mqtt.password_file: cannot read"), "{error}");
    }

    #[tokio::test]
    async fn home_is_where_the_first_broker_takes_connections() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let first = listener.local_addr().unwrap().to_string();
        let mut route = route(&[&first, "b"]);
        let patience = Duration::from_secs(30);
        let mut homing = route.homing();
        assert!(
            tokio::time::timeout(Duration::from_millis(10), homing.wait())
                .await
                .is_err(),
            "the first is home already"
        );
        route.failed("down".into());
        let mut homing = route.homing();
        tokio::time::timeout(patience, homing.wait()).await.unwrap();
        assert!(
            route
                .going_home()
                .starts_with("going back from mqtt://b:1883 to mqtt://127")
        );
    }
}
