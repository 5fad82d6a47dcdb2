//! What holds for all values.

use proptest::prelude::*;

use super::*;

fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ab*?%|@:]{1,3}",
        "\\PC{1,4}",
        Just("*".to_owned()),
        Just("?".to_owned()),
        Just("%2A".to_owned())
    ]
}

proptest! {
    #[test]
    fn a_purge_hits_its_own_value_alone(mine in value(), other in value()) {
        let list = route("list", SubjectSpec::None, &["s:{response.v}"]);
        let rules = vec![rule("PUT /x/{id}", &["s:{request.v}"])];
        let plan = plan(from_ref(&list), rules);
        let entry = call("/l", "").response(json!({"v": &mine})).entry(&plan, &list);
        let absent = call("/l", "").response(json!({})).entry(&plan, &list);
        let purge = |request: Option<Value>| Call { request, ..call("/x/1", "") }.purge(&plan, "PUT");
        let of = |value: Value| purge(Some(json!({ "v": value })));
        let unclear = [purge(None), purge(Some(json!({}))), of(Value::Null)];
        let (own, foreign, both) = (of(json!(&mine)), of(json!(&other)), of(json!([&other, &mine])));
        prop_assert!(hit(&entry, &own));
        prop_assert_eq!(hit(&entry, &foreign), mine == other);
        prop_assert!(hit(&entry, &both));
        prop_assert!(unclear.iter().all(|purge| hit(&entry, purge) && hit(&absent, purge)));
        prop_assert!(hit(&absent, &foreign));
        // And so does an operator's, however the value is spelt.
        let escaped: String = mine.bytes().map(|b| format!("%{b:02x}")).collect();
        let typed = plan.named(&SECRET, &[format!("s:{escaped}")], &[], &[], &[]).unwrap();
        prop_assert!(hit(&entry, &typed));
    }

    #[test]
    fn overflow_never_hides_a_value(values in prop::collection::vec(0u32..500, 1..200), max_tags in 1usize..64) {
        let list = route("list", SubjectSpec::None, &["tx:{response[*]}", "s:{query.s}"]);
        let plan = TagPlan::new(from_ref(&list), vec![same(rule("PUT /x/{id}", &["tx:{path.id}"]))], max_tags);
        let entry = call("/l", "s=1").response(json!(&values)).entry(&plan, &list);
        for value in &values {
            let purge = call(&format!("/x/{value}"), "").purge(&plan, "PUT");
            prop_assert!(hit(&entry, &purge));
        }
        prop_assert!(entry.len() <= max_tags.max(16));
    }

    #[test]
    fn a_path_purge_hits_every_spelling(path in "(/[a-c~%.;*-]{1,3}){1,4}/?") {
        let any = route("any", SubjectSpec::None, &[]);
        let plan = plan(from_ref(&any), vec![]);
        if let Ok(normal) = crate::policy::path::normalise(&path) {
            let entry = call(&normal, "").entry(&plan, &any);
            prop_assert!(hit(&entry, &call(&path, "").purge(&plan, "PUT")));
            prop_assert!(hit(&entry, &call(&normal, "").purge(&plan, "PUT")));
        }
    }
}
