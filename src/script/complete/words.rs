//! Words of prompts, for the functions that take one.

use super::is_plain;

/// Most words that are kept for completion.
const MOST: usize = 200;
/// Longest of them, in characters: what is longer nobody types twice.
const LONGEST: usize = 40;
/// Words of one prompt that are looked at.
const LOOKED_AT: usize = 200;

/// The words of prompts, each once, in their order; the first prompts' only, where there are many.
pub(in crate::script) fn words(prompts: impl Iterator<Item = String>) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for prompt in prompts {
        for word in prompt.split_whitespace().take(LOOKED_AT) {
            let word = word.trim_matches(|c: char| !c.is_alphanumeric());
            if all.len() == MOST {
                return all;
            }
            let fits = !word.is_empty() && word.chars().nth(LONGEST).is_none() && is_plain(word);
            if fits && !all.iter().any(|w| w == word) {
                all.push(word.to_string());
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stand_alone_and_are_bounded() {
        let of = |prompts: &[&str]| words(prompts.iter().map(|p| (*p).to_string()));
        assert_eq!(of(&["a dog, running -", "a \"cat\""]), ["a", "dog", "running", "cat"]);
        assert!(of(&["x\u{1b}[2Jy", &"z".repeat(50)]).is_empty());
        let many: String = (0..150).map(|i| format!("a{i} ")).collect();
        assert_eq!(of(&[&many, &many.replace('a', "b"), &many.replace('a', "c")]).len(), MOST);
    }
}
