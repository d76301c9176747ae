use headwater_proto::Value;

use super::*;

const T_US: i64 = 1_763_812_800_000_000;
const SECOND: Duration = Duration::from_secs(1);

/// As sparkplug-payload 1.0.3 (npm, of Eclipse Tahu's authors) encodes them.
mod of_npm {
    pub(super) const BIRTH: &str = "0880ecbddbaa33120b0a05626453657120045803121a0a144e6f646520436f6e74726f6c2f52656269727468200b7000122e0a0474656d7010011898e4bddbaa33200a4a120a07656e67556e69741207080c420343656c69000000000080354012110a05636f756e741002200350fbffffff0f12140a03626967100320045880f491f6e5ffffffff0112100a04627974651004200150ffffffff0f120c0a016610052009650000803e120a0a026f6e1006200b700112120a04746578741007200c7a0668c3a96c6c6f12110a047768656e1008200d5880ecbddbaa33120f0a037533321009200758ffffffff0f120e0a03726177100a20118201020102120c0a046e6f6e65100b200a380112190a03736574100c20108a010d0801120161180322040a0208011800";
    pub(super) const DATA: &str =
        "088893bedbaa331214100118a08bbedbaa33200a690000000000403640120a1002200350faffffff0f1801";
    pub(super) const DEATH: &str = "0880ecbddbaa33120b0a05626453657120045803";
}

/// As pysparkplug 0.6.1 (PyPI) encodes them.
mod of_python {
    pub(super) const BIRTH: &str = "0880ecbddbaa3312120a0562645365711880ecbddbaa3320045807121a0a0474656d7010011880ecbddbaa33200a69000000000080354012120a02693810021880ecbddbaa33200150ff0112140a0369313610031880ecbddbaa33200250d4fd0312160a0369333210041880ecbddbaa3320035090ddfbff0f121b0a0369363410051880ecbddbaa3320045880f491f6e5ffffffff0112170a0375363410061880ecbddbaa3320085880808080802012130a016610071880ecbddbaa332009650000803e12110a026f6e10081880ecbddbaa33200b700112160a017310091880ecbddbaa33200c7a0668c3a96c6c6f12180a047768656e100a1880ecbddbaa33200d5880ecbddbaa33121b0a03617272100b1880ecbddbaa3320188201080100000002000000121f0a0770617373696e67100c1880ecbddbaa33200a300169000000000000f03f1800";
    pub(super) const DATA: &str = "088893bedbaa33120d100318a08bbedbaa3350d3fd031801";
    pub(super) const DEATH: &str = "0880ecbddbaa3312120a0562645365711880ecbddbaa3320045807";
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    (0..hex.len()).step_by(2).map(digits).collect()
}

fn host() -> Host {
    Host::new(Options {
        rebirth_interval: SECOND,
        transient: false,
        nodes: 10,
    })
}

fn hear(host: &mut Host, kind: &str, payload: &[u8]) -> Heard {
    hear_at(host, Instant::now(), kind, payload)
}

/// `kind`: `NDATA` of the node `g/n`, `DDATA` of the device `g/n/d`.
fn hear_at(host: &mut Host, now: Instant, kind: &str, payload: &[u8]) -> Heard {
    let device = if kind.starts_with('D') { "/d" } else { "" };
    let topic = format!("spBv1.0/g/{kind}/n{device}");
    host.message(now, &Topic::parse(&topic).unwrap(), payload)
}

/// A payload with metrics (name, alias, value) of doubles; without a name there is no datatype either.
fn payload(seq: u64, metrics: &[(&str, u64, f64)]) -> Vec<u8> {
    let metrics = metrics.iter().map(|&(name, alias, value)| pb::Metric {
        name: (!name.is_empty()).then(|| name.to_owned()),
        alias: Some(alias),
        datatype: (!name.is_empty()).then_some(10),
        value: Some(pb::metric::Value::DoubleValue(value)),
        ..pb::Metric::default()
    });
    let payload = pb::Payload {
        timestamp: Some(1_763_812_800_000),
        metrics: metrics.collect(),
        seq: Some(seq),
    };
    payload.encode_to_vec()
}

