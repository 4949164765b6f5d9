//! Words of a command as a shell splits them, and `key=value` pairs.

/// Words of a line: quotes keep spaces, a backslash keeps the next character.
/// Errors: a quote that is not closed.
pub fn split(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut letters = text.chars();
    while let Some(c) = letters.next() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (q, '\\') if q != Some('\'') => word.get_or_insert_default().extend(letters.next()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    if let Some(q) = quote {
        return Err(format!("a quote {q} is not closed"));
    }
    words.extend(word);
    Ok(words)
}

/// `key=value` words. Errors: a word without `=`, or without a key.
pub fn pairs(words: &[String]) -> Result<Vec<(String, String)>, String> {
    words
        .iter()
        .map(|w| match w.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_string(), value.to_string())),
            _ => Err(format!("options are given as key=value, not \"{w}\"")),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_split_as_in_a_shell() {
        let words = |text: &str| split(text).unwrap();
        assert_eq!(words(r#"magicmix content="a lion" layout='x y.png'"#).len(), 3);
        assert_eq!(words(r#"magicmix content="a lion""#)[1], "content=a lion");
        assert_eq!(words(r#"a "" b"#), ["a", "", "b"]);
        assert_eq!(words(r"a\ b 'c\d'"), ["a b", r"c\d"]);
        assert!(words("  ").is_empty());
        assert!(split("a \"b").unwrap_err().contains("not closed"));
    }

    #[test]
    fn pairs_need_a_key_and_a_sign() {
        let pair = |w: &str| pairs(&[w.to_string()]);
        assert_eq!(pair("nu=0.5").unwrap(), [("nu".to_string(), "0.5".to_string())]);
        assert_eq!(pair("prompt=a=b").unwrap()[0].1, "a=b");
        assert!(pair("nu").is_err() && pair("=1").is_err());
    }
}
