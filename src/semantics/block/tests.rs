//! What is written comes back, and nothing else does.

use proptest::prelude::*;

use super::*;

fn block(fields: &HeaderMap) -> Bytes {
    let mut out = Vec::new();
    write(fields, &mut out);
    out.into()
}

fn lines(map: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    map.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect()
}

fn map(fields: &[(&str, &[u8])]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_bytes(value).unwrap());
    }
    map
}

#[test]
fn each_known_name_has_its_own_number() {
    for (at, name) in KNOWN.iter().enumerate() {
        assert_eq!(usize::from(number(name)), at + 1, "{name}");
    }
    assert!(KNOWN.len() <= 255);
    // Written into values that outlive the binary: these may never change.
    assert_eq!(KNOWN.len(), 143);
    assert_eq!((number(&header::ETAG), number(&header::X_XSS_PROTECTION)), (34, 81));
    assert_eq!(number(&HeaderName::from_static("x-version")), 143);
}

#[test]
fn lines_are_found_by_name() {
    let fields = map(&[
        ("link", b"<a>"),
        ("x-own", b""),
        ("etag", b"\"1\""),
        ("link", b"<b>"),
        ("x-own", b"2"),
        ("x-ownn", b"3"),
    ]);
    let whole = block(&fields);
    let found = Fields::new(&whole, 0..whole.len());
    let own = HeaderName::from_static("x-own");
    assert_eq!(found.all(&header::LINK).collect::<Vec<_>>(), [b"<a>", b"<b>"]);
    assert_eq!(found.all(&own).collect::<Vec<_>>(), [&b""[..], b"2"]);
    assert_eq!(found.lines(&own).count(), 2);
    assert_eq!(found.get(&header::ETAG), Some(&b"\"1\""[..]));
    assert_eq!((found.sole(&header::ETAG), found.sole(&own)), (Some(&b"\"1\""[..]), None));
    assert!(!found.contains(&header::DATE) && found.contains(&own));
    assert_eq!(found.len(), 6);
    assert_eq!(lines(&found.to_map(3)), lines(&fields));
    let text: usize = fields.iter().map(|(n, v)| n.as_str().len() + v.len()).sum();
    assert_eq!(found.text_len(), text);
}

#[test]
fn values_are_not_copied() {
    let whole = block(&map(&[("x-own", b"value")]));
    let value = &Fields::new(&whole, 0..whole.len()).to_map(0)["x-own"];
    assert!(whole.as_ptr_range().contains(&value.as_bytes().as_ptr()));
}

#[test]
fn what_no_field_can_be_is_no_block() {
    let good = block(&map(&[("x-own", b"v"), ("etag", b"1")]));
    assert_eq!(check(&good), Some(good.len()));
    assert_eq!(check(&[&good[..], b"body"].concat()), Some(good.len()), "what follows is not the block's");
    let etag = number(&header::ETAG);
    let table: [(&[u8], &str); 12] = [
        (&[], "nothing"),
        (&[0], "half a count"),
        (&[1, 0], "fewer fields than counted"),
        (&[1, 0, etag], "no value"),
        (&[1, 0, etag, 2, b'x'], "a cut value"),
        (&[1, 0, etag, 1, b'\n'], "a line end"),
        (&[1, 0, etag, 1, 0x7f], "a control"),
        (&[1, 0, 255, 0], "a number without a name"),
        (&[1, 0, 0, 1, b' ', 0], "a name that is none"),
        (&[1, 0, 0, 1, b'X', 0], "upper case"),
        (&[1, 0, 0, 4, b'e', b't', b'a', b'g', 0], "a known name that is spelt out"),
        (&[1, 0, etag, 0x80, 0], "a length in two bytes that has room in one"),
    ];
    for (bytes, why) in table {
        assert_eq!(check(bytes), None, "{why}");
    }
    assert_eq!(check(&[1, 0, 0, 0, 0]), None, "an empty name");
    assert_eq!(check(&[1, 0, etag, 0xff, 0xff, 0xff, 0xff, 0xff]), None, "a length without end");
}

#[test]
fn a_value_is_what_a_header_value_may_be() {
    // Two neighbours in any place of a word, at its border, and behind the last whole word.
    for at in 0..16 {
        for pair in 0..=u16::MAX {
            let mut value = *b"an ordinary value";
            value[at..at + 2].copy_from_slice(&pair.to_be_bytes());
            assert_eq!(is_value(&value), HeaderValue::from_bytes(&value).is_ok(), "{value:?}");
        }
    }
    assert!(is_value(b""));
}

#[test]
fn long_values_have_their_lengths() {
    for length in [0, 1, 127, 128, 16_383, 16_384, 70_000] {
        let fields = map(&[("x-long", &vec![b'x'; length])]);
        let whole = block(&fields);
        assert_eq!(check(&whole), Some(whole.len()), "{length}");
        assert_eq!(lines(&Fields::new(&whole, 0..whole.len()).to_map(0)), lines(&fields), "{length}");
    }
}

proptest! {
    #[test]
    fn round_trip(
        fields in prop::collection::vec(
            (
                prop_oneof![(0..KNOWN.len()).prop_map(|n| KNOWN[n].to_string()), "[a-z][a-z0-9-]{0,70}"],
                prop::collection::vec(prop_oneof![0x20u8..0x7f, 0x80u8..=0xff, Just(b'\t')], 0..200),
            ),
            0..20,
        ),
        rest in prop::collection::vec(any::<u8>(), 0..9),
    ) {
        let fields = map(&fields.iter().map(|(n, v)| (n.as_str(), v.as_slice())).collect::<Vec<_>>());
        let block = block(&fields);
        let whole = Bytes::from([&block[..], &rest].concat());
        prop_assert_eq!(check(&whole), Some(block.len()));
        let found = Fields::new(&whole, 0..block.len());
        prop_assert_eq!(lines(&found.to_map(2)), lines(&fields));
        for name in fields.keys() {
            let expected: Vec<_> = fields.get_all(name).iter().map(HeaderValue::as_bytes).collect();
            prop_assert_eq!(found.all(name).collect::<Vec<_>>(), expected.clone());
            prop_assert_eq!(found.lines(name).collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn garbage_that_passes_is_written_so_again(garbage in prop::collection::vec(any::<u8>(), 0..60)) {
        let whole = Bytes::from(garbage);
        let fields = Fields::new(&whole, 0..whole.len());
        let _ = (fields.to_map(0), fields.text_len(), fields.get(&header::ETAG));
        if let Some(length) = check(&whole) {
            let fields = Fields::new(&whole, 0..length);
            let map = fields.to_map(0);
            prop_assert_eq!(map.len(), fields.len());
            // But for lines of one name that lay apart: a map holds them together.
            let mut again = Vec::new();
            write(&map, &mut again);
            prop_assert_eq!(again.len(), length);
        }
    }
}