fn shown(heard: &Heard) -> Vec<String> {
    let shown = heard.readings.iter().map(|reading| {
        let value = match &reading.value {
            Value::F64(value) => format!("{value:?}"),
            Value::I64(value) => format!("{value}i"),
            Value::Bool(value) => value.to_string(),
            Value::String(value) => format!("{value:?}"),
        };
        let after_ms = reading.time_us.map_or(-1, |time| (time - T_US) / 1000);
        format!(
            "{} {}={value}{} @{after_ms}",
            reading.device, reading.metric, reading.unit
        )
    });
    shown.collect()
}

#[test]
fn a_node_by_the_npm_library() {
    let mut host = host();
    let heard = hear(&mut host, "NBIRTH", &bytes(of_npm::BIRTH));
    assert_eq!(
        shown(&heard),
        [
            "g/n temp=21.5Cel @-1000",
            "g/n count=-5i @0",
            "g/n big=-7000000000i @0",
            "g/n byte=-1i @0",
            "g/n f=0.25 @0",
            "g/n on=true @0",
            "g/n text=\"héllo\" @0",
            "g/n when=1763812800000i @0",
            "g/n u32=4294967295i @0",
        ]
    );
    assert_eq!(heard.skipped, [("datatype", 2)]);
    assert_eq!((heard.refusal, heard.rebirth, heard.gap), (None, None, false));
    assert_eq!(heard.presence, [("g/n".to_string(), true)]);
    let heard = hear(&mut host, "NDATA", &bytes(of_npm::DATA));
    assert_eq!(shown(&heard), ["g/n temp=22.25Cel @4000", "g/n count=-6i @5000"]);
    assert_eq!(heard.rebirth, None);
    let heard = hear(&mut host, "NDEATH", &bytes(of_npm::DEATH));
    assert_eq!(heard.presence, [("g/n".to_string(), false)]);
}

#[test]
fn a_node_by_the_python_library() {
    let mut host = host();
    let heard = hear(&mut host, "NBIRTH", &bytes(of_python::BIRTH));
    assert_eq!(
        shown(&heard),
        [
            "g/n temp=21.5 @0",
            "g/n i8=-1i @0",
            "g/n i16=-300i @0",
            "g/n i32=-70000i @0",
            "g/n i64=-7000000000i @0",
            "g/n u64=1099511627776i @0",
            "g/n f=0.25 @0",
            "g/n on=true @0",
            "g/n s=\"héllo\" @0",
            "g/n when=1763812800000i @0",
        ]
    );
    assert_eq!(heard.skipped, [("datatype", 1), ("transient", 1)]);
    let heard = hear(&mut host, "NDATA", &bytes(of_python::DATA));
    assert_eq!(shown(&heard), ["g/n i16=-301i @4000"]);
    let heard = hear(&mut host, "NDEATH", &bytes(of_python::DEATH));
    assert_eq!(heard.presence, [("g/n".to_string(), false)]);
}

#[test]
fn a_missing_message_asks_for_a_rebirth_and_not_again_at_once() {
    let (mut host, start) = (host(), Instant::now());
    let metrics = [("t", 1, 1.0)];
    hear_at(&mut host, start, "NBIRTH", &payload(0, &metrics));
    for (seq, after, gap, asked) in [
        (1, 0, false, false),
        (3, 0, true, true),
        (4, 0, false, false),
        (9, 0, true, false),
        (11, 1, true, true),
    ] {
        let heard = hear_at(
            &mut host,
            start + SECOND * after,
            "NDATA",
            &payload(seq, &[("", 1, 2.0)]),
        );
        assert_eq!(shown(&heard), ["g/n t=2.0 @0"]);
        assert_eq!((heard.gap, heard.rebirth.is_some()), (gap, asked), "{seq}");
    }
    hear_at(&mut host, start, "NBIRTH", &payload(255, &metrics));
    assert!(!hear_at(&mut host, start, "NDATA", &payload(0, &[])).gap);
}

