//! Recorders, standbys, marks, cuts, lost answers and writes that come late, against a model: every
//! message once and in order, or in a hole.

use std::{collections::VecDeque, fmt::Write as _, sync::Arc};

use fastrand::Rng;

use super::{super::tape::FLAT, *};

/// Payloads repeat: only a few hashes.
#[derive(Clone, Debug)]
struct Message {
    number: u64,
    payload: u64,
}

impl Heard for Message {
    fn hash(&self) -> u64 {
        self.payload
    }

    fn weight(&self) -> usize {
        10
    }
}

#[derive(Clone, Debug)]
enum Announced {
    Message(Message),
    Mark(Arc<str>, Option<Spot>),
}

/// What is in the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Logged {
    Event(u64),
    Hole,
}

#[derive(Clone, Debug)]
struct Order {
    token: u64,
    from: Option<Place>,
    to: Place,
    hole: bool,
    numbers: Vec<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Answer {
    Done,
    Fenced,
    Moved,
}

/// Redis: what it announces, and what its script does.
#[derive(Default)]
struct Server {
    run: u64,
    published: u64,
    marks: u64,
    tokens: u64,
    newest: u64,
    place: Option<Place>,
    log: Vec<Logged>,
}

impl Server {
    fn run(&self) -> Arc<str> {
        format!("run{}", self.run).into()
    }

    fn record(&mut self, order: &Order) -> Answer {
        if order.token != self.newest {
            return Answer::Fenced;
        }
        if self.place.as_ref() == Some(&order.to) && order.from.as_ref() != Some(&order.to) {
            return Answer::Done;
        }
        if self.place != order.from {
            return Answer::Moved;
        }
        if order.hole {
            self.log.push(Logged::Hole);
        }
        self.log
            .extend(order.numbers.iter().map(|number| Logged::Event(*number)));
        self.place = Some(order.to.clone());
        Answer::Done
    }
}

enum Role {
    Standby,
    /// Has taken over, and waits for its own mark.
    Taking {
        token: u64,
        recorded: Option<Place>,
        mark: Arc<str>,
    },
    Recording {
        token: u64,
        pen: Pen,
        /// Its write is under way.
        waits: bool,
        /// It does not know how its write went.
        doubts: bool,
    },
}

struct Node {
    role: Role,
    tape: Tape<Message>,
    run: Arc<str>,
    /// Announced, and not heard yet.
    coming: VecDeque<Announced>,
    /// It has let go of what a mark said was recorded: from there on it has everything.
    is_warm: bool,
    has_heard_its_mark: bool,
}

impl Node {
    fn new(server: &Server, max_bytes: usize) -> Self {
        Self {
            role: Role::Standby,
            tape: Tape::new(max_bytes),
            run: server.run(),
            coming: VecDeque::new(),
            is_warm: false,
            has_heard_its_mark: false,
        }
    }

    fn hear(&mut self, count: usize) {
        for _ in 0..count {
            match self.coming.pop_front() {
                Some(Announced::Message(message)) => self.tape.hear(message),
                Some(Announced::Mark(mark, recorded)) => {
                    self.is_warm |= recorded
                        .as_ref()
                        .is_some_and(|spot| self.tape.skip_to(spot));
                    if let Role::Taking { mark: mine, .. } = &self.role {
                        self.has_heard_its_mark |= *mine == mark;
                    }
                    self.tape.mark(mark);
                }
                None => break,
            }
        }
    }
}

/// What may go wrong.
#[derive(Clone, Copy)]
struct Faults {
    cuts: bool,
    restarts: bool,
    max_bytes: usize,
}

struct World {
    rng: Rng,
    server: Server,
    nodes: Vec<Node>,
    /// Writes on their way, of which node; that of a node which is no more may come late.
    orders: Vec<(Option<usize>, Order)>,
    faults: Faults,
    rules: u64,
    starts: Vec<Start>,
    trace: String,
}

impl World {
    fn new(seed: u64, faults: Faults) -> Self {
        let server = Server::default();
        let nodes = (0..2)
            .map(|_| Node::new(&server, faults.max_bytes))
            .collect();
        Self {
            rng: Rng::with_seed(seed),
            server,
            nodes,
            orders: Vec::new(),
            faults,
            rules: 7,
            starts: Vec::new(),
            trace: String::new(),
        }
    }

