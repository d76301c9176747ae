//! TLS and certificates on both sides, against Mosquitto.

use std::path::Path;
use std::time::Duration;

use headwater_agent::Config;
use headwater_agent::config::{Protocol, Tls, Trust};
use tempfile::TempDir;

use crate::authority::{Authority, Issued, Wanted};
use crate::bridge::Bridge;
use crate::library::{Running, config};
use crate::mosquitto::Mosquitto;
use crate::port::free_port;
use crate::proxy::Proxy;

/// What `openssl x509 -req` makes where it is given no extension.
const VERSION_1: &str = "\
-----BEGIN CERTIFICATE-----
MIIBGzCBwwIUUJUn8G/4YFRZWtopO1ZGrpoCDT8wCgYIKoZIzj0EAwIwEjEQMA4G
A1UEAwwHZGV2aWNlczAeFw0yNjExMjIwNzExMjZaFw0yODExMjEwNzExMjZaMBAx
DjAMBgNVBAMMBWd3LTAxMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE2nMo4get
AfYZY8vuj2FlrRj3DeyJp58WMHQoDZ0SJvt7FBGqLdrtB/cSMiFg+vCPcRztsMx3
qenwFoDCfPZ6sTAKBggqhkjOPQQDAgNHADBEAiApJDF8d4uHrLjFXY/P13nW1Lm1
QYWU7CuJBGBcyXXqrwIgNVEm6RqXC9auhqZbgafvPRbMcUJrsvAojnIqm+TO0uA=
-----END CERTIFICATE-----
";

/// A broker with a plain listener for the relay, and one for TLS.
struct World {
    folder: TempDir,
    authority: Authority,
    broker: Mosquitto,
    bridge: Bridge,
    port: u16,
}

impl World {
    /// The broker's certificate is `server`; `clients` is what its TLS listener is told of clients' certificates.
    fn new(server: impl FnOnce(&Authority) -> Issued, clients: impl FnOnce(&Path) -> String) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new(folder.path(), "authority");
        let server = server(&authority);
        let port = free_port();
        let mut broker = Mosquitto::stopped();
        broker.configure(&format!(
            "allow_anonymous true\nlistener {port} 127.0.0.1\ncertfile {}\nkeyfile {}\n{}",
            server.cert.display(),
            server.key.display(),
            clients(&authority.file),
        ));
        broker.start();
        Self {
            folder,
            authority,
            broker,
            bridge: Bridge::default(),
            port,
        }
    }

    /// A broker that any agent may trust.
    fn plain() -> Self {
        Self::new(
            |authority| authority.valid("server", "localhost"),
            |_| String::new(),
        )
    }

    /// A broker that demands certificates of its clients.
    fn mutual() -> Self {
        Self::new(|authority| authority.valid("server", "localhost"), demanding)
    }

    fn config(&self, tls: impl FnOnce(&mut Tls)) -> Config {
        let mut config = config(&format!("mqtts://localhost:{}", self.port), 200);
        config.uplink.tls.ca_file = Some(self.authority.file.clone());
        tls(&mut config.uplink.tls);
        config
    }

    /// Runs an agent until all is acknowledged.
    async fn delivers(&self, config: Config) {
        let _relay = self.bridge.run(self.broker.port());
        let before = self.bridge.readings("a").len();
        let agent = Running::start(config);
        agent.all_acked(400).await;
        agent.stop().await;
        assert_eq!(self.bridge.readings("a").len(), before + 200);
    }

    /// Runs an agent until it says why it is not connected.
    async fn says(&self, config: Config, parts: &[&str]) {
        let agent = Running::start(config);
        let why = agent.last_error().await;
        for part in parts {
            assert!(why.contains(part), "{part:?} is not in: {why}");
        }
        let advised = why.matches("set uplink.tls.cert_file").count();
        assert!(advised < 2, "it is said twice what to do: {why}");
        agent.stop().await;
    }
}

/// A change of the settings, and what the agent then says.
type Says<'a> = (&'a dyn Fn(&mut Tls), &'a [&'a str]);

