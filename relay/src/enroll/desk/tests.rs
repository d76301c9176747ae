use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, SanType};

use super::*;
use crate::enroll::register::Token;

const NOW: i64 = 1_900_000_000;
const DAY: i64 = 86_400;

struct Rig {
    temp: tempfile::TempDir,
    desk: Desk,
}

impl Rig {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params
            .distinguished_name
            .push(DnType::CommonName, "Headwater devices");
        // Of the key by another way than rcgen's, as openssl's is.
        let key = KeyPair::generate().unwrap();
        let id = digest(&SHA256, &rcgen::PublicKeyData::subject_public_key_info(&key));
        params.key_identifier_method = rcgen::KeyIdMethod::PreSpecified(id.as_ref()[12..].to_vec());
        fs::write(
            temp.path().join("ca.crt"),
            params.self_signed(&key).unwrap().pem(),
        )
        .unwrap();
        crate::enroll::register::place(&temp.path().join("ca.key"), 0o600, key.serialize_pem().as_bytes())
            .unwrap();
        let settings = EnrollSettings {
            state: temp.path().join("state"),
            ca_cert_file: Some(temp.path().join("ca.crt")),
            ca_key_file: Some(temp.path().join("ca.key")),
            crl_file: Some(temp.path().join("devices.crl")),
            lifetime: Duration::from_secs(90 * DAY as u64),
            ..EnrollSettings::default()
        };
        let desk = Desk::open(&settings).unwrap();
        Self { temp, desk }
    }

    fn token(&self, token: &str, device: &str, expires_s: i64) {
        let (device, made_s) = (device.to_string(), NOW);
        self.desk
            .register
            .put_token(
                &hash(token),
                &Token {
                    device,
                    expires_s,
                    made_s,
                },
            )
            .unwrap();
    }

    /// What openssl says of a certificate.
    fn openssl(&self, pem: &str) -> String {
        let path = self.temp.path().join("shown.pem");
        fs::write(&path, pem).unwrap();
        let output = Command::new("openssl")
            .args(["x509", "-noout", "-text", "-in"])
            .arg(&path)
            .output();
        String::from_utf8(output.expect("openssl is installed (Debian: openssl)").stdout).unwrap()
    }
}

fn request(device: &str, key: &KeyPair) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, device);
    params.serialize_request(key).unwrap().der().to_vec()
}

fn der(pem: &str) -> Vec<u8> {
    use tokio_rustls::rustls::pki_types::{CertificateDer, pem::PemObject};
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec()
}

