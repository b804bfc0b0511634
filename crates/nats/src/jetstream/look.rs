//! A look at a stream: whether it has what this node knows that it had.

use std::{sync::Arc, time::SystemTime};

use super::{
    acked::Acked,
    log::{Log, Standing},
    mark::{Mark, Text},
    place::{Place, born},
    stream::Info,
    wire::Trouble,
};

/// How many messages are looked at to find the last one that survived.
const SEARCHED: u64 = 4096;

/// What was found.
pub(super) struct Look {
    pub(super) info: Arc<Info>,
    /// The newest mark; if there is a loss, the one that tells it.
    pub(super) mark: Option<Mark>,
    /// It lost something: the last message that is as it was.
    pub(super) survived: Option<Place>,
    /// What was acknowledged before this one was looked at.
    serial: u64,
}

/// What this node knows of the newest message that it has taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Head {
    /// The feed will compare it.
    Comes,
    /// It has to be compared.
    Unsure,
    /// Another message stands there.
    Torn,
}

/// Looks at a stream, and sees to it that a loss is told to all nodes.
///
/// # Errors
/// Where that could not be done. It is found again.
pub(super) async fn look(log: &Arc<Log>, standing: &Standing, head: Head) -> Result<Look, Trouble> {
    let (acks, serial) = log.acks();
    let furthest = acks.iter().map(|acked| acked.place.seq).max();
    let known = standing.reached.max(furthest.unwrap_or(0));
    let (info, _) = log.stream.ends_before(known, standing.born).await?;
    let mark = log.stream.newest_mark().await?;
    let mut look = Look {
        info,
        mark,
        survived: None,
        serial,
    };
    if standing.born != Some(born(&look.info.created)) {
        log.acks_are_told(serial);
        return Ok(look);
    }
    let ends_before = |seq| look.info.state.last_seq < seq;
    let mut lost = Vec::new();
    for acked in acks {
        if ends_before(acked.place.seq) || is_another(log, acked.place).await? {
            lost.push(acked);
        }
    }
    let torn = match head {
        Head::Torn => true,
        Head::Unsure => ends_before(standing.reached) || is_another(log, standing.head).await?,
        Head::Comes => ends_before(standing.reached),
    };
    let unmarked = is_unmarked(standing.mark, mark, &look.info);
    if unmarked && !log.stream.is_believed(&look.info) {
        return Err(Trouble::Behind);
    }
    if torn || unmarked || !lost.is_empty() {
        let behind = lost.iter().map(|acked| acked.head).min();
        let survived = survivor(log, standing, &look.info, behind).await?;
        look.survived = Some(survived);
        if log.is_marked() {
            look.mark = Some(tell(log, standing, &look, survived, &lost).await?);
        }
        tracing::warn!(
            stream = %log.stream.name,
            seen = known,
            survived = survived.seq,
            "a stream lost its newest messages"
        );
    }
    Ok(look)
}

/// Looks at a stream that nobody here follows, after the link was cut.
pub(super) async fn look_aside(log: &Arc<Log>) -> Result<(), Trouble> {
    let standing = log.standing();
    let look = look(log, &standing, Head::Unsure).await?;
    let life = born(&look.info.created);
    match look.survived {
        Some(survived) if standing.began => log.begin_again(life, look.mark, survived),
        Some(_) => log.renamed(life, look.mark),
        None => log.acks_stand(look.serial),
    }
    Ok(())
}

/// Whether another message stands in its place. Where none does, limits took it.
async fn is_another(log: &Arc<Log>, place: Place) -> Result<bool, Trouble> {
    if place.check == 0 {
        return Ok(false);
    }
    let there = log.stream.message(place.seq, None).await?;
    Ok(there.is_some_and(|there| there.place.seq == place.seq && there.place != place))
}

/// Whether the mark that was taken up is lost. Limits take what is older before it.
fn is_unmarked(taken: Option<Mark>, newest: Option<Mark>, info: &Info) -> bool {
    match (taken, newest) {
        (None, _) => false,
        (Some(taken), None) => taken.seq >= info.state.first_seq,
        (Some(taken), Some(newest)) => !newest.is_same(&taken) && newest.seq <= taken.seq,
    }
}

/// The mark that tells a loss: the newest, if it was written since, else a new one.
async fn tell(
    log: &Arc<Log>,
    standing: &Standing,
    look: &Look,
    survived: Place,
    lost: &[Acked],
) -> Result<Mark, Trouble> {
    let is_told = |mark: &Mark| {
        mark.is_news_to(standing.mark.as_ref(), standing.epoch)
            && lost.iter().all(|acked| log.is_covered(acked, mark))
    };
    if let Some(mark) = look.mark.filter(is_told) {
        log.are_told(lost);
        return Ok(mark);
    }
    let text = Text::new(standing.epoch, survived);
    let mark = log
        .stream
        .mark(text, look.mark.map(|mark| mark.seq))
        .await?;
    log.acks_are_told(look.serial);
    Ok(mark)
}

/// The last message of those that this node has seen, up to `behind`, that is as it was.
async fn survivor(
    log: &Arc<Log>,
    standing: &Standing,
    info: &Info,
    behind: Option<u64>,
) -> Result<Place, Trouble> {
    let last = info.state.last_seq.min(standing.reached);
    let last = last.min(behind.unwrap_or(last));
    let from = last
        .saturating_sub(SEARCHED)
        .max(standing.ring_first)
        .max(1);
    let mut survived = Place {
        seq: from.saturating_sub(1).min(last),
        check: 0,
    };
    let mut reading = log.stream.read(from, None).await?;
    let mut next = from;
    while next <= last {
        let left = usize::try_from(last - next + 1).unwrap_or(usize::MAX);
        let entries = reading.next(left.min(512), 8 << 20).await?;
        if entries.is_empty() {
            break;
        }
        for entry in entries {
            let here = entry.place;
            next = here.seq + 1;
            if here.seq <= last && log.checked(here.seq) == Some(here.check) {
                survived = here;
            }
        }
    }
    reading.end().await;
    Ok(survived)
}

/// Writes the mark again, where limits come near it.
pub(super) async fn renew(log: &Arc<Log>) {
    let (Some(mark), true) = (log.standing().mark, log.stage.borrow().flows) else {
        return;
    };
    let Ok(info) = log.stream.newest().await else {
        return;
    };
    if log.standing().born == Some(born(&info.created)) && mark.is_old(&info, SystemTime::now()) {
        let there = Some(mark.seq).filter(|seq| *seq >= info.state.first_seq);
        // Where another node was quicker, or it cannot be done now, it is seen again.
        let _ = log.stream.mark(mark.text, there).await;
    }
}
