//! What people read, word for word: error messages, mistakes that `check` finds, help. After a change that is meant:
//! `SCUMBLE_UPDATE=1 cargo test --release snapshots`, then read the difference.

use std::fmt::Write;
use std::path::Path;

use scumble::script::{catalog, recipes, thread};

use crate::script::session;

fn compare(name: &str, made: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/snapshots").join(name);
    if std::env::var_os("SCUMBLE_UPDATE").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, made).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    let first = kept.lines().zip(made.lines()).position(|(a, b)| a != b);
    let first = first.unwrap_or(kept.lines().count().min(made.lines().count()));
    let around = |text: &str| {
        text.lines().skip(first.saturating_sub(3)).take(8).map(|l| format!("  {l}\n")).collect::<String>()
    };
    assert!(
        kept == made,
        "{name} differs from line {}:\nwas\n{}\nis\n{}\nSCUMBLE_UPDATE=1 cargo test --release snapshots",
        first + 1,
        around(&kept),
        around(made)
    );
}

/// Cells that fail, one for each kind of mistake.
const MISTAKES: &[&str] = &[
    "blned(1, 2)",
    "let x = 1;\nx + y",
    "let z = load().noise(0);\nz.shpe",
    "blend(load().noise(0), 2, 0.5)",
    "load().noise(0, #{ sede: 1 })",
    "load().noise(0, #{ size: 65 })",
    "load().noise(0, #{ n: 1e9 })",
    "load(\"emojy\")",
    "open(\"dog-flatt.png\")",
    "save(open(\"dog-flat.png\"), \"../x\")",
    "let o = options(#{ sede: 7 }, #{});",
    "loop { }",
    "fn f(x) { f(x + 1) }\nf(0)",
    "let f = || 0;\nloop { let g = f; f = || g.call(); }",
    "let a = [];\nloop { a.push(1); }",
    "[3, 1].sort(|a, b| \"x\")",
    "[1, 2].map(|a, b, c| a)",
    "if true {",
    "let a = [1, 2",
    "throw #{ kind: \"mine\", message: \"no luck\", hint: \"try again\" }",
    "throw \"\\x1b[31mred\"",
    "load().encode(\"a dog\").columns(\"cat\")",
    "1 / 0",
    "\"a\" * 2",
    "sample::pictre(load(), \"a\", #{})",
    "import \"promt\" as p;",
    "const k = 1;\nk = 2",
    "let p = open(\"dog-flat.png\");\np.width = 3",
];

#[test]
fn error_messages() {
    let text = thread::run(|| {
        let dir = tempfile::tempdir().unwrap();
        let mut out = String::new();
        for code in MISTAKES {
            let (mut session, _) = session(dir.path());
            let report = session.eval(code).expect_err(code);
            let text = report.render(false, 100).replace(&dir.path().display().to_string(), "OUT");
            // How much is held differs from run to run.
            let text: String = text
                .lines()
                .filter(|l| !l.contains("more wanted") && !l.contains("in all"))
                .fold(String::new(), |all, l| all + l.trim_end() + "\n");
            let _ = writeln!(out, "> {}\n{text}", code.replace('\n', "\n  "));
        }
        out
    });
    compare("errors.txt", &text);
}

const RECIPE: &str = r#"// A recipe with one mistake of each kind.
import "helper" as h;
import "prompt" as pr;
import "helpr" as nowhere;
let opts = options(args, #{ nu: opt(0.5, 0.0..1.0, "share"), image: opt("", "a picture") });
let alias = opts;
fn fine(opts) { opts.whatever }
fn mine(m, options) { let o = defaults(options, #{ steps: 3, seed: 0 }); o }
let m = load(opts.modl);
let s = m.shedule(alias.stepps);
let z = m.noise(alias.seed, #{ m: 2 });
blend(z, z);
let f = |x| nope(x + opts.nuu);
sample::pictur(m, "a", #{});
sample::picture(m, "a", #{ step: 5 });
pr::between(1, 2);
pr::betwen(1, 2, 3);
h::twice(1, 2);
h::thrice(1);
h::configured(1, #{ sped: 1 });
mine(m);
mine(m, #{ sede: 1 });
Fn("blned");
grid([], #{ colums: 2 });
z.at_level(1, 2);
m.encode("a", 1, 2);
s.len();
"#;

#[test]
fn mistakes_that_check_finds() {
    let dir = tempfile::tempdir().unwrap();
    let helper = "fn twice(x) { x * 2 }\nfn configured(x, o) { defaults(o, #{ speed: 1 }) }\n";
    std::fs::write(dir.path().join("helper.rhai"), helper).unwrap();
    let path = dir.path().join("recipe.rhai");
    std::fs::write(&path, RECIPE).unwrap();
    let name = path.display().to_string();
    let reports: Vec<String> =
        thread::run(|| recipes::check(&name).iter().map(|r| r.render(false, 100)).collect());
    let text = reports.join("\n\n").replace(&dir.path().display().to_string(), "DIR");
    let lines: Vec<String> = text.lines().map(|l| l.trim_end().to_string()).collect();
    compare("check.txt", &(lines.join("\n") + "\n"));
}

#[test]
fn options_on_the_command_line() {
    let given: &[&[(&str, &str)]] = &[
        &[("nuu", "1")],
        &[("nu", "3")],
        &[("nu", "many")],
        &[("nu", "1"), ("nu", "1")],
        &[("steps", "0")],
        &[("device", "cpu")],
        &[("example", "99")],
        &[("layout", "missing.png")],
        &[("nu", "[1, f()]")],
    ];
    let text = thread::run(|| {
        let dir = tempfile::tempdir().unwrap();
        let mut out = String::new();
        for pairs in given {
            let args: Vec<_> = pairs.iter().map(|(k, v)| ((*k).to_string(), (*v).to_string())).collect();
            let shown: Vec<String> = pairs.iter().map(|(k, v)| format!("{k}={v}")).collect();
            let report = session(dir.path()).0.run("magicmix", &args).expect_err(&shown.join(" "));
            let _ = writeln!(out, "> magicmix {}\n{}\n", shown.join(" "), report.render(false, 100));
        }
        out
    });
    compare("options.txt", &text);
}

#[test]
fn help_texts() {
    let mut out = String::new();
    for name in ["blend", "noise", "Latent", "reweight", "sample::picture", "noise levels", "blennd"] {
        let _ = writeln!(out, "> ?{name}\n{}\n", catalog::help(name, 90).unwrap_or_default().trim_end());
    }
    let help = recipes::help(&recipes::find("text2image").unwrap(), None);
    let _ = writeln!(out, "> run text2image --help\n{}\n", help.trim_end());
    compare("help.txt", &out);
}
