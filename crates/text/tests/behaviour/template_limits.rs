//! Templates that mean harm: each is refused in a line, soon, and in little memory; and what real templates do is
//! still done.

use std::time::{Duration, Instant};

use crate::common::meta;
use alti_text::{ChatTemplate, Conversation, Message};

fn attempt(source: &str) -> Result<String, String> {
    let template = ChatTemplate::new(source, &meta("llama3")).map_err(|error| error.to_string())?;
    let conversation = Conversation::new(vec![Message::text("user", "Hello")]);
    template.render(&conversation).map(|prompt| prompt.text()).map_err(|error| error.to_string())
}

#[track_caller]
fn check_refused(source: &str, says: &str) {
    let started = Instant::now();
    let shown: String = source.chars().take(100).collect();
    let message = attempt(source).expect_err(&shown);
    assert!(message.contains(says) && !message.contains('\n'), "{shown}: {message}");
    // A release build takes a tenth of this.
    assert!(started.elapsed() < Duration::from_secs(10), "{shown} took {:?}", started.elapsed());
}

#[track_caller]
fn check_renders(source: &str, expected: &str) {
    let shown: String = source.chars().take(100).collect();
    assert_eq!(attempt(source).as_deref(), Ok(expected), "{shown}");
}

/// Every way in which an expression nests, `links` deep.
fn chains(links: usize) -> Vec<String> {
    let chained = |first: &str, link: &str| format!("{{{{ {first}{} }}}}", link.repeat(links));
    let mut chains: Vec<String> = [
        "()",
        ".a",
        "[0]",
        "[1:2]",
        "|list",
        " is defined",
        " + x",
        " - 1",
        " ~ x",
        " * 1",
        " / 1",
        " // 1",
        " % 1",
        " ** 1",
        " and x",
        " or x",
        " in x",
        " if x",
        "(x)",
        ".a()",
        "['a']",
    ]
    .map(|link| chained("x", link))
    .into();
    chains.extend(["not ", "-", "1 if x else "].map(|link| format!("{{{{ {}x }}}}", link.repeat(links))));
    chains.push(format!("{{% if 0 %}}{}{{% endif %}}", "{% elif 0 %}".repeat(links)));
    chains.push(format!("{{% set {}a{} = 1 %}}", "(".repeat(links), ")".repeat(links)));
    chains.push(format!("{{% for {}a{} in [] %}}{{% endfor %}}", "(".repeat(links), ")".repeat(links)));
    chains.push(format!("{{% set x | list{} %}}{{% endset %}}", " | list".repeat(links)));
    chains
}

#[test]
fn long_chains_are_refused_before_they_are_parsed() {
    for chain in chains(3000).into_iter().chain(chains(60_000)).filter(|chain| chain.len() < 1 << 18) {
        // Comparisons in a chain do not nest; all others are too many links.
        check_refused(&chain, "more than 200");
    }
    let nested = format!("{{% if 0 %}}{}", "{% elif 0 %}{% if 0 %}{% endif %}".repeat(3000));
    check_refused(&nested, "more than 200 elif");
    let nested = "{% if 0 %}{% elif 0 %}{% elif 0 %}{% elif 0 %}".repeat(100);
    check_refused(&nested, "more than 200 elif");
}

#[test]
fn the_longest_chains_that_are_not_refused_fit_into_the_stack_of_a_thread() {
    for chain in chains(195) {
        // Rendered or refused: the test is that it returns.
        let _ = attempt(&chain);
    }
    let deep = format!("{{% if 1 %}}{}x{}", "{% if 0 %}{% elif 1 %}".repeat(100), "{% endif %}".repeat(101));
    check_renders(&deep, "x");
    let sum = format!("{{{{ 1{} }}}}", " + 1".repeat(190));
    check_renders(&sum, "191");
    // Many short expressions are no long one.
    let list = format!("{{{{ [{}] | length }}}}", "messages[0].role, ".repeat(3000));
    check_renders(&list, "3000");
    let map = format!(
        "{{{{ {{{}}} | length }}}}",
        (0..999).map(|key| format!("{key}: messages[0].role,")).collect::<String>()
    );
    check_renders(&map, "999");
}

/// Text of seven million bytes that the engine does not compute while it compiles.
const LONG: &str = "{% set a = 'x' * 1000 %}{% set a = a * 3500 %}{% set b = a[1:] %}";

#[test]
fn reading_is_charged() {
    for reads in [
        "{% if a == b %}{% endif %}",
        "{% if a != b %}{% endif %}",
        "{% if a < b %}{% endif %}",
        "{% if [a] == [b] %}{% endif %}",
        "{% if 'y' in a %}{% endif %}",
        "{% if 'y' not in a %}{% endif %}",
        "{% if a is eq b %}{% endif %}",
        "{% if a is in [b] %}{% endif %}",
        "{% if a is lower %}{% endif %}",
        "{% if a is startingwith b %}{% endif %}",
        "{% if a | length == 3 %}{% endif %}",
        "{% if a[-1] == 'y' %}{% endif %}",
        "{% if messages[0][a] %}{% endif %}",
        "{% if messages[0] | attr(a) %}{% endif %}",
        "{% if loop.changed(a if i is odd else b) %}{% endif %}",
        "{% if a | last %}{% endif %}",
        "{% for c in a %}{% break %}{% endfor %}",
        "{% if ['x', 'y'] | select('eq', a) | first %}{% endif %}",
        "{% if [a, b] | min %}{% endif %}",
        "{% if 100000 in range(100000) %}{% endif %}",
        "{% if range(100000)[99999] %}{% endif %}",
        "{% if range(100000) | last %}{% endif %}",
        "{% if range(100000) == range(100000) %}{% endif %}",
        "{% if range(100000) | sum %}{% endif %}",
    ] {
        let source = format!("{LONG}{{% for i in range(100000) %}}{reads}{{% endfor %}}");
        let message = attempt(&source).expect_err(reads);
        assert!(
            message.contains("it runs too long") || message.contains("too much memory"),
            "{reads}: {message}"
        );
    }
}

