//! llama.cpp's published grammars: texts that are theirs, texts that are not, and texts drawn from them.

use crate::vocabularies::{bytes, smollm2};
use crate::walk::{Random, accepts, at_random};
use crate::{compile, factory};
use alti_engine::grammar::GrammarSource;

macro_rules! published {
    ($($name:literal),*) => { [$(($name, include_str!(concat!("published/", $name, ".gbnf")))),*] };
}

const PUBLISHED: [(&str, &str); 8] =
    published!("json", "json_arr", "arithmetic", "c", "list", "chess", "japanese", "english");

#[track_caller]
fn check(grammar: &str, theirs: &[&str], not_theirs: &[&str]) {
    let tokenizer = bytes();
    let source = PUBLISHED.iter().find(|(name, _)| *name == grammar).map_or(grammar, |(_, source)| source);
    let factory = factory(&tokenizer);
    let accepts =
        |text: &str| accepts(&mut factory.compile(&GrammarSource::Gbnf(source.into())).unwrap(), text);
    for text in theirs {
        assert!(accepts(text), "{grammar} refuses {text:?}");
    }
    for text in not_theirs {
        assert!(!accepts(text), "{grammar} accepts {text:?}");
    }
}

#[test]
fn json() {
    check(
        "json",
        &[
            "{}",
            r#"{"a":1}"#,
            "{\"a\": [true, null, -1.5e+3],\n\t\"b\": {\"c\": \"\\u00e9\\\"x\"}}",
            r#"{"é":"日本"}"#,
        ],
        &["", "[]", r#"{"a":}"#, r#"{"a":1,}"#, r#"{"a":"b}"#, "{\"a\":  1}", r#"{"a":"\x"}"#, "{}x"],
    );
    check("json_arr", &["[\n]", "[\n1,\n\"a\"]"], &["[]", "{}"]);
}

#[test]
fn arithmetic() {
    check(
        "arithmetic",
        &["1+1=2\n", "(a_1 +2) *3 = x\n", "1=1\na-b=c\n", "x \n +1 = y\n"],
        &["", "1+1\n", "1+1=2", "1+=2\n", "(1=2\n"],
    );
}

#[test]
fn c() {
    check(
        "c",
        &[
            "",
            "int main(){}",
            "int main(int a){return 1;}",
            "float f(){x = a+b*2;g (1, y);while(a<b){}if(a!=b){}else{return x;}}",
            "int f(){int intx = 1;return returnx;}",
            "int f(){//hello\nx = 1;}",
            "int f(){/* a ** b */}",
        ],
        &["int", "int main", "main(){}", "int f(){x=1;}", "int f(){return1;}"],
    );
}

#[test]
fn list_chess_and_scripts() {
    check("list", &["- a\n", "- one two\n- é\n"], &["", "- \n", "- a", "-a\n", "- a\u{2028}b\n"]);
    check(
        "chess",
        &["1. e4 e5\n2. Nf3 Nc6\n", "1. e4 e5\n2. O-O O-O-O+\n13. exd8=Q# Kxd8\n"],
        &["", "1. e4 e5\n", "2. e4 e5\n3. a3 a6\n", "1. e9 e5\n2. a3 a6\n"],
    );
    check("japanese", &["ひ", "ひらがな カタカナ\n漢字、"], &["", "a", "ひ ", " ひ", "ひ  ひ"]);
    check("english", &["Hello, world!", "a\nb"], &["", "é", "a  b"]);
}

/// Where a lexer that takes all it can get would go wrong.
#[test]
fn what_could_be_read_in_two_ways_is_read_in_both() {
    check(r#"root ::= "a" "b" | "ab" "c""#, &["ab", "abc"], &["a", "abb", "c"]);
    check(r#"root ::= [a-z]+ "end" | [a-z]+ "."?"#, &["xend", "endend", "x.", "end"], &["", ".", "end.end"]);
    check(r#"root ::= "a"* "ab""#, &["ab", "aaab"], &["", "a", "abab"]);
    check("root ::= ws ws \"x\" ws\nws ::= [ ]*", &["x", "    x  "], &["", " "]);
    check("root ::= \"(\" root \")\" root | \"\"", &["", "()", "(()())()"], &["(", ")(", "(()"]);
    check(
        "root ::= a b\na ::= [ぁ-ゟ]\nb ::= \"ァ\" | [ぁ-ゟ] \"。\"",
        &["ぁァ", "ぁぁ。"],
        &["ぁ", "ァァ", "ぁぁ"],
    );
    check("root ::= x | y\nx ::= \"aa\" \"b\"\ny ::= \"a\" \"ab\" \"c\"", &["aab", "aabc"], &["aa", "aac"]);
    check("root ::= (\"ab\" | \"a\" | \"b\" \"c\"?)+", &["a", "abc", "abbc", "bca"], &["", "c", "ac"]);
}

#[test]
fn all_of_the_notation() {
    check(
        "root ::= \"a\"{2} \"b\"{1,3} \"c\"{2,} \"d\"{0,1}",
        &["aabcc", "aabbbcccccd"],
        &["abcc", "aabc", "aabbbbcc"],
    );
    check("root ::= [^a-c\\n] . \"\\x41\\u00e9\\U0001F600\"", &["dxAé😀", "é\nAé😀"], &["axAé😀", "dxA"]);
    check("root ::= [a\\]\\-] [-x] # a comment\n", &["a-", "]x", "-x"], &["b-", "ab"]);
    check(
        "root ::= (\n  \"a\" # one\n  | b-1\n)\n\nb-1 ::=\n  \"b\" |\n  \"c\"",
        &["a", "b", "c"],
        &["", "ab"],
    );
    check("root ::= \"a\"?? ([b]*)* \"\"", &["", "a", "bb", "abb"], &["ba"]);
    check("root ::= \"x\"{0} \"y\"", &["y"], &["xy", ""]);
}

#[test]
fn tokens_stand_for_themselves() {
    let tokenizer = bytes();
    let tag = tokenizer.id_of("<|python_tag|>").unwrap();
    for source in ["root ::= <|python_tag|> [a-z]+".to_owned(), format!("root ::= <[{tag}]> [a-z]+")] {
        let mut grammar = compile(&tokenizer, &GrammarSource::Gbnf(source));
        assert_eq!(crate::tokens(grammar.mask().unwrap()), [tag]);
    }
    let mut grammar = compile(&tokenizer, &GrammarSource::Gbnf("root ::= !<|python_tag|>".into()));
    let mask = grammar.mask().unwrap();
    assert!(!crate::allows(mask, tag) && crate::allows(mask, u32::from(b'a')));
}

/// With a real vocabulary, whose tokens cross the borders of lexemes, what is drawn is what single bytes may spell.
#[test]
fn what_is_drawn_is_theirs() {
    let (tokenizer, single) = (smollm2(), bytes());
    let (factory, oracle) = (factory(&tokenizer), factory(&single));
    let mut finished = 0;
    for (name, source) in PUBLISHED {
        let source = GrammarSource::Gbnf(source.into());
        for seed in 0..6 {
            let mut grammar = factory.compile(&source).unwrap();
            let mut random = Random(seed);
            if let Some(text) = at_random(&mut grammar, &tokenizer, &mut random, 5 * seed as usize) {
                assert!(accepts(&mut oracle.compile(&source).unwrap(), &text), "{name}: {text:?}");
                finished += 1;
            }
        }
    }
    // Some have no end within reach of a walk that does not know them.
    assert!(finished > 20, "only {finished} texts came to an end");
}
