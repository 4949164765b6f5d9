//! The types that scripts handle: their names, the line that shows a value, how much memory it holds.
//!
//! One line per value: type, shape, two statistics; never numbers by the page. Rust's own `Debug` output of Rhai
//! values prints Rust paths, so arrays and maps are walked here.

use std::any::TypeId;
use std::fmt::Write;
use std::sync::Mutex;

use rhai::{Array, Dynamic, FnPtr, ImmutableString, Map};

/// Longest line that [`line`] makes, in characters.
const LINE: usize = 200;

/// A type of ours that scripts handle: an immutable handle, cheap to clone.
pub trait Handle: Clone + 'static {
    /// The name scripts see ("Latent").
    const NAME: &'static str;

    /// What stands after the name: "1x4x16x16  mean 0.01  std 0.99".
    fn detail(&self) -> String;

    /// Bytes that the value keeps alive (0: not worth telling).
    fn bytes(&self) -> usize {
        0
    }
}

/// What the host knows about one handle type.
#[derive(Clone, Copy)]
pub struct TypeInfo {
    /// Rust's id of the type.
    pub id: TypeId,
    /// The name scripts see.
    pub name: &'static str,
    detail: fn(&Dynamic) -> Option<String>,
    bytes: fn(&Dynamic) -> Option<usize>,
}

static TYPES: Mutex<Vec<TypeInfo>> = Mutex::new(Vec::new());

/// Makes a handle type known to [`line`] and [`name`]. Doing it again changes nothing.
pub fn know<T: Handle>() {
    let info = TypeInfo {
        id: TypeId::of::<T>(),
        name: T::NAME,
        detail: |v| v.read_lock::<T>().map(|x| x.detail()),
        bytes: |v| v.read_lock::<T>().map(|x| x.bytes()),
    };
    let mut types = TYPES.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if !types.iter().any(|t| t.id == info.id) {
        types.push(info);
    }
}

fn info(value: &Dynamic) -> Option<TypeInfo> {
    let id = inner_type(value);
    let types = TYPES.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    types.iter().find(|t| t.id == id).copied()
}

/// Whether a value is of one of our own types.
pub fn is_handle(value: &Dynamic) -> bool {
    info(value).is_some()
}

fn inner_type(value: &Dynamic) -> TypeId {
    // `type_id` of a shared value is already that of what it holds.
    value.type_id()
}

/// The name of a value's type, as scripts and messages call it.
pub fn name(value: &Dynamic) -> String {
    if value.is_unit() {
        return "nothing".into();
    }
    if let Some(info) = info(value) {
        return info.name.into();
    }
    let id = inner_type(value);
    let known: &[(TypeId, &str)] = &[
        (TypeId::of::<i64>(), "integer"),
        (TypeId::of::<f64>(), "number"),
        (TypeId::of::<bool>(), "true or false"),
        (TypeId::of::<char>(), "character"),
        (TypeId::of::<ImmutableString>(), "string"),
        (TypeId::of::<Array>(), "list"),
        (TypeId::of::<Map>(), "map"),
        (TypeId::of::<FnPtr>(), "function"),
        (TypeId::of::<std::ops::Range<i64>>(), "range"),
        (TypeId::of::<std::ops::RangeInclusive<i64>>(), "range"),
        (TypeId::of::<rhai::Blob>(), "bytes"),
    ];
    known.iter().find(|(k, _)| *k == id).map_or_else(
        || value.type_name().rsplit("::").next().unwrap_or("value").to_string(),
        |(_, n)| (*n).to_string(),
    )
}

/// Bytes that a value keeps alive, walked through lists and maps.
pub fn bytes(value: &Dynamic) -> usize {
    if let Some(info) = info(value) {
        return (info.bytes)(value).unwrap_or(0);
    }
    if let Some(list) = value.read_lock::<Array>() {
        return list.iter().map(|v| bytes(v) + size_of::<Dynamic>()).sum();
    }
    if let Some(map) = value.read_lock::<Map>() {
        return map.iter().map(|(k, v)| k.len() + bytes(v) + size_of::<Dynamic>()).sum();
    }
    value.read_lock::<ImmutableString>().map_or(0, |s| s.len())
}

/// One line for the prompt, `:vars` and messages.
pub fn line(value: &Dynamic) -> String {
    let mut out = String::new();
    write_value(&mut out, value, 0);
    if out.chars().count() > LINE {
        out = out.chars().take(LINE - 1).collect::<String>() + "…";
    }
    out
}

/// Type and value for the `got` line of an error: `string "abc"`.
pub fn got(value: &Dynamic) -> String {
    if value.is_unit() {
        return "nothing, ()".into();
    }
    let shown = line(value);
    let name = name(value);
    let text = if shown.starts_with(&name) { shown } else { format!("{name} {shown}") };
    if text.chars().count() > 80 { text.chars().take(79).collect::<String>() + "…" } else { text }
}

/// A number as short as it can be said: at most 5 digits.
pub fn number(x: f64) -> String {
    if x == x.trunc() && x.abs() < 1e6 {
        return format!("{x:.1}");
    }
    let text = if x.abs() >= 1e-3 && x.abs() < 1e6 {
        let digits = (4 - x.abs().log10().floor() as i32).clamp(0, 7) as usize;
        format!("{x:.digits$}")
    } else {
        format!("{x:.4e}")
    };
    if text.contains('.') && !text.contains('e') {
        text.trim_end_matches('0').trim_end_matches('.').to_string()
    } else {
        text
    }
}

