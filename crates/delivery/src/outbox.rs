//! A subscriber's byte-bounded queue between its shard, which fills it, and its sink, which
//! empties it.

use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Frames up to this many bytes in all leave the queue as one piece: fewer, larger writes for a
/// subscriber that is behind.
const MERGE_BYTES: usize = 16 << 10;

/// Which subscriber of a shard: a slot, and the number that tells its tenants apart: the number comes
/// again after 4,294,967,296 subscribers of the node, when no key of its first owner is left.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Key {
    pub(crate) slot: u32,
    pub(crate) id: u32,
}

#[derive(Debug)]
pub(crate) struct Outbox {
    state: Mutex<State>,
    doorbell: Arc<Doorbell>,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Bytes>,
    bytes: usize,
    /// How many pieces the sink took.
    taken: u64,
    /// The sink is told the end when the queue is empty.
    ended: bool,
    /// The sink was dropped.
    gone: bool,
    /// The shard waits for the queue to fall to this many bytes.
    wanted: Option<usize>,
    key: Option<Key>,
    rung: bool,
    waker: Option<Waker>,
}

/// How much waits, and how far the sink has come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Level {
    pub(crate) bytes: usize,
    pub(crate) taken: u64,
}

impl Outbox {
    pub(crate) fn new(doorbell: Arc<Doorbell>) -> Self {
        Self {
            state: Mutex::default(),
            doorbell,
        }
    }

    /// Tells the outbox whose it is. Answers whether the sink is still there.
    pub(crate) fn register(&self, key: Key) -> bool {
        let mut state = self.state.lock();
        state.key = Some(key);
        !state.gone
    }

    /// Puts a frame in, unless it does not fit. A frame larger than the bound fits alone.
    pub(crate) fn push(&self, frame: &Bytes, bound: usize) -> bool {
        let mut state = self.state.lock();
        if !state.queue.is_empty() && state.bytes + frame.len() > bound {
            return false;
        }
        state.put(frame.clone());
        true
    }

    /// Puts a control frame in, whatever the bound: they are small and few.
    pub(crate) fn force(&self, frame: Bytes) {
        self.state.lock().put(frame);
    }

    /// Lets the sink know that there is something to take, or an end.
    pub(crate) fn wake(&self) {
        let waker = self.state.lock().waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Ends the stream after what is queued.
    pub(crate) fn end(&self) {
        self.state.lock().ended = true;
    }

    /// Ends the stream now.
    pub(crate) fn cut(&self) {
        let mut state = self.state.lock();
        state.ended = true;
        state.queue = VecDeque::new();
        state.bytes = 0;
    }

    pub(crate) fn level(&self) -> Level {
        let state = self.state.lock();
        Level {
            bytes: state.bytes,
            taken: state.taken,
        }
    }

    /// Asks for the bell when at most `bytes` wait. Answers whether that is so already.
    pub(crate) fn want(&self, bytes: usize) -> bool {
        let mut state = self.state.lock();
        if state.bytes <= bytes {
            return true;
        }
        state.wanted = Some(bytes);
        false
    }

    /// Takes the bell's message: whether the sink is gone.
    pub(crate) fn answer(&self) -> bool {
        let mut state = self.state.lock();
        state.rung = false;
        state.gone
    }

    /// What the sink takes next: everything that waits, up to [`MERGE_BYTES`], or one frame.
    pub(crate) fn poll_take(&self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let mut state = self.state.lock();
        let Some(first) = state.queue.pop_front() else {
            if state.ended {
                return Poll::Ready(None);
            }
            if !state
                .waker
                .as_ref()
                .is_some_and(|waker| waker.will_wake(cx.waker()))
            {
                state.waker = Some(cx.waker().clone());
            }
            return Poll::Pending;
        };
        let piece = state.merge(first);
        state.bytes -= piece.len();
        state.taken += 1;
        if state.queue.is_empty() && state.queue.capacity() > 64 {
            // One burst must not be paid for in memory for the rest of a long stream.
            state.queue = VecDeque::new();
        }
        if state.wanted.is_some_and(|wanted| state.bytes <= wanted) {
            state.wanted = None;
            state.ring(&self.doorbell);
        }
        Poll::Ready(Some(piece))
    }

    /// Takes all that waits, and whether the stream ends after it: another sink has it from now on.
    pub(crate) fn take_over(&self) -> (Vec<Bytes>, bool) {
        let mut state = self.state.lock();
        state.bytes = 0;
        (std::mem::take(&mut state.queue).into(), state.ended)
    }

    /// The sink is dropped.
    pub(crate) fn leave(&self) {
        let mut state = self.state.lock();
        state.gone = true;
        state.queue = VecDeque::new();
        state.bytes = 0;
        state.waker = None;
        state.ring(&self.doorbell);
    }
}

impl State {
    fn put(&mut self, frame: Bytes) {
        if self.gone || self.ended {
            return;
        }
        self.bytes += frame.len();
        self.queue.push_back(frame);
    }

