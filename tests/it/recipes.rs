//! The recipes: exact identities of the papers' algorithms, options, checks.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use scumble::engine::observe::{Cancel, Event, Observer};
use scumble::record::png::read_record;
use scumble::report::{Exit, Report};
use scumble::script::options::{Column, Val};
use scumble::script::{Outcome, Session, Settings, recipes, thread};

use crate::script::{Ear, session, session_on};

pub type Run = Result<Outcome, Box<Report>>;

fn args(list: &[&str]) -> Vec<(String, String)> {
    list.iter()
        .map(|a| {
            let (k, v) = a.split_once('=').unwrap();
            (k.to_string(), v.to_string())
        })
        .collect()
}

/// Runs a recipe in a fresh session below `dir`; `model=NAME` stands for the flag.
pub fn run(dir: &Path, recipe: &str, list: &[&str]) -> Run {
    let model = list.iter().find_map(|x| x.strip_prefix("model="));
    let list: Vec<&str> = list.iter().copied().filter(|x| !x.starts_with("model=")).collect();
    thread::run(|| session_on(model, dir).0.run(recipe, &args(&list)))
}

/// The pixels that a recipe saved.
pub fn pixels(recipe: &str, list: &[&str]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let outcome = run(dir.path(), recipe, list).unwrap_or_else(|e| panic!("{e}"));
    let saved = outcome.saved.last().unwrap();
    image::open(saved).unwrap().to_rgb8().into_raw()
}

/// Largest difference of two pictures, in 255ths.
pub fn differ(a: &[u8], b: &[u8]) -> u8 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
}

const MIX: [&str; 3] = ["layout=rabbit-flat.png", "content=a tiger", "steps=10"];
const EDIT: [&str; 3] = ["image=rabbit-flat.png", "prompt=a tiger", "steps=10"];

#[test]
fn nu_one_is_sdedit_from_k_max() {
    let mix = pixels("magicmix", &[&MIX[..], &["nu=1", "k_max=0.6"]].concat());
    assert_eq!(mix, pixels("sdedit", &[&EDIT[..], &["strength=0.6"]].concat()));
    assert!(differ(&mix, &pixels("sdedit", &[&EDIT[..], &["strength=0.3"]].concat())) > 20);
}

#[test]
fn nu_zero_is_sdedit_from_k_min() {
    let mix = pixels("magicmix", &[&MIX[..], &["nu=0", "k_min=0.3"]].concat());
    assert_eq!(mix, pixels("sdedit", &[&EDIT[..], &["strength=0.3"]].concat()));
}

#[test]
fn a_weight_of_one_changes_nothing_and_others_do() {
    let plain = pixels("magicmix", &MIX);
    assert_eq!(plain, pixels("magicmix", &[&MIX[..], &["word=tiger", "s=1"]].concat()));
    assert!(differ(&plain, &pixels("magicmix", &[&MIX[..], &["word=tiger", "s=-1"]].concat())) > 20);
}

#[test]
fn equal_prompts_are_the_plain_chain_up_to_rounding() {
    let plain = pixels("text2image", &["prompt=a tiger", "steps=10"]);
    let mix = pixels("magicmix", &["layout=a tiger", "content=a tiger", "steps=10", "nu=0.5"]);
    assert!(differ(&plain, &mix) <= 1);
}

#[test]
fn text_text_starts_from_the_layout_chain() {
    // With nu = 0 every mixed level is the layout chain's own: content acts only below k_min.
    let lion = ["layout=a lion", "steps=10", "nu=0", "k_max=0.9", "k_min=0"];
    let plain = pixels("text2image", &["prompt=a lion", "steps=10"]);
    assert!(differ(&plain, &pixels("magicmix", &[&lion[..], &["content=a bus"]].concat())) <= 1);
}

#[test]
fn a_picture_of_n_is_the_picture_of_its_seed() {
    let dir = tempfile::tempdir().unwrap();
    let outcome = run(dir.path(), "text2image", &["prompt=a dog", "steps=4", "n=2", "seed=5"]).unwrap();
    let sheet = image::open(&outcome.saved[0]).unwrap().to_rgb8();
    let alone = pixels("text2image", &["prompt=a dog", "steps=4", "seed=6"]);
    let second = image::imageops::crop_imm(&sheet, sheet.width() - 64, 0, 64, 64).to_image().into_raw();
    assert!(differ(&alone, &second) <= 1);
}