fn demanding(ca_file: &Path) -> String {
    format!("cafile {}\nrequire_certificate true\n", ca_file.display())
}

fn with(tls: &mut Tls, issued: &Issued) {
    tls.cert_file = Some(issued.cert.clone());
    tls.key_file = Some(issued.key.clone());
}

#[tokio::test]
async fn both_versions_of_mqtt_go_through_tls_with_and_without_a_certificate_of_the_agent() {
    let (plain, mutual) = (World::plain(), World::mutual());
    let own = mutual.authority.valid("gw-01", "gw-01");
    for protocol in [Protocol::V5, Protocol::V311] {
        let mut config = plain.config(|_| {});
        config.uplink.protocol = protocol;
        plain.delivers(config).await;
        let mut config = mutual.config(|tls| with(tls, &own));
        config.uplink.protocol = protocol;
        mutual.delivers(config).await;
    }
}

#[tokio::test]
async fn what_keeps_an_agent_from_trusting_a_broker_is_said_with_what_to_do() {
    let world = World::plain();
    let other = Authority::new(world.folder.path(), "other");
    let folder = world.folder.path();
    let says: [Says<'_>; 6] = [
        (
            &|tls| tls.ca_file = Some(other.file.clone()),
            &["authority", "other.pem", "uplink.tls.ca_file"],
        ),
        (
            &|tls| tls.ca_file = None,
            &[
                "the broker's certificate",
                "authority",
                "uplink.tls.ca_file is not set",
            ],
        ),
        (
            &|tls| tls.server_name = Some("broker.example".into()),
            &["is not for broker.example", "localhost", "uplink.tls.server_name"],
        ),
        (
            &|tls| tls.server_name = Some("not a name".into()),
            &["\"not a name\"", "uplink.tls.server_name"],
        ),
        (
            &|tls| tls.ca_file = Some(folder.join("none.pem")),
            &["cannot read", "none.pem"],
        ),
        (
            &|tls| tls.ca_file = Some(folder.join("server.key")),
            &["server.key", "no certificate in PEM form"],
        ),
    ];
    for (change, parts) in says {
        world.says(world.config(change), parts).await;
    }
    // A port that speaks no TLS, and one that speaks nothing else.
    let mut config = world.config(|_| {});
    config.uplink.broker = format!("mqtts://localhost:{}", world.broker.port()).into();
    world
        .says(config, &["is the port one of the broker's TLS listeners?"])
        .await;
    let mut config = world.config(|tls| *tls = Tls::default());
    config.uplink.broker = format!("mqtt://localhost:{}", world.port).into();
    world.says(config, &["in place of answering", "mqtts://"]).await;
}

#[tokio::test]
async fn the_host_may_be_another_than_the_name_in_the_certificate() {
    let world = World::new(
        |authority| authority.valid("server", "broker.example"),
        |_| String::new(),
    );
    world
        .delivers(world.config(|tls| tls.server_name = Some("broker.example".into())))
        .await;
}

#[tokio::test]
async fn a_certificate_of_the_broker_that_has_expired_is_said_so_with_its_date() {
    let expired = Wanted {
        name: "localhost",
        from_days: -20,
        to_days: -10,
    };
    let world = World::new(|authority| authority.issue("server", &expired), |_| String::new());
    world
        .says(
            world.config(|_| {}),
            &["the broker's certificate has expired on 20", "this clock says 20"],
        )
        .await;
}

/// With a clock that is right; what else holds while it is not is tested where the clock can be set.
#[tokio::test]
async fn a_certificate_of_the_broker_that_begins_in_the_future_is_said_so_with_its_date() {
    let future = Wanted {
        name: "localhost",
        from_days: 10,
        to_days: 20,
    };
    let world = World::new(|authority| authority.issue("server", &future), |_| String::new());
    let mut config = world.config(|_| {});
    config.clock.trust = Trust::Always;
    let parts = [
        "the broker's certificate is not valid before 20",
        "this clock says 20",
        "is it right?",
    ];
    world.says(config, &parts).await;
}

