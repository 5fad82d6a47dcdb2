//! Configuration files with holes: `{{name}}` is replaced by a value, and a line that begins with `@feature ` is there
//! only where the workload has that feature (`@!feature `: only where it has not).

use bench_rig::Outcome;

/// Fills in a template. A hole without a value is an error.
pub fn fill(template: &str, values: &[(&str, String)], features: &[&str]) -> Outcome<String> {
    let mut text = String::with_capacity(template.len());
    for line in template.lines() {
        if let Some(line) = chosen(line, features) {
            text.push_str(line);
            text.push('\n');
        }
    }
    for (name, value) in values {
        text = text.replace(&format!("{{{{{name}}}}}"), value);
    }
    match text.find("{{") {
        None => Ok(text),
        Some(at) => {
            let rest: String = text[at..].chars().take(40).collect();
            Err(format!("a configuration file has a hole that nothing fills: {rest}"))
        }
    }
}

/// The line without its condition, if that holds.
fn chosen<'a>(line: &'a str, features: &[&str]) -> Option<&'a str> {
    let Some(conditional) = line.strip_prefix('@') else { return Some(line) };
    let (feature, rest) = conditional.split_once(' ').unwrap_or((conditional, ""));
    let holds = match feature.strip_prefix('!') {
        Some(feature) => !features.contains(&feature),
        None => features.contains(&feature),
    };
    holds.then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_and_conditions() {
        let template = "listen {{port}};\n@tls ssl on;\n@!tls plain;\n@h2c\nsize {{mib}}m {{port}}\n";
        let values = [("port", "80".to_owned()), ("mib", "5".to_owned())];
        assert_eq!(fill(template, &values, &["tls"]).unwrap(), "listen 80;\nssl on;\nsize 5m 80\n");
        assert_eq!(fill(template, &values, &[]).unwrap(), "listen 80;\nplain;\nsize 5m 80\n");
        assert!(fill(template, &values[..1], &[]).unwrap_err().contains("{{mib}}"));
    }
}
