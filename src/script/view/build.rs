//! From variables to what can be seen of them.

use std::path::PathBuf;
use std::sync::Arc;

use image::{RgbImage, imageops};
use rhai::{Array, Dynamic, Map as Fields};

use super::{Cell, Curve, View, attention, model, runs};
use crate::engine::error::{Error, Result};
use crate::engine::image::Picture;
use crate::engine::trajectory::Trajectory;
use crate::engine::weights::model::Model;
use crate::report::{Report, plain};
use crate::script::bind::{self, Edits};
use crate::script::errors::from_engine;
use crate::script::session::Session;
use crate::script::{catalog, types};

/// What can be seen, for messages.
const VIEWABLE: &str = "a Trajectory (or two), an Image or a list of Images, an Attention that has recorded, a list of numbers, \
                        a map with losses, or a Model";

/// Pictures of one sheet.
const MOST: usize = 1024;

impl Session {
    /// What there is to see in variables. Errors: no such variable, or nothing in it that can be seen; the message says what
    /// can.
    pub fn view(&self, names: &[String]) -> std::result::Result<View, Box<Report>> {
        if names.is_empty() {
            return Err(Box::new(self.nothing_named()));
        }
        let mut values = Vec::new();
        for name in names {
            let Some(value) = self.value_of(name) else { return Err(Box::new(self.unknown(name))) };
            values.push((name.as_str(), value));
        }
        see(&values).map_err(|e| Box::new(from_engine(&e)))
    }

    /// The picture of level `i` of a run that a variable holds, decoded. Errors: the variable holds another value by now.
    pub fn view_level(&self, name: &str, i: usize) -> std::result::Result<Arc<RgbImage>, Box<Report>> {
        let tr = self.value_of(name).and_then(|v| v.read_lock::<Trajectory>().map(|t| t.clone()));
        let gone = || Error::missing("view", format!("{name} is no run any more"));
        let picture = tr.ok_or_else(gone).and_then(|tr| runs::decoded(&tr, i));
        picture.map(Arc::new).map_err(|e| Box::new(from_engine(&e)))
    }

    /// Saves a picture that is looked at; the path.
    pub fn view_save(&self, picture: &RgbImage, name: &str) -> std::result::Result<PathBuf, Box<Report>> {
        bind::save_picture(self.host(), picture, name).map_err(|e| Box::new(from_engine(&e)))
    }

    fn unknown(&self, name: &str) -> Report {
        let variables = self.variables();
        let report = Report::new("missing", format!(":view: there is no variable {}", plain(name)));
        match catalog::nearest(name, variables.iter().map(|v| v.name.as_str())) {
            Some(near) => report.hint(format!("did you mean {near}?")),
            None => report.hint("a value needs a name first: let v = ...; then :view v"),
        }
    }

    fn nothing_named(&self) -> Report {
        let seen = |name: &str| self.value_of(name).is_some_and(|v| can_be_seen(&v));
        let names: Vec<String> = self.variables().into_iter().map(|v| v.name).filter(|n| seen(n)).collect();
        let report = Report::new("value", ":view what?").expected(format!("the name of {VIEWABLE}"));
        match &names[..] {
            [] => report.hint("let a = load().sample(\"a dog\"); then :view a"),
            names => report.hint(format!(":view {}", names.join(", :view "))),
        }
    }
}

/// Whether a value is of a kind that can be seen.
fn can_be_seen(value: &Dynamic) -> bool {
    value.is::<Trajectory>()
        || value.is::<Model>()
        || value.is::<Edits>()
        || cells("", value).is_ok_and(|c| c.is_some())
        || !curves("", value).is_empty()
}

fn see(values: &[(&str, Dynamic)]) -> Result<View> {
    let all = |is: fn(&Dynamic) -> bool| values.iter().all(|(_, v)| is(v));
    if all(|v| v.is::<Trajectory>()) {
        let runs: Vec<(&str, Trajectory)> =
            values.iter().filter_map(|(n, v)| Some((*n, v.read_lock::<Trajectory>()?.clone()))).collect();
        return Ok(View::Runs(runs::look(&runs)?));
    }
    let curves: Vec<Vec<Curve>> = values.iter().map(|(n, v)| curves(n, v)).collect();
    if curves.iter().all(|c| !c.is_empty()) {
        return Ok(View::Curves(curves.concat()));
    }
    let mut sheet = Vec::new();
    for (name, value) in values {
        match cells(name, value)? {
            Some(cells) => sheet.extend(cells),
            None => {
                sheet.clear();
                break;
            }
        }
    }
    if !sheet.is_empty() {
        return Ok(View::Sheet(sheet));
    }
    if let [(name, value)] = values {
        if let Some(edits) = value.read_lock::<Edits>() {
            return Ok(View::Attention(attention::look(&edits.attention)?));
        }
        if let Some(m) = value.read_lock::<Model>() {
            return Ok(View::Model(model::look(name, &m)));
        }
    }
    Err(nothing(values))
}

