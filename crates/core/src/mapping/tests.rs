use proptest::prelude::*;

use super::*;

const RULES: &[(Dialect, &str, &str)] = {
    use Dialect::{Glob, Subject};
    &[
        (Glob, "orders:*", "orders.{1}"),
        (Glob, "orders:*", "{name}"),
        (Glob, "*", "{name}"),
        (Glob, "*", "raw.{name}"),
        (Glob, "a*", "{name}"),
        (Glob, "*:b", "{name}"),
        (Glob, "a:*:b:*", "a.{2}.{1}"),
        (Glob, "*:*", "{1}.{2}"),
        (Glob, "*a*", "{1}{2}"),
        (Glob, "*:*", "b.{1}-{2}.{1}"),
        (Glob, "a*b", "{1}.{name}"),
        (Glob, "a", "b"),
        (Glob, "a:b", "{name}"),
        (Glob, "\\*:*", "{1}"),
        (Subject, "orders.*", "orders.{1}"),
        (Subject, "a.>", "{name}"),
        (Subject, "*.b.>", "{name}"),
        (Subject, ">", "raw.{name}"),
        (Subject, "a.*.>", "{1}.x.{2}"),
        (Subject, "a.*.>", "{2}.x.{1}"),
        (Subject, "*.*", "{2}.{1}"),
        (Subject, "*.*", "{2}-{1}"),
        (Subject, "*.a", "{1}.{1}"),
        (Subject, "a.b", "c"),
        (Subject, "*.>", "x{2}.{1}"),
    ]
};

fn rule(dialect: Dialect, source: &str, template: &str) -> Mapping {
    Mapping::parse(dialect, source, template).unwrap()
}

fn glob(source: &str, template: &str) -> Mapping {
    rule(Dialect::Glob, source, template)
}

fn subject(source: &str, template: &str) -> Mapping {
    rule(Dialect::Subject, source, template)
}

fn name(text: &str) -> Option<Source> {
    Some(Source::Name(text.into()))
}

fn wild(text: &str) -> Option<Source> {
    Some(Source::Wild(text.into()))
}

fn follow(mapping: &Mapping, pattern: &str) -> Option<Source> {
    mapping.sources_for(&Pattern::parse(pattern).unwrap())
}

fn mapped(mapping: &Mapping, raw: &str) -> Option<String> {
    let channel = mapping.channel(raw)?;
    Some(channel.map_or_else(|why| why.to_string(), |channel| channel.to_string()))
}

/// Redis' `stringmatchlen`, for the globs that rules make.
fn redis_matches(glob: &[char], text: &[char]) -> bool {
    match (glob, text) {
        ([], []) => true,
        (['*', rest @ ..], _) => {
            redis_matches(rest, text) || !text.is_empty() && redis_matches(glob, &text[1..])
        }
        (['[', rest @ ..], [c, text @ ..]) => {
            let end = rest.iter().position(|c| *c == ']').unwrap();
            rest[..end].contains(c) && redis_matches(&rest[end + 1..], text)
        }
        (['\\', a, rest @ ..] | [a, rest @ ..], [b, text @ ..]) => {
            a == b && redis_matches(rest, text)
        }
        _ => false,
    }
}

fn selects(dialect: Dialect, source: &Source, raw: &str) -> bool {
    match (source, dialect) {
        (Source::Name(name), _) => name == raw,
        (Source::Wild(glob), Dialect::Glob) => {
            let [glob, raw] = [glob, raw].map(|text| text.chars().collect::<Vec<_>>());
            redis_matches(&glob, &raw)
        }
        // The two languages are the same for names without empty tokens.
        (Source::Wild(text), Dialect::Subject) => Pattern::parse(text)
            .unwrap()
            .matches(&Channel::parse(raw).unwrap()),
    }
}

#[test]
fn captures_make_the_channel() {
    let orders = glob("orders:*", "orders.{1}");
    assert_eq!(mapped(&orders, "orders:eu:42").unwrap(), "orders.eu:42");
    assert_eq!(mapped(&orders, "users:eu"), None);
    assert!(orders.channel("orders:").unwrap().is_err());
    assert!(orders.channel("orders:a b").unwrap().is_err());
    let both = glob("room:*:chat:*", "chat.{1}.{2}");
    assert_eq!(
        mapped(&both, "room:7:chat:a:chat:b").unwrap(),
        "chat.7.a:chat:b"
    );
    assert_eq!(
        mapped(&glob("*/log", "{name}"), "a:b/log").unwrap(),
        "a.b.log"
    );
    assert_eq!(
        mapped(&subject("a.*.>", "{2}.{1}"), "a.b.c.d").unwrap(),
        "c.d.b"
    );
    assert_eq!(mapped(&subject("a.*", "{1}"), "a.b.c"), None);
    assert_eq!(mapped(&subject("a.>", "{name}"), "a.b:c").unwrap(), "a.b:c");
}