#[test]
fn data_before_a_birth_asks_for_it_and_what_it_cannot_name_is_refused() {
    let mut host = host();
    let heard = hear(
        &mut host,
        "NDATA",
        &payload(7, &[("", 1, 1.0), ("named", 2, 2.0)]),
    );
    assert_eq!(heard.rebirth.as_deref(), Some("g/n"));
    assert_eq!(shown(&heard), ["g/n named=2.0 @0"]);
    let why = heard.refusal.unwrap();
    assert!(
        why.contains("alias 1") && why.contains("1 refused, 1 readings taken"),
        "{why}"
    );
}

#[test]
fn devices_come_and_go_with_their_births_and_their_node() {
    let mut host = host();
    let there = |source: &str, online| vec![(source.to_string(), online)];
    hear(&mut host, "NBIRTH", &payload(0, &[("t", 1, 1.0)]));
    let heard = hear(&mut host, "DDATA", &payload(1, &[]));
    assert_eq!(heard.rebirth.as_deref(), Some("g/n"), "its birth was not heard");
    let heard = hear(&mut host, "DBIRTH", &payload(2, &[("t", 1, 1.0)]));
    assert_eq!((heard.presence, heard.rebirth), (there("g/n/d", true), None));
    // An alias is the device's own, even where a node uses the number too.
    let heard = hear(&mut host, "DDATA", &payload(3, &[("", 1, 2.0)]));
    assert_eq!(shown(&heard), ["g/n/d t=2.0 @0"]);
    let heard = hear(&mut host, "DDEATH", &payload(4, &[]));
    assert_eq!(heard.presence, there("g/n/d", false));
    hear(&mut host, "DBIRTH", &payload(5, &[("t", 1, 1.0)]));
    let death = pb::Payload::default().encode_to_vec();
    let heard = hear(&mut host, "NDEATH", &death);
    assert_eq!(
        heard.presence,
        [there("g/n", false), there("g/n/d", false)].concat()
    );
}

#[test]
fn a_death_of_an_earlier_birth_is_none() {
    let mut host = host();
    hear(&mut host, "NBIRTH", &bytes(of_npm::BIRTH));
    let heard = hear(&mut host, "NDEATH", &bytes(of_python::DEATH));
    assert_eq!(heard.presence, []);
    assert_eq!(heard.skipped, [("death of an earlier birth", 1)]);
}

#[test]
fn after_a_new_connection_numbers_begin_anew_and_a_lost_session_asks() {
    for (resumed, asked) in [(true, false), (false, true)] {
        let mut host = host();
        hear(&mut host, "NBIRTH", &payload(0, &[("t", 1, 1.0)]));
        host.connected(resumed);
        let heard = hear(&mut host, "NDATA", &payload(0, &[("", 1, 2.0)]));
        assert_eq!((heard.gap, heard.rebirth.is_some()), (false, asked));
    }
}

#[test]
fn whatever_bytes_come_nothing_panics_and_nodes_are_bounded() {
    let mut host = host();
    for length in 0..of_npm::BIRTH.len() / 2 {
        hear(&mut host, "NBIRTH", &bytes(of_npm::BIRTH)[..length]);
    }
    assert!(
        hear(&mut host, "NDATA", b"{\"not\": \"protobuf\"}")
            .refusal
            .is_some()
    );
    for number in 0..20 {
        let topic = format!("spBv1.0/g/NBIRTH/{number}");
        let heard = host.message(Instant::now(), &Topic::parse(&topic).unwrap(), &payload(0, &[]));
        assert_eq!(heard.refusal.is_some(), number >= 9, "{number}");
    }
}

#[test]
fn the_command_that_asks_for_a_rebirth_is_as_the_specification_has_it() {
    let payload = pb::Payload::decode(&super::super::rebirth(1_763_812_800_000)[..]).unwrap();
    let metric = &payload.metrics[0];
    assert_eq!((metric.name(), metric.datatype()), ("Node Control/Rebirth", 11));
    assert_eq!(metric.value, Some(pb::metric::Value::BooleanValue(true)));
    assert_eq!(payload.seq, None);
}
