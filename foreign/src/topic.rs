//! Which topics a filter stands for, as of MQTT 3.1.1, section 4.7. The MQTT library's own function panics at a topic that begins with
//! a letter beyond ASCII, and knows no `$SYS`.

/// Whether `filter` stands for `topic`.
pub fn matches(filter: &str, topic: &str) -> bool {
    // The first level's wildcards leave a broker's own topics out.
    if topic.starts_with('$') && !filter.starts_with('$') {
        return false;
    }
    let mut levels = topic.split('/');
    for part in filter.split('/') {
        match (part, levels.next()) {
            // It stands for its parent too.
            ("#", _) => return true,
            ("+", Some(_)) => {}
            (part, Some(level)) if part == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

/// Whether a broker would take it.
pub fn is_filter(filter: &str) -> bool {
    let last = filter.split('/').count() - 1;
    let levels_are_right = filter.split('/').enumerate().all(|(index, level)| match level {
        "#" => index == last,
        "+" => true,
        level => !level.contains(['#', '+']),
    });
    !filter.is_empty() && filter.len() <= usize::from(u16::MAX) && !filter.contains('\0') && levels_are_right
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_stand_for_what_the_standard_says() {
        for (filter, topic, expected) in [
            ("sport/tennis/player1/#", "sport/tennis/player1", true),
            (
                "sport/tennis/player1/#",
                "sport/tennis/player1/score/wimbledon",
                true,
            ),
            ("sport/#", "sport", true),
            ("sport/tennis/+", "sport/tennis/player1/ranking", false),
            ("sport/+", "sport", false),
            ("sport/+", "sport/", true),
            ("+/+", "/finance", true),
            ("+", "/finance", false),
            ("#", "a/b", true),
            ("#", "$SYS/monitor/Clients", false),
            ("+/monitor/Clients", "$SYS/monitor/Clients", false),
            ("$SYS/#", "$SYS/monitor/Clients", true),
            ("ACCOUNTS", "Accounts", false),
            ("é/+", "é/x", true),
            ("+/x", "🌡/x", true),
            ("a/b", "a", false),
        ] {
            assert_eq!(matches(filter, topic), expected, "{filter} {topic}");
        }
    }

    #[test]
    fn filters_are_judged_as_a_broker_does() {
        for filter in ["#", "+", "a/+/b", "a/#", "/", "a//b", "$SYS/#"] {
            assert!(is_filter(filter), "{filter}");
        }
        for filter in ["", "a#", "a/#/b", "a+/b", "++", "a/##"] {
            assert!(!is_filter(filter), "{filter}");
        }
    }
}
