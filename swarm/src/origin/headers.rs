//! The response headers that matter, read as pure functions over untrusted text.

use std::time::Duration;

use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_RANGE, LINK, RETRY_AFTER};

/// Longest wait that is believed; the hub's windows are five minutes.
const MAX_WAIT_SECONDS: u64 = 3600;

/// A header's text, if it is there once and readable.
pub(super) fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Whether the body is compressed although `identity` was asked for.
pub(super) fn is_encoded(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_ENCODING)
        .is_some_and(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity"))
}

/// `Content-Range: bytes first-last/total` as (first, last, total). A total of `*` does not do: it is what tells that
/// the file is the one that was listed.
pub(super) fn content_range(headers: &HeaderMap) -> Option<(u64, u64, u64)> {
    let value = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    let (unit, range) = value.trim().split_once(' ')?;
    let (range, total) = range.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let range = (number(first)?, number(last)?, number(total)?);
    unit.eq_ignore_ascii_case("bytes").then_some(range)
}

/// Digits only: `u64::from_str` would take a sign.
fn number(text: &str) -> Option<u64> {
    let text = text.trim();
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())?
}

/// How long to leave a hub alone that answered 429: a second more than `RateLimit` says when its quota is used up,
/// else a second more than `Retry-After`.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = text(headers, "ratelimit")
        .and_then(exhausted_for)
        .or_else(|| number(headers.get(RETRY_AFTER)?.to_str().ok()?))?;
    Some(Duration::from_secs(seconds.min(MAX_WAIT_SECONDS) + 1))
}

/// The seconds to the next window in `"resolvers";r=0;t=55`, if nothing remains in this one.
fn exhausted_for(rate_limit: &str) -> Option<u64> {
    rate_limit
        .split(',')
        .filter_map(|policy| {
            let parameter = |name: &str| {
                policy
                    .split(';')
                    .filter_map(|part| part.split_once('='))
                    .find(|(key, _)| key.trim() == name)
                    .and_then(|(_, value)| number(value))
            };
            (parameter("r")? == 0).then(|| parameter("t"))?
        })
        .max()
}

/// The target of `Link: <target>; rel="next"`.
pub(super) fn next_page(headers: &HeaderMap) -> Option<String> {
    headers
        .get_all(LINK)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .find_map(next_link)
}

fn next_link(mut value: &str) -> Option<String> {
    // Targets may hold commas and semicolons, so they are found by their angle brackets.
    while let Some((_, rest)) = value.split_once('<') {
        let (target, rest) = rest.split_once('>')?;
        let (parameters, following) = rest
            .find(",<")
            .or_else(|| rest.find(", <"))
            .map_or((rest, ""), |comma| rest.split_at(comma));
        let is_next = parameters.split(';').any(|parameter| {
            parameter.split_once('=').is_some_and(|(key, value)| {
                key.trim().eq_ignore_ascii_case("rel")
                    && value
                        .trim()
                        .trim_matches('"')
                        .split_ascii_whitespace()
                        .any(|relation| relation.eq_ignore_ascii_case("next"))
            })
        });
        if is_next {
            return Some(target.to_owned());
        }
        value = following;
    }
    None
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn with(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(
            http::HeaderName::from_static(name),
            HeaderValue::from_str(value).unwrap(),
        )])
    }

    #[test]
    fn content_ranges() {
        let range = |value: &str| content_range(&with("content-range", value));
        assert_eq!(range("bytes 0-9/100"), Some((0, 9, 100)));
        assert_eq!(range("Bytes 5-5/6"), Some((5, 5, 6)));
        for bad in [
            "bytes 0-9/*",
            "bytes */100",
            "items 0-9/100",
            "bytes +0-9/100",
            "bytes 0-9",
            "",
            "bytes -/",
        ] {
            assert_eq!(range(bad), None, "{bad}");
        }
    }

    #[test]
    fn waits() {
        let wait = |name, value: &str| retry_after(&with(name, value)).map(|wait| wait.as_secs());
        assert_eq!(wait("ratelimit", "\"resolvers\";r=0;t=55"), Some(56));
        assert_eq!(
            wait("ratelimit", "\"api\";r=10;t=9, \"resolvers\"; r=0; t=55"),
            Some(56)
        );
        assert_eq!(wait("ratelimit", "\"resolvers\";r=7;t=55"), None);
        assert_eq!(wait("retry-after", "7"), Some(8));
        assert_eq!(wait("retry-after", "Wed, 21 Oct 2026 07:28:00 GMT"), None);
        assert_eq!(wait("retry-after", "99999999999"), Some(3601));
        let mut both = with("ratelimit", "\"resolvers\";r=0;t=3");
        both.extend(with("retry-after", "30"));
        assert_eq!(retry_after(&both).unwrap().as_secs(), 4);
    }

    #[test]
    fn next_pages() {
        let next = |value: &str| next_page(&with("link", value));
        let url = "https://hub/api/models/a/tree/main?recursive=true&cursor=x,y;z";
        assert_eq!(
            next(&format!("<{url}>; rel=\"next\"")).as_deref(),
            Some(url)
        );
        assert_eq!(next(&format!("<{url}>; rel=next")).as_deref(), Some(url));
        assert_eq!(
            next(&format!(
                "<https://hub/prev>; rel=\"prev\", <{url}>; rel=\"next\""
            ))
            .as_deref(),
            Some(url)
        );
        assert_eq!(next("<https://hub/auth>; rel=\"xet-auth\""), None);
        assert_eq!(next("no link at all"), None);
    }

    #[test]
    fn compressed_bodies_are_noticed() {
        assert!(is_encoded(&with("content-encoding", "gzip")));
        assert!(!is_encoded(&with("content-encoding", "Identity")));
        assert!(!is_encoded(&HeaderMap::new()));
    }

    proptest! {
        #[test]
        fn anything_may_stand_in_a_header(value in "[ -~]{0,60}") {
            for name in ["content-range", "ratelimit", "retry-after", "link"] {
                let headers = with(name, &value);
                let _ = (content_range(&headers), retry_after(&headers), next_page(&headers));
            }
        }

        #[test]
        fn ranges_are_read_as_written(first: u64, last: u64, total: u64) {
            prop_assert_eq!(content_range(&with("content-range", &format!("bytes {first}-{last}/{total}"))), Some((first, last, total)));
        }
    }
}
