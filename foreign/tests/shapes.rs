//! Payloads in the shapes that the programs' own documents show.
#![allow(
    clippy::unwrap_used,
    reason = "in the tests' own parts too, a panic is the report"
)]

use headwater_foreign::{Mapped, Mapping, Settings};
use headwater_proto::Value;

fn map(settings: &str, topic: &str, payload: &str) -> Mapped {
    let settings: Settings = toml::from_str(settings).unwrap();
    Mapping::new(&settings, !topic.is_empty())
        .unwrap()
        .map(topic, payload.as_bytes())
}

/// `name=value` of each, with its unit and time where it has them.
fn readings(mapped: &Mapped) -> Vec<String> {
    let shown = mapped.readings.iter().map(|reading| {
        let value = match &reading.value {
            Value::F64(value) => format!("{value:?}"),
            Value::I64(value) => format!("{value}i"),
            Value::Bool(value) => value.to_string(),
            Value::String(value) => format!("{value:?}"),
        };
        let unit = Some(format!(" {}", reading.unit)).filter(|_| !reading.unit.is_empty());
        let time = reading.time_us.map(|time| format!(" @{time}"));
        format!(
            "{}={value}{}{}",
            reading.metric,
            unit.unwrap_or_default(),
            time.unwrap_or_default()
        )
    });
    shown.collect()
}

fn clean(mapped: &Mapped) -> Vec<String> {
    assert_eq!((mapped.refused, &mapped.refusal), (0, &None));
    readings(mapped)
}

#[test]
fn zigbee2mqtt_sensor() {
    // A temperature sensor as "MQTT topics and messages" and the device pages show it, with last_seen = "ISO_8601".
    let payload = r#"{"battery":97.5,"humidity":41.06,"last_seen":"2023-11-14T22:13:20.000Z","linkquality":134,
        "power_outage_count":3,"pressure":1013.4,"temperature":21.37,"update":{"installed_version":-1,"latest_version":-1,"state":null},
        "update_available":null,"voltage":2985}"#;
    let settings = r#"
        name = "{2..}.{key}"
        skip = ["linkquality", "update*"]
        units = { temperature = "Cel", humidity = "%", battery = "%", pressure = "hPa", voltage = "mV" }
        time = "/last_seen"
    "#;
    assert_eq!(
        clean(&map(settings, "zigbee2mqtt/floor 1/kitchen", payload)),
        [
            "floor 1.kitchen.battery=97.5 % @1700000000000000",
            "floor 1.kitchen.humidity=41.06 % @1700000000000000",
            "floor 1.kitchen.power_outage_count=3.0 @1700000000000000",
            "floor 1.kitchen.pressure=1013.4 hPa @1700000000000000",
            "floor 1.kitchen.temperature=21.37 Cel @1700000000000000",
            "floor 1.kitchen.voltage=2985.0 mV @1700000000000000",
        ]
    );
}

