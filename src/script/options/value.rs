//! [`Val`]: an option's value as plain data: it may cross threads, be compared, written into records.

use std::fmt;

use rhai::{Dynamic, Expr, Map};

/// A literal value.
#[derive(Clone, Debug, PartialEq)]
pub enum Val {
    /// `()`.
    None,
    /// `true`, `false`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A number.
    Float(f64),
    /// Words.
    Text(String),
    /// `[a, b]`.
    List(Vec<Val>),
    /// `#{ a: 1 }`.
    Map(Vec<(String, Val)>),
}

impl Val {
    /// As a number, if it is one.
    pub fn number(&self) -> Option<f64> {
        match self {
            Val::Int(i) => Some(*i as f64),
            Val::Float(x) => Some(*x),
            _ => None,
        }
    }

    /// As text, if it is text.
    pub fn text(&self) -> Option<&str> {
        match self {
            Val::Text(t) => Some(t),
            _ => None,
        }
    }

    /// For the script.
    pub fn to_dynamic(&self) -> Dynamic {
        match self {
            Val::None => Dynamic::UNIT,
            Val::Bool(b) => (*b).into(),
            Val::Int(i) => (*i).into(),
            Val::Float(x) => (*x).into(),
            Val::Text(t) => t.as_str().into(),
            Val::List(list) => Dynamic::from_array(list.iter().map(Val::to_dynamic).collect()),
            Val::Map(fields) => {
                let map: Map = fields.iter().map(|(k, v)| (k.as_str().into(), v.to_dynamic())).collect();
                map.into()
            }
        }
    }

    /// From the script; `None` for values that are no literals (latents, closures, ...).
    pub fn from_dynamic(value: &Dynamic) -> Option<Val> {
        if value.is_unit() {
            return Some(Val::None);
        }
        if let Ok(b) = value.as_bool() {
            return Some(Val::Bool(b));
        }
        if let Ok(i) = value.as_int() {
            return Some(Val::Int(i));
        }
        if let Ok(x) = value.as_float() {
            return Some(Val::Float(x));
        }
        if let Some(s) = value.read_lock::<rhai::ImmutableString>() {
            return Some(Val::Text(s.to_string()));
        }
        if let Some(list) = value.read_lock::<rhai::Array>() {
            return list.iter().map(Val::from_dynamic).collect::<Option<_>>().map(Val::List);
        }
        let map = value.read_lock::<Map>()?;
        map.iter()
            .map(|(k, v)| Some((k.to_string(), Val::from_dynamic(v)?)))
            .collect::<Option<_>>()
            .map(Val::Map)
    }

