//! The exposition, read by a strict parser.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// `name{labels} value` samples by family, as a strict reader of either format takes them.
struct Parsed {
    samples: BTreeMap<String, f64>,
    kinds: BTreeMap<String, String>,
}

impl Parsed {
    fn get(&self, series: &str) -> f64 {
        *self.samples.get(series).unwrap_or_else(|| panic!("no {series} in {:#?}", self.samples.keys()))
    }
}

fn allowed_suffixes(kind: &str, format: Format) -> &'static [&'static str] {
    match (kind, format) {
        ("counter", Format::OpenMetrics) => &["_total"],
        ("counter" | "gauge", _) => &[""],
        ("histogram", _) => &["_bucket", "_sum", "_count"],
        other => panic!("unexpected type {other:?}"),
    }
}

fn parse_labels(text: &str) -> Vec<(String, String)> {
    let mut labels = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (name, after) = rest.split_once("=\"").expect("label without value");
        assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'), "label name {name:?}");
        let end = after.find('"').expect("unterminated label"); // none of ours holds an escape
        labels.push((name.to_owned(), after[..end].to_owned()));
        rest = &after[end + 1..];
        rest = rest.strip_prefix(',').unwrap_or(rest);
    }
    labels
}

fn parse(text: &str, format: Format) -> Parsed {
    let body = match format {
        Format::OpenMetrics => text.strip_suffix("# EOF\n").expect("must end with # EOF"),
        Format::Prometheus => text,
    };
    let mut parsed = Parsed { samples: BTreeMap::new(), kinds: BTreeMap::new() };
    let mut current: Option<(String, String)> = None;
    let mut helped = BTreeSet::new();
    for line in body.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, words) = rest.split_once(' ').expect("HELP without words");
            assert!(words.ends_with('.'), "{line}");
            assert!(helped.insert(name.to_owned()), "two HELP for {name}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("TYPE without type");
            assert!(helped.contains(name), "TYPE before HELP: {name}");
            assert!(parsed.kinds.insert(name.into(), kind.into()).is_none(), "two TYPE for {name}");
            current = Some((name.to_owned(), kind.to_owned()));
        } else {
            assert!(!line.starts_with('#') && !line.is_empty(), "stray line {line:?}");
            let (series, value) = line.rsplit_once(' ').expect("sample without value");
            let (name, labels) = match series.split_once('{') {
                Some((name, labels)) => (name, parse_labels(labels.strip_suffix('}').expect("no }"))),
                None => (series, Vec::new()),
            };
            let (family, kind) = current.as_ref().expect("sample before TYPE");
            let suffix = name.strip_prefix(family.as_str()).expect("sample outside its family");
            assert!(allowed_suffixes(kind, format).contains(&suffix), "{line} in a {kind}");
            assert_eq!(labels.iter().map(|l| &l.0).collect::<BTreeSet<_>>().len(), labels.len());
            let value: f64 = value.parse().expect("value");
            assert!(parsed.samples.insert(series.to_owned(), value).is_none(), "{series} twice");
        }
    }
    check_histograms(&parsed);
    parsed
}

/// Buckets grow, and `+Inf` equals the count.
fn check_histograms(parsed: &Parsed) {
    for (family, _) in parsed.kinds.iter().filter(|(_, kind)| *kind == "histogram") {
        let counts = parsed.samples.iter().filter_map(|(series, value)| {
            Some((series.strip_prefix(&format!("{family}_count"))?.trim_matches(['{', '}']), *value))
        });
        for (labels, count) in counts {
            let comma = if labels.is_empty() { "" } else { "," };
            let bucket = |le: &str| {
                let one = format!("{family}_bucket{{le=\"{le}\"{comma}{labels}}}");
                let other = format!("{family}_bucket{{{labels}{comma}le=\"{le}\"}}");
                *parsed.samples.get(&one).or_else(|| parsed.samples.get(&other)).expect("bucket")
            };
            let values: Vec<f64> = slab::BOUNDS.iter().map(|b| bucket(&format!("{b:?}"))).collect();
            assert!(values.is_sorted(), "{family} {labels} {values:?}");
            assert_eq!(bucket("+Inf"), count);
            assert!(values.last().is_some_and(|v| *v <= count));
        }
    }
}

