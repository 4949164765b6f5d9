//! Tests of the loop, on a small quadratic whose gradient is known.

use std::cell::Cell;
use std::path::Path;
use std::sync::Mutex;

use candle_core::{DType, Device, Tensor};

use super::*;
use crate::engine::observe::Silent;
use crate::engine::optimize::Rule;

fn tensor(values: &[f32]) -> Tensor {
    Tensor::new(values, &Device::Cpu).unwrap()
}

fn fresh(rule: Rule, lr: f64) -> State {
    let parameters = vec![("a".to_string(), tensor(&[0.0, 4.0])), ("b.weight".to_string(), tensor(&[1.0]))];
    State::new("test", parameters, Optimizer::new("test", rule, lr).unwrap()).unwrap()
}

const ADAM: Rule = Rule::Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8, decay: Some(0.01) };

fn training(file: Option<&Path>, steps: usize, every: Option<usize>) -> Training {
    let about = [("model".to_string(), "one".to_string())].into_iter().collect();
    let file = file.map(Path::to_path_buf);
    Training { op: "test", label: "training", steps, clip: Some(5.0), every, file, about }
}

/// The loss of a step depends on its number, as one with drawn noise does.
fn measure(state: &State) -> Result<Measured> {
    let aim = (state.step() % 3) as f64;
    let mut loss = 0.0;
    let mut grads = Vec::new();
    for v in state.values() {
        let off = v.affine(1.0, -aim)?;
        loss += f64::from(off.sqr()?.sum_all()?.to_scalar::<f32>()?);
        grads.push(off.affine(2.0, 0.0)?);
    }
    Ok(Measured { loss, grads, kept: None })
}

fn bits(state: &State) -> Vec<u32> {
    let all = state.optimizer().moments().flat_map(|(_, m)| m.to_vec()).collect::<Vec<_>>();
    let values = state.values().iter().chain(&all).flat_map(|t| t.to_vec1::<f32>().unwrap());
    values
        .map(f32::to_bits)
        .chain(state.losses().iter().flat_map(|l| [l.to_bits() as u32, (l.to_bits() >> 32) as u32]))
        .collect()
}

fn run(t: &Training, state: State) -> Ended<Error> {
    t.run(state, &Cancel::default(), &Silent, measure)
}

#[test]
fn a_resumed_run_is_the_uninterrupted_one_bit_for_bit() {
    for rule in [ADAM, Rule::Sgd { momentum: 0.9 }, Rule::Sgd { momentum: 0.0 }] {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("run.safetensors");
        let whole = run(&training(None, 20, None), fresh(rule, 0.1)).state;
        let first = training(Some(&file), 7, Some(3));
        run(&first, first.begin(fresh(rule, 0.1), false).unwrap());
        let second = training(Some(&file), 20, None);
        let state = second.begin(fresh(rule, 0.1), true).unwrap();
        assert_eq!(state.step(), 7);
        let resumed = run(&second, state).state;
        assert_eq!(bits(&resumed), bits(&whole));
        assert_eq!(resumed.optimizer().steps(), 20);
    }
}

#[test]
fn a_stop_keeps_the_state_so_far() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("run.safetensors");
    let t = training(Some(&file), 20, None);
    let cancel = Cancel::default();
    let ended = t.run::<Error>(fresh(ADAM, 0.1), &cancel, &Silent, |state| {
        if state.step() == 4 {
            cancel.set();
        }
        measure(state)
    });
    assert_eq!(ended.state.step(), 5);
    assert_eq!(ended.stopped.unwrap().kind(), crate::engine::Kind::Cancelled);
    let back = t.begin(fresh(ADAM, 0.1), true).unwrap();
    assert_eq!(bits(&back), bits(&ended.state));
}

