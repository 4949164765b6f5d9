//! Reading a recipe without running it: its header, its options and examples, from the syntax tree.

use std::path::PathBuf;

use rhai::{AST, Expr, FnCallExpr, Position, Stmt};

use super::{Opt, Spec, Val, common};
use crate::report::{Report, Source, Span};
use crate::script::sources::word_len;

/// A recipe as read from its text.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// The stem of its file name.
    pub name: String,
    /// Where it was read from; `None` for a built-in one.
    pub path: Option<PathBuf>,
    /// The whole text.
    pub text: String,
    /// The comment at the top, without the slashes.
    pub header: String,
    /// Its own options, then the common ones it does not redefine.
    pub specs: Vec<Spec>,
    /// The paper's examples.
    pub examples: Vec<Vec<(String, Val)>>,
    /// The variable that holds the options, if the recipe has any.
    pub variable: Option<String>,
}

impl Recipe {
    /// Reads a compiled recipe. Errors: an `options` call that is not a literal.
    pub fn read(name: &str, path: Option<PathBuf>, text: &str, ast: &AST) -> Result<Recipe, Report> {
        let source = path.as_ref().map_or_else(|| format!("{name}.rhai"), |p| p.display().to_string());
        let at = |position: Position, report: Report| {
            let span = position.line().map(|line| {
                let column = position.position().unwrap_or(1);
                Span { line, column, len: word_len(text, line, column) }
            });
            report.at(Source { name: source.clone(), text: text.into() }, span)
        };
        let mut recipe = Recipe {
            name: name.into(),
            path: path.clone(),
            text: text.into(),
            header: header(text),
            specs: Vec::new(),
            examples: Vec::new(),
            variable: None,
        };
        if let Some((variable, call, position)) = find_call(ast) {
            recipe.variable = variable;
            let shape = "options(args, #{ name: opt(default, range, \"doc\"), ... }, [examples])";
            let fields = match call.args.get(1) {
                Some(Expr::Map(map, _)) if call.args.len() <= 3 => &map.0,
                Some(Expr::DynamicConstant(..)) if call.args.len() <= 3 => {
                    return Err(at(
                        position,
                        literal("options must be read without running the recipe", shape),
                    ));
                }
                _ => {
                    return Err(at(
                        position,
                        literal("options takes the arguments and a literal map", shape),
                    ));
                }
            };
            for (key, expr) in fields {
                let opt = read_opt(expr).ok_or_else(|| {
                    at(expr.start_position(), literal("an option must be a literal", shape))
                })?;
                recipe.specs.push(opt.named(&key.name));
            }
            if let Some(list) = call.args.get(2) {
                recipe.examples = read_examples(list).ok_or_else(|| {
                    at(list.start_position(), literal("examples are a list of literal maps", shape))
                })?;
            }
        }
        for spec in common() {
            match recipe.specs.iter_mut().find(|s| s.name == spec.name) {
                // A recipe may give a common option its own default; range and words stay.
                Some(own) => {
                    own.range = own.range.or(spec.range);
                    own.common = true;
                    if own.choices.is_empty() {
                        own.choices = spec.choices;
                    }
                    if own.doc.is_empty() {
                        own.doc = spec.doc;
                    }
                }
                None => recipe.specs.push(spec),
            }
        }
        recipe.specs.sort_by_key(|s| s.common);
        Ok(recipe)
    }
}

fn literal(message: &str, shape: &str) -> Report {
    Report::new("option", message).expected(shape)
}

/// The comment lines that the text begins with.
pub fn header(text: &str) -> String {
    let lines: Vec<&str> = text
        .lines()
        .skip_while(|l| l.trim().is_empty())
        .take_while(|l| l.trim_start().starts_with("//"))
        .map(|l| {
            let l = l.trim_start().trim_start_matches('/').trim_start_matches('!');
            l.strip_prefix(' ').unwrap_or(l)
        })
        .collect();
    lines.join("\n")
}

type Call<'a> = (Option<String>, &'a FnCallExpr, Position);

/// The top-level call of `options`, and the variable it goes to.
fn find_call(ast: &AST) -> Option<Call<'_>> {
    ast.statements().iter().find_map(|stmt| match stmt {
        Stmt::Var(x, ..) => match &x.1 {
            Expr::FnCall(call, pos) if call.name == "options" => {
                Some((Some(x.0.name.to_string()), &**call, *pos))
            }
            _ => None,
        },
        Stmt::FnCall(call, pos) if call.name == "options" => Some((None, &**call, *pos)),
        Stmt::Expr(e) => match &**e {
            Expr::FnCall(call, pos) if call.name == "options" => Some((None, &**call, *pos)),
            _ => None,
        },
        _ => None,
    })
}