fn busy() -> Metrics {
    let metrics = Metrics::new(&["books", "me"]);
    let ms = Duration::from_millis;
    metrics.request(Some(0), Outcome::Hit, 200, ms(0), 100);
    metrics.request(Some(0), Outcome::Hit, 200, ms(2), 100);
    metrics.request(Some(1), Outcome::Miss, 404, ms(400), 9);
    metrics.request(None, Outcome::Pass, 204, ms(5), 0);
    metrics.request(Some(99), Outcome::Error, 502, Duration::MAX, 1);
    metrics.upstream(Some(404), ms(390));
    metrics.upstream(None, ms(1));
    metrics.store(StoreTier::Memory, StoreOp::Get, StoreResult::Ok, Duration::from_nanos(400));
    metrics.store(StoreTier::Redis, StoreOp::Get, StoreResult::Skipped, ms(0));
    metrics.mutation_wait(Duration::from_secs(2));
    metrics.purge(3, false);
    metrics.purge(1, true);
    metrics.not_stored("no-store");
    metrics.not_stored("no-store");
    metrics.log_epoch();
    metrics.log_eviction();
    metrics.log_eviction();
    metrics.set_gauges(Gauges {
        upstream_connections: (5, 3),
        redis: Some((true, "half-open")),
        log_applied: 42,
        log: Some(LogGauges {
            end: 45,
            members: 2,
            lease_held: true,
            lease_left: Some(ms(1500)),
            owed: 1,
            open_intents: 4,
        }),
        void: vec![("lease", 0), ("purged", 7)],
        false_voids: 2,
        enabled: true,
        config_loaded: (Timestamp(1_500), true),
        certificate: Some(CertificateGauges { not_after: Some(2_000_000_000), renewal_failed: true }),
        ..Gauges::default()
    });
    metrics
}

#[test]
fn prometheus_text_is_strictly_well_formed_and_says_what_happened() {
    let parsed = parse(&busy().render(), Format::Prometheus);
    assert_eq!(parsed.get("weir_requests_total{route=\"books\",outcome=\"hit\"}"), 2.0);
    assert_eq!(parsed.get("weir_requests_total{route=\"me\",outcome=\"hit\"}"), 0.0);
    assert_eq!(parsed.get("weir_requests_total{route=\"-\",outcome=\"error\"}"), 1.0, "unknown index");
    assert_eq!(parsed.get("weir_response_bytes_total{outcome=\"hit\"}"), 200.0);
    assert_eq!(parsed.get("weir_responses_total{class=\"4xx\"}"), 1.0);
    assert_eq!(parsed.get("weir_upstream_requests_total{result=\"failure\"}"), 1.0);
    assert_eq!(parsed.get("weir_upstream_first_byte_seconds_count"), 1.0);
    assert_eq!(parsed.get("weir_upstream_connections{state=\"busy\"}"), 2.0);
    let skipped = "weir_store_operations_total{tier=\"redis\",op=\"get\",result=\"skipped\"}";
    assert_eq!(parsed.get(skipped), 1.0);
    assert_eq!(parsed.get("weir_store_operation_seconds_count{tier=\"redis\",op=\"get\"}"), 0.0);
    assert_eq!(parsed.get("weir_purges_total{result=\"owed\"}"), 1.0);
    assert_eq!(parsed.get("weir_purge_tags_total"), 4.0);
    assert_eq!(parsed.get("weir_mutation_wait_seconds_count"), 1.0);
    assert_eq!(parsed.get("weir_mutation_wait_seconds_sum"), 2.0);
    assert_eq!(parsed.get("weir_not_stored_total{reason=\"no-store\"}"), 2.0);
    assert_eq!(parsed.get("weir_redis_breaker{state=\"half-open\"}"), 1.0);
    assert_eq!(parsed.get("weir_redis_breaker{state=\"open\"}"), 0.0);
    assert_eq!(parsed.get("weir_log_applied_sequence"), 42.0);
    assert_eq!((parsed.get("weir_log_end_sequence"), parsed.get("weir_log_lag")), (45.0, 3.0));
    assert_eq!((parsed.get("weir_log_members"), parsed.get("weir_log_lease_held")), (2.0, 1.0));
    assert_eq!(parsed.get("weir_log_lease_seconds_left"), 1.5);
    assert_eq!((parsed.get("weir_log_owed_purges"), parsed.get("weir_log_open_intents")), (1.0, 4.0));
    assert_eq!((parsed.get("weir_log_epochs_total"), parsed.get("weir_log_evictions_total")), (1.0, 2.0));
    assert_eq!(parsed.get("weir_entries_void_total{reason=\"purged\"}"), 7.0);
    assert_eq!(parsed.get("weir_false_voids_total"), 2.0);
    assert_eq!(parsed.get("weir_config_last_reload_success_timestamp_seconds"), 1.5);
    assert_eq!(parsed.get("weir_tls_certificate_expiry_timestamp_seconds"), 2e9);
    assert_eq!(parsed.get("weir_tls_certificate_renewal_failed"), 1.0);
    assert_eq!(parsed.kinds["weir_requests_total"], "counter");
}

