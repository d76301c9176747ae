//! Renewed files, by a clock that is not waited for.

use std::time::Duration;

use super::*;
use crate::mqtt::authority::Authority;

#[tokio::test(start_paused = true)]
async fn files_that_are_renewed_are_found_within_five_minutes_and_bad_ones_end_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "authority");
    let own = authority.valid("own", "gw-01");
    let settings = config::Tls {
        ca_file: Some(authority.file.clone()),
        cert_file: Some(own.cert.clone()),
        key_file: Some(own.key.clone()),
        ..config::Tls::default()
    };
    let tls = Tls::new(&settings, Clock::default());
    // As a connection does when it is made.
    let first = tls.0.prepare().unwrap();
    let hour = Duration::from_secs(3_600);
    let looked = || tokio::time::timeout(hour, tls.renewed());
    assert!(looked().await.is_err(), "nothing has changed");
    // In the middle of a renewal: the certificate is there, its key not yet.
    let twin = authority.valid("twin", "gw-01");
    std::fs::rename(&twin.cert, &own.cert).unwrap();
    assert!(looked().await.is_err(), "a pair that does not match is not used");
    std::fs::write(&own.cert, "not PEM").unwrap();
    assert!(looked().await.is_err(), "what is no certificate is not used");
    std::fs::remove_file(&own.cert).unwrap();
    assert!(looked().await.is_err(), "nor is a file that is gone");
    assert_eq!(
        tls.0.kept().as_ref().unwrap().marks,
        first.marks,
        "the connection's own"
    );
    authority.valid("own", "gw-01");
    let began = tokio::time::Instant::now();
    assert!(looked().await.is_ok());
    assert_eq!(began.elapsed().as_secs(), settings.look_every.as_secs());
    let second = tls.0.prepare().unwrap();
    assert!(
        !Arc::ptr_eq(&first.config, &second.config),
        "the next connection uses them"
    );
    assert!(looked().await.is_err(), "and that is all");
}
