//! The manual page, from the table of flags and the recipes.

use clap::CommandFactory;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use super::flags::Cli;
use crate::script::recipes;
use crate::ui::config::keys::KEYS;
use crate::ui::meta;

/// The page as roff. Errors: it cannot be written.
pub fn page() -> std::io::Result<String> {
    let mut page = Vec::new();
    let mut command = Cli::command();
    command.build();
    Man::new(command.clone()).render(&mut page)?;
    let mut more = Roff::new();
    more.control("SH", ["COMMANDS IN DETAIL"]);
    for sub in command.get_subcommands().filter(|s| s.get_name() != "help") {
        more.control("SS", [format!("scumble {}", sub.get_name()).as_str()]);
        more.text([roman(sub.get_about().map(|a| a.to_string()).unwrap_or_default())]);
        for arg in sub.get_arguments().filter(|a| !a.is_global_set()) {
            let name = match arg.get_long() {
                Some(long) => format!("--{long}"),
                None => arg.get_value_names().map_or_else(
                    || arg.get_id().to_string(),
                    |n| n.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
                ),
            };
            more.control("TP", []);
            more.text([bold(name)]);
            more.text([roman(arg.get_help().map(|h| h.to_string()).unwrap_or_default())]);
        }
    }
    more.control("SH", ["RECIPES"]);
    for name in recipes::names() {
        let Ok(recipe) = recipes::find(name) else { continue };
        more.control("SS", [name]);
        more.text([roman(recipes::summary(&recipe).trim_start_matches('/').trim())]);
        for spec in &recipe.specs {
            more.control("TP", []);
            more.text([bold(spec.name.as_str()), roman(format!("  {}", spec.takes()))]);
            more.text([roman(spec.doc.as_str())]);
        }
    }
    more.control("SH", ["PROMPT"]);
    more.text([roman("Typed at the prompt, beside code:")]);
    for c in meta::COMMANDS {
        more.control("TP", []);
        more.text([bold(format!(":{} {}", c.name, c.arguments))]);
        more.text([roman(c.about)]);
    }
    more.control("SH", ["SETTINGS"]);
    more.text([roman(
        "Keys of config.toml in the folder scumble of the configuration folder (~/.config). Each is also a variable, \
         SCUMBLE_ and its name in capitals. Flags win over variables, variables over the file.",
    )]);
    for key in KEYS {
        more.control("TP", []);
        more.text([bold(key.name), roman(format!("  {}", key.expected()))]);
        more.text([roman(format!("{} (default: {})", key.about, key.default))]);
    }
    more.control("SH", ["EXIT STATUS"]);
    more.text([roman(
        "0: done. 1: the script failed. 2: wrong usage. 130: interrupted. 143: terminated. 129: the terminal hung up.",
    )]);
    more.to_writer(&mut page)?;
    Ok(ascii(&String::from_utf8_lossy(&page)))
}

/// With roff's escapes for what is not ASCII, as roff itself reads no UTF-8.
fn ascii(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_ascii() { c.to_string() } else { format!("\\[u{:04X}]", u32::from(c)) })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_ascii_and_has_every_recipe() {
        let page = page().unwrap();
        assert!(page.is_ascii() && page.contains("\\[u2014]"), "the dash of the papers' lines");
        for name in recipes::names() {
            let heading = format!(".SS {}", name);
            assert!(page.contains(&heading) || page.contains(&heading.replace('_', "\\_")), "{name}");
        }
    }
}