/// Bytes for people: "12 KiB", "3.4 MiB".
pub fn size(bytes: usize) -> String {
    let b = bytes as f64;
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{:.0} KiB", b / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", b / 1_048_576.0),
        _ => format!("{:.2} GiB", b / 1_073_741_824.0),
    }
}

fn write_value(out: &mut String, value: &Dynamic, depth: usize) {
    if out.chars().count() > LINE {
        return;
    }
    if let Some(info) = info(value) {
        let detail = (info.detail)(value).unwrap_or_default();
        let _ = write!(out, "{}{}{detail}", info.name, if detail.is_empty() { "" } else { " " });
    } else if let Some(list) = value.read_lock::<Array>() {
        write_list(out, &list, depth);
    } else if let Some(map) = value.read_lock::<Map>() {
        write_map(out, &map, depth);
    } else if let Some(x) = value.read_lock::<f64>() {
        out.push_str(&number(*x));
    } else if let Some(s) = value.read_lock::<ImmutableString>() {
        let _ = write!(out, "{:?}", s.as_str());
    } else if let Some(f) = value.read_lock::<FnPtr>() {
        let name = if f.is_anonymous() { "|...|" } else { f.fn_name() };
        let _ = write!(out, "function {name}");
    } else if let Some(r) = value.read_lock::<std::ops::Range<i64>>() {
        let _ = write!(out, "{}..{}", r.start, r.end);
    } else if let Some(r) = value.read_lock::<std::ops::RangeInclusive<i64>>() {
        let _ = write!(out, "{}..={}", r.start(), r.end());
    } else if let Some(b) = value.read_lock::<rhai::Blob>() {
        let _ = write!(out, "bytes, {}", size(b.len()));
    } else if value.is_unit() {
        out.push_str("()");
    } else {
        let _ = write!(out, "{value}");
    }
}

fn write_list(out: &mut String, list: &[Dynamic], depth: usize) {
    let numbers: Option<Vec<f64>> =
        list.iter().map(|v| v.as_float().ok().or_else(|| v.as_int().ok().map(|i| i as f64))).collect();
    if let Some(x) = numbers.filter(|x| x.len() > 12) {
        let (lo, hi) = x.iter().fold((f64::MAX, f64::MIN), |(lo, hi), &v| (lo.min(v), hi.max(v)));
        let mean = x.iter().sum::<f64>() / x.len() as f64;
        let head: Vec<String> = list.iter().take(4).map(line).collect();
        let _ = write!(
            out,
            "[{}, …] {} numbers  min {}  max {}  mean {}",
            head.join(", "),
            x.len(),
            number(lo),
            number(hi),
            number(mean)
        );
        return;
    }
    if depth > 2 {
        let _ = write!(out, "[… {} values]", list.len());
        return;
    }
    out.push('[');
    for (i, v) in list.iter().enumerate() {
        if i > 0 {
            out.push_str(", ");
        }
        if i == 12 {
            let _ = write!(out, "… {} more", list.len() - i);
            break;
        }
        write_value(out, v, depth + 1);
    }
    out.push(']');
}

fn write_map(out: &mut String, map: &Map, depth: usize) {
    if depth > 2 {
        let _ = write!(out, "#{{… {} fields}}", map.len());
        return;
    }
    out.push_str("#{");
    for (i, (k, v)) in map.iter().enumerate() {
        out.push_str(if i > 0 { ", " } else { " " });
        let _ = write!(out, "{k}: ");
        write_value(out, v, depth + 1);
    }
    out.push_str(if map.is_empty() { "}" } else { " }" });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_values() {
        let show = |v: Dynamic| line(&v);
        assert_eq!(show(1_i64.into()), "1");
        assert_eq!(show(0.5.into()), "0.5");
        assert_eq!(show(2.0.into()), "2.0");
        assert_eq!(show(123.456_789.into()), "123.46");
        assert_eq!(show(1.5e-7.into()), "1.5000e-7");
        assert_eq!(show("a \"cat\"".into()), "\"a \\\"cat\\\"\"");
        assert_eq!(show(Dynamic::UNIT), "()");
        assert_eq!(show(vec![Dynamic::from(1_i64), "x".into()].into()), "[1, \"x\"]");
    }

    #[test]
    fn long_lists_are_summed_up() {
        let list: Array = (0..100_i64).map(Dynamic::from).collect();
        assert_eq!(line(&list.into()), "[0, 1, 2, 3, …] 100 numbers  min 0.0  max 99.0  mean 49.5");
        let words: Array = (0..1000).map(|_| Dynamic::from("word")).collect();
        assert!(line(&words.into()).chars().count() <= LINE);
    }

    #[test]
    fn nested_values_stay_on_one_line() {
        let mut map = Map::new();
        map.insert("a".into(), 1_i64.into());
        map.insert("b".into(), Dynamic::from_array(vec![true.into()]));
        assert_eq!(line(&map.into()), "#{ a: 1, b: [true] }");
    }

    #[test]
    fn sizes_are_for_people() {
        assert_eq!(size(10), "10 B");
        assert_eq!(size(4096), "4 KiB");
        assert_eq!(size(3 << 20), "3.0 MiB");
    }
}
