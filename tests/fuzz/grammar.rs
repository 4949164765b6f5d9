//! Scripts from a grammar that knows the catalogue: types mostly fit, numbers are the awkward ones.

use std::sync::OnceLock;

use scumble::script::catalog::{self, Entry, What};
use scumble::script::check;

use super::Rng;

/// Variables that the judge has made before the input runs, with their types.
pub const VARIABLES: [(&str, &str); 13] = [
    ("m", "Model"),
    ("s", "Schedule"),
    ("z", "Latent"),
    ("zz", "Latent"),
    ("text", "Embedding"),
    ("p", "Image"),
    ("a", "Attention"),
    ("list", "[any]"),
    ("map", "map"),
    ("f", "function"),
    ("x", "number"),
    ("i", "integer"),
    ("word", "string"),
];

const NUMBERS: [&str; 26] = [
    "0",
    "1",
    "2",
    "-1",
    "3",
    "7",
    "64",
    "0.5",
    "-0.0",
    "1.0",
    "1e9",
    "1e18",
    "1e308",
    "-1e308",
    "1e-300",
    "0x7f",
    "9223372036854775807",
    "(-9223372036854775807 - 1)",
    "(0.0/0.0)",
    "(1e308*10.0)",
    "(-1e308*10.0)",
    "4096",
    "65536",
    "1000000000",
    "0.999999999999",
    "16384",
];

const STRINGS: [&str; 22] = [
    "\"\"",
    "\"a dog\"",
    "\"dog-flat.png\"",
    "\"../x.png\"",
    "\"/etc/passwd\"",
    "\"a/b/c\"",
    "\"middle 0\"",
    "\"emoji\"",
    "\"\\x1b[31m\"",
    "\"\\u202e\"",
    "\"é\u{301}🦀\"",
    "\"\\x00\"",
    "`${i}`",
    "`a\nb`",
    "\"/dev/zero\"",
    "\"input 2\"",
    "\"noise\"",
    "\"slerp\"",
    "\"ddim\"",
    "\" \"",
    "\"%s%n\"",
    "\"....//\"",
];

const BINARY: [&str; 25] = [
    "+", "-", "*", "/", "%", "**", "==", "!=", "<", ">", "<=", ">=", "&&", "||", "&", "|", "^", "<<", ">>",
    "..", "..=", "??", "in", "!in", "+",
];

const ASSIGN: [&str; 9] = ["=", "+=", "-=", "*=", "/=", "**=", "<<=", "|=", "="];

/// Any word that a script may hold.
pub fn word(rng: &mut Rng) -> String {
    match rng.below(4) {
        0 => rng.pick(&VARIABLES.map(|(n, _)| n)).to_string(),
        1 => standard()[rng.below(standard().len())].clone(),
        2 => rng
            .pick(&["seed", "size", "n", "steps", "cfg", "prompt", "image", "this", "global", "args", "ans"])
            .into(),
        _ => catalog::all()[rng.below(catalog::all().len())].name.clone(),
    }
}

/// A value as on the command line.
pub fn argument(rng: &mut Rng) -> String {
    match rng.below(4) {
        0 => rng.pick(&NUMBERS).to_string(),
        1 => rng
            .pick(&["[1, 2]", "#{ a: 1 }", "[", "true", "nan", "", "dog-flat.png", "[[[[[]]]]]"])
            .to_string(),
        2 => rng.pick(&STRINGS).to_string(),
        _ => word(rng),
    }
}

/// A number, an awkward one.
pub fn number(rng: &mut Rng) -> &'static str {
    rng.pick(&NUMBERS)
}

fn standard() -> &'static [String] {
    static NAMES: OnceLock<Vec<String>> = OnceLock::new();
    // `sleep` sleeps: the time is better spent.
    NAMES.get_or_init(|| check::standard().iter().filter(|n| *n != "sleep").cloned().collect())
}

/// Makes one script.
pub struct Grammar<'a> {
    rng: &'a mut Rng,
    names: Vec<(String, String)>,
    left: usize,
}

impl<'a> Grammar<'a> {
    /// One that draws from `rng`.
    pub fn new(rng: &'a mut Rng) -> Self {
        let names = VARIABLES.iter().map(|(n, t)| ((*n).to_string(), (*t).to_string())).collect();
        let left = 5 + rng.below(40);
        Grammar { rng, names, left }
    }

    /// A whole script.
    pub fn script(&mut self) -> String {
        let n = 1 + self.rng.below(5);
        let lines: Vec<String> = (0..n).map(|_| self.statement(0)).collect();
        lines.join("\n")
    }

    fn block(&mut self, depth: usize) -> String {
        let n = 1 + self.rng.below(3);
        let known = self.names.len();
        let lines: Vec<String> = (0..n).map(|_| self.statement(depth + 1)).collect();
        self.names.truncate(known);
        format!("{{ {} }}", lines.join(" "))
    }