#[test]
fn a_mask_keeps_what_is_black() {
    let dir = tempfile::tempdir().unwrap();
    let mask = dir.path().join("mask.png");
    image::RgbImage::from_fn(64, 64, |x, _| if x < 32 { image::Rgb([0; 3]) } else { image::Rgb([255; 3]) })
        .save(&mask)
        .unwrap();
    let mask = format!("mask={}", mask.display());
    let strong = ["image=rabbit-flat.png", "prompt=a red car", "steps=10", "strength=0.9"];
    let masked = pixels("sdedit", &[&strong[..], &[&mask]].concat());
    let still = pixels("sdedit", &["image=rabbit-flat.png", "prompt=x", "steps=10", "strength=0"]);
    let mean = |range: std::ops::Range<usize>| {
        let at = |i: &usize| range.contains(&(i / 3 % 64));
        let list: Vec<f64> =
            (0..masked.len()).filter(at).map(|i| f64::from(masked[i].abs_diff(still[i]))).collect();
        list.iter().sum::<f64>() / list.len() as f64
    };
    assert!(mean(0..24) < 6.0, "the black half moved by {}", mean(0..24));
    assert!(mean(40..64) > 12.0, "the white half moved by {} only", mean(40..64));
}

#[test]
fn other_sizes_work() {
    let dir = tempfile::tempdir().unwrap();
    let list = [&MIX[..2], &["size=[96, 64]", "n=2", "steps=3"]].concat();
    let outcome = run(dir.path(), "magicmix", &list).unwrap();
    let sheet = image::open(&outcome.saved[0]).unwrap();
    assert!(sheet.width() >= 192 && sheet.height() == 64);
    let e = run(dir.path(), "text2image", &["size=65"]).unwrap_err();
    assert!(e.to_string().contains("multiples of 32"), "{e}");
}

#[test]
fn results_are_numbered_and_carry_their_record() {
    let dir = tempfile::tempdir().unwrap();
    let first = run(dir.path(), "text2image", &["prompt=a dog", "steps=2"]).unwrap().saved.remove(0);
    let second = run(dir.path(), "text2image", &["prompt=a cat", "steps=2"]).unwrap().saved.remove(0);
    assert!(first.ends_with("text2image.png") && second.ends_with("text2image-2.png"));
    let record = read_record(&std::fs::read(&second).unwrap()).unwrap();
    assert_eq!(record.recipe, "text2image");
    assert_eq!(record.options["prompt"], "a cat");
    assert_eq!(record.options["steps"], 2);
    assert_eq!(record.model, "emoji");
    assert_eq!(record.fingerprint.len(), 16);
    assert_eq!(record.source, None);
}

#[test]
fn usage_errors_and_script_errors_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let cases: [(&str, &[&str], Exit, &str); 11] = [
        ("magicmix", &["nu=3"], Exit::Usage, "nu is out of range"),
        ("magicmix", &["steps=0"], Exit::Usage, "steps is out of range"),
        ("magicmix", &["steps=2.5"], Exit::Usage, "integer 1..1000"),
        ("magicmix", &["sede=3"], Exit::Usage, "did you mean seed?"),
        ("magicmix", &["sampler=plms"], Exit::Usage, "euler_karras"),
        ("magicmix", &["example=99"], Exit::Usage, "has no example 99"),
        ("magicmix", &["s=[1,"], Exit::Usage, "cannot be"),
        ("magicmx", &[], Exit::Usage, "did you mean magicmix?"),
        ("./nowhere.rhai", &[], Exit::Usage, "there is no recipe file"),
        ("magicmix", &["layout=nowhere.png"], Exit::Script, "names a file that is not there"),
        ("magicmix", &["word=zebra"], Exit::Script, "not a word of the prompt"),
    ];
    for (recipe, list, exit, text) in cases {
        let e = run(dir.path(), recipe, list).unwrap_err();
        assert_eq!(e.exit, exit, "{recipe} {list:?}: {e}");
        assert!(e.to_string().contains(text), "{recipe} {list:?}: {e}");
    }
    let e = run(dir.path(), "magicmix", &["k_min=0.8", "k_max=0.5"]).unwrap_err();
    assert!(e.title.contains("k_min lies above k_max"), "{e}");
    let e = run(dir.path(), "magicmix", &["s=0.5"]).unwrap_err();
    assert!(e.title.contains("word="), "{e}");
    assert!(std::fs::read_dir(dir.path()).unwrap().next().is_none(), "nothing was written");
}

