//! Scripts that exist, changed: tokens swapped, dropped, doubled, replaced; parts of others spliced in.

use scumble::script::scan;

use super::{Corpus, Rng, grammar};

/// A text with a few changes.
pub fn mutate(text: &str, corpus: &Corpus, rng: &mut Rng) -> String {
    let mut text = text.to_string();
    for _ in 0..1 + rng.below(4) {
        text = once(&text, corpus, rng);
        if text.len() > 20_000 {
            break;
        }
    }
    text
}

/// The pieces of a text, white space between them included.
fn tokens(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut end = 0;
    for (range, _) in scan::classes(text, &|_| true) {
        if range.start > end {
            out.push(text[end..range.start].to_string());
        }
        out.push(text[range.clone()].to_string());
        end = range.end;
    }
    out.push(text[end..].to_string());
    out
}

fn once(text: &str, corpus: &Corpus, rng: &mut Rng) -> String {
    let mut list = tokens(text);
    let n = list.len();
    let (i, j) = (rng.below(n), rng.below(n));
    match rng.below(14) {
        0 => {
            list.remove(i);
        }
        1 => {
            let (from, to) = (i.min(j), i.max(j).min(i.min(j) + 8));
            list.drain(from..to);
        }
        2 => list.swap(i, j),
        3 => {
            let copy = list[i].clone();
            list.insert(j, copy);
        }
        4..7 => {
            // A number becomes an awkward one.
            let numbers: Vec<usize> =
                (0..n).filter(|k| list[*k].starts_with(|c: char| c.is_ascii_digit())).collect();
            let at = if numbers.is_empty() { i } else { numbers[rng.below(numbers.len())] };
            list[at] = grammar::number(rng).into();
        }
        7 => {
            let names: Vec<usize> = (0..n).filter(|k| list[*k].starts_with(char::is_alphabetic)).collect();
            let at = if names.is_empty() { i } else { names[rng.below(names.len())] };
            list[at] = grammar::word(rng);
        }
        8 => {
            let signs = [
                "(", ")", "[", "]", "{", "}", ";", ",", ".", "|", "||", "?.", "::", "=", "#{", "`", "\"",
                "${", "=>", "this",
            ];
            list.insert(i, rng.pick(&signs).to_string());
        }
        9 => {
            // A part of another script.
            let other = tokens(&corpus.scripts[rng.below(corpus.scripts.len())]);
            let from = rng.below(other.len());
            let part: Vec<String> = other.into_iter().skip(from).take(1 + rng.below(12)).collect();
            list.splice(i..i, part);
        }
        10 => {
            let other = &corpus.scripts[rng.below(corpus.scripts.len())];
            return format!("{text}\n{other}");
        }
        11 => {
            let chars: Vec<char> = text.chars().collect();
            let at = rng.below(chars.len().max(1));
            let odd = ['\0', '\u{1b}', '\u{202e}', '猫', '\u{301}', '\r', '\u{feff}', '\\', '\u{85}', '🦀'];
            let odd = odd[rng.below(odd.len())];
            return chars[..at].iter().chain([&odd]).chain(&chars[at..]).collect();
        }
        12 => {
            list.truncate(i);
        }
        _ => {
            let more = grammar::Grammar::new(rng).script();
            list.insert(i, format!("\n{more}\n"));
        }
    }
    list.concat()
}