/// `opt(default)`, `opt(default, "doc")`, `opt(default, range, "doc")`, `opt(default, ["a", "b"], "doc")`, or a
/// bare literal.
fn read_opt(expr: &Expr) -> Option<Opt> {
    let Expr::FnCall(call, _) = expr else {
        return Val::from_expr(expr).map(|default| Opt {
            default,
            range: None,
            choices: Vec::new(),
            doc: String::new(),
        });
    };
    if call.name != "opt" {
        return Val::from_expr(expr).map(|default| Opt {
            default,
            range: None,
            choices: Vec::new(),
            doc: String::new(),
        });
    }
    let mut opt = Opt {
        default: Val::from_expr(call.args.first()?)?,
        range: None,
        choices: Vec::new(),
        doc: String::new(),
    };
    let (limits, doc) = match call.args.len() {
        1 => (None, None),
        2 => (None, call.args.get(1)),
        3 => (call.args.get(1), call.args.get(2)),
        _ => return None,
    };
    if let Some(doc) = doc {
        opt.doc = Val::from_expr(doc)?.text()?.to_string();
    }
    match limits {
        None => {}
        Some(Expr::FnCall(range, _)) if range.name.starts_with("..") && range.args.len() == 2 => {
            opt.range =
                Some((Val::from_expr(&range.args[0])?.number()?, Val::from_expr(&range.args[1])?.number()?));
        }
        Some(other) => match Val::from_expr(other)? {
            Val::List(list) => {
                opt.choices = list.iter().map(|v| v.text().map(str::to_string)).collect::<Option<_>>()?;
            }
            _ => return None,
        },
    }
    Some(opt)
}

fn read_examples(expr: &Expr) -> Option<Vec<Vec<(String, Val)>>> {
    let Val::List(list) = Val::from_expr(expr)? else { return None };
    list.into_iter().map(|v| if let Val::Map(m) = v { Some(m) } else { None }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Recipe, Report> {
        let mut engine = rhai::Engine::new();
        engine.set_optimization_level(rhai::OptimizationLevel::None);
        let ast = engine.compile(text).unwrap();
        Recipe::read("mix", None, text, &ast)
    }

    #[test]
    fn options_are_read_in_order_without_running() {
        let r = read(
            "// Mix - A, B 2022\n// Two sentences.\n\nlet o = options(args, #{\n  nu: opt(0.5, 0.0..1.0, \"share\"),\n  \
             s: opt(-1, -2..2, \"weight\"),\n  mode: opt(\"lerp\", [\"lerp\", \"slerp\"], \"how\"),\n  \
             steps: opt(20),\n  word: \"\",\n}, [#{ nu: 0.9 }, #{ s: 2 }]);\nnope(o);",
        )
        .unwrap();
        assert_eq!(r.header, "Mix - A, B 2022\nTwo sentences.");
        let own: Vec<&str> = r.specs.iter().filter(|s| !s.common).map(|s| s.name.as_str()).collect();
        assert_eq!(own, ["nu", "s", "mode", "word"]);
        assert_eq!(r.specs[0].range, Some((0.0, 1.0)));
        assert_eq!(r.specs[1].default, Val::Int(-1));
        assert_eq!(r.specs[1].range, Some((-2.0, 2.0)));
        assert_eq!(r.specs[2].choices, ["lerp", "slerp"]);
        let steps = r.specs.iter().find(|s| s.name == "steps").unwrap();
        assert_eq!((&steps.default, steps.range), (&Val::Int(20), Some((1.0, 1000.0))));
        assert_eq!(r.examples[1], [("s".to_string(), Val::Int(2))]);
        assert_eq!(r.variable.as_deref(), Some("o"));
    }

    #[test]
    fn a_computed_option_is_refused_with_its_place() {
        let e = read("let o = options(args, #{ a: opt(1),\n b: opt(f()) });").unwrap_err();
        assert_eq!(e.span.unwrap().line, 2);
        assert!(read("let o = options(args, f());").is_err());
        assert!(read("let o = options(args, #{}, [1]);").is_err());
    }

    #[test]
    fn a_recipe_without_options_has_the_common_ones() {
        let r = read("let x = 1;").unwrap();
        assert_eq!(r.specs.len(), common().len());
        assert_eq!(r.variable, None);
    }
}
