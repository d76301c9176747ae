//! Mosquitto on free ports of this machine, with and without TLS.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::process::Process;

/// A running broker.
pub(crate) struct Broker {
    /// Without TLS.
    pub(crate) port: u16,
    pub(crate) tls_port: u16,
    /// The certificate that signed the broker's.
    pub(crate) ca: PathBuf,
    _process: Option<Process>,
}

impl Broker {
    /// Starts Mosquitto with its files in `work`.
    pub(crate) fn start(work: &Path) -> Result<Self> {
        let (ca, certificate, key) = certificates(work)?;
        let (port, tls_port) = (free_port()?, free_port()?);
        let config = format!(
            "per_listener_settings false\nallow_anonymous true\nmax_queued_messages 0\nlistener {port} 127.0.0.1\n\
             listener {tls_port} 127.0.0.1\ncertfile {}\nkeyfile {}\n",
            certificate.display(),
            key.display()
        );
        let file = work.join("mosquitto.conf");
        fs::write(&file, config)?;
        let process = Process::start(
            Command::new("mosquitto").arg("-c").arg(&file),
            &work.join("mosquitto.log"),
        )
        .context("Mosquitto is needed: apt-get install mosquitto")?;
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", tls_port)).is_err() {
            process.usage()?;
            ensure!(
                begun.elapsed() < Duration::from_secs(10),
                "Mosquitto does not listen"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(Self {
            port,
            tls_port,
            ca,
            _process: Some(process),
        })
    }

    /// A broker that is not there.
    pub(crate) fn absent() -> Result<Self> {
        Ok(Self {
            port: free_port()?,
            tls_port: free_port()?,
            ca: PathBuf::new(),
            _process: None,
        })
    }
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// A certificate for `localhost` and the authority that signed it.
fn certificates(work: &Path) -> Result<(PathBuf, PathBuf, PathBuf)> {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate()?;
    let authority_certificate = authority.self_signed(&authority_key)?;
    let issuer = Issuer::new(authority, authority_key);
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new(vec!["localhost".to_string()])?.signed_by(&key, &issuer)?;
    let files = ["ca.pem", "broker.pem", "broker.key"].map(|name| work.join(name));
    let contents = [
        authority_certificate.pem(),
        certificate.pem(),
        key.serialize_pem(),
    ];
    for (file, content) in files.iter().zip(contents) {
        fs::write(file, content)?;
    }
    // As root, Mosquitto goes on as a user of its own, and has to read them.
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(work, fs::Permissions::from_mode(0o755))?;
        fs::set_permissions(&files[2], fs::Permissions::from_mode(0o644))?;
    }
    let [ca, certificate, key] = files;
    Ok((ca, certificate, key))
}