#[test]
fn a_token_lets_one_key_in_once_and_gives_it_the_same_answer_again() {
    let rig = Rig::new();
    let desk = &rig.desk;
    rig.token("secret", "gw-01", NOW + DAY);
    let (key, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let first = desk.enroll("secret", &request("gw-01", &key), NOW).unwrap();
    assert!(!first.repeated);
    assert_eq!(first.issued.until_s, NOW + 90 * DAY);
    let text = rig.openssl(&first.issued.certificate);
    for part in [
        "CN = gw-01",
        "CA:FALSE",
        "TLS Web Client Authentication",
        "Digital Signature",
        "Authority Key Identifier",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    // The answer was lost on its way, and the request is signed anew.
    let again = desk.enroll("secret", &request("gw-01", &key), NOW + 60).unwrap();
    assert_eq!(
        (again.issued.certificate, again.repeated),
        (first.issued.certificate, true)
    );
    for (token, device, key, now_s, part) in [
        ("secret", "gw-01", &other, NOW + 60, "used already"),
        ("secret", "gw-01", &key, NOW + DAY, "expired"),
        ("secret", "gw-02", &key, NOW, "not for a device called gw-02"),
        ("Secret", "gw-01", &key, NOW, "not known"),
        ("", "gw-01", &key, NOW, "not known"),
    ] {
        let refused = desk.enroll(token, &request(device, key), now_s);
        assert!(
            matches!(&refused, Err(Refusal::Token(why)) if why.contains(part)),
            "{part}: {refused:?}"
        );
    }
    assert_eq!(desk.register.issued("gw-01").unwrap().len(), 1);
}

#[test]
fn a_token_for_a_glob_of_names_lets_one_of_them_in() {
    let rig = Rig::new();
    rig.token("secret", "gw-*", NOW + DAY);
    let key = KeyPair::generate().unwrap();
    assert!(rig.desk.enroll("secret", &request("pi-01", &key), NOW).is_err());
    rig.desk.enroll("secret", &request("gw-07", &key), NOW).unwrap();
    assert!(rig.desk.enroll("secret", &request("gw-08", &key), NOW).is_err());
}

#[test]
fn a_token_for_a_glob_of_names_takes_none_from_a_machine_that_has_it_or_is_to_have_it() {
    let rig = Rig::new();
    let desk = &rig.desk;
    let (key, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    rig.token("its own", "gw-01", NOW + DAY);
    rig.token("any", "gw-*", NOW + 300 * DAY);
    let refused = |now_s, part: &str| {
        let refused = desk.enroll("any", &request("gw-01", &other), now_s);
        assert!(
            matches!(&refused, Err(Refusal::Token(why)) if why.contains(part)),
            "{part}: {refused:?}"
        );
    };
    refused(NOW, "a token of its own for gw-01");
    desk.enroll("its own", &request("gw-01", &key), NOW).unwrap();
    refused(NOW, "another machine is enrolled as gw-01");
    refused(NOW + 90 * DAY - 1, "another machine is enrolled as gw-01");
    // For a token of that name alone it makes way, and so it does when its certificate has ended.
    rig.token("a new box", "gw-01", NOW + DAY);
    let mut given = desk.enroll("a new box", &request("gw-01", &other), NOW).unwrap();
    assert!(!given.repeated);
    refused(NOW, "another machine is enrolled as gw-01");
    given = desk
        .enroll("any", &request("gw-01", &other), NOW + 90 * DAY)
        .unwrap();
    assert!(!given.repeated);
    // Nothing of it stands against a repetition.
    let again = desk
        .enroll("any", &request("gw-01", &other), NOW + 91 * DAY)
        .unwrap();
    assert_eq!((again.issued, again.repeated), (given.issued, true));
}

#[test]
fn after_the_authority_was_exchanged_its_certificates_are_renewed_and_its_list_stays() {
    let (rig, new) = (Rig::new(), Rig::new());
    let desk = &rig.desk;
    let (key, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    for (token, device) in [("one", "gw-01"), ("two", "gw-02")] {
        rig.token(token, device, NOW + DAY);
    }
    let first = desk.enroll("one", &request("gw-01", &key), NOW).unwrap().issued;
    desk.enroll("two", &request("gw-02", &other), NOW).unwrap();
    desk.revoke("gw-02", NOW).unwrap();
    let crl = rig.temp.path().join("devices.crl");
    let old_list = fs::read_to_string(&crl).unwrap();
    let settings = EnrollSettings {
        ca_cert_file: Some(new.temp.path().join("ca.crt")),
        ca_key_file: Some(new.temp.path().join("ca.key")),
        ..EnrollSettings::default()
    };
    desk.exchange(Authority::load(&settings).unwrap());
    let due = NOW + 60 * DAY;
    let second = desk
        .renew(&der(&first.certificate), &request("gw-01", &key), due)
        .unwrap()
        .issued;
    let file = rig.temp.path().join("renewed.crt");
    fs::write(&file, &second.certificate).unwrap();
    let verify = |more: &[&str]| {
        let ca = new.temp.path().join("ca.crt");
        let output = Command::new("openssl")
            .args(["verify", "-attime", &(due + DAY).to_string()])
            .args(more)
            .args([Path::new("-CAfile"), &ca, &file])
            .output();
        output
            .expect("openssl is installed (Debian: openssl)")
            .status
            .success()
    };
    assert!(verify(&[]));
    // Each authority's list is its own; the old one cannot be made anew without its key.
    for _ in 0..2 {
        assert!(desk.revoke("gw-01", due).is_ok());
        let both = fs::read_to_string(&crl).unwrap();
        assert_eq!(both.matches("BEGIN X509 CRL").count(), 2, "{both}");
        let body = |list: &str| {
            list.lines()
                .filter(|line| !line.starts_with('-'))
                .collect::<String>()
        };
        assert!(body(&both).ends_with(&body(&old_list)));
        assert!(!verify(&["-crl_check", "-CRLfile", crl.to_str().unwrap()]));
    }
}

#[test]
fn while_two_authorities_are_accepted_each_lists_what_it_has_signed() {
    let (rig, new) = (Rig::new(), Rig::new());
    let (desk, folder) = (&rig.desk, rig.temp.path());
    let (key, crl) = (KeyPair::generate().unwrap(), folder.join("devices.crl"));
    let enroll = |device: &str, token: &str| {
        rig.token(token, device, NOW + DAY);
        let given = desk.enroll(token, &request(device, &key), NOW).unwrap();
        let path = folder.join(format!("{token}.crt"));
        fs::write(&path, given.issued.certificate).unwrap();
        path
    };
    // As Mosquitto does: both authorities, and all lists.
    let both = folder.join("both.crt");
    let is_good = |certificate: &Path| {
        let output = Command::new("openssl")
            .args(["verify", "-crl_check", "-attime", &(NOW + DAY).to_string()])
            .args([Path::new("-CAfile"), &both, Path::new("-CRLfile"), &crl])
            .arg(certificate)
            .output()
            .expect("openssl is installed (Debian: openssl)");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            output.status.success() || said.contains("certificate revoked"),
            "{said}"
        );
        output.status.success()
    };
    let text = |rig: &Rig, name: &str| fs::read_to_string(rig.temp.path().join(name)).unwrap();
    fs::write(&both, text(&new, "ca.crt") + &text(&rig, "ca.crt")).unwrap();
    let keys = |name: &str, keys: &str| {
        let path = folder.join(name);
        crate::enroll::register::place(&path, 0o600, keys.as_bytes()).unwrap();
        EnrollSettings {
            ca_cert_file: Some(both.clone()),
            ca_key_file: Some(path),
            ..EnrollSettings::default()
        }
    };
    let (old_key, new_key) = (text(&rig, "ca.key"), text(&new, "ca.key"));
    let olds: Vec<_> = ["gw-01", "gw-02", "gw-03"]
        .map(|name| enroll(name, name))
        .to_vec();
    desk.revoke("gw-02", NOW).unwrap();
    desk.exchange(Authority::load(&keys("both.key", &(new_key.clone() + &old_key))).unwrap());
    let news: Vec<_> = ["gw-01", "gw-04"]
        .map(|name| enroll(name, &format!("{name}-new")))
        .to_vec();
    assert_eq!(desk.revoke("gw-01", NOW).unwrap(), (2, Vec::new()));
    let told: Vec<bool> = olds.iter().chain(&news).map(|path| is_good(path)).collect();
    assert_eq!(told, [false, false, true, false, true]);
    // Without the old key the certificate that it has signed cannot be taken back, and that is said; its list stays as it is.
    desk.exchange(Authority::load(&keys("new.key", &new_key)).unwrap());
    let (count, unlisted) = desk.revoke("gw-03", NOW).unwrap();
    let issuer = "CN=Headwater devices".to_string();
    let (device, until_s) = ("gw-03".to_string(), NOW + 90 * DAY);
    assert_eq!(
        (count, unlisted),
        (
            1,
            vec![Unlisted {
                device,
                issuer,
                until_s
            }]
        )
    );
    assert_eq!(
        desk.crl(NOW).unwrap().1.len(),
        1,
        "what its own list has is in a list"
    );
    let told: Vec<bool> = olds.iter().chain(&news).map(|path| is_good(path)).collect();
    assert_eq!(told, [false, false, true, false, true]);
    // With it, later, it can.
    desk.exchange(Authority::load(&keys("both.key", &(new_key.clone() + &old_key))).unwrap());
    assert_eq!(desk.revoke("gw-03", NOW).unwrap(), (0, Vec::new()));
    assert!(!is_good(&olds[2]) && is_good(&news[1]));
    // A key that belongs to neither is told of.
    let stranger = KeyPair::generate().unwrap().serialize_pem();
    for (name, held, part) in [
        (
            "stranger.key",
            new_key.clone() + &stranger,
            "key number 2 in it is of none",
        ),
        ("turned.key", old_key + &new_key, "it is not the key of"),
        ("none.key", String::new(), "holds no private key"),
    ] {
        let why = Authority::load(&keys(name, &held)).unwrap_err().to_string();
        assert!(why.contains(part), "{why}");
    }
}

#[test]
fn a_key_of_the_authority_that_everybody_can_read_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let rig = Rig::new();
    let settings = EnrollSettings {
        ca_cert_file: Some(rig.temp.path().join("ca.crt")),
        ca_key_file: Some(rig.temp.path().join("ca.key")),
        ..EnrollSettings::default()
    };
    for (mode, good) in [(0o600, true), (0o440, true), (0o644, false), (0o602, false)] {
        fs::set_permissions(rig.temp.path().join("ca.key"), fs::Permissions::from_mode(mode)).unwrap();
        let loaded = Authority::load(&settings);
        assert_eq!(loaded.is_ok(), good, "{mode:o}: {loaded:?}");
        assert!(good || loaded.unwrap_err().to_string().contains("chmod o= "));
    }
}

#[test]
fn nothing_of_a_request_is_taken_but_its_key() {
    let rig = Rig::new();
    rig.token("secret", "gw-01", NOW + DAY);
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["broker.example".to_string()]).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "gw-01");
    params.distinguished_name.push(DnType::OrganizationName, "Evil");
    params
        .subject_alt_names
        .push(SanType::IpAddress([10, 0, 0, 1].into()));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let request = params.serialize_request(&key).unwrap();
    let signed = rig
        .desk
        .enroll("secret", request.pem().unwrap().as_bytes(), NOW)
        .unwrap();
    let text = rig.openssl(&signed.issued.certificate);
    assert!(text.contains("CA:FALSE") && text.contains("CN = gw-01"), "{text}");
    for part in [
        "Evil",
        "broker.example",
        "10.0.0.1",
        "CA:TRUE",
        "Server Authentication",
        "Alternative Name",
    ] {
        assert!(!text.contains(part), "{part}: {text}");
    }
}

