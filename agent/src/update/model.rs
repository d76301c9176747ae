//! An update on a model of a medium whose power goes at any operation, once or twice: whatever is left, the next start runs what held before or the
//! new program, whole, and the update goes on to its end.

use std::collections::BTreeMap;
use std::io;

use ring::digest::{SHA256, digest};

use super::medium::Medium;
use super::rack::Rack;
use super::slots::{Begun, Next, Program, Slot, Slots};

const OLD: &[u8] = b"the program that holds";
const NEW: &[u8] = b"the new program, in several pieces";
const PIECE: usize = 9;

fn sum(content: &[u8]) -> String {
    digest(&SHA256, content)
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// How an operation is left when the power goes in the middle of it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Left {
    Undone,
    Done,
    /// Of what was written one half is there, and behind it what was never written.
    Torn,
}

#[derive(Clone, Debug, Default)]
struct Model {
    state: Option<Vec<u8>>,
    files: BTreeMap<&'static str, Vec<u8>>,
    /// Operations until the power goes, and how the last is left.
    cut: Option<(usize, Left)>,
    dead: bool,
    /// Nothing can be written.
    read_only: bool,
    done: usize,
}

impl Model {
    fn write(&mut self, effect: impl FnOnce(&mut Self), torn: impl FnOnce(&mut Self)) -> io::Result<()> {
        if self.dead || self.read_only {
            return Err(io::Error::other("no power"));
        }
        self.done += 1;
        match self.cut {
            Some((0, left)) => {
                self.dead = true;
                match left {
                    Left::Undone => {}
                    Left::Done => effect(self),
                    Left::Torn => torn(self),
                }
                return Err(io::Error::other("the power goes"));
            }
            Some((operations, left)) => self.cut = Some((operations - 1, left)),
            None => {}
        }
        effect(self);
        Ok(())
    }
}

impl Medium for Model {
    fn load(&self) -> io::Result<Option<Vec<u8>>> {
        Ok(self.state.clone())
    }

    fn save(&mut self, content: &[u8]) -> io::Result<()> {
        // It is replaced whole: what is torn is the file that was to take its place.
        self.write(|model| model.state = Some(content.to_vec()), |_| ())
    }

    fn discard(&mut self, slot: Slot) -> io::Result<()> {
        self.write(|model| drop(model.files.remove(slot.name())), |_| ())
    }

    fn extend(&mut self, slot: Slot, at: u64, piece: &[u8]) -> io::Result<()> {
        let at = at as usize;
        let length = self.files.get(slot.name()).map_or(0, Vec::len);
        if length < at {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let put = |model: &mut Self, piece: &[u8]| {
            let file = model.files.entry(slot.name()).or_default();
            file.truncate(at);
            file.extend_from_slice(piece);
        };
        let torn = [&piece[..piece.len() / 2], &vec![0; piece.len()]].concat();
        self.write(|model| put(model, piece), |model| put(model, &torn))
    }

    fn sum(&self, slot: Slot, size: u64) -> io::Result<Option<String>> {
        let file = self
            .files
            .get(slot.name())
            .filter(|file| file.len() as u64 == size);
        Ok(file.map(|file| sum(file)))
    }

    fn enable(&mut self, _: Slot) -> io::Result<()> {
        self.write(|_| (), |_| ())
    }
}

fn program(slot: Slot, version: &str, content: &[u8]) -> Program {
    Program {
        slot,
        version: version.into(),
        size: content.len() as u64,
        sha256: sum(content),
        packaged: "0.1.0".into(),
    }
}

fn next(slot: Slot, version: &str, content: &[u8]) -> Next {
    Next {
        program: program(slot, version, content),
        command: "c".into(),
        url: "http://x/y".into(),
        have: 0,
        spent: 0,
        tag: String::new(),
        within: 600,
        trial: None,
    }
}

/// A machine: its medium, and how often it was started.
#[derive(Clone)]
struct Machine {
    model: Model,
    boots: u64,
}

impl Machine {
    /// With the packaged program 0.1.0, and where `slot` says so, 0.2.0 that came by an update.
    fn new(slot: Option<Slot>) -> Self {
        let mut model = Model::default();
        if let Some(slot) = slot {
            model.files.insert(slot.name(), OLD.to_vec());
            let slots = Slots {
                current: Some(program(slot, "0.2.0", OLD)),
                ..Slots::default()
            };
            model.state = Some(slots.content());
        }
        Self { model, boots: 0 }
    }