#[test]
fn examples_of_the_paper_and_of_the_model() {
    let recipe = recipes::find("magicmix").unwrap();
    let column = Column::of_model("emoji", "magicmix").unwrap();
    let help = recipes::help(&recipe, Some(&column));
    for text in ["Liew", "paper", "emoji", "nu ", "0.0..1.0", "example=1", "0.8", "scumble run magicmix"] {
        assert!(help.contains(text), "{text} is missing:\n{help}");
    }
    assert_eq!(recipe.specs[2].default, Val::Float(0.5));
    let dir = tempfile::tempdir().unwrap();
    let outcome = run(dir.path(), "magicmix", &["example=2", "steps=2"]).unwrap();
    let record = read_record(&std::fs::read(&outcome.saved[0]).unwrap()).unwrap();
    assert_eq!(record.options["layout"], "dog-flat.png");
    assert_eq!(record.options["nu"], 0.9);
}

#[test]
fn built_in_recipes_are_short_and_pass_their_check() {
    for name in recipes::names() {
        let recipe = recipes::find(name).unwrap();
        let code =
            recipe.text.lines().filter(|l| !l.trim().is_empty() && !l.trim().starts_with("//")).count();
        assert!(code <= 80, "{name} has {code} lines");
        let command = format!("scumble run {name} ");
        assert!(recipe.header.contains(&command), "{name}: no command line in the header");
        assert!(recipe.header.contains("arXiv") && recipe.header.contains("Language"), "{name}: header");
        let found = thread::run(|| recipes::check(name).iter().map(ToString::to_string).collect::<Vec<_>>());
        assert!(found.is_empty(), "{}", found.join("\n"));
    }
}

#[test]
fn check_finds_mistakes_without_running() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bad.rhai");
    let text = "let o = options(args, #{ nu: opt(0.5, 0.0..1.0, \"x\") });\nlet m = load(o.modl);\n\
                let s = m.shedule(o.steps);\nlet z = m.noise(o.seed, #{ m: 2 });\nblend(z, z);\n\
                let f = |x| nope(x);\nsample::pictur(m, \"a\", #{});\nz.at_level(1, 2);\nfn mine(a) { a }\nmine(1, 2);\n";
    std::fs::write(&path, text).unwrap();
    let name = path.display().to_string();
    let found: Vec<(usize, String)> =
        thread::run(|| recipes::check(&name).iter().map(|r| (r.span.unwrap().line, r.to_string())).collect());
    let wanted = [
        (2, "did you mean model?"),
        (3, "did you mean schedule?"),
        (4, "noise: there is no option m"),
        (5, "blend: wrong number of arguments"),
        (6, "nope: there is no such function"),
        (7, "did you mean sample::picture?"),
        (8, "at_level: wrong number of arguments"),
        (10, "mine: wrong number of arguments"),
    ];
    assert_eq!(found.iter().map(|f| f.0).collect::<Vec<_>>(), wanted.map(|w| w.0), "{found:#?}");
    for ((_, report), (line, text)) in found.iter().zip(wanted) {
        assert!(report.contains(text), "line {line}: {report}");
    }
    // The same mistakes stop a run before anything happens.
    let e = run(dir.path(), &name, &[]).unwrap_err();
    assert!(e.to_string().contains("7 more"), "{e}");
}

#[test]
fn a_recipe_reads_only_below_the_working_directory() {
    let (dir, far) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let picture = far.path().join("p.png");
    image::RgbImage::new(8, 8).save(&picture).unwrap();
    let recipe = dir.path().join("r.rhai");
    let text = format!(
        "let o = options(args, #{{ image: opt(\"\", \"x\") }});\n\
         if o.image != \"\" {{ open(o.image); }} else {{ open(\"{}\"); }}",
        picture.display()
    );
    std::fs::write(&recipe, text).unwrap();
    let name = recipe.display().to_string();
    let e = run(dir.path(), &name, &[]).unwrap_err();
    assert!(e.to_string().contains("--allow-read"), "{e}");
    assert_eq!(e.span.unwrap().line, 2);
    // Named on the command line, the same file may be read; so may everything that is typed.
    run(dir.path(), &name, &[&format!("image={}", picture.display())]).unwrap();
    thread::run(|| session(dir.path()).0.eval(&format!("open(\"{}\");", picture.display()))).unwrap();
}

