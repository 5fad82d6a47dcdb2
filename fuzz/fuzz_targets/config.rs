//! `proxy.toml`: whatever it says, it is understood or refused with a reason and a place.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::config::{Env, Problem, describe, load_str};
use weir_fuzz::sections;

const SECRET: &str = "f77e1d-secret-of-nobody";

fuzz_target!(|data: &[u8]| {
    let [text, environment] = sections(data);
    let (Ok(text), Ok(environment)) = (std::str::from_utf8(text), std::str::from_utf8(environment)) else {
        return;
    };
    // Files of this machine are none of a fuzzer's business.
    if [text, environment]
        .iter()
        .any(|text| text.to_ascii_lowercase().contains("file") || text.contains('\\'))
    {
        return;
    }
    let pairs = environment.lines().filter_map(|line| line.split_once('='));
    let env: Env = pairs.filter(|(name, _)| !name.is_empty()).collect();
    check(text, &env);
    let token = format!("{text}\n[admin]\ntoken = \"{SECRET}\"\n");
    check(&token, &env);
    let url = format!("{text}\n[redis]\nurl = \"redis://:{SECRET}@127.0.0.1:x/1\"\n");
    check(&url, &env);
});

fn check(text: &str, env: &Env) {
    let shown = match load_str("proxy.toml", text, env) {
        Ok(loaded) => {
            assert!(loaded.warnings.iter().all(|problem| !problem.is_error()));
            let again = load_str("proxy.toml", text, env).expect("the same again");
            let described = describe(&loaded.config);
            assert_eq!(described, describe(&again.config));
            let (tags, again) = (&loaded.config.policy.tags, &again.config.policy.tags);
            assert!(tags.fingerprint != 0 && tags.fingerprint == again.fingerprint);
            described + &shown(&loaded.warnings, text)
        }
        Err(problems) => {
            assert!(problems.iter().any(Problem::is_error), "refused without a reason");
            shown(&problems, text)
        }
    };
    assert!(!shown.contains(SECRET), "a secret is shown:\n{shown}");
}

fn shown(problems: &[Problem], text: &str) -> String {
    for problem in problems {
        assert!(!problem.message.is_empty());
        let lines = text.lines().count() + 1;
        assert!(!problem.file.ends_with("proxy.toml") || problem.line <= lines, "{problem}");
        if let Some(excerpt) = &problem.excerpt {
            assert!(excerpt.length >= 1 && excerpt.start <= excerpt.text.chars().count());
        }
    }
    problems.iter().map(|problem| format!("{problem}\n")).collect()
}