#[test]
fn requests_that_make_no_sense_are_refused_and_use_no_token() {
    let rig = Rig::new();
    rig.token("secret", "*", NOW + DAY);
    let key = KeyPair::generate().unwrap();
    let good = request("gw-01", &key);
    let mut forged = good.clone();
    let at = good.windows(5).position(|part| part == b"gw-01").unwrap();
    forged[at + 4] = b'2';
    let behind = [&good[..], b"x"].concat();
    let nameless = {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.serialize_request(&key).unwrap().der().to_vec()
    };
    let wide = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    for (bytes, part) in [
        (b"garbage".to_vec(), "no signing request"),
        (Vec::new(), "no signing request"),
        (b"-----BEGIN nothing".to_vec(), "no PEM"),
        (good[..good.len() - 1].to_vec(), "no signing request"),
        (forged, "not signed by its own key"),
        (behind, "behind"),
        (nameless, "common name"),
        (request("headwater-relay", &key), "the relay's name"),
        (request("Headwater-Relay", &key), "the relay's name"),
        (request("a/b", &key), "only A-Z"),
        (request("+", &key), "must begin"),
        (request(&"x".repeat(65), &key), "64 characters"),
    ] {
        let refused = rig.desk.enroll("secret", &bytes, NOW);
        assert!(
            matches!(&refused, Err(Refusal::Request(why)) if why.contains(part)),
            "{part}: {refused:?}"
        );
    }
    rig.desk.enroll("secret", &request("gw-01", &wide), NOW).unwrap();
}