#[tokio::test]
async fn what_is_wrong_with_the_agents_own_certificate_is_said_with_what_to_do() {
    let world = World::mutual();
    let own = world.authority.valid("gw-01", "gw-01");
    let twin = world.authority.valid("gw-02", "gw-02");
    let stranger = Authority::new(world.folder.path(), "stranger").valid("gw-03", "gw-03");
    let expired = Wanted {
        name: "gw-04",
        from_days: -20,
        to_days: -10,
    };
    let expired = world.authority.issue("gw-04", &expired);
    let version_1 = world.folder.path().join("version-1.pem");
    std::fs::write(&version_1, VERSION_1).unwrap();
    let says: [Says<'_>; 7] = [
        (&|_| {}, &["certificate", "uplink.tls.cert_file"]),
        (
            &|tls| {
                with(tls, &own);
                tls.cert_file = Some(version_1.clone());
            },
            &["version-1.pem", "version 3", "-extfile"],
        ),
        (
            &|tls| {
                with(tls, &own);
                tls.key_file = Some(twin.key.clone());
            },
            &["gw-02.key", "is not that of the certificate", "gw-01.pem"],
        ),
        (
            &|tls| {
                with(tls, &own);
                tls.key_file = Some(own.cert.clone());
            },
            &["gw-01.pem", "no private key", "PRIVATE KEY"],
        ),
        (
            &|tls| {
                with(tls, &own);
                tls.cert_file = Some(own.key.clone());
            },
            &["gw-01.key", "no certificate", "BEGIN CERTIFICATE"],
        ),
        (&|tls| with(tls, &stranger), &["gw-03.pem", "authority"]),
        (
            &|tls| with(tls, &expired),
            &["gw-04.pem", "has expired on 20", "renew it"],
        ),
    ];
    for (change, parts) in says {
        world.says(world.config(change), parts).await;
    }
}

/// A renewal replaces the files; the next connection uses them, without a restart.
#[tokio::test]
async fn certificates_that_are_renewed_on_disk_are_used_by_the_next_connection() {
    let mut world = World::mutual();
    let own = world.authority.valid("gw-01", "gw-01");
    let mut config = world.config(|tls| with(tls, &own));
    config.uplink.backoff.max = Duration::from_millis(300);
    let _relay = world.bridge.run(world.broker.port());
    let agent = Running::start(config);
    agent.all_acked(400).await;
    // Another authority on both sides, which knows nothing of the first.
    let renewed = Authority::new(world.folder.path(), "authority");
    renewed.valid("server", "localhost");
    world.broker.kill();
    world.broker.start();
    let why = agent.last_error_with("gw-01.pem").await;
    assert!(why.contains("authority"), "{why}");
    renewed.valid("gw-01", "gw-01");
    agent
        .until("connected again", 20, |stats| {
            stats.connected && stats.reconnects > 0
        })
        .await;
    agent.stop().await;
}

/// A connection made anew sends no certificates again: on a metered link that counts.
#[tokio::test]
async fn a_connection_made_anew_resumes_the_session_of_tls() {
    let world = World::mutual();
    let own = world.authority.valid("gw-01", "gw-01");
    let _relay = world.bridge.run(world.broker.port());
    let proxy = Proxy::start(world.port);
    let mut config = world.config(|tls| with(tls, &own));
    config.uplink.broker = format!("mqtts://localhost:{}", proxy.port()).into();
    let agent = Running::start(config);
    let first = agent.all_acked(400).await;
    let data = first.sent_bytes + first.received_bytes;
    let whole = first.link_sent_bytes + first.link_received_bytes - data;
    proxy.network.break_off();
    agent
        .until("connected again", 20, |stats| {
            stats.reconnects > 0 && stats.connected
        })
        .await;
    let second = agent.stop().await;
    let data = second.sent_bytes + second.received_bytes - data;
    let resumed = second.link_sent_bytes + second.link_received_bytes
        - first.link_sent_bytes
        - first.link_received_bytes
        - data;
    assert!(resumed * 3 < whole * 2, "{resumed} bytes of TLS after {whole}");
}