#[test]
fn numbers_that_are_none_are_named_and_the_last_good_state_stays() {
    let t = training(None, 20, None);
    let cancel = Cancel::default();
    let ended = t.run::<Error>(fresh(ADAM, 0.1), &cancel, &Silent, |state| {
        let mut m = measure(state)?;
        if state.step() == 4 {
            m.loss = f64::NAN;
        }
        Ok(m)
    });
    let text = ended.stopped.unwrap().to_string();
    assert!(text.contains("loss") && text.contains("step 4"), "{text}");
    // The values of step 4 gave no loss: those of step 3 are the last that did.
    assert_eq!(ended.state.step(), 3);
    let ended = t.run::<Error>(fresh(ADAM, 0.1), &cancel, &Silent, |state| {
        let mut m = measure(state)?;
        if state.step() == 4 {
            m.grads[1] = tensor(&[f32::INFINITY]);
        }
        Ok(m)
    });
    let text = ended.stopped.unwrap().to_string();
    assert!(text.contains("b.weight") && text.contains("step 4"), "{text}");
    assert_eq!(ended.state.step(), 4);
}

#[test]
fn foreign_and_broken_checkpoints_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("run.safetensors");
    let t = training(Some(&file), 5, None);
    run(&t, fresh(ADAM, 0.1));
    let why = |t: &Training, resume: bool| t.begin(fresh(ADAM, 0.1), resume).unwrap_err().to_string();
    assert!(why(&t, false).contains("there already") || why(&t, false).contains("already"));
    let mut other = t.clone();
    other.about.insert("model".into(), "two".into());
    assert!(why(&other, true).contains("another run: model differs"), "{}", why(&other, true));
    assert!(why(&Training { steps: 3, ..t.clone() }, true).contains("further"));
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&file, &whole[..whole.len() - 3]).unwrap();
    assert!(why(&t, true).contains("no whole checkpoint"), "{}", why(&t, true));
    std::fs::write(&file, write_other()).unwrap();
    assert!(why(&t, true).contains("no checkpoint of a training run"), "{}", why(&t, true));
    let shape = vec![("a".to_string(), tensor(&[1.0])), ("b.weight".to_string(), tensor(&[1.0]))];
    std::fs::write(&file, whole).unwrap();
    let state = State::new("test", shape, Optimizer::new("test", ADAM, 0.1).unwrap()).unwrap();
    assert!(t.begin(state, true).unwrap_err().to_string().contains("another shape"));
}

/// Wherever a checkpoint is cut, it is told, and the file is left to whoever wants to look at it.
#[test]
fn a_checkpoint_cut_anywhere_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("run.safetensors");
    let t = training(Some(&file), 5, None);
    run(&t, fresh(ADAM, 0.1));
    let whole = std::fs::read(&file).unwrap();
    for cut in 0..whole.len() {
        std::fs::write(&file, &whole[..cut]).unwrap();
        let error = t.begin(fresh(ADAM, 0.1), true).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("no whole checkpoint") && text.contains("run.safetensors"), "{cut}: {text}");
        assert!(error.hint_text().is_some_and(|h| h.contains("another file")), "{cut}: {text}");
        assert_eq!(std::fs::read(&file).unwrap(), whole[..cut], "{cut}");
    }
    std::fs::write(&file, &whole).unwrap();
    assert_eq!(t.begin(fresh(ADAM, 0.1), true).unwrap().step(), 5);
}

#[test]
fn what_no_gradient_changes_is_kept_with_the_state() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("run.safetensors");
    let fresh = || fresh(ADAM, 0.1).keeping(vec![("mean".into(), tensor(&[0.0, 0.0]))]);
    let steps = |t: &Training, state: State| {
        t.run::<Error>(state, &Cancel::default(), &Silent, |state| {
            let mut m = measure(state)?;
            let mean = state.kept()[0].1.affine(0.9, state.step() as f64 * 0.1)?;
            m.kept = Some(vec![mean]);
            // A loss that is none: the state goes back, and what it keeps with it.
            if state.step() == 6 && t.steps == 10 {
                m.loss = f64::NAN;
            }
            Ok(m)
        })
        .state
    };
    let kept = |s: &State| s.kept()[0].1.to_vec1::<f32>().unwrap();
    let whole = steps(&training(None, 8, None), fresh());
    let first = training(Some(&file), 3, None);
    steps(&first, first.begin(fresh(), false).unwrap());
    let second = training(Some(&file), 8, None);
    let resumed = steps(&second, second.begin(fresh(), true).unwrap());
    assert_eq!((kept(&resumed), bits(&resumed)), (kept(&whole), bits(&whole)));
    let five = steps(&training(None, 5, None), fresh());
    assert_eq!(kept(&steps(&training(None, 10, None), fresh())), kept(&five));
    // Another set of kept values is another run.
    let other = super::tests::fresh(ADAM, 0.1).keeping(vec![("other".into(), tensor(&[0.0, 0.0]))]);
    assert!(second.begin(other, true).unwrap_err().to_string().contains("kept.other is missing"));
}