#[test]
fn what_grows_is_charged() {
    for grows in ["ns.x | e", "[ns.x] | string", "ns.x | tojson", "ns.x | title ~ ns.x"] {
        let source = format!(
            "{{% set ns = namespace(x='&\\\\\"' * 99) %}}{{% for i in range(100000) %}}{{% set ns.x = {grows} %}}{{% endfor %}}"
        );
        check_refused(&source, "too much memory");
    }
    check_refused("{{ ('x' * 1000000) * 90 }}", "multiplied");
    check_refused(&"{% set a = 'x' * 1000000 %}".repeat(20), "multiplied");
    check_refused("{{ debug() }}", "debug is unknown");
    check_refused("{{ messages | pprint }}", "pprint is unknown");
}

#[test]
fn nothing_can_contain_itself() {
    let two = "{% set a = namespace() %}{% set b = namespace() %}";
    for cycle in [
        "{% set a.x = a %}{% set b.x = b %}{{ a == b }}",
        "{% set a.x = [b] %}{% set b.x = [a] %}{{ a is eq b }}",
        "{% set a.x = {'k': a} %}{{ a in 'x' }}",
        "{% set a.x, c = a, 1 %}{{ raise_exception(a) }}",
        "{% for i in [a] %}{% set a.x = loop %}{{ loop.changed(a) }}{% endfor %}",
        "{% for i in [a] %}{{ loop.changed(loop) }}{% endfor %}",
    ] {
        check_refused(&format!("{two}{cycle}"), "a namespace cannot hold a namespace or a loop");
    }
    check_renders("{% set a = namespace(x=1) %}{% set b = namespace(a=a) %}{{ b.a.x }}", "1");
}

#[test]
fn a_tag_of_one_brace_is_a_syntax_error() {
    check_refused("{%}", "line 1");
    check_refused("{% block a %}{{ self.a() }{%} endblock %}", "line 1");
    check_refused("{%}{% generation %}", "line 1");
}

#[test]
fn what_cannot_be_charged_is_named() {
    check_refused("a\n{{ 1 < x < 3 }}", "line 2: not supported: comparisons in a chain");
    check_refused("{{ dict(*x) }}", "not supported: arguments out of a list");
    check_refused("{{ dict(**x) }}", "not supported: arguments out of a list");
    check_refused("{% for x in y recursive %}{% endfor %}", "not supported: recursive loops");
    check_refused("{% set __alti_meter = 1 %}", "reserved");
    check_refused("{% macro __alti_equal(a, b) %}{% endmacro %}", "reserved");
    check_refused("{% for i in [1] %}{{ loop.cycle() }}{% endfor %}", "cycle() needs a value");
    check_refused("\n\n{{ 1 + messages }}", "line 3: tried to use + operator");
}

#[test]
fn a_callers_variables_do_not_lift_the_limits() {
    let template = ChatTemplate::new("{% set a = 'x' * 9999 %}{{ a * 9999 }}", &meta("llama3")).unwrap();
    let mut conversation = Conversation::new(vec![Message::text("user", "Hello")]);
    conversation.variables.insert("__alti_meter".into(), serde_json::Value::from(1));
    conversation.variables.insert("__alti_multiply".into(), serde_json::Value::from(1));
    let message = template.render(&conversation).unwrap_err().to_string();
    assert!(message.contains("too much memory"), "{message}");
}

#[test]
fn operators_mean_what_they_meant() {
    check_renders(
        "{{ 1 == 1.0 }} {{ 'a' != 'b' }} {{ 2 < 3 }} {{ 3 <= 2 }} {{ 'b' > 'a' }} {{ [1] >= [2] }}",
        "True True True False True False",
    );
    check_renders(
        "{{ 'ell' in 'Hello' }} {{ 1 in [1] }} {{ 'a' not in {'a': 1} }} {{ 1 in '1' }} {{ 'x' in nothing }}",
        "True True False True False",
    );
    check_renders(
        "{{ messages[0]['role'] }} {{ messages[-1].content[0] }} {{ 'abc'[-1] }} {{ messages[9] is defined }}",
        "user H c False",
    );
    check_renders(
        "{% set ns = namespace(n=0) %}{% for m in messages if m.role == 'user' %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
        "1",
    );
    check_renders(
        "{% set ns = namespace() %}{% set ns.x = 1, 2 %}{{ ns.x }}{% set ns.y = 'a' if ns.x else 'b' %}{{ ns.y }}",
        "[1, 2]a",
    );
    check_renders("{% set ns = namespace() %}{% set ns.x %}text{% endset %}{{ ns.x }}", "text");
    check_renders("{% for k, v in {'a': 1, 'if': 2}.items() if k != 'a' %}{{ k }}{{ v }}{% endfor %}", "if2");
    check_renders("{% for c in 'abc' %}{{ c }}{{ '' if loop.first else '-' }}{% endfor %}", "ab-c-");
    check_renders("{%- for x in [] -%} a {%- else -%} none {%- endfor -%}", "none");
    check_renders(
        "{% for x in (1, 2)[1:] %}{{ loop.cycle('odd', 'even') }}{{ loop.changed(x) }}{% endfor %}",
        "oddTrue",
    );
    check_renders(
        "{{ [3, 1, 2] | sort | map('string') | join(',') }} {{ [1, 2, 3] | select('gt', 1) | list }}",
        "1,2,3 [2, 3]",
    );
}
