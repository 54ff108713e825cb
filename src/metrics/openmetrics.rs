//! The same metrics in OpenMetrics 1.0, which Prometheus prefers.
//!
//! A counter's family has no `_total`, there is an end marker, and there are no empty lines
//! (<https://prometheus.io/docs/specs/om/open_metrics_spec/>). The bounds of buckets stay as they are written: another
//! spelling would make another series for a scraper that changes from one format to the other.

/// The Content-Type of OpenMetrics.
pub(crate) const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// The Content-Type of the text format.
pub(crate) const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Converts the text format to OpenMetrics.
#[must_use]
pub(crate) fn openmetrics(text: &str) -> String {
    let mut open = String::with_capacity(text.len() + 6);
    for line in text.lines().filter(|line| !line.is_empty()) {
        let described = ["# HELP ", "# TYPE "]
            .iter()
            .find_map(|word| Some((word, line.strip_prefix(word)?.split_once(' ')?)));
        match described {
            Some((word, (name, rest))) => {
                let family = name.strip_suffix("_total").unwrap_or(name);
                let rest = match rest {
                    // Samples of a counter would need the suffix.
                    "counter" if family == name => "unknown",
                    rest => rest,
                };
                // Quotes are escaped in help, too.
                open.extend([word, family, " ", &rest.replace('"', "\\\"")]);
            }
            None => open.push_str(line),
        }
        open.push('\n');
    }
    open.push_str("# EOF\n");
    open
}

/// Whether an Accept header (RFC 9110 §12.5.1) prefers OpenMetrics.
#[must_use]
pub(crate) fn prefers_openmetrics(accept: &str) -> bool {
    let mut best = [0.0_f32; 2];
    for range in accept.split(',') {
        let mut parts = range.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        let (mut quality, mut is_ours) = (1.0, true);
        for (name, value) in parts.filter_map(|part| part.split_once('=')) {
            match name {
                "q" => quality = value.parse().unwrap_or(0.0),
                "version" => is_ours = value.trim_matches('"') == "1.0.0",
                _ => {}
            }
        }
        let kind = match media {
            "application/openmetrics-text" if is_ours => 0,
            "text/plain" | "text/*" | "*/*" => 1,
            _ => continue,
        };
        best[kind] = f32::max(best[kind], quality);
    }
    best[0] > 0.0 && best[0] >= best[1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_becomes_openmetrics() {
        let text = "# HELP a_total Of \"a\".\n# TYPE a_total counter\na_total{x=\"y\"} 1\n\n# TYPE odd counter\nodd 2\n\n\
                    # TYPE h histogram\nh_bucket{le=\"+Inf\"} 1\nh_sum 0.5\nh_count 1\n";
        let expected = "# HELP a Of \\\"a\\\".\n# TYPE a counter\na_total{x=\"y\"} 1\n# TYPE odd unknown\nodd 2\n\
                        # TYPE h histogram\nh_bucket{le=\"+Inf\"} 1\nh_sum 0.5\nh_count 1\n# EOF\n";
        assert_eq!(openmetrics(text), expected);
    }

    #[test]
    fn who_prefers_it_gets_it() {
        for (accept, expected) in [
            ("", false),
            ("*/*", false),
            ("text/plain;version=0.0.4", false),
            ("application/openmetrics-text", true),
            // Prometheus 2.
            (
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                 text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                true,
            ),
            ("application/openmetrics-text; version=0.0.1", false),
            ("application/openmetrics-text;q=0.1, text/plain", false),
            ("application/openmetrics-text;q=0", false),
            ("application/openmetrics-text;q=rubbish,,;=", false),
        ] {
            assert_eq!(prefers_openmetrics(accept), expected, "{accept}");
        }
    }
}
