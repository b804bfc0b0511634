//! The `Accept` header (RFC 9110, section 12.5.1).

use http::{HeaderMap, header};

use crate::problem::Refusal;

/// Refuses a client whose `Accept` header excludes `offered`.
pub(crate) fn require(headers: &HeaderMap, offered: &'static str) -> Result<(), Refusal> {
    let mut lines = headers.get_all(header::ACCEPT).iter().peekable();
    if lines.peek().is_none() {
        return Ok(());
    }
    let texts: Vec<_> = lines
        .map(|line| String::from_utf8_lossy(line.as_bytes()))
        .collect();
    let ranges = texts.iter().flat_map(|line| line.split(',')).map(str::trim);
    let main = offered.split('/').next().unwrap_or_default();
    // The most specific range that fits decides.
    let mut best: Option<(u8, bool)> = None;
    for range in ranges.filter(|range| !range.is_empty()) {
        let mut parts = range.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let fit = match name.split_once('/') {
            _ if name.eq_ignore_ascii_case(offered) => 3,
            Some((kind, "*")) if kind.eq_ignore_ascii_case(main) => 2,
            Some(("*", "*")) => 1,
            _ => continue,
        };
        let wanted = !parts.any(is_zero_weight);
        if best.is_none_or(|(held, _)| fit > held) {
            best = Some((fit, wanted));
        }
    }
    // An empty header excludes nothing.
    let empty = texts.iter().all(|line| line.trim().is_empty());
    match best {
        Some((_, true)) => Ok(()),
        None if empty => Ok(()),
        _ => Err(Refusal::NotAcceptable { offered }),
    }
}

fn is_zero_weight(parameter: &str) -> bool {
    let Some((name, weight)) = parameter.split_once('=') else {
        return false;
    };
    name.trim().eq_ignore_ascii_case("q") && weight.trim().parse::<f32>() == Ok(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn takes(accept: &[&str]) -> bool {
        let mut headers = HeaderMap::new();
        for line in accept {
            headers.append(header::ACCEPT, line.parse().unwrap());
        }
        require(&headers, "text/event-stream").is_ok()
    }

    #[test]
    fn only_an_exclusion_is_refused() {
        for good in [
            &[][..],
            &[""],
            &["*/*"],
            &["text/*"],
            &["text/event-stream"],
            &["TEXT/Event-Stream;q=0.5"],
            &["application/json, text/event-stream"],
            &["application/json", "*/*;q=0.1"],
            &["text/event-stream, */*;q=0"],
            &["text/html, , */*"],
        ] {
            assert!(takes(good), "{good:?}");
        }
        for bad in [
            &["application/json"][..],
            &["text/event-stream;q=0"],
            &["*/*, text/event-stream; q=0.0"],
            &["text/plain", "image/*"],
            &["nonsense"],
        ] {
            assert!(!takes(bad), "{bad:?}");
        }
    }
}
