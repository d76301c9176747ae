//! Topics: `spBv1.0/{group}/{kind}/{node}[/{device}]`.

/// The namespace.
const NAMESPACE: &str = "spBv1.0";

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A node is there, and tells what it measures.
    NodeBirth,
    /// Values of a node.
    NodeData,
    /// A node is away.
    NodeDeath,
    /// A device behind a node is there, and tells what it measures.
    DeviceBirth,
    /// Values of a device.
    DeviceData,
    /// A device is away.
    DeviceDeath,
}

impl Kind {
    const ALL: [(Self, &'static str); 6] = [
        (Self::NodeBirth, "NBIRTH"),
        (Self::NodeData, "NDATA"),
        (Self::NodeDeath, "NDEATH"),
        (Self::DeviceBirth, "DBIRTH"),
        (Self::DeviceData, "DDATA"),
        (Self::DeviceDeath, "DDEATH"),
    ];

    fn is_of_a_device(self) -> bool {
        matches!(self, Self::DeviceBirth | Self::DeviceData | Self::DeviceDeath)
    }
}

/// A topic, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topic<'a> {
    /// The group.
    pub group: &'a str,
    /// What comes under it.
    pub kind: Kind,
    /// The edge node.
    pub node: &'a str,
    /// The device behind it.
    pub device: Option<&'a str>,
}

impl<'a> Topic<'a> {
    /// Takes a topic apart; `None` if it is none of those that nodes publish under.
    pub fn parse(topic: &'a str) -> Option<Self> {
        let mut levels = topic.split('/');
        if levels.next() != Some(NAMESPACE) {
            return None;
        }
        let (group, kind, node, device) = (levels.next()?, levels.next()?, levels.next()?, levels.next());
        let (kind, _) = Kind::ALL.into_iter().find(|(_, name)| *name == kind)?;
        let is_whole = levels.next().is_none()
            && kind.is_of_a_device() == device.is_some()
            && [Some(group), Some(node), device]
                .into_iter()
                .flatten()
                .all(|level| !level.is_empty());
        is_whole.then_some(Self {
            group,
            kind,
            node,
            device,
        })
    }

    /// The filters under which all of these groups (`+`: any) come.
    pub fn filters(groups: &[String]) -> Vec<String> {
        let of = |group: &String| {
            let group = group.clone();
            Kind::ALL.map(|(kind, name)| {
                let device = if kind.is_of_a_device() { "/+" } else { "" };
                format!("{NAMESPACE}/{group}/{name}/+{device}")
            })
        };
        groups.iter().flat_map(of).collect()
    }

    /// Where the node of `group/node` takes commands.
    pub fn commands(address: &str) -> Option<String> {
        let (group, node) = address.split_once('/')?;
        Some(format!("{NAMESPACE}/{group}/NCMD/{node}"))
    }

    /// The node: `group/node`.
    pub fn address(&self) -> String {
        format!("{}/{}", self.group, self.node)
    }

    /// Whose the values are: `group/node` or `group/node/device`.
    pub fn source(&self) -> String {
        match self.device {
            Some(device) => format!("{}/{}/{device}", self.group, self.node),
            None => self.address(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_taken_apart() {
        let topic = Topic::parse("spBv1.0/plant/DDATA/line 1/press").unwrap();
        assert_eq!(
            (topic.kind, topic.source().as_str()),
            (Kind::DeviceData, "plant/line 1/press")
        );
        assert_eq!(
            Topic::commands(&topic.address()).unwrap(),
            "spBv1.0/plant/NCMD/line 1"
        );
        for other in [
            "spBv1.0/plant/NCMD/line 1",
            "spBv1.0/STATE/host",
            "spAv1.0/plant/NDATA/n",
            "spBv1.0/plant/NDATA/n/d",
            "spBv1.0/plant/DDATA/n",
            "spBv1.0//NDATA/n",
            "spBv1.0/plant/DDATA/n/d/e",
            "spBv1.0",
        ] {
            assert_eq!(Topic::parse(other), None, "{other}");
        }
    }

    #[test]
    fn what_is_subscribed_leaves_commands_out() {
        let filters = Topic::filters(&["plant".into()]);
        assert_eq!(filters.len(), 6);
        assert!(filters.contains(&"spBv1.0/plant/NDATA/+".to_string()));
        assert!(filters.contains(&"spBv1.0/plant/DBIRTH/+/+".to_string()));
    }
}