#[test]
fn imports_come_from_beside_the_recipe() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("helper.rhai"), "fn twice(x) { x * 2 }\nfn bad() { nope() }").unwrap();
    let recipe = dir.path().join("r.rhai");
    std::fs::write(&recipe, "import \"helper\" as h;\nh::twice(21)").unwrap();
    let name = recipe.display().to_string();
    let mut outcomes = thread::run(|| {
        let mut session = session(dir.path()).0;
        let first = session.run(&name, &[]);
        std::fs::write(&recipe, "import \"helper\" as h;\nh::bad()").unwrap();
        let second = session.run(&name, &[]);
        std::fs::write(dir.path().join("a.rhai"), "import \"b\" as b;").unwrap();
        std::fs::write(dir.path().join("b.rhai"), "import \"a\" as a;").unwrap();
        std::fs::write(&recipe, "import \"a\" as a;").unwrap();
        vec![first, second, session.run(&name, &[])]
    });
    let e = outcomes.pop().unwrap().unwrap_err();
    assert!(e.title.contains("imports itself"), "{e}");
    let e = outcomes.pop().unwrap().unwrap_err();
    assert!(e.source.as_ref().unwrap().name.ends_with("helper.rhai"), "{e}");
    assert_eq!(outcomes.pop().unwrap().unwrap().text.as_deref(), Some("42"));
}

/// Sets the token when the first step was done.
struct StopAtStep(Cancel, usize);

impl Observer for StopAtStep {
    fn event(&self, event: Event) {
        if matches!(event, Event::Step { done, .. } if done == self.1) {
            self.0.set();
        }
    }
}

#[test]
fn a_stop_ends_within_a_step_and_keeps_the_session_and_the_latent() {
    let dir = tempfile::tempdir().unwrap();
    thread::run(|| {
        let cancel = Cancel::default();
        let settings = Settings { out: dir.path().into(), no_init: true, ..Settings::default() };
        let mut session = Session::new(settings, Arc::new(StopAtStep(cancel.clone(), 3)), cancel.clone());
        session.eval("let m = load(); let kept = 7;").unwrap();
        let code = "try { sample::picture(m, \"a dog\", #{ steps: 500 }) } catch { print(\"caught\"); }";
        let e = session.eval(code).unwrap_err();
        assert_eq!(e.exit, Exit::Interrupted);
        assert!(e.hint.as_ref().unwrap().contains("ans holds"), "{e}");
        cancel.clear();
        assert_eq!(session.eval("[kept, ans.shape]").unwrap().text.unwrap(), "[7, [1, 4, 16, 16]]");
        // A recipe that is stopped leaves its latent for the rescue.
        let e = session.run("text2image", &args(&["steps=500"])).unwrap_err();
        assert_eq!(e.exit, Exit::Interrupted);
        let file = session.rescue().unwrap();
        assert!(file.ends_with("text2image-latent.safetensors"));
        let tensors = candle_core::safetensors::load(&file, &candle_core::Device::Cpu).unwrap();
        assert_eq!(tensors["latent"].dims(), [1, 4, 16, 16]);
        assert_eq!(session.rescue(), None);
    });
}

#[test]
fn the_time_budget_ends_scripts_and_engine_calls() {
    let dir = tempfile::tempdir().unwrap();
    thread::run(|| {
        let settings = Settings {
            out: dir.path().into(),
            max_time: Some(Duration::from_millis(400)),
            no_init: true,
            ..Settings::default()
        };
        let cancel = Cancel::default();
        let mut session = Session::new(settings, Arc::new(Ear::default()), cancel.clone());
        for code in
            ["sample::picture(load(), \"a dog\", #{ steps: 900, n: 8 })", "let i = 0; loop { i += 1; }"]
        {
            let start = Instant::now();
            let e = session.eval(code).unwrap_err();
            assert!(e.title.contains("time is used up"), "{e}");
            assert_eq!(e.exit, Exit::Script);
            assert!(start.elapsed() < Duration::from_secs(20), "took {:?}", start.elapsed());
            assert!(!cancel.is_set(), "the next cell is not stopped");
        }
        session.eval("1 + 1").unwrap();
    });
}
