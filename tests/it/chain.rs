//! Gradients through whole runs, from outside: stopped in the middle, in functions of other files, and too long.

use std::sync::{Arc, Mutex};

use scumble::engine::observe::{Cancel, Event, Observer};
use scumble::script::{Session, Settings, thread};

use crate::script::session;

/// Asks for a stop when the script prints for the `at`th time.
struct Stopper {
    cancel: Cancel,
    at: usize,
    printed: Mutex<usize>,
}

impl Observer for Stopper {
    fn event(&self, event: Event) {
        if let Event::Print(_) = event {
            let mut printed = self.printed.lock().unwrap();
            *printed += 1;
            if *printed == self.at {
                self.cancel.set();
            }
        }
    }
}

#[test]
fn a_stop_ends_a_chain_within_a_step() {
    // Six steps on the way there, six on the way back.
    for at in [3, 8] {
        thread::run(|| {
            let dir = tempfile::tempdir().unwrap();
            let cancel = Cancel::default();
            let ear = Arc::new(Stopper { cancel: cancel.clone(), at, printed: Mutex::default() });
            let settings = Settings { out: dir.path().to_path_buf(), no_init: true, ..Settings::default() };
            let mut session = Session::new(settings, Arc::clone(&ear) as Arc<dyn Observer>, cancel.clone());
            session.eval("let m = load(\"emoji\"); let z = m.noise(0); let text = m.encode(\"a dog\"); let s = m.schedule(6);").unwrap();
            let code = "grad(z, |z| sum(chain(z, 0..6, [], |z, i| { print(i); s.step(z, m.predict(z, s.t(i), text), i) }).tensor))";
            let error = session.eval(code).unwrap_err();
            assert_eq!(error.kind, "cancelled", "{error}");
            assert_eq!(*ear.printed.lock().unwrap(), at);
            // The session goes on, and no gradient is open any more.
            cancel.clear();
            assert_eq!(
                session.eval("grad(tensor([2]), |t| sum(t * t)).grad.list()").unwrap().text.unwrap(),
                "[4.0]"
            );
        });
    }
}

/// The closure of a chain belongs to another file than the call that goes back through it.
#[test]
fn a_chain_may_stand_in_a_module() {
    let dir = tempfile::tempdir().unwrap();
    let module = "fn times(z, w) { (z.tensor * w).latent() }\n\
                  fn run(z, w) { chain(z, 0..3, [w], |z, i, w| times(z, w)) }";
    std::fs::write(dir.path().join("far.rhai"), module).unwrap();
    let recipe = "import \"far\" as far;\nlet z = tensor([1, 1, 1, 1], [1, 4, 1, 1]).latent();\n\
                  print(grad(tensor([2]), |w| sum(far::run(z, w).tensor)).grad.list());";
    let path = dir.path().join("recipe.rhai");
    std::fs::write(&path, recipe).unwrap();
    let text = thread::run(|| {
        let (mut session, ear) = session(&dir.path().join("out"));
        session.run(&path.display().to_string(), &[]).unwrap_or_else(|e| panic!("{}", e.render(false, 100)));
        ear.printed()
    });
    assert_eq!(text, "[48.0]");
}