    fn announce(&mut self, announced: &Announced) {
        for node in &mut self.nodes {
            node.coming.push_back(announced.clone());
        }
    }

    fn publish(&mut self) {
        let number = self.server.published;
        self.server.published += 1;
        let payload = self.rng.u64(0..2);
        self.announce(&Announced::Message(Message { number, payload }));
    }

    fn mark(&mut self, recorded: Option<Spot>) -> Arc<str> {
        self.server.marks += 1;
        let mark: Arc<str> = format!("m{}", self.server.marks).into();
        self.announce(&Announced::Mark(mark.clone(), recorded));
        mark
    }

    fn take_over(&mut self, index: usize) {
        self.server.tokens += 1;
        self.server.newest = self.server.tokens;
        let mark = self.mark(None);
        self.nodes[index].role = Role::Taking {
            token: self.server.newest,
            recorded: self.server.place.clone(),
            mark,
        };
    }

    /// A node that has taken over begins, once it has heard its mark.
    fn start(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let Role::Taking {
            token,
            recorded,
            mark,
        } = &node.role
        else {
            return;
        };
        let token = *token;
        if node.has_heard_its_mark && !node.tape.has_ended() {
            let (pen, start) = Pen::start(
                &mut node.tape,
                &node.run,
                self.rules,
                recorded.clone(),
                mark,
            );
            let _ = writeln!(self.trace, "{index} starts {start:?}");
            self.starts.push(start);
            node.role = Role::Recording {
                token,
                pen,
                waits: false,
                doubts: false,
            };
        }
    }

    fn write(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let Role::Recording {
            token,
            pen,
            waits,
            doubts,
        } = &mut node.role
        else {
            return;
        };
        if *waits {
            return;
        }
        if *doubts {
            if pen.realign(&mut node.tape, self.server.place.clone()) {
                *doubts = false;
            } else {
                self.leave(index);
            }
        } else if pen.is_torn(&node.tape) {
            self.leave(index);
        } else if let Some(write) = pen.next(&node.tape) {
            let order = Order {
                token: *token,
                from: write.from,
                to: write.to,
                hole: write.hole,
                numbers: write
                    .messages
                    .iter()
                    .map(|message| message.number)
                    .collect(),
            };
            *waits = true;
            self.orders.push((Some(index), order));
        }
    }

    /// Redis comes to a write, and its answer is lost now and then.
    fn record(&mut self) {
        if self.orders.is_empty() {
            return;
        }
        let (from, order) = self.orders.remove(self.rng.usize(0..self.orders.len()));
        let answer = self.server.record(&order);
        let _ = writeln!(self.trace, "{from:?} {answer:?} {:?}", order.numbers);
        let Some(index) = from else { return };
        let is_lost = self.rng.u8(0..8) == 0;
        let node = &mut self.nodes[index];
        let Role::Recording {
            pen, waits, doubts, ..
        } = &mut node.role
        else {
            return;
        };
        *waits = false;
        match answer {
            _ if is_lost => *doubts = true,
            Answer::Done => pen.wrote(&mut node.tape, order.to),
            Answer::Moved => *doubts = true,
            Answer::Fenced => self.leave(index),
        }
    }

    /// The node does not wait any longer for its write, which is still under way.
    fn give_up(&mut self, index: usize) {
        if let Role::Recording { waits, doubts, .. } = &mut self.nodes[index].role
            && *waits
        {
            (*waits, *doubts) = (false, true);
            self.disown(index);
        }
    }

    fn disown(&mut self, index: usize) {
        for (from, _) in &mut self.orders {
            if *from == Some(index) {
                *from = None;
            }
        }
    }

    fn leave(&mut self, index: usize) {
        self.disown(index);
        self.nodes[index] = Node::new(&self.server, self.faults.max_bytes);
    }

    fn recorder(&self) -> Option<usize> {
        self.nodes.iter().position(|node| match &node.role {
            Role::Standby => false,
            Role::Taking { token, .. } | Role::Recording { token, .. } => {
                *token == self.server.newest
            }
        })
    }