#[test]
fn openmetrics_is_strictly_well_formed_too() {
    let parsed = parse(&busy().render_as(Format::OpenMetrics), Format::OpenMetrics);
    assert_eq!(parsed.get("weir_requests_total{route=\"books\",outcome=\"hit\"}"), 2.0);
    assert_eq!(parsed.kinds["weir_requests"], "counter");
}

#[test]
fn without_redis_nothing_is_claimed_about_it() {
    let text = Metrics::new(&[]).render();
    parse(&text, Format::Prometheus);
    assert!(!text.contains("weir_redis") && !text.contains("weir_log_members") && !text.contains("weir_tls"));
}

#[test]
fn a_lease_that_never_ends_has_no_time_left_to_show() {
    let metrics = Metrics::new(&[]);
    metrics.set_gauges(Gauges {
        log: Some(LogGauges { lease_held: true, ..LogGauges::default() }),
        ..Gauges::default()
    });
    let text = metrics.render();
    parse(&text, Format::Prometheus);
    assert!(text.contains("weir_log_lease_held 1") && !text.contains("lease_seconds_left"), "{text}");
}

#[test]
fn the_format_follows_accept() {
    let prometheus = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
    assert_eq!(Format::accepted(prometheus), Format::OpenMetrics);
    assert_eq!(Format::accepted("*/*"), Format::Prometheus);
}

#[test]
fn totals_say_who_was_spared_the_upstream() {
    let metrics = Metrics::new(&["a"]);
    assert_eq!(metrics.outcomes().hit_rate_percent(), 0.0);
    for outcome in Outcome::ALL {
        metrics.request(Some(0), outcome, 200, Duration::ZERO, 0);
    }
    metrics.request(None, Outcome::Hit, 200, Duration::ZERO, 0);
    let totals = metrics.outcomes();
    assert_eq!((totals.hits(), totals.misses(), totals.requests()), (4, 2, 9));
    assert_eq!(totals.hit_rate_percent(), 66.67);
}

#[test]
fn outcomes_count_from_every_thread() {
    let metrics = Metrics::new(&["a"]);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                (0..1000).for_each(|_| metrics.request(Some(0), Outcome::Hit, 200, Duration::ZERO, 1))
            });
        }
    });
    assert_eq!(metrics.outcomes().of(Outcome::Hit), 6000);
}
