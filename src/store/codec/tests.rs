//! Round trips, and every way a value can be wrong.

use proptest::prelude::*;

use super::*;

const KEY: CacheKey = CacheKey([5; 32]);
const MAX: u64 = 1 << 20;

fn route() -> Arc<str> {
    Arc::from("summary")
}

fn sample(body: Vec<u8>) -> Entry {
    let mut headers = HeaderMap::new();
    headers.append("etag", HeaderValue::from_static("\"v1\""));
    headers.append("link", HeaderValue::from_static("<a>"));
    headers.append("link", HeaderValue::from_static("<b>"));
    let accept = (http::header::ACCEPT, Some(HeaderValue::from_static("text/html")));
    let lifetimes =
        Lifetimes { fresh: Duration::from_secs(300), must_revalidate: true, ..Lifetimes::default() };
    let response = Unpacked {
        status: StatusCode::OK,
        headers,
        body: body.into(),
        coded: None,
        response_time: Timestamp(1_250),
        initial_age: Duration::from_millis(250),
        lifetimes,
        selecting: Selecting(vec![accept, (http::header::ACCEPT_LANGUAGE, None)]),
    };
    let stamp = Stamp { epoch: Epoch(9), seq: 4, rules: 2 };
    let entry = Entry::new(KEY, &route(), stamp, vec![Tag(1), Tag(u64::MAX)], response.pack());
    entry.last_live.store(3, std::sync::atomic::Ordering::Relaxed);
    entry
}

/// Everything that is kept, as one comparable value.
fn seen(entry: &Entry) -> String {
    format!("{:?} {:?} {:?} {:?}", entry.key, entry.stamp(), entry.tags, entry.response)
}

fn back(value: Vec<u8>) -> Result<Slot, Undecodable> {
    decode(value.into(), &KEY, &route(), MAX)
}

fn reseal(mut value: Vec<u8>) -> Vec<u8> {
    let sum = checksum(&value);
    value[CHECKSUM].copy_from_slice(&sum);
    value
}

#[test]
fn an_entry_comes_back_as_it_was() {
    let entry = sample(b"hello".to_vec());
    let Ok(Slot::Entry(again)) = back(encode_entry(&entry).unwrap()) else { panic!("no entry") };
    assert_eq!(seen(&again), seen(&entry));
    assert_eq!(again.last_live.load(std::sync::atomic::Ordering::Relaxed), 0, "liveness is proved anew");
}

#[test]
fn an_uncompressed_body_is_not_copied() {
    let value = Bytes::from(encode_entry(&sample(b"hello".to_vec())).unwrap());
    let Ok(Slot::Entry(entry)) = decode(value.clone(), &KEY, &route(), MAX) else { panic!("no entry") };
    assert!(value.as_ptr_range().contains(&entry.response.body_bytes().as_ptr()));
}

#[test]
fn bodies_are_compressed_when_it_pays() {
    let text = b"{\"a\":1},".repeat(1000);
    let value = encode_entry(&sample(text.clone())).unwrap();
    assert!(value.len() < text.len() / 4);
    let Ok(Slot::Entry(entry)) = back(value) else { panic!("no entry") };
    assert_eq!(entry.response.body(), text);

    let small = encode_entry(&sample(vec![b'a'; COMPRESS_FROM - 1])).unwrap();
    assert_eq!(small[5] & FLAG_ZSTD, 0, "too small");
    let mut encoded = sample(text);
    encoded
        .response
        .change(|parts| drop(parts.headers.insert("content-encoding", HeaderValue::from_static("br"))));
    assert_eq!(encode_entry(&encoded).unwrap()[5] & FLAG_ZSTD, 0, "encoded already");
    let mut x = 1u64;
    let noise = std::iter::repeat_with(|| {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (x >> 56) as u8
    });
    let noise = encode_entry(&sample(noise.take(4096).collect())).unwrap();
    assert_eq!(noise[5] & FLAG_ZSTD, 0, "does not shrink");
}

