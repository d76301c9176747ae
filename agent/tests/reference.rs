//! `deploy/agent.toml` is the reference: what it shows is what holds.

use headwater_agent::config::{
    CommandName, Config, ENVIRONMENT_PREFIX, ExecSource, FileSource, HttpSource, Mapping, Metric,
    ModbusDevice, ModbusRegister, ModbusSource, MqttSource, MqttSubscription, ReplaySource, SerialSource,
    SimulatedSource, SocketSource, SourceKind, SysfsFile, SysfsSource, SystemSource, Trace,
};

const REFERENCE: &str = include_str!("../../deploy/agent.toml");

fn parse(text: &str) -> Config {
    headwater_config::parse(text, "agent.toml", ENVIRONMENT_PREFIX, []).expect("the text parses")
}

/// The reference with its switched-off keys switched on.
fn everything() -> String {
    REFERENCE
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if rest.starts_with(|c: char| c.is_ascii_alphabetic() || c == '[') => rest,
            _ => line,
        })
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn it_is_exactly_the_defaults_and_a_system_source() {
    let expected = Config {
        sources: vec![SourceKind::System(SystemSource::default()).into()],
        ..Config::default()
    };
    let config = parse(REFERENCE);
    assert_eq!(config, expected);
    config.check().unwrap();
}

#[test]
fn what_it_switches_off_is_understood_and_shows_the_defaults() {
    let mut config = parse(&everything());
    assert_eq!(config.control.exec.len(), 1);
    // Programs without the command that runs them are refused.
    config.control.commands.push(CommandName::Exec);
    config.check().unwrap();
    assert_eq!(config.device.as_deref(), Some("gw-01"));
    assert_eq!(config.uplink.user.as_deref(), Some("gw-01"));
    assert_eq!(config.sources[0].name.as_deref(), Some("system"));
    assert_eq!(config.sources[0].rate, Some(1000));
    let kinds: Vec<_> = config.sources.iter().map(|source| &source.kind).collect();
    let [
        SourceKind::System(_),
        SourceKind::Sysfs(sysfs),
        SourceKind::Modbus(modbus),
        SourceKind::Mqtt(mqtt),
        SourceKind::Http(http),
        SourceKind::Socket(socket),
        SourceKind::Exec(exec),
        SourceKind::File(file),
        SourceKind::Serial(serial),
        SourceKind::Replay(replay),
        SourceKind::Simulated(simulated),
    ] = &kinds[..]
    else {
        panic!("{:?}", config.sources);
    };
    let shown = SysfsSource {
        files: Vec::new(),
        ..sysfs.clone()
    };
    assert_eq!(shown, SysfsSource::default());
    let [rule, windows] = &config.metrics[..] else {
        panic!("{:?}", config.metrics);
    };
    let shown = Metric {
        pattern: String::new(),
        rename: None,
        unit: None,
        absent: Vec::new(),
        min: None,
        max: None,
        deadband: None,
        ..rule.clone()
    };
    assert_eq!(shown, Metric::default());
    let shown = Metric {
        pattern: String::new(),
        aggregate: Vec::new(),
        ..windows.clone()
    };
    assert_eq!(shown, Metric::default());
    let shown = SysfsFile {
        path: String::new(),
        metric: String::new(),
        unit: String::new(),
        scale: 1.0,
        ..sysfs.files[0].clone()
    };
    assert_eq!(shown, SysfsFile::default());
    let shown = ModbusSource {
        address: String::new(),
        devices: Vec::new(),
        ..modbus.clone()
    };
    assert_eq!(shown, ModbusSource::default());
    let device = &modbus.devices[0];
    let shown = ModbusDevice {
        interval: None,
        registers: Vec::new(),
        ..device.clone()
    };
    assert_eq!(shown, ModbusDevice::default());
    let shown = ModbusRegister {
        metric: String::new(),
        unit: String::new(),
        order: None,
        bit: None,
        absent: None,
        ..device.registers[0].clone()
    };
    assert_eq!(shown, ModbusRegister::default());
    assert!(mqtt.tls.ca_file.is_some() && mqtt.tls.server_name.is_some());
    let shown = MqttSource {
        tls: MqttSource::default().tls,
        client_id: None,
        user: None,
        password_file: None,
        subscription: Vec::new(),
        ..mqtt.clone()
    };
    assert_eq!(shown, MqttSource::default());
    let [all, zigbee2mqtt, availability, tasmota, values] = &mqtt.subscription[..] else {
        panic!("{:?}", mqtt.subscription);
    };
    let shown = MqttSubscription {
        topic: String::new(),
        map: Mapping {
            name: None,
            time: None,
            unit: None,
            utc_offset: None,
            units: Default::default(),
            value_type: None,
            types: Default::default(),
            booleans: Default::default(),
            ..all.map.clone()
        },
        ..all.clone()
    };
    assert_eq!(shown, MqttSubscription::default());
    assert!(zigbee2mqtt.map.booleans["ON"] && !availability.map.booleans["offline"]);
    assert_eq!(tasmota.map.units["*.Temperature"], "Cel");
    assert_eq!(values.map.name.as_deref(), Some("{2..}"));
    let shown = HttpSource {
        token_file: None,
        ..http.clone()
    };
    assert_eq!(shown, HttpSource::default());
    let shown = SocketSource {
        map: Mapping::default(),
        ..socket.clone()
    };
    assert_eq!(shown, SocketSource::default());
    let shown = ExecSource {
        command: Vec::new(),
        map: Mapping::default(),
        ..exec.clone()
    };
    assert_eq!(shown, ExecSource::default());
    let shown = FileSource {
        path: Default::default(),
        ..file.clone()
    };
    assert_eq!(shown, FileSource::default());
    let shown = SerialSource {
        path: String::new(),
        map: Default::default(),
        ..serial.clone()
    };
    assert_eq!(shown, SerialSource::default());
    assert_eq!(replay.units["cabinet_temp_c"], "Cel");
    let shown = ReplaySource {
        trace: Trace::default(),
        units: Default::default(),
        ..replay.clone()
    };
    assert_eq!(shown, ReplaySource::default());
    let shown = SimulatedSource {
        seed: None,
        resolution: None,
        ..simulated.clone()
    };
    assert_eq!(shown, SimulatedSource::default());
}