#[test]
fn zigbee2mqtt_light_and_availability() {
    let settings = r#"
        name = "{2}.{key}"
        booleans = { ON = true, OFF = false, online = true, offline = false }
    "#;
    let payload =
        r#"{"state":"ON","brightness":215,"color_temp":325,"color":{"x":0.4594,"y":0.4105},"action":null}"#;
    assert_eq!(
        clean(&map(settings, "zigbee2mqtt/lamp", payload)),
        [
            "lamp.brightness=215.0",
            "lamp.color.x=0.4594",
            "lamp.color.y=0.4105",
            "lamp.color_temp=325.0",
            "lamp.state=true"
        ]
    );
    let settings = r#"
        name = "{2}.available"
        booleans = { online = true, offline = false }
    "#;
    let topic = "zigbee2mqtt/lamp/availability";
    assert_eq!(
        clean(&map(settings, topic, r#"{"state":"offline"}"#)),
        ["lamp.available=false"]
    );
    // Before version 2 it was the bare word.
    let settings = format!("format = 'value'\ntype = 'boolean'\n{settings}");
    assert_eq!(clean(&map(&settings, topic, "online")), ["lamp.available=true"]);
}

#[test]
fn tasmota_telemetry() {
    let settings = r#"
        name = "{2}.{key}"
        time = "/Time"
        utc_offset = "+01:00"
        skip = ["TempUnit", "*.Id", "ENERGY.TotalStartTime"]
        units = { "*.Temperature" = "Cel", "*.Humidity" = "%", "ENERGY.Power*" = "W" }
    "#;
    let payload = r#"{"Time":"2023-11-14T23:13:20","SI7021":{"Temperature":14.2,"Humidity":73.7},
        "DS18B20":{"Id":"01131B123456","Temperature":20.6},
        "ENERGY":{"TotalStartTime":"2019-12-01T12:00:00","Total":3.185,"Power":[12,0],"Voltage":230},"TempUnit":"C"}"#;
    assert_eq!(
        clean(&map(settings, "tele/tasmota_AB12/SENSOR", payload)),
        [
            "tasmota_AB12.DS18B20.Temperature=20.6 Cel @1700000000000000",
            "tasmota_AB12.ENERGY.Power.0=12.0 W @1700000000000000",
            "tasmota_AB12.ENERGY.Power.1=0.0 W @1700000000000000",
            "tasmota_AB12.ENERGY.Total=3.185 @1700000000000000",
            "tasmota_AB12.ENERGY.Voltage=230.0 @1700000000000000",
            "tasmota_AB12.SI7021.Humidity=73.7 % @1700000000000000",
            "tasmota_AB12.SI7021.Temperature=14.2 Cel @1700000000000000",
        ]
    );
    // Its clock before it has found a time server; the reading stays.
    let mapped = map(
        settings,
        "tele/plug/STATE",
        r#"{"Time":"1970-01-01T00:00:07","POWER":"ON"}"#,
    );
    assert_eq!(clean(&mapped), ["plug.POWER=\"ON\""]);
    assert_eq!(mapped.untimed, 1);
}

#[test]
fn records_that_name_themselves() {
    let settings = r#"
        each = "/data"
        value = "/v"
        time = "/ts"
        unit = "/u"
        name = "{/gw}.{/sensor}"
    "#;
    let payload = r#"{"gw":"north","ts":1700000000,"data":[
        {"sensor":"t1","v":21.4,"u":"Cel"},
        {"sensor":"t2","v":22,"ts":1700000000500},
        {"sensor":"t3"},
        {"v":1,"sensor":"bad\u0007name"}]}"#;
    let mapped = map(settings, "", payload);
    assert_eq!(
        readings(&mapped),
        [
            "north.t1=21.4 Cel @1700000000000000",
            "north.t2=22.0 @1700000000500000"
        ]
    );
    assert_eq!(mapped.refused, 2);
    assert_eq!(
        mapped.refusal.unwrap().to_string(),
        "there is nothing at \"/v\" in the payload"
    );
}