fn write_other() -> Vec<u8> {
    crate::engine::weights::write::encode([("latent", &tensor(&[1.0]))], &About::new()).unwrap()
}

/// A folder that is gone stands for a disk that is full: nothing can be written there.
#[test]
fn a_checkpoint_that_cannot_be_written_is_told_and_the_run_goes_on() {
    struct Notes(Mutex<Vec<String>>);
    impl Observer for Notes {
        fn event(&self, event: Event) {
            if let Event::Warn(text) = event {
                self.0.lock().unwrap().push(text);
            }
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("inner");
    std::fs::create_dir(&folder).unwrap();
    let t = training(Some(&folder.join("run.safetensors")), 6, Some(2));
    let notes = Notes(Mutex::default());
    let gone = Cell::new(false);
    let ended = t.run::<Error>(fresh(ADAM, 0.1), &Cancel::default(), &notes, |state| {
        if state.step() == 3 && !gone.replace(true) {
            std::fs::remove_dir_all(&folder).unwrap();
        }
        measure(state)
    });
    assert!(ended.stopped.is_none());
    assert_eq!(ended.state.step(), 6);
    let notes = notes.0.into_inner().unwrap();
    assert!(notes.len() >= 2 && notes[0].contains("step 4"), "{notes:?}");
}

#[test]
fn gradients_are_clipped_as_torch_does() {
    let t = Training { clip: Some(1.0), ..training(None, 1, None) };
    let ended = run(&t, fresh(Rule::Sgd { momentum: 0.0 }, 1.0));
    // Gradient (0, 8, 2): norm 8.2462.
    let a = ended.state.values()[0].to_vec1::<f32>().unwrap();
    assert!((a[1] - (4.0 - 8.0 / 8.246_211)).abs() < 1e-5, "{a:?}");
}

#[test]
fn names_are_distinct() {
    let o = Optimizer::new("test", ADAM, 0.1).unwrap();
    assert!(State::new("test", Vec::new(), o.clone()).is_err());
    let twice = vec![("a".to_string(), tensor(&[1.0])), ("a".to_string(), tensor(&[1.0]))];
    assert!(State::new("test", twice, o).is_err());
}

/// The values of a model in half precision: a thousand steps of which none is as large as their last digit, and a gradient whose
/// square f16 does not have.
#[test]
fn half_precision_is_trained_in_f32() {
    for dtype in [DType::F16, DType::BF16] {
        let parameters = vec![("a".to_string(), tensor(&[1.0, 2.0]).to_dtype(dtype).unwrap())];
        let rule = Rule::Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8, decay: None };
        let state = State::new("test", parameters, Optimizer::new("test", rule, 1e-5).unwrap()).unwrap();
        assert_eq!(state.values()[0].dtype(), DType::F32);
        let t = Training { clip: None, ..training(None, 1000, None) };
        let slope = tensor(&[1e-5, 300.0]).to_dtype(dtype).unwrap();
        let ended = t.run::<Error>(state, &Cancel::default(), &Silent, |_| {
            Ok(Measured { loss: 1.0, grads: vec![slope.clone()], kept: None })
        });
        assert!(ended.stopped.is_none(), "{dtype:?}: {}", ended.stopped.unwrap());
        let a = ended.state.values()[0].to_vec1::<f32>().unwrap();
        assert!((a[0] - 0.99).abs() < 1e-4 && (a[1] - 1.99).abs() < 1e-4, "{dtype:?}: {a:?}");
    }
}
