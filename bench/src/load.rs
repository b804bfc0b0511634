//! The load generator: a process of its own, one thread, beside the server on another core.
//!
//! Closed loop (windows) finds what a server can do; open loop (rates) finds how long events take,
//! counted from when they should have been published, so that a server that falls behind cannot
//! make its own figures better.

mod client;
mod flow;
pub(crate) mod measured;
pub(crate) mod ndjson;
pub(crate) mod plan;
mod publisher;

use std::{
    collections::VecDeque,
    error::Error,
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use client::{Client, Seat};
use flow::Running;
use measured::{FlowMeasured, Measured, StormMeasured};
use mio::{Events, Interest, Poll, Token};
use plan::{Pace, Plan};
use publisher::Publisher;

use crate::{
    process::{self, Cpu, Machine},
    sequence::{Faults, Sequence},
};

/// Connections that are being made at the same time: less than any listen queue.
const CONNECTING: usize = 128;
/// Clients first, publishers from here on.
const PUBLISHERS: usize = usize::MAX / 2;
/// Between connecting and measuring, for tasks to settle.
const SETTLE: Duration = Duration::from_millis(500);
/// Before a look at the memory of idle clients: allocators give back what became free.
const SETTLE_IDLE: Duration = Duration::from_secs(4);
/// How long nothing at all may happen before a run is given up.
const STALLED: Duration = Duration::from_secs(20);

/// Counts over all clients.
#[derive(Default)]
pub(crate) struct Totals {
    opened: usize,
    /// Ended before they were open.
    unopened: usize,
    reads: u64,
    bytes: u64,
    gaps: u64,
    replayed: u64,
    storm_events: u64,
    caught_up: usize,
    /// Came back, and ended before they had caught up.
    given_up: usize,
    faults: Faults,
    errors: u64,
    first_error: Option<String>,
}

struct Generator {
    plan: Plan,
    poll: Poll,
    events: Events,
    clients: Vec<Client>,
    publishers: Vec<Publisher>,
    flows: Vec<Running>,
    queue: VecDeque<(SocketAddr, Vec<u8>, Seat)>,
    totals: Totals,
    scratch: Vec<u8>,
    worked: Duration,
    publishing: bool,
}

/// What was used up to a moment.
struct Usage {
    at: Instant,
    server: Cpu,
    beside: Cpu,
    own: Cpu,
    machine: Machine,
}

/// Measures by a plan.
///
/// # Errors
/// Where connecting or publishing was not possible, or nothing more came.
pub(crate) fn run(plan: Plan) -> Result<Measured, Box<dyn Error>> {
    let mut generator = Generator::new(plan)?;
    let mut measured = generator.connect_all()?;
    if !generator.is_idle() {
        generator.measure(&mut measured)?;
    }
    let published = |seat: &Seat| generator.flows[seat.flow].channels[seat.channel].published;
    for client in &generator.clients {
        let seat = &client.seat;
        seat.sequence
            .ended(published(seat), &mut generator.totals.faults);
    }
    let totals = generator.totals;
    measured.take(totals.faults);
    measured.gaps = totals.gaps;
    measured.errors = totals.errors;
    measured.first_error = totals.first_error;
    Ok(measured)
}

impl Generator {
    fn new(plan: Plan) -> io::Result<Self> {
        let poll = Poll::new()?;
        Ok(Self {
            flows: plan.flows.iter().cloned().map(Running::new).collect(),
            plan,
            poll,
            events: Events::with_capacity(1024),
            clients: Vec::new(),
            publishers: Vec::new(),
            queue: VecDeque::new(),
            totals: Totals::default(),
            scratch: vec![0; 1 << 20],
            worked: Duration::ZERO,
            publishing: false,
        })
    }

    /// Whether nothing is published.
    fn is_idle(&self) -> bool {
        let mut flows = self.flows.iter();
        flows.all(|flow| flow.plan.pace == Pace::Idle)
    }

    fn connect_all(&mut self) -> Result<Measured, Box<dyn Error>> {
        for index in 0..self.plan.flows.len() {
            let flow = &self.plan.flows[index];
            for number in 0..flow.channels * flow.subscribers {
                let mut seat = Seat::new(index, number % flow.channels, Sequence::default());
                seat.notes_ids = self.plan.storm.is_some() && number == 0;
                let request = self.request(&seat, None);
                let server = self.plan.subscribe_at[number % self.plan.subscribe_at.len()];
                self.queue.push_back((server, request, seat));
            }
        }
        let clients = self.queue.len();
        let memory = process::pss(&self.plan.pids)?;
        let before = self.usage()?;
        while self.totals.opened < clients {
            self.turn()?;
            let late = before.at.elapsed() > STALLED * 3;
            self.give_up_if(late || self.totals.unopened > 0, "connecting")?;
        }
        let after = self.usage()?;
        let settle = if self.is_idle() { SETTLE_IDLE } else { SETTLE };
        let settled = Instant::now() + settle;
        while Instant::now() < settled {
            self.turn()?;
        }
        let memory = process::pss(&self.plan.pids)?.saturating_sub(memory);
        let took = after.at.duration_since(before.at).as_secs_f64();
        let cpu = after.server.since(before.server).total();
        let each = |value: f64| value / clients.max(1) as f64;
        Ok(Measured {
            clients,
            connects_per_s: clients as f64 / took,
            connect_cpu_us: each(cpu.as_secs_f64() * 1e6),
            idle_bytes: each(memory as f64),
            ..Measured::default()
        })
    }

    /// Only now: a server may close a connection on which no request comes.
    fn connect_publishers(&mut self) -> io::Result<()> {
        let plan = &self.plan;
        for (index, flow) in plan.flows.iter().enumerate() {
            let token = plan.token.as_deref();
            let mut publisher = Publisher::connect(plan.publish_at, plan.dialect, token, flow)?;
            let (both, token) = (
                Interest::READABLE | Interest::WRITABLE,
                Token(PUBLISHERS + index),
            );
            self.poll
                .registry()
                .register(publisher.stream(), token, both)?;
            self.publishers.push(publisher);
        }
        Ok(())
    }

    fn request(&self, seat: &Seat, cursor: Option<&str>) -> Vec<u8> {
        let channel = self.plan.flows[seat.flow].channel(seat.channel);
        let target = self.plan.dialect.subscribe(&channel);
        let token = self.plan.token.as_ref();
        let token = token.map(|token| format!("Authorization: Bearer {token}\r\n"));
        let cursor = cursor.map(|cursor| format!("Last-Event-ID: {cursor}\r\n"));
        format!(
            "GET {target} HTTP/1.1\r\nHost: bench\r\nAccept: text/event-stream\r\n{}{}\r\n",
            token.unwrap_or_default(),
            cursor.unwrap_or_default()
        )
        .into_bytes()
    }

    fn measure(&mut self, measured: &mut Measured) -> Result<(), Box<dyn Error>> {
        self.connect_publishers()?;
        self.publishing = true;
        let warm = Instant::now() + Duration::from_millis(self.plan.warmup_ms);
        while Instant::now() < warm || !self.has_ids() {
            self.turn()?;
        }
        self.flows.iter_mut().for_each(Running::begin);
        let (reads, bytes) = (self.totals.reads, self.totals.bytes);
        self.worked = Duration::ZERO;
        let before = self.usage()?;
        let until = before.at + Duration::from_millis(self.plan.measure_ms);
        let storm = self.start_storm();
        let mut storm_over = None;
        while Instant::now() < until || (storm.is_some() && storm_over.is_none()) {
            self.turn()?;
            if storm_over.is_none()
                && storm.is_some_and(|all| self.totals.caught_up + self.totals.given_up >= all)
            {
                storm_over = Some(self.usage()?);
            }
            self.give_up_if(before.at.elapsed() > STALLED * 6, "measuring")?;
        }
        let after = self.usage()?;
        let took = after.at.duration_since(before.at).as_secs_f64();
        let deliveries = self.flows.iter().map(|flow| flow.deliveries).sum::<u64>();
        let all = (deliveries + self.totals.storm_events).max(1) as f64;
        let server = after.server.since(before.server);
        let beside = after.beside.since(before.beside);
        let own = after.own.since(before.own);
        let ours = (server.total() + beside.total() + own.total()).as_secs_f64();
        let busy = (after.machine.busy - before.machine.busy).as_secs_f64();
        let stolen = (after.machine.stolen - before.machine.stolen).as_secs_f64();
        let each = |cpu: Duration| cpu.as_secs_f64() * 1e6 / all;
        measured.seconds = took;
        measured.deliveries = deliveries;
        measured.deliveries_per_s = deliveries as f64 / took;
        measured.cpu_s_per_million = each(server.total());
        measured.user_s_per_million = each(server.user);
        measured.beside_s_per_million = each(beside.total());
        measured.server_busy = server.total().as_secs_f64() / took;
        measured.bytes_per_delivery = (self.totals.bytes - bytes) as f64 / all;
        measured.events_per_read = all / (self.totals.reads - reads).max(1) as f64;
        measured.generator_busy = self.worked.as_secs_f64() / took;
        measured.foreign_cores = ((busy - ours) / took).max(0.0);
        measured.stolen_cores = stolen / took;
        measured.flows = self
            .flows
            .iter()
            .map(|flow| flow_measured(flow, took))
            .collect();
        measured.storm = storm_over.zip(storm).map(|(over, clients)| {
            let seconds = over.at.duration_since(before.at).as_secs_f64();
            let cpu = over.server.since(before.server).total();
            StormMeasured {
                clients,
                seconds,
                replayed_per_s: self.totals.replayed as f64 / seconds,
                cpu_us_per_client: cpu.as_secs_f64() * 1e6 / clients as f64,
            }
        });
        self.publishing = false;
        let drained = Instant::now();
        while !self.flows.iter().all(Running::is_done) && drained.elapsed() < STALLED {
            self.turn()?;
        }
        // What those who came back are still owed, and what came twice.
        let settled = Instant::now() + SETTLE;
        while Instant::now() < settled {
            self.turn()?;
        }
        Ok(())
    }

    /// Whether there are cursors that are old enough.
    fn has_ids(&self) -> bool {
        let behind = self.plan.storm.map_or(0, |storm| storm.behind as usize);
        behind == 0 || self.flows[0].ids.len() > behind
    }

    /// Lets clients come back; answers how many.
    fn start_storm(&mut self) -> Option<usize> {
        let storm = self.plan.storm?;
        let ids = &self.flows[0].ids;
        let (number, cursor) = ids
            .get(ids.len().checked_sub(storm.behind as usize + 1)?)?
            .clone();
        let owed = self.flows[0].channels[0].published;
        for index in 0..storm.clients {
            let mut seat = Seat::new(0, 0, Sequence::starting_at(number + 1));
            seat.owed = Some(owed);
            let request = self.request(&seat, Some(&cursor));
            let server = self.plan.subscribe_at[index % self.plan.subscribe_at.len()];
            self.queue.push_back((server, request, seat));
        }
        Some(storm.clients)
    }

    fn turn(&mut self) -> io::Result<()> {
        self.connect_some()?;
        if self.publishing {
            self.publish_some()?;
        }
        // Never asleep: a server must not pay for waking its generator.
        self.poll.poll(&mut self.events, Some(Duration::ZERO))?;
        if self.events.is_empty() {
            return Ok(());
        }
        let began = Instant::now();
        for event in &self.events {
            let Token(token) = event.token();
            if let Some(index) = token.checked_sub(PUBLISHERS) {
                self.publishers[index].ready(&mut self.scratch, &mut self.totals)?;
                continue;
            }
            let client = &mut self.clients[token];
            let ready = client.ready(&mut self.scratch, &mut self.flows, &mut self.totals);
            if let Err(error) = ready {
                self.totals.error(|| format!("a stream ended: {error}"));
                self.totals.unopened += usize::from(!client.seat.open);
                self.totals.given_up += usize::from(client.seat.is_behind());
                self.poll.registry().deregister(client.stream())?;
            }
        }
        self.worked += began.elapsed();
        Ok(())
    }

    fn connect_some(&mut self) -> io::Result<()> {
        let settled = self.totals.opened + self.totals.unopened;
        while self.clients.len().saturating_sub(settled) < CONNECTING {
            let Some((server, request, seat)) = self.queue.pop_front() else {
                break;
            };
            let index = self.clients.len();
            let mut client = Client::connect(index, server, request, seat)?;
            let both = Interest::READABLE | Interest::WRITABLE;
            self.poll
                .registry()
                .register(client.stream(), Token(index), both)?;
            self.clients.push(client);
        }
        Ok(())
    }

    fn publish_some(&mut self) -> io::Result<()> {
        let now = Instant::now();
        for (flow, publisher) in self.flows.iter_mut().zip(&mut self.publishers) {
            let due = flow.due(now);
            if !due.is_empty() {
                publisher.publish(&flow.plan, &due)?;
            }
        }
        Ok(())
    }

    fn usage(&self) -> io::Result<Usage> {
        Ok(Usage {
            at: Instant::now(),
            server: process::cpu(&self.plan.pids)?,
            beside: process::cpu(&self.plan.beside)?,
            own: process::cpu(&[std::process::id()])?,
            machine: process::machine()?,
        })
    }

    fn give_up_if(&self, so: bool, what: &str) -> Result<(), Box<dyn Error>> {
        let why = self.totals.first_error.as_deref().unwrap_or("nothing came");
        if so {
            Err(format!("gave up {what}: {why}").into())
        } else {
            Ok(())
        }
    }
}

fn flow_measured(flow: &Running, took: f64) -> FlowMeasured {
    let micros = |nanos: u64| nanos as f64 / 1e3;
    FlowMeasured {
        name: flow.plan.name.clone(),
        deliveries_per_s: flow.deliveries as f64 / took,
        p50_us: micros(flow.latency.quantile(0.5)),
        p99_us: micros(flow.latency.quantile(0.99)),
        max_us: micros(flow.latency.max()),
    }
}

impl Totals {
    fn error(&mut self, what: impl FnOnce() -> String) {
        self.errors += 1;
        if self.first_error.is_none() {
            self.first_error = Some(what());
        }
    }
}
