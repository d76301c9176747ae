//! Too many commands.

use super::*;

#[test]
fn too_many_for_a_device_are_refused_with_the_setting() {
    let mut world = World::with(CommandSettings {
        per_device: 2,
        ..CommandSettings::default()
    });
    for id in ["a", "b", "c"] {
        world.ask(DEVICE, id, 60);
    }
    world.step();
    world.write();
    assert_eq!(world.statuses(), [("c", ReplyStatus::Refused)]);
    assert!(world.replies[0].output.contains("per_device"));
}

#[test]
fn too_many_for_devices_that_are_away_are_refused_and_those_that_are_there_go_on() {
    let mut world = World::with(CommandSettings {
        per_partition: 8,
        ..CommandSettings::default()
    });
    for number in 0..10 {
        let device = format!("away-{number}");
        world.online.insert(device.clone(), false);
        world.ask(&device, &device, 60);
    }
    for number in 0..20 {
        let device = format!("there-{number}");
        world.online.insert(device.clone(), true);
        world.ask(&device, &device, 60);
    }
    for _ in 0..30 {
        world.step();
        assert!(world.commands.open.len() <= 8);
        world.devices_reply();
        world.write();
    }
    let count = |status| {
        world
            .replies
            .iter()
            .filter(|reply| reply.status() == status)
            .count()
    };
    assert_eq!((count(ReplyStatus::Refused), count(ReplyStatus::Ok)), (4, 20));
    assert_eq!(world.commands.open.len(), 6);
}

#[test]
fn while_devices_are_there_a_burst_waits_to_be_read() {
    let mut world = World::new();
    for number in 0..3000 {
        let device = format!("d{number}");
        world.online.insert(device.clone(), true);
        world.ask(&device, &device, 60);
    }
    for _ in 0..100 {
        world.step();
        assert!(world.down.len() <= UNDER_WAY && world.commands.open.len() <= 1000);
        world.devices_reply();
        world.write();
    }
    assert_eq!(world.replies.len(), 3000);
    assert!(
        world
            .replies
            .iter()
            .all(|reply| reply.status() == ReplyStatus::Ok)
    );
}

#[test]
fn devices_that_never_reply_do_not_stop_the_others_for_ever() {
    let mut world = World::with(CommandSettings {
        per_partition: 4,
        ..CommandSettings::default()
    });
    for device in ["m1", "m2", "m3", "m4", "m5"] {
        world.online.insert(device.into(), true);
        world.ask(device, device, 3600);
    }
    world.step();
    assert_eq!(world.sent().len(), 4);
    world.pass(PATIENCE);
    world.step();
    world.write();
    assert_eq!(world.statuses(), [("m5", ReplyStatus::Refused)]);
}