#[test]
fn a_certificate_is_renewed_when_it_is_due_once_and_for_its_own_key_and_name() {
    let rig = Rig::new();
    let desk = &rig.desk;
    rig.token("secret", "gw-01", NOW + DAY);
    let (key, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let first = desk
        .enroll("secret", &request("gw-01", &key), NOW)
        .unwrap()
        .issued;
    let shown = der(&first.certificate);
    let due = NOW + 60 * DAY;
    let early = desk.renew(&shown, &request("gw-01", &key), NOW + DAY);
    assert!(matches!(early, Err(Refusal::Early(_))), "{early:?}");
    for bad in [
        request("gw-02", &key),
        request("gw-01", &other),
        b"garbage".to_vec(),
    ] {
        let refused = desk.renew(&shown, &bad, due);
        assert!(matches!(refused, Err(Refusal::Request(_))), "{refused:?}");
    }
    let second = desk.renew(&shown, &request("gw-01", &key), due).unwrap();
    assert_ne!(second.issued.serial, first.serial);
    assert_eq!((second.issued.until_s, second.repeated), (due + 90 * DAY, false));
    let again = desk.renew(&shown, &request("gw-01", &key), due + 60).unwrap();
    assert_eq!(
        (again.issued.serial, again.repeated),
        (second.issued.serial, true)
    );
    assert_eq!(desk.register.issued("gw-01").unwrap().len(), 2);
}

#[test]
fn who_is_revoked_gets_nothing_until_allowed_again() {
    let rig = Rig::new();
    let desk = &rig.desk;
    let (key, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    for (token, device) in [("one", "gw-01"), ("two", "gw-02"), ("three", "gw-01")] {
        rig.token(token, device, NOW + 100 * DAY);
    }
    let first = desk.enroll("one", &request("gw-01", &key), NOW).unwrap().issued;
    let second = desk.enroll("two", &request("gw-02", &other), NOW).unwrap().issued;
    // What was revoked by other means stays in the list.
    let by_hand = desk.authority().list(&[vec![(vec![1, 2, 3], NOW)]], NOW).unwrap();
    fs::write(rig.temp.path().join("devices.crl"), by_hand).unwrap();
    assert_eq!(desk.revoke("gw-01", NOW + DAY).unwrap(), (1, Vec::new()));
    assert_eq!(desk.revoke("gw-01", NOW + DAY).unwrap(), (0, Vec::new()));
    let due = NOW + 60 * DAY;
    for refused in [
        desk.renew(&der(&first.certificate), &request("gw-01", &key), due),
        desk.enroll("one", &request("gw-01", &key), NOW + DAY),
        desk.enroll("three", &request("gw-01", &other), NOW + DAY),
    ] {
        assert!(matches!(refused, Err(Refusal::Revoked(_))), "{refused:?}");
    }
    desk.renew(&der(&second.certificate), &request("gw-02", &other), due)
        .unwrap();
    let list = fs::read(rig.temp.path().join("devices.crl")).unwrap();
    for list in [list, desk.crl(NOW + DAY).unwrap().0.into_bytes()] {
        let listed: Vec<_> = authority::listed(&list)
            .unwrap()
            .into_iter()
            .map(|(serial, _)| authority::hex(&serial))
            .collect();
        assert_eq!(listed, ["010203".to_string(), first.serial.clone()]);
    }
    // openssl goes by it, as Mosquitto does.
    let file = |name: &str, text: &str| {
        let path = rig.temp.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    for (certificate, good) in [(&first.certificate, false), (&second.certificate, true)] {
        let output = Command::new("openssl")
            .args([
                "verify",
                "-crl_check",
                "-attime",
                &(NOW + 2 * DAY).to_string(),
                "-CAfile",
            ])
            .arg(rig.temp.path().join("ca.crt"))
            .arg("-CRLfile")
            .arg(rig.temp.path().join("devices.crl"))
            .arg(file("cert.pem", certificate))
            .output()
            .expect("openssl is installed (Debian: openssl)");
        let said =
            String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.success(), good, "{said}");
        assert!(good || said.contains("revoked"), "{said}");
    }
    // Found again: what it had stays revoked, also where only the list tells.
    assert!(desk.register.allow("gw-01").unwrap());
    assert!(!desk.register.allow("gw-01").unwrap());
    let refused = desk.renew(&der(&first.certificate), &request("gw-01", &key), due);
    assert!(matches!(refused, Err(Refusal::Revoked(_))), "{refused:?}");
    let refused = desk.enroll("one", &request("gw-01", &key), NOW + DAY);
    assert!(matches!(refused, Err(Refusal::Token(_))), "{refused:?}");
    desk.enroll("three", &request("gw-01", &other), NOW + DAY)
        .unwrap();
}

#[test]
fn a_register_that_cannot_be_written_gives_nothing_away_and_uses_no_token() {
    let rig = Rig::new();
    rig.token("secret", "gw-01", NOW + DAY);
    let key = KeyPair::generate().unwrap();
    // Without the folder of what tokens were used for, writing there fails, as on a full disk.
    let used = rig.temp.path().join("state/used");
    fs::remove_dir(&used).unwrap();
    let refused = rig.desk.enroll("secret", &request("gw-01", &key), NOW);
    assert!(matches!(refused, Err(Refusal::Failed(_))), "{refused:?}");
    fs::create_dir(&used).unwrap();
    let given = rig.desk.enroll("secret", &request("gw-01", &key), NOW).unwrap();
    assert!(!given.repeated);
    // What was signed and not given can be revoked with the rest.
    assert_eq!(rig.desk.revoke("gw-01", NOW).unwrap(), (2, Vec::new()));
}

#[test]
fn two_processes_cannot_both_use_a_token_and_one_endpoint_runs() {
    let rig = Rig::new();
    rig.token("secret", "gw-*", NOW + DAY);
    let given: Vec<bool> = std::thread::scope(|scope| {
        let asking: Vec<_> = (0..8)
            .map(|n| {
                let desk = &rig.desk;
                scope.spawn(move || {
                    let key = KeyPair::generate().unwrap();
                    desk.enroll("secret", &request(&format!("gw-{n}"), &key), NOW)
                        .is_ok()
                })
            })
            .collect();
        asking.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(given.iter().filter(|given| **given).count(), 1);
    let alone = rig.desk.register.endpoint().unwrap();
    let other = Register::open(&rig.temp.path().join("state")).unwrap();
    assert!(matches!(other.endpoint(), Err(Error::Held(_))));
    drop(alone);
    other.endpoint().unwrap();
}