    /// From a literal in the syntax tree; `None` for anything that would have to be run.
    pub fn from_expr(expr: &Expr) -> Option<Val> {
        match expr {
            Expr::Unit(_) => Some(Val::None),
            Expr::BoolConstant(b, _) => Some(Val::Bool(*b)),
            Expr::IntegerConstant(i, _) => Some(Val::Int(*i)),
            Expr::FloatConstant(x, _) => Some(Val::Float(**x)),
            Expr::StringConstant(s, _) => Some(Val::Text(s.to_string())),
            Expr::DynamicConstant(v, _) => Val::from_dynamic(v),
            Expr::Array(list, _) => list.iter().map(Val::from_expr).collect::<Option<_>>().map(Val::List),
            Expr::Map(map, _) => map
                .0
                .iter()
                .map(|(k, e)| Some((k.name.to_string(), Val::from_expr(e)?)))
                .collect::<Option<_>>()
                .map(Val::Map),
            Expr::FnCall(call, _) if call.name == "-" && call.args.len() == 1 => {
                match Val::from_expr(&call.args[0])? {
                    Val::Int(i) => i.checked_neg().map(Val::Int),
                    Val::Float(x) => Some(Val::Float(-x)),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// From a model's measured defaults.
    pub fn from_json(json: &serde_json::Value) -> Val {
        use serde_json::Value as J;
        match json {
            J::Null => Val::None,
            J::Bool(b) => Val::Bool(*b),
            J::Number(n) => n.as_i64().map_or_else(|| Val::Float(n.as_f64().unwrap_or(0.0)), Val::Int),
            J::String(s) => Val::Text(s.clone()),
            J::Array(list) => Val::List(list.iter().map(Val::from_json).collect()),
            J::Object(map) => Val::Map(map.iter().map(|(k, v)| (k.clone(), Val::from_json(v))).collect()),
        }
    }

    /// For records.
    pub fn to_json(&self) -> serde_json::Value {
        use serde_json::Value as J;
        match self {
            Val::None => J::Null,
            Val::Bool(b) => J::Bool(*b),
            Val::Int(i) => J::from(*i),
            Val::Float(x) => J::from(*x),
            Val::Text(t) => J::from(t.as_str()),
            Val::List(list) => J::Array(list.iter().map(Val::to_json).collect()),
            Val::Map(fields) => J::Object(fields.iter().map(|(k, v)| (k.clone(), v.to_json())).collect()),
        }
    }

    /// A value from the command line: a number, `true`/`false`, `[...]` and `#{...}` are Rhai literals, everything
    /// else is text. Errors: brackets that hold no literal.
    pub fn from_command_line(text: &str) -> Result<Val, String> {
        let trimmed = text.trim();
        match trimmed {
            "true" => return Ok(Val::Bool(true)),
            "false" => return Ok(Val::Bool(false)),
            _ => {}
        }
        let digits = trimmed.strip_prefix(['-', '+']).unwrap_or(trimmed);
        if digits.starts_with(|c: char| c.is_ascii_digit()) || digits.starts_with('.') {
            if let Ok(i) = trimmed.replace('_', "").parse::<i64>() {
                return Ok(Val::Int(i));
            }
            if let Ok(x) = trimmed.replace('_', "").parse::<f64>() {
                return Ok(Val::Float(x));
            }
        }
        let list = trimmed.starts_with('[') && trimmed.ends_with(']');
        let map = trimmed.starts_with("#{") && trimmed.ends_with('}');
        if !list && !map {
            return Ok(Val::Text(text.to_string()));
        }
        let mut engine = rhai::Engine::new_raw();
        engine.set_optimization_level(rhai::OptimizationLevel::None);
        let ast = engine.compile_expression(trimmed).map_err(|e| e.to_string())?;
        let expr = ast.statements().first().and_then(|s| match s {
            rhai::Stmt::Expr(e) => Val::from_expr(e),
            _ => None,
        });
        expr.ok_or_else(|| "only literals may stand between the brackets".to_string())
    }
}

impl fmt::Display for Val {
    /// As a Rhai literal; text without quotes where it has no spaces.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Val::None => f.write_str("()"),
            Val::Bool(b) => write!(f, "{b}"),
            Val::Int(i) => write!(f, "{i}"),
            Val::Float(x) => f.write_str(&super::super::types::number(*x)),
            Val::Text(t) => write!(f, "{t:?}"),
            Val::List(list) => {
                let list: Vec<String> = list.iter().map(Val::to_string).collect();
                write!(f, "[{}]", list.join(", "))
            }
            Val::Map(fields) => {
                let list: Vec<String> = fields.iter().map(|(k, v)| format!("{k}: {v}")).collect();
                write!(f, "#{{ {} }}", list.join(", "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_the_command_line() {
        let read = |t: &str| Val::from_command_line(t).unwrap();
        assert_eq!(read("7"), Val::Int(7));
        assert_eq!(read("-0.5"), Val::Float(-0.5));
        assert_eq!(read("1e-3"), Val::Float(1e-3));
        assert_eq!(read("true"), Val::Bool(true));
        assert_eq!(read("a cat"), Val::Text("a cat".into()));
        assert_eq!(read("3 cats"), Val::Text("3 cats".into()));
        assert_eq!(read("nan"), Val::Text("nan".into()));
        assert_eq!(read("inf"), Val::Text("inf".into()));
        assert_eq!(read("[0.1, -2]"), Val::List(vec![Val::Float(0.1), Val::Int(-2)]));
        assert_eq!(read("#{ a: \"b\" }"), Val::Map(vec![("a".into(), Val::Text("b".into()))]));
        assert!(Val::from_command_line("[1, f()]").is_err());
        assert!(Val::from_command_line("[1, ").is_ok(), "not bracketed at both ends: text");
    }

    #[test]
    fn literals_survive_the_way_through_rhai_and_json() {
        let v = Val::Map(vec![
            ("a".into(), Val::List(vec![Val::Int(1), Val::Float(0.5), Val::None])),
            ("b".into(), Val::Text("x".into())),
        ]);
        assert_eq!(Val::from_dynamic(&v.to_dynamic()), Some(v.clone()));
        assert_eq!(Val::from_json(&v.to_json()), v);
        assert_eq!(v.to_string(), "#{ a: [1, 0.5, ()], b: \"x\" }");
    }
}
