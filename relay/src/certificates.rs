//! When the certificates end that this process goes by. The files are read whenever somebody looks at the metrics: a certificate that was
//! renewed shows at once, and one that nobody renews is told of while it is still good.

use std::fmt;
use std::path::PathBuf;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use tokio_rustls::rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::mqtt::tls as pem;
use crate::serve::Part;
use crate::settings::Settings;

/// From when until when a certificate is good, seconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    /// Its beginning.
    pub from_s: i64,
    /// Its end.
    pub until_s: i64,
}

/// The terms of those that can be read.
pub(crate) fn terms(certificates: &[CertificateDer<'_>]) -> Vec<Term> {
    let parsed = certificates
        .iter()
        .filter_map(|der| X509Certificate::from_der(der).ok());
    parsed
        .map(|(_, one)| Term {
            from_s: one.validity().not_before.timestamp(),
            until_s: one.validity().not_after.timestamp(),
        })
        .collect()
}

/// A file of certificates, and which of them counts.
#[derive(Clone, Debug)]
struct Source {
    /// The setting that names it.
    key: &'static str,
    path: PathBuf,
    /// The first, whatever stands behind it; else the one that ends first.
    first: bool,
}

impl Source {
    fn term(&self) -> Option<Term> {
        let terms = terms(&pem::certificates(self.key, &self.path).ok()?);
        if self.first {
            return terms.first().copied();
        }
        terms.into_iter().min_by_key(|term| term.until_s)
    }
}

/// A metric's name, what it is, and how much it is of a certificate.
type Figure = (&'static str, &'static str, fn(Term) -> i64);

/// The files that the settings name.
#[derive(Clone, Debug)]
pub struct Certificates {
    sources: Vec<Source>,
}

impl Certificates {
    /// Those of these parts; `None` where they have none.
    pub fn of(settings: &Settings, parts: &[Part]) -> Option<Self> {
        let enroll = &settings.enroll;
        let enrolls = parts.contains(&Part::Enroll) && enroll.listen.is_some();
        let files = [
            (
                parts.contains(&Part::Bridge),
                "mqtt.tls.cert_file",
                &settings.mqtt.tls.cert_file,
            ),
            (
                parts.contains(&Part::Gateway),
                "gateway.tls.cert_file",
                &settings.gateway.tls.cert_file,
            ),
            (enrolls, "enroll.cert_file", &enroll.cert_file),
            (enrolls, "enroll.ca_cert_file", &enroll.ca_cert_file),
            (enrolls, "enroll.trust_file", &enroll.trust_file),
        ];
        let sources: Vec<Source> = (files.into_iter())
            .filter_map(|(used, key, path)| {
                let path = path.clone().filter(|_| used)?;
                // Behind the authority that signs stand those before it, which are on their way out.
                let first = key == "enroll.ca_cert_file";
                Some(Source { key, path, first })
            })
            .collect();
        (!sources.is_empty()).then_some(Self { sources })
    }
}

impl Collector for Certificates {
    /// A file that cannot be read has no figure; who wants it logs why.
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let terms: Vec<_> = (self.sources.iter())
            .filter_map(|source| Some((source, source.term()?)))
            .collect();
        let figures: [Figure; 2] = [
            (
                "headwater_certificate_expiry_timestamp_seconds",
                "When the certificate in a file ends: the first that does.",
                |term| term.until_s,
            ),
            (
                "headwater_certificate_lifetime_seconds",
                "For how long that certificate is good in all.",
                |term| term.until_s - term.from_s,
            ),
        ];
        for (name, help, figure) in figures {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (source, term) in &terms {
                let file = source.path.display().to_string();
                let labels = [("key", source.key), ("file", file.as_str())];
                ConstGauge::new(figure(*term)).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::admin::Monitor;

    const DAY: i64 = 86_400;

    fn certificate(from_s: i64, until_s: i64) -> String {
        let at = |seconds: i64| (UNIX_EPOCH + Duration::from_secs(seconds.unsigned_abs())).into();
        let mut params = rcgen::CertificateParams::new(["localhost".to_string()]).unwrap();
        (params.not_before, params.not_after) = (at(from_s), at(until_s));
        params
            .self_signed(&rcgen::KeyPair::generate().unwrap())
            .unwrap()
            .pem()
    }

    #[test]
    fn the_end_of_each_certificate_is_told_and_a_new_one_at_once() {
        let temp = tempfile::tempdir().unwrap();
        let path = |name: &str| Some(temp.path().join(name));
        let write = |name: &str, text: &str| std::fs::write(temp.path().join(name), text).unwrap();
        let now_s = 1_900_000_000;
        let mut settings = Settings::default();
        assert!(Certificates::of(&settings, &[Part::Bridge, Part::Gateway, Part::Enroll]).is_none());
        settings.mqtt.tls.cert_file = path("relay.crt");
        settings.gateway.tls.cert_file = path("gateway.crt");
        settings.enroll.ca_cert_file = path("devices-ca.crt");
        let (long, short) = (
            certificate(now_s, now_s + 825 * DAY),
            certificate(now_s, now_s + 90 * DAY),
        );
        write("relay.crt", &(long.clone() + &short));
        write("gateway.crt", "nothing");
        write("devices-ca.crt", &(long.clone() + &short));
        let monitor = Monitor::new();
        // The endpoint does not run here.
        let of_bridge = Certificates::of(&settings, &[Part::Bridge, Part::Gateway, Part::Enroll]).unwrap();
        monitor.register(|registry| registry.register_collector(Box::new(of_bridge)));
        let lines = || -> Vec<String> {
            let text = monitor.metrics();
            let found = text
                .lines()
                .filter(|line| line.starts_with("headwater_certificate_"));
            found.map(str::to_string).collect()
        };
        let line = |what: &str, file: &str, key: &str, value: i64| {
            let file = temp.path().join(file);
            format!(
                "headwater_certificate_{what}_seconds{{key=\"{key}\",file=\"{}\"}} {value}",
                file.display()
            )
        };
        let told = |until_s: i64| {
            ["expiry_timestamp", "lifetime"].map(|what| {
                let value = if what == "lifetime" {
                    until_s - now_s
                } else {
                    until_s
                };
                line(what, "relay.crt", "mqtt.tls.cert_file", value)
            })
        };
        assert_eq!(
            lines(),
            told(now_s + 90 * DAY),
            "the chain is good for as long as its shortest"
        );
        write("relay.crt", &long);
        assert_eq!(lines(), told(now_s + 825 * DAY));
        settings.enroll.listen = Some(([127, 0, 0, 1], 0).into());
        let of_endpoint = Certificates::of(&settings, &[Part::Enroll]).unwrap();
        monitor.register(|registry| registry.register_collector(Box::new(of_endpoint)));
        let end = line(
            "expiry_timestamp",
            "devices-ca.crt",
            "enroll.ca_cert_file",
            now_s + 825 * DAY,
        );
        assert!(lines().contains(&end), "the authority that signs: {:?}", lines());
    }
}
