//! Certificates that are renewed in their files, as cert-manager and certbot do.

use std::{convert::Infallible, time::Duration};

use fanfare_edge::Reloader;
use tokio::time::{MissedTickBehavior, interval};

use crate::config::Tls;

/// Looks at the files of the public listener's TLS now and then, and takes what is new in them.
/// Cancel safe.
pub(crate) async fn renew(tls: Option<Tls>, edge: Reloader) -> Infallible {
    let Some((mut tls, every)) = tls.and_then(|tls| Some((tls.clone(), tls.reload_interval.0?)))
    else {
        return std::future::pending().await;
    };
    let every = every.0.max(Duration::from_secs(1));
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first one is at once: the files have just been read.
    ticks.tick().await;
    // What is wrong is said once, not every minute.
    let mut told = String::new();
    loop {
        ticks.tick().await;
        let before = tls.clone();
        let wrong = match look(&mut tls, &edge) {
            Ok(false) => String::new(),
            Ok(true) => {
                tracing::info!("the certificate of the public listener is renewed");
                String::new()
            }
            Err(why) => {
                tls = before;
                why
            }
        };
        if wrong != told && !wrong.is_empty() {
            tracing::error!("the certificate from before stays: {wrong}");
        }
        told = wrong;
    }
}

fn look(tls: &mut Tls, edge: &Reloader) -> Result<bool, String> {
    let differs = tls.read().map_err(|unread| {
        let each = unread.into_iter().map(|(key, why)| format!("{key}: {why}"));
        each.collect::<Vec<_>>().join("; ")
    })?;
    if !differs {
        return Ok(false);
    }
    // The two files are not changed in one step: a pair that does not fit is looked at again.
    edge.renew(&tls.to_room())
        .map_err(|error| error.to_string())?;
    Ok(true)
}
