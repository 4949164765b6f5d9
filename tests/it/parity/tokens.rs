//! transformers' CLIPTokenizer.

use scumble::engine::weights::folder::Folder;
use scumble::engine::weights::tokenizer::Tokenizer;

#[test]
fn token_ids_are_equal() {
    let json = super::json("tokens.json");
    let (pad, length) = (json["pad"].as_u64().unwrap() as u32, json["length"].as_u64().unwrap() as usize);
    let tokenizer = Tokenizer::load(&Folder::shipped().unwrap().sub("tokenizer"), length, 4096).unwrap();
    let cases = json["cases"].as_array().unwrap();
    assert!(cases.len() > 10);
    for case in cases {
        let prompt = case["prompt"].as_str().unwrap();
        let mut expected: Vec<u32> =
            case["ids"].as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect();
        expected.resize(length, pad);
        let encoded = tokenizer.encode(prompt).unwrap();
        let ids: Vec<u32> = encoded.tokens.iter().map(|t| t.id).collect();
        assert_eq!(ids, expected, "{prompt:?}");
        assert_eq!(encoded.cut.is_some(), case["cut"].as_bool().unwrap(), "{prompt:?}");
    }
}
