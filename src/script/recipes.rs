//! Recipes: the built-in ones and files; their help and checks.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use rhai::{Engine, OptimizationLevel, Scope};

use super::catalog::nearest;
use super::errors::{Context, from_parse};
use super::host::Host;
use super::options::{Column, Recipe, help as option_help};
use super::sources::Sources;
use super::{check as checks, engine};
use crate::report::{Exit, Report};

/// Built-in recipes: name and text.
pub const BUILT_IN: &[(&str, &str)] = &[
    ("text2image", include_str!("../../scripts/text2image.rhai")),
    ("sdedit", include_str!("../../scripts/sdedit.rhai")),
    ("magicmix", include_str!("../../scripts/magicmix.rhai")),
    ("interpolate", include_str!("../../scripts/interpolate.rhai")),
    ("compose", include_str!("../../scripts/compose.rhai")),
    ("imagic", include_str!("../../scripts/imagic.rhai")),
    ("dreambooth", include_str!("../../scripts/dreambooth.rhai")),
    ("finetune", include_str!("../../scripts/finetune.rhai")),
    ("textual_inversion", include_str!("../../scripts/textual_inversion.rhai")),
    ("magicmix_grid", include_str!("../../scripts/magicmix_grid.rhai")),
    ("inpaint", include_str!("../../scripts/inpaint.rhai")),
    ("concept_removal", include_str!("../../scripts/concept_removal.rhai")),
    ("train_lgp", include_str!("../../scripts/train_lgp.rhai")),
    ("sketch_guided", include_str!("../../scripts/sketch_guided.rhai")),
    ("magicfusion", include_str!("../../scripts/magicfusion.rhai")),
    ("disentangle", include_str!("../../scripts/disentangle.rhai")),
    ("prompt2prompt", include_str!("../../scripts/prompt2prompt.rhai")),
    ("invert", include_str!("../../scripts/invert.rhai")),
    ("report", include_str!("../../scripts/report.rhai")),
];

/// Names of the built-in recipes.
pub fn names() -> Vec<&'static str> {
    BUILT_IN.iter().map(|(n, _)| *n).collect()
}

/// The folder of the user's own recipes.
pub fn user_folder() -> Option<PathBuf> {
    dirs::config_dir().map(|d| d.join("scumble").join("recipes"))
}

/// A recipe by name (built-in, or a file in the user's folder) or by path.
/// Errors (exit code 2): there is none; it cannot be read; its options cannot be read.
pub fn find(name: &str) -> Result<Recipe, Report> {
    let (stem, path, text) = load(name)?;
    let source = path.as_ref().map_or_else(|| format!("{stem}.rhai"), |p| p.display().to_string());
    let mut reader = Engine::new();
    engine::limits(&mut reader);
    // Variables and modules are checked by the session that runs it.
    reader.set_strict_variables(false);
    reader.set_optimization_level(OptimizationLevel::None);
    let ast = reader.compile(&text).map_err(|e| {
        let mut sources = Sources::default();
        sources.add(&source, &text);
        from_parse(&e, &Context { sources: &sources, current: &source, names: &[] })
    })?;
    Recipe::read(&stem, path, &text, &ast)
}

/// The file of a recipe; `None`: it is built in. Errors (exit code 2): there is no such recipe, or it cannot be read.
pub fn file_of(name: &str) -> Result<Option<PathBuf>, Report> {
    Ok(load(name)?.1)
}

/// The text of a built-in recipe.
pub fn built_in(name: &str) -> Option<&'static str> {
    BUILT_IN.iter().find(|(n, _)| *n == name).map(|(_, text)| *text)
}

/// Names of the recipes in the user's own folder.
pub fn own_names() -> Vec<String> {
    let entries = user_folder().and_then(|folder| std::fs::read_dir(folder).ok());
    let files = entries.into_iter().flatten().flatten().take(5000);
    let name = |f: std::fs::DirEntry| Some(f.file_name().to_str()?.strip_suffix(".rhai")?.to_string());
    let mut names: Vec<String> = files.filter_map(name).filter(|n| crate::report::plain(n) == *n).collect();
    names.sort();
    names
}

fn load(name: &str) -> Result<(String, Option<PathBuf>, String), Report> {
    let path = Path::new(name);
    let looks_like_file = name.ends_with(".rhai") || path.components().count() > 1;
    if !looks_like_file {
        if let Some((n, text)) = BUILT_IN.iter().find(|(n, _)| *n == name) {
            return Ok(((*n).to_string(), None, (*text).to_string()));
        }
        if let Some(own) = user_folder().map(|d| d.join(format!("{name}.rhai"))).filter(|p| p.is_file()) {
            return read_file(&own);
        }
    }
    if path.is_file() {
        return read_file(path);
    }
    let report = Report::usage(if looks_like_file {
        format!("there is no recipe file {name}")
    } else {
        format!("there is no recipe {name}")
    });
    let report = report.expected(format!("a .rhai file, or one of {}", names().join(" ")));
    Err(match nearest(&stem_of(path), names()) {
        Some(near) => report.hint(format!("did you mean {near}?")),
        None => report,
    })
}

fn stem_of(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().to_string()
}

fn read_file(path: &Path) -> Result<(String, Option<PathBuf>, String), Report> {
    let bad = |e: &dyn std::fmt::Display| {
        Report::new("file", format!("{}: {e}", path.display()))
            .exit(Exit::Usage)
            .hint("a recipe is a text file in the Rhai language")
    };
    let length = path.metadata().map_err(|e| bad(&e))?.len();
    if length > super::modules::MAX_TEXT {
        return Err(bad(&"the file is too long for a recipe"));
    }
    let text = std::fs::read_to_string(path).map_err(|e| bad(&e))?;
    Ok((stem_of(path), Some(path.to_path_buf()), text))
}

/// The text of `scumble run RECIPE --help`; `column` holds the loaded model's measured defaults.
pub fn help(recipe: &Recipe, column: Option<&Column>) -> String {
    // The text comes from a file that nobody has looked at yet.
    crate::report::plain(&option_help::render(recipe, column)).into_owned()
}

/// The first line of a recipe's header: paper, authors, year.
pub fn summary(recipe: &Recipe) -> String {
    crate::report::plain(recipe.header.lines().next().unwrap_or_default().trim()).into_owned()
}

/// The options of a recipe; empty if there is no such recipe.
pub fn option_names(name: &str) -> Vec<String> {
    find(name).map(|r| r.specs.into_iter().map(|s| s.name).collect()).unwrap_or_default()
}

/// What is wrong with a recipe, found without running it; empty if nothing is.
/// Needs a large stack (see [`super::thread`]).
pub fn check(name: &str) -> Vec<Report> {
    let (stem, path, text) = match load(name) {
        Ok(found) => found,
        Err(report) => return vec![report],
    };
    let source = path.as_ref().map_or_else(|| format!("{stem}.rhai"), |p| p.display().to_string());
    let host = Rc::new(Host::idle());
    let engine = engine::create(&host);
    let known = checks::functions(&engine);
    checks::check(&engine, known, &source, &text, &scope())
}

/// The variables that every recipe starts with.
pub fn scope() -> Scope<'static> {
    let mut scope = Scope::new();
    scope.push("args", rhai::Map::new());
    scope
}