/// Every field of the settings stands in the reference: a new one cannot be forgotten there.
#[test]
fn every_key_stands_in_it() {
    let debug = format!("{:?}", parse(&everything()));
    let keys = debug.split(|c: char| !(c.is_ascii_lowercase() || c == '_' || c == ':'));
    let mut seen = 0;
    for key in keys
        .filter_map(|word| word.strip_suffix(':'))
        .filter(|key| !key.is_empty())
    {
        let key = match key {
            "sources" => "[[source]]",
            "files" => "[[source.file]]",
            "devices" => "[[source.device]]",
            "registers" => "[[source.device.register]]",
            "value" => "#type",
            "subscription" => "[[source.subscription]]",
            "trace" => "path",
            "value_type" => "type",
            "kind" => "type",
            "metrics" => "[[metric]]",
            "pattern" => "match",
            "cabinet_temp_c" | "uptime" => continue,
            key => key,
        };
        assert!(REFERENCE.contains(key), "{key} is missing from deploy/agent.toml");
        seen += 1;
    }
    assert!(seen > 30, "{seen} keys");
}

#[test]
fn an_unknown_key_in_a_source_is_refused_with_what_was_meant() {
    let text = "[[source]]\ntype = 'simulated'\nintervall = '1s'";
    let error = headwater_config::parse::<Config>(text, "agent.toml", ENVIRONMENT_PREFIX, []).unwrap_err();
    assert!(error.to_string().contains("did you mean `interval`"), "{error}");
    let text = "[[source]]\ntype = 'simulated'\nnmae = 'a'";
    let error = headwater_config::parse::<Config>(text, "agent.toml", ENVIRONMENT_PREFIX, []).unwrap_err();
    assert!(error.to_string().contains("did you mean `name`"), "{error}");
    let text = "[[source]]\ntype = 'systen'";
    let error = headwater_config::parse::<Config>(text, "agent.toml", ENVIRONMENT_PREFIX, []).unwrap_err();
    assert!(error.to_string().contains("did you mean `system`"), "{error}");
}

#[test]
fn values_that_make_no_sense_are_refused_by_key() {
    let source = "[[source]]\ntype = 'simulated'\n";
    for (text, part) in [
        (String::new(), "setting `source`: there is none"),
        (
            format!("{source}[[metric]]\nmatch = 'a.*'\nrename = 'b'"),
            "setting `metric.rename`: \"b\" would be the name of all",
        ),
        (
            format!("{source}[[metric]]\nscale = 2"),
            "setting `metric.match`: it is missing",
        ),
        (
            format!("{source}[[metric]]\nmatch = '*'\nmin = 2\nmax = 1"),
            "setting `metric.min`: 2 is more than max, 1",
        ),
        (
            format!("{source}[[metric]]\nmatch = '*'\naggregate = ['mean']\ndeadband = '1 %'"),
            "setting `metric.aggregate`: windows leave one",
        ),
        (
            format!("{source}name = 'a b'"),
            "setting `source.name`: \"a b\" is not 1 to 64",
        ),
        (
            format!("[batch]\nreadings = 0\n{source}"),
            "setting `batch.readings`: 0 is not in",
        ),
        (format!("[batch]\nage = '0s'\n{source}"), "setting `batch.age`"),
        (
            format!("[uplink.window]\nbatches = 0\n{source}"),
            "setting `uplink.window.batches`",
        ),
        (
            format!("[uplink]\nkeep_alive = '1500ms'\n{source}"),
            "setting `uplink.keep_alive`",
        ),
        (
            format!("[uplink.backoff]\nmin = '2s'\nmax = '1s'\n{source}"),
            "setting `uplink.backoff.max`",
        ),
        (
            format!("[uplink]\npassword_file = 'x'\n{source}"),
            "setting `uplink.password_file`",
        ),
        (
            format!("[journal]\nmemory = '1B'\n{source}"),
            "setting `journal.memory`",
        ),
        (
            format!("[update]\nkeys = ['RWQ']\n{source}"),
            "setting `update.keys`: \"RWQ\" is no public key",
        ),
        (
            format!("[update]\nconfirm_within = '0s'\n{source}"),
            "setting `update.confirm_within`",
        ),
        (
            format!("[update]\nrate = '1B'\n{source}"),
            "setting `update.rate`",
        ),
        (
            format!("[uplink]\nbroker = 'localhost'\n{source}"),
            "setting `uplink.broker`: \"localhost\" has no scheme",
        ),
    ] {
        let error = parse(&text).check().unwrap_err().to_string();
        assert!(error.starts_with(part), "{text}: {error}");
    }
}
