//! Commands, replies, transactions that fail and bridges that die, in any order.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Event {
    Ask(usize, i64),
    Garbage,
    Step,
    Reply(usize),
    Presence(usize, bool),
    Write,
    /// The transaction fails; whether it was committed all the same.
    Fail(bool),
    TakeOver,
    Pass(u64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (0..4usize, 1..200i64).prop_map(|(device, expires)| Event::Ask(device, expires)),
        1 => Just(Event::Garbage),
        8 => Just(Event::Step),
        8 => (0..8usize).prop_map(Event::Reply),
        3 => (0..4usize, any::<bool>()).prop_map(|(device, online)| Event::Presence(device, online)),
        4 => Just(Event::Write),
        2 => any::<bool>().prop_map(Event::Fail),
        1 => Just(Event::TakeOver),
        3 => (0..40u64).prop_map(Event::Pass),
    ]
}

proptest! {
    /// Whatever happens: each command has exactly one reply in the end, and each device carries them out in order.
    #[test]
    fn exactly_one_reply_each_and_in_order(events in prop::collection::vec(event(), 0..300)) {
        let mut world = World::new();
        // What each device has carried out: agents remember ids.
        let mut done: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        let (mut asked, mut garbage) = (0, 0);
        let carry_out = |world: &mut World, done: &mut BTreeMap<String, Vec<usize>>, index: usize| {
            if world.down.is_empty() {
                return;
            }
            let (device, command) = world.down.remove(index % world.down.len());
            // A clean session: what comes while it is away is gone. Expired is expired.
            if world.online[&device] && command.expires_us > world.now.us {
                let number = command.id.parse().unwrap();
                let of_device = done.entry(device.clone()).or_default();
                if !of_device.contains(&number) {
                    of_device.push(number);
                }
                world.say(&device, &command.id);
            }
        };
        for device in 0..4 {
            world.online.insert(format!("d{device}"), true);
        }
        for event in events {
            match event {
                Event::Ask(device, expires) => {
                    world.ask(&format!("d{device}"), &asked.to_string(), expires);
                    asked += 1;
                }
                Event::Garbage => {
                    world.topic.push((DEVICE.into(), b"\xff".to_vec()));
                    garbage += 1;
                }
                Event::Step => world.step(),
                Event::Reply(index) => carry_out(&mut world, &mut done, index),
                Event::Presence(device, online) => {
                    let name = format!("d{device}");
                    world.online.insert(name.clone(), online);
                    if online {
                        world.commands.hello(&name, world.now.at);
                    } else {
                        world.down.retain(|(to, _)| *to != name);
                    }
                }
                Event::Write => world.write(),
                Event::Fail(committed) => {
                    if let Some(batch) = world.commands.answers() {
                        if committed {
                            world.commit(&batch);
                        }
                        world.commands.written(false);
                        let (offset, metadata) = world.committed.clone();
                        world.commands.committed(&Position::read(offset, &metadata));
                    }
                }
                Event::TakeOver => world.take_over(),
                Event::Pass(seconds) => world.pass(Duration::from_secs(seconds)),
            }
        }
        for _ in 0..300 {
            world.step();
            carry_out(&mut world, &mut done, 0);
            world.write();
            world.pass(Duration::from_secs(1));
        }
        let mut ids: Vec<usize> = world.replies.iter().map(|reply| reply.id.parse().unwrap()).collect();
        ids.sort_unstable();
        prop_assert_eq!(ids, (0..asked).collect::<Vec<_>>());
        prop_assert_eq!(world.dead.len(), garbage);
        prop_assert_eq!(&*world.committed.1.replace("hw.bridge.0;", ""), "");
        prop_assert_eq!(world.committed.0, if asked + garbage > 0 { world.topic.len() as i64 } else { 0 });
        prop_assert_eq!(world.shared.bytes.used(), 0);
        for (device, numbers) in done {
            let mut sorted = numbers.clone();
            sorted.sort_unstable();
            prop_assert_eq!(&numbers, &sorted, "{} carried out {:?}", device, numbers);
        }
        for reply in &world.replies {
            prop_assert!(matches!(reply.status(), ReplyStatus::Ok | ReplyStatus::Expired | ReplyStatus::Refused));
        }
    }
}