    fn step(&mut self) {
        let index = self.rng.usize(0..self.nodes.len());
        match self.rng.u8(0..100) {
            0..=34 => self.publish(),
            35..=59 => {
                let count = self.rng.usize(0..6);
                self.nodes[index].hear(count);
                self.start(index);
            }
            60..=74 => self.write(index),
            75..=86 => self.record(),
            87..=91 => {
                if let Role::Recording { pen, .. } = &self.nodes[index].role {
                    let recorded = pen.recorded().cloned();
                    self.mark(recorded);
                }
            }
            92 => self.give_up(index),
            93..=95 => self.change_over(index),
            96 | 97 if self.faults.cuts => {
                let _ = writeln!(self.trace, "{index} cut");
                // What is on its way is lost; what was heard can still be written.
                self.nodes[index].coming.clear();
                self.nodes[index].tape.end();
                if !matches!(self.nodes[index].role, Role::Recording { .. }) {
                    self.leave(index);
                }
            }
            98 if self.faults.restarts => {
                let _ = writeln!(self.trace, "restart");
                self.server.run += 1;
                for index in 0..self.nodes.len() {
                    self.nodes[index].coming.clear();
                    self.nodes[index].tape.end();
                }
            }
            _ => {}
        }
        self.retire();
    }

    /// A recorder that hears no more and has written everything leaves.
    fn retire(&mut self) {
        for index in 0..self.nodes.len() {
            let node = &self.nodes[index];
            let is_done = match &node.role {
                Role::Recording { waits, pen, .. } => !waits && pen.next(&node.tape).is_none(),
                _ => true,
            };
            if node.tape.has_ended() && is_done {
                self.leave(index);
            }
        }
    }

    /// The lease is free: the recorder died, was paused, or let go.
    fn change_over(&mut self, index: usize) {
        if !matches!(self.nodes[index].role, Role::Standby) || self.nodes[index].tape.has_ended() {
            return;
        }
        let recorder = self.recorder();
        if !self.faults.cuts && (recorder.is_some() && !self.nodes[index].is_warm) {
            return;
        }
        let _ = writeln!(self.trace, "{index} takes over from {recorder:?}");
        self.take_over(index);
        if let Some(old) = recorder
            && self.rng.bool()
        {
            // It died. Otherwise it is only slow, and finds out.
            self.leave(old);
        }
    }

    /// Everything comes to its end: one recorder hears and writes all there is.
    fn settle(&mut self) {
        for index in 0..self.nodes.len() {
            if self.nodes[index].tape.has_ended() {
                self.leave(index);
            }
        }
        if self.recorder().is_none() {
            let index = self
                .nodes
                .iter()
                .position(|node| matches!(node.role, Role::Standby));
            self.take_over(index.unwrap());
        }
        for _ in 0..10_000 {
            let Some(index) = self.recorder() else {
                let index = self
                    .nodes
                    .iter()
                    .position(|node| matches!(node.role, Role::Standby));
                self.take_over(index.unwrap());
                continue;
            };
            self.nodes[index].hear(usize::MAX);
            self.start(index);
            self.write(index);
            while !self.orders.is_empty() {
                self.record();
            }
            let node = &self.nodes[index];
            if let Role::Recording {
                pen,
                waits: false,
                doubts: false,
                ..
            } = &node.role
                && node.coming.is_empty()
                && !pen.is_torn(&node.tape)
                && pen.next(&node.tape).is_none()
            {
                return;
            }
        }
        panic!("it does not settle");
    }