#[test]
fn a_channel_is_followed_by_as_little_as_can_be() {
    assert_eq!(
        follow(&glob("orders:*", "orders.{1}"), "orders.eu"),
        name("orders:eu")
    );
    assert_eq!(
        follow(&glob("orders:*", "{name}"), "orders.eu"),
        name("orders:eu")
    );
    assert_eq!(
        follow(&glob("*", "{name}"), "orders.eu"),
        wild("orders[.:/]eu")
    );
    assert_eq!(
        follow(&glob("orders:*", "{name}"), "orders.eu.42"),
        wild("orders:eu[.:/]42")
    );
    assert_eq!(follow(&glob("*:*", "{1}.{2}"), "a.b.c"), wild("*:*"));
    assert_eq!(
        follow(&glob("x:*:*:*", "{3}.{1}.{2}"), "a-.b.c.d"),
        wild("x:*:*:*")
    );
    assert_eq!(follow(&glob("x:*:*", "{1}-{2}.y"), "a-b.y"), name("x:a:b"));
    assert_eq!(
        follow(&subject("a.*.>", "{2}.x.{1}"), "c.d.x.b"),
        name("a.b.c.d")
    );
    assert_eq!(follow(&subject("a.*.*", "{2}-{1}"), "c-d-b"), wild("a.*.*"));
    assert_eq!(follow(&glob("orders:*", "orders.{1}"), "users.eu"), None);
    assert_eq!(follow(&glob("orders:*", "{name}"), "users.eu"), None);
    assert_eq!(follow(&glob("orders:*", "{name}"), "orders.eu:42"), None);
    assert_eq!(follow(&subject("a.*", "{name}"), "a.b.c"), None);
}

#[test]
fn a_pattern_narrows_the_source() {
    let orders = glob("orders:*", "orders.{1}");
    assert_eq!(follow(&orders, "orders.eu.*"), wild("orders:eu.*"));
    assert_eq!(follow(&orders, "*.eu"), wild("orders:*"));
    assert_eq!(follow(&orders, ">"), wild("orders:*"));
    assert_eq!(follow(&orders, "users.>"), None);
    assert_eq!(
        follow(&glob("room:*:chat:*", "chat.{1}.{2}"), "chat.7.*"),
        wild("room:7*:chat:*")
    );
    assert_eq!(
        follow(&glob("orders:*", "{name}"), "orders.eu.>"),
        wild("orders:eu[.:/]*")
    );
    assert_eq!(follow(&glob("orders:*", "{name}"), "users.>"), None);
    assert_eq!(follow(&glob("*", "{name}"), "a.>"), wild("a[.:/]*"));
    assert_eq!(
        follow(&subject("a.*.>", "{1}.x.{2}"), "b.x.c.*"),
        wild("a.b.c.*")
    );
    assert_eq!(follow(&subject("a.*.>", "{1}.x.{2}"), "b.>"), wild("a.b.>"));
    assert_eq!(follow(&subject("*.b.>", "{name}"), "a.>"), wild("a.b.>"));
    assert_eq!(follow(&subject("*.b.>", "{name}"), "a.c.>"), None);
    assert_eq!(follow(&subject(">", "raw.{name}"), "raw.a.*"), wild("a.*"));
}

#[test]
fn a_name_to_publish_on_is_told_only_where_there_is_one() {
    let raw =
        |mapping: &Mapping, channel: &str| mapping.raw_name(&Channel::parse(channel).unwrap());
    assert_eq!(
        raw(&glob("orders:*", "orders.{1}"), "orders.eu").unwrap(),
        "orders:eu"
    );
    assert_eq!(raw(&glob("\\[x\\]:*", "{1}"), "eu").unwrap(), "[x]:eu");
    assert_eq!(raw(&glob("*", "{name}"), "orders.eu"), None);
    assert_eq!(raw(&glob("orders:*", "orders.{1}"), "users.eu"), None);
    assert_eq!(raw(&subject("a.>", "{name}"), "a.b.c").unwrap(), "a.b.c");
}

#[test]
fn wrong_rules_name_what_is_allowed() {
    let why = |dialect, source, template| {
        Mapping::parse(dialect, source, template)
            .unwrap_err()
            .to_string()
    };
    for (source, template, part) in [
        ("", "a", "is empty"),
        ("a?", "a", "only `*` is allowed"),
        ("a[bc]", "a", "only `*` is allowed"),
        ("a**", "{1}", "two `*`"),
        ("a\\", "a", "ends in"),
        (
            "a:*",
            "a.{2}",
            "`{2}`; the source allows `{name}` and `{1}`",
        ),
        ("a:*:*", "a.{3}", "`{name}` and `{1}` to `{2}`"),
        ("a:*", "a.{0}", "{0}"),
        ("a:*", "a.{nome}", "{nome}"),
        ("a", "a.{1}", "the source allows `{name}`"),
        ("a:*", "a", "does not use `{1}`"),
        ("a:*", "a.{1", "lone brace"),
        ("a:*", "a.1}", "lone brace"),
        ("a:*", "a..{1}", "empty segment"),
        ("a:*", "a b.{1}", "character"),
        ("a", "", "is empty"),
    ] {
        let why = why(Dialect::Glob, source, template);
        assert!(why.contains(part), "{source} {template}: {why}");
    }
    for (source, part) in [
        ("a..b", "empty token"),
        ("a.b*", "misplaced"),
        (">.a", "misplaced"),
        ("a b", "white space"),
    ] {
        let why = why(Dialect::Subject, source, "{name}");
        assert!(why.contains(part), "{source}: {why}");
    }
    let long = "a".repeat(256);
    assert!(why(Dialect::Glob, &long, "a").contains("longer"));
}