    fn rack(&self) -> Rack<Model> {
        Rack::open(self.model.clone()).unwrap()
    }

    /// Power on, and the packaged program's first steps; what runs then.
    fn start(&mut self) -> (Rack<Model>, Option<Slot>) {
        self.boots += 1;
        self.model.dead = false;
        let now = moment(&format!("boot-{}", self.boots), 5);
        let mut rack = self.rack();
        let chosen = rack.launch("0.1.0", &now);
        if let Some(slot) = chosen {
            let content = &rack.medium.files[slot.name()];
            assert!(content == OLD || content == NEW, "what runs is whole");
        }
        (rack, chosen)
    }

    /// Runs until the power goes or the update is over.
    fn run(&mut self) -> bool {
        let (mut rack, chosen) = self.start();
        rack.tidy();
        let over = update(&mut rack, chosen).is_ok();
        self.model = rack.medium;
        over
    }
}

/// What agents do, one after the other, from wherever it stands; an error: the power is gone.
fn update(rack: &mut Rack<Model>, mut runs: Option<Slot>) -> io::Result<()> {
    loop {
        let alive = |rack: &Rack<Model>| {
            if rack.medium.dead {
                Err(io::Error::other("no power"))
            } else {
                Ok(())
            }
        };
        alive(rack)?;
        match rack.slots.next.clone() {
            None if rack.slots.last.is_some() => return Ok(()),
            None => {
                let slot = rack.slots.free();
                rack.begin(next(slot, "0.3.0", NEW))?;
            }
            Some(next) if next.trial.is_none() => {
                let have = next.have as usize;
                let piece = &NEW[have..NEW.len().min(have + PIECE)];
                if !piece.is_empty() {
                    match rack.piece(piece, "tag", 0) {
                        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => rack.anew(0)?,
                        other => other?,
                    }
                    continue;
                }
                assert!(rack.complete()?, "no power cut alters what was known to be there");
                // It starts anew, as the same machine goes on.
                rack.pause()?;
                let now = moment("same", 100);
                runs = rack.launch("0.1.0", &now);
                alive(rack)?;
            }
            Some(next) => {
                assert_eq!(runs, Some(next.program.slot), "what is on trial runs");
                rack.confirm()?;
            }
        }
    }
}

/// How many operations an update takes without a cut.
fn operations(begin: &Machine) -> usize {
    let mut machine = begin.clone();
    assert!(machine.run());
    machine.model.done
}

/// So many seconds after the start of a boot.
fn moment(boot: &str, uptime: u64) -> Begun {
    let boot = boot.into();
    Begun { boot, uptime }
}

#[test]
fn whenever_the_power_goes_the_update_comes_to_its_end_and_nothing_else_ever_runs() {
    for slot in [None, Some(Slot::A), Some(Slot::B)] {
        let begin = Machine::new(slot);
        let all = operations(&begin);
        assert!(all > 12, "{all} operations");
        let lefts = [Left::Undone, Left::Done, Left::Torn];
        let cuts = || {
            (0..=all)
                .flat_map(|at| lefts.map(|left| Some((at, left))))
                .chain([None])
        };
        let mut tried = 0;
        for first in cuts() {
            for second in cuts() {
                let mut machine = begin.clone();
                for cut in [first, second, None] {
                    machine.model.cut = cut;
                    if machine.run() {
                        break;
                    }
                    let held = Slots::read(machine.model.state.as_deref().unwrap_or(b"sum 00000000\n"));
                    let held = held.expect("the state is whole");
                    if held.last.is_none()
                        && let Some(slot) = slot
                    {
                        assert_eq!(held.current.unwrap().slot, slot, "what held before holds");
                        assert_eq!(machine.model.files[slot.name()], OLD);
                    }
                    tried += 1;
                }
                let slots = machine.rack().slots;
                let last = slots.last.as_ref().expect("it has come to its end");
                assert!(last.updated, "{last:?}");
                let current = slots.current.expect("the new one holds");
                assert_eq!(
                    (&*current.version, &machine.model.files[current.slot.name()][..]),
                    ("0.3.0", NEW)
                );
                machine.model.cut = None;
                let (mut rack, chosen) = machine.start();
                rack.tidy();
                let kept: Vec<_> = rack.medium.files.into_keys().collect();
                assert_eq!((chosen, kept), (Some(current.slot), vec![current.slot.name()]));
            }
        }
        assert!(tried > 1_000, "{tried} cuts");
    }
}

/// A machine with 0.3.0 on trial and 0.2.0 behind it.
fn on_trial() -> Machine {
    let mut machine = Machine::new(Some(Slot::A));
    let mut rack = machine.rack();
    rack.begin(next(Slot::B, "0.3.0", NEW)).unwrap();
    rack.piece(NEW, "", 0).unwrap();
    assert!(rack.complete().unwrap());
    machine.model = rack.medium;
    machine
}

/// Starts it at these moments: the boot, and the seconds since then. What ran each time.
fn starts(machine: &mut Machine, at: &[(&str, u64)]) -> Vec<Option<Slot>> {
    at.iter()
        .map(|(boot, uptime)| {
            let mut rack = machine.rack();
            let slot = rack.launch("0.1.0", &moment(boot, *uptime));
            machine.model = rack.medium;
            slot
        })
        .collect()
}

fn told(machine: &Machine) -> String {
    machine.rack().slots.last.map_or(String::new(), |last| last.what)
}

const OLD_RUNS: Option<Slot> = Some(Slot::A);
const NEW_RUNS: Option<Slot> = Some(Slot::B);

#[test]
fn one_that_ends_by_itself_is_tried_three_times_and_then_gone_for_good() {
    let mut machine = on_trial();
    let runs = starts(
        &mut machine,
        &[("x", 10), ("x", 16), ("x", 22), ("x", 28), ("x", 34), ("y", 5)],
    );
    assert_eq!(runs, [NEW_RUNS, NEW_RUNS, NEW_RUNS, OLD_RUNS, OLD_RUNS, OLD_RUNS]);
    assert!(told(&machine).contains("ended by itself 3 times") && told(&machine).contains("after 6 s"));
    assert!(!machine.model.files.contains_key("b"));
}

#[test]
fn whenever_the_power_goes_while_it_is_rolled_back_the_one_before_runs_and_nothing_is_left_of_it() {
    for (at, left) in (0..6).flat_map(|at| [Left::Undone, Left::Done, Left::Torn].map(|left| (at, left))) {
        let mut machine = on_trial();
        machine.model.cut = Some((at, left));
        let mut runs = Vec::new();
        let mut cuts = 0;
        for uptime in 0..8 {
            let run = starts(&mut machine, &[("x", uptime)]);
            if std::mem::take(&mut machine.model.dead) {
                (machine.model.cut, cuts) = (None, cuts + 1);
            } else {
                runs.extend(run);
            }
        }
        // Three starts, the state that says that it is gone, and its removal.
        assert_eq!(cuts, usize::from(at < 5), "{at} {left:?}");
        let news = runs.iter().take_while(|run| **run == NEW_RUNS).count();
        assert!((2..=3).contains(&news), "{at} {left:?}: {runs:?}");
        assert!(runs[news..].iter().all(|run| *run == OLD_RUNS), "{runs:?}");
        assert!(told(&machine).contains("ended by itself 3 times"));
        let mut rack = machine.rack();
        rack.tidy();
        assert_eq!(rack.medium.files.keys().collect::<Vec<_>>(), [&"a"]);
    }
}

#[test]
fn one_that_hangs_is_gone_after_one_trial() {
    let mut machine = on_trial();
    assert_eq!(
        starts(&mut machine, &[("x", 10), ("x", 770)]),
        [NEW_RUNS, OLD_RUNS]
    );
    assert!(told(&machine).contains("it hung"), "{}", told(&machine));
}

#[test]
fn power_cuts_and_clean_stops_are_not_held_against_it_but_not_for_ever() {
    let mut machine = on_trial();
    let boots: Vec<String> = (0..11).map(|boot| format!("boot-{boot}")).collect();
    let at: Vec<(&str, u64)> = boots.iter().map(|boot| (&**boot, 700)).collect();
    let runs = starts(&mut machine, &at);
    assert!(
        runs[..10].iter().all(|run| *run == NEW_RUNS) && runs[10] == OLD_RUNS,
        "{runs:?}"
    );
    assert!(told(&machine).contains("started 10 times"), "{}", told(&machine));

    let mut machine = on_trial();
    for start in 0..6 {
        assert_eq!(starts(&mut machine, &[("x", start)]), [NEW_RUNS]);
        let mut rack = machine.rack();
        rack.pause().unwrap();
        machine.model = rack.medium;
    }
}

#[test]
fn what_was_altered_in_its_slot_does_not_run() {
    let mut machine = on_trial();
    machine.model.files.get_mut("b").unwrap()[3] ^= 1;
    assert_eq!(starts(&mut machine, &[("x", 1)]), [OLD_RUNS]);
    assert!(
        told(&machine).contains("not what was signed"),
        "{}",
        told(&machine)
    );
    machine.model.files.get_mut("a").unwrap().push(0);
    assert_eq!(
        starts(&mut machine, &[("x", 2), ("x", 3)]),
        [None, None],
        "the packaged program runs"
    );
}

#[test]
fn what_was_downloaded_wrong_is_not_installed() {
    let mut machine = Machine::new(None);
    let mut rack = machine.rack();
    rack.begin(next(Slot::A, "0.3.0", NEW)).unwrap();
    let mut wrong = NEW.to_vec();
    wrong[7] ^= 0x20;
    rack.piece(&wrong, "", 0).unwrap();
    assert!(!rack.complete().unwrap());
    assert!(
        rack.slots
            .last
            .as_ref()
            .unwrap()
            .what
            .contains("not what was signed")
    );
    machine.model = rack.medium;
    assert_eq!(machine.start().1, None);
    assert!(machine.model.files.is_empty());
}

#[test]
fn one_that_cannot_be_started_is_gone_at_once() {
    let mut machine = on_trial();
    let now = moment("x", 1);
    let mut rack = machine.rack();
    assert_eq!(rack.launch("0.1.0", &now), NEW_RUNS);
    rack.unusable(Slot::B, &io::Error::from_raw_os_error(13));
    assert_eq!(rack.launch("0.1.0", &now), OLD_RUNS);
    rack.unusable(Slot::A, &io::Error::from_raw_os_error(13));
    assert_eq!(rack.launch("0.1.0", &now), None);
    machine.model = rack.medium;
    assert!(told(&machine).contains("noexec"), "{}", told(&machine));
}

#[test]
fn a_package_that_was_installed_later_wins_unless_it_is_older() {
    let launch = |packaged: &str| {
        let machine = Machine::new(Some(Slot::A));
        let now = moment("x", 1);
        let mut rack = machine.rack();
        let chosen = rack.launch(packaged, &now);
        // The next start chooses the same.
        assert_eq!(Rack::open(rack.medium).unwrap().launch(packaged, &now), chosen);
        chosen
    };
    // In the slot is 0.2.0, taken when the package was 0.1.0.
    assert_eq!(launch("0.1.0"), OLD_RUNS);
    assert_eq!(launch("0.1.1"), OLD_RUNS);
    assert_eq!((launch("0.2.0"), launch("0.3.0")), (None, None));
    // One that was forced to be older than its package stays.
    let mut machine = Machine::new(None);
    let mut slots = Slots {
        current: Some(program(Slot::A, "0.0.9", OLD)),
        ..Slots::default()
    };
    machine.model.files.insert("a", OLD.to_vec());
    machine.model.state = Some(slots.content());
    assert_eq!(machine.start().1, OLD_RUNS);
    // What is on its way is given up too.
    slots.next = Some(next(Slot::B, "0.3.0", NEW));
    machine.model.state = Some(slots.content());
    let mut rack = machine.rack();
    rack.launch("0.3.0", &moment("x", 1));
    assert!(rack.slots.last.unwrap().what.contains("the package 0.3.0"));
}

#[test]
fn where_nothing_can_be_written_nothing_is_tried() {
    let mut machine = on_trial();
    machine.model.read_only = true;
    assert_eq!(starts(&mut machine, &[("x", 1), ("x", 2)]), [OLD_RUNS, OLD_RUNS]);
    machine.model.read_only = false;
    assert_eq!(starts(&mut machine, &[("x", 3)]), [NEW_RUNS]);
}

#[test]
fn a_damaged_state_is_the_packaged_program_s_turn() {
    let mut machine = on_trial();
    machine.model.state.as_mut().unwrap()[10] ^= 1;
    assert_eq!(machine.start().1, None);
}