    /// Every message once and in order, or in a hole.
    fn check(&self) -> Result<usize, String> {
        let (mut next, mut holes, mut is_open) = (0, 0, false);
        for logged in &self.server.log {
            match logged {
                Logged::Hole => {
                    holes += 1;
                    is_open = true;
                }
                Logged::Event(number) => {
                    if *number < next {
                        return Err(format!("{number} twice or out of order"));
                    }
                    if *number > next && !is_open {
                        return Err(format!("{next} to {number} lost in silence"));
                    }
                    (next, is_open) = (number + 1, false);
                }
            }
        }
        if next < self.server.published && !is_open {
            return Err(format!("from {next} on lost in silence"));
        }
        Ok(holes)
    }
}

fn run(seed: u64, faults: Faults) -> (usize, Vec<Start>) {
    let mut world = World::new(seed, faults);
    for _ in 0..600 {
        world.step();
    }
    world.settle();
    // What comes after the last hole is recorded.
    world.publish();
    world.settle();
    let last = Logged::Event(world.server.published - 1);
    assert_eq!(world.server.log.last(), Some(&last), "seed {seed}");
    match world.check() {
        Ok(holes) => (holes, world.starts),
        Err(why) => panic!("seed {seed}: {why}\n{}", world.trace),
    }
}

const WIDE: usize = 1 << 20;

#[test]
fn every_message_is_recorded_once_or_lies_in_a_hole() {
    let (mut holes, mut aligned) = (0, 0);
    for seed in 0..3000 {
        let faults = Faults {
            cuts: true,
            restarts: seed % 2 == 0,
            max_bytes: if seed % 3 == 0 { 20 * FLAT } else { WIDE },
        };
        let (with_holes, starts) = run(seed, faults);
        holes += with_holes;
        aligned += starts
            .iter()
            .filter(|start| **start == Start::Aligned)
            .count();
    }
    assert!(
        holes > 1000 && aligned > 1000,
        "{holes} holes, {aligned} aligned"
    );
}

#[test]
fn while_one_listener_is_whole_nothing_is_lost() {
    for seed in 0..2000 {
        let faults = Faults {
            cuts: false,
            restarts: false,
            max_bytes: WIDE,
        };
        let (holes, starts) = run(seed, faults);
        let begins = starts.iter().filter(|start| **start == Start::New).count();
        assert!(
            holes <= begins && !starts.contains(&Start::Hole),
            "seed {seed}: {starts:?}"
        );
    }
}

#[test]
fn who_counts_by_other_rules_or_on_another_server_makes_a_hole() {
    let message = |number| Message { number, payload: 0 };
    let tape = || {
        let mut tape = Tape::new(WIDE);
        tape.mark("m".into());
        tape.hear(message(1));
        tape.hear(message(2));
        tape.mark("mine".into());
        tape.hear(message(3));
        tape
    };
    let mut spot = Spot::parse("m 0 0").unwrap();
    let mut one = tape();
    let place = |run: &str, rules, spot: &Spot| {
        Some(Place {
            run: run.into(),
            rules,
            spot: spot.clone(),
        })
    };
    let start = |tape: &mut Tape<Message>, run: &str, recorded| {
        Pen::start(tape, &run.into(), 7, recorded, &"mine".into())
    };
    let numbers = |pen: &Pen, tape: &Tape<Message>| -> Vec<u64> {
        let messages = pen.next(tape).unwrap().messages;
        messages.iter().map(|message| message.number).collect()
    };
    let (pen, begun) = start(&mut one, "a", place("a", 7, &spot));
    assert_eq!(
        (begun, numbers(&pen, &one)),
        (Start::Aligned, vec![1, 2, 3])
    );
    spot.step(0);
    for (run, recorded, begins) in [
        ("a", place("a", 7, &spot), Start::Aligned),
        ("b", place("a", 7, &spot), Start::Hole),
        ("a", place("a", 8, &spot), Start::Hole),
        ("", place("", 7, &spot), Start::Hole),
        ("a", None, Start::New),
    ] {
        let mut tape = tape();
        let (pen, begun) = start(&mut tape, run, recorded);
        assert_eq!(begun, begins);
        let expected = if begins == Start::Aligned {
            vec![2, 3]
        } else {
            vec![3]
        };
        assert_eq!(numbers(&pen, &tape), expected, "{begins:?}");
    }
    // The guard: the count fits, and what was counted is something else.
    let mut other = Spot::parse("m 0 0").unwrap();
    other.step(9);
    spot.check = other.check;
    assert_eq!(start(&mut tape(), "a", place("a", 7, &spot)).1, Start::Hole);
}

#[test]
fn places_are_read_as_they_are_written() {
    for run in ["0123abcd", ""] {
        let place = Place {
            run: run.into(),
            rules: u64::MAX,
            spot: Spot {
                mark: "3-ab.7".into(),
                count: 12,
                check: u64::MAX,
            },
        };
        assert_eq!(Place::parse(&place.to_text()), Some(place));
    }
    for bad in ["", "a", "a 1 m 0", "a x m 0 0", "a 1 m 0 0 0", "a 1  0 0"] {
        assert_eq!(Place::parse(bad), None, "{bad}");
    }
}