#[test]
fn a_stranger_s_channel_costs_bounded_work() {
    let source = vec!["*"; 60].join(":");
    let template: String = (1..=60).map(|n| format!("{{{n}}}")).collect();
    let mapping = glob(&source, &template);
    // Without a bound it would not come to an end: there are more readings than anybody can try.
    assert_eq!(follow(&mapping, &"a".repeat(255)), wild(&source));
}

/// Texts of few characters, so that many of them are selected.
fn raw_name(dialect: Dialect) -> BoxedStrategy<String> {
    let text = match dialect {
        Dialect::Glob => "(orders:)?[ab:./*-]{0,8}",
        Dialect::Subject => "(orders\\.)?[abx:-]{1,2}(\\.[abx]{1,2}){0,4}",
    };
    proptest::string::string_regex(text).unwrap().boxed()
}

fn pattern_for(channel: &Channel, choices: &[u8]) -> Pattern {
    let mut segments = Vec::new();
    for (segment, choice) in channel.as_str().split('.').zip(choices.iter().cycle()) {
        match choice {
            0 => segments.push("*"),
            1 => {
                segments.push(">");
                break;
            }
            _ => segments.push(segment),
        }
    }
    Pattern::parse(&segments.join(".")).unwrap()
}

fn generated_rule() -> impl Strategy<Value = (Dialect, String, String)> {
    let part = |texts: &'static str| proptest::string::string_regex(texts).unwrap();
    let globs = (
        part("(\\*|a|:|/|b){1,6}"),
        part("(\\{1\\}|\\{2\\}|\\{name\\}|a|\\.|b){1,5}"),
    )
        .prop_map(|(source, template)| (Dialect::Glob, source, template));
    let subjects = (
        part("(\\*|a|b)(\\.(\\*|a|b)){0,3}(\\.>)?"),
        part("(\\{1\\}|\\{2\\}|\\{name\\}|a|\\.|x){1,5}"),
    )
        .prop_map(|(source, template)| (Dialect::Subject, source, template));
    prop_oneof![
        prop::sample::select(RULES).prop_map(|(d, s, t)| (d, s.into(), t.into())),
        globs,
        subjects
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn what_is_subscribed_to_selects_every_name_of_the_channel(
        (mapping, dialect, raws) in generated_rule()
            .prop_filter_map("no rule", |(dialect, source, template)| {
                Some((Mapping::parse(dialect, &source, &template).ok()?, dialect))
            })
            .prop_flat_map(|(mapping, dialect)| {
                (Just(mapping), Just(dialect), prop::collection::vec(raw_name(dialect), 1..20))
            }),
        choices in prop::collection::vec(0u8..5, 1..6),
    ) {
        for raw in &raws {
            let Some(Ok(channel)) = mapping.channel(raw) else { continue };
            prop_assert!(selects(dialect, &mapping.source(), raw), "{mapping} {raw}");
            for pattern in [Pattern::from(&channel), pattern_for(&channel, &choices)] {
                let source = mapping.sources_for(&pattern);
                let selected = source.as_ref().is_some_and(|source| selects(dialect, source, raw));
                prop_assert!(selected, "{mapping}: {raw} for {pattern} by {source:?}");
            }
            if let Some(name) = mapping.raw_name(&channel) {
                prop_assert_eq!(&name, raw);
                prop_assert_eq!(mapping.channel(&name), Some(Ok(channel)));
            }
        }
        for text in &raws {
            let Ok(channel) = Channel::parse(text) else { continue };
            if let Some(name) = mapping.raw_name(&channel) {
                prop_assert_eq!(mapping.channel(&name), Some(Ok(channel)), "{} {}", mapping, name);
            }
        }
    }
}

#[test]
fn the_image_selects_whatever_the_rule_makes() {
    for (rule, raw) in [
        (glob("orders:*", "orders.{1}"), "orders:eu"),
        (glob("orders:*", "orders.{1}"), "orders:eu.fast"),
        (glob("*:*", "x.{2}.{1}"), "a:b"),
        (glob("a:b", "{name}"), "a:b"),
    ] {
        let channel = rule.channel(raw).unwrap().unwrap();
        assert!(
            rule.image().matches(&channel),
            "{:?} {channel}",
            rule.image()
        );
    }
    let other = Channel::parse("users.eu").unwrap();
    assert!(!glob("orders:*", "orders.{1}").image().matches(&other));
}