    fn statement(&mut self, depth: usize) -> String {
        if depth > 3 || self.left == 0 {
            return format!("{};", self.expression(depth));
        }
        match self.rng.below(24) {
            0..6 => {
                let value = self.expression(depth);
                let name = if self.rng.chance(40) { self.name() } else { format!("v{}", self.rng.below(5)) };
                self.names.push((name.clone(), "any".into()));
                format!("{} {name} = {value};", if self.rng.chance(95) { "let" } else { "const" })
            }
            6..9 => format!("{} {} {};", self.place(depth), self.rng.pick(&ASSIGN), self.expression(depth)),
            9 => format!("for q in {} {}", self.range(depth), self.looped(depth)),
            10 => format!("while {} {}", self.condition(depth), self.looped(depth)),
            11 => format!(
                "loop {{ {} {} }}",
                self.statement(depth + 1),
                self.rng.pick(&["break;", "i += 1;", ""])
            ),
            12 => format!("if {} {} else {}", self.condition(depth), self.block(depth), self.block(depth)),
            13 | 14 => {
                let known = self.names.len();
                self.names.push(("err".into(), "any".into()));
                let text = format!("try {} catch (err) {}", self.block(depth), self.block(depth));
                self.names.truncate(known);
                text
            }
            15 if depth == 0 || self.rng.chance(3) => {
                format!("fn g{}(q, r) {}", self.rng.below(3), self.block(depth))
            }
            16 => format!("throw {};", self.expression(depth)),
            17 => format!("print({});", self.expression(depth)),
            18 => self
                .rng
                .pick(&["return;", "return x;", "import \"prompt\" as pr;", "import \"x\" as y;"])
                .into(),
            19 => format!(
                "switch {} {{ {} => {}, _ => {} }}",
                self.expression(depth),
                self.literal(),
                self.block(depth),
                self.expression(depth)
            ),
            _ => format!("{};", self.expression(depth)),
        }
    }

    /// The body of a loop.
    fn looped(&mut self, depth: usize) -> String {
        let body = self.block(depth);
        match self.rng.below(3) {
            0 => body.replacen('{', "{ break;", 1),
            1 => body.replacen('{', "{ if q == 1 { continue; }", 1).replace("q ==", "i =="),
            _ => body,
        }
    }

    /// Mostly something that is true or false.
    fn condition(&mut self, depth: usize) -> String {
        match self.rng.below(10) {
            0..3 => format!("i < {}", self.rng.below(5)),
            3..6 => format!("({}) == {}", self.expression(depth + 1), self.expression(depth + 1)),
            6 => "true".into(),
            7 => format!("type_of({}) != \"()\"", self.expression(depth + 1)),
            8 => format!("!({})", self.expression(depth + 1)),
            _ => self.expression(depth + 1),
        }
    }

    fn name(&mut self) -> String {
        self.names[self.rng.below(self.names.len())].0.clone()
    }

    fn place(&mut self, depth: usize) -> String {
        match self.rng.below(5) {
            0 => format!("{}[{}]", self.name(), self.expression(depth + 1)),
            1 => format!("{}.{}", self.name(), word(self.rng)),
            _ => self.name(),
        }
    }

    fn range(&mut self, depth: usize) -> String {
        match self.rng.below(4) {
            0 => format!("0..{}", self.rng.below(5)),
            1 => "0..s.len".into(),
            _ => self.expression(depth + 1),
        }
    }

    fn literal(&mut self) -> String {
        match self.rng.below(6) {
            0..3 => self.rng.pick(&NUMBERS).into(),
            3..5 => self.rng.pick(&STRINGS).into(),
            _ => self.rng.pick(&["true", "false", "()", "'x'", "[]", "#{}"]).into(),
        }
    }