#[test]
fn every_way_of_being_wrong_has_its_name() {
    let good = encode_entry(&sample(b"hello".to_vec())).unwrap();
    assert_eq!(back(vec![]).unwrap_err(), Undecodable::Foreign);
    assert_eq!(back(b"hello".repeat(100)).unwrap_err(), Undecodable::Foreign);
    let mut other = good.clone();
    other[4] = VERSION + 1;
    assert_eq!(back(reseal(other)).unwrap_err(), Undecodable::Version);
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    assert_eq!(back(flipped).unwrap_err(), Undecodable::Checksum);
    assert_eq!(
        decode(good.clone().into(), &CacheKey([6; 32]), &route(), MAX).unwrap_err(),
        Undecodable::OtherKey
    );
    let cut = good[..good.len() - 1].to_vec();
    assert_eq!(back(reseal(cut)).unwrap_err(), Undecodable::Malformed);
    assert_eq!(decode(good.into(), &KEY, &route(), 4).unwrap_err(), Undecodable::Malformed, "over max_body");
}

#[test]
fn what_was_coded_here_is_kept_as_it_is() {
    for coding in Coding::ALL {
        let mut entry = sample(vec![b'a'; 4096]);
        entry.response.set_coded(Some(Coded { coding, length: 10_000 }));
        let value = encode_entry(&entry).unwrap();
        assert_eq!(value[5] & FLAG_ZSTD, 0, "not coded twice");
        let Slot::Entry(read) = decode(value.clone().into(), &KEY, &route(), 10_000).unwrap() else {
            panic!("an index")
        };
        assert_eq!(read.response.coded(), entry.response.coded());
        assert_eq!(read.response.body(), entry.response.body());
        let small = decode(value.into(), &KEY, &route(), 9_999);
        assert_eq!(small.unwrap_err(), Undecodable::Malformed, "would decode to more than the limit");
    }
}

#[test]
fn decompression_stops_at_the_recorded_size() {
    // Behind its fields in one piece, and apart from them.
    for size in [4_000u64, 100_000] {
        let value = encode_entry(&sample(vec![b'a'; size as usize])).unwrap();
        assert_eq!(value[5] & FLAG_ZSTD, FLAG_ZSTD);
        let at = value.windows(8).rposition(|w| w == size.to_le_bytes()).unwrap();
        for wrong in [0, 1, size / 2, size - 1, size + 1, size * 2] {
            let mut value = value.clone();
            value[at..at + 8].copy_from_slice(&wrong.to_le_bytes());
            assert_eq!(back(reseal(value)).unwrap_err(), Undecodable::Malformed, "{wrong} for {size}");
        }
    }
}

#[test]
fn either_level_comes_back_and_the_large_pay_for_the_smaller_size() {
    let text = |size: usize| {
        let words = (0u64..).map(|n| format!("{:x} ", n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 44));
        words.flat_map(String::into_bytes).take(size).collect::<Vec<u8>>()
    };
    let both = b"a text that says itself again, ".repeat(60);
    for size in [COMPRESS_FROM, JOINED, JOINED + 1, 200_000] {
        let body = [&both[..], &text(size)].concat()[..size].to_vec();
        let value = encode_entry(&sample(body.clone())).unwrap();
        assert_eq!(value[5] & FLAG_ZSTD, FLAG_ZSTD, "{size}");
        let level = if size <= JOINED { SMALL } else { LARGE };
        assert!(value.ends_with(&Compressor::new(level).unwrap().compress(&body).unwrap()), "{size}");
        let Ok(Slot::Entry(entry)) = back(value) else { panic!("no entry") };
        assert_eq!(entry.response.body(), body);
    }
}

#[test]
fn parts_too_large_for_the_format_are_refused() {
    let mut entry = sample(vec![]);
    let huge = HeaderValue::from_bytes(&vec![b'x'; (MAX_OVERHEAD + 1) as usize]).unwrap();
    entry.response.change(|parts| drop(parts.headers.insert("x-huge", huge)));
    assert!(encode_entry(&entry).is_none());
    let mut entry = sample(vec![]);
    entry.tags = vec![Tag(1); 70_000].into();
    assert!(encode_entry(&entry).is_none());
}