#[test]
fn a_list_of_records_and_what_they_nest() {
    let settings = "value = '/metrics'\ntime = '/time'";
    let payload =
        r#"[{"metrics":{"temp":21.4,"door":{"open":true}},"time":1700000000000},{"metrics":{"temp":21.5}}]"#;
    assert_eq!(
        clean(&map(settings, "", payload)),
        [
            "door.open=true @1700000000000000",
            "temp=21.4 @1700000000000000",
            "temp=21.5"
        ]
    );
    assert_eq!(
        clean(&map("separator = '_'", "a/b", r#"{"c":{"d":1}}"#)),
        ["a_b.c_d=1.0"]
    );
    assert_eq!(clean(&map("", "a/b", "17.5")), ["a.b=17.5"]);
}

#[test]
fn types_keep_a_metric_to_one_column() {
    let settings = r#"
        types = { "counter" = "integer", "*.text" = "text", "n*" = "number" }
        only = ["counter", "a.text", "n?"]
    "#;
    let payload = r#"{"counter":9007199254740993,"a":{"text":7},"n1":"21.37","n2":"unavailable","other":1}"#;
    let mapped = map(settings, "", payload);
    assert_eq!(
        readings(&mapped),
        ["a.text=\"7\"", "counter=9007199254740993i", "n1=21.37"]
    );
    assert_eq!(
        mapped.refusal.unwrap().to_string(),
        "\"n2\": \"unavailable\" is not a number"
    );
}

#[test]
fn line_protocol_of_telegraf() {
    let payload = "# a comment\r\n\
        cpu,cpu=cpu-total,host=gw usage_idle=98.1,usage_user=1.25 1700000000000000000\r\n\
        \n\
        disk,device=sda1,fstype=ext4,host=gw,path=/ free=12345i,inodes=9223372036854775807u,label=\"root fs\",ok=t 1700000000000000123\n\
        weather,location=us\\ midwest temperature=82\n";
    let mapped = map(
        "format = 'influx'\nunits = { 'cpu.usage_*' = '%' }\nskip_tags = ['host', 'fstype']",
        "",
        payload,
    );
    assert_eq!(
        clean(&mapped),
        [
            "cpu.cpu=cpu-total.usage_idle=98.1 % @1700000000000000",
            "cpu.cpu=cpu-total.usage_user=1.25 % @1700000000000000",
            "disk.device=sda1,path=/.free=12345i @1700000000000000",
            "disk.device=sda1,path=/.inodes=9223372036854775807i @1700000000000000",
            "disk.device=sda1,path=/.label=\"root fs\" @1700000000000000",
            "disk.device=sda1,path=/.ok=true @1700000000000000",
            "weather.location=us midwest.temperature=82.0",
        ]
        .map(|text| text.to_string())
    );
}

#[test]
fn a_bad_line_costs_itself_only() {
    let settings = "format = 'influx'\ntime_format = 's'";
    let mapped = map(
        settings,
        "",
        "a v=1 1700000000\nthis is not it\n\nb v=2 7\nc v=99999999999u\nd v=18446744073709551615u",
    );
    assert_eq!(
        readings(&mapped),
        ["a.v=1.0 @1700000000000000", "b.v=2.0", "c.v=99999999999i"]
    );
    assert_eq!((mapped.refused, mapped.untimed), (2, 1));
    let refusal = mapped.refusal.unwrap().to_string();
    assert!(
        refusal.starts_with("line 2: ") && refusal.contains("this is not it"),
        "{refusal}"
    );
}

#[test]
fn pairs_and_graphite() {
    let payload =
        "temp 21.5\n\n# comment\nroom.hum 40 1700000000\nstate broken\nthree words are too many\nup 1e3";
    let mapped = map("format = 'pairs'", "", payload);
    assert_eq!(
        readings(&mapped),
        ["temp=21.5", "room.hum=40.0 @1700000000000000", "up=1000.0"]
    );
    assert_eq!(mapped.refused, 2);
    assert_eq!(
        mapped.refusal.unwrap().to_string(),
        "\"state\": \"broken\" is not a number"
    );
}

#[test]
fn fields_columns_and_forms() {
    let payload = "temp=21.5 hum=40,co2:412; state=broken\r\n# comment\n\nnoise\nup=";
    let mapped = map("format = 'fields'\nunits = { temp = 'Cel' }", "", payload);
    assert_eq!(readings(&mapped), ["temp=21.5 Cel", "hum=40.0", "co2=412.0"]);
    assert_eq!(mapped.refused, 3);

    let settings = "format = 'columns'\ncolumns = ['temp', '', 'hum']\ndelimiter = ';'";
    let mapped = map(settings, "", "21.5; x ;40\n;;41\n1;2\n1;2;3;4\nt;x;h\n");
    assert_eq!(readings(&mapped), ["temp=21.5", "hum=40.0", "hum=41.0"]);
    assert_eq!(mapped.refused, 4);
    assert_eq!(
        mapped.refusal.unwrap().to_string(),
        "line 3: \"1;2\" has 2 column(s), not 3"
    );

    let settings = "format = 'form'\nform = '#{}: T={temp}C H={hum}%'";
    let mapped = map(settings, "", "#7: T= -3.5C H=55%");
    assert_eq!(readings(&mapped), Vec::<String>::new(), "a comment stays one");
    let settings = "format = 'form'\nform = 'node {}: T={temp}C H={hum}%'";
    let payload = "node 7: T= -3.5C H=55%\nnode 8: T=1C H=2% !\nnode 9: T=1\nT=1C H=2%\nnode: T=C H=%";
    let mapped = map(settings, "", payload);
    assert_eq!(readings(&mapped), ["temp=-3.5", "hum=55.0"]);
    assert_eq!(mapped.refused, 4);
    let mapped = map("format = 'form'\nform = '{a},{b}'", "", "1,2\n3,4,5");
    assert_eq!(readings(&mapped), ["a=1.0", "b=2.0", "a=3.0"]);

    for (settings, part) in [
        ("format = 'columns'", "`columns`"),
        ("format = 'form'", "`form`"),
        ("format = 'form'\nform = 'T={t} H={h'", "a { without a }"),
        ("format = 'form'\nform = '{a}{b}'", "where {a} ends"),
        ("format = 'form'\nform = 'a{}'", "no {name}"),
    ] {
        let settings: Settings = toml::from_str(settings).unwrap();
        let error = Mapping::new(&settings, false).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn json_lines_are_refused_by_their_number() {
    let mapped = map(
        "format = 'json-lines'",
        "",
        "{\"a\":1}\n\n{\"a\":2}\n{\"a\":\n{\"a\":3}\n",
    );
    assert_eq!(readings(&mapped), ["a=1.0", "a=2.0", "a=3.0"]);
    let refusal = mapped.refusal.unwrap().to_string();
    assert!(refusal.starts_with("line 4: not JSON: EOF"), "{refusal}");
}

#[test]
fn a_value_alone_needs_a_name() {
    assert_eq!(
        clean(&map("format = 'value'", "home/boiler/temp", " 61.5\n")),
        ["home.boiler.temp=61.5"]
    );
    let settings: Settings = toml::from_str("format = 'value'").unwrap();
    let error = Mapping::new(&settings, false).unwrap_err().to_string();
    assert!(error.starts_with("`name`: is missing"), "{error}");
}

#[test]
fn limits_are_kept_and_named() {
    let refusal = |settings: &str, payload: &str| {
        let mapped = map(settings, "", payload);
        (
            mapped.readings.len(),
            mapped.refused,
            mapped.refusal.unwrap().to_string(),
        )
    };
    let (taken, refused, why) = refusal("max_readings = 2", r#"{"a":1,"b":2,"c":3,"d":4}"#);
    assert_eq!((taken, refused), (2, 1));
    assert!(why.contains("max_readings (2)"), "{why}");
    let (taken, refused, why) = refusal("max_payload = '8 B'", r#"{"a":100}"#);
    assert_eq!((taken, refused), (0, 1));
    assert!(why.contains("9 bytes is longer than max_payload (8)"), "{why}");
    let deep = format!("{}1{}", "[".repeat(200), "]".repeat(200));
    let (_, _, why) = refusal("", &deep);
    assert!(why.contains("recursion limit"), "{why}");
    let long = format!(r#"{{"a":1,"{}":2}}"#, "k".repeat(300));
    let (taken, refused, why) = refusal("", &long);
    assert_eq!((taken, refused), (1, 1));
    assert!(why.contains("256 bytes"), "{why}");
}

#[test]
fn settings_that_make_no_sense_are_refused_by_key() {
    for (text, part) in [
        (
            "time = 'Time'",
            "`time`: \"Time\" is not a pointer into JSON; write it as \"/Time\"",
        ),
        (
            "format = 'influx'\neach = '/x'",
            "`each`: \"/x\" points into JSON",
        ),
        ("max_readings = 0", "`max_readings`: 0"),
        ("max_payload = '1 GiB'", "`max_payload`: 1.0 GiB"),
        ("name = '{2}'", "`name`: \"{2}\": {2} stands for a topic"),
    ] {
        let settings: Settings = toml::from_str(text).unwrap();
        let error = Mapping::new(&settings, false).unwrap_err().to_string();
        assert!(error.starts_with(part), "{text}: {error}");
    }
    let error = toml::from_str::<Settings>("utc_offset = 'Berlin'").unwrap_err();
    assert!(error.to_string().contains("\"+01:00\""), "{error}");
}

#[test]
fn a_payload_or_its_topic_says_whose_its_readings_are() {
    let whose = |settings: &str, device: &str, topic: &str, payload: &str| {
        let settings: Settings = toml::from_str(settings).unwrap();
        let mapping = Mapping::new(&settings, true)
            .unwrap()
            .naming_devices(device)
            .unwrap();
        let mapped = mapping.map(topic, payload.as_bytes());
        let shown = mapped
            .readings
            .iter()
            .map(|reading| format!("{} {}", reading.device, reading.metric));
        shown.collect::<Vec<_>>()
    };
    let key = "name = '{key}'";
    assert_eq!(
        whose(key, "{2}", "zigbee2mqtt/lamp", r#"{"power": 3}"#),
        ["lamp power"]
    );
    // What names the device is no reading of it, in the record or around it.
    let records = r#"{"site": "north", "all": [{"id": "a", "t": 1}, {"id": 7, "t": 2}, {"t": 3}]}"#;
    let settings = "name = '{key}'\neach = '/all'";
    assert_eq!(
        whose(settings, "{/site}-{/id}", "x", records),
        ["north-a t", "north-7 t", "north- t"]
    );
    let influx = "format = 'influx'\nname = '{key}'";
    assert_eq!(
        whose(influx, "{tag:host}", "x", "cpu,host=web-1 idle=1"),
        ["web-1 idle"]
    );
    assert_eq!(
        whose("format = 'value'\nname = 'v'", "fixed", "x", "1"),
        ["fixed v"]
    );
    let mapping = Mapping::new(&toml::from_str(key).unwrap(), true).unwrap();
    let error = mapping.naming_devices("{key}").unwrap_err().to_string();
    assert!(
        error.starts_with("`device`") && error.contains("names no device"),
        "{error}"
    );
}