    fn expression(&mut self, depth: usize) -> String {
        self.left = self.left.saturating_sub(1);
        if depth > 5 || self.left == 0 {
            return if self.rng.chance(50) { self.name() } else { self.literal() };
        }
        match self.rng.below(30) {
            0..3 => self.literal(),
            3..6 => self.name(),
            6..9 => {
                let (a, b) = (self.expression(depth + 1), self.expression(depth + 1));
                let sign = self.rng.pick(&BINARY);
                if matches!(sign, "&&" | "||") {
                    format!("({} {sign} {})", self.condition(depth + 1), self.condition(depth + 1))
                } else if self.rng.chance(80) {
                    format!("({a} {sign} {b})")
                } else {
                    format!("{a} {sign} {b}")
                }
            }
            9 => format!("{}({})", self.rng.pick(&["-", "!", "+"]), self.expression(depth + 1)),
            10 => format!("[{}]", self.list(depth)),
            11 => format!(
                "#{{ {}: {}, b1: {} }}",
                word(self.rng),
                self.expression(depth + 1),
                self.expression(depth + 1)
            ),
            12 => format!("{}[{}]", self.name(), self.expression(depth + 1)),
            13 => format!("{}.{}", self.name(), word(self.rng)),
            14 => self.closure(depth),
            15 => format!("f.call({})", self.list(depth)),
            16 => format!("`{}${{{}}}`", self.rng.below(9), self.expression(depth + 1)),
            17 => format!(
                "if {} {{ {} }} else {{ {} }}",
                self.condition(depth + 1),
                self.expression(depth + 1),
                self.expression(depth + 1)
            ),
            18 => {
                let name = standard()[self.rng.below(standard().len())].clone();
                format!("{}.{name}({})", self.expression(depth + 1), self.list(depth))
            }
            19 => {
                let name = standard()[self.rng.below(standard().len())].clone();
                format!("{name}({})", self.list(depth))
            }
            20 => format!(
                "list.{}({})",
                self.rng.pick(&[
                    "map", "filter", "for_each", "reduce", "sort", "some", "drain", "retain", "order_by",
                    "find", "splice"
                ]),
                self.closure(depth)
            ),
            21 => format!("g{}({})", self.rng.below(3), self.list(depth)),
            22 => format!("Fn(\"{}\").call({})", word(self.rng), self.list(depth)),
            23 => format!("eval({})", self.expression(depth + 1)),
            _ => self.documented(depth),
        }
    }

    fn list(&mut self, depth: usize) -> String {
        let n = self.rng.below(4);
        (0..n).map(|_| self.expression(depth + 1)).collect::<Vec<_>>().join(", ")
    }

    fn closure(&mut self, depth: usize) -> String {
        let params = self.rng.pick(&["", "q", "q, r", "q, r, t"]);
        format!(
            "|{params}| {}",
            if self.rng.chance(50) { self.block(depth + 1) } else { self.expression(depth + 1) }
        )
    }

    /// A call of a documented function, with values of the right types in most cases.
    fn documented(&mut self, depth: usize) -> String {
        let all = catalog::all();
        let mut entry = &all[self.rng.below(all.len())];
        // What takes long is tried less often.
        let slow = ["predict", "guided", "decode", "similarity", "encode", "picture", "denoise", "trace"];
        if slow.contains(&entry.name.as_str()) && self.rng.chance(85) {
            entry = &all[self.rng.below(all.len())];
        }
        let mut args: Vec<String> = entry.params.iter().map(|p| self.value(&p.ty, entry, depth)).collect();
        while self.rng.chance(8) {
            if args.len() > 1 && self.rng.chance(50) {
                args.pop();
            } else {
                args.push(self.expression(depth + 1));
            }
        }
        match (entry.what, args.split_first()) {
            (What::Property, Some((receiver, _))) => format!("{receiver}.{}", entry.name),
            (What::Operator, _) => args.join(&format!(" {} ", entry.name)),
            (What::Method, Some((receiver, rest))) => {
                format!("{receiver}.{}({})", entry.name, rest.join(", "))
            }
            (What::Library, _) => format!("{}({})", entry.path(), args.join(", ")),
            _ => format!("{}({})", entry.name, args.join(", ")),
        }
    }

    fn value(&mut self, ty: &str, entry: &Entry, depth: usize) -> String {
        if self.rng.chance(12) {
            return self.expression(depth + 1);
        }
        let ways: Vec<&str> = ty.split('|').collect();
        let ty = ways[self.rng.below(ways.len())];
        if ty == "#{...}" {
            let keys: Vec<&str> = entry.options.iter().map(|o| o.name.as_str()).collect();
            let n = self.rng.below(3);
            let fields: Vec<String> = (0..n)
                .filter(|_| !keys.is_empty())
                .map(|_| {
                    let option = &entry.options[self.rng.below(keys.len())];
                    let key = if self.rng.chance(95) { option.name.clone() } else { word(self.rng) };
                    format!("{key}: {}", self.value(&option.ty, entry, depth + 1))
                })
                .collect();
            return format!("#{{ {} }}", fields.join(", "));
        }
        match ty {
            "number" | "integer" | "pixels" => {
                if self.rng.chance(40) {
                    self.rng.below(6).to_string()
                } else {
                    number(self.rng).into()
                }
            }
            "string" => self.rng.pick(&STRINGS).into(),
            "function" => self.closure(depth),
            "[w, h]" => format!("[{}, {}]", number(self.rng), number(self.rng)),
            "[Image]" => "[p, p]".into(),
            _ => {
                let fit: Vec<String> =
                    VARIABLES.iter().filter(|(_, t)| *t == ty).map(|(n, _)| (*n).to_string()).collect();
                if fit.is_empty() {
                    self.expression(depth + 1)
                } else {
                    fit[self.rng.below(fit.len())].clone()
                }
            }
        }
    }
}
