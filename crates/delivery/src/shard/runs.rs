//! What sockets get in this turn: the same events in the same order are one run, put together
//! once however many sockets get it.

use bytes::Bytes;
use rustc_hash::FxHashMap;

use crate::framing::Framing;

/// The most runs of a turn. Beyond it all is written before more is taken in.
const MAX_RUNS: usize = 4096;
/// The most bytes that runs hold, pieces and buffers of their own, with the same consequence.
const MAX_BYTES: usize = 16 << 20;

/// A run of this turn.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct RunId(u32);

impl RunId {
    /// The run of nothing.
    pub(super) const EMPTY: Self = Self(0);
}

/// The runs of this turn. Each is another one and a piece more, so that whoever got the same so
/// far shares all of it.
#[derive(Debug, Default)]
pub(super) struct Runs {
    /// `RunId(n)` is at `n - 1`.
    runs: Vec<Run>,
    /// Where a run leads with the piece of a class, for the piece that passes now.
    steps: FxHashMap<(RunId, u32), RunId>,
    /// The last of `steps`: in most fan-outs the only one.
    step: Option<(RunId, u32, RunId)>,
    /// The bytes of pieces, and of buffers made here.
    bytes: usize,
    /// How many sockets have a run to write.
    holders: usize,
}

#[derive(Debug)]
struct Run {
    before: RunId,
    piece: Bytes,
    len: usize,
    /// All of it in one buffer, once somebody needed it.
    whole: Option<Bytes>,
}

impl Runs {
    /// Another piece passes from now on: what earlier ones led to is forgotten.
    pub(super) fn next_piece(&mut self) {
        self.step = None;
        if !self.steps.is_empty() {
            self.steps.clear();
        }
    }

    /// Adds the piece of a class to what a socket has to write.
    pub(super) fn extend(&mut self, held: &mut RunId, class: u32, piece: &Bytes) {
        self.holders += usize::from(*held == RunId::EMPTY);
        *held = self.step(*held, class, piece);
    }

    /// Gives a heartbeat to a socket that has nothing to write.
    pub(super) fn beat(&mut self, held: &mut RunId, framing: Framing) {
        self.holders += usize::from(*held == RunId::EMPTY);
        *held = self.heartbeat(framing);
    }

    /// A socket writes what it has, or is gone. When the last one does, all runs are over.
    pub(super) fn release(&mut self, held: &mut RunId) -> Bytes {
        if *held == RunId::EMPTY {
            return Bytes::new();
        }
        let bytes = self.whole(std::mem::take(held));
        self.holders -= 1;
        if self.holders == 0 {
            self.clear();
        }
        bytes
    }

    /// Where `from` leads with the piece of a class.
    fn step(&mut self, from: RunId, class: u32, piece: &Bytes) -> RunId {
        if let Some((held, of, to)) = self.step
            && held == from
            && of == class
        {
            return to;
        }
        let to = match self.steps.get(&(from, class)) {
            Some(to) => *to,
            None => {
                let to = self.add(from, piece.clone());
                self.steps.insert((from, class), to);
                to
            }
        };
        self.step = Some((from, class, to));
        to
    }

    /// A run and a piece more.
    fn add(&mut self, before: RunId, piece: Bytes) -> RunId {
        self.bytes += piece.len();
        self.runs.push(Run {
            before,
            len: self.len(before) + piece.len(),
            piece,
            whole: None,
        });
        RunId(self.runs.len() as u32)
    }

    /// A heartbeat by itself.
    fn heartbeat(&mut self, framing: Framing) -> RunId {
        let step = (RunId::EMPTY, u32::MAX - framing as u32);
        if let Some(to) = self.steps.get(&step) {
            return *to;
        }
        let to = self.add(RunId::EMPTY, framing.heartbeat());
        self.steps.insert(step, to);
        to
    }

    /// The bytes of a run, in number.
    pub(super) fn len(&self, run: RunId) -> usize {
        self.get(run).map_or(0, |run| run.len)
    }

    /// The bytes of a run, in one buffer.
    fn whole(&mut self, id: RunId) -> Bytes {
        let Some(run) = self.get(id) else {
            return Bytes::new();
        };
        if run.before == RunId::EMPTY {
            return run.piece.clone();
        }
        if let Some(whole) = &run.whole {
            return whole.clone();
        }
        let mut pieces = Vec::new();
        let (len, mut next) = (run.len, Some(run));
        while let Some(run) = next {
            pieces.push(&run.piece);
            next = self.get(run.before);
        }
        let mut whole = Vec::with_capacity(len);
        for piece in pieces.into_iter().rev() {
            whole.extend_from_slice(piece);
        }
        let whole = Bytes::from(whole);
        self.bytes += len;
        if let Some(run) = self.runs.get_mut((id.0 - 1) as usize) {
            run.whole = Some(whole.clone());
        }
        whole
    }

    /// Whether all shall be written before more is taken in.
    pub(super) fn is_full(&self) -> bool {
        self.runs.len() >= MAX_RUNS || self.bytes >= MAX_BYTES
    }

    /// Whether it is more than half full: nobody shall hold a run for longer than it must.
    pub(super) fn is_crowded(&self) -> bool {
        self.runs.len() > MAX_RUNS / 2 || self.bytes > MAX_BYTES / 2
    }

    fn clear(&mut self) {
        self.next_piece();
        self.runs.clear();
        self.bytes = 0;
    }

    fn get(&self, run: RunId) -> Option<&Run> {
        self.runs.get((run.0 as usize).wrapping_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_pieces_are_the_same_run_and_one_buffer() {
        let mut runs = Runs::default();
        let (a, b) = (Bytes::from("aa"), Bytes::from("b"));
        let one = runs.step(RunId::EMPTY, 0, &a);
        assert_eq!(runs.step(RunId::EMPTY, 0, &a), one);
        runs.next_piece();
        let both = runs.step(one, 0, &b);
        let other = runs.step(RunId::EMPTY, 0, &b);
        assert_eq!(runs.step(one, 0, &b), both);
        assert_eq!(runs.step(RunId::EMPTY, 0, &b), other);
        assert_ne!(runs.step(one, 1, &b), both, "another class has other bytes");
        assert_eq!((runs.len(both), runs.whole(both)), (3, Bytes::from("aab")));
        assert_eq!(runs.whole(both).as_ptr(), runs.whole(both).as_ptr());
        assert_eq!(
            runs.whole(other).as_ptr(),
            b.as_ptr(),
            "one piece is not copied"
        );
        runs.next_piece();
        let heartbeat = runs.heartbeat(Framing::Chunked);
        assert_eq!(runs.heartbeat(Framing::Chunked), heartbeat);
        assert_eq!(runs.whole(heartbeat), Framing::Chunked.heartbeat());
    }

    #[test]
    fn runs_are_over_when_the_last_socket_has_written() {
        let mut runs = Runs::default();
        let mut held = [RunId::EMPTY; 3];
        for held in &mut held {
            runs.extend(held, 0, &"a".into());
        }
        runs.next_piece();
        runs.extend(&mut held[0], 0, &"b".into());
        assert_eq!(runs.release(&mut held[0]), "ab");
        assert_eq!(runs.release(&mut held[1]), "a");
        runs.beat(&mut held[1], Framing::Plain);
        assert_eq!(runs.release(&mut held[2]), "a");
        assert!(!runs.runs.is_empty());
        assert_eq!(runs.release(&mut held[1]), ":\n");
        assert!(runs.runs.is_empty() && runs.holders == 0);
        assert_eq!(runs.release(&mut held[1]), "");
    }
}
