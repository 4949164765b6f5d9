//! The two ways to load a CLIP tokenizer, and the map from words to columns.

use scumble::engine::weights::folder::Folder;
use scumble::engine::weights::model::{LoadOptions, Model};
use scumble::engine::weights::tokenizer::Tokenizer;

const PROMPTS: &[&str] = &[
    "",
    "a dog",
    "A Photo of a DOG, isn't it?",
    "  tabs\tand\nnewlines   and   spaces ",
    "naïve café über Straße",
    "日本語 と 한국어",
    "dog's 1234 5x5 $%^& <|endoftext|> end",
    "🐶🐱 a crown above a lion!!",
    "x",
];

fn shipped() -> Folder {
    Folder::shipped().unwrap().sub("tokenizer")
}

#[test]
fn vocab_and_merges_equal_tokenizer_json() {
    let json = shipped().json("tokenizer.json").unwrap();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("vocab.json"), json["model"]["vocab"].to_string()).unwrap();
    let merges: Vec<String> = json["model"]["merges"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| match m.as_array() {
            Some(pair) => format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()),
            None => m.as_str().unwrap().to_string(),
        })
        .collect();
    std::fs::write(dir.path().join("merges.txt"), format!("#version: 0.2\n{}\n", merges.join("\n"))).unwrap();
    let ours = Tokenizer::load(&Folder::Disk(dir.path().into()), 77, 4096).unwrap();
    let theirs = Tokenizer::load(&shipped(), 77, 4096).unwrap();
    let long = "a very long prompt about a dog ".repeat(20);
    for prompt in PROMPTS.iter().copied().chain([long.as_str()]) {
        let (a, b) = (ours.encode(prompt).unwrap(), theirs.encode(prompt).unwrap());
        assert_eq!(a.tokens, b.tokens, "{prompt:?}");
        assert_eq!(a.cut, b.cut, "{prompt:?}");
        assert_eq!(a.tokens.len(), 77);
    }
}

#[test]
fn a_long_prompt_says_where_it_was_cut() {
    let tokenizer = Tokenizer::load(&shipped(), 77, 4096).unwrap();
    let prompt =
        (0..500).map(|i| format!("dog{}", if i % 2 == 0 { "" } else { "s" })).collect::<Vec<_>>().join(" ");
    let encoded = tokenizer.encode(&prompt).unwrap();
    assert_eq!(encoded.end, 76);
    let cut = encoded.cut.unwrap();
    assert!(prompt.ends_with(&cut) && cut.len() < prompt.len(), "{cut}");
    let kept: Vec<&str> = encoded.tokens[1..76].iter().map(|t| t.text.as_str()).collect();
    assert!(
        prompt.replace(' ', "").starts_with(&kept.concat()),
        "what was kept and what was cut make the prompt"
    );
}

#[test]
fn a_vocabulary_that_is_too_large_is_an_error() {
    let error = Tokenizer::load(&shipped(), 77, 100).unwrap_err().to_string();
    assert!(error.contains("the text encoder has 100"), "{error}");
}

#[test]
fn words_find_all_their_columns() {
    let m = Model::load("emoji", &LoadOptions::default()).unwrap();
    let text = m.encode_text("a dog and a cup of coffee, a dog").unwrap();
    assert_eq!(text.columns("dog").unwrap(), [2, 10]);
    assert_eq!(text.columns("cup of coffee").unwrap(), [5, 6, 7]);
    assert_eq!(text.columns("Coffee").unwrap(), [7]);
    let error = text.columns("cat").unwrap_err();
    assert!(error.expected_text().unwrap().contains("coffee"), "{error}");
    assert!(text.columns("  ").is_err());
}