fn nothing(values: &[(&str, Dynamic)]) -> Error {
    let kinds: Vec<String> = values.iter().map(|(n, v)| format!("{n}: {}", types::name(v))).collect();
    let error = match values {
        [(name, _)] => Error::value("view", format!("there is nothing to see in {name}")),
        _ => Error::value("view", "these cannot be seen together"),
    };
    let error = error.expected(VIEWABLE).got(kinds.join(", "));
    match values.iter().any(|(_, v)| types::name(v) == "Latent") {
        true => error.hint("let p = m.decode(z); then :view p"),
        false => error,
    }
}

/// The pictures of a value, with what is known of each. `None`: it is no picture.
fn cells(name: &str, value: &Dynamic) -> Result<Option<Vec<Cell>>> {
    if let Some(picture) = value.read_lock::<Picture>() {
        return Ok(Some(of_picture(name, &picture)?));
    }
    let Some(list) = value.read_lock::<Array>() else { return Ok(None) };
    if list.is_empty() || list.len() > MOST {
        return Ok(None);
    }
    let mut cells = Vec::new();
    for (i, item) in list.iter().enumerate() {
        match labelled(item) {
            Some((label, picture)) => {
                let label = if label.is_empty() { format!("{name}[{i}]") } else { label };
                cells.extend(of_picture(&label, &picture)?);
            }
            None => return Ok(None),
        }
    }
    Ok(Some(cells))
}

/// A picture, or a map with one: its other fields are what is known of it.
fn labelled(item: &Dynamic) -> Option<(String, Picture)> {
    if let Some(picture) = item.read_lock::<Picture>() {
        return Some((String::new(), picture.clone()));
    }
    let map = item.read_lock::<Fields>()?;
    let picture = map.values().find_map(|v| v.read_lock::<Picture>().map(|p| p.clone()))?;
    let fields = map.iter().filter(|(_, v)| !v.is::<Picture>());
    let fields: Vec<String> = fields.map(|(k, v)| format!("{k} {}", types::line(v))).collect();
    Some((plain(&fields.join("  ")).into_owned(), picture))
}

fn of_picture(name: &str, picture: &Picture) -> Result<Vec<Cell>> {
    let all = picture.to_rgbs()?;
    if let ([sheet], places) = (&all[..], picture.places())
        && !places.is_empty()
    {
        let cell = |(i, place): (usize, &crate::engine::image::Place)| {
            let (x, y, w, h) = place.at;
            let label = match plain(&place.label) {
                label if label.is_empty() => format!("{name}, picture {i}"),
                label => label.replace('\n', " "),
            };
            Cell { label, picture: Arc::new(imageops::crop_imm(sheet, x, y, w, h).to_image()) }
        };
        return Ok(places.iter().enumerate().map(cell).collect());
    }
    let many = all.len() > 1;
    let label = |i: usize| if many { format!("{name}, picture {i}") } else { name.to_string() };
    let cells = all.into_iter().enumerate();
    Ok(cells.map(|(i, p)| Cell { label: label(i), picture: Arc::new(p) }).collect())
}

/// Numbers over steps: a list of numbers, the lists of a map, a list of such lists. Empty: there are none.
fn curves(name: &str, value: &Dynamic) -> Vec<Curve> {
    if let Some(values) = numbers(value) {
        return vec![Curve { name: name.to_string(), values }];
    }
    if let Some(map) = value.read_lock::<Fields>() {
        let named = |(k, v): (&str, &Dynamic)| {
            Some(Curve { name: plain(&format!("{name}.{k}")).into_owned(), values: numbers(v)? })
        };
        // The losses of a run, where there are some; else every list of numbers.
        if let Some(losses) = map.get("losses").and_then(|v| named(("losses", v))) {
            return vec![losses];
        }
        return map.iter().filter_map(|(k, v)| named((k.as_str(), v))).collect();
    }
    let Some(list) = value.read_lock::<Array>().filter(|l| l.len() <= 16) else { return Vec::new() };
    let each = |(i, v): (usize, &Dynamic)| Some(Curve { name: format!("{name}[{i}]"), values: numbers(v)? });
    list.iter().enumerate().map(each).collect::<Option<_>>().unwrap_or_default()
}

/// A list of two numbers or more.
fn numbers(value: &Dynamic) -> Option<Vec<f64>> {
    let list = value.read_lock::<Array>().filter(|l| l.len() > 1)?;
    list.iter().map(|v| v.as_float().ok().or_else(|| v.as_int().ok().map(|i| i as f64))).collect()
}
