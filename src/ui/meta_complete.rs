//! Completion of the `:` and `?` lines.

use super::config::keys::{self, KEYS, Takes};
use super::meta;
use crate::script::complete::{self, Candidate};
use crate::script::{Snapshot, catalog, recipes};

/// Candidates for the word at `pos` of a `:` or `?` line, and where it starts. `None`: not such a line.
pub fn at(line: &str, pos: usize, snapshot: &Snapshot) -> Option<(usize, Vec<Candidate>)> {
    let before = line.get(..pos)?;
    let candidate = |name: &str, detail: &str| Candidate {
        replacement: name.to_string(),
        display: name.to_string(),
        detail: detail.to_string(),
    };
    let starting = |typed: &str, mut all: Vec<Candidate>| {
        all.retain(|c| c.replacement.starts_with(typed));
        (pos - typed.len(), all)
    };
    let documented = || {
        let mut all: Vec<Candidate> = catalog::all().iter().map(|e| candidate(&e.name, &e.usage())).collect();
        all.extend(recipes::names().iter().map(|n| candidate(n, "recipe")));
        all.sort_by(|a, b| a.replacement.cmp(&b.replacement));
        all.dedup_by(|a, b| a.replacement == b.replacement);
        all
    };
    if let Some(typed) = before.strip_prefix("??").or_else(|| before.strip_prefix('?')) {
        return Some(starting(typed, documented()));
    }
    let rest = before.strip_prefix(':')?;
    let Some((word, arguments)) = rest.split_once(' ') else {
        return Some(starting(rest, meta::COMMANDS.iter().map(|c| candidate(c.name, c.about)).collect()));
    };
    let typed = arguments.rsplit(' ').next().unwrap_or_default();
    match meta::find(word).map(|c| c.name) {
        // Pictures among the variables; files complete where nothing is known of.
        Some("get") => {
            let pictures = snapshot.variables.iter().filter(|(_, ty)| ty.starts_with("Image"));
            Some(starting(typed, pictures.map(|(n, ty)| candidate(n, ty)).collect()))
        }
        Some("doctor") => Some(starting(typed, vec![candidate("--pictures", "a test card")])),
        Some("serve") => Some(starting(typed, vec![candidate("stop", "the address is dead then")])),
        Some("free" | "view") => {
            Some(starting(typed, snapshot.variables.iter().map(|(n, ty)| candidate(n, ty)).collect()))
        }
        Some("help") => Some(starting(typed, documented())),
        Some("set") if !arguments.contains(' ') => {
            Some(starting(typed, KEYS.iter().map(|k| candidate(k.name, k.about)).collect()))
        }
        Some("set") => {
            let words = match arguments.split(' ').next().and_then(keys::find).map(|k| k.takes) {
                Some(Takes::Choice(words) | Takes::Command(words)) => words,
                Some(Takes::Bool) => &["true", "false"],
                _ => return Some((pos, Vec::new())),
            };
            Some(starting(typed, words.iter().map(|w| candidate(w, "")).collect()))
        }
        Some("edit") if !arguments.contains('/') => {
            let mut all: Vec<Candidate> = snapshot
                .functions
                .iter()
                .map(|(n, p)| candidate(n, &format!("{n}({})", p.join(", "))))
                .collect();
            all.extend(complete::recipes());
            all.extend(complete::paths(typed));
            Some(starting(typed, all))
        }
        Some("bench") if !arguments.contains(' ') => Some((pos, Vec::new())),
        Some("time" | "bench") => {
            let at = pos - arguments.len();
            let (start, found) = complete::complete(arguments, arguments.len(), snapshot);
            Some((at + start, found))
        }
        _ => Some(complete::complete(line, pos, snapshot)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completion_of_commands_and_their_arguments() {
        let snapshot = Snapshot { variables: vec![("zebra".into(), "Latent".into())], ..Snapshot::default() };
        let found = |line: &str| {
            let (start, list) = at(line, line.len(), &snapshot).unwrap();
            (start, list.into_iter().map(|c| c.replacement).collect::<Vec<_>>())
        };
        assert_eq!(found(":va"), (1, vec!["vars".to_string()]));
        assert_eq!(found(":free ze"), (6, vec!["zebra".to_string()]));
        assert_eq!(found(":run magicmix k_m").1, ["k_max=", "k_min="]);
        assert_eq!(found("?ble"), (1, vec!["blend".to_string()]));
        assert_eq!(found(":time ble"), (6, vec!["blend".to_string()]));
        assert_eq!(found(":bench 20 ble"), (10, vec!["blend".to_string()]));
        assert_eq!(found(":set gra"), (5, vec!["graphics".to_string()]));
        assert_eq!(found(":set graphics k"), (14, vec!["kitty".to_string()]));
        assert_eq!(found(":edit magicmix_").1, ["magicmix_grid"]);
        assert!(at("ble", 3, &snapshot).is_none());
    }
}
