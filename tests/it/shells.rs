//! Completion in the user's own shell, and the manual page.

use std::path::Path;
use std::process::Command;

use crate::program::{Done, Room};

/// What bash offers for a line whose last word is being typed, by the function that it calls for Tab.
fn bash(room: &Room, line: &str) -> Option<Vec<String>> {
    let folder = Path::new(env!("CARGO_BIN_EXE_scumble")).parent().unwrap();
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap_or_default());
    // bash cuts a line at = as well, as COMP_WORDBREAKS says.
    let mut words: Vec<String> = Vec::new();
    for word in line.split(' ') {
        match word.split_once('=') {
            Some((key, "")) => words.extend([key.to_string(), "=".into()]),
            Some((key, value)) => words.extend([key.to_string(), "=".into(), value.into()]),
            None => words.push(word.into()),
        }
    }
    let last = words.last().cloned().unwrap_or_default();
    let current = if last == "=" { "" } else { &last };
    let quoted: Vec<String> = words.iter().map(|w| format!("'{w}'")).collect();
    let script = format!(
        "source <(scumble completions bash) || exit 1\n\
         COMP_WORDS=({}); COMP_CWORD={}; COMP_LINE='{line}'; COMP_POINT={}; COMP_TYPE=9\n\
         _clap_complete_scumble scumble '{current}' ''\n\
         printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        quoted.join(" "),
        words.len() - 1,
        line.len(),
    );
    let mut command = Command::new("bash");
    command.args(["--norc", "-c", &script]).current_dir(room.path("")).env_clear();
    let Ok(output) = command.envs(room.environment()).env("PATH", path).output() else {
        eprintln!("there is no bash here: not tested");
        return None;
    };
    let done = Done::from(output);
    assert_eq!(done.code, 0, "{}", done.err);
    Some(done.out.lines().map(String::from).collect())
}

#[test]
fn bash_completes_flags_recipes_options_and_values() {
    let room = Room::new();
    room.write("mine.rhai", "let o = options(args, #{ fog: opt(0.5, 0.0..1.0, \"how much\") });");
    let Some(found) = bash(&room, "scumble run magicmix la") else { return };
    assert_eq!(found, ["layout="]);
    let offers = |line: &str| bash(&room, line).unwrap();
    assert_eq!(offers("scumble ru"), ["run"]);
    assert!(offers("scumble run mag").contains(&"magicmix_grid".to_string()));
    assert_eq!(offers("scumble run mi"), ["mine.rhai"]);
    assert_eq!(offers("scumble run mine.rhai fo"), ["fog="]);
    assert!(!offers("scumble run magicmix layout=x ").contains(&"layout=".to_string()));
    assert!(offers("scumble run magicmix layout=x ").contains(&"content=".to_string()));
    assert_eq!(offers("scumble run sdedit image=dog-f"), ["dog-flat.png"]);
    assert_eq!(offers("scumble run magicmix_grid study=see"), ["seeds"]);
    assert!(offers("scumble run magicmix_grid study=").contains(&"nu".to_string()));
    assert_eq!(offers("scumble run magicmix sampl"), ["sampler="]);
    assert!(offers("scumble --max").contains(&"--max-memory".to_string()));
    assert_eq!(offers("scumble --dtype b"), ["bf16"]);
    assert_eq!(offers("scumble doc blen"), ["blend"]);
    assert_eq!(offers("scumble --model em"), ["emoji"]);
}

#[test]
fn other_shells_have_theirs() {
    let room = Room::new();
    for (shell, part) in [("zsh", "#compdef scumble"), ("fish", "complete")] {
        let done = room.run(&["completions", shell]);
        assert_eq!(done.code, 0);
        assert!(done.out.contains(part) && done.out.contains("scumble"), "{shell}: {}", done.out);
        // They ask the program with the whole word, key and value.
        let mut command = room.command(&["--", "scumble", "run", "sdedit", "image=dog-f"]);
        let done =
            Done::from(command.env("COMPLETE", shell).env("_CLAP_COMPLETE_INDEX", "3").output().unwrap());
        assert!(done.out.starts_with("image=dog-flat.png"), "{shell}: {}", done.out);
    }
    assert_eq!(room.run(&["completions", "csh"]).code, 2);
}

#[test]
fn the_manual_page_has_flags_recipes_commands_and_settings() {
    let room = Room::new();
    let page = room.run(&["man"]);
    assert_eq!((page.code, &*page.err), (0, ""));
    for part in [".TH scumble", "max\\-memory", "magicmix", "k_max", ":watch", "notify_after", "EXIT STATUS"]
    {
        assert!(page.out.contains(part), "{part}");
    }
}