    fn merge(&mut self, first: Bytes) -> Bytes {
        let fits = |total: usize, next: &Bytes| total + next.len() <= MERGE_BYTES;
        let mut total = first.len();
        let mut count = 0;
        while let Some(next) = self.queue.get(count).filter(|next| fits(total, next)) {
            total += next.len();
            count += 1;
        }
        if count == 0 {
            return first;
        }
        let mut all = BytesMut::with_capacity(total);
        all.extend_from_slice(&first);
        self.queue
            .drain(..count)
            .for_each(|next| all.extend_from_slice(&next));
        all.freeze()
    }

    /// Rings once until answered, so that a bell holds at most one entry for each subscriber.
    fn ring(&mut self, doorbell: &Doorbell) {
        if let Some(key) = self.key.filter(|_| !self.rung) {
            self.rung = true;
            doorbell.ring(key);
        }
    }
}

/// Where a shard learns which of its subscribers' sinks moved on or went away.
#[derive(Debug, Default)]
pub(crate) struct Doorbell {
    keys: Mutex<Vec<Key>>,
    notify: Notify,
}

impl Doorbell {
    fn ring(&self, key: Key) {
        self.keys.lock().push(key);
        self.notify.notify_one();
    }

    /// Waits for the bell. Cancel safe.
    pub(crate) async fn rung(&self) {
        self.notify.notified().await;
    }

    pub(crate) fn take(&self) -> Vec<Key> {
        std::mem::take(&mut *self.keys.lock())
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    fn key() -> Key {
        Key { slot: 0, id: 1 }
    }

    #[tokio::test]
    async fn a_full_outbox_says_so_and_rings_when_drained() {
        let doorbell = Arc::new(Doorbell::default());
        let outbox = Outbox::new(doorbell.clone());
        assert!(outbox.register(key()));
        assert!(
            outbox.push(&Bytes::from(vec![b'x'; 100]), 10),
            "alone, anything fits"
        );
        assert!(!outbox.push(&Bytes::from_static(b"y"), 10));
        assert!(!outbox.want(5));
        assert!(doorbell.take().is_empty());
        let piece = poll_fn(|cx| outbox.poll_take(cx)).await;
        assert_eq!(piece.map(|piece| piece.len()), Some(100));
        assert_eq!(doorbell.take(), [key()]);
        assert!(!outbox.answer());
        assert!(outbox.want(5));
    }

    #[tokio::test]
    async fn small_frames_leave_as_one_piece_in_order() {
        let outbox = Outbox::new(Arc::new(Doorbell::default()));
        for frame in ["a", "b", "c"] {
            assert!(outbox.push(&Bytes::from_static(frame.as_bytes()), 10));
        }
        outbox.end();
        outbox.force(Bytes::from_static(b"late"));
        assert_eq!(
            poll_fn(|cx| outbox.poll_take(cx)).await,
            Some(Bytes::from_static(b"abc"))
        );
        assert_eq!(poll_fn(|cx| outbox.poll_take(cx)).await, None);
    }

    #[tokio::test]
    async fn leaving_rings_once_and_frees_what_waits() {
        let doorbell = Arc::new(Doorbell::default());
        let outbox = Outbox::new(doorbell.clone());
        outbox.register(key());
        outbox.push(&Bytes::from_static(b"a"), 10);
        outbox.leave();
        outbox.leave();
        assert_eq!(outbox.level().bytes, 0);
        assert_eq!(doorbell.take(), [key()]);
        assert!(outbox.answer());
    }
}
