//! Certificates made for a test, in PEM files of its own folder.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

/// An authority, and the folder that everything it issues goes to.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    folder: PathBuf,
    /// Its own certificate.
    pub(crate) file: PathBuf,
}

/// What a certificate is to be.
pub(crate) struct Wanted<'a> {
    pub(crate) name: &'a str,
    /// From now; negative: past.
    pub(crate) from_days: i64,
    pub(crate) to_days: i64,
}

/// A certificate's files.
pub(crate) struct Issued {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

const DAY: Duration = Duration::from_secs(86_400);

fn days_from_now(days: i64) -> SystemTime {
    let distance = DAY * u32::try_from(days.unsigned_abs()).unwrap();
    if days < 0 {
        SystemTime::now() - distance
    } else {
        SystemTime::now() + distance
    }
}

impl Authority {
    pub(crate) fn new(folder: &Path, name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let file = folder.join(format!("{name}.pem"));
        std::fs::write(&file, params.self_signed(&key).unwrap().pem()).unwrap();
        Self {
            issuer: Issuer::new(params, key),
            folder: folder.to_path_buf(),
            file,
        }
    }

    /// Issues a certificate into `{file}.pem` and `{file}.key`; what was there is replaced, as a renewal does.
    pub(crate) fn issue(&self, file: &str, wanted: &Wanted<'_>) -> Issued {
        let mut params = CertificateParams::new([wanted.name.to_string()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, wanted.name);
        params.not_before = days_from_now(wanted.from_days).into();
        params.not_after = days_from_now(wanted.to_days).into();
        let key = KeyPair::generate().unwrap();
        let issued = Issued {
            cert: self.folder.join(format!("{file}.pem")),
            key: self.folder.join(format!("{file}.key")),
        };
        let pem = params.signed_by(&key, &self.issuer).unwrap().pem();
        for (path, text) in [(&issued.cert, pem), (&issued.key, key.serialize_pem())] {
            let part = path.with_extension("part");
            std::fs::write(&part, text).unwrap();
            std::fs::rename(&part, path).unwrap();
        }
        issued
    }

    /// One that is valid today.
    pub(crate) fn valid(&self, file: &str, name: &str) -> Issued {
        let wanted = Wanted {
            name,
            from_days: -1,
            to_days: 30,
        };
        self.issue(file, &wanted)
    }
}