#[test]
fn a_head_can_be_read_alone() {
    let entry = sample(vec![b'a'; 10_000]);
    let value = encode_entry(&entry).unwrap();
    let head = read_head(&value[..FIXED + 16]).unwrap();
    assert_eq!(head.stamp, entry.stamp());
    assert_eq!(head.tags, entry.tags.to_vec());
    assert_eq!(head.gone_at, entry.gone_at());
    assert!(!head.index);
    assert_eq!(read_head(&value[..FIXED + 9]).unwrap().tags, [Tag(1)], "as far as the bytes reach");
    assert_eq!(read_head(&value[..FIXED - 1]), Err(Undecodable::Foreign));
}

#[test]
fn an_index_comes_back_as_it_was() {
    let mut index = VaryIndex::of(&sample(vec![]));
    index.fields.push(vec![]);
    index.variants.push(CacheKey([8; 32]));
    let value = encode_index(&index).unwrap();
    assert!(read_head(&value).unwrap().index);
    let Ok(Slot::Index(again)) = back(value) else { panic!("no index") };
    assert_eq!(*again, index);
}

fn durations() -> impl Strategy<Value = Duration> {
    (0..=MAX_SECONDS, 0u32..1_000_000_000).prop_map(|(s, n)| Duration::new(s, n))
}

fn fields() -> impl Strategy<Value = Vec<(HeaderName, HeaderValue)>> {
    prop::collection::vec(("[a-z][a-z0-9-]{0,12}", prop::collection::vec(0x20u8..0x7f, 0..30)), 0..8)
        .prop_map(|v| {
            v.into_iter().map(|(n, v)| (n.parse().unwrap(), HeaderValue::from_bytes(&v).unwrap())).collect()
        })
}

prop_compose! {
    fn entries()(
        epoch in any::<u128>(), seq in any::<u64>(), rules in any::<u64>(),
        tags in prop::collection::vec(any::<u64>().prop_map(Tag), 0..300),
        status in 100u16..1000,
        fields in fields(), selecting in fields(),
        body in prop_oneof![prop::collection::vec(any::<u8>(), 0..3000), prop::collection::vec(0u8..3, 0..3000)],
        received in any::<u64>(),
        windows in (durations(), durations(), durations(), durations(), durations()),
        flags in any::<(bool, bool)>(),
    ) -> Entry {
        let mut entry = sample(body);
        entry.restamp(Stamp { epoch: Epoch(epoch), seq, rules });
        entry.tags = tags.into();
        let mut r = entry.response.unpack();
        r.status = StatusCode::from_u16(status).unwrap();
        r.headers = fields.into_iter().collect();
        r.selecting = Selecting(selecting.into_iter().map(|(n, v)| (n, (!v.is_empty()).then_some(v))).collect());
        r.response_time = Timestamp(received);
        r.initial_age = windows.0;
        r.lifetimes = Lifetimes {
            fresh: windows.1, stale_while_revalidate: windows.2, stale_if_error: windows.3, keep: windows.4,
            always_validate: flags.0, must_revalidate: flags.1,
        };
        entry.response = r.pack();
        entry
    }
}

proptest! {
    #[test]
    fn round_trip(entry in entries()) {
        let Ok(Slot::Entry(again)) = back(encode_entry(&entry).unwrap()) else { panic!("no entry") };
        prop_assert_eq!(seen(&again), seen(&entry));
        prop_assert_eq!(again.gone_at(), entry.gone_at());
    }

    #[test]
    fn garbage_is_never_an_entry(garbage in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(back(garbage).is_err());
    }

    #[test]
    fn a_flipped_bit_is_never_another_entry(entry in entries(), at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let mut value = encode_entry(&entry).unwrap();
        let at = at.index(value.len());
        value[at] ^= 1 << bit;
        prop_assert!(back(value).is_err());
    }

    /// Whoever forges the checksum too still meets bounds, and no panic.
    #[test]
    fn forged_values_do_not_panic(entry in entries(), edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8), cut in any::<prop::sample::Index>()) {
        let mut value = encode_entry(&entry).unwrap();
        value.truncate(value.len() - cut.index(value.len()) / 8);
        for (at, byte) in edits {
            let at = at.index(value.len());
            value[at] = byte;
        }
        if value.len() >= FIXED {
            value = reseal(value);
        }
        if let Ok(Slot::Entry(entry)) = back(value) {
            entry.response.is_gone(Timestamp(u64::MAX));
            entry.gone_at();
            entry.weight();
        }
    }
}
