//! How Sparkplug's edge nodes are told that their host application is there: a retained message, and a Last Will that takes it back.

use super::settings::{SparkplugSettings, StateTopic};

/// What is told, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presence {
    topic: String,
    version: StateTopic,
}

impl Presence {
    /// As the settings say; `None`: nobody is told.
    pub fn new(settings: &SparkplugSettings) -> Option<Self> {
        let id = &settings.host_id;
        (!id.is_empty()).then(|| Self {
            topic: match settings.state {
                StateTopic::V3 => format!("spBv1.0/STATE/{id}"),
                StateTopic::V2 => format!("STATE/{id}"),
            },
            version: settings.state,
        })
    }

    /// Where it is told.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// That the host application is there, or that it is not, since this time (milliseconds since the Unix epoch): a will says the time of
    /// the connection that it belongs to (Sparkplug 3.0, 6.4.27 and 6.4.28).
    pub fn told(&self, online: bool, since_ms: i64) -> String {
        match (self.version, online) {
            (StateTopic::V3, _) => format!("{{\"online\":{online},\"timestamp\":{since_ms}}}"),
            (StateTopic::V2, true) => "ONLINE".into(),
            (StateTopic::V2, false) => "OFFLINE".into(),
        }
    }

    /// Whether a message under the topic says that the host application is not there: the will of an earlier connection, which came late.
    pub fn is_denied(&self, payload: &[u8]) -> bool {
        match self.version {
            StateTopic::V2 => payload == b"OFFLINE",
            StateTopic::V3 => serde_json::from_slice::<serde_json::Value>(payload)
                .is_ok_and(|told| told.get("online") == Some(&serde_json::Value::Bool(false))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_as_either_version_of_the_specification_has_it() {
        let mut settings = SparkplugSettings::default();
        assert_eq!(Presence::new(&settings), None);
        settings.host_id = "scada".into();
        let three = Presence::new(&settings).unwrap();
        assert_eq!(three.topic(), "spBv1.0/STATE/scada");
        assert_eq!(
            three.told(true, 1_668_114_759_262),
            r#"{"online":true,"timestamp":1668114759262}"#
        );
        settings.state = StateTopic::V2;
        let two = Presence::new(&settings).unwrap();
        assert_eq!(
            (two.topic(), two.told(true, 7).as_str()),
            ("STATE/scada", "ONLINE")
        );
        for presence in [three, two] {
            assert!(presence.is_denied(presence.told(false, 7).as_bytes()));
            assert!(!presence.is_denied(presence.told(true, 7).as_bytes()));
            assert!(!presence.is_denied(b"\xff"));
        }
    }
}
